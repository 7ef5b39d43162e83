package requirements

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

var linux312 = importer.Platform{Version: importer.Version{Major: 3, Minor: 12}, ABI: "cp312", Machine: "x86_64", Libc: "glibc", LibcVersion: "2.36"}

// tools lets the two find nothing but what the test has: no settings of this machine's.
func tools(t *testing.T, path ...string) (env []string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("PATH", strings.Join(path, ":"))
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "caches"))
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_DIRS=" + filepath.Join(home, "xdg"), "UV_NO_CONFIG=1", "PIP_CONFIG_FILE=" + os.DevNull}
}

func program(t *testing.T, name, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	pythons.Program(t, filepath.Join(dir, name), "#!/bin/sh\n"+text)
	return dir
}

// demo makes a directory with a project of two versions, and one that it needs.
func demo(t *testing.T) (links string) {
	t.Helper()
	links = t.TempDir()
	for _, v := range []string{"1.0", "2.0"} {
		pythons.WriteWheel(t, links, "demo-"+v+"-py3-none-any.whl", map[string]string{"demo.py": "VERSION = '" + v + "'\n",
			"demo-" + v + ".data/scripts/demo": "#!python\n", "demo-" + v + ".dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: " + v + "\nRequires-Dist: under<2\n"})
	}
	pythons.WriteWheel(t, links, "under-1.5-cp312-cp312-manylinux_2_28_x86_64.whl", map[string]string{
		"under.py": "", "under-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: cp312-cp312-linux_x86_64\n"})
	return links
}

func TestUV(t *testing.T) {
	bin, links := pythons.UV(t), demo(t)
	env := append(tools(t, bin), "UV_OFFLINE=1")
	file := filepath.Join(t.TempDir(), "needs.txt")
	write(t, file, "demo<2\n")
	r := importer.Requirements{Lines: []string{"under>=1"}, Files: []string{file}, Links: []string{links}}
	dir, err := Fetch(context.Background(), r, linux312, env)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, importer.Site))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"bin", "demo-1.0.dist-info", "demo.py", "under-1.5.dist-info", "under.py"}) {
		t.Errorf("%q", names)
	}
	log := pythons.UVLog(t, bin)
	for _, want := range []string{`"--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_36"`, `"-r", "` + file + `", "--", "under>=1"`, `"UV_OFFLINE": "1"`} {
		if strings.Count(log, "\n") != 1 || !strings.Contains(log, want) {
			t.Errorf("%s is not in %s", want, log)
		}
	}
	// It is not started where somebody else's settings may lie.
	if here, _ := os.Getwd(); strings.Contains(log, `"dir": "`+here) {
		t.Error(log)
	}
	// What is there is not asked for again.
	t.Setenv("PATH", t.TempDir())
	if again, err := Fetch(context.Background(), r, linux312, env); again != dir || err != nil {
		t.Error(again, err)
	}
}

func TestUVPlatform(t *testing.T) {
	for _, c := range []struct {
		python, abi, machine, libc, version, want string
	}{
		{"3.12", "cp312", "x86_64", "glibc", "2.36", "x86_64-manylinux_2_36"},
		{"3.8", "cp38", "aarch64", "glibc", "2.30", "aarch64-manylinux_2_28"},
		{"3.8", "cp38", "x86_64", "glibc", "2.17", "x86_64-manylinux_2_17"},
		{"3.14", "cp314", "x86_64", "glibc", "2.51", "x86_64-manylinux_2_40"},
		{"3.12", "cp312", "x86_64", "musl", "1.2.5", "x86_64-unknown-linux-musl"},
		{"3.12", "cp312", "riscv64", "glibc", "2.39", "riscv64-unknown-linux"},
		{"2.7", "cp27mu", "x86_64", "glibc", "2.36", "Python 2.7"},
		{"3.7", "cp37m", "x86_64", "glibc", "2.36", "Python 3.7"},
		{"3.13", "cp313t", "x86_64", "glibc", "2.36", "a Python of the kind cp313t"},
		{"3.12", "cp312", "x86_64", "glibc", "2.12", "cp312 on x86_64 with glibc 2.12"},
		{"3.12", "cp312", "aarch64", "musl", "1.1.24", "cp312 on aarch64 with musl 1.1.24"},
		{"3.12", "cp312", "riscv64", "glibc", "2.36", "cp312 on riscv64 with glibc 2.36"},
		{"3.12", "cp312", "s390x", "glibc", "2.36", "cp312 on s390x with glibc 2.36"},
		{"3.12", "cp312", "x86_64", "", "", "cp312 on x86_64"},
	} {
		v := importer.Version{}
		_, _ = fmt.Sscanf(c.python, "%d.%d", &v.Major, &v.Minor)
		p, err := importer.NewPlatform(v, c.abi, c.machine, c.libc, c.version)
		if err != nil {
			t.Fatal(err)
		}
		got, err := uvPlatform(p)
		if no := new(unable); errors.As(err, no) {
			got = no.why
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", p, got, c.want)
		}
	}
}

