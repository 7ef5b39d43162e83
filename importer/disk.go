package importer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fileKey tells one state of a file from another. The change time is in it because tools that keep the modification time
// (cp -p, rsync, package managers) can replace a file by another of the same size.
type fileKey struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
	mode         fs.FileMode
}

// settled tells whether a state seen at time t is sure to have another key when it changes later. Timestamps move in steps
// (of a kernel tick, or of seconds on old filesystems): a file that changed within the step that it was read in may change
// once more and keep its timestamps.
func (k fileKey) settled(t time.Time) bool {
	return t.UnixNano()-max(k.mtime, k.ctime) > int64(k.step())
}

func (k fileKey) step() time.Duration {
	if k.mtime%int64(time.Second) == 0 {
		return 2 * time.Second
	}
	return 100 * time.Millisecond
}

// settledSince is settled of a state that was seen before, at time first. If that is more than a step ago it is settled whatever its time
// is, which may be in the future: what changes from now on has a later one.
func (k fileKey) settledSince(first, t time.Time) bool {
	return k.settled(t) || t.Sub(first) > k.step()
}

// statFile follows symbolic links.
func statFile(path string) (fileKey, error) {
	var st unix.Stat_t
	for {
		err := unix.Stat(path, &st)
		if err == nil {
			return keyOf(&st), nil
		}
		if err != unix.EINTR {
			return fileKey{}, &fs.PathError{Op: "stat", Path: path, Err: err}
		}
	}
}

func keyOf(st *unix.Stat_t) fileKey {
	k := fileKey{
		dev: uint64(st.Dev), ino: st.Ino, size: st.Size,
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		k.mode = fs.FileMode(st.Mode) & 0o100 // whether it is executable
	case unix.S_IFDIR:
		k.mode = fs.ModeDir
	case unix.S_IFIFO:
		k.mode = fs.ModeNamedPipe
	case unix.S_IFSOCK:
		k.mode = fs.ModeSocket
	default:
		k.mode = fs.ModeDevice
	}
	return k
}

// openFile opens a regular file and nothing else. O_NONBLOCK: without it, opening a FIFO waits for a writer.
func openFile(path string) (*os.File, fileKey, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fileKey{}, err
	}
	key, err := statOpen(f)
	if err == nil {
		err = notRegular(key.mode)
	}
	if err != nil {
		_ = f.Close()
		return nil, fileKey{}, err
	}
	return f, key, nil
}

func statOpen(f *os.File) (fileKey, error) {
	var st unix.Stat_t
	conn, err := f.SyscallConn()
	if err != nil {
		return fileKey{}, err
	}
	var staterr error
	if err := conn.Control(func(fd uintptr) { staterr = unix.Fstat(int(fd), &st) }); err != nil {
		return fileKey{}, err
	}
	return keyOf(&st), staterr
}

// maxTries bounds how often a file is read because it changes while it is read.
const maxTries = 3

// readFile reads a regular file of at most limit bytes. When the file changes while it is read it is read again.
func readFile(path string, limit int64) ([]byte, fileKey, error) {
	for try := 1; ; try++ {
		f, key, err := openFile(path)
		if err != nil {
			return nil, fileKey{}, err
		}
		data, err := readAll(f, key.size, limit)
		after, staterr := statOpen(f)
		_ = f.Close()
		if err != nil {
			return nil, fileKey{}, err
		}
		if staterr == nil && after == key && int64(len(data)) == key.size || try == maxTries {
			return data, key, nil
		}
	}
}

// readAll reads r to its end, which may be elsewhere than size says.
func readAll(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, tooLarge(size, limit)
	}
	data := make([]byte, 0, size+1)
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, tooLarge(int64(len(data)), limit)
		}
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

func tooLarge(size, limit int64) error {
	return fmt.Errorf("too large: %d bytes, at most %d are served", size, limit)
}

// notRegular explains why a file of that type is not read.
func notRegular(mode fs.FileMode) error {
	switch {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return errors.New("is a directory")
	case mode&fs.ModeNamedPipe != 0:
		return errors.New("is a FIFO")
	case mode&fs.ModeSocket != 0:
		return errors.New("is a socket")
	}
	return errors.New("is a device")
}

// why is an error's text for a reason, without the path, which the reason names already.
func why(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	switch {
	case errors.Is(err, syscall.ELOOP):
		return "symbolic link loop"
	case errors.Is(err, fs.ErrNotExist):
		return "has disappeared"
	}
	return err.Error()
}

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// listing is what one directory has, on disk or in an archive.
type listing struct {
	key     fileKey
	settled bool
	seen    time.Time // when that key was, at first
	// types has the type bits of each entry; ModeSymlink stands for what was not followed.
	types map[string]fs.FileMode
	// compiled has, by module name, the file of an extension module or of bytecode.
	compiled map[string]string

	once    sync.Once
	modules string // see moduleNames
}

// Suffixes of what an interpreter loads and we cannot serve.
var compiledSuffixes = []string{".so", ".pyd", ".pyc", ".pyo"}

func newListing() *listing {
	return &listing{types: map[string]fs.FileMode{}, compiled: map[string]string{}}
}

func (l *listing) add(name string, mode fs.FileMode) {
	l.types[name] = mode
	if mode.IsDir() {
		return
	}
	for _, suffix := range compiledSuffixes {
		if strings.HasSuffix(name, suffix) {
			// foo.so, foo.abi3.so, foo.cpython-311-x86_64-linux-gnu.so; 2.x also foomodule.so.
			leaf, _, _ := strings.Cut(name, ".")
			l.addCompiled(leaf, name)
			if short, ok := strings.CutSuffix(leaf, "module"); ok && suffix == ".so" && short != "" && name == leaf+".so" {
				l.addCompiled(short, name)
			}
			return
		}
	}
}

// addCompiled prefers an extension module over bytecode, as the interpreters do.
func (l *listing) addCompiled(leaf, file string) {
	if old, ok := l.compiled[leaf]; !ok || isBytecode(old) && !isBytecode(file) {
		l.compiled[leaf] = file
	}
}

func isBytecode(file string) bool {
	return strings.HasSuffix(file, ".pyc") || strings.HasSuffix(file, ".pyo")
}

// readDir lists a directory on disk. O_DIRECTORY: opening anything else, a FIFO above all, could block.
func readDir(path string) (*listing, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	key, err := statOpen(f)
	if err != nil {
		return nil, err
	}
	read := time.Now()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	l := newListing()
	l.key, l.settled, l.seen = key, key.settled(read), read
	for _, e := range entries {
		l.add(e.Name(), e.Type())
	}
	return l, nil
}
