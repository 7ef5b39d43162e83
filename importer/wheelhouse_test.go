package importer

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/integration/pythons"
	"mitogend/internal/slogzap"
)

func platform(t testing.TB, minor int, abi, machine, libc, version string) Platform {
	t.Helper()
	major := 3
	if minor == 7 && strings.HasPrefix(abi, "cp27") {
		major = 2
	}
	p, err := NewPlatform(Version{major, minor}, abi, machine, libc, version)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWheelTags(t *testing.T) {
	platforms := map[string]Platform{
		"2.7":     platform(t, 7, "cp27mu", "x86_64", "glibc", "2.17"),
		"3.7":     platform(t, 7, "cp37m", "x86_64", "glibc", "2.28"),
		"3.8":     platform(t, 8, "cp38", "x86_64", "glibc", "2.31"),
		"3.11":    platform(t, 11, "cp311", "x86_64", "glibc", "2.36"),
		"debug":   platform(t, 11, "cp311d", "x86_64", "glibc", "2.36"),
		"free":    platform(t, 13, "cp313t", "x86_64", "glibc", "2.36"),
		"3.13":    platform(t, 13, "cp313", "x86_64", "glibc", "2.36"),
		"musl":    platform(t, 12, "cp312", "x86_64", "musl", "1.2.4"),
		"arm":     platform(t, 11, "cp311", "aarch64", "glibc", "2.36"),
		"32":      platform(t, 11, "cp311", "i686", "glibc", "2.36"),
		"other":   platform(t, 11, "cp311", "x86_64", "", ""),
		"unasked": {Version: Version{3, 11}},
	}
	for _, c := range []struct{ tag, fits string }{
		{"py3-none-any", "3.11 3.13 3.7 3.8 32 arm debug free musl other unasked"},
		{"py2.py3-none-any", "2.7 3.11 3.13 3.7 3.8 32 arm debug free musl other unasked"},
		{"py2-none-any", "2.7"},
		{"py27-none-any", "2.7"},
		{"py38-none-any", "3.11 3.13 3.8 32 arm debug free musl other unasked"},
		{"cp311-none-any", "3.11 32 arm debug other unasked"},
		{"py3-none-manylinux1_x86_64", "3.11 3.13 3.7 3.8 debug free (unasked)"},
		{"cp27-cp27mu-manylinux1_x86_64", "2.7"},
		{"cp27-cp27m-manylinux1_x86_64", ""},
		{"cp37-cp37m-manylinux2010_x86_64", "3.7"},
		{"cp37-cp37-manylinux2010_x86_64", ""},
		{"cp38-cp38-manylinux_2_31_x86_64", "3.8"},
		{"cp38-cp38-manylinux_2_32_x86_64", ""},
		{"cp38-cp38-linux_x86_64", "3.8"},
		{"cp311-cp311-manylinux2014_x86_64", "3.11 debug (unasked)"},
		{"cp311-cp311d-manylinux2014_x86_64", "debug (unasked)"},
		{"cp311-cp311-manylinux2014_aarch64", "arm (unasked)"},
		{"cp311-cp311-manylinux_2_5_i686.manylinux1_i686", "32 (unasked)"},
		{"cp311-cp311-linux_x86_64", "3.11 debug other (unasked)"},
		{"cp311-cp311-musllinux_1_1_x86_64", "(unasked)"},
		{"cp312-cp312-musllinux_1_1_x86_64", "musl"},
		{"cp312-cp312-musllinux_1_2_x86_64", "musl"},
		{"cp312-cp312-musllinux_1_3_x86_64", ""},
		{"cp312-cp312-musllinux_0_9_x86_64", ""},
		{"cp313-cp313t-manylinux_2_17_x86_64", "free"},
		{"cp313-cp313-manylinux_2_17_x86_64", "3.13"},
		{"cp36-abi3-manylinux_2_17_x86_64", "3.11 3.13 3.7 3.8 debug (unasked)"},
		{"cp312-abi3-manylinux_2_17_x86_64", "3.13"},
		{"cp27-abi3-manylinux_2_17_x86_64", ""},
		{"cp311-cp311-win_amd64", ""},
		{"cp311-cp311-macosx_11_0_arm64", ""},
		{"pp39-pypy39_pp73-manylinux_2_17_x86_64", ""},
		{"cp99999-abi3-manylinux_2_17_x86_64", ""},
		{"cp311-cp311-manylinux_x86_64", ""},
	} {
		w, err := parseWheel("/w/demo-1.0-" + c.tag + ".whl")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range slices.Sorted(maps.Keys(platforms)) {
			switch how, _ := w.fit(platforms[name]); how {
			case fits:
				got = append(got, name)
			case fitsSome:
				got = append(got, "("+name+")")
			}
		}
		want := strings.Fields(c.fits)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s fits %q, want %q", c.tag, got, want)
		}
	}
}

