package pythons

import (
	_ "embed"
	"os"
	"path/filepath"
	"testing"
)

//go:embed uv.py
var uvSource string

// UV makes a directory for PATH with only a stand-in for uv, which a Python of this machine runs.
func UV(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "uv.py"), []byte(uvSource), 0o600); err != nil {
		t.Fatal(err)
	}
	Program(t, filepath.Join(dir, "uv"), "#!/bin/sh\nPYTHONIOENCODING=utf-8 exec '"+Any(t).Path+"' -I "+filepath.Join(dir, "uv.py")+" \"$@\"\n")
	return dir
}

// UVLog gives the stand-in's arguments: a line of JSON for each start, except those for its version.
func UVLog(t testing.TB, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "uv.py.log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}
