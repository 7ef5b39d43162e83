package importer

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sitePackages finds the site-packages directories of a virtual environment.
func sitePackages(venv string) ([]string, error) {
	var out []string
	for _, pattern := range []string{"lib/python*/site-packages", "lib64/python*/site-packages", "Lib/site-packages"} {
		found, err := filepath.Glob(filepath.Join(globQuote(venv), pattern))
		if err != nil {
			return nil, err
		}
		for _, dir := range found {
			if !slices.ContainsFunc(out, func(have string) bool { return sameFile(have, dir) }) {
				out = append(out, dir)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("importer: %s is no virtual environment: it has no lib/python*/site-packages", venv)
	}
	return out, nil
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// sameFile is true for lib64 where it is a link to lib.
func sameFile(a, b string) bool {
	ka, erra := statFile(a)
	kb, errb := statFile(b)
	return erra == nil && errb == nil && ka.dev == kb.dev && ka.ino == kb.ino
}

// maxPth is the largest .pth file that is read, in bytes.
const maxPth = 1 << 20

// siteDir is what the .pth files of one site-packages directory add to the path. Constant once made.
type siteDir struct {
	keys    map[string]fileKey // of each .pth file
	settled bool               // none of them can have changed without another key
	adds    []string           // in order, without duplicates
}

// sitePaths gives the path entries that a site-packages directory stands for: itself, then the existing paths that the lines
// of its .pth files name, by file name, as Python's site module adds them. Lines that start with "import" are code, which is
// never run. The second result replaces old for the next time.
func sitePaths(dir string, l *listing, old *siteDir) ([]string, *siteDir) {
	var names []string
	for name := range l.types {
		if strings.HasSuffix(name, ".pth") && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if old.stale(dir, names) {
		old = loadSite(dir, names)
	}
	out := []string{dir}
	for _, p := range old.adds {
		if _, err := statFile(p); err == nil {
			out = append(out, p)
		}
	}
	return out, old
}

func (s *siteDir) stale(dir string, names []string) bool {
	if s == nil || !s.settled || len(names) != len(s.keys) {
		return true
	}
	for _, name := range names {
		key, err := statFile(filepath.Join(dir, name))
		if old, ok := s.keys[name]; !ok || err != nil || key != old {
			return true
		}
	}
	return false
}

func loadSite(dir string, names []string) *siteDir {
	s := &siteDir{keys: map[string]fileKey{}, settled: true}
	read := time.Now()
	for _, name := range names {
		data, key, err := readFile(filepath.Join(dir, name), maxPth)
		s.keys[name] = key
		if err != nil {
			continue
		}
		s.settled = s.settled && key.settled(read)
		for _, p := range pthPaths(data) {
			if !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			if p = filepath.Clean(p); !slices.Contains(s.adds, p) && p != dir {
				s.adds = append(s.adds, p)
			}
		}
	}
	return s
}

// pthPaths gives the path lines of a .pth file.
func pthPaths(data []byte) []string {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var out []string
	for _, line := range strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimRight(line, " \t\f\v")
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "import ") || strings.HasPrefix(line, "import\t") ||
			strings.ContainsRune(line, 0) {
			continue
		}
		out = append(out, line)
	}
	return out
}
