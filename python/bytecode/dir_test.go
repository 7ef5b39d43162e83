package bytecode

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func openTestDir(t *testing.T, path string, most int64) *Dir {
	t.Helper()
	d, err := OpenDir(path, most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// TestEntries: whatever lies in the place of an entry counts as that entry, or as none.
func TestEntries(t *testing.T) {
	for name, spoil := range map[string]func(path string, data []byte) error{
		"is cut":       func(path string, data []byte) error { return os.WriteFile(path, data[:len(data)-1], 0o600) },
		"is longer":    func(path string, data []byte) error { return os.WriteFile(path, append(data, 0), 0o600) },
		"is empty":     func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"has a change": func(path string, data []byte) error { data[len(data)-1] ^= 1; return os.WriteFile(path, data, 0o600) },
		"of another": func(path string, data []byte) error {
			return os.WriteFile(path, append([]byte(mark), append(sum(key{2}, []byte("evil")), "evil"...)...), 0o600)
		},
		"of another form":       func(path string, data []byte) error { data[len(mark)-2]++; return os.WriteFile(path, data, 0o600) },
		"may others write":      func(path string, _ []byte) error { return os.Chmod(path, 0o666) },
		"is a directory":        func(path string, _ []byte) error { return firstOf(os.Remove(path), os.Mkdir(path, 0o700)) },
		"is a pipe":             func(path string, _ []byte) error { return firstOf(os.Remove(path), mkfifo(path)) },
		"is a link out of it":   func(path string, data []byte) error { return linkOut(path, data) },
		"belongs to others":     func(path string, _ []byte) error { return os.Chown(path, 4711, 4711) },
		"is as it was written ": nil,
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "belongs") && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			d := openTestDir(t, ownDir(t), 0)
			k, code := key{1}, []byte("code of one")
			if err := d.put(k, code); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.path, k.String())
			if spoil != nil {
				data, err := os.ReadFile(path)
				if err == nil {
					err = spoil(path, data)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, ok := d.get(k)
			if ok != (spoil == nil) || ok && !bytes.Equal(got, code) {
				t.Errorf("got %q, %v", got, ok)
			}
			// It is made anew.
			if err := d.put(k, code); err != nil && name != "is a directory" {
				t.Error(err)
			} else if got, ok := d.get(k); err == nil && (!ok || !bytes.Equal(got, code)) {
				t.Errorf("it is not replaced: %q", got)
			}
		})
	}
}

// TestDirIsOurs: the directory is used only if it is the user's alone.
func TestDirIsOurs(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"is readable":       {func(dir string) error { return os.Chmod(dir, 0o755) }, "chmod 700"},
		"is writable":       {func(dir string) error { return os.Chmod(dir, 0o777) }, "others may write to"},
		"may be replaced":   {func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) }, "others may write to"},
		"belongs to others": {func(dir string) error { return os.Chown(dir, 4711, 4711) }, "belongs to user 4711"},
		"is a file":         {func(dir string) error { return firstOf(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }, "not a directory"},
		"leads elsewhere": {func(dir string) error {
			return firstOf(os.Remove(dir), os.Mkdir(dir+"2", 0o777), os.Chmod(dir+"2", 0o777), os.Symlink(dir+"2", dir))
		}, "others may write to"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "belongs") && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			dir := ownDir(t)
			openTestDir(t, dir, 0)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDir(dir, 0)
			if err == nil {
				_ = d.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestNothingIsMadeForOthers: a directory that would not be used is not made.
func TestNothingIsMadeForOthers(t *testing.T) {
	home := t.TempDir()
	if err := os.Chmod(home, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	openTestDir(t, filepath.Join(home, "own", "bytecode"), 0)
	if err := firstOf(os.RemoveAll(filepath.Join(home, "own")), os.Chmod(home, 0o777)); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(filepath.Join(home, ".cache", "mitogend", "bytecode"), 0)
	if err == nil {
		_ = d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "others may write to the directory "+home) {
		t.Error(err)
	}
	if made, err := os.ReadDir(home); err != nil || len(made) != 0 {
		t.Error(made, err)
	}
}

// TestTrim: the oldest go, and so do unfinished files.
func TestTrim(t *testing.T) {
	dir := ownDir(t)
	d := openTestDir(t, dir, 100_000)
	now := time.Now()
	for i := range 20 {
		k := key{byte(i)}
		if err := d.put(k, make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
		when := now.Add(time.Duration(i-100) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, k.String()), when, when); err != nil {
			t.Fatal(err)
		}
	}
	// In use: it looks new again.
	if _, ok := d.get(key{0}); !ok {
		t.Fatal("no entry")
	}
	for name, age := range map[string]time.Duration{"old": 2 * staleTime, "new": 0} {
		path := filepath.Join(dir, writing+name)
		if err := firstOf(os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, now.Add(-age), now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	// The next process looks at the size with the first that it writes.
	if err := openTestDir(t, dir, 100_000).put(key{99}, make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	u, err := DirUsage(dir)
	if err != nil || u.Bytes > 75_000+1 || u.Bytes < 60_000 {
		t.Errorf("%+v, %v", u, err)
	}
	for name, there := range map[string]bool{key{0}.String(): true, key{1}.String(): false, key{19}.String(): true, key{99}.String(): true, writing + "old": false, writing + "new": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	if u, err := ClearDir(dir); err != nil || u.Entries == 0 {
		t.Error(u, err)
	}
	if u, err := DirUsage(dir); err != nil || u.Entries != 0 || u.Bytes != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err := ClearDir(filepath.Join(dir, "no")); err != nil || u.Entries != 0 {
		t.Errorf("%+v, %v", u, err)
	}
}

// TestManyWriters: several processes, which are as many Dirs, write and trim the same at once.
func TestManyWriters(t *testing.T) {
	dir := ownDir(t)
	var wg sync.WaitGroup
	for w := range 8 {
		d := openTestDir(t, dir, 50_000)
		wg.Go(func() {
			for i := range 50 {
				k := key{byte(i)}
				code := bytes.Repeat([]byte(fmt.Sprint(i)), 1000)
				if err := d.put(k, code); err != nil {
					t.Error(err)
				}
				if i%10 == w {
					d.trim(20_000, time.Now().Add(-staleTime))
				}
				if got, ok := d.get(k); ok && !bytes.Equal(got, code) {
					t.Errorf("%d has the code of another", i)
				}
			}
		})
	}
	wg.Wait()
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func linkOut(path string, data []byte) error {
	out := filepath.Join(filepath.Dir(filepath.Dir(path)), "out")
	return firstOf(os.Rename(path, out), os.Symlink(out, path))
}

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }
