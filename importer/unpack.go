package importer

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Packages that a child unpacks: their files are laid down in memory there, for code that no interception reaches (C, other programs).
// What is served as the source of such a package is one line that has mitogen.unpack do so; from then on Python's own finders load
// what lies in it, and nothing of it is sent ahead.

// Bounds of what one package unpacks to.
const (
	maxUnpackFiles = 50_000
	maxUnpackBytes = 512 << 20
	maxUnpackDepth = 32
)

// wellKnown are packages that are always unpacked, for Pythons before a version if there is one: they start a file of their own as a
// program, or give one to C.
var wellKnown = map[string]Version{"jedi": {}, "parso": {}, "certifi": {3, 7}}

// unpackMark is the comment by which a package asks for it.
const unpackMark = "\n# mitogend: unpack\n"

// UnpackedFile is a file of a package that is unpacked; its name is relative to the package's directory.
type UnpackedFile struct {
	ResourceInfo
	Executable bool
}

// unpackTop gives the package that a child unpacks and that is name, or has it in it; "" for none.
func (s *search) unpackTop(name string) string {
	if s.stock {
		return ""
	}
	for i := range len(name) + 1 {
		if i == len(name) || name[i] == '.' {
			if s.unpacks(name[:i]) {
				return name[:i]
			}
		}
	}
	return ""
}

// unpacked tells whether a module lies in a package that is unpacked: it comes with the package.
func (s *search) unpacked(name string) bool {
	top := s.unpackTop(name)
	return top != "" && top != name
}

func (s *search) unpacks(name string) bool {
	yes, ok := s.unpack[name]
	if ok {
		return yes
	}
	sp := s.find(name)
	switch {
	case sp.why != "" || sp.kind != KindModule && sp.kind != KindPackage && sp.kind != KindNamespace:
	case slices.Contains(s.im.opt.Unpack, name):
		yes = true
	default:
		before, ok := wellKnown[name]
		yes = ok && (!before.Known() || s.v.Known() && s.v.less(before))
		if u, err := s.packedUnit(sp); !yes && err == nil {
			yes = u.src.unpack
		}
	}
	if s.unpack == nil {
		s.unpack = map[string]bool{}
	}
	s.unpack[name] = yes
	return yes
}

// unpackStub is what is served in place of the package's source. It differs when any of the files does.
func (s *search) unpackStub(sp *spec, real *unit) (*unit, error) {
	files, mark, err := s.tree(sp.name, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot be unpacked: %w", err)
	}
	u := newUnit(fmt.Appendf(nil, "import mitogen.unpack\nmitogen.unpack.load(__name__)\n# %d files, %016x\n", len(files), mark))
	// It imports the same.
	src := *real.src
	src.paths = false
	u.src = &src
	return u, nil
}

// Unpack lists the files of a package, or of a module, that a child unpacks, in order. Policies may apply in addition to the
// importer's. The error is a *NotFoundError.
func (im *Importer) Unpack(name string, v Version, also ...Policy) ([]UnpackedFile, error) {
	s := im.search(v)
	if s.unpackTop(name) != name {
		return nil, &NotFoundError{Name: name, Reason: "it is not to be unpacked"}
	}
	files, _, err := s.tree(name, also)
	if err != nil {
		return nil, &NotFoundError{Name: name, Reason: err.Error()}
	}
	return files, nil
}

// UnpackedData gives the content of some of these files, joined: each up to Options.MaxResource, together up to limit bytes, behind
// the bytes in head. The error is a *NotFoundError, or ctx's.
func (im *Importer) UnpackedData(ctx context.Context, name string, files []string, head string, limit int, v Version, also ...Policy) (
	[]byte, error,
) {
	s := im.search(v)
	s.ctx = ctx
	out := []byte(head)
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := s.unpackedFile(name, file, also)
		if err != nil {
			return nil, err
		}
		if out = append(out, data...); len(out) > limit {
			return nil, &NotFoundError{Name: name, Reason: fmt.Sprintf("%s: at most %d bytes are sent at once", shorten(file), limit)}
		}
	}
	return out, nil
}

func (s *search) unpackedFile(name, file string, also []Policy) ([]byte, error) {
	sp := s.find(name)
	if sp.why != "" || sp.isPkg() {
		return s.resource("", name, file, also)
	}
	for i := range also {
		if why := s.refuses(&also[i], sp); why != "" {
			return nil, &NotFoundError{Name: name, Reason: why}
		}
	}
	if file != path.Base(sp.file.dir) || s.unpackTop(name) != name {
		return nil, &NotFoundError{Name: name, Reason: "the module has no such file"}
	}
	u, err := s.packedUnit(sp)
	if err != nil {
		return nil, &NotFoundError{Name: name, Reason: err.Error()}
	}
	return inflate(u.compressed())
}

// tree lists the files, and gives a mark that tells one state of them from another.
func (s *search) tree(name string, also []Policy) (files []UnpackedFile, mark uint64, err error) {
	w := walker{search: s, pkg: name, also: also, mark: fnvOffset}
	if sp := s.find(name); sp.why == "" && !sp.isPkg() {
		w.add(path.Base(sp.file.dir), sp.key)
	} else if err := w.walk("", 0); err != nil {
		return nil, 0, err
	}
	return w.files, w.mark, nil
}

// walker collects the files below a package's directory.
type walker struct {
	*search
	pkg   string
	also  []Policy
	files []UnpackedFile
	bytes int64
	mark  uint64
}

// Of FNV-1a.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func (w *walker) add(name string, key fileKey) {
	w.files = append(w.files, UnpackedFile{ResourceInfo{Name: name, Size: key.size}, key.mode&0o100 != 0})
	w.bytes += key.size
	for _, c := range fmt.Appendf(nil, "%s\x00%d %d\n", name, key.size, key.mtime) {
		w.mark = (w.mark ^ uint64(c)) * fnvPrime
	}
}

func (w *walker) walk(dir string, depth int) error {
	if depth > maxUnpackDepth {
		return fmt.Errorf("%s in it is more than %d directories deep", shorten(dir), maxUnpackDepth)
	}
	entries, err := w.entries("", w.pkg, dir, w.also)
	if err != nil {
		if depth > 0 {
			return nil // refused, with what is in it
		}
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.info.Name)
		if e.info.Dir {
			if err := w.walk(name, depth+1); err != nil {
				return err
			}
			continue
		}
		w.add(name, e.key)
		if len(w.files) > maxUnpackFiles || w.bytes > maxUnpackBytes {
			return fmt.Errorf("it has more than %d files or %d bytes", maxUnpackFiles, maxUnpackBytes)
		}
	}
	return nil
}

// markedUnpack tells whether a source has the comment, on a line of its own.
func markedUnpack(src []byte) bool {
	text := "\n" + strings.ReplaceAll(string(src), "\r\n", "\n") + "\n"
	return strings.Contains(text, unpackMark)
}
