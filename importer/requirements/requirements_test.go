package requirements

import (
	"context"
	"slices"
	"strings"
	"testing"

	"mitogend/importer"
)

func TestScript(t *testing.T) {
	for _, c := range []struct {
		source, want, python, err string
	}{
		{"print(1)\n", "", "", ""},
		{"#!/usr/bin/env python3\n# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\n#   \"six\", # why\n#   \"numpy<2\",\n# ]\n# ///\nimport six\n", "six numpy<2", ">=3.11", ""},
		{"# /// script\r\n# dependencies = [\"a\"]\r\n#\r\n# [tool.x]\r\n# y = 1\r\n# ///\r\n", "a", "", ""},
		{"# /// script\n# dependencies = [\"a\"]\n# ///", "a", "", ""},
		{"# /// script\n# dependencies = [\"a\"]\nprint(1)\n# ///\n", "", "", ""}, // without an end
		{"# /// other\n# x = 1\n# ///\n# /// script\n# dependencies = []\n# ///\n", "", "", ""},
		{"x = '''\n  # /// script\n'''\n", "", "", ""},
		{"# /// script\n# dependencies = [\n# ///\n", "", "", "is no TOML"},
		{"# /// script\n# dependencies = [\"-r x\"]\n# ///\n", "", "", "that is no requirement"},
		{"# /// script\n# ///\n\n# /// script\n# ///\n", "", "", "two blocks"},
		{"# /// script\n# dependencies = 1\n# ///\n", "", "", "is no TOML"},
	} {
		lines, python, err := Script([]byte(c.source))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v", c.source, err)
			}
			continue
		}
		if err != nil || strings.Join(lines, " ") != c.want || python != c.python {
			t.Errorf("%q: %q, %q, %v", c.source, lines, python, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, line := range []string{"numpy", "numpy>=1.26,<2", "a[b]~=1.0; python_version < '3'", "A.b-c==1"} {
		if err := Check(line); err != nil {
			t.Error(err)
		}
	}
	for _, line := range []string{"", "-r x", "--index-url=http://x", "a\n-r x", "/etc/passwd", "=="} {
		if Check(line) == nil {
			t.Errorf("%q is a requirement", line)
		}
	}
}

func TestSystems(t *testing.T) {
	got := systems(importer.Platform{Machine: "x86_64", Libc: "glibc", LibcVersion: "2.17"})
	if got[0] != "manylinux_2_17_x86_64" || got[1] != "manylinux2014_x86_64" || !slices.Contains(got, "manylinux1_x86_64") || got[len(got)-1] != "linux_x86_64" ||
		slices.Contains(got, "manylinux_2_4_x86_64") {
		t.Errorf("%q", got)
	}
	if got := systems(importer.Platform{Machine: "aarch64", Libc: "musl", LibcVersion: "1.2.5"}); strings.Join(got, " ") !=
		"musllinux_1_2_aarch64 musllinux_1_1_aarch64 musllinux_1_0_aarch64 linux_aarch64" {
		t.Errorf("%q", got)
	}
	if got := systems(importer.Platform{Machine: "x86_64"}); strings.Join(got, " ") != "linux_x86_64" {
		t.Errorf("%q", got)
	}
}

func TestWithoutPip(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	p := importer.Platform{Version: importer.Version{Major: 3, Minor: 11}, ABI: "cp311", Machine: "x86_64"}
	_, err := Resolve(context.Background(), importer.Requirements{Lines: []string{"six"}}, p)
	if err == nil || !strings.Contains(err.Error(), "there is no pip on this machine") {
		t.Error(err)
	}
}
