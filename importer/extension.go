package importer

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Extension modules: shared objects that a child of ours loads from memory. What is served as the module's source is one line that
// has mitogen.extension do so: the files that there are, what each needs, and which libraries lie beside it. The child knows its
// suffixes, machine and C library, and picks; it asks for the bytes in parts.

// KindExtension is a module, or with a directory a package, that is a shared object.
const KindExtension Kind = "extension module"

// extensionPart is how many bytes the child gets at once.
const extensionPart = 1 << 20

// extensions gives the shared objects of a listing that are the module for a child of version v, by the tags in their names; or why
// those that there are fit none. others are those for other versions.
func (l *listing) extensions(leaf string, v Version) (files, others []string, why string) {
	var misfits []string
	for name, mode := range l.types {
		rest, ok := strings.CutSuffix(name, ".so")
		if !ok || mode.IsDir() {
			continue
		}
		stem, tag, _ := strings.Cut(rest, ".")
		if stem != leaf && !(tag == "" && stem == leaf+"module" && v.Major != 3) {
			continue
		}
		if misfit := tagMisfit(tag, v); misfit != "" {
			misfits, others = append(misfits, misfit), append(others, name)
			continue
		}
		files = append(files, name)
	}
	for _, list := range [][]string{files, others} {
		slices.SortFunc(list, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
	}
	if len(files) == 0 && len(misfits) > 0 {
		slices.Sort(misfits)
		return nil, others, fmt.Sprintf("built for %s; this child is %s", strings.Join(slices.Compact(misfits), " and "), v)
	}
	return files, others, ""
}

// tagMisfit says what a file with that tag is built for, if it is not this version.
func tagMisfit(tag string, v Version) string {
	abi, _, _ := strings.Cut(tag, "-")
	switch {
	case !v.Known() || tag == "":
		return ""
	case abi == "abi3":
		if v.Major != 3 {
			return "Python 3"
		}
	case abi == "cpython":
		_, digits, _ := strings.Cut(tag, "-")
		digits, _, _ = strings.Cut(digits, "-")
		if number := strings.TrimRight(digits, "dmut"); number != fmt.Sprintf("%d%d", v.Major, v.Minor) {
			return strings.TrimSuffix("cpython-"+digits, "-")
		}
	case strings.HasPrefix(abi, "pypy") || strings.HasPrefix(abi, "graalpy"):
		return abi
	case v.Major != 2:
		// Debian's 2.7 has files with the machine alone in their names.
		return "Python 2"
	}
	return ""
}

// sibling is a file beside the module's own.
func (sp *spec) sibling(name string) location {
	return location{arc: sp.file.arc, dir: path.Join(path.Dir(sp.file.dir), name)}
}

// ObjectDescription is one shared object that an extension module may be loaded from.
type ObjectDescription struct {
	File string `json:"file"`
	Size int64  `json:"size"`
	// Machine as uname(2) has it, with Bits to an address; Libc is glibc, with the Version that it needs at least, musl, or empty.
	Machine string `json:"machine"`
	Bits    int    `json:"bits"`
	Libc    string `json:"libc,omitempty"`
	Version string `json:"version,omitempty"`
	// Libraries that it needs, and what those need that are sent.
	Libraries []LibraryDescription `json:"libraries,omitempty"`
}

// LibraryDescription is a library that an extension module needs.
type LibraryDescription struct {
	Name string `json:"name"`
	// File is what is sent, with Spare to a target that lacks it; empty: the target is to have it.
	File  string `json:"file,omitempty"`
	Size  int64  `json:"size,omitempty"`
	Spare bool   `json:"spare,omitempty"`
}

// objectsOf describes what an extension module may be loaded from.
func (s *search) objectsOf(sp *spec) []ObjectDescription {
	var out []ObjectDescription
	for _, name := range sp.ext {
		b, err := s.object(sp.sibling(name))
		if err != nil || b.why != "" {
			continue
		}
		o := ObjectDescription{File: b.file.String(), Size: b.key.size, Machine: b.Machine, Bits: b.Bits, Libc: b.Libc, Version: b.Version}
		libs, wants := s.libraries(b)
		for _, lib := range libs {
			o.Libraries = append(o.Libraries, LibraryDescription{lib.name, lib.file.String(), lib.key.size, lib.spare})
		}
		for _, name := range wants {
			o.Libraries = append(o.Libraries, LibraryDescription{Name: name})
		}
		out = append(out, o)
	}
	return out
}

// stub is what is served as the source of an extension module. A child behind this one may be of another version, and be given it as well.
func (s *search) stub(sp *spec) ([]byte, error) {
	var choices []string
	for i, name := range slices.Concat(sp.ext, sp.others) {
		b, err := s.object(sp.sibling(name))
		switch {
		case i >= len(sp.ext) && (err != nil || b.why != ""):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %s", sp.sibling(name), why(err))
		}
		libs, wants := s.libraries(b)
		var beside []string
		for _, lib := range libs {
			spare := 0
			if lib.spare {
				spare = 1
			}
			beside = append(beside, fmt.Sprintf("(%s,%d,%s,%d,%s)", literal(lib.name), lib.key.size, literal(lib.token()), spare, literal(lib.Version)))
		}
		wants = slices.DeleteFunc(wants, OfLibc)
		for i := range wants {
			wants[i] = literal(wants[i])
		}
		choices = append(choices, fmt.Sprintf("(%s,%d,%s,%s,%d,%s,%s,[%s],[%s])", literal(name), b.key.size, literal(b.token()),
			literal(b.Machine), b.Bits, literal(b.Libc), literal(b.Version), strings.Join(wants, ","), strings.Join(beside, ",")))
	}
	return []byte("import mitogen.extension\nmitogen.extension.load(__name__,[" + strings.Join(choices, ",") + "])\n"), nil
}

// literal writes a text as both generations of Python read it.
func literal(text string) string { return strconv.QuoteToASCII(text) }

// An ExtensionFile is the shared object of an extension module, or a library beside it, in the state that the stub has told of.
type ExtensionFile struct {
	im *Importer
	b  *object
}

// ExtensionFile finds a module's file, or a library beside it; token is from the stub. Policies may apply in addition to the
// importer's. The error is a *NotFoundError, or ctx's.
func (im *Importer) ExtensionFile(ctx context.Context, v Version, name, file, lib, token string, also ...Policy) (*ExtensionFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	none := func(why string) (*ExtensionFile, error) { return nil, &NotFoundError{Name: name, Reason: why} }
	s := im.search(v)
	s.ctx = ctx
	sp := s.find(name)
	if sp.why != "" {
		return none(sp.why)
	}
	for i := range also {
		if why := s.refuses(&also[i], sp); why != "" {
			return none(why)
		}
	}
	if !slices.Contains(sp.ext, file) {
		return none("it has no such file")
	}
	b, err := s.object(sp.sibling(file))
	if err != nil {
		return none(fmt.Sprintf("%s: %s", file, why(err)))
	}
	if lib != "" {
		libs, _ := s.libraries(b)
		i := slices.IndexFunc(libs, func(l library) bool { return l.name == lib })
		if i < 0 {
			return none("it has no such library")
		}
		b = libs[i].object
		if why := s.deniedAlso(also, b.file); why != "" {
			return none(why)
		}
	}
	if b.token() != token {
		return none(b.file.String() + " has changed while it was sent")
	}
	return &ExtensionFile{im, b}, nil
}

// Path is where it lies on this machine; empty for a member of an archive.
func (f *ExtensionFile) Path() string {
	if f.b.file.arc != nil {
		return ""
	}
	return f.b.file.dir
}

// Part gives up to 1 MiB of it, from an offset on, behind the bytes in head. The error is a *NotFoundError.
func (f *ExtensionFile) Part(offset int64, head string) ([]byte, error) {
	none := func(why string) ([]byte, error) { return nil, &NotFoundError{Name: f.b.file.String(), Reason: why} }
	r, size, done, err := f.im.openObject(f.b.file, f.b.key)
	if err != nil {
		return none(fmt.Sprintf("%s: %s", f.b.file, why(err)))
	}
	defer done()
	if offset < 0 || offset > size {
		return none("there is no such part")
	}
	data := make([]byte, int64(len(head))+min(extensionPart, size-offset))
	copy(data, head)
	if _, err := r.ReadAt(data[len(head):], offset); err != nil && err != io.EOF {
		return none(fmt.Sprintf("%s: %s", f.b.file, why(err)))
	}
	return data, nil
}

// extension finds the shared objects that are a module.
func (s *search) extension(loc location, l *listing, leaf, bin string) (*spec, string) {
	names, others, misfit := l.extensions(leaf, s.v)
	sp := &spec{kind: KindExtension, others: others}
	for _, name := range names {
		file := loc.join(name)
		switch b, err := s.object(file); {
		case err != nil:
			bin, misfit = name, "that cannot be read: "+why(err)
		case b.why != "":
			bin, misfit = name, "that "+b.why
		default:
			if sp.ext == nil {
				sp.file, sp.key = file, b.key
			}
			sp.ext = append(sp.ext, name)
		}
	}
	if sp.ext == nil {
		return nil, fmt.Sprintf("%s is an extension module %s", loc.join(bin), cmp.Or(misfit, "of another system"))
	}
	return sp, ""
}
