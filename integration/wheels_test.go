package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/daemon/client"
	"mitogend/integration/pythons"
)

// writeWheel makes a wheel of these files; {wheel} in them stands for its name.
func writeWheel(t *testing.T, dir, name string, files map[string]string) {
	t.Helper()
	project, version, _ := strings.Cut(name, "-")
	version, _, _ = strings.Cut(version, "-")
	all := map[string]string{project + "-" + version + ".dist-info/entry_points.txt": "[demo.plugins]\none = " + project + ":one\n"}
	for file, text := range files {
		all[file] = strings.ReplaceAll(text, "{wheel}", name)
	}
	pythons.WriteWheel(t, dir, name, all)
}

// wheelhouse has wheels of demo, in pure Python, and of fast, with an extension module and a library beside it, for each interpreter.
func wheelhouse(t *testing.T, list []Python) (dir string, tags map[string]string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		pythons.Missing(t, "there is no gcc")
	}
	dir = t.TempDir()
	machine, err := exec.Command("uname", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	arch := strings.TrimSpace(string(machine))
	demo := map[string]string{"demo/__init__.py": "WHEEL = '{wheel}'\n", "demo/data.txt": "data of {wheel}"}
	writeWheel(t, dir, "demo-1.0-py2-none-any.whl", demo)
	writeWheel(t, dir, "demo-1.0-py3-none-any.whl", demo)
	writeWheel(t, dir, "demo-2.0-py3-none-any.whl", demo)
	built := t.TempDir()
	library := filepath.Join(built, "fast.libs", "libanswer-1.so.1")
	compile(t, library, "-DLIBRARY", "-Wl,-soname,libanswer-1.so.1")
	core := func(file string, args ...string) map[string]string {
		compile(t, filepath.Join(built, "fast", file), append(args, "-DNAME=core", "-DNEEDS", "-L"+filepath.Dir(library), "-l:libanswer-1.so.1",
			"-Wl,-rpath,$ORIGIN/../fast.libs", "-Wl,--no-as-needed", "-lc")...)
		files := map[string]string{"fast/__init__.py": "WHEEL = '{wheel}'\nfrom fast.core import answer\n"}
		for name, path := range map[string]string{"fast-1.0.data/platlib/fast/" + file: "fast/" + file, "fast.libs/libanswer-1.so.1": "fast.libs/libanswer-1.so.1"} {
			data, err := os.ReadFile(filepath.Join(built, path))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(data)
		}
		return files
	}
	old, late := core("core.so", "-DPYTHON2"), core("core.abi3.so")
	tags = map[string]string{}
	for _, p := range list {
		abi := p.Local(t, dir, "", "-c", "import sys; u = 'u' if sys.maxunicode > 65535 else ''\n"+
			"print('cp%d%d' % sys.version_info[:2] + getattr(sys, 'abiflags', 'm' + u))")
		files := late
		if p.Version == "2.7" {
			files = old
		}
		python := "cp" + strings.ReplaceAll(p.Version, ".", "")
		tag := python + "-" + strings.TrimSpace(abi.Stdout) + "-"
		tags[p.Version] = tag + "manylinux_2_5_" + arch
		writeWheel(t, dir, "fast-1.0-"+tags[p.Version]+".whl", files)
		for _, other := range []string{"manylinux_2_99_" + arch, "musllinux_1_1_" + arch, "manylinux_2_5_s390x", "win_amd64"} {
			writeWheel(t, dir, "fast-2.0-"+tag+other+".whl", map[string]string{"fast/__init__.py": "WHEEL = '{wheel}'\n"})
		}
	}
	return dir, tags
}

const wheelProbe = `
import pkgutil, sys
def report():
    import demo, fast
    said = [demo.WHEEL, fast.WHEEL, fast.answer(), pkgutil.get_data('demo', 'data.txt').decode()]
    if sys.version_info >= (3, 8):
        from importlib.metadata import entry_points, version
        said += [version('demo'), version('fast'), sorted(e.value for d in ('demo', 'fast') for e in
            __import__('importlib.metadata').metadata.distribution(d).entry_points)]
    return said
if __name__ == '__main__':
    import json
    print(json.dumps(report()))
`

