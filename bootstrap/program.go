package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// expandPythons puts the files of PATH in place of a pattern that they match.
func expandPythons(list []string, opt StartOptions) []string {
	var out []string
	for _, name := range list {
		if !strings.ContainsRune(name, '[') {
			out = append(out, name)
			continue
		}
		for _, dir := range searchPath(opt) {
			found, _ := filepath.Glob(filepath.Join(escapeGlob.Replace(dir), name))
			out = append(out, found...)
		}
	}
	return out
}

var escapeGlob = strings.NewReplacer("[", `\[`, "*", `\*`, "?", `\?`, `\`, `\\`)

// searchPath gives the directories where the program is looked up.
func searchPath(opt StartOptions) (dirs []string) {
	list := os.Getenv("PATH")
	for _, entry := range opt.Env {
		if v, ok := strings.CutPrefix(entry, "PATH="); ok {
			list = v
		}
	}
	for _, dir := range filepath.SplitList(list) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// lookPath is exec.LookPath with the directory and the PATH that the program will have.
func lookPath(program string, opt StartOptions) (string, error) {
	if strings.ContainsRune(program, '/') {
		if opt.Dir == "" || filepath.IsAbs(program) {
			return exec.LookPath(program)
		}
		return exec.LookPath(filepath.Join(opt.Dir, program))
	}
	for _, entry := range opt.Env {
		list, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if !filepath.IsAbs(dir) {
				continue // as exec.LookPath: a program of the current directory is asked for by its path
			}
			if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
				return path, nil
			}
		}
		return "", &exec.Error{Name: program, Err: exec.ErrNotFound}
	}
	return exec.LookPath(program)
}

// fork starts the program as leader of a session of its own, so that ^C on our terminal is ours alone and its group can be
// killed as a whole.
func fork(path string, argv []string, env map[string]string, opt StartOptions, d *stdio) (int, error) {
	attr := &syscall.ProcAttr{
		Dir:   opt.Dir,
		Env:   environment(opt.Env, env),
		Files: []uintptr{uintptr(d.child[0]), uintptr(d.child[1]), uintptr(d.child[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if d.tty >= 0 {
		attr.Sys.Setctty, attr.Sys.Ctty = true, d.tty
	}
	return syscall.ForkExec(path, argv, attr)
}

// environment gives the program's environment: base, or our own if base is empty, with more put into it. Each name is there once: of two
// entries some programs take the first, and others the last.
func environment(base []string, more map[string]string) []string {
	if len(base) == 0 {
		base = os.Environ()
	}
	base = WithoutSecrets(base)
	last := make(map[string]int, len(base))
	for i, entry := range base {
		name, _, _ := strings.Cut(entry, "=")
		last[name] = i
	}
	out := make([]string, 0, len(base)+len(more))
	for i, entry := range base {
		name, _, _ := strings.Cut(entry, "=")
		if _, set := more[name]; !set && last[name] == i && name != "PYTHONINSPECT" { // see chooser
			out = append(out, entry)
		}
	}
	for _, name := range sortedKeys(more) {
		out = append(out, name+"="+more[name])
	}
	return out
}

// programError says why a program, found at path, cannot be started.
func programError(program, path string, err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s: %w", program, exec.ErrNotFound)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: %w; a script needs a #! line", program, err)
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(path); err == nil {
			return fmt.Errorf("%s: cannot be started: the program that its #! line names is not there", program)
		}
		return notThere(program)
	}
	return fmt.Errorf("%s: cannot be started: %w", program, err)
}

// notThere is the path of a program where no file is.
type notThere string

func (e notThere) Error() string { return string(e) + ": there is no such file" }

func (notThere) Is(target error) bool { return target == exec.ErrNotFound }
