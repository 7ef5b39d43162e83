package importer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
)

// Distribution is an installed project, as importlib.metadata knows it by its .dist-info or .egg-info.
type Distribution struct {
	Name    string
	Version string // empty when only the files inside tell
	Path    string // of the .dist-info or .egg-info

	loc  location
	file bool // an .egg-info that is one file, the PKG-INFO itself
}

// Metadata is the content of a distribution's .dist-info or .egg-info.
type Metadata struct {
	Distribution
	// Files by name: METADATA or PKG-INFO, entry_points.txt, top_level.txt, licenses/LICENSE and the like. An .egg-info that is one file
	// appears as its PKG-INFO.
	Files map[string][]byte
}

// maxMetadata is the size of the largest metadata file that is served, in bytes.
const maxMetadata = 4 << 20

// installed lists what is installed on the path, sorted by name; of several with one name the first on the path. Left out is what the
// importer's policy, or another one, refuses, see projectRefused.
func (s *search) installed(also []Policy) []Distribution {
	out := slices.DeleteFunc(s.distributions(), func(d Distribution) bool { return s.projectRefused(&d, also) != "" })
	slices.SortFunc(out, func(a, b Distribution) int { return cmp.Compare(normalName(a.Name), normalName(b.Name)) })
	return out
}

func (s *search) distributions() []Distribution {
	seen := map[string]bool{}
	var out []Distribution
	add := func(d Distribution) {
		if key := normalName(d.Name); !seen[key] {
			seen[key] = true
			out = append(out, d)
		}
	}
	for _, root := range s.roots {
		l := s.list(root)
		if l == nil {
			continue
		}
		names := make([]string, 0, len(l.types))
		for name := range l.types {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if d, ok := s.distribution(root, l, name); ok {
				add(d)
			}
		}
	}
	return out
}

// distribution recognises NAME-VERSION.dist-info, NAME-VERSION[-pyX.Y].egg-info, NAME.egg-info, and the EGG-INFO in an egg,
// whose own file name tells the rest.
func (s *search) distribution(root location, l *listing, name string) (Distribution, bool) {
	loc := root.join(name)
	base, ok := strings.CutSuffix(name, ".dist-info")
	if !ok {
		base, ok = strings.CutSuffix(name, ".egg-info")
	}
	if !ok && name == "EGG-INFO" {
		egg := root.String()
		base, ok = strings.CutSuffix(egg[strings.LastIndexByte(egg, '/')+1:], ".egg")
	}
	if !ok || base == "" {
		return Distribution{}, false
	}
	mode, _ := s.typeOf(root, l, name)
	if !mode.IsDir() && (!mode.IsRegular() || strings.HasSuffix(name, ".dist-info")) {
		return Distribution{}, false
	}
	d := Distribution{Path: loc.String(), loc: loc, file: !mode.IsDir()}
	d.Name, d.Version, _ = strings.Cut(base, "-")
	d.Version, _, _ = strings.Cut(d.Version, "-")
	return d, true
}

// normalName is how names of distributions are compared (PEP 503).
func normalName(name string) string {
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '-' || r == '_' || r == '.' })
	return strings.Join(parts, "-")
}

// Installed gives the distributions on the path, sorted by name, within the importer's policy and others: of several with one name the
// first. Names and versions are those that files inside tell; of the files it has the one of a name only, where there is one. It is one
// look at the path. The error is ctx's.
func (im *Importer) Installed(ctx context.Context, file string, also ...Policy) ([]*Metadata, error) {
	s := im.search(Version{})
	var out []*Metadata
	for _, d := range s.installed(also) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m := &Metadata{Distribution: d, Files: map[string][]byte{}}
		if d.file {
			m.add(s, "PKG-INFO", d.loc)
		} else if l := s.list(d.loc); l != nil {
			for _, name := range []string{"METADATA", "PKG-INFO", file} {
				if mode, ok := s.typeOf(d.loc, l, name); ok && mode.IsRegular() {
					m.add(s, name, d.loc.join(name))
				}
			}
		}
		m.header()
		maps.DeleteFunc(m.Files, func(name string, _ []byte) bool { return name != file })
		out = append(out, m)
	}
	return out, nil
}

// add reads a file, if there is one.
func (m *Metadata) add(s *search, name string, loc location) {
	if data, err := s.read(loc); err == nil {
		m.Files[name] = data
	}
}

