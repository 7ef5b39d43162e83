// Package pythons finds the interpreters that tests run with: those that MITOGEND_PYTHONS lists (paths, separated by
// colons), else pyenv's, the system's, and those of the tree that .ci/pythons makes. MITOGEND_VERSIONS (2.7,3.11) selects some of them.
package pythons

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Versions are the Pythons that a full test run has.
var Versions = []string{"2.7", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"}

// Tree is where .ci/pythons keeps its tree.
func Tree() string {
	if dir := os.Getenv("MITOGEND_TREE"); dir != "" {
		return dir
	}
	return "/var/cache/mitogend-tests"
}

// Python is an interpreter for tests.
type Python struct {
	Version string // "3.11"
	Path    string
}

var find = sync.OnceValues(func() ([]Python, error) {
	var list []Python
	for _, path := range candidates() {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		out, err := exec.Command(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		version := strings.TrimSpace(string(out))
		known := func(p Python) bool { return p.Version == version }
		if slices.Contains(Versions, version) && wanted(version) && !slices.ContainsFunc(list, known) {
			list = append(list, Python{version, path})
		}
	}
	slices.SortFunc(list, func(a, b Python) int {
		return slices.Index(Versions, a.Version) - slices.Index(Versions, b.Version)
	})
	return list, nil
})

// wanted tells whether MITOGEND_VERSIONS, if set, has the version.
func wanted(version string) bool {
	env := os.Getenv("MITOGEND_VERSIONS")
	return env == "" || slices.Contains(strings.Split(env, ","), version)
}

func candidates() []string {
	if env := os.Getenv("MITOGEND_PYTHONS"); env != "" {
		return filepath.SplitList(env)
	}
	root := os.Getenv("PYENV_ROOT")
	if root == "" {
		home, _ := os.UserHomeDir()
		root = filepath.Join(home, ".pyenv")
	}
	list, _ := filepath.Glob(filepath.Join(root, "versions", "*", "bin", "python"))
	newer, _ := filepath.Glob(filepath.Join(Tree(), "python", "usr", "bin", "python3.*"))
	return append(append(list, "/usr/bin/python3", "/usr/bin/python2.7"), newer...)
}

// All gives one interpreter of each version, oldest first, in a slice that the caller owns. If there is none, the test fails.
func All(t testing.TB) []Python {
	t.Helper()
	list, err := find()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("there is no Python: name some in MITOGEND_PYTHONS, separated by colons")
	}
	return slices.Clone(list)
}

// Whole is All; in CI a missing version fails the test.
func Whole(t testing.TB) []Python {
	t.Helper()
	list := All(t)
	for _, version := range Versions {
		have := func(p Python) bool { return p.Version == version }
		if os.Getenv("CI") == "true" && unavailable(version) == "" && !slices.ContainsFunc(list, have) {
			t.Errorf("there is no Python %s: name one in MITOGEND_PYTHONS", version)
		}
	}
	return list
}

// Any gives a Python 3.
func Any(t testing.TB) Python {
	t.Helper()
	list := All(t)
	return list[len(list)-1]
}

// Each runs a test under each version. A missing version is a skip, and in CI a failure.
func Each(t *testing.T, test func(*testing.T, Python)) {
	t.Helper()
	list := All(t)
	for _, version := range Versions {
		t.Run(version, func(t *testing.T) { test(t, of(t, list, version)) })
	}
}

// Of gives the interpreter of that version. A missing version is a skip, and in CI a failure.
func Of(t testing.TB, version string) Python {
	t.Helper()
	return of(t, All(t), version)
}

func of(t testing.TB, list []Python, version string) Python {
	t.Helper()
	i := slices.IndexFunc(list, func(p Python) bool { return p.Version == version })
	switch {
	case i >= 0:
		return list[i]
	case unavailable(version) != "":
		t.Skipf("there is no Python %s: %s", version, unavailable(version))
	case os.Getenv("CI") == "true":
		t.Fatalf("there is no Python %s: name one in MITOGEND_PYTHONS", version)
	default:
		t.Skipf("there is no Python %s", version)
	}
	panic("unreachable")
}

// unavailable says why a version is missing: it is not wanted, or .ci/pythons could not make its tree.
func unavailable(version string) string {
	if !wanted(version) {
		return "MITOGEND_VERSIONS is " + os.Getenv("MITOGEND_VERSIONS")
	}
	if version != "3.14" && version != "3.15" {
		return ""
	}
	reason, _ := os.ReadFile(filepath.Join(Tree(), "unavailable"))
	return strings.TrimSpace(string(reason))
}
