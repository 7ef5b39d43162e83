package importer

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

// archive is the directory of a zip, egg or wheel file, or a Tree. It keeps no descriptor open between reads.
type archive struct {
	// Constant after openArchive.
	path    string
	tree    fs.FS // in place of a file
	key     fileKey
	settled bool
	seen    time.Time           // when that key was, at first
	dirs    map[string]*listing // by slash path, "" is the root
	files   map[string]*member  // by slash path
	odd     string              // a name that leads out of the archive, if there is one

	// mu protects the following; held across opening the file, never across reading it.
	mu    sync.Mutex
	file  *os.File // open while users > 0
	users int
}

// member is a file in it.
type member struct {
	size uint64
	mode fs.FileMode
	open func() (io.ReadCloser, error)
}

// errStale: the file is no longer the one whose directory was read.
var errStale = errors.New("the archive has changed")

// maxArchiveDepth is how deep an entry may lie.
const maxArchiveDepth = 100

// openArchive reads the central directory. Entries whose name leaves the archive, or has a backslash, are left out; of two
// entries with one name the later one counts, as in zipimport.
func openArchive(path string) (*archive, error) {
	a := &archive{path: path, dirs: map[string]*listing{"": newListing()}, files: map[string]*member{}}
	read := time.Now()
	f, key, err := openFile(path)
	if err != nil {
		return nil, err
	}
	a.key, a.settled, a.seen = key, key.settled(read), read
	a.file, a.users = f, 1
	defer a.release()
	zr, err := zip.NewReader(a, key.size)
	if err != nil {
		return nil, fmt.Errorf("no zip archive: %w", err)
	}
	isWheel := strings.HasSuffix(path, ".whl")
	for _, zf := range zr.File {
		name := strings.TrimSuffix(zf.Name, "/")
		if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") || strings.Count(name, "/") >= maxArchiveDepth {
			a.odd = zf.Name
			continue
		}
		if isWheel {
			name = installedName(name)
		}
		if strings.HasSuffix(zf.Name, "/") {
			a.mkdir(name)
			continue
		}
		a.add(name, &member{zf.UncompressedSize64, zf.Mode(), zf.Open})
	}
	return a, nil
}

func (a *archive) add(name string, m *member) {
	a.files[name] = m
	dir, base := splitSlash(name)
	a.mkdir(dir).add(base, m.mode.Type()&^fs.ModeSymlink)
}

// installedName is where a member of a wheel lies when it is installed: NAME.data/purelib and NAME.data/platlib are the root.
func installedName(name string) string {
	data, rest, _ := strings.Cut(name, "/")
	if !strings.HasSuffix(data, ".data") {
		return name
	}
	if part, inner, ok := strings.Cut(rest, "/"); ok && (part == "purelib" || part == "platlib") {
		return inner
	}
	return name
}

// mkdir makes the listing of a directory and of those above it; archives need not have entries for them.
func (a *archive) mkdir(dir string) *listing {
	if l, ok := a.dirs[dir]; ok {
		return l
	}
	l := newListing()
	a.dirs[dir] = l
	up, base := splitSlash(dir)
	a.mkdir(up).add(base, fs.ModeDir)
	return l
}

func splitSlash(name string) (dir, base string) {
	dir, base = path.Split(name)
	return strings.TrimSuffix(dir, "/"), base
}

// acquire opens the file unless it is open, and refuses when it is no longer the one whose directory was read.
func (a *archive) acquire() error {
	if a.tree != nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users == 0 {
		f, key, err := openFile(a.path)
		if err != nil {
			return err
		}
		if key != a.key {
			_ = f.Close()
			return errStale
		}
		a.file = f
	}
	a.users++
	return nil
}

func (a *archive) release() {
	if a.tree != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users--; a.users == 0 {
		_ = a.file.Close()
		a.file = nil
	}
}

// ReadAt is for archive/zip, within acquire and release.
func (a *archive) ReadAt(p []byte, off int64) (int, error) { return a.file.ReadAt(p, off) }

// read unpacks one file. What the directory says of its size is not believed: reading stops beyond limit, and archive/zip
// compares the true size and checksum.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	m, ok := a.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if err := a.acquire(); err != nil {
		return nil, err
	}
	defer a.release()
	if m.size > uint64(limit) {
		return nil, tooLarge(int64(min(m.size, 1<<62)), limit)
	}
	rc, err := m.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	// A lying size must not cost memory: deflate cannot shrink by more than about 1032.
	size := min(int64(m.size), a.key.size*1100)
	data, err := readAll(io.LimitReader(rc, limit+1), size, limit)
	if err != nil {
		return nil, err
	}
	return data, nil
}

// fileKey is the key of a member: the archive's own, so that a new archive means new members.
func (a *archive) fileKey(name string) fileKey {
	k := a.key
	k.mode = a.files[name].mode & 0o100
	k.size = int64(min(a.files[name].size, 1<<62))
	return k
}
