package importer

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Shared objects: what is in their ELF headers, and where the libraries that they need lie.

// maxExtension is the size of the largest shared object that is sent.
const maxExtension = 256 << 20

// maxLibraries bounds the libraries beside one extension module.
const maxLibraries = 100

// An object is what is known of a shared object. It does not change.
type object struct {
	file location
	key  fileKey
	why  string // why it cannot be loaded anywhere; the rest is empty then
	ELF
}

// ELF is what the headers of a program or a shared object tell.
type ELF struct {
	Machine string // as uname(2) has it
	Bits    int
	Libc    string // glibc, musl, or "" for none that we know
	Version string // of glibc, the newest that it needs
	Loader  string // the path of a program's loader; "" for one without, and for a shared object
	Needed  []string
	RunPath []string

	kind elf.Type
}

// token tells one state of the file from another.
func (b *object) token() string {
	return fmt.Sprintf("%x.%x.%x.%x", b.key.ino, b.key.size, b.key.mtime, b.key.ctime)
}

// machines has the names that uname(2) has.
var machines = map[elf.Machine]string{
	elf.EM_X86_64: "x86_64", elf.EM_AARCH64: "aarch64", elf.EM_386: "i686", elf.EM_ARM: "arm", elf.EM_PPC64: "ppc64le",
	elf.EM_S390: "s390x", elf.EM_RISCV: "riscv64", elf.EM_LOONGARCH: "loongarch64",
}

// objects has what was read of shared objects.
type objects struct {
	mu    sync.Mutex
	known map[location]*object
	// Members of archives, those read last at the end: their parts are asked for one after another.
	members []*unpacked
	kept    int // bytes of those that are read

	unpacking chan struct{} // holds a token for each member that is being read
}

// unpacked is a member of an archive. After done is closed it does not change.
type unpacked struct {
	file location
	key  fileKey
	done chan struct{}
	data []byte
	err  error
}

// maxMembers bounds the bytes of members that are kept, beside the one that was read last. maxUnpacking is how many are
// read at once.
const (
	maxMembers   = 64 << 20
	maxUnpacking = 2
)

func newObjects() *objects {
	return &objects{known: map[location]*object{}, unpacking: make(chan struct{}, maxUnpacking)}
}

// unpack gives the content of an archive's member, which is read once for all that ask for it meanwhile. The lock is
// not held over that.
func (o *objects) unpack(file location, key fileKey) ([]byte, error) {
	o.mu.Lock()
	at := slices.IndexFunc(o.members, func(m *unpacked) bool { return m.file == file && m.key == key })
	if at >= 0 {
		m := o.members[at]
		o.members = append(slices.Delete(o.members, at, at+1), m)
		o.mu.Unlock()
		<-m.done
		return m.data, m.err
	}
	m := &unpacked{file: file, key: key, done: make(chan struct{}), err: errors.New("could not be read")}
	o.members = append(o.members, m)
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		close(m.done)
		o.kept += len(m.data)
		// One that is still being read is counted when it is there. An error is not kept.
		spare := o.kept - maxMembers
		o.members = slices.DeleteFunc(o.members, func(other *unpacked) bool {
			select {
			case <-other.done:
			default:
				return false
			}
			if other.err == nil && (spare <= 0 || other == m) {
				return false
			}
			spare -= len(other.data)
			o.kept -= len(other.data)
			return true
		})
	}()
	o.unpacking <- struct{}{}
	defer func() { <-o.unpacking }()
	m.data, m.err = file.arc.read(file.dir, maxExtension)
	return m.data, m.err
}

// maxObjects bounds objects.known; when it is reached the cache starts anew.
const maxObjects = 10000