// In pip's order: debug builds aside, what `pip debug --verbose` lists.
func TestWheelRanks(t *testing.T) {
	p := platform(t, 11, "cp311", "x86_64", "glibc", "2.36")
	last := -1
	for _, tag := range []string{
		"py2.py3-none-any", "py310-none-any", "py311-none-any", "py3-none-linux_x86_64", "py3-none-manylinux_2_36_x86_64", "py311-none-linux_x86_64",
		"cp311-none-any", "cp38-abi3-manylinux_2_36_x86_64", "cp310-abi3-linux_x86_64", "cp311-cp311-linux_x86_64",
		"cp311-cp311-manylinux1_x86_64", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp311-cp311-manylinux_2_36_x86_64",
	} {
		w, err := parseWheel("/w/demo-1.0-" + tag + ".whl")
		if err != nil {
			t.Fatal(err)
		}
		how, rank := w.fit(p)
		if how != fits || rank <= last {
			t.Errorf("%s: %v of rank %d, behind one of %d", tag, how, rank, last)
		}
		last = rank
	}
}

func TestNewPlatformRefuses(t *testing.T) {
	for _, c := range [][4]string{
		{"cp38", "x86_64", "glibc", "2.31"}, {"cp311\n", "x86_64", "glibc", "2.31"}, {"", "x86_64", "glibc", "2.31"}, {"cp311", "", "glibc", "2.31"},
		{"cp311", "../x", "glibc", "2.31"}, {"cp311", "x86_64", "uclibc", "2.31"}, {"cp311", "x86_64", "glibc", ""}, {"cp311", "x86_64", "glibc", "2.31-x"},
		{"cp311" + strings.Repeat("m", 100), "x86_64", "glibc", "2.31"}, {"cp311", "x86_64", "glibc", "2.99999999999999999999"},
	} {
		if p, err := NewPlatform(Version{3, 11}, c[0], c[1], c[2], c[3]); err == nil {
			t.Errorf("%q: %v", c, p)
		}
	}
}

// wheelPath has the module demo of wheels of a project, each of which knows its own name.
func wheelPath(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		pythons.WriteWheel(t, dir, name, map[string]string{"demo/__init__.py": "WHEEL = '" + name + "'\n"})
	}
}

func servedWheel(t *testing.T, im *Importer, p Platform) string {
	t.Helper()
	m, err := im.For(p).Module(context.Background(), "demo", p.Version)
	if err != nil {
		return err.Error()
	}
	return filepath.Base(filepath.Dir(filepath.Dir(m.Path)))
}

