package unixclient

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// process is what a client's process tells about itself.
type process struct {
	python []string // its interpreter, as a command
	dir    string
	env    []string
}

// inspect looks at a process in /proc. The script's directory, which Python puts before everything else, becomes part
// of PYTHONPATH.
func inspect(pid int) (*process, error) {
	if pid <= 0 {
		return nil, errors.New("unixclient: the client's process is not known: it runs in another container")
	}
	root := fmt.Sprintf("/proc/%d/", pid)
	exe, err := os.Readlink(root + "exe")
	if err != nil {
		return nil, fmt.Errorf("unixclient: the client's interpreter is not known: %w", err)
	}
	dir, err := os.Readlink(root + "cwd")
	if err != nil {
		return nil, fmt.Errorf("unixclient: the client's directory is not known: %w", err)
	}
	env, err := fields(root + "environ")
	if err != nil {
		return nil, err
	}
	args, err := fields(root + "cmdline")
	if err != nil {
		return nil, err
	}
	p := &process{python: []string{interpreter(exe, dir, args, env)}, dir: dir, env: env}
	if script := script(args, dir); script != "" {
		p.prepend(filepath.Dir(script))
	}
	return p, nil
}

func fields(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("unixclient: %w", err)
	}
	return slices.DeleteFunc(strings.Split(string(data), "\x00"), func(s string) bool { return s == "" }), nil
}

// interpreter prefers the name by which the program was started to the file that runs: the way to a virtual
// environment is a link.
func interpreter(exe, dir string, args, env []string) string {
	if len(args) == 0 {
		return exe
	}
	name := args[0]
	candidates := []string{}
	switch {
	case filepath.IsAbs(name):
		candidates = append(candidates, name)
	case strings.Contains(name, "/"):
		candidates = append(candidates, filepath.Join(dir, name))
	default:
		for _, kv := range env {
			if list, ok := strings.CutPrefix(kv, "PATH="); ok {
				for _, d := range filepath.SplitList(list) {
					candidates = append(candidates, filepath.Join(d, name))
				}
			}
		}
	}
	for _, path := range candidates {
		if real, err := filepath.EvalSymlinks(path); err == nil && real == exe {
			return path
		}
	}
	return exe
}

// script finds the program in the arguments of an interpreter: the first that is a file.
func script(args []string, dir string) string {
	for i := 1; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-c" || arg == "-m":
			return ""
		case arg == "-W" || arg == "-X":
			i++
		case strings.HasPrefix(arg, "-"):
		default:
			if !filepath.IsAbs(arg) {
				arg = filepath.Join(dir, arg)
			}
			if real, err := filepath.EvalSymlinks(arg); err == nil {
				return real
			}
			return ""
		}
	}
	return ""
}

// prepend puts a directory first on the module path.
func (p *process) prepend(dir string) {
	for i, kv := range p.env {
		if list, ok := strings.CutPrefix(kv, "PYTHONPATH="); ok {
			p.env = slices.Clone(p.env)
			p.env[i] = "PYTHONPATH=" + dir + string(filepath.ListSeparator) + list
			return
		}
	}
	p.env = append(slices.Clip(p.env), "PYTHONPATH="+dir)
}
