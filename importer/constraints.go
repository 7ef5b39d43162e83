package importer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"deps.dev/util/pypi"
	"deps.dev/util/semver"
)

// allowed tells whether a version is one that all of the constraints name. One without a local part stands for those with any.
func allowed(v *semver.Version, limits []*semver.Constraint) bool {
	public, _, _ := strings.Cut(v.String(), "+")
	for _, c := range limits {
		if c.MatchVersionPrerelease(v) {
			continue
		}
		short, err := semver.PyPI.Parse(public)
		if err != nil || !c.MatchVersionPrerelease(short) {
			return false
		}
	}
	return true
}

// withoutPrereleases leaves out prereleases, unless there is nothing else or the user has named one.
func withoutPrereleases(wheels []*wheel, limits []*semver.Constraint) []*wheel {
	released := func(w *wheel) bool { return !w.version.IsPrerelease() }
	if !slices.ContainsFunc(wheels, released) || slices.ContainsFunc(limits, (*semver.Constraint).HasPrerelease) {
		return wheels
	}
	return slices.DeleteFunc(wheels, func(w *wheel) bool { return !released(w) })
}

// maxConstraints is the size of the largest constraint file, in bytes.
const maxConstraints = 4 << 20

// readConstraints reads what pip takes with --constraint, without conditions (;) and without other files.
func readConstraints(files []string) (map[string][]*semver.Constraint, error) {
	out := map[string][]*semver.Constraint{}
	for _, file := range files {
		data, _, err := readFile(file, maxConstraints)
		if err != nil {
			return nil, fmt.Errorf("importer: constraints: %w", err)
		}
		n, whole := 0, ""
		for line := range strings.Lines(string(data)) {
			n++
			line, goesOn := strings.CutSuffix(strings.TrimSpace(line), "\\")
			if whole += line; goesOn {
				continue
			}
			name, c, err := parseConstraint(whole)
			if err != nil {
				return nil, fmt.Errorf("importer: constraints: %s:%d: %w", file, n, err)
			}
			if c != nil {
				out[name] = append(out[name], c)
			}
			whole = ""
		}
	}
	return out, nil
}

// parseConstraint reads a line; nil for one that has none.
func parseConstraint(line string) (project string, c *semver.Constraint, err error) {
	if i := strings.Index(line, "#"); i == 0 || i > 0 && strings.ContainsAny(line[i-1:i], " \t") {
		line = line[:i]
	}
	line, _, _ = strings.Cut(line, " --hash")
	line = strings.TrimSpace(line)
	first, _, _ := strings.Cut(strings.ReplaceAll(line, "=", " "), " ")
	switch {
	case slices.Contains([]string{"-r", "-c", "--requirement", "--constraint"}, first):
		return "", nil, errors.New("it names another file, which is not read; give that with --constraint as well")
	case line == "" || line[0] == '-':
		return "", nil, nil
	}
	d, err := pypi.ParseDependency(line)
	switch {
	case err != nil || d.Name == "":
		return "", nil, fmt.Errorf("no requirement: %.100q", line)
	case d.Environment != "":
		return "", nil, errors.New("conditions (;) are not read: leave out the lines that do not hold")
	case strings.HasPrefix(d.Constraint, "@"):
		return "", nil, errors.New("an address is no version: write ==VERSION")
	case d.Constraint == "":
		return "", nil, nil
	}
	c, err = semver.PyPI.ParseConstraint(strings.ReplaceAll(strings.Trim(d.Constraint, "()"), "===", "=="))
	if err != nil {
		return "", nil, fmt.Errorf("%.100q: %w", line, err)
	}
	return normalName(d.Name), c, nil
}
