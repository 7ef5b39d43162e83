package owned

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mitogend/integration/pythons"
)

// other is a user that is neither root nor anybody else on the machine.
const other = 54321

// give makes a path another user's; the test is skipped where that is not possible.
func give(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		pythons.Missing(t, "needs root, to make files of another user")
	}
	if err := os.Lchown(path, other, other); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
	must(t, os.Chmod(path, mode))
	return path
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func TestOpen(t *testing.T) {
	// make prepares what is at a path in an empty directory; got is what the file has after "new" was written, "" for
	// an error with the text.
	for _, c := range []struct {
		name             string
		make             func(t *testing.T, dir, path string)
		replace, append_ string
	}{
		{"nothing", func(t *testing.T, dir, path string) {}, "new", "new"},
		{"own", func(t *testing.T, dir, path string) { write(t, path, "old", 0o600) }, "new", "oldnew"},
		{"own, readable", func(t *testing.T, dir, path string) { write(t, path, "old", 0o644) }, "new", "oldnew"},
		{"own, writable", func(t *testing.T, dir, path string) { write(t, path, "old", 0o666) }, "new", "error: others may write to it (mode 666)"},
		{"another's", func(t *testing.T, dir, path string) { give(t, write(t, path, "old", 0o666)) }, "error: it belongs to user 54321", "error: it belongs to user 54321"},
		{"own link", func(t *testing.T, dir, path string) {
			write(t, dir+"/real", "old", 0o600)
			must(t, os.Symlink("real", path))
		}, "new", "oldnew"},
		{"own link to nothing", func(t *testing.T, dir, path string) { must(t, os.Symlink(dir+"/none", path)) }, "new", "new"},
		{"another's link to a file", func(t *testing.T, dir, path string) {
			must(t, os.Symlink(write(t, dir+"/real", "old", 0o600), path))
			give(t, path)
		}, "error: file is a link that belongs to user 54321", "error: file is a link that belongs to user 54321"},
		{"own link to another's link", func(t *testing.T, dir, path string) {
			must(t, os.Symlink(write(t, dir+"/real", "old", 0o600), dir+"/link"))
			give(t, dir+"/link")
			must(t, os.Symlink("./link", path))
		}, "error: link is a link that belongs to user 54321", "error: link is a link that belongs to user 54321"},
		{"hard link", func(t *testing.T, dir, path string) {
			must(t, os.Link(write(t, dir+"/real", "old", 0o600), path))
		}, "new", "error: it has 2 names"},
		{"circle", func(t *testing.T, dir, path string) { must(t, os.Symlink("file", path)) }, "error: too many levels", "error: too many levels"},
		{"directory", func(t *testing.T, dir, path string) { must(t, os.Mkdir(path, 0o700)) }, "error: is a directory", "error: is a directory"},
		{"link to a directory", func(t *testing.T, dir, path string) { must(t, os.Symlink("..", path)) }, "error: is a directory", "error: is a directory"},
		{"pipe that nobody reads", func(t *testing.T, dir, path string) { must(t, unix.Mkfifo(path, 0o600)) }, "error: nobody reads", "error: nobody reads"},
		{"link to /dev/null", func(t *testing.T, dir, path string) { must(t, os.Symlink("/dev/null", path)) }, "", ""},
	} {
		for _, kind := range []string{"replace", "append"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "file")
				c.make(t, dir, path)
				fn, want := Replace, c.replace
				if kind == "append" {
					fn, want = Append, c.append_
				}
				f, err := fn(path)
				if text, bad := strings.CutPrefix(want, "error: "); bad {
					if err == nil || !strings.Contains(err.Error(), text) {
						t.Fatalf("got %v, want %q", err, text)
					}
					if b, err := os.ReadFile(dir + "/real"); err == nil && string(b) != "old" {
						t.Errorf("the file is %q now", b)
					}
					return
				}
				must(t, err)
				_, err = f.WriteString("new")
				must(t, err)
				info, err := f.Stat()
				must(t, err)
				must(t, f.Close())
				if info.Mode().IsRegular() {
					if got := content(t, path); got != want {
						t.Errorf("the file is %q, not %q", got, want)
					}
					if kind == "replace" && info.Mode() != 0o600 {
						t.Errorf("its mode is %o", info.Mode())
					}
				}
				if c.name == "hard link" && content(t, dir+"/real") != "old" {
					t.Error("the other name was written to")
				}
			})
		}
	}
}

