package main

import (
	"archive/zip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mitogend/daemon"
	"mitogend/daemon/owned"
)

// stdinScript is how Python calls a program that it reads from stdin.
const stdinScript = "<stdin>"

// script is what to run. Python looks for its modules in dir first.
type script struct {
	path    string
	source  []byte
	dir     string
	options daemon.RunOptions
}

// maxScript bounds a script, so that a wrong path (/dev/zero) gives an error and does not fill the memory.
const maxScript = 64 << 20

// find reads the script: a file, stdin for -, or __main__.py of a directory or archive. Of a module it reads nothing.
func (c *runCommand) find(name string, stdin io.Reader) (script, error) {
	s := script{path: name, dir: "."}
	var err error
	packed := false
	switch {
	case c.module:
		if strings.Contains(name, "/") || name == "" {
			return s, usagef("-m %s: that is no name of a module", name)
		}
	case name == "-":
		s.path = stdinScript
		s.source, err = readScript(s.path, stdin)
	default:
		if s.source, packed, err = openScript(name); packed {
			s.dir = name
		} else if real, err := filepath.EvalSymlinks(name); err == nil {
			s.dir = filepath.Dir(real)
		}
	}
	if err != nil {
		return s, err
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return s, usagef("the current directory: %w", cause(err))
	}
	s.options = daemon.RunOptions{Path: s.path, Source: s.source, Packed: packed}
	if owned.CheckDir(dir) == nil {
		// Into another directory, somebody else may have put modules.
		s.options.Dir = dir
	}
	if s.path == name && !c.module {
		s.options.File = absolute(name)
	}
	return s, nil
}

// absolute makes a name absolute as Python does. It cleans nothing but a leading ./.
func absolute(name string) string {
	cwd, err := os.Getwd()
	if filepath.IsAbs(name) || err != nil {
		return name
	}
	return strings.TrimSuffix(cwd, "/") + "/" + strings.TrimPrefix(name, "./")
}

// openScript reads a script, or __main__.py of a directory or archive.
func openScript(name string) (source []byte, packed bool, err error) {
	f, err := os.Open(name) // of a FIFO this waits for a writer
	if errors.Is(err, fs.ErrNotExist) {
		if !strings.ContainsAny(name, "/.") {
			return nil, false, usagef("there is no script %s; a command is run by mitogend exec -- %s", name, name)
		}
		return nil, false, usagef("there is no script %s", name)
	}
	if err != nil {
		return nil, false, usagef("script %s: %w", name, cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		main := filepath.Join(name, mainFile)
		if _, err := os.Lstat(main); errors.Is(err, fs.ErrNotExist) {
			return nil, false, usagef("script %s: it is a directory without %s", name, mainFile)
		}
		source, _, err = openScript(main)
		return source, true, err
	case info.Mode().IsRegular():
		if zr, err := zip.NewReader(f, info.Size()); err == nil {
			main, err := zr.Open(mainFile)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, false, usagef("script %s: %s: %w", name, mainFile, cause(err))
			}
			if err != nil {
				return nil, false, usagef("script %s: it is an archive without %s", name, mainFile)
			}
			source, err = readScript(name, main)
			return source, true, err
		}
	}
	source, err = readScript(name, f)
	return source, false, err
}

// mainFile is the file of a directory or archive that runs.
const mainFile = "__main__.py"

func readScript(name string, r io.Reader) ([]byte, error) {
	source, err := io.ReadAll(io.LimitReader(r, maxScript+1))
	if err != nil {
		return nil, usagef("script %s: %w", name, cause(err))
	}
	if len(source) > maxScript {
		return nil, usagef("script %s: it is larger than %d bytes", name, maxScript)
	}
	return source, nil
}
