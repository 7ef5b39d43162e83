package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/importer"
	"mitogend/integration/pythons"
)

// uv and pip, and the programs that they run, do not get passwords.
func TestPipHasNoSecrets(t *testing.T) {
	dir := t.TempDir()
	told := filepath.Join(dir, "told")
	pythons.Program(t, filepath.Join(dir, "python3"), "#!/bin/sh\n/usr/bin/env >>'"+told+"'\n")
	pythons.Program(t, filepath.Join(dir, "uv"), "#!/bin/sh\n/usr/bin/env >>'"+told+"'\n[ \"$1\" != --version ] && exit 1\necho uv 0.12.5\n")
	t.Setenv("UV_INDEX_URL", "http://127.0.0.1:1/")
	t.Setenv("PATH", dir)
	t.Setenv("XDG_CACHE_HOME", dir)
	t.Setenv("MITOGEND_VAULT_PASSWORD", "hunter2")
	t.Setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Shutdown(context.Background()) }()
	im, err := d.NewImporter(importer.Options{Requirements: importer.Requirements{Lines: []string{"six"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Prepare(context.Background(), importer.Platform{Version: importer.Version{Major: 3, Minor: 99}, ABI: "cp399", Machine: "x86_64", Libc: "glibc", LibcVersion: "2.36"}); err != nil {
		t.Fatal(err)
	}
	env, err := os.ReadFile(told)
	if err != nil || strings.Count(string(env), "PIP_INDEX_URL=") != 4 || strings.Contains(string(env), "hunter2") {
		t.Errorf("%v: %s", err, env)
	}
}