func TestOpenThroughDirectories(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/a/b", 0o700))
	must(t, os.Symlink("a", dir+"/mine"))
	t.Chdir(dir)
	for _, path := range []string{"mine/b/x", "./mine/../a/b/y", dir + "//mine/./b/z", "w"} {
		f, err := Replace(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_ = f.Close()
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{"", "a/", "none/x", "w/x", "w/"} {
		if f, err := Append(path); err == nil {
			t.Errorf("%q was opened", path)
			_ = f.Close()
		}
	}
	must(t, os.Symlink("a", dir+"/theirs"))
	give(t, dir+"/theirs")
	if _, err := Replace("theirs/b/new"); err == nil || !strings.Contains(err.Error(), "theirs is a link that belongs to user") {
		t.Errorf("through another's link: %v", err)
	}
	if _, err := os.Stat("a/b/new"); err == nil {
		t.Error("the file was made")
	}
}

func TestOpenDescriptors(t *testing.T) {
	// What a shell has opened, at its own place, is written to there and not truncated.
	path := write(t, filepath.Join(t.TempDir(), "out"), "", 0o644)
	shell, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer shell.Close()
	_, err = shell.WriteString("before ")
	must(t, err)
	for _, name := range []string{"/dev/fd/%d", "/proc/self/fd/%d"} {
		for _, fn := range []func(string) (*os.File, error){Replace, Append} {
			f, err := fn(fmt.Sprintf(name, shell.Fd()))
			must(t, err)
			_, err = f.WriteString("new ")
			must(t, err)
			must(t, f.Close())
		}
	}
	if got := content(t, path); got != "before new new new new " {
		t.Errorf("the file is %q", got)
	}
	if _, err := Replace("/dev/fd/12345"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a descriptor that is not there: %v", err)
	}
}

func TestOpenPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(path, 0o600))
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	defer r.Close()
	w, err := Replace(path)
	must(t, err)
	// More than fits: the writer waits for the reader.
	go func() {
		_, _ = w.WriteString(strings.Repeat("x", 200_000))
		_ = w.Close()
	}()
	if b, err := io.ReadAll(r); err != nil || len(b) != 200_000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	must(t, os.Chmod(path, 0o644))
	if _, err := Replace(path); err == nil || !strings.Contains(err.Error(), "others may use the pipe") {
		t.Errorf("a pipe that others may read: %v", err)
	}
}

func TestCheck(t *testing.T) {
	base := t.TempDir()
	if err := CheckDir(base); err != nil {
		t.Skipf("the directory of tests is not the user's alone: %v", err)
	}
	dir := func(name string, mode os.FileMode) string {
		path := filepath.Join(base, name)
		must(t, os.MkdirAll(path, 0o700))
		must(t, os.Chmod(path, mode))
		return path
	}
	file := func(dir, name string, mode os.FileMode) string { return write(t, filepath.Join(dir, name), "", mode) }
	good := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	bad := func(what, text string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %q", what, err, text)
		}
	}
	own := dir("own", 0o755)
	good("own", CheckDir(own))
	good("file", CheckFile(file(own, "f", 0o644)))
	bad("writable file", "others may write to", CheckFile(file(own, "w", 0o646)))
	shared := dir("shared", 0o777)
	bad("shared", "others may write to the directory", CheckDir(shared))
	bad("own file in it", "others may write to the directory", CheckFile(file(shared, "f", 0o600)))
	bad("own directory in it", "others may write to the directory "+shared, CheckDir(dir("shared/own", 0o755)))
	sticky := dir("sticky", 0o777|os.ModeSticky)
	bad("sticky itself", "others may write", CheckDir(sticky))
	good("own directory in a sticky one", CheckDir(dir("sticky/own", 0o755)))
	good("file there", CheckFile(file(sticky+"/own", "f", 0o600)))
	must(t, os.Symlink(sticky+"/own/f", own+"/link"))
	good("link", CheckFile(own+"/link"))
	must(t, os.Symlink(shared+"/f", own+"/out"))
	bad("link to a shared directory", "others may write", CheckFile(own+"/out"))
	must(t, os.Symlink(own+"/f", shared+"/in"))
	bad("link in a shared directory", "others may write", CheckFile(shared+"/in"))
	t.Chdir(shared)
	bad("the current directory", "others may write", CheckDir("."))
	bad("file of the current directory", "others may write", CheckFile("f"))
	t.Chdir(own)
	good("the current directory", CheckDir("."))
	theirs := dir("theirs", 0o755)
	must(t, os.Chmod(file(own, "g", 0o664), 0o664))
	must(t, os.Chown(own+"/g", -1, os.Getegid()))
	give(t, theirs)
	bad("another's", "belongs to user 54321", CheckDir(theirs))
	bad("in another's", "belongs to user 54321", CheckFile(file(theirs, "f", 0o600)))
	must(t, os.Chown(own+"/g", 0, 12345))
	bad("group-writable", "its group may write to", CheckFile(own+"/g"))
}

func TestPrivateGroup(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		passwd, group string
		want          bool
	}{
		{"ann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:", "ann:x:1000:\nbob:x:1001:", true},
		{"ann:x:1000:1000::/:/bin/sh", "ann:x:1000:ann", true},
		{"ann:x:1000:1000::/:/bin/sh", "ann:x:1000:ann,bob", false},
		{"ann:x:1000:1000::/:/bin/sh", "ann:x:1000:bob", false},
		{"ann:x:1000:1000::/:/bin/sh", "users:x:1000:", false},
		{"ann:x:1000:1000::/:/bin/sh\nbob:x:1001:1000::/:", "ann:x:1000:", false},
		{"bob:x:1001:1000::/:\nann:x:1000:1000::/:/bin/sh", "ann:x:1000:", false},
		{"ann:x:1000:100::/:/bin/sh", "ann:x:1000:\nusers:x:100:", false},
		{"ann:x:1000:1000::/:/bin/sh", "ann:x:1000:\nwheel:x:1000:bob", false},
		{"ann:x:1000:1000::/:/bin/sh", "", false},
		{"", "ann:x:1000:", false}, // of another service
	} {
		passwd, group := write(t, dir+"/passwd", c.passwd, 0o600), write(t, dir+"/group", c.group, 0o600)
		if got := isPrivate(passwd, group, 1000, 1000); got != c.want {
			t.Errorf("%q, %q: %v", c.passwd, c.group, got)
		}
	}
}
