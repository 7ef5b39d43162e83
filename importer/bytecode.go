package importer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sys/unix"
)

// pycMagic is the size of the magic number at the beginning of a .pyc. The child compares it with its own, so that no table of
// releases is needed here.
const pycMagic = 4

// pycHeader is the size of what comes before the marshalled code in a .pyc: magic number, flags, time and size (PEP 552); since 3.7.
const pycHeader = 16

// maxBytecode bounds a .pyc that is sent.
const maxBytecode = 16 << 20

// bytecode gives the magic number and the marshalled code of a module, as an interpreter of this machine has left them in __pycache__;
// the code as zlib that is not compressed. There must be no doubt that it is the served source's: time and size fit, it was not there
// before the source was, and only those could write it who could write the source. Otherwise it gives nil.
func (s *search) bytecode(name string) (magic, code []byte) {
	sp := s.find(name)
	if s.v.Major != 3 || sp.why != "" || sp.unit == nil || sp.unit != sp.packed || sp.file.arc != nil ||
		sp.kind == KindMain || sp.kind == KindVirtual || sp.kind == KindNamespace {
		return nil, nil
	}
	path := sp.file.String()
	base, ok := strings.CutSuffix(filepath.Base(path), ".py")
	if !ok || int64(sp.unit.size) != sp.key.size {
		return nil, nil
	}
	dir := filepath.Join(filepath.Dir(path), "__pycache__")
	data := readTrusted(dir, fmt.Sprintf("%s.cpython-%d%d.pyc", base, s.v.Major, s.v.Minor), path, sp.key)
	header := pycHeader
	if s.v.Minor < 7 {
		header = 12
	}
	if len(data) <= header || string(data[2:pycMagic]) != "\r\n" {
		return nil, nil
	}
	if s.v.Minor >= 7 {
		if binary.LittleEndian.Uint32(data[4:]) != 0 {
			// By hash: it tells nothing of the file's time.
			return nil, nil
		}
	}
	stamp, size := binary.LittleEndian.Uint32(data[header-8:]), binary.LittleEndian.Uint32(data[header-4:])
	if stamp != uint32(sp.key.mtime/1e9) || size != uint32(sp.key.size) {
		return nil, nil
	}
	return data[:pycMagic], stored(data[header:])
}

// stored is data as zlib without compression.
func stored(data []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(data) + len(data)/10000 + 64)
	w := storers.Get().(*zlib.Writer)
	w.Reset(&b)
	_, _ = w.Write(data) // a bytes.Buffer does not fail
	_ = w.Close()
	w.Reset(io.Discard)
	storers.Put(w)
	return b.Bytes()
}

var storers = writersOf(zlib.NoCompression)

// Uncompiled is a source that is served, and may have no bytecode beside it.
type Uncompiled struct {
	// Hash is of the text, and tells it from all others.
	Hash [32]byte
	// Size is the length of the text, in bytes.
	Size int
	// Path is the module's, as the child is told it.
	Path string
	// Compressed gives the text as zlib.
	Compressed func() []byte
}

// Text gives the source. What was kept of it, and is another's, is an error.
func (u Uncompiled) Text() ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(u.Compressed()))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(u.Size)+1))
	if err == nil && sha256.Sum256(text) != u.Hash {
		err = fmt.Errorf("importer: what was kept of %s is not its source", u.Path)
	}
	return text, err
}

// uncompiled gives what there is to compile; false if that would be of no use.
func (s *search) uncompiled(name string) (Uncompiled, bool) {
	sp := s.find(name)
	u := sp.unit
	if sp.why != "" || u == nil || u.size == 0 || sp.kind == KindMain || sp.kind == KindNamespace {
		return Uncompiled{}, false
	}
	return Uncompiled{u.hash, u.size, sent(s.path(sp)), u.compressed}, true
}

// readTrusted reads a file that only those could write who could write the source. The source is in the state key: it
// and its directory belong to root, to us, or to the owner of the source, others may not write them, and a group may only if the
// source has the same one and lets it write, too. No links are followed. Else nil.
func readTrusted(dir, name, source string, key fileKey) []byte {
	var src unix.Stat_t
	if unix.Stat(source, &src) != nil || keyOf(&src) != key {
		return nil
	}
	d, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(d) }()
	if _, ok := trusted(d, unix.S_IFDIR, &src); !ok {
		return nil
	}
	fd, err := unix.Openat(d, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	st, ok := trusted(fd, unix.S_IFREG, &src)
	if !ok || st.Size > maxBytecode || !madeFrom(&src, &st) {
		return nil
	}
	data := make([]byte, st.Size)
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil
	}
	return data
}

// trusted tells whether an open file is of that type, and no others could have written it than the source.
func trusted(fd int, kind uint32, src *unix.Stat_t) (st unix.Stat_t, ok bool) {
	if unix.Fstat(fd, &st) != nil || uint32(st.Mode)&unix.S_IFMT != kind {
		return st, false
	}
	if st.Uid != 0 && st.Uid != src.Uid && int(st.Uid) != os.Geteuid() || st.Mode&0o002 != 0 {
		return st, false
	}
	if st.Mode&0o020 != 0 {
		if src.Mode&0o020 == 0 || st.Gid != src.Gid {
			return st, false
		}
		// With an access list these bits are the most that anybody named in it may do.
		if _, err := unix.Fgetxattr(fd, "system.posix_acl_access", nil); err == nil {
			return st, false
		}
	}
	return st, true
}

// What is unpacked, or copied with its times, at once lies within together of each other.
const together = time.Minute

// madeFrom tells whether bytecode was made after its source: the time that it names itself is in whole seconds, and a source may take the
// place of one of the same size and time. The change time tells that, but is no reason where there are other links to the source, as
// uv makes them, or where both have come from an archive, in any order.
func madeFrom(src, pyc *unix.Stat_t) bool {
	if pyc.Mtim.Nano() < src.Mtim.Nano() {
		return false
	}
	later := src.Ctim.Nano() - pyc.Ctim.Nano()
	if later <= 0 || src.Nlink > 1 {
		return true
	}
	return later < int64(together) && laidDown(src) && laidDown(pyc)
}

// laidDown tells whether a file was given its time, which it was not written at.
func laidDown(st *unix.Stat_t) bool { return st.Ctim.Nano()-st.Mtim.Nano() > int64(together) }
