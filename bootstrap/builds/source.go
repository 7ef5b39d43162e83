package builds

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Bounds of what is looked at in one place: entries of a tar file, bytes of files that are taken, and directories of builds.
const (
	maxEntries = 200_000
	maxBytes   = 1 << 30
	maxDirs    = 1000
)

// file is one file of a build.
type file struct {
	name   string // with slashes, from the build's root
	exec   bool
	stamp  string // changes with the content
	source string // as errors call it
	read   func() ([]byte, error)
}

// tree has the files of a build that may be of use, by name.
type tree map[string]*file

var (
	interpreterName = regexp.MustCompile(`^bin/python([23]\.[0-9]{1,2})$`)
	libraryName     = regexp.MustCompile(`^lib(64)?/[^/]+\.so(\.[0-9.]+)?$`)
	stdlibName      = regexp.MustCompile(`^lib(64)?/python([23]\.[0-9]{1,2})/(.+)$`)
	skippedDir      = regexp.MustCompile(`^(__pycache__|test|tests|idle_test|idlelib|tkinter|lib-tk|turtledemo|ensurepip|lib2to3|site-packages|dist-packages|config|config-.*)$`)
	skippedFile     = regexp.MustCompile(`\.(a|o|pyc|pyo|whl|exe|lib)$|^lib-dynload/(_test|_ctypes_test|_tkinter|xx)|^(turtle|pydoc_data/topics)\.py$`)
	plainName       = regexp.MustCompile(`^[A-Za-z0-9_./+@,=: -]+$`)
)

// wanted tells of files that a build may need on a target.
func wanted(name string) bool {
	if !plainName.MatchString(name) {
		return false
	}
	if interpreterName.MatchString(name) || libraryName.MatchString(name) {
		return true
	}
	m := stdlibName.FindStringSubmatch(name)
	if m == nil || skippedFile.MatchString(m[3]) {
		return false
	}
	return !slices.ContainsFunc(strings.Split(path.Dir(m[3]), "/"), skippedDir.MatchString)
}

// kind is what a place is.
type kind int

const (
	isTar kind = iota
	isBuild
	isDirectory // of builds
)

// kindOf looks no further than it must.
func kindOf(place string) (kind, error) {
	info, err := os.Stat(place)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s: %w", place, cause(err))
	case info.Mode().IsRegular():
		r, done, err := openTar(place)
		if err == nil {
			_, err = tar.NewReader(r).Next()
			done()
		}
		if err != nil {
			return 0, fmt.Errorf("%s: it is no tar file: %w", place, notTar(err))
		}
		return isTar, nil
	case !info.IsDir():
		return 0, fmt.Errorf("%s: it is neither a directory nor a tar file", place)
	}
	if hasInterpreter(place) {
		return isBuild, nil
	}
	if _, err := os.Stat(filepath.Join(place, "pyvenv.cfg")); err == nil {
		return 0, fmt.Errorf("%s: it is a virtual environment, which is no build by itself: name what home in its pyvenv.cfg lies in", place)
	}
	dirs, err := below(place)
	switch {
	case err != nil:
		return 0, err
	case !slices.ContainsFunc(dirs, hasInterpreter):
		return 0, fmt.Errorf("%s: there is no Python in it: a build has bin/python3.X and lib/python3.X", place)
	}
	return isDirectory, nil
}

func notTar(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is empty, or cut off")
	}
	return err
}

func cause(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// below gives the directories in a directory of builds, each once.
func below(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, cause(err))
	}
	defer f.Close()
	names, err := f.Readdirnames(maxDirs)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", dir, cause(err))
	}
	var out []string
	slices.Sort(names)
	for _, name := range names {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err == nil && !slices.Contains(out, real) {
			out = append(out, real)
		}
	}
	return out, nil
}

// hasInterpreter tells whether a directory is a build.
func hasInterpreter(dir string) bool {
	bin, _ := os.ReadDir(filepath.Join(dir, "bin"))
	return slices.ContainsFunc(bin, func(e fs.DirEntry) bool {
		m := interpreterName.FindStringSubmatch("bin/" + e.Name())
		if m == nil {
			return false
		}
		_, err := os.Stat(filepath.Join(dir, "lib", "python"+m[1], "os.py"))
		_, err64 := os.Stat(filepath.Join(dir, "lib64", "python"+m[1], "os.py"))
		return err == nil || err64 == nil
	})
}

