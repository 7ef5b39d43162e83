package importer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// policyTree has the same files under many names. Everything that is to be kept back has SECRET in it.
func policyTree(t *testing.T) (top, lib string) {
	top = tree(t, map[string]string{
		"lib/pkg/__init__.py": "", "lib/pkg/mod.py": "MOD", "lib/pkg/data.txt": "DATA", "lib/pkg/secret.py": "SECRET",
		"lib/pkg/secret.cpython-311.pyc": "SECRET", "lib/pkg/secretmodule.so": "SECRET", "lib/pkg/__pycache__/secret.cpython-311.pyc": "SECRET",
		"lib/pkg/private/key.txt": "SECRET", "lib/pkg/private/__init__.py": "SECRET", "lib/pkg/private/sub/m.py": "SECRET",
		"lib/pkg/open/__init__.py": "", "lib/pkg/open/o.txt": "OPEN", "lib/pkg/open/deep/d.txt": "DEEP", "lib/pkg/secrets.txt": "FINE",
		"lib/other/__init__.py": "", "lib/other/o.txt": "OTHER", "lib/plain.py": "", "lib/beside.txt": "BESIDE",
		"lib/pkg/.git/config": "GIT", "lib/pkg/.dotfile": "DOT",
	})
	lib = filepath.Join(top, "lib")
	for link, to := range map[string]string{
		"pkg/public.py": "secret.py", "pkg/open/link": "../private", "pkg/open/inner": "../private/sub", "other/alias": "../pkg", "again": "pkg",
		"pkg/open/abs.txt": filepath.Join(lib, "pkg/private/key.txt"),
	} {
		if err := os.Symlink(to, filepath.Join(lib, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(lib, "pkg/secret.py"), filepath.Join(lib, "pkg/hard.txt")); err != nil {
		t.Fatal(err)
	}
	zipTree(t, filepath.Join(lib, "z.zip"), map[string]string{
		"in/zpkg/__init__.py": "", "in/zpkg/secret.py": "SECRET", "in/zpkg/private/key.txt": "SECRET", "in/zpkg/ok.txt": "ZOK", "in/zpkg/mod.py": "ZMOD",
	})
	if err := os.Link(filepath.Join(lib, "z.zip"), filepath.Join(lib, "pkg/z.zip")); err != nil {
		t.Fatal(err)
	}
	return top, lib
}

// TestPolicyOfFiles: a policy holds for files as well, whatever name they are asked for by, in the importer and beside it.
func TestPolicyOfFiles(t *testing.T) {
	top, lib := policyTree(t)
	paths := []string{lib, top, filepath.Join(lib, "z.zip"), filepath.Join(lib, "z.zip", "in")}
	deny := Policy{Deny: []string{"pkg.secret", "pkg.private", "zpkg.secret", "zpkg.private"}}
	for _, c := range []struct {
		policy    Policy
		pkg, file string
		want      string // "" where it is refused
	}{
		{Policy{}, "pkg", "secret.py", "SECRET"},
		{Policy{}, "pkg", "private/key.txt", "SECRET"},
		{Policy{}, "pkg", ".dotfile", "DOT"},
		{Policy{}, "pkg", ".git/config", ""},
		{Policy{}, "lib.pkg", ".GIT/config", ""},

		{deny, "pkg", "data.txt", "DATA"},
		{deny, "pkg.mod", "data.txt", "DATA"},
		{deny, "pkg", "secrets.txt", "FINE"},
		{deny, "pkg", "open/o.txt", "OPEN"},
		{deny, "other", "alias/data.txt", "DATA"},
		{deny, "zpkg", "ok.txt", "ZOK"},
		{deny, "in.zpkg", "ok.txt", "ZOK"},
		{deny, "pkg", "secret.py", ""},
		{deny, "pkg.mod", "secret.py", ""},
		{deny, "pkg.secret", "data.txt", ""},
		{deny, "pkg", "secret.cpython-311.pyc", ""},
		{deny, "pkg", "secretmodule.so", ""},
		{deny, "pkg", "__pycache__/secret.cpython-311.pyc", ""},
		{deny, "pkg", "private/key.txt", ""},
		{deny, "pkg", "private/sub/m.py", ""},
		{deny, "pkg.private", "key.txt", ""},
		{deny, "pkg", "public.py", ""},
		{deny, "pkg", "hard.txt", ""},
		{deny, "pkg", "open/link/key.txt", ""},
		{deny, "pkg", "open/inner/m.py", ""},
		{deny, "pkg", "open/abs.txt", ""},
		{deny, "pkg.open", "abs.txt", ""},
		{deny, "lib.pkg", "secret.py", ""},
		{deny, "lib.pkg", "private/key.txt", ""},
		{deny, "lib", "pkg/secret.py", ""},
		{deny, "lib", "pkg/private/key.txt", ""},
		{deny, "lib", "pkg/data.txt", "DATA"},
		{deny, "again", "secret.py", ""},
		{deny, "other", "alias/secret.py", ""},
		{deny, "other", "alias/private/key.txt", ""},
		{deny, "zpkg", "secret.py", ""},
		{deny, "in.zpkg", "secret.py", ""},
		{deny, "in", "zpkg/private/key.txt", ""},
		{deny, "pkg", "z.zip", ""},
		{deny, "lib", "z.zip", ""},

		{Policy{Allow: []string{"pkg.mod"}}, "pkg.mod", "secret.py", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg", "secret.py", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg", "private/key.txt", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg", "data.txt", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg.mod", "data.txt", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg", "mod.py", "MOD"},
		{Policy{Allow: []string{"pkg.mod"}}, "other", "o.txt", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "lib.pkg", "mod.py", ""},
		{Policy{Allow: []string{"pkg.mod"}}, "lib", "pkg/mod.py", ""},
		{Policy{Allow: []string{"plain"}}, "plain", "beside.txt", ""},
		{Policy{Allow: []string{"pkg.open"}}, "pkg", "open/o.txt", "OPEN"},
		{Policy{Allow: []string{"pkg.open"}}, "pkg.open", "deep/d.txt", "DEEP"},
		{Policy{Allow: []string{"pkg.open"}}, "pkg", "data.txt", ""},
		{Policy{Allow: []string{"pkg"}}, "pkg", "private/key.txt", "SECRET"},
		{Policy{Allow: []string{"pkg"}, Deny: []string{"pkg.private"}}, "pkg", "private/key.txt", ""},
		{Policy{Allow: []string{"pkg"}, Deny: []string{"pkg.private"}}, "pkg", "data.txt", "DATA"},
	} {
		for _, own := range []bool{true, false} {
			opt, also := Options{Path: paths}, []Policy{c.policy}
			if own {
				opt.Policy, also = c.policy, nil
			}
			data, err := newImporter(t, opt).Resource(context.Background(), none, c.pkg, c.file, also...)
			var none *NotFoundError
			switch {
			case c.want == "" && !errors.As(err, &none):
				t.Errorf("%+v, %v: %s %s was given: %q, %v", c.policy, own, c.pkg, c.file, data, err)
			case c.want != "" && (err != nil || string(data) != c.want):
				t.Errorf("%+v, %v: %s %s: %q, %v", c.policy, own, c.pkg, c.file, data, err)
			}
		}
	}
}

func TestPolicyOfDirectories(t *testing.T) {
	top, lib := policyTree(t)
	paths := []string{lib, top}
	deny := Policy{Deny: []string{"pkg.secret", "pkg.private"}}
	for _, c := range []struct {
		policy   Policy
		pkg, dir string
		want     []string // nil where it is refused
	}{
		{deny, "pkg", "", []string{".dotfile", "__init__.py", "data.txt", "mod.py", "open", "secrets.txt", "z.zip"}},
		{deny, "lib.pkg", "", []string{".dotfile", "__init__.py", "data.txt", "mod.py", "open", "secrets.txt", "z.zip"}},
		{deny, "pkg", "open", []string{"__init__.py", "deep", "o.txt"}},
		{deny, "pkg", "private", nil},
		{deny, "lib", "pkg/private", nil},
		{deny, "pkg", "open/link", nil},
		{deny, "pkg", ".git", nil},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg", "", []string{"mod.py"}},
		{Policy{Allow: []string{"pkg.open.deep"}}, "pkg", "", []string{"open"}},
		{Policy{Allow: []string{"pkg.open"}}, "pkg", "open/deep", []string{"d.txt"}},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg", "private", nil},
		{Policy{Allow: []string{"pkg.mod"}}, "other", "", nil},
	} {
		for _, own := range []bool{true, false} {
			opt, also := Options{Path: paths}, []Policy{c.policy}
			if own {
				opt.Policy, also = c.policy, nil
			}
			list, err := newImporter(t, opt).Resources(none, c.pkg, c.dir, also...)
			var got []string
			for _, e := range list {
				got = append(got, e.Name)
			}
			if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
				t.Errorf("%+v, %v: %s %q: %q, %v", c.policy, own, c.pkg, c.dir, got, err)
			}
		}
	}
}

// TestPolicyOfAliases: a denied module is denied by every name that its file has.
func TestPolicyOfAliases(t *testing.T) {
	top, lib := policyTree(t)
	paths := []string{lib, top, filepath.Join(lib, "z.zip"), filepath.Join(lib, "z.zip", "in")}
	deny := Policy{Deny: []string{"pkg.secret", "pkg.private", "zpkg.secret"}}
	own := newImporter(t, Options{Path: paths, Policy: deny})
	open := newImporter(t, Options{Path: paths})
	for name, served := range map[string]bool{
		"pkg.mod": true, "lib.pkg.mod": true, "again.mod": true, "pkg.open": true, "zpkg.mod": true, "in.zpkg.mod": true, "lib.other": true,
		"pkg.secret": false, "lib.pkg.secret": false, "again.secret": false, "pkg.public": false, "other.alias.secret": false,
		"pkg.private": false, "lib.pkg.private": false, "lib.pkg.private.sub.m": false, "pkg.open.link": false, "pkg.open.inner.m": false,
		"in.zpkg.secret": false, "zpkg.secret": false,
	} {
		if _, err := own.Module(context.Background(), name, py3); (err == nil) != served {
			t.Errorf("%s by the importer's policy: %v", name, err)
		}
		if _, err := open.Module(context.Background(), name, py3); err != nil && name != "other.alias.secret" {
			t.Errorf("%s without a policy: %v", name, err)
		}
		r, err := NewResponder(open, &nullSink{}, ResponderOptions{Version: py3, Policy: deny})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.lookUp(context.Background(), name); (err == nil) != served {
			t.Errorf("%s by the child's policy: %v", name, err)
		}
	}
}

func TestPolicyOfDistributions(t *testing.T) {
	dir := tree(t, map[string]string{
		"secretproj-1.0.dist-info/METADATA": "Name: secretproj\nVersion: 1.0\n", "secretproj-1.0.dist-info/direct_url.json": "tok3n",
		"Py.Thing-2.dist-info/METADATA": "Name: Py.Thing\n", "Py.Thing-2.dist-info/top_level.txt": "thing\n",
		"multi-3.dist-info/METADATA":    "Name: multi\n",
		"multi-3.dist-info/RECORD":      "../../bin/multi,,\nmulti-3.dist-info/METADATA,,\none/__init__.py,sha256=x,1\none/data.txt,,\ntwo.py,,\nthree.cpython-311-x86_64-linux-gnu.so,,\n",
		"old.egg-info":                  "Name: old\n",
		"pkg-4.dist-info/METADATA":      "Name: pkg\n",
		"pkg-4.dist-info/top_level.txt": "pkg\n",
	})
	for _, c := range []struct {
		policy Policy
		want   string
	}{
		{Policy{}, "multi old pkg Py.Thing secretproj"},
		{Policy{Allow: []string{"pkg.mod"}}, "pkg"},
		{Policy{Allow: []string{"thing", "old"}}, "old Py.Thing"},
		{Policy{Allow: []string{"two"}}, "multi"},
		{Policy{Deny: []string{"secretproj"}}, "multi old pkg Py.Thing"},
		{Policy{Deny: []string{"thing", "pkg.secret"}}, "multi old pkg secretproj"},
		{Policy{Deny: []string{"three"}}, "old pkg Py.Thing secretproj"},
		{Policy{Allow: []string{"one"}, Deny: []string{"two"}}, ""},
	} {
		for _, own := range []bool{true, false} {
			opt, also := Options{Path: []string{dir}}, []Policy{c.policy}
			if own {
				opt.Policy, also = c.policy, nil
			}
			im := newImporter(t, opt)
			var got []string
			for _, d := range im.search(none).installed(also) {
				got = append(got, d.Name)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%+v, %v: %q, want %q", c.policy, own, s, c.want)
			}
			for _, name := range []string{"multi", "old", "pkg", "py-thing", "secretproj"} {
				_, err := im.Metadata(context.Background(), name, also...)
				listed := slices.ContainsFunc(got, func(d string) bool { return normalName(d) == name })
				if (err == nil) != listed {
					t.Errorf("%+v, %v: metadata of %s: %v", c.policy, own, name, err)
				}
			}
		}
	}
}
