package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var microseconds = regexp.MustCompile(` 1[0-9]{15}\b`)

func TestSync(t *testing.T) { testSync(t) }

func TestSyncFromTargets(t *testing.T) { testSync(t, "--pull") }

func testSync(t *testing.T, flags ...string) {
	dir := t.TempDir()
	tree(t, filepath.Join(dir, "here"))
	for range 40 {
		name := fmt.Sprintf("here/many/%d", rand.Uint64())
		Write(t, dir, name, name)
	}
	EachPython(t, func(t *testing.T, p Python) {
		listing := listing
		if p.Version == "2.7" && len(flags) > 0 {
			// It reads times as floating point numbers, which may be a microsecond off.
			exact := listing
			listing = func(t *testing.T, dir string) string { return microseconds.ReplaceAllString(exact(t, dir), " T") }
		}
		here, there := t.TempDir()+"/here", t.TempDir()+"/there"
		if out, err := exec.Command("cp", "-a", filepath.Join(dir, "here"), here).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		type row struct {
			Files, Same, Deleted int
			Sent                 int64
			Errors               []string
		}
		sync := func(args ...string) row {
			t.Helper()
			r := Mitogend(t, dir, slices.Concat([]string{"sync", "--json", "-H", p.Target()}, flags, args)...)
			var line struct{ Result row }
			if err := json.Unmarshal([]byte(r.Stdout), &line); err != nil || r.Status != 0 {
				t.Fatal(err, r)
			}
			if got, want := listing(t, there), listing(t, here); got != want && !strings.Contains(fmt.Sprint(args), "-") {
				t.Fatalf("%.2000s\n%.2000s", got, want)
			}
			return line.Result
		}
		all := sync(here, there)
		if got := sync(here, there); got.Sent != 0 || got.Same < all.Files {
			t.Error(all, got)
		}
		// One block of a large file changes, a file grows, and one is removed.
		large := filepath.Join(here, "sub/deep/large")
		data, _ := os.ReadFile(large)
		data[700_000]++
		if err := os.WriteFile(large, data, 0o640); err != nil {
			t.Fatal(err)
		}
		Write(t, here, "new", "new")
		if got := sync(here, there); got.Sent != transferBlock+3 {
			t.Error(got)
		}
		// The same size and time, but other content.
		old, _ := os.Stat(filepath.Join(here, "new"))
		Write(t, here, "new", "NEW")
		if err := os.Chtimes(filepath.Join(here, "new"), old.ModTime(), old.ModTime()); err != nil {
			t.Fatal(err)
		}
		if got := sync(here, there, "--dry-run"); got.Sent != 0 {
			t.Error(got)
		}
		if got := sync("--checksum", here, there); got.Sent != 3 {
			t.Error(got)
		}
		for _, name := range []string{"new", "sub/deep/large", "sub/deep", "link"} {
			if err := os.Remove(filepath.Join(here, name)); err != nil {
				t.Fatal(err)
			}
		}
		Write(t, here, "link/is a directory", "now")
		r := Mitogend(t, dir, slices.Concat([]string{"sync", "-H", p.Target(), "--delete", "--dry-run"}, flags, []string{here, there})...)
		if r.Status != 0 || !strings.Contains(r.Stdout, "delete "+there+"/sub/deep/large\n") || !strings.Contains(r.Stdout, "send here/link/is a directory\n") {
			t.Error(r)
		}
		if got := sync("--delete", here, there); got.Deleted != 3 || got.Sent != 3 {
			t.Error(got)
		}
		if got, want := listing(t, there), listing(t, here); got != want {
			t.Errorf("%.2000s\n%.2000s", got, want)
		}
		noneHidden(t, there)
	})
}

