package bytecode

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/blake2b"

	"mitogend/daemon/owned"
	"mitogend/internal/fault"
)

const (
	// DefaultMaxBytes bounds a directory.
	DefaultMaxBytes = 256 << 20
	// trimEvery is how much is written between two looks at the size of the directory.
	trimEvery = 16 << 20
	// maxCode bounds the code of one source, and so an entry.
	maxCode = 16 << 20
	// staleTime is the age at which an unfinished file counts as left behind by a process that has ended.
	staleTime = time.Hour
	// touchTime is how old an entry in use may look: the oldest go first.
	touchTime = 24 * time.Hour
	// mark begins each entry. It changes with the form of entries, and with what their names are made of.
	mark = "mitogend code 4\n"

	writing = ".new-"
)

// key names the code of one source for one Python, or a source.
type key [blake2b.Size256]byte

func (k key) String() string { return hex.EncodeToString(k[:]) }

// Dir is a directory of code. It is safe for concurrent use, also by several processes. It takes one descriptor.
type Dir struct {
	// Constant after OpenDir.
	path  string
	root  *os.Root
	limit int64

	// mu guards the following; held across nothing.
	mu      sync.Mutex
	written int64 // since the size of the directory was looked at; at first as if it was time
}

// DefaultDir is mitogend/bytecode in $XDG_CACHE_HOME, or else in ~/.cache.
func DefaultDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fault.Errorf("bytecode", "no directory for a cache: %w", err)
	}
	return filepath.Join(dir, "mitogend", "bytecode"), nil
}

// OpenDir opens a directory, and makes it if it is not there. If others could write to it, or read it, the error says
// why. It holds maxBytes at most; 0 means DefaultMaxBytes.
func OpenDir(path string, maxBytes int64) (*Dir, error) {
	if err := owned.MakeDir(path); err != nil {
		return nil, fault.Errorf("bytecode", "%s: %w", path, err)
	}
	return openDir(path, maxBytes)
}

func openDir(path string, maxBytes int64) (*Dir, error) {
	root, err := owned.OpenDir(path)
	if err != nil {
		return nil, fault.Errorf("bytecode", "%s: %w", path, err)
	}
	return &Dir{path: path, root: root, limit: cmp.Or(maxBytes, DefaultMaxBytes), written: trimEvery}, nil
}

// Path is where it is.
func (d *Dir) Path() string { return d.path }

// Close gives the descriptor back.
func (d *Dir) Close() error { return d.root.Close() }

// sum is the digest that an entry has of itself.
func sum(k key, content []byte) []byte {
	h, _ := blake2b.New256(nil) // fails for a bad key only
	h.Write(k[:])
	h.Write(content)
	return h.Sum(nil)
}

// get gives what an entry has: a source, or code, which is empty where the source is to be sent as it is.
func (d *Dir) get(k key) (content []byte, ok bool) {
	f, err := d.root.OpenFile(k.String(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	info, err := f.Stat()
	const head = len(mark) + blake2b.Size256
	if err != nil || !info.Mode().IsRegular() || !owned.Mine(info) || info.Mode().Perm()&0o022 != 0 ||
		info.Size() < int64(head) || info.Size() > maxCode+int64(head) {
		return nil, false
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, false
	}
	content = data[head:]
	if string(data[:len(mark)]) != mark || !bytes.Equal(data[len(mark):head], sum(k, content)) {
		return nil, false
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchTime {
		_ = d.root.Chtimes(k.String(), now, now)
	}
	return content, true
}

// put makes an entry.
func (d *Dir) put(k key, content []byte) error {
	name := writing + rand.Text()
	data := slices.Concat([]byte(mark), sum(k, content), content)
	err := d.write(name, data)
	if err == nil {
		err = d.root.Rename(name, k.String())
	}
	if err != nil {
		_ = d.root.Remove(name)
		return fault.Errorf("bytecode", "%s: %w", d.path, err)
	}
	d.mu.Lock()
	full := d.written >= trimEvery
	if full {
		d.written = 0
	}
	d.written += int64(len(data))
	d.mu.Unlock()
	if full {
		d.trim(d.limit, time.Now().Add(-staleTime))
	}
	return nil
}

func (d *Dir) write(name string, data []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// files lists what is in the directory, the oldest first.
func (d *Dir) files() ([]fs.FileInfo, error) {
	dir, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var list []fs.FileInfo
	for _, name := range names {
		// Others may have removed it meanwhile.
		if info, err := d.root.Lstat(name); err == nil {
			list = append(list, info)
		}
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return list, err
}

// trim removes unfinished files from before some time. If the rest is more than limit, it removes the oldest down to
// three quarters.
func (d *Dir) trim(limit int64, stale time.Time) {
	list, _ := d.files()
	var total int64
	for _, info := range list {
		total += info.Size()
	}
	goal := total
	if total > limit {
		goal = limit / 4 * 3
	}
	for _, info := range list {
		if half := strings.HasPrefix(info.Name(), writing); half && info.ModTime().Before(stale) ||
			!half && total > goal {
			if d.root.Remove(info.Name()) == nil {
				total -= info.Size()
			}
		}
	}
}

// Usage is what a directory holds.
type Usage struct {
	Path           string
	Entries        int
	Bytes          int64
	Oldest, Newest time.Time // of use, to a day; zero without entries
}

// DirUsage looks at a directory, which need not be there.
func DirUsage(path string) (Usage, error) {
	u := Usage{Path: path}
	err := withDir(path, func(d *Dir) error {
		list, err := d.files()
		for _, info := range list {
			u.Entries++
			u.Bytes += info.Size()
		}
		if len(list) > 0 {
			u.Oldest, u.Newest = list[0].ModTime(), list[len(list)-1].ModTime()
		}
		return err
	})
	return u, err
}

// ClearDir removes all entries of a directory, which need not be there, and tells what they were.
func ClearDir(path string) (Usage, error) {
	u, err := DirUsage(path)
	if err != nil {
		return u, err
	}
	return u, withDir(path, func(d *Dir) error {
		list, err := d.files()
		for _, info := range list {
			if e := d.root.Remove(info.Name()); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		return err
	})
}

func withDir(path string, do func(*Dir) error) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d, err := openDir(path, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := do(d); err != nil {
		return fault.Errorf("bytecode", "%w", err)
	}
	return nil
}
