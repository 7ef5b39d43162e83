package builds

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"mitogend/importer"
)

// A Build is Python for one kind of machine. It does not change.
type Build struct {
	// Place is where it was found.
	Place string
	// Version is 3.12; Machine as uname(2) has it; Libc glibc, musl, or "" for a static interpreter.
	Version, Machine, Libc string
	// Bits is the width of the machine's addresses.
	Bits int
	// Loader is the path of the program that has to be there to start it; "" for a static one.
	Loader string
	// Glibc is the version that it needs at least; "" for none.
	Glibc string
	// Python is the interpreter's path in it.
	Python string
	// Foreign says that libraries of this machine are in LibDir, which the interpreter has to be told of.
	Foreign bool
	// Hash is the manifest's, 64 hexadecimal digits. Size is what the files take, in bytes.
	Hash string
	Size int64

	manifest []byte
	members  []member
}

// LibDir is the directory of libraries that an interpreter does not find by itself; Wrapper starts it with them.
const (
	LibDir  = "lib/mitogend"
	Wrapper = "bin/python"
)

// member is a file of a build as it was read; sum is the digest of its content.
type member struct {
	name string
	exec bool
	sum  [sha256.Size]byte
}

// String is for errors: 3.12 for x86_64 with glibc.
func (b *Build) String() string {
	if b.Libc == "" {
		return "Python " + b.Version + " for " + b.Machine
	}
	return "Python " + b.Version + " for " + b.Machine + " with " + b.Libc
}

// Set is what some places have.
type Set struct {
	places []string // constant after Open

	// reading has one token: whoever holds it reads the places, and owns the following.
	reading chan struct{}
	known   map[string]*Build // by the state of all files
	list    []*Build
	listed  time.Time

	mu    sync.Mutex       // guards the following
	packs map[string]*pack // by hash and form
}

// listTime is how long a list is good. Many targets connect at once, and what is packed is compared with it once more.
const listTime = time.Second

// Open looks whether there may be builds in these places. The error says of the first that has none what it is.
func Open(places []string) (*Set, error) {
	for _, place := range places {
		if _, err := kindOf(place); err != nil {
			return nil, err
		}
	}
	return &Set{places: slices.Clone(places), reading: make(chan struct{}, 1), packs: map[string]*pack{}}, nil
}

// candidate is a build that was found.
type candidate struct {
	place, version, python string
	elf                    *importer.ELF
	tree                   tree
}

// List gives for each machine and loader the newest build, and of several of one version the first. Each is read if it has changed.
func (s *Set) List(ctx context.Context) ([]*Build, error) {
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if time.Since(s.listed) < listTime {
		return slices.Clone(s.list), nil
	}
	best, err := find(ctx, s.places)
	if err != nil {
		return nil, err
	}
	known := map[string]*Build{}
	var out []*Build
	for _, c := range best {
		key, files := c.files()
		b := s.known[key]
		if b == nil {
			if b, err = c.build(ctx, files); err != nil {
				return nil, err
			}
		}
		known[key] = b
		out = append(out, b)
	}
	s.known, s.list, s.listed = known, out, time.Now()
	return slices.Clone(out), nil
}

// find gives the best candidate of each kind, in a fixed order.
func find(ctx context.Context, places []string) ([]*candidate, error) {
	var all []*candidate
	for _, place := range places {
		found, err := candidates(ctx, place)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s: there is no Python in it: a build has bin/python3.X, which is a program of Linux, and lib/python3.X", place)
		}
		all = append(all, found...)
	}
	var best []*candidate
	for _, c := range all {
		i := slices.IndexFunc(best, func(b *candidate) bool { return b.elf.Machine == c.elf.Machine && b.elf.Loader == c.elf.Loader })
		if i < 0 {
			best = append(best, c)
		} else if importer.Newer(c.version, best[i].version) {
			best[i] = c
		}
	}
	return best, nil
}