func TestWheelVersions(t *testing.T) {
	p := platform(t, 11, "cp311", "x86_64", "glibc", "2.36")
	for _, c := range []struct{ versions, constraint, want string }{
		{"1.9 1.10", "", "1.10"},
		{"1.0 1.0.post1", "", "1.0.post1"},
		{"1.0 1.0.dev3 1.0rc1", "", "1.0"},
		{"1.0 2.0rc1", "", "1.0"},
		{"2.0a1 2.0rc1", "", "2.0rc1"},
		{"1.0 2.0rc1", "demo>=2.0rc1", "2.0rc1"},
		{"9.0 1!0.1", "", "1!0.1"},
		{"1.0 1.0+cpu", "", "1.0+cpu"},
		{"1.0+cpu 2.0", "demo==1.0", "1.0+cpu"},
		{"1.0 1.1 2.0", "Demo == 1.0", "1.0"},
		{"1.0 1.1 2.0", "# pins\nother==3\ndemo[extra]==1.1 # this one\n", "1.1"},
		{"1.0 1.1 2.0", "demo>=1,<2", "1.1"},
		{"1.0 1.1 2.0", "demo~=1.0", "1.1"},
		{"1.0 1.1 2.0", "demo!=2.0\ndemo!=1.1", "1.0"},
		{"1.0 1.1 2.0", "demo===1.1", "1.1"},
		{"1.0 1.1 2.0", "demo==1.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n", "1.1"},
		{"1.0 1.1 2.0", "--index-url https://example.org\ndemo", "2.0"},
		{"1.0 2.0", "demo==3", "no wheel of demo is of a version that the constraints allow: there is demo-1.0-py3-none-any.whl, demo-2.0-py3-none-any.whl"},
	} {
		dir := t.TempDir()
		for _, v := range strings.Fields(c.versions) {
			wheelPath(t, dir, "demo-"+v+"-py3-none-any.whl")
		}
		opt := Options{Wheels: []string{dir}}
		if c.constraint != "" {
			opt.Constraints = []string{filepath.Join(t.TempDir(), "constraints.txt")}
			write(t, opt.Constraints[0], c.constraint, false)
		}
		im := newImporter(t, opt)
		if got := servedWheel(t, im, p); got != "demo-"+c.want+"-py3-none-any.whl" && !strings.HasSuffix(got, c.want) {
			t.Errorf("of %s with %q: %s, want %s", c.versions, c.constraint, got, c.want)
		}
		if im.Asks(p.Version) {
			t.Errorf("%s: which one it is hangs on the platform", c.versions)
		}
	}
}

