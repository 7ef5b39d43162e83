package transfer

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/sys/unix"
)

const (
	// block and what stands before it (headLen) fit into one daemon.InputPiece, and into a pipe.
	block      = 252 << 10
	headLen    = 5
	maxMessage = 4 * block
	digestLen  = 32
	entryLen   = 4 + 8 + 8 + 4 + 4 + 4*2
)

type digest = [digestLen]byte

// fastSHA says that the processor has instructions for SHA-256: of x86, or of ARM.
var fastSHA = cpuid.CPU.Supports(cpuid.SHA) || cpuid.CPU.Supports(cpuid.SHA2)

// algorithm is how digests are made. SHA-256 takes half of the time of BLAKE2b where processors have instructions for
// it, and three times as much elsewhere. Targets are assumed to be like this machine. Python 2 has no BLAKE2b.
type algorithm int

const (
	sha algorithm = iota
	blake
	algorithms
)

func algorithmOf(python int) algorithm {
	if python == 2 || fastSHA {
		return sha
	}
	return blake
}

func (a algorithm) sum(data []byte) digest {
	if a == sha {
		return sha256.Sum256(data)
	}
	return blake2b.Sum256(data)
}

// new makes a running digest.
func (a algorithm) new() hash.Hash {
	if a == sha {
		return sha256.New()
	}
	h, err := blake2b.New256(nil)
	if err != nil {
		panic(err) // only a key can be bad
	}
	return h
}

// eachBlock gives the digests of a file's blocks.
func (a algorithm) eachBlock(f io.ReaderAt, size int64, fn func(digest) error) error {
	buf := make([]byte, min(block, size))
	for at := int64(0); at < size; at += block {
		n := min(block, size-at)
		_, err := io.ReadFull(io.NewSectionReader(f, at, n), buf[:n])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errShorter
		case err != nil:
			return err
		}
		if err := fn(a.sum(buf[:n])); err != nil {
			return err
		}
	}
	return nil
}

var zeros [block]byte

// zero is the digest of n zeros.
func (a algorithm) zero(n int) digest {
	if n == block {
		return zeroDigests()[a]
	}
	return a.sum(zeros[:n])
}

// zeroDigests takes half a millisecond, so it is not made at the start of every command.
var zeroDigests = sync.OnceValue(func() [algorithms]digest {
	return [algorithms]digest{sha: sha.sum(zeros[:]), blake: blake.sum(zeros[:])}
})

// entry is a file as the wire has it: path and link are bytes, path relative, with slashes.
type entry struct {
	mode        uint32 // st_mode
	mtime       int64  // nanoseconds
	size        int64
	uid, gid    uint32
	path, link  string
	user, group string
	xattrs      xattrs // of Options.Xattrs, as get has them; nil where they are not told
}

func (e *entry) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, e.mode)
	b = binary.BigEndian.AppendUint64(b, uint64(e.mtime))
	b = binary.BigEndian.AppendUint64(b, uint64(e.size))
	b = binary.BigEndian.AppendUint32(b, e.uid)
	b = binary.BigEndian.AppendUint32(b, e.gid)
	for _, s := range []string{e.path, e.link, e.user, e.group} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	}
	return append(append(append(append(b, e.path...), e.link...), e.user...), e.group...)
}

// readEntry reads one, and gives what follows it.
func readEntry(b []byte) (e entry, rest []byte, err error) {
	if len(b) < entryLen {
		return e, nil, errProtocol
	}
	e.mode = binary.BigEndian.Uint32(b)
	e.mtime = int64(binary.BigEndian.Uint64(b[4:]))
	e.size = int64(binary.BigEndian.Uint64(b[12:]))
	e.uid = binary.BigEndian.Uint32(b[20:])
	e.gid = binary.BigEndian.Uint32(b[24:])
	rest = b[entryLen:]
	for i, s := range []*string{&e.path, &e.link, &e.user, &e.group} {
		n := int(binary.BigEndian.Uint16(b[28+2*i:]))
		if n > len(rest) {
			return e, nil, errProtocol
		}
		*s, rest = string(rest[:n]), rest[n:]
	}
	if e.size < 0 || e.path == "" || path.Clean("/"+e.path) != "/"+e.path || strings.ContainsRune(e.path, 0) ||
		strings.ContainsRune(e.link, 0) {
		return e, nil, errProtocol
	}
	return e, rest, nil
}

func (e *entry) kind() uint32 { return e.mode & unix.S_IFMT }

// special tells whether it is none of what is copied.
func (e *entry) special() bool {
	return e.kind() != unix.S_IFREG && e.kind() != unix.S_IFDIR && e.kind() != unix.S_IFLNK
}

var errProtocol = errors.New("transfer: the other side does not keep to the protocol")

// wire writes messages. It is for one goroutine.
type wire struct{ w *bufio.Writer }

func (w wire) write(tag byte, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > maxMessage {
		return fmt.Errorf("transfer: a message of %d bytes", n)
	}
	var head [headLen]byte
	head[0] = tag
	binary.BigEndian.PutUint32(head[1:], uint32(n))
	_, err := w.w.Write(head[:])
	for _, p := range parts {
		if err == nil {
			_, err = w.w.Write(p)
		}
	}
	return err
}

// reader reads messages.
type reader struct {
	r   *bufio.Reader
	buf []byte
}

// read gives a message that is good until the next one.
func (r *reader) read() (tag byte, data []byte, err error) {
	var head [headLen]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[1:]))
	if n > maxMessage {
		return 0, nil, errProtocol
	}
	if cap(r.buf) < n {
		r.buf = make([]byte, max(n, block+entryLen))
	}
	r.buf = r.buf[:n]
	if _, err = io.ReadFull(r.r, r.buf); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return head[0], r.buf, err
}

func blocksOf(size int64) int {
	n := int(size / block)
	if size%block > 0 {
		n++
	}
	return n
}