func candidates(ctx context.Context, place string) ([]*candidate, error) {
	k, err := kindOf(place)
	if err != nil {
		return nil, err
	}
	trees := map[string]tree{}
	switch k {
	case isTar:
		if trees, err = tarTrees(place); err != nil {
			return nil, err
		}
	case isBuild:
		if trees[place], err = dirTree(place); err != nil {
			return nil, err
		}
	case isDirectory:
		dirs, err := below(place)
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			if hasInterpreter(dir) && ctx.Err() == nil {
				if trees[dir], err = dirTree(dir); err != nil {
					return nil, err
				}
			}
		}
	}
	var out []*candidate
	for _, root := range sorted(trees) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		name := place
		if k == isDirectory {
			name = root
		}
		if c := newest(name, trees[root]); c != nil {
			out = append(out, c)
		}
	}
	return out, nil
}

// newest finds a tree's interpreter; nil where there is none that is a program for Linux and has its library beside it.
func newest(place string, t tree) *candidate {
	var best *candidate
	for _, name := range sorted(t) {
		m := interpreterName.FindStringSubmatch(name)
		if m == nil || t["lib/python"+m[1]+"/os.py"] == nil && t["lib64/python"+m[1]+"/os.py"] == nil {
			continue
		}
		if !recent(m[1]) || best != nil && !importer.Newer(m[1], best.version) {
			continue
		}
		data, err := t[name].read()
		if err != nil {
			continue
		}
		if e, err := importer.ReadELF(bytes.NewReader(data)); err == nil {
			best = &candidate{place, m[1], name, e, t}
		}
	}
	return best
}

// recent tells whether our runtime runs on that version.
func recent(version string) bool {
	return version == "2.7" || importer.Newer(version, "3.5")
}

// files gives what is packed, in order, and a key of the state that all of it is in.
func (c *candidate) files() (key string, out []*file) {
	prefixes := []string{"lib/python" + c.version + "/", "lib64/python" + c.version + "/"}
	var inside []*file
	for _, name := range sorted(c.tree) {
		f := c.tree[name]
		if name == c.python || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			inside = append(inside, f)
		}
	}
	out = append(inside, c.libraries(inside)...)
	h := sha256.New()
	for _, f := range out {
		fmt.Fprintf(h, "%q %t %q %q\n", f.name, f.exec, f.stamp, f.source)
	}
	return hex.EncodeToString(h.Sum(nil)), out
}

// libraries finds what the programs and libraries among these files need: in the build, where their run path or nothing leads, or on
// this machine.
func (c *candidate) libraries(files []*file) (out []*file) {
	seen := map[string]bool{}
	queue := slices.Clone(files)
	for len(queue) > 0 {
		f := queue[0]
		queue = queue[1:]
		if f.name != c.python && !strings.Contains(path.Base(f.name), ".so") {
			continue
		}
		data, err := f.read()
		if err != nil {
			continue
		}
		e, err := importer.ReadELF(bytes.NewReader(data))
		if err != nil {
			continue
		}
		for _, need := range e.Needed {
			if seen[need] || importer.OfLibc(need) || strings.Contains(need, "/") {
				continue
			}
			seen[need] = true
			if lib := c.library(f, e, need); lib != nil {
				out = append(out, lib)
				queue = append(queue, lib)
			}
		}
	}
	slices.SortFunc(out, func(a, b *file) int { return strings.Compare(a.name, b.name) })
	return out
}

func (c *candidate) library(of *file, e *importer.ELF, need string) *file {
	for _, dir := range e.RunPath {
		rest, ok := strings.CutPrefix(strings.Replace(dir, "${ORIGIN}", "$ORIGIN", 1), "$ORIGIN")
		if !ok || strings.HasPrefix(of.name, LibDir) {
			continue
		}
		if lib := c.tree[path.Join(path.Dir(of.name), rest, need)]; lib != nil {
			return lib
		}
	}
	for _, dir := range []string{"lib", "lib64"} {
		if lib := c.tree[dir+"/"+need]; lib != nil {
			moved := *lib
			moved.name = LibDir + "/" + need
			return &moved
		}
	}
	for _, dir := range importer.SystemLibs() {
		full := path.Join(dir, need)
		info, err := os.Stat(full)
		if err != nil || !info.Mode().IsRegular() || !plainName.MatchString(need) {
			continue
		}
		f, err := os.Open(full)
		if err != nil {
			continue
		}
		lib, err := importer.ReadELF(f)
		_ = f.Close()
		if err == nil && lib.Machine == c.elf.Machine && lib.Bits == c.elf.Bits && lib.Libc == c.elf.Libc {
			return &file{name: LibDir + "/" + need, stamp: stampOf(info), source: full, read: func() ([]byte, error) { return os.ReadFile(full) }}
		}
	}
	return nil // as on this machine: what needs it cannot be imported
}