// One command serves children of several Pythons, each with its own wheels.
func TestWheels(t *testing.T) {
	var list []Python
	for _, version := range []string{"2.7", "3.6", "3.8", "3.11", "3.13", "3.15"} {
		all := pythons.All(t)
		if i := slices.IndexFunc(all, func(p pythons.Python) bool { return p.Version == version }); i >= 0 {
			list = append(list, clean(t, all[i]))
		}
	}
	if len(list) < 2 {
		pythons.Missing(t, "there is only one Python")
	}
	wheels, tags := wheelhouse(t, list)
	dir := t.TempDir()
	Write(t, dir, "probe.py", wheelProbe)
	want := func(p Python) []any {
		generation, version := "py3", "2.0"
		if p.Version == "2.7" {
			generation, version = "py2", "1.0"
		}
		demo := "demo-" + version + "-" + generation + "-none-any.whl"
		out := []any{demo, "fast-1.0-" + tags[p.Version] + ".whl", 42.0, "data of " + demo}
		if p.Version != "2.7" && p.Version != "3.6" {
			out = append(out, version, "1.0", []any{"demo:one", "fast:one"})
		}
		return out
	}
	check := func(p Python, got any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want(p)) {
			t.Errorf("%s: %v, want %v", p.Version, got, want(p))
		}
	}
	args := []string{"--json", "--wheels", wheels}
	for _, p := range list {
		args = append(args, "-H", p.Target())
	}
	r := Mitogend(t, dir, append(append([]string{"call"}, args...), "probe:report")...)
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if r.Status != 0 || r.Stderr != "" || len(lines) != len(list) {
		t.Fatal(r)
	}
	for _, line := range lines {
		var got struct {
			Target string
			Result any
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		i := slices.IndexFunc(list, func(p Python) bool { return p.Target() == got.Target })
		if i < 0 {
			t.Fatalf("no such target: %s", line)
		}
		check(list[i], got.Result)
	}
	// A program, behind a hop of another Python.
	first, last := list[0], list[len(list)-1]
	for _, p := range []Python{first, last} {
		hop := first
		if p.Version == first.Version {
			hop = last
		}
		r := Mitogend(t, dir, "run", "--wheels", wheels, "-H", hop.Target()+"+"+p.Target(), "probe.py")
		var got any
		if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || r.Status != 0 {
			t.Fatal(r)
		}
		check(p, got)
	}
	Write(t, dir, "constraints.txt", "demo==1.0\nfast==3\n")
	Write(t, dir, "which.py", "def demo():\n    import demo\n    return demo.WHEEL\n")
	r = Mitogend(t, dir, "call", "--wheels", wheels, "--constraint", "constraints.txt", "-H", last.Target(), "which:demo")
	r.Want(t, 0, `"demo-1.0-py3-none-any.whl"`+"\n", "")
	r = Mitogend(t, dir, "call", "--wheels", wheels, "--constraint", "constraints.txt", "-H", last.Target(), "fast:answer")
	if r.Status == 0 || !strings.Contains(r.Stderr, "no wheel of fast is of a version that the constraints allow") {
		t.Error(r)
	}
	r = Mitogend(t, dir, "modules", "--wheels", wheels, "--python-version", first.Version, "fast")
	if r.Status != 0 || !strings.Contains(r.Stdout, "\n  wheel     fast-2.0-cp") || !strings.Contains(r.Stdout, "\n  or        fast-1.0-"+tags[first.Version]+".whl, as the target is\n") {
		t.Error(r)
	}
	for _, c := range [][]string{
		{"--wheels", filepath.Join(dir, "none")}, {"--wheels", dir}, {"--constraint", "constraints.txt"}, {"--wheels", filepath.Join(wheels, "demo-2.0-py3-none-any.whl")},
		{"--wheels", wheels, "--constraint", "none.txt"},
	} {
		if r := Mitogend(t, dir, append(append([]string{"call"}, c...), "os:getpid")...); r.Status != 2 || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: %v", c, r)
		}
	}
}

// A child is asked for its platform if that matters, and not for pure Python.
func TestWheelsAsk(t *testing.T) {
	p := AnyPython(t)
	dir, wheels := t.TempDir(), t.TempDir()
	Write(t, dir, "main.py", "import demo\nprint(demo.WHEEL)\n")
	run := func(want string, asked bool) {
		t.Helper()
		r := Mitogend(t, dir, "run", "--wheels", wheels, "--trace-imports", "-H", p.Target(), "main.py")
		if r.Status != 0 || r.Stdout != want+"\n" || strings.Contains(r.Stderr, "mitogen.extension") != asked || !strings.Contains(r.Stderr, want) {
			t.Errorf("want %s, asked %v: %v", want, asked, r)
		}
	}
	demo := map[string]string{"demo.py": "WHEEL = '{wheel}'\n"}
	writeWheel(t, wheels, "demo-1.0-py3-none-any.whl", demo)
	writeWheel(t, wheels, "demo-0.9-py3-none-linux_x86_64.whl", demo)
	run("demo-1.0-py3-none-any.whl", false)
	writeWheel(t, wheels, "demo-1.0-py3-none-win_amd64.whl", demo)
	run("demo-1.0-py3-none-any.whl", false)
	writeWheel(t, wheels, "demo-1.0-py3-none-linux_s390x.whl", demo)
	run("demo-1.0-py3-none-any.whl", true)
}

// A daemon keeps the connection as long as the wheels are unchanged.
func TestWheelsDaemon(t *testing.T) {
	p := AnyPython(t)
	wheels, tags := wheelhouse(t, []Python{p})
	dir := t.TempDir()
	Write(t, dir, "which.py", "def fast():\n    import fast, os\n    return fast.WHEEL, fast.answer(), os.getpid()\n")
	d := Serve(t, "--wheels", wheels)
	call := func() (said []any) {
		t.Helper()
		r := d.Run(t, dir, "call", "--wheels", wheels, "-H", p.Target(), "which:fast")
		if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil || len(said) != 3 || r.Status != 0 {
			t.Fatal(r)
		}
		return said
	}
	first := call()
	if first[0] != "fast-1.0-"+tags[p.Version]+".whl" || first[1] != 42.0 {
		t.Errorf("%v", first)
	}
	if again := call(); again[2] != first[2] {
		t.Errorf("another child, though nothing has changed: %v, then %v", first, again)
	}
	newer := "fast-1.1-" + tags[p.Version] + ".whl"
	writeWheel(t, wheels, newer, map[string]string{"fast/__init__.py": "WHEEL = '{wheel}'\ndef answer():\n    return 0\n"})
	if then := call(); then[0] != newer || then[2] == first[2] {
		t.Errorf("after a newer wheel: %v", then)
	}
	// The daemon's settings count for a client that names none.
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	c, err := d.Dial(t, client.Options{}).Connect(ctx, p.Target())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, "fast:answer").Err(); err != nil {
		t.Error(err)
	}
}
