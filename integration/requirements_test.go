package integration

import (
	"archive/zip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// needs adds a dependency to a wheel that writeWheel has made.
func needs(t *testing.T, wheel, dependency string) {
	t.Helper()
	r, err := zip.OpenReader(wheel)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(wheel + ".new")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for _, member := range r.File {
		if strings.HasSuffix(member.Name, "/METADATA") {
			in, err := member.Open()
			if err != nil {
				t.Fatal(err)
			}
			out, _ := w.Create(member.Name)
			text, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = out.Write([]byte(strings.TrimSpace(string(text)) + "\nRequires-Dist: " + dependency + "\n"))
			continue
		}
		if err := w.Copy(member); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(wheel+".new", wheel); err != nil {
		t.Fatal(err)
	}
}

// pip finds wheels that fit each target, and their dependencies, in a local index; the error says what it cannot find.
func TestRequirements(t *testing.T) {
	t.Parallel()
	if exec.Command("python3", "-m", "pip", "--version").Run() != nil {
		pythons.Missing(t, "python3 has no pip")
	}
	list := pythons.All(t)
	list = slices.DeleteFunc(slices.Clone(list), func(p pythons.Python) bool {
		return p.Version != "2.7" && p.Version != "3.11" && p.Version != list[len(list)-1].Version
	})
	dir, links := t.TempDir(), t.TempDir()
	for _, name := range []string{"demo-1.0-py2-none-any.whl", "demo-1.0-py3-none-any.whl"} {
		writeWheel(t, links, name, map[string]string{"demo.py": "import under\nWHEELS = ['{wheel}', under.WHEEL]\ndef wheels():\n    return WHEELS\n"})
		needs(t, filepath.Join(links, name), "under<2")
	}
	for _, name := range []string{"under-1.5-py2.py3-none-any.whl", "under-2.0-py2.py3-none-any.whl"} {
		writeWheel(t, links, name, map[string]string{"under.py": "WHEEL = '{wheel}'\n"})
	}
	script := "import demo\nprint(' '.join(demo.WHEELS))\n"
	Write(t, dir, "plain.py", script)
	Write(t, dir, "says.py", "# /// script\n# dependencies = ['demo']\n# requires-python = '>=2.7'\n# ///\n"+script)
	Write(t, dir, "late.py", "# /// script\n# requires-python = '>=4'\n# ///\n"+script)
	Write(t, dir, "bad.py", "# /// script\n# dependencies = [\n# ///\n")
	Write(t, dir, "needs.txt", "demo>=1\n")
	env := []string{"PIP_NO_INDEX=1", "UV_NO_CONFIG=1", "XDG_CACHE_HOME=" + t.TempDir()}
	run := func(args ...string) Result {
		t.Helper()
		cmd := Command(t, dir, append([]string{args[0], "--find-links", links}, args[1:]...)...)
		cmd.Env = append(cmd.Env, env...)
		return runCommand(t, cmd)
	}
	for _, p := range list {
		target := clean(t, p).Target()
		want := "demo-1.0-py3-none-any.whl under-1.5-py2.py3-none-any.whl\n"
		if p.Version == "2.7" {
			want = strings.Replace(want, "py3", "py2", 1)
		}
		run("run", "--with", "demo", "-H", target, "plain.py").Want(t, 0, want, "")
		run("run", "-H", target, "says.py").Want(t, 0, want, "")
		r := run("call", "--requirements", "needs.txt", "-H", target, "demo:wheels")
		r.Want(t, 0, `["`+strings.Replace(strings.TrimSpace(want), " ", `","`, 1)+`"]`+"\n", "")
	}
	// Requirements in the cache are not asked for again.
	target := clean(t, list[0]).Target()
	cmd := Command(t, dir, "run", "--find-links", links, "--with", "demo", "-H", target, "plain.py")
	bin := t.TempDir()
	cmd.Env = append(slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }), append(env, "PATH="+bin)...)
	if r := runCommand(t, cmd); r.Status != 0 {
		t.Error(r)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"run", "--with", "demo>=3", "plain.py"}, 1, "pip: Could not find a version that satisfies the requirement demo>=3"},
		{[]string{"call", "--with", "demo==7", "demo:wheels"}, 1, "pip: Could not find a version that satisfies the requirement demo==7"},
		{[]string{"run", "late.py"}, 1, "the script needs Python >=4, and this child is "},
		{[]string{"run", "bad.py"}, 2, "is no TOML"},
		{[]string{"run", "--with", "-r x", "plain.py"}, 2, "that is no requirement"},
		{[]string{"run", "--requirements", "none.txt", "plain.py"}, 2, "--requirements none.txt: no such file or directory"},
		{[]string{"run", "--with", "demo", "--find-links", "none", "plain.py"}, 1, "none: no such file or directory"},
	} {
		if r := run(c.args...); r.Status != c.status || !strings.Contains(r.Stderr, c.want) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: want %d: %v", c.args, c.status, r)
		}
	}
}

// The same with uv: what it installs for a target is served, with metadata, entry points, data files, extension modules and libraries.
func TestRequirementsByUV(t *testing.T) {
	t.Parallel()
	var list []Python
	all := pythons.All(t)
	for _, p := range all {
		if p.Version == "3.8" || p.Version == all[len(all)-1].Version {
			list = append(list, clean(t, p))
		}
	}
	bin, dir := pythons.UV(t), t.TempDir()
	links, tags := wheelhouse(t, list)
	needs(t, filepath.Join(links, "demo-2.0-py3-none-any.whl"), "fast>=1")
	Write(t, dir, "probe.py", "# /// script\n# dependencies = ['demo']\n# ///\n"+wheelProbe)
	Write(t, dir, "needs.txt", "demo>=1\n")
	run := func(args ...string) Result {
		t.Helper()
		cmd := Command(t, dir, append([]string{args[0], "--find-links", links}, args[1:]...)...)
		cmd.Env = slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "PIP_") || strings.HasPrefix(kv, "UV_") })
		cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"), "UV_OFFLINE=1", "UV_NO_CONFIG=1", "PIP_CONFIG_FILE="+os.DevNull,
			"XDG_CACHE_HOME="+filepath.Join(dir, "caches"))
		return runCommand(t, cmd)
	}
	for _, p := range list {
		want := `["demo-2.0-py3-none-any.whl", "fast-1.0-` + tags[p.Version] + `.whl", 42, "data of demo-2.0-py3-none-any.whl", ` +
			`"2.0", "1.0", ["demo:one", "fast:one"]]` + "\n"
		run("run", "-H", p.Target(), "probe.py").Want(t, 0, want, "")
		run("call", "--requirements", "needs.txt", "-H", p.Target(), "probe:report").Want(t, 0, strings.ReplaceAll(want, ", ", ","), "")
	}
	if log := pythons.UVLog(t, bin); strings.Count(log, "\n") != 2*len(list) {
		t.Error(log)
	}
	r := run("call", "--with", "demo>=3", "probe:report")
	if r.Status != 1 || !strings.Contains(r.Stderr, "uv: No solution found when resolving dependencies: Because there is no version of demo>=3") ||
		strings.Count(r.Stderr, "\n") != 1 {
		t.Error(r)
	}
	if all[0].Version == "2.7" {
		r := run("call", "--with", "demo", "-H", clean(t, all[0]).Target(), "probe:report")
		if r.Status != 1 || !strings.Contains(r.Stderr, "uv finds no wheels for Python 2.7, and only uv is told where to look, by UV_OFFLINE") {
			t.Error(r)
		}
	}
}
