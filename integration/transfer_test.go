package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// transferBlock is what a large file is cut into, and what a file needs to be one.
const transferBlock = 252 << 10

// tree makes files of all kinds below dir.
func tree(t *testing.T, dir string) {
	t.Helper()
	large := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	for i := range large[:1<<20] {
		large[i] = byte(rand.Uint32())
	}
	for name, data := range map[string][]byte{
		"empty": nil, "small": []byte("text\n"), "sub/block": large[:transferBlock], "sub/less": large[:transferBlock-1], "sub/deep/large": large[:len(large)-5],
		"caf\xe9": []byte("not UTF-8"), "a\nb": []byte("two lines"), "-x": []byte("a flag"), "sub/zeros": append(make([]byte, 1<<20), 'x'),
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o640); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(1500000000+int64(len(data)), 123456000)
		if err := os.Chtimes(name, when, when); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": "small", "dangling": "/no/such", "sub/up": "../small"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "sub/deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1400000000, 0)
	if err := os.Chtimes(filepath.Join(dir, "sub"), when, when); err != nil {
		t.Fatal(err)
	}
}

// listing gives everything that a copy has to keep.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%q %v", name, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&b, " %q", to)
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", info.ModTime().UnixMicro(), data)
		default:
			fmt.Fprintf(&b, " %d", info.ModTime().UnixMicro())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// noneHidden fails if a transfer has left temporary files.
func noneHidden(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
		if strings.HasPrefix(filepath.Base(path), ".mitogend-") {
			t.Errorf("%s is left", path)
		}
		return nil
	})
}

func TestTransferTrees(t *testing.T) {
	dir := t.TempDir()
	tree(t, filepath.Join(dir, "here"))
	want := listing(t, filepath.Join(dir, "here"))
	EachPython(t, func(t *testing.T, p Python) {
		there := t.TempDir()
		run := func(args ...string) {
			t.Helper()
			Mitogend(t, dir, append(args[:1:1], append([]string{"-H", p.Target()}, args[1:]...)...)...).Want(t, 0, "", "")
		}
		run("put", "here", there+"/copy")
		run("put", "here", there+"/copy") // a directory by now
		run("get", there+"/copy", there+"/back/")
		run("get", there+"/copy", there+"/again")
		run("sync", there+"/again", there+"/synced")
		for _, copied := range []string{"copy/here", "again/here", "back/copy/here", "synced/here"} {
			if got := listing(t, filepath.Join(there, copied)); got != want {
				t.Errorf("%s is not what was copied:\n%.2000s\nand not\n%.2000s", copied, got, want)
			}
		}
		run("put", "here/small", "here/empty", there+"/new")
		run("put", "here/small", there+"/named")
		run("put", "here/link", there+"/followed")
		for _, name := range []string{"new/small", "named", "followed"} {
			if got, err := os.ReadFile(filepath.Join(there, name)); string(got) != "text\n" {
				t.Errorf("%s: %q %v", name, got, err)
			}
		}
		r := Mitogend(t, dir, "get", "-H", p.Target(), there+"/copy/sub/zeros", "-")
		r.Want(t, 0, strings.Repeat("\x00", 1<<20)+"x", "")
		noneHidden(t, there)
	})
}