// Who alone is told where to look is asked alone.
func TestTold(t *testing.T) {
	home := t.TempDir()
	for _, dir := range []string{"uv", "pip", "xdg/uv", "etc/uv", "prefix"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	base := []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CONFIG_DIRS=" + filepath.Join(home, "xdg")}
	etc = filepath.Join(home, "etc")
	t.Cleanup(func() { etc = "/etc" })
	for _, c := range []struct{ env, file, text, uv, pip string }{
		{"", "", "", "", ""},
		{"UV_INDEX_URL=http://x", "", "", "UV_INDEX_URL", ""},
		{"UV_INDEX_ACME_PASSWORD=x", "", "", "", ""},
		{"UV_OFFLINE=0", "", "", "", ""},
		{"UV_CACHE_DIR=/x", "", "", "", ""},
		{"PIP_FIND_LINKS=/x", "", "", "", "PIP_FIND_LINKS"},
		{"PIP_NO_CACHE_DIR=1", "", "", "", ""},
		{"PIP_CONFIG_FILE=/dev/null", "pip/pip.conf", "[global]\nindex-url = x\n", "", ""},
		{"", "pip/pip.conf", "[global]\nindex-url = x\n", "", "file"},
		{"", "pip/pip.conf", "[global]\nextra-index-url: x\n", "", "file"},
		{"", "pip/pip.conf", "[global]\ncert = x\n# index-url = x\n", "", ""},
		{"", "uv/uv.toml", "[[index]]\nurl = 'x'\n", "file", ""},
		{"", "xdg/uv/uv.toml", "[pip]\nno-index = true\n", "file", ""},
		{"", "etc/uv/uv.toml", "index-url = 'x'\n", "file", ""},
		{"", "etc/pip.conf", "[global]\nno-index = 1\n", "", "file"},
		{"UV_NO_CONFIG=1", "uv/uv.toml", "[[index]]\nurl = 'x'\n", "", ""},
		{"", "uv/uv.toml", "link-mode = 'copy'\n", "", ""},
		{"", "pip/pip.conf", "[global]\nindex_url = x\n", "", "file"},
		{"", "pip/pip.conf", "[download]\r\n--Extra_Index_URL = x\r\n", "", "file"},
		{"", "pip/pip.conf", "[global]\rpypi-url = x\r", "", "file"},
		{"", "pip/pip.conf", "[global]\nno_index_at_all = x\n", "", ""},
		{"PIP_PYPI_URL=x", "", "", "", "PIP_PYPI_URL"},
		{"", "prefix/pip.conf", "[global]\nindex_url = x\n", "", "file"},
		{"PIP_CONFIG_FILE=/dev/null", "prefix/pip.conf", "[global]\nindex_url = x\n", "", ""},
		{"", "uv/uv.toml", "pip.index-url = 'x'\n", "file", ""},
		{"", "uv/uv.toml", "pip = { index-url = 'x' }\n", "file", ""},
		{"", "uv/uv.toml", "\"index-url\" = 'x'\n", "file", ""},
		{"", "uv/uv.toml", "index = [{ url = 'x' }]\n", "file", ""},
		{"", "uv/uv.toml", "x = '''\nindex-url = 1\n'''\n", "", ""},
		{"", "uv/uv.toml", "this is no TOML\n", "file", ""},
	} {
		file := filepath.Join(home, c.file)
		if c.file != "" {
			write(t, file, c.text)
		}
		env := append(slices.Clip(base), c.env)
		if uv, pip := told(uvIs, env, ""), told(pipIs, env, filepath.Join(home, "prefix")); uv != strings.Replace(c.uv, "file", file, 1) || pip != strings.Replace(c.pip, "file", file, 1) {
			t.Errorf("%+v: %q, %q", c, uv, pip)
		}
		if c.file != "" {
			_ = os.Remove(file)
		}
	}
}

// Which of the two is asked, and what is said where neither finds anything.
func TestWhoIsAsked(t *testing.T) {
	const is = "case $1 in --version) echo 'uv 0.12.5'; exit;; esac\n"
	const fails = is + "echo 'Using CPython 3.12.1' >&2; printf '  × No solution found:\\n  ╰─▶ Because of this\\n      and that.\\n' >&2; exit 1\n"
	const old = "echo 'uv 0.5.5'\n"
	// It has laid something down when it fails.
	const half = is + "while [ \"$1\" != --target ]; do shift; done\n/bin/mkdir \"$2\"; : >\"$2/half.py\"; exit 2\n"
	const works = "case $2 in *runpy*) while [ \"$1\" != --dest ]; do shift; done; : >\"$2/x.whl\";; esac\n"
	const broken = "case $2 in *runpy*) echo 'ERROR: nothing fits' >&2; exit 1;; esac\n"
	// uv is not asked; nor is it where only the Python that pip runs under has a file that tells pip.
	const never = is + "exit 0\n"
	prefix := t.TempDir()
	write(t, filepath.Join(prefix, "pip.conf"), "[global]\nindex_url = x\n")
	told := works + "case $2 in *sys.prefix*) printf %s '" + prefix + "';; esac\n"
	old27 := linux312
	old27.Version, old27.ABI = importer.Version{Major: 2, Minor: 7}, "cp27mu"
	for _, c := range []struct {
		uv, pip, told string
		p             importer.Platform
		want, err     string
	}{
		{fails, works, "", linux312, "x.whl", ""},
		{half, works, "", linux312, "x.whl", ""},
		{old, works, "", linux312, "x.whl", ""},
		{fails, works, "", old27, "x.whl", ""},
		{"exit 127\n", works, "", linux312, "x.whl", ""},
		{fails, works, "PIP_NO_INDEX=1", linux312, "x.whl", ""},
		{never, works, "PIP_NO_INDEX=1", linux312, "x.whl", ""},
		{never, told, "PIP_CONFIG_FILE=", linux312, "x.whl", ""},
		{fails, works, "UV_OFFLINE=1", linux312, "", "uv: No solution found: Because of this and that."},
		{"", works, "UV_OFFLINE=1", linux312, "", "there is no uv on PATH, of version 0.5.6 or later, which UV_OFFLINE tells where to look: tell pip as well"},
		{fails, broken, "", linux312, "", "uv: No solution found: Because of this and that.; pip: nothing fits"},
		{fails, broken, "", old27, "", "pip: nothing fits"},
		{"", broken, "", linux312, "", "pip: nothing fits"},
		{fails, "", "", linux312, "", "uv: No solution found: Because of this and that."},
		{fails, "", "", old27, "", "uv finds no wheels for Python 2.7, and there is no pip on this machine, of version 20.3 or later, that would: install it"},
		{fails, works, "UV_OFFLINE=1", old27, "", "uv finds no wheels for Python 2.7, and only uv is told where to look, by UV_OFFLINE: tell pip as well"},
		{fails, "", "PIP_NO_INDEX=1", linux312, "", "there is no pip on this machine, of version 20.3 or later, which PIP_NO_INDEX tells where to look: install it"},
		{"", "", "", linux312, "", "there is neither uv, of version 0.5.6 or later, nor pip, of 20.3 or later, on this machine, that would find them: install one"},
	} {
		var path []string
		if c.uv != "" {
			path = append(path, program(t, "uv", c.uv))
		}
		if c.pip != "" {
			path = append(path, program(t, "python3", c.pip))
		}
		env := append(tools(t, path...), c.told)
		dir, err := Fetch(context.Background(), importer.Requirements{Lines: []string{"demo"}}, c.p, env)
		if c.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%q %q %s %v: %v", c.uv, c.pip, c.told, c.p, err)
			}
			continue
		}
		if got, _ := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(got) != 1 || filepath.Base(got[0]) != c.want {
			t.Errorf("%q %q %s %v: %q, %v", c.uv, c.pip, c.told, c.p, got, err)
		}
	}
}

