package importer

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// magicNumbers are those of the bytecode of each CPython's releases: importlib.util.MAGIC_NUMBER, less the CR and LF.
var magicNumbers = map[Version]uint16{
	{3, 6}: 3379, {3, 7}: 3394, {3, 8}: 3413, {3, 9}: 3425, {3, 10}: 3439, {3, 11}: 3495, {3, 12}: 3531, {3, 13}: 3571,
	{3, 14}: 3627, {3, 15}: 3666,
}

// pycHeader is the size of what comes before the marshalled code in a .pyc: magic number, flags, time and size (PEP 552); since 3.7.
const pycHeader = 16

// maxBytecode bounds a .pyc that is sent.
const maxBytecode = 16 << 20

// bytecode gives the marshalled code of a module as an interpreter of this machine has left it in __pycache__, if there is no doubt
// that it is that of the source which is served: magic number, time and size are right, and whoever could have written it could have
// written the source. Otherwise nil.
func (s *search) bytecode(name string) []byte {
	sp := s.find(name)
	magic := magicNumbers[s.v]
	if magic == 0 || sp.why != "" || sp.unit == nil || sp.file.arc != nil || sp.kind == KindMain || sp.kind == KindVirtual || sp.kind == KindNamespace {
		return nil
	}
	path := sp.file.String()
	base, ok := strings.CutSuffix(filepath.Base(path), ".py")
	if !ok || int64(sp.unit.size) != sp.key.size {
		return nil
	}
	dir := filepath.Join(filepath.Dir(path), "__pycache__")
	data := readTrusted(filepath.Join(dir, fmt.Sprintf("%s.cpython-%d%d.pyc", base, s.v.Major, s.v.Minor)), path)
	header := pycHeader
	if s.v.Minor < 7 {
		header = 12
	}
	if len(data) <= header || binary.LittleEndian.Uint16(data) != magic || string(data[2:4]) != "\r\n" {
		return nil
	}
	if s.v.Minor >= 7 {
		if binary.LittleEndian.Uint32(data[4:]) != 0 {
			// By hash: it tells nothing of the file's time.
			return nil
		}
	}
	stamp, size := binary.LittleEndian.Uint32(data[header-8:]), binary.LittleEndian.Uint32(data[header-4:])
	if stamp != uint32(sp.key.mtime/1e9) || size != uint32(sp.key.size) {
		return nil
	}
	return data[header:]
}

// readTrusted reads a file that belongs to root, to us, or to the owner of the source, and that nobody else may write; so for
// its directory. Else nil.
func readTrusted(path, source string) []byte {
	var src, dir, st unix.Stat_t
	if unix.Stat(source, &src) != nil || unix.Stat(filepath.Dir(path), &dir) != nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxBytecode {
		return nil
	}
	for _, s := range []*unix.Stat_t{&dir, &st} {
		if s.Uid != 0 && s.Uid != src.Uid && int(s.Uid) != os.Geteuid() || s.Mode&^src.Mode&0o022 != 0 {
			return nil
		}
	}
	data := make([]byte, st.Size)
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil
	}
	return data
}