func TestWheelConstraintsRefused(t *testing.T) {
	dir := t.TempDir()
	wheelPath(t, dir, "demo-1.0-py3-none-any.whl")
	for text, want := range map[string]string{
		"a==1\ndemo==1; python_version<'3'": "constraints.txt:2: conditions",
		"demo @ https://example.org/x.whl":  "constraints.txt:1: an address",
		"-r other.txt":                      "names another file",
		"\n--constraint=other.txt":          "constraints.txt:2: it names another file",
		"demo==abc":                         "constraints.txt:1: \"demo==abc\"",
		"==1.0":                             "no requirement",
	} {
		file := filepath.Join(t.TempDir(), "constraints.txt")
		write(t, file, text, false)
		if _, err := New(Options{Wheels: []string{dir}, Constraints: []string{file}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", text, want, err)
		}
	}
	if _, err := New(Options{Constraints: []string{dir}}); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
}

// Each child gets its own, and what a child is counts only where there is a choice.
func TestWheelChoice(t *testing.T) {
	dir, more := t.TempDir(), t.TempDir()
	old := platform(t, 7, "cp27mu", "x86_64", "glibc", "2.17")
	mid := platform(t, 8, "cp38", "x86_64", "glibc", "2.31")
	musl := platform(t, 12, "cp312", "x86_64", "musl", "1.2.4")
	late := platform(t, 13, "cp313", "aarch64", "glibc", "2.41")
	wheelPath(t, dir, "demo-1.0-py2.py3-none-any.whl", "demo-2.0-cp38-cp38-manylinux_2_17_x86_64.whl", "demo-2.0-py3-none-any.whl",
		"demo-2.0-1-py3-none-any.whl", "demo-2.0-cp312-cp312-musllinux_1_1_x86_64.whl", "demo-2.0-cp312-cp312-manylinux_2_17_x86_64.whl")
	wheelPath(t, more, "demo-3.0-cp313-cp313-manylinux_2_17_x86_64.whl", "demo-2.0-py3-none-any.whl")
	im := newImporter(t, Options{Wheels: []string{dir, more}})
	for p, want := range map[Platform]string{
		old: "demo-1.0-py2.py3-none-any.whl", mid: "demo-2.0-cp38-cp38-manylinux_2_17_x86_64.whl", musl: "demo-2.0-cp312-cp312-musllinux_1_1_x86_64.whl",
		late: "demo-2.0-1-py3-none-any.whl", {Version: Version{3, 11}}: "demo-2.0-1-py3-none-any.whl",
	} {
		if got := servedWheel(t, im, p); got != want {
			t.Errorf("%s gets %s, want %s", p, got, want)
		}
		if view := im.For(p); im.For(p) != view {
			t.Errorf("%s: there are two importers", p)
		}
	}
	for v, want := range map[Version]bool{{2, 7}: false, {3, 6}: false, {3, 8}: true, {3, 11}: false, {3, 12}: true, {3, 13}: true} {
		if im.Asks(v) != want {
			t.Errorf("what %s gets hangs on more: %v", v, !want)
		}
	}
	// What changes is noticed.
	wheelPath(t, dir, "demo-4.0-py3-none-any.whl")
	if got := servedWheel(t, im, mid); got != "demo-4.0-py3-none-any.whl" {
		t.Errorf("then %s", got)
	}
	if err := os.Remove(filepath.Join(dir, "demo-4.0-py3-none-any.whl")); err != nil {
		t.Fatal(err)
	}
	if got := servedWheel(t, im, late); got != "demo-2.0-1-py3-none-any.whl" {
		t.Errorf("at last %s", got)
	}
}

// The last that a project has for an old Python says so in its metadata.
func TestWheelRequiresPython(t *testing.T) {
	dir := t.TempDir()
	for version, need := range map[string]string{"1.0": "", "2.0": ">=3.6, !=3.9.*", "3.0": ">=3.12.1", "4.0": "not to be read"} {
		name := "demo-" + version + "-py3-none-any.whl"
		if version == "4.0" {
			name = "demo-0.1-py3-none-any.whl"
		}
		pythons.WriteWheel(t, dir, name, map[string]string{
			"demo/__init__.py": "x = 1\n", name[:8] + ".dist-info/METADATA": "Name: demo\nRequires-Python: " + need + "\n\nRequires-Python: >9\n",
		})
	}
	im := newImporter(t, Options{Wheels: []string{dir}})
	for minor, want := range map[int]string{5: "1.0", 8: "2.0", 9: "1.0", 11: "2.0", 12: "3.0", 13: "3.0"} {
		if got := servedWheel(t, im, Platform{Version: Version{3, minor}}); got != "demo-"+want+"-py3-none-any.whl" {
			t.Errorf("3.%d gets %s, want %s", minor, got, want)
		}
	}
}

func TestWheelhouseBadInput(t *testing.T) {
	p := platform(t, 11, "cp311", "x86_64", "glibc", "2.36")
	const good, bad = "demo-1.0-py3-none-any.whl", "demo-2.0-py3-none-any.whl"
	demo := map[string]string{"demo/__init__.py": "x = 1\n"}
	with := func(name, text string) map[string]string {
		files := maps.Clone(demo)
		files[name] = text
		return files
	}
	for _, c := range []struct {
		name  string
		make  func(dir string)
		fault string
	}{
		{"no RECORD", func(dir string) { pythons.WriteWheel(t, dir, bad, with("demo-2.0.dist-info/RECORD", "")) }, "it has no RECORD"},
		{"no METADATA", func(dir string) { pythons.WriteWheel(t, dir, bad, with("demo-2.0.dist-info/METADATA", "")) }, "it has no METADATA"},
		{"another's", func(dir string) {
			if err := os.Rename(pythons.WriteWheel(t, t.TempDir(), "other-2.0-py3-none-any.whl", demo), filepath.Join(dir, bad)); err != nil {
				t.Fatal(err)
			}
		}, "is no wheel of demo"},
		{"traversal", func(dir string) { pythons.WriteWheel(t, dir, bad, with("../../demo/evil.py", "x = 2\n")) }, "../../demo/evil.py"},
		{"traversal in data", func(dir string) {
			pythons.WriteWheel(t, dir, bad, with("demo-2.0.data/purelib/../../evil.py", "x = 2\n"))
		}, "leads elsewhere"},
		{"absolute", func(dir string) { pythons.WriteWheel(t, dir, bad, with("/demo/evil.py", "x = 2\n")) }, "leads elsewhere"},
		{"wrong tag", func(dir string) {
			pythons.WriteWheel(t, dir, bad, with("demo-2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp38-cp38-manylinux1_x86_64\n"))
		}, "WHEEL file says cp38-cp38"},
		{"no zip", func(dir string) { write(t, filepath.Join(dir, bad), "<html>", false) }, "no zip archive"},
		{"cut off", func(dir string) {
			file := pythons.WriteWheel(t, dir, bad, demo)
			if err := os.Truncate(file, 200); err != nil {
				t.Fatal(err)
			}
		}, "no zip archive"},
		{"empty", func(dir string) { write(t, filepath.Join(dir, bad), "", false) }, "no zip archive"},
		{"a link to nothing", func(dir string) {
			if err := os.Symlink("nothing", filepath.Join(dir, bad)); err != nil {
				t.Fatal(err)
			}
		}, "has disappeared"},
		{"no version", func(dir string) { pythons.WriteWheel(t, dir, "demo-new-py3-none-any.whl", demo) }, "no version"},
		{"no name", func(dir string) { write(t, filepath.Join(dir, "demo.whl"), "", false) }, "is no wheel's"},
		{"a directory", func(dir string) { write(t, filepath.Join(dir, bad)+"/", "", true) }, ""},
		{"an sdist", func(dir string) { write(t, filepath.Join(dir, "demo-2.0.tar.gz"), "", false) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			core, logs := observer.New(zap.WarnLevel)
			c.make(dir)
			im := newImporter(t, Options{Wheels: []string{dir}, Logger: slogzap.Slog(zap.New(core))})
			if got := servedWheel(t, im, p); !strings.HasPrefix(got, "importer: demo is not served") || c.fault != "" && logs.Len() != 1 {
				t.Errorf("alone: %s", got)
			}
			pythons.WriteWheel(t, dir, good, demo)
			for range 2 {
				if got := servedWheel(t, im, p); got != good {
					t.Errorf("beside a good one: %s", got)
				}
			}
			said := ""
			for _, e := range logs.All() {
				said += fmt.Sprintln(e.Message, e.ContextMap())
			}
			if strings.Count(said, "\n") != min(1, len(c.fault)) || !strings.Contains(said, c.fault) {
				t.Errorf("want %q once, said %q", c.fault, said)
			}
		})
	}
	im := newImporter(t, Options{Wheels: []string{filepath.Join(t.TempDir(), "none")}})
	if got := servedWheel(t, im, p); !strings.Contains(got, "no such module") {
		t.Errorf("without a directory: %s", got)
	}
}

// What fits nobody there is said, by the names of its modules, which need not be the project's.
func TestWheelMisfits(t *testing.T) {
	dir := t.TempDir()
	pythons.WriteWheel(t, dir, "Demo_Lib-1.0-cp38-cp38-manylinux_2_17_x86_64.whl", map[string]string{
		"demo/__init__.py": "x = 1\n", "single.py": "x = 1\n", "fast.cpython-38-x86_64-linux-gnu.so": "\x7fELF",
	})
	im := newImporter(t, Options{Wheels: []string{dir}})
	p := platform(t, 11, "cp311", "x86_64", "glibc", "2.36")
	for _, name := range []string{"demo", "single", "fast", "demo_lib"} {
		_, err := im.For(p).Module(context.Background(), name, p.Version)
		want := "no wheel of demo-lib fits this child (cp311 on x86_64 with glibc 2.36): there is Demo_Lib-1.0-cp38-cp38-manylinux_2_17_x86_64.whl"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := im.For(p).Module(context.Background(), "stranger", p.Version); err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("a stranger: %v", err)
	}
}

// Packages may lie in NAME.data, a part of them elsewhere; metadata, entry points and data files are there as with any package.
func TestWheelContents(t *testing.T) {
	dir := t.TempDir()
	pythons.WriteWheel(t, dir, "demo-1.0-py3-none-any.whl", map[string]string{
		"demo/__init__.py": "# demo\n", "demo-1.0.data/purelib/demo/pure.py": "x = 1\n", "demo-1.0.data/platlib/demo/plat/__init__.py": "x = 2\n",
		"demo-1.0.data/platlib/demo/data.txt": "text", "demo-1.0.data/scripts/tool": "#!python\n", "demo-1.0.dist-info/entry_points.txt": "[g]\nn = demo:f\n",
	})
	pythons.WriteWheel(t, dir, "demo-2.0-py2-none-any.whl", map[string]string{"demo/__init__.py": "# demo\n", "demo/data.txt": "old"})
	im := newImporter(t, Options{Wheels: []string{dir}})
	ctx := context.Background()
	for v, data := range map[Version]string{py3: "text", py2: "old"} {
		view := im.For(Platform{Version: v})
		got, err := view.Resource(ctx, none, "demo", "data.txt")
		if err != nil || string(got) != data {
			t.Errorf("%s: data %q %v", v, got, err)
		}
		m, err := view.Metadata(ctx, "demo")
		if want := map[Version]string{py3: "1.0", py2: "2.0"}[v]; err != nil || m.Version != want {
			t.Errorf("%s: metadata %v %v", v, m, err)
		}
		if v == py3 && string(m.Files["entry_points.txt"]) != "[g]\nn = demo:f\n" {
			t.Errorf("entry points: %q", m.Files)
		}
	}
	m, err := im.For(Platform{Version: py3}).Module(ctx, "demo", py3)
	if err != nil || !slices.Equal(m.Present, []string{"plat", "pure"}) {
		t.Errorf("%v %v", m, err)
	}
	d, err := im.Describe(ctx, "demo", Version{})
	if err != nil || filepath.Base(d.Wheel) != "demo-2.0-py2-none-any.whl" || !slices.Equal(d.OtherWheels, []string{"demo-1.0-py3-none-any.whl"}) {
		t.Errorf("described: %+v %v", d, err)
	}
	d, err = im.Describe(ctx, "demo.pure", py3)
	if err != nil || filepath.Base(d.Wheel) != "demo-1.0-py3-none-any.whl" || len(d.OtherWheels) != 0 {
		t.Errorf("described: %+v %v", d, err)
	}
	denied := newImporter(t, Options{Wheels: []string{dir}, Policy: Policy{Deny: []string{"demo.pure"}}}).For(Platform{Version: py3})
	if _, err := denied.Module(ctx, "demo.pure", py3); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a denied module: %v", err)
	}
	if _, err := denied.Resource(ctx, none, "demo", "pure.py"); err == nil {
		t.Error("a denied module's file is given")
	}
}