// wrapper is what sys.executable is, where the interpreter itself does not find its libraries.
const wrapper = "#!/bin/sh\nd=${0%/*}/..\nexport LD_LIBRARY_PATH=\"$d/" + LibDir + "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\"\nexec \"$d/PYTHON\" \"$@\"\n"

// build reads all files.
func (c *candidate) build(ctx context.Context, files []*file) (*Build, error) {
	b := &Build{
		Place: c.place, Version: c.version, Machine: c.elf.Machine, Bits: c.elf.Bits, Libc: c.elf.Libc, Loader: c.elf.Loader, Python: c.python,
		Foreign: slices.ContainsFunc(files, func(f *file) bool { return strings.HasPrefix(f.name, LibDir+"/") }),
	}
	if b.Foreign {
		text := []byte(strings.Replace(wrapper, "PYTHON", c.python, 1))
		files = append(files, &file{name: Wrapper, exec: true, read: func() ([]byte, error) { return text, nil }})
	}
	slices.SortFunc(files, func(a, b *file) int { return strings.Compare(a.name, b.name) })
	var manifest bytes.Buffer
	for _, f := range files {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		data, err := f.read()
		if err != nil {
			return nil, err
		}
		if strings.Contains(f.name, ".so") || f.name == c.python {
			if e, err := importer.ReadELF(bytes.NewReader(data)); err == nil && importer.Newer(e.Version, b.Glibc) {
				b.Glibc = e.Version
			}
		}
		data = stripped(data)
		m := member{f.name, f.exec, sha256.Sum256(data)}
		b.members = append(b.members, m)
		b.Size += int64(len(data))
		fmt.Fprintf(&manifest, "%x  %s\n", m.sum, m.name)
	}
	b.manifest = manifest.Bytes()
	sum := sha256.Sum256(b.manifest)
	b.Hash = hex.EncodeToString(sum[:])
	return b, nil
}

// stripped cuts off what of a program or library is not loaded: symbols and what debuggers read, often the larger part. The table that
// says where that was goes, too.
func stripped(data []byte) []byte {
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return data
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil || len(f.Progs) == 0 {
		return data
	}
	// Where the file's header has the places of the two tables, of what is loaded and of all sections, and the size of the latter.
	programs, sections, width, counts, entry := 0x20, 0x28, 8, 0x3a, 56
	if f.Class == elf.ELFCLASS32 {
		programs, sections, width, counts, entry = 0x1c, 0x20, 4, 0x2e, 32
	}
	var end uint64
	if width == 8 {
		end = f.ByteOrder.Uint64(data[programs:])
	} else {
		end = uint64(f.ByteOrder.Uint32(data[programs:]))
	}
	end += uint64(entry * len(f.Progs))
	for _, p := range f.Progs {
		end = max(end, p.Off+p.Filesz)
	}
	if end > uint64(len(data)) {
		return data
	}
	out := bytes.Clone(data[:end])
	clear(out[sections : sections+width])
	clear(out[counts : counts+6])
	return out
}

// contents calls fn with each file of the build, in order. It fails when one is not as it was.
func (b *Build) contents(ctx context.Context, fn func(m member, data []byte) error) error {
	found, err := candidates(ctx, b.Place)
	if err != nil {
		return err
	}
	changed := errors.New(b.Place + ": it has changed while it was sent: connect again")
	i := slices.IndexFunc(found, func(c *candidate) bool {
		return c.python == b.Python && c.elf.Loader == b.Loader && c.elf.Machine == b.Machine
	})
	if i < 0 {
		return changed
	}
	_, files := found[i].files()
	byName := map[string]*file{}
	for _, f := range files {
		byName[f.name] = f
	}
	for _, m := range b.members {
		var data []byte
		switch f := byName[m.name]; {
		case m.name == Wrapper && b.Foreign:
			data = []byte(strings.Replace(wrapper, "PYTHON", b.Python, 1))
		case f == nil:
			return changed
		default:
			if data, err = f.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			data = stripped(data)
		}
		if err != nil || sha256.Sum256(data) != m.sum {
			return changed
		}
		if err := fn(m, data); err != nil {
			return err
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