// The pip.conf of another Python than that which pip runs under is not passed over: neither uv nor pip would know what it says.
func TestPipUnderAnotherPython(t *testing.T) {
	etc = t.TempDir()
	t.Cleanup(func() { etc = "/etc" })
	dirs := t.TempDir()
	write(t, filepath.Join(dirs, "proxy.conf"), "[global]\nproxy = x\n")
	at := func(name string) string { return filepath.Join(dirs, name) }
	prints := func(name string) string { return "case $2 in *sys.prefix*) printf %s '" + at(name) + "';; esac\n" }
	const works = "case $2 in *runpy*) while [ \"$1\" != --dest ]; do shift; done; : >\"$2/x.whl\";; esac\n"
	asked := filepath.Join(dirs, "asked")
	never := "case $1 in --version) echo 'uv 0.12.5'; exit;; esac\n: >'" + asked + "'; exit 1\n"
	for _, c := range []struct{ name, own, other, env, pip, err string }{
		{"only what pip reads", "index", "", "", works, ""},
		{"active environment", "", "", "VIRTUAL_ENV=" + at("index"), works, "index"},
		{"conda's", "", "", "CONDA_PREFIX=" + at("index"), works, "index"},
		{"another Python's", "", "index", "", works, "index"},
		{"another in place of its own", "index", "", "VIRTUAL_ENV=" + at("second"), works, "second"},
		{"both have the same", "index", "", "VIRTUAL_ENV=" + at("same"), works, ""},
		{"named", "", "index", "PIP_CONFIG_FILE=" + at("index/pip.conf"), works, ""},
		{"another named", "", "index", "PIP_CONFIG_FILE=" + at("proxy.conf"), works, "index"},
		{"index named", "", "index", "PIP_INDEX_URL=y", works, ""},
		{"no index", "", "index", "PIP_NO_INDEX=1", works, ""},
		{"no pip", "", "", "VIRTUAL_ENV=" + at("index"), "exit 1\n", "there is no pip on this machine"},
	} {
		for dir, text := range map[string]string{"index": "index-url = x", "same": "index-url = x", "second": "index-url = y", "plain": "proxy = x"} {
			_ = os.MkdirAll(at(dir), 0o700)
			write(t, filepath.Join(at(dir), "pip.conf"), "[global]\n"+text+"\n")
		}
		pick := func(name string) string {
			if name == "" {
				return "plain"
			}
			return name
		}
		other := prints(pick(c.other)) + "exit 1\n" // it has no pip
		if c.other == "" && c.own != "" {
			other = prints(c.own)
		}
		env := append(tools(t, program(t, "uv", never), program(t, "python3.12", prints(pick(c.own))+c.pip), program(t, "python3", other)), "PIP_CONFIG_FILE=", c.env)
		dir, err := Fetch(context.Background(), importer.Requirements{Lines: []string{"demo"}}, linux312, env)
		switch {
		case c.err == "" && err == nil:
			if got, _ := filepath.Glob(filepath.Join(dir, "*.whl")); len(got) != 1 {
				t.Errorf("%s: %q", c.name, got)
			}
		case c.err == "" || err == nil:
			t.Errorf("%s: %v", c.name, err)
		case strings.HasPrefix(c.err, "there"):
			if !strings.HasPrefix(err.Error(), c.err) || !strings.Contains(err.Error(), at("index/pip.conf")) {
				t.Errorf("%s: %v", c.name, err)
			}
		case !strings.HasPrefix(err.Error(), "pip runs under ") || !strings.Contains(err.Error(), "which does not read "+at(c.err+"/pip.conf")+": make PIP_CONFIG_FILE name"):
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if exists(asked) {
		t.Error("uv was asked")
	}
}

// uv takes it from the Python that it runs under whether the target's is free-threaded.
func TestUVFindsForAnotherPython(t *testing.T) {
	links := t.TempDir()
	pythons.WriteWheel(t, links, "demo-1.0-py3-none-any.whl", map[string]string{"demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: cp312-cp312t-linux_x86_64\n"})
	env := append(tools(t, pythons.UV(t)), "UV_OFFLINE=1")
	_, err := Fetch(context.Background(), importer.Requirements{Lines: []string{"demo"}, Links: []string{links}}, linux312, env)
	if err == nil || err.Error() != "uv: it has found demo-1.0 for another Python: cp312-cp312t-linux_x86_64" {
		t.Error(err)
	}
}

// A uv that hangs ends with the context, and leaves nothing behind.
func TestUVHangs(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	env := tools(t, program(t, "uv", "case $1 in --version) echo 'uv 0.12.5'; exit;; esac\necho $$ >'"+mark+".new'; /bin/mv '"+mark+".new' '"+mark+"'; exec /bin/sleep 1000\n"))
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("it is enough")
	done := make(chan error, 1)
	go func() {
		_, err := Fetch(ctx, importer.Requirements{Lines: []string{"demo"}}, linux312, env)
		done <- err
	}()
	poll.Until(t, "it is started", func() bool { return exists(mark) })
	cancel(enough)
	if err := <-done; !errors.Is(err, enough) {
		t.Error(err)
	}
	data, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "it has ended", func() bool { return syscall.Kill(pid, 0) != nil })
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "mitogend", "requirements", "*")); len(left) > 0 {
		t.Errorf("%q", left)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Two processes find the same at once: both have all of it.
func TestTwoProcesses(t *testing.T) {
	r := importer.Requirements{Lines: []string{"demo"}, Links: []string{os.Getenv("TEST_LINKS")}}
	if r.Links[0] != "" {
		dir, err := Fetch(context.Background(), r, linux312, os.Environ())
		fmt.Printf("dir=%s err=%v\n", dir, err)
		return
	}
	bin, links, marks := pythons.UV(t), demo(t), t.TempDir()
	// Neither goes on before the other has come.
	both := program(t, "uv", "case $1 in --version) ;; *) : >'"+marks+"'/$$; n=0; while set -- \"$@\"; [ $n -lt 6000 ] && ! (set -- '"+marks+
		"'/*; [ $# -ge 2 ]); do n=$((n+1)); /bin/sleep 0.01; done;; esac\nexec '"+bin+"/uv' \"$@\"\n")
	env := append(tools(t, both), "UV_OFFLINE=1", "XDG_CACHE_HOME="+os.Getenv("XDG_CACHE_HOME"), "TEST_LINKS="+links)
	var cmds []*exec.Cmd
	outs := make([]strings.Builder, 2)
	for i := range outs {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTwoProcesses$", "-test.count=1")
		cmd.Env, cmd.Stdout, cmd.Stderr = env, &outs[i], &outs[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil || !strings.Contains(outs[i].String(), "err=<nil>") {
			t.Errorf("%v: %s", err, &outs[i])
		}
	}
	if n := strings.Count(pythons.UVLog(t, bin), "\n"); n != 2 {
		t.Errorf("%d were started", n)
	}
	top := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "mitogend", "requirements")
	sets, _ := filepath.Glob(filepath.Join(top, "*"))
	files, _ := filepath.Glob(filepath.Join(top, "*", importer.Site, "*.py"))
	if len(sets) != 1 || len(files) != 2 {
		t.Errorf("%q, %q", sets, files)
	}
}
