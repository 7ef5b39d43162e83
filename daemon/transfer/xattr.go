package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxXattrs bounds a file's attributes on the wire, in bytes.
	maxXattrs = 64 << 10
	// untold stands for the length where a file's attributes are not told: a link's, or because they cannot be read.
	untold = math.MaxUint32
	// userXattr is what begins the names that a file's owner gives.
	userXattr = "user."
)

var (
	errXattrs = errors.New("it has more than 64 KiB of extended attributes")
	errPython = errors.New("transfer: Python 2 has no functions for extended attributes: " +
		"name another Python for the target, or do without them")
	errNone = errors.New(
		"the file system has no such extended attributes: they are left out, here and of further files")
)

// xattrs are extended attributes by their names.
type xattrs map[string]string

// readXattrs reads the attributes of a path or a descriptor whose names take accepts. There are none where the file
// system has none.
func readXattrs(take func(name string) bool, list func([]byte) (int, error),
	get func(string, []byte) (int, error)) (xattrs, error) {
	names, err := growing(list)
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS):
		return nil, nil
	case err != nil:
		return nil, err
	}
	out := xattrs{}
	for name := range strings.SplitSeq(string(names), "\x00") {
		if name == "" || !take(name) {
			continue
		}
		value, err := growing(func(buf []byte) (int, error) { return get(name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out[name] = string(value)
	}
	return out, nil
}

// growing calls fn with a buffer that is large enough. The kernel gives at most 64 KiB.
func growing(fn func([]byte) (int, error)) ([]byte, error) {
	for size := 512; ; size = maxXattrs {
		buf := make([]byte, size)
		n, err := fn(buf)
		if errors.Is(err, unix.ERANGE) && size < maxXattrs {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// sentXattr tells whether an attribute is sent: what rsync -X sends, user.* of an ordinary user, and all but system.*
// of root.
func sentXattr(name string) bool {
	return strings.HasPrefix(name, userXattr) || os.Geteuid() == 0 && !strings.HasPrefix(name, "system.")
}

// append writes attributes as they follow an entry.
func (x xattrs) append(b []byte) ([]byte, error) {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, name := range slices.Sorted(maps.Keys(x)) {
		b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(x[name])))
		b = append(append(b, name...), x[name]...)
	}
	n := len(b) - at - 4
	if n > maxXattrs {
		return nil, errXattrs
	}
	binary.BigEndian.PutUint32(b[at:], uint32(n))
	return b, nil
}

// cutXattrs takes what follows an entry: nil where nothing is told.
func cutXattrs(b []byte) (x xattrs, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errProtocol
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n == untold {
		return nil, b, nil
	}
	if n > maxXattrs || int(n) > len(b) {
		return nil, nil, errProtocol
	}
	b, rest = b[:n], b[n:]
	x = xattrs{}
	for len(b) > 0 {
		if len(b) < 6 {
			return nil, nil, errProtocol
		}
		name, value := int(binary.BigEndian.Uint16(b)), int64(binary.BigEndian.Uint32(b[2:]))
		if b = b[6:]; int64(name)+value > int64(len(b)) {
			return nil, nil, errProtocol
		}
		key := string(b[:name])
		if _, twice := x[key]; twice || key == "" || strings.ContainsRune(key, 0) {
			return nil, nil, errProtocol
		}
		x[key] = string(b[name : name+int(value)])
		b = b[name+int(value):]
	}
	return x, rest, nil
}

// packXattrs gives what follows an open file's entry. The way over /proc is for what nobody may read.
func packXattrs(f *os.File) ([]byte, error) {
	name := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	x, err := readXattrs(sentXattr, func(b []byte) (int, error) { return unix.Listxattr(name, b) },
		func(key string, b []byte) (int, error) { return unix.Getxattr(name, key, b) })
	if err != nil {
		return nil, err
	}
	return x.append(nil)
}

// head gives an entry of the source whose content is not read, with what follows it: with attributes, both are of
// what is there now. Attributes that cannot be read are told once.
func (p *put) head(it *item) []byte {
	if !p.o.Xattrs {
		return it.append(nil)
	}
	if it.kind() != unix.S_IFLNK && it.link == "" && !it.special() && !p.lost[it.path] {
		f, at, err := it.open(unix.O_PATH, it.kind())
		if err == nil {
			defer f.Close()
			var told []byte
			if told, err = packXattrs(f); err == nil {
				size := it.size
				if it.kind() == unix.S_IFREG {
					size = at.size
				}
				e := it.as(at, size)
				return append(e.append(nil), told...)
			}
		}
		p.lose(it, err)
	}
	return binary.BigEndian.AppendUint32(it.append(nil), untold)
}

// takenXattr tells whether an attribute of a child's file is taken: user.* only, since others give a file rights
// here, as a bit of setuid does.
func takenXattr(name string) bool { return strings.HasPrefix(name, userXattr) }

// entry reads one of a child's, and gives what follows it.
func (g *get) entry(data []byte) (e entry, rest []byte, err error) {
	e, rest, err = readEntry(data)
	if err != nil || !g.o.Xattrs {
		return e, rest, err
	}
	if e.xattrs, rest, err = cutXattrs(rest); e.xattrs != nil {
		maps.DeleteFunc(e.xattrs, func(name, _ string) bool { return !takenXattr(name) })
	}
	return e, rest, err
}

// xattrsOf reads those of an open file here.
func xattrsOf(f *os.File) (xattrs, error) {
	return readXattrs(takenXattr, func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, b) })
}

// sameXattrs tells whether an open file has the attributes that it is to have.
func sameXattrs(f *os.File, e *entry) bool {
	if e.xattrs == nil {
		return true
	}
	had, err := xattrsOf(f)
	return err == nil && maps.Equal(had, e.xattrs)
}

// setXattrs gives an open file the attributes that it is to have. Its mode is set after that.
func (g *get) setXattrs(f *os.File, e *entry) error {
	err := trySetXattrs(f, e)
	if errors.Is(err, fs.ErrPermission) {
		// Who may not write to a file may not set them.
		if f.Chmod(fs.FileMode(e.mode&0o777)|0o600) == nil {
			err = trySetXattrs(f, e)
		}
	}
	if errors.Is(err, unix.ENOTSUP) {
		if !g.without {
			g.result.fail(e.path + ": " + errNone.Error())
		}
		g.without, err = true, nil
	}
	return err
}

func trySetXattrs(f *os.File, e *entry) error {
	had, err := xattrsOf(f)
	if err != nil {
		return err
	}
	for key := range had {
		if _, stays := e.xattrs[key]; !stays && err == nil {
			err = unix.Fremovexattr(int(f.Fd()), key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.xattrs)) {
		value, there := had[key]
		if err == nil && (!there || value != e.xattrs[key]) {
			err = unix.Fsetxattr(int(f.Fd()), key, []byte(e.xattrs[key]), 0)
		}
	}
	return err
}