// object reads a file's headers.
func (s *search) object(file location) (*object, error) {
	key, err := s.key(file)
	if err != nil {
		return nil, err
	}
	kept := s.im.objects
	kept.mu.Lock()
	b := kept.known[file]
	kept.mu.Unlock()
	if b != nil && b.key == key {
		return b, nil
	}
	r, size, done, err := s.im.openObject(file, key)
	if err != nil {
		return nil, err
	}
	defer done()
	b = readObject(io.NewSectionReader(r, 0, size))
	b.file, b.key = file, key
	kept.mu.Lock()
	if len(kept.known) >= maxObjects {
		clear(kept.known)
	}
	kept.known[file] = b
	kept.mu.Unlock()
	return b, nil
}

// openObject opens a file in the state that it was found in.
func (im *Importer) openObject(file location, key fileKey) (r io.ReaderAt, size int64, done func(), err error) {
	if key.size > maxExtension {
		return nil, 0, nil, tooLarge(key.size, maxExtension)
	}
	if file.arc != nil {
		data, err := im.objects.unpack(file, key)
		if err != nil {
			return nil, 0, nil, err
		}
		return bytes.NewReader(data), int64(len(data)), func() {}, nil
	}
	f, now, err := openFile(file.dir)
	if err != nil {
		return nil, 0, nil, err
	}
	if now != key {
		_ = f.Close()
		return nil, 0, nil, fmt.Errorf("has changed while it was sent")
	}
	return f, key.size, func() { _ = f.Close() }, nil
}

func readObject(r io.ReaderAt) *object {
	b, err := ReadELF(r)
	switch {
	case err != nil:
		return &object{why: err.Error()}
	case b.kind != elf.ET_DYN:
		return &object{why: "is no shared object"}
	}
	return &object{ELF: *b}
}

// ReadELF reads the headers. The error says what the file is not, as the end of a sentence that begins with its name.
func ReadELF(r io.ReaderAt) (b *ELF, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			b, err = nil, errors.New("is no valid shared object")
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("is no ELF file: %w", err)
	}
	b = &ELF{Machine: machines[f.Machine], Bits: 32, kind: f.Type}
	if f.Class == elf.ELFCLASS64 {
		b.Bits = 64
	}
	if b.Machine == "" {
		b.Machine = strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_"))
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			path, _ := io.ReadAll(p.Open())
			b.Loader = strings.TrimRight(string(path), "\x00")
		}
	}
	b.Needed = text(f.DynString(elf.DT_NEEDED))
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		for _, list := range text(f.DynString(tag)) {
			b.RunPath = append(b.RunPath, strings.Split(list, ":")...)
		}
	}
	for _, name := range b.Needed {
		switch {
		case name == "libc.so.6":
			b.Libc = "glibc"
		case strings.HasPrefix(name, "libc.musl-") || name == "libc.so":
			b.Libc = "musl"
		}
	}
	needs, _ := f.DynamicVersionNeeds()
	for _, need := range needs {
		for _, dep := range need.Needs {
			if v, ok := strings.CutPrefix(dep.Dep, "GLIBC_"); ok && v != "PRIVATE" {
				b.Libc = "glibc"
				if Newer(v, b.Version) {
					b.Version = v
				}
			}
		}
	}
	return b, nil
}

// text leaves out what is no name.
func text(names []string, err error) []string {
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" || len(name) > 4096 || !utf8.ValidString(name) })
}

// Newer compares versions such as 2.34 and 2.3.4.
func Newer(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range x {
		if i >= len(y) {
			return true
		}
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m > n
		}
	}
	return false
}

// library is one that lies beside an extension module.
type library struct {
	*object
	name  string // that others need it by
	spare bool   // of Options.Libs, for a child that lacks it
}

// LibsSystem in Options.Libs stands for the directories where this machine's loader looks.
const LibsSystem = "system"

// SystemLibs reads them from the loader's configuration.
var SystemLibs = sync.OnceValue(func() []string {
	return append(loaderDirs("/etc/ld.so.conf"), "/lib64", "/usr/lib64", "/lib", "/usr/lib")
})