// A preview asks the target what it is, and has all names in JSON, as Python has those that are not UTF-8.
func TestSyncPreview(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	Write(t, dir, "here/caf\xe9", "new")
	Write(t, dir, "there/old", "old")
	for _, pull := range []bool{false, true} {
		args := []string{"sync", "--dry-run", "--delete", "--json", "-H", p.Target(), "--where", "cpus > 0"}
		if pull {
			args = append(args, "--pull")
		}
		r := Mitogend(t, dir, append(args, dir+"/here", dir+"/there")...)
		want := fmt.Sprintf(`here/caf\udce9"],"delete":["%s/there/old"]}`, dir)
		if r.Status != 0 || !strings.Contains(r.Stdout, want) {
			t.Errorf("pull %v: %v; want %s", pull, r, want)
		}
		args[7] = "cpus < 0"
		Mitogend(t, dir, append(args, dir+"/here", dir+"/there")...).Want(t, 0, "", "")
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "here/fifo\xe9"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := Mitogend(t, dir, "sync", "--json", "-H", p.Target(), dir+"/here", dir+"/there")
	if want := `"errors":["` + dir + `/here/fifo\udce9: it is no file, directory or link"]`; r.Status != 1 || !strings.Contains(r.Stdout, want) {
		t.Errorf("%v; want %s", r, want)
	}
}

// TestSyncOnlyThere: --delete leaves what was compared, however DEST is written, and works through a link.
func TestSyncOnlyThere(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	Write(t, dir, "here/a/x", "x")
	Write(t, dir, "here/y", "y")
	if err := os.Symlink("there", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--pull"}} {
		for _, dest := range []string{"there", "there/", "there//", "./there///", "link", "link//", "new//"} {
			Write(t, dir, "there/old/x", "old")
			args := slices.Concat([]string{"sync", "--delete", "-H", p.Target()}, flags, []string{dir + "/here", dir + "/" + dest})
			for range 2 {
				Mitogend(t, dir, args...).Want(t, 0, "", "")
				if got, want := listing(t, dir+"/"+dest+"/."), listing(t, dir+"/here"); got != want {
					t.Errorf("%q %s:\n%s\n%s", flags, dest, got, want)
				}
			}
		}
		if err := os.RemoveAll(dir + "/new"); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing can be deleted where there is no unlink, as for an ordinary user below /.
	cmd := Command(t, "/", "sync", "--delete", "--dry-run", "-H", p.Target(), dir+"/here", ".")
	runCommand(t, cmd).Want(t, 1, "", "all of the target cannot be the destination of sync\n")
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	Mitogend(t, dir, "put", "-H", p.Target(), "here/y", dir+"/fifo").Want(t, 1, "", dir+"/fifo: it is no file, directory or link\n")
}

// TestSyncBesideASocket: what cannot be copied is an error, nothing with its name is deleted, and the rest is done.
func TestSyncBesideASocket(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	Write(t, dir, "here/x", "x")
	if err := syscall.Mkfifo(dir+"/here/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--pull"}} {
		Write(t, dir, "there/old", "old")
		Write(t, dir, "there/fifo", "a file")
		run := func(more ...string) Result {
			return Mitogend(t, dir, slices.Concat([]string{"sync", "--delete", "-H", p.Target()}, more, flags, []string{dir + "/here", dir + "/there"})...)
		}
		r := run("--dry-run")
		r.Want(t, 1, r.Stdout, dir+"/here/fifo: it is no file, directory or link\n")
		if !strings.Contains(r.Stdout, "send here/x\n") || !strings.Contains(r.Stdout, "delete "+dir+"/there/old\n") || strings.Count(r.Stdout, "\n") != 2 {
			t.Error(r)
		}
		run().Want(t, 1, "", dir+"/here/fifo: it is no file, directory or link\n")
		got, err := os.ReadDir(dir + "/there")
		if err != nil || len(got) != 2 || got[0].Name() != "fifo" || got[1].Name() != "x" {
			t.Errorf("%q: %v, %v", flags, got, err)
		}
		if err := os.RemoveAll(dir + "/there"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSyncOfASparseFile: its holes stay holes when one block has changed.
func TestSyncOfASparseFile(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	const size = 200 << 20
	for _, flags := range [][]string{nil, {"--pull"}} {
		f, err := os.Create(dir + "/here")
		if err == nil {
			err = f.Truncate(size)
		}
		for i := range 2 {
			if err == nil {
				_, err = fmt.Fprint(f, "data", i)
			}
			if err != nil {
				t.Fatal(err)
			}
			Mitogend(t, dir, slices.Concat([]string{"sync", "-H", p.Target()}, flags, []string{dir + "/here", dir + "/there"})...).Want(t, 0, "", "")
		}
		_ = f.Close()
		var st syscall.Stat_t
		if err := syscall.Stat(dir+"/there", &st); err != nil || st.Size != size || st.Blocks*512 > 2<<20 {
			t.Errorf("%q: %v, %d bytes in %d blocks", flags, err, st.Size, st.Blocks)
		}
		if err := os.Remove(dir + "/there"); err != nil {
			t.Fatal(err)
		}
	}
}