// manyFiles makes 1,500 files in 15 directories, more than the target's program writes without helpers.
func manyFiles(t *testing.T, dir string) {
	t.Helper()
	for i := range 1500 {
		name := filepath.Join(dir, fmt.Sprint("d", i/100), fmt.Sprint("f", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i), fs.FileMode(0o600|i%8)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, fs.FileMode(0o600|i%8)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTransferOfManyFiles: several processes write them there; all files are in place, and the error of one process is reported.
func TestTransferOfManyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	manyFiles(t, filepath.Join(dir, "here"))
	want := listing(t, filepath.Join(dir, "here"))
	EachPython(t, func(t *testing.T, p Python) {
		there := t.TempDir()
		Mitogend(t, dir, "put", "-H", p.Target(), "here", there+"/copy").Want(t, 0, "", "")
		if got := listing(t, there+"/copy"); got != want {
			t.Error("what is there is not what was copied")
		}
		for _, name := range []string{"d3/f301", "d14/f1499"} {
			if err := os.MkdirAll(filepath.Join(there, "faulty", name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		r := Mitogend(t, dir, "sync", "--json", "-H", p.Target(), "here", there+"/faulty")
		if r.Status != 1 || !strings.Contains(r.Stdout, `"files":1498,`) {
			t.Error(r)
		}
		for _, name := range []string{"d3/f301", "d14/f1499"} {
			if strings.Count(r.Stdout, "faulty/"+name+": Is a directory") != 2 { // in errors, and in the message
				t.Errorf("nothing is said of %s: %s", name, r.Stdout)
			}
		}
		noneHidden(t, there)
	})
}

func TestTransferToMany(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w1", "w2", "w3", "gone1")
	tree(t, filepath.Join(dir, "here"))
	cmd := Command(t, dir, "put", "-q", "-H", "all", "-", dir+"/{target}.in")
	cmd.Stdin = strings.NewReader(strings.Repeat("0123456789", 100_000))
	runCommand(t, cmd).Want(t, 3, "", "gone1: exec false")
	r := Mitogend(t, dir, "get", "--json", "-H", "all", dir+"/{target}.in", "in")
	if r.Status != 3 || strings.Count(r.Stdout, `"result":{"files":1,"bytes":1000000,"sent":1000000,"same":0,"deleted":0}`) != 3 {
		t.Error(r)
	}
	for _, w := range []string{"w1", "w2", "w3"} {
		if data, err := os.ReadFile(filepath.Join(dir, "in", w, w+".in")); len(data) != 1_000_000 {
			t.Error(len(data), err)
		}
	}
	Mitogend(t, dir, "put", "-H", "w*", "--dry-run", "here", "/x/{target}").Want(t, 0, "w1: put here /x/w1\nw2: put here /x/w2\nw3: put here /x/w3\n", "using the inventory")
}

func TestTransferFaults(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	tree(t, filepath.Join(dir, "here"))
	Write(t, dir, "file", "x")
	run := func(args ...string) Result {
		return Mitogend(t, dir, append(args[:1:1], append([]string{"-H", p.Target()}, args[1:]...)...)...)
	}
	run("put", "nosuch", dir+"/x").Want(t, 2, "", "mitogend: nosuch: no such file or directory\n")
	run("put", "here").Want(t, 2, "", "mitogend put SOURCE... DEST")
	run("get", dir+"/nosuch", "x").Want(t, 1, "", "/nosuch: No such file or directory\n")
	run("put", "file", dir+"/file/below").Want(t, 1, "", "/file/below: ")
	run("put", "here", dir+"/file").Want(t, 1, "", "/file: ")
	run("get", dir+"/here", "file").Want(t, 1, "", "not a directory")
	run("get", dir+"/here", "-").Want(t, 1, "", "it is no file")
	run("sync", "file", dir+"/here").Want(t, 1, "", "/here: Is a directory")
	run("sync", "--delete", "file", dir+"/here").Want(t, 1, "", "/here: Is a directory")
	if err := syscall.Mkfifo(filepath.Join(dir, "here/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Files that cannot be copied are reported, and the rest is there.
	run("put", "here", dir+"/copy").Want(t, 1, "", "here/fifo: it is no file, directory or link\n")
	run("get", dir+"/here", dir+"/back").Want(t, 1, "", "here/fifo: it is no file, directory or link\n")
	_ = os.Remove(filepath.Join(dir, "here/fifo"))
	if err := os.MkdirAll(filepath.Join(dir, "there/here/small"), 0o700); err != nil {
		t.Fatal(err)
	}
	run("put", "here", dir+"/there").Want(t, 1, "", "there/here/small: Is a directory\n")
	want := strings.Split(listing(t, filepath.Join(dir, "here")), "\n")
	for _, name := range []string{"copy", "back", "there/here"} {
		got := listing(t, filepath.Join(dir, name))
		for _, line := range want[1:] {
			if !strings.Contains(got, line) && !(name == "there/here" && strings.HasPrefix(line, `"small"`)) {
				t.Errorf("%s lacks %.100s", name, line)
			}
		}
	}
	noneHidden(t, dir)
}

// TestTransferToAFullDisk: nothing is left of a file that does not fit, and the others are there.
func TestTransferToAFullDisk(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	Write(t, dir, "src/a", "a")
	Write(t, dir, "src/b", strings.Repeat("x", 3<<20))
	Write(t, dir, "src/c", "c")
	Write(t, dir, "dst/src/b", "old")
	limit := "exec:prlimit%20--fsize=1048576?python_path=" + strings.ReplaceAll(p.Command, " ", "%20")
	Mitogend(t, dir, "put", "-H", limit, "src", dir+"/dst").Want(t, 1, "", dir+"/dst/src/b: File too large\n")
	for name, want := range map[string]string{"a": "a", "b": "old", "c": "c"} {
		if got, err := os.ReadFile(filepath.Join(dir, "dst/src", name)); string(got) != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	noneHidden(t, dir)
}

// TestTransferResumes: a transfer that is killed at any point leaves no half file, and the next one resumes it.
func TestTransferResumes(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	times := 6
	if os.Getenv("MITOGEND_LONG") != "" {
		times = 50
	}
	data := make([]byte, 24<<20+77)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"put", "get"} {
		there := filepath.Join(dir, verb)
		if err := os.Mkdir(there, 0o700); err != nil {
			t.Fatal(err)
		}
		args := []string{verb, "--json", "-H", p.Target(), dir + "/large", there + "/large"}
		part := func() (n int64) {
			files, _ := filepath.Glob(there + "/.mitogend-*.part")
			for _, f := range files {
				if info, err := os.Stat(f); err == nil {
					n = info.Size()
				}
			}
			return n
		}
		for i := range times {
			cmd := Command(t, dir, args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			until := rand.Int64N(int64(len(data)) * int64(i+1) / int64(times+1))
			poll.Until(t, "it has come so far", func() bool {
				_, err := os.Stat(there + "/large")
				return part() > until || err == nil
			})
			_ = cmd.Process.Signal([]os.Signal{os.Kill, syscall.SIGINT, syscall.SIGTERM}[i%3])
			_ = cmd.Wait()
			if got, err := os.ReadFile(there + "/large"); err == nil {
				if !bytes.Equal(got, data) {
					t.Fatal("a wrong file has the final name")
				}
				_ = os.Remove(there + "/large")
			}
		}
		poll.Until(t, "the programs have ended", func() bool {
			r := Mitogend(t, dir, "exec", "-H", p.Target(), "--shell",
				"for f in "+there+"/.mitogend-*.part; do [ ! -e $f ] || flock -n $f true || exit; done")
			return r.Status == 0
		})
		had := part()
		r := Mitogend(t, dir, args...)
		var line struct{ Result struct{ Sent int64 } }
		if err := json.Unmarshal([]byte(r.Stdout), &line); err != nil || r.Status != 0 {
			t.Fatal(err, r)
		}
		if got, _ := os.ReadFile(there + "/large"); !bytes.Equal(got, data) {
			t.Fatal("not the same")
		}
		if sent := line.Result.Sent; sent > int64(len(data))-had+transferBlock || had > 1<<20 && sent == int64(len(data)) {
			t.Errorf("%s: %d of %d bytes were sent, though %d were there", verb, sent, len(data), had)
		}
		noneHidden(t, there)
	}
}

// TestTransferOfASparseFile: holes cost nothing on the wire or on the disk.
func TestTransferOfASparseFile(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	size := int64(20 << 30)
	_, err = f.WriteAt([]byte("end"), size-3)
	if err == nil {
		_, err = f.WriteAt([]byte("middle"), size/2)
	}
	if err != nil {
		pythons.Missing(t, "there can be no such file here: ", err)
	}
	_ = f.Close()
	// Two blocks, of which the last is what is left for it.
	sent := transferBlock + size%transferBlock
	for _, args := range [][]string{{"put", "sparse", dir + "/there"}, {"get", dir + "/there", "back"}} {
		r := Mitogend(t, dir, append([]string{args[0], "--json", "-H", AnyPython(t).Target()}, args[1:]...)...)
		if r.Status != 0 || !strings.Contains(r.Stdout, `"bytes":21474836480,`+fmt.Sprintf(`"sent":%d,`, sent)) {
			t.Error(r)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir+"/back", &st); err != nil || st.Size != size || st.Blocks*512 > 2<<20 {
		t.Error(err, st.Size, st.Blocks)
	}
}

// A file with several names stays one file, also when it changes.
func TestTransferHardLinks(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		here := filepath.Join(dir, "here")
		Write(t, here, "a", "small")
		Write(t, here, "large", strings.Repeat("0123456789", 60_000))
		if err := os.Mkdir(here+"/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		for name, to := range map[string]string{"b": "a", "sub/c": "a", "sub/large": "large"} {
			if err := os.Link(filepath.Join(here, to), filepath.Join(here, name)); err != nil {
				t.Fatal(err)
			}
		}
		check := func(there, text string) {
			t.Helper()
			for name, to := range map[string]string{"b": "a", "sub/c": "a", "sub/large": "large"} {
				one, err1 := os.Stat(filepath.Join(there, name))
				two, err2 := os.Stat(filepath.Join(there, to))
				if err1 != nil || err2 != nil || !os.SameFile(one, two) {
					t.Errorf("%s: %s is not %s: %v, %v", there, name, to, err1, err2)
				}
			}
			if got, _ := os.ReadFile(there + "/sub/c"); string(got) != text {
				t.Errorf("%s: %q", there, got)
			}
			noneHidden(t, there)
		}
		copied := func(sent string, args ...string) {
			t.Helper()
			r := Mitogend(t, dir, append([]string{args[0], "--json", "--hard-links", "-H", p.Target()}, args[1:]...)...)
			if r.Status != 0 || !strings.Contains(r.Stdout, `"sent":`+sent+`,`) {
				t.Error(args, r)
			}
		}
		copied("600005", "put", "here", dir+"/put")
		check(dir+"/put", "small")
		copied("600005", "get", dir+"/put", "back")
		check(dir+"/back", "small")
		copied("0", "sync", here, dir+"/put")
		copied("0", "sync", "--pull", here, "back")
		Write(t, here, "a", "smaller")
		copied("7", "sync", "--delete", here, dir+"/put")
		check(dir+"/put", "smaller")
		copied("7", "sync", "--pull", "--checksum", here, "back")
		check(dir+"/back", "smaller")
		if err := os.Remove(dir + "/back/b"); err != nil {
			t.Fatal(err)
		}
		Write(t, dir, "back/b", "smaller") // no longer the same file
		copied("0", "sync", "--pull", "--checksum", here, "back")
		check(dir+"/back", "smaller")
		// Without the flag each name is a file.
		Mitogend(t, dir, "put", "-H", p.Target(), "here", dir+"/apart").Want(t, 0, "", "")
		one, _ := os.Stat(dir + "/apart/a")
		if two, err := os.Stat(dir + "/apart/b"); err != nil || os.SameFile(one, two) {
			t.Error("they are one file")
		}
	})
}

// xattrsOf gives a file's attributes in user.*.
func xattrsOf(t *testing.T, name string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(name, buf)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, key := range strings.Split(string(buf[:n]), "\x00") {
		if strings.HasPrefix(key, "user.") {
			value := make([]byte, 64<<10)
			n, err := unix.Getxattr(name, key, value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, key+"="+string(value[:n]))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func setXattr(t *testing.T, name, key, value string) {
	t.Helper()
	if err := unix.Setxattr(name, key, []byte(value), 0); err != nil {
		pythons.Missing(t, name, " can have no attribute ", key, ": ", err)
	}
}

// Extended attributes are copied only with --xattrs; Python 2 says at once that it cannot.
func TestTransferXattrs(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		here := filepath.Join(dir, "here")
		Write(t, here, "none", "none")
		Write(t, here, "small", "small")
		Write(t, here, "sub/large", strings.Repeat("0123456789", 60_000))
		want := map[string]string{
			"": "user.top=\x00\xff", "none": "", "small": "user.caf\xe9=1 user.empty= user.long=" + strings.Repeat("x", 2000), "sub": "user.dir=d", "sub/large": "user.a=large",
		}
		for name, attributes := range want {
			for _, each := range strings.Fields(attributes) {
				key, value, _ := strings.Cut(each, "=")
				setXattr(t, filepath.Join(here, name), key, value)
			}
		}
		for _, name := range []string{"small", "sub"} {
			if err := os.Chmod(filepath.Join(here, name), map[string]fs.FileMode{"small": 0o444, "sub": 0o555}[name]); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", dir).Run() })
		run := func(args ...string) Result {
			t.Helper()
			return Mitogend(t, dir, append(args[:1:1], append([]string{"-H", p.Target()}, args[1:]...)...)...)
		}
		if p.Version == "2.7" {
			for _, verb := range []string{"put", "get", "sync"} {
				run(verb, "--xattrs", here, dir+"/"+verb).Want(t, 1, "", "Python 2 has no functions for extended attributes")
				if _, err := os.Lstat(filepath.Join(dir, verb)); err == nil {
					t.Errorf("%s has copied something", verb)
				}
			}
			run("put", here, dir+"/plain").Want(t, 0, "", "")
			return
		}
		check := func(there string) {
			t.Helper()
			for name, attributes := range want {
				if got := xattrsOf(t, filepath.Join(there, name)); got != attributes {
					t.Errorf("%s/%s: %.100q, not %.100q", there, name, got, attributes)
				}
			}
			if got, want := listing(t, there), listing(t, here); got != want {
				t.Errorf("%.1000s\n%.1000s", got, want)
			}
			noneHidden(t, there)
		}
		pull := func(args ...string) []string { return append([]string{"sync", "--pull", "--xattrs"}, args...) }
		for name, how := range map[string]struct{ plain, with []string }{
			"put":  {[]string{"put"}, []string{"put", "--xattrs"}},
			"get":  {[]string{"get"}, []string{"get", "--xattrs"}},
			"sync": {[]string{"sync"}, []string{"sync", "--xattrs"}},
			"pull": {[]string{"sync", "--pull"}, pull()},
		} {
			run(append(how.plain, here, dir+"/plain-"+name)...).Want(t, 0, "", "")
			for file := range want {
				if got := xattrsOf(t, filepath.Join(dir, "plain-"+name, file)); got != "" {
					t.Errorf("%s: %q without being asked for", name, got)
				}
			}
			run(append(how.with, here, dir+"/"+name)...).Want(t, 0, "", "")
			check(dir + "/" + name)
		}
		// If only attributes differ, they are set without sending the file, and those that the source lacks are removed.
		for name, how := range map[string][]string{"sync": {"sync", "--xattrs"}, "pull": pull()} {
			there := filepath.Join(dir, name)
			setXattr(t, there+"/none", "user.more", "x")
			setXattr(t, there+"/small", "user.empty", "not any more")
			if err := unix.Removexattr(there+"/sub/large", "user.a"); err != nil {
				t.Fatal(err)
			}
			r := run(append(how, "--json", here, there)...)
			if r.Status != 0 || !strings.Contains(r.Stdout, `"sent":0,`) {
				t.Error(r)
			}
			check(there)
		}
	})
}

// If attributes cannot be set, one line says so for all files, and the files are there. Only user.* is accepted from a target.
func TestTransferXattrsThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	for _, name := range []string{"here/a", "here/b", "many/a", "many/b"} {
		Write(t, dir, name, "text")
		setXattr(t, filepath.Join(dir, name), "user.a", "x")
	}
	if os.Geteuid() == 0 {
		setXattr(t, dir+"/here/a", "security.mitogend", "x")
	}
	run := func(args ...string) Result {
		return Mitogend(t, dir, append(args[:1:1], append([]string{"-H", p.Target()}, args[1:]...)...)...)
	}
	run("get", "--xattrs", dir+"/here", dir+"/got").Want(t, 0, "", "")
	run("put", "--xattrs", "here", dir+"/put").Want(t, 0, "", "")
	if n, err := unix.Getxattr(dir+"/got/a", "security.mitogend", make([]byte, 9)); err == nil {
		t.Error("an attribute that gives rights was taken from a target: ", n)
	}
	if n, err := unix.Getxattr(dir+"/put/a", "security.mitogend", make([]byte, 9)); os.Geteuid() == 0 && (err != nil || n != 1) {
		t.Error(n, err)
	}
	// A file with too many attributes is an error.
	for i := range 80 {
		if unix.Setxattr(dir+"/many/a", fmt.Sprintf("user.%d", i), make([]byte, 1000), 0) != nil {
			break // a file system with less room
		}
		if i == 79 {
			run("put", "--xattrs", "many", dir+"/many2").Want(t, 1, "", "many/a: it has more than 64 KiB of extended attributes\n")
			run("get", "--xattrs", dir+"/many", dir+"/many3").Want(t, 1, "", "many/a: it has more than 64 KiB of extended attributes\n")
		}
	}
	// A file system without attributes, in a mount namespace of its own.
	bare := filepath.Join(dir, "bare")
	if err := os.Mkdir(bare, 0o700); err != nil {
		t.Fatal(err)
	}
	const script = `mount -t ramfs none "$0" || exit 99; "$@"; status=$?; cat "$0"/x/a "$0"/x/b; exit $status`
	for _, verb := range []string{"put", "get"} {
		cmd := Command(t, dir, verb, "--xattrs", "-H", p.Target(), dir+"/here", bare+"/x")
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			pythons.Missing(t, "no unshare: ", err)
		}
		cmd.Args = append([]string{"unshare", "-m", "sh", "-c", script, bare, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = unshare
		r := runCommand(t, cmd)
		if r.Status == 99 || strings.Contains(r.Stderr, "unshare failed") {
			t.Log("no mounts without root: ", r.Stderr)
			return
		}
		if r.Status != 1 || r.Stdout != "texttext" || strings.Count(r.Stderr, "left out, here and of further files") != 1 {
			t.Error(r)
		}
	}
}

// What a target has is called here as it was asked for, and of several SOURCEs of one name the first is copied.
func TestGetNames(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "user/a/log", "a")
		Write(t, dir, "user/b/log", "b")
		Write(t, dir, "user/caf\xe9", "c")
		Write(t, dir, "user/~/d", "d")
		for name, to := range map[string]string{"user/file": "a/log", "user/tree": "a", "user/dangling": "nothing"} {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		get := func(args ...string) Result {
			cmd := Command(t, dir, append([]string{"get", "-H", p.Target()}, args...)...)
			cmd.Env = append(cmd.Env, "HOME="+dir+"/user")
			return runCommand(t, cmd)
		}
		if err := os.Mkdir(dir+"/out", 0o755); err != nil {
			t.Fatal(err)
		}
		get("~", "out").Want(t, 0, "", "")
		get("~/a/..", "new").Want(t, 0, "", "")
		get("~/a/.", "~/b/../caf\xe9", dir+"/user/~", "~/b/log", "~/file", "~/tree/", "out").Want(t, 0, "", "")
		get("~/dangling", "out").Want(t, 1, "", "dangling: No such file or directory\n")
		get("~/a/log", "~/b/log", dir+"/user/a/../a/log", "two").Want(t, 1, "", "~/b/log: another source has the same name, and it would take its place\n")
		r := Mitogend(t, dir, "put", "-H", p.Target(), "user/a/log", "user/b/log", dir+"/put")
		r.Want(t, 1, "", "user/b/log: another source has the same name, and it would take its place\n")
		for name, want := range map[string]string{
			"out/home/a/log": "a", "new/b/log": "b", "out/a/log": "a", "out/caf\xe9": "c", "out/~/d": "d", "out/log": "b", "out/file": "a", "out/tree/log": "a",
			"two/log": "a", "put/log": "a",
		} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
				t.Errorf("%s: %q %v", name, got, err)
			}
		}
		if err := os.Mkdir(dir+"/one", 0o755); err != nil {
			t.Fatal(err)
		}
		Mitogend(t, dir, "get", "--hard-links", "-H", p.Target(), dir+"/two/log", "one").Want(t, 0, "", "")
		if err := os.Link(dir+"/two/log", dir+"/two/other"); err != nil {
			t.Fatal(err)
		}
		Write(t, dir, "two/sub/x", "x")
		if err := os.Link(dir+"/two/log", dir+"/two/sub/log"); err != nil {
			t.Fatal(err)
		}
		Mitogend(t, dir, "get", "--hard-links", "-H", p.Target(), dir+"/two/sub", dir+"/two/other", dir+"/two/log", "one").Want(t, 0, "", "")
		first, err := os.Stat(dir + "/one/sub/log")
		for _, name := range []string{"other", "log"} {
			if other, err2 := os.Stat(dir + "/one/" + name); err != nil || err2 != nil || !os.SameFile(first, other) {
				t.Errorf("%s is another file: %v, %v", name, err, err2)
			}
		}
		noneHidden(t, dir)
	})
}

// TestPlacesOfGet: an empty name is no name, targets do not write to one place, and their names choose no directory.
func TestPlacesOfGet(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	Write(t, dir, "src/log", "a")
	Write(t, dir, "kept", "k")
	one, two := p.Target(), p.Target()+"&stdio=pty"
	for _, args := range [][]string{
		{"put", "-H", one, "src/log", ""}, {"put", "-H", one, "", "/tmp/x"}, {"get", "-H", one, dir + "/src/log", ""},
		{"get", "-H", one, "", "out"}, {"sync", "-H", one, "src", ""}, {"sync", "-H", one, "--pull", "--delete", dir + "/src", ""},
		{"sync", "-H", one, "-H", two, "--pull", "--delete", dir + "/src", ""},
	} {
		r := Mitogend(t, dir, args...)
		if r.Status != 2 || !strings.Contains(r.Stderr, "is empty; the current directory is .") {
			t.Errorf("%q: %d %s", args, r.Status, r.Stderr)
		}
	}
	for _, args := range [][]string{
		{"get", "-H", one, "-H", two, dir + "/src/log", "out/{host}"}, {"get", "-H", one, "-H", one, dir + "/src/log", "out"},
		{"sync", "-H", one, "-H", two, "--pull", dir + "/src", "out/{host}/"},
	} {
		r := Mitogend(t, dir, args...)
		if r.Status != 2 || !strings.Contains(r.Stderr, "would both write to out") {
			t.Errorf("%q: %d %s", args, r.Status, r.Stderr)
		}
	}
	Mitogend(t, dir, "get", "-H", one, "-H", two, dir+"/src/log", "out/{target}/x").Want(t, 0, "", "")
	entries, err := os.ReadDir(dir + "/out")
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if got, err := os.ReadFile(filepath.Join(dir, "out", e.Name(), "x")); string(got) != "a" {
			t.Errorf("%s: %q, %v", e.Name(), got, err)
		}
	}
	if got, err := os.ReadFile(dir + "/kept"); string(got) != "k" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestTransferOfReadOnlyDirectories: who owns a directory copies into it, and deletes from it, whatever its mode is.
func TestTransferOfReadOnlyDirectories(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	Write(t, dir, "here/a/x", "x")
	Write(t, dir, "here/y", "y")
	directories := func(top string, mode fs.FileMode) {
		for _, name := range []string{"", "a", "old/a", "old"} {
			if err := os.Chmod(filepath.Join(top, name), mode); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", dir).Run() })
	for name, verb := range map[string][]string{
		"put": {"put"}, "get": {"get"}, "sync": {"sync"}, "pull": {"sync", "--pull"}, "delete": {"sync", "--delete"}, "pull and delete": {"sync", "--pull", "--delete"},
	} {
		there := filepath.Join(dir, name, "here")
		if err := os.Mkdir(filepath.Dir(there), 0o755); err != nil {
			t.Fatal(err)
		}
		dest := there
		if len(verb) == 1 && name != "sync" {
			dest = filepath.Dir(there)
		}
		for i := range 3 {
			text := fmt.Sprint("x", i)
			directories(dir+"/here", 0o755)
			Write(t, dir, "here/a/x", strings.Repeat(text, i*100_000+1))
			directories(dir+"/here", 0o555)
			if strings.HasSuffix(name, "delete") {
				directories(there, 0o755)
				Write(t, there, "old/a/x", "old")
				Write(t, there, "a/old", "old")
				directories(there, 0o555)
			}
			cmd := Command(t, dir, slices.Concat(verb, []string{"-H", p.Target(), dir + "/here", dest})...)
			withoutRights(t, cmd)
			runCommand(t, cmd).Want(t, 0, "", "")
			if got, want := listing(t, there), listing(t, dir+"/here"); got != want {
				t.Errorf("%s: %.500s\nand not %.500s", name, got, want)
			}
		}
	}
}

// withoutRights has a command run as modes say, also where it is root's.
func withoutRights(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		pythons.Missing(t, "no setpriv: ", err)
	}
	const rights = "-dac_override,-dac_read_search"
	cmd.Args = append([]string{"setpriv", "--bounding-set", rights, "--inh-caps", rights, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = setpriv
}

// TestPutToANameThatIsTaken: stdin has no name of its own, and goes into no directory.
func TestPutToANameThatIsTaken(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/there", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := Command(t, dir, "put", "-H", AnyPython(t).Target(), "-", dir+"/there")
	cmd.Stdin = strings.NewReader("x")
	runCommand(t, cmd).Want(t, 1, "", dir+"/there: Is a directory\n")
	if list, err := os.ReadDir(dir + "/there"); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

// TestGetOfADeepTree: a tree may be deeper than Python's calls.
func TestGetOfADeepTree(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		deep := dir + "/here" + strings.Repeat("/d", 1100)
		if err := os.MkdirAll(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		Write(t, deep, "x", "x")
		for _, args := range [][]string{{"get", "here", "got"}, {"put", "got", "put"}, {"sync", "put", "synced"}, {"sync", "--pull", "synced", "pulled"}} {
			names := []string{dir + "/" + args[len(args)-2], dir + "/" + args[len(args)-1]}
			Mitogend(t, dir, slices.Concat(args[:len(args)-2], []string{"-H", p.Target()}, names)...).Want(t, 0, "", "")
		}
		if got, err := os.ReadFile(strings.Replace(deep, "/here/", "/pulled/", 1) + "/x"); string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
		Write(t, dir, "empty/x", "x")
		Mitogend(t, dir, "sync", "--delete", "-H", p.Target(), dir+"/empty", dir+"/synced").Want(t, 0, "", "")
		if list, err := os.ReadDir(dir + "/synced"); err != nil || len(list) != 1 {
			t.Error(list, err)
		}
	})
}