// dirTree lists a build that is a directory.
func dirTree(root string) (tree, error) {
	t := tree{}
	total := int64(0)
	add := func(name string) error {
		full := filepath.Join(root, filepath.FromSlash(name))
		info, err := os.Stat(full)
		if err != nil || !info.Mode().IsRegular() || !wanted(name) {
			return nil // a link that leads nowhere, or a directory
		}
		if total += info.Size(); total > maxBytes || len(t) > maxEntries {
			return fmt.Errorf("%s: it has more than %d MiB, which is no build of Python", root, maxBytes>>20)
		}
		t[name] = &file{name: name, exec: info.Mode()&0o111 != 0, stamp: stampOf(info), source: full, read: func() ([]byte, error) {
			data, err := os.ReadFile(full)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", full, cause(err))
			}
			return data, nil
		}}
		return nil
	}
	for _, dir := range []string{"bin", "lib", "lib64"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", root, cause(err))
		}
		for _, e := range entries {
			name := dir + "/" + e.Name()
			if !stdlibName.MatchString(name + "/x") {
				if err := add(name); err != nil {
					return nil, err
				}
				continue
			}
			// The directory itself may be a link; those in it are not followed.
			full, err := filepath.EvalSymlinks(filepath.Join(root, dir, e.Name()))
			if err != nil {
				continue
			}
			err = filepath.WalkDir(full, func(p string, e fs.DirEntry, err error) error {
				rel, _ := filepath.Rel(full, p)
				switch {
				case err != nil:
					return fmt.Errorf("%s: %w", p, cause(err))
				case e.IsDir() && rel != "." && skippedDir.MatchString(e.Name()):
					return fs.SkipDir
				case e.IsDir():
					return nil
				}
				return add(name + "/" + filepath.ToSlash(rel))
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// stampOf changes with a file's content, unless somebody takes pains that it does not.
func stampOf(info fs.FileInfo) string {
	stamp := fmt.Sprintf("%d.%d", info.Size(), info.ModTime().UnixNano())
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		stamp += fmt.Sprintf(".%d.%d.%d", s.Dev, s.Ino, s.Ctim.Nano())
	}
	return stamp
}

// openTar reads a tar file, whatever it is compressed by.
func openTar(place string) (io.Reader, func(), error) {
	f, err := os.Open(place)
	if err != nil {
		return nil, nil, cause(err)
	}
	closeFile := func() { _ = f.Close() }
	b := bufio.NewReaderSize(f, 1<<16)
	head, _ := b.Peek(6)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			closeFile()
			return nil, nil, err
		}
		return z, closeFile, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(b), closeFile, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			closeFile()
			return nil, nil, err
		}
		return z, func() { z.Close(); closeFile() }, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ")):
		closeFile()
		return nil, nil, errors.New("it is compressed by xz, which is not read here: decompress it (xz -d)")
	}
	return b, closeFile, nil
}

// tarTrees reads the builds in a tar file, by the directory in which they lie.
func tarTrees(place string) (map[string]tree, error) {
	fail := func(err error) (map[string]tree, error) { return nil, fmt.Errorf("%s: %w", place, err) }
	r, done, err := openTar(place)
	if err != nil {
		return fail(err)
	}
	defer done()
	info, err := os.Stat(place)
	if err != nil {
		return fail(cause(err))
	}
	all, links := tree{}, map[string]string{}
	roots := map[string]bool{}
	total := int64(0)
	entries := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fail(fmt.Errorf("it is no tar file, or it is damaged: %w", notTar(err)))
		}
		name := path.Clean(h.Name)
		switch {
		case n > maxEntries:
			return fail(fmt.Errorf("it has more than %d entries, which is no build of Python", maxEntries))
		case path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../"):
			return fail(fmt.Errorf("its entry %q leads out of it", h.Name))
		}
		root, rest := split(name)
		if rest == "" {
			continue
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			links[name] = path.Clean(h.Linkname)
		case tar.TypeReg:
			if total += h.Size; total > maxBytes {
				return fail(fmt.Errorf("it has more than %d MiB, which is no build of Python", maxBytes>>20))
			}
			data, err := io.ReadAll(entries)
			if err != nil {
				return fail(fmt.Errorf("it is cut off, or damaged: %w", err))
			}
			all[name] = &file{name: rest, exec: h.Mode&0o111 != 0, stamp: stampOf(info), source: place + ": " + name, read: func() ([]byte, error) { return data, nil }}
		default:
			continue
		}
		if interpreterName.MatchString(rest) {
			roots[root] = true
		}
	}
	for name, to := range links {
		for range 10 {
			if next, ok := links[to]; ok {
				to = next
			}
		}
		if target := all[to]; target != nil {
			f := *target
			_, f.name = split(name)
			all[name] = &f
		}
	}
	out := map[string]tree{}
	for name, f := range all {
		root, _ := split(name)
		if roots[root] {
			if out[root] == nil {
				out[root] = tree{}
			}
			out[root][f.name] = f
		}
	}
	return out, nil
}

// split divides the name of a tar's entry into the build's directory and the rest, which is "" for what no build needs.
func split(name string) (root, rest string) {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if part != "bin" && part != "lib" && part != "lib64" {
			continue
		}
		if rest = strings.Join(parts[i:], "/"); wanted(rest) {
			return strings.Join(parts[:i], "/"), rest
		}
	}
	return "", ""
}
