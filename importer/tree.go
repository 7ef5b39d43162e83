package importer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync/atomic"
)

// Tree is where modules come from that lie in a Go program and not on a disk. In a package with lib/facts.py:
//
//	//go:embed all:lib
//	var lib embed.FS
//
//	daemon.Options{Modules: []importer.Tree{{FS: lib, Root: "lib"}}}
//
// Without all: Go leaves out files whose names begin with an underscore, as __init__.py.
type Tree struct {
	// FS has the files. It is listed when the importer is made, and must not change. Links to directories are passed
	// over.
	FS fs.FS
	// Root is the directory in it that stands for an entry of the path; empty for FS's own root.
	Root string
	// Name is what names of files begin with, as tracebacks show them: embed:NAME/facts.py. Empty means Root or,
	// without one, modules.
	Name string
}

// treePrefix tells names of a tree's files from those of a disk.
const treePrefix = "embed:"

// trees counts those of this process: each is told from all others by a key that no file has.
var trees atomic.Uint64

// openTrees makes of each tree what an archive is.
func openTrees(list []Tree) (roots []location, err error) {
	var names []string
	for _, t := range list {
		root := t.Root
		if root == "" {
			root = "."
		}
		name := t.Name
		switch {
		case name == "" && root == ".":
			name = "modules"
		case name == "":
			name = root
		}
		switch {
		case t.FS == nil:
			err = errors.New("it has no FS")
		case !fs.ValidPath(root):
			err = fmt.Errorf("its root %q is no path of an FS", root)
		case !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00"):
			err = errors.New("it cannot be named so")
		case slices.Contains(names, name):
			err = errors.New("two have that name")
		}
		var arc *archive
		if err == nil {
			arc, err = openTree(t.FS, root, name)
		}
		if err != nil {
			return nil, fmt.Errorf("importer: tree %q: %w", name, err)
		}
		names = append(names, name)
		roots = append(roots, location{arc: arc})
	}
	return roots, nil
}

func openTree(fsys fs.FS, root, name string) (*archive, error) {
	if root != "." {
		var err error
		if fsys, err = fs.Sub(fsys, root); err != nil {
			return nil, err
		}
	}
	a := &archive{
		path: treePrefix + name, tree: fsys, key: fileKey{dev: math.MaxUint64, ino: trees.Add(1)},
		dirs: map[string]*listing{"": newListing()}, files: map[string]*member{},
	}
	err := fs.WalkDir(fsys, ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case file == ".":
			if !d.IsDir() {
				return errors.New("its root is no directory")
			}
			return nil
		case strings.ContainsAny(file, "\\\x00") || strings.Count(file, "/") >= maxArchiveDepth:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			a.mkdir(file)
			return nil
		}
		info, err := fs.Stat(fsys, file) // follows a link
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			open := func() (io.ReadCloser, error) { return fsys.Open(file) }
			a.add(file, &member{uint64(info.Size()), info.Mode(), open})
			a.key.size += info.Size()
		}
		return nil
	})
	return a, err
}