// Who asks for a module of a wheelhouse before the child was asked, and what is behind a hop.
func TestResponderPlatforms(t *testing.T) {
	dir := t.TempDir()
	wheelPath(t, dir, "demo-1.0-cp38-cp38-linux_x86_64.whl", "demo-1.0-cp311-cp311-linux_x86_64.whl")
	im := newImporter(t, Options{Wheels: []string{dir}})
	sink := &recorder{}
	r := serve(t, im, sink, ResponderOptions{Version: py3})
	ask(t, r, "demo")
	below := platform(t, 8, "cp38", "x86_64", "glibc", "2.31")
	r.Add(7, Platform{Version: below.Version})
	r.Add(7, below)
	r.Add(7, Platform{Version: below.Version})
	own := platform(t, 11, "cp311", "x86_64", "glibc", "2.36")
	r.Learn(own)
	if got := r.kinds.list(); !slices.Equal(got, []Platform{own, below}) {
		t.Errorf("kinds %v", got)
	}
	ask(t, r, "demo")
	equal(t, "sent", sink.names(), []string{"-demo", "demo"})
}

// What was resolved for a kind of child is served to that kind, whatever virtual modules there are; of kinds there is an end.
func TestPrepare(t *testing.T) {
	asked := 0
	im, err := New(Options{Requirements: Requirements{Lines: []string{"six"}}, Fetch: func(context.Context, Requirements, Platform) (string, error) {
		asked++
		return fmt.Sprint("/dir", asked), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if im, err = im.WithVirtual(nil); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	kind := func(i int) Platform {
		return Platform{Version: Version{3, 11}, ABI: "cp311", Machine: fmt.Sprint("m", i)}
	}
	for i := range maxChoices {
		if _, err := im.Prepare(ctx, kind(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := im.Prepare(ctx, kind(maxChoices)); err == nil || !strings.Contains(err.Error(), "at most 1000 kinds") {
		t.Error(err)
	}
	// A new child of a kind that is known gets what is newer; the others go on with what they have.
	one, err1 := im.Prepare(ctx, kind(1))
	two, err2 := im.Prepare(ctx, kind(1))
	for i, p := range []Platform{one, two} {
		if got, want := im.For(p).search(p.Version).platform, fmt.Sprint("/dir", maxChoices+2+i); got.fetched != want || im.wheelDirs(p)[0] != want {
			t.Errorf("%d: %+v, want %s; %v, %v", i, got, want, err1, err2)
		}
	}
	if dirs := im.wheelDirs(kind(1)); len(dirs) != 0 {
		t.Errorf("%q", dirs)
	}
}