// Metadata reads the metadata files of a distribution, within the importer's policy and others. The error is a *NotFoundError, or
// ctx's.
func (im *Importer) Metadata(ctx context.Context, name string, also ...Policy) (*Metadata, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := im.search(Version{})
	for _, d := range s.distributions() {
		if normalName(d.Name) != normalName(name) {
			continue
		}
		if why := s.projectRefused(&d, also); why != "" {
			return nil, &NotFoundError{Name: name, Reason: why}
		}
		m := &Metadata{Distribution: d, Files: map[string][]byte{}}
		if d.file {
			m.add(s, "PKG-INFO", d.loc)
		} else {
			left := int64(maxMetadata)
			s.metadataFiles(m, d.loc, "", &left)
		}
		m.header()
		return m, nil
	}
	return nil, &NotFoundError{Name: name, Reason: "no such distribution on the path"}
}

// maxMetadataDepth is how deep directories lie in a .dist-info whose files are read: licenses/ and what it has.
const maxMetadataDepth = 4

// metadataFiles reads a directory of a distribution's. What lies in directories below it is read within a budget.
func (s *search) metadataFiles(m *Metadata, loc location, dir string, left *int64) {
	l := s.list(loc)
	if l == nil || strings.Count(dir, "/") >= maxMetadataDepth {
		return
	}
	names := slices.Sorted(maps.Keys(l.types))
	for _, name := range names {
		file := loc.join(name)
		switch mode, _ := s.typeOf(loc, l, name); {
		case mode.IsDir() && dataFault(name) == "":
			s.metadataFiles(m, file, dir+name+"/", left)
		case mode.IsRegular():
			data, err := s.read(file)
			if dir != "" {
				*left -= int64(len(data))
			}
			if err == nil && *left >= 0 {
				m.Files[dir+name] = data
			}
		}
	}
}

// projectRefused says why a distribution is kept back, or "": one of its modules is denied as a whole, or none is allowed. What
// modules it has is said by its files; if they do not say, it is taken to have one of its own name.
func (s *search) projectRefused(d *Distribution, also []Policy) string {
	policies := append([]Policy{s.im.opt.Policy}, also...)
	if !slices.ContainsFunc(policies, func(p Policy) bool { return len(p.Allow)+len(p.Deny) > 0 }) {
		return ""
	}
	names := s.topLevel(d)
	for i := range policies {
		p := &policies[i]
		refused := ""
		allowed := false
		for _, name := range names {
			why := p.Refuses(name)
			if why != "" && p.denies("", name) != "" {
				return why
			}
			refused = cmp.Or(refused, why)
			allowed = allowed || why == ""
		}
		if !allowed {
			return cmp.Or(refused, p.notAllowed())
		}
	}
	return ""
}

// topLevel gives the modules and packages that a distribution has on the top level.
func (s *search) topLevel(d *Distribution) []string {
	var names []string
	add := func(name string) {
		if nameFault(name) == "" && !strings.Contains(name, ".") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	read := func(file string) string {
		if d.file {
			return ""
		}
		data, err := s.read(d.loc.join(file))
		if err != nil {
			return ""
		}
		return string(data)
	}
	for line := range strings.Lines(read("top_level.txt")) {
		add(strings.TrimSpace(line))
	}
	for line := range strings.Lines(read("RECORD")) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ",")
		first, _, inDir := strings.Cut(strings.Trim(file, "\""), "/")
		leaf, ending, _ := strings.Cut(first, ".")
		if inDir && ending == "" || !inDir && (ending == "py" || strings.HasSuffix(ending, "so")) {
			add(leaf)
		}
	}
	if len(names) == 0 {
		add(strings.ReplaceAll(normalName(d.Name), "-", "_"))
		add(d.Name)
	}
	return names
}

func (s *search) read(loc location) ([]byte, error) {
	if loc.arc != nil {
		return loc.arc.read(loc.dir, maxMetadata)
	}
	data, _, err := readFile(loc.dir, maxMetadata)
	return data, err
}

// header takes name and version from the files, which know them better than the directory's name.
func (m *Metadata) header() {
	data, ok := m.Files["METADATA"]
	if !ok {
		data = m.Files["PKG-INFO"]
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() && strings.TrimSpace(lines.Text()) != "" {
		switch key, text, _ := strings.Cut(lines.Text(), ":"); strings.ToLower(key) {
		case "name":
			m.Name = strings.TrimSpace(text)
		case "version":
			m.Version = strings.TrimSpace(text)
		}
	}
}