// loaderDirs reads a file as ldconfig does: what it includes by a relative path lies below the directory that it is in itself.
func loaderDirs(conf string) (dirs []string) {
	seen := map[string]bool{}
	var read func(pattern string)
	read = func(pattern string) {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if seen[file] {
				continue
			}
			seen[file] = true
			data, _, err := readFile(file, 1<<20)
			if err != nil {
				continue
			}
			for _, line := range strings.Split(string(data), "\n") {
				line, _, _ = strings.Cut(line, "#")
				if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "include"); ok {
					for _, pattern := range strings.Fields(rest) {
						if !filepath.IsAbs(pattern) {
							pattern = filepath.Join(filepath.Dir(file), pattern)
						}
						read(pattern)
					}
				} else if dir := strings.TrimSpace(line); filepath.IsAbs(dir) {
					dirs = append(dirs, dir)
				}
			}
		}
	}
	read(conf)
	return dirs
}

// libcParts are names of libraries that belong together, and to the loader.
var libcParts = []string{"libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libresolv.", "ld-linux", "ld64.", "ld-musl"}

// OfLibc tells whether a library belongs to the C library. Every machine has its own; none is sent or looked for.
func OfLibc(name string) bool {
	return slices.ContainsFunc(libcParts, func(part string) bool { return strings.HasPrefix(name, part) })
}

// spare looks in Options.Libs for a library of b's machine.
func (s *search) spare(b *object, name string) *object {
	if strings.Contains(name, "/") || OfLibc(name) {
		return nil
	}
	for _, entry := range s.im.opt.Libs {
		dirs := []string{entry}
		if entry == LibsSystem {
			dirs = SystemLibs()
		}
		for _, dir := range dirs {
			loc := location{dir: path.Join(dir, name)}
			if key, err := s.key(loc); err != nil || !key.mode.IsRegular() {
				continue
			}
			if lib, err := s.object(loc); err == nil && lib.why == "" && lib.Machine == b.Machine && lib.Bits == b.Bits {
				return lib
			}
		}
	}
	return nil
}

// libraries finds the libraries that a shared object needs, where its run path leads within the path, in the order in which they load.
// wants has the names of other libraries that it and they need.
func (s *search) libraries(b *object) (libs []library, wants []string) {
	seen := map[string]bool{}
	found := 0
	var visit func(b *object, runpath []string)
	visit = func(b *object, runpath []string) {
		runpath = append(slices.Clip(b.RunPath), runpath...)
		for _, name := range b.Needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			lib, spare := s.beside(b.file, runpath, name), false
			if lib == nil {
				lib, spare = s.spare(b, name), true
			}
			if lib == nil || found == maxLibraries {
				wants = append(wants, name)
				continue
			}
			found++
			visit(lib, nil)
			libs = append(libs, library{lib, name, spare})
		}
	}
	visit(b, nil)
	return libs, wants
}

// beside looks for a library where a run path with $ORIGIN leads, within the entries of the path.
func (s *search) beside(file location, runpath []string, name string) *object {
	if strings.Contains(name, "/") {
		return nil
	}
	for _, dir := range runpath {
		rest, ok := strings.CutPrefix(strings.Replace(dir, "${ORIGIN}", "$ORIGIN", 1), "$ORIGIN")
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		loc := location{arc: file.arc, dir: path.Join(path.Dir(filepath.ToSlash(file.dir)), rest, name)}
		if !s.onPath(loc) || s.denied(&s.im.opt.Policy, loc) != "" {
			continue
		}
		if key, err := s.key(loc); err != nil || !key.mode.IsRegular() {
			continue
		}
		if b, err := s.object(loc); err == nil && b.why == "" {
			return b
		}
	}
	return nil
}

// onPath tells whether a file lies in an entry of the path.
func (s *search) onPath(loc location) bool {
	if loc.arc != nil {
		return loc.arc.files[loc.dir] != nil
	}
	return slices.ContainsFunc(s.roots, func(root location) bool {
		return root.arc == nil && strings.HasPrefix(loc.dir, strings.TrimSuffix(root.dir, "/")+"/")
	})
}
