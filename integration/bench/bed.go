package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

//go:embed py
var pyFiles embed.FS

// bed has what measurements need: interpreters, directories and files, each made when first asked for.
type bed struct {
	dir      string // temporary, removed at the end
	self     string // this binary
	peer     string // the interpreter of the Python peers
	mitogend string // the built command, empty if it does not build
	most     int    // interpreters of a peer's fleet

	mu   sync.Mutex
	made map[string]string
	errs map[string]error
	ends []func() // called when it ends
}

func newBed(peer string) (*bed, error) {
	dir, err := os.MkdirTemp("", "mitogend-bench-")
	if err != nil {
		return nil, err
	}
	b := &bed{dir: dir, peer: peer, made: map[string]string{}, errs: map[string]error{}}
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	err = fs.WalkDir(pyFiles, "py", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(dir, name), 0o755)
		}
		data, err := pyFiles.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), data, 0o644)
	})
	return b, err
}

func (b *bed) close() error {
	for _, end := range b.ends {
		end()
	}
	return os.RemoveAll(b.dir)
}

func (b *bed) py(name string) string { return filepath.Join(b.dir, "py", name) }
func (b *bed) childDir() string      { return filepath.Join(b.dir, "py", "child") }

// once makes something the first time it is asked for, and remembers a failure, too.
func (b *bed) once(key string, build func(dir string) (string, error)) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.made[key]; !ok {
		b.made[key], b.errs[key] = build(filepath.Join(b.dir, key))
	}
	return b.made[key], b.errs[key]
}

// python gives an interpreter of version "2.7", "3.11" ...; 3.x in a virtual environment without site packages, so that a
// large installation does not make every start slower. "peer" is the interpreter of the Python peers, as installed.
func (b *bed) python(version string) (string, error) {
	if version == "peer" {
		return b.peer, nil
	}
	return b.once("venv-"+version, func(dir string) (string, error) {
		found, err := findPython(version)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(version, "2.") {
			return found, nil
		}
		if out, err := exec.Command(found, "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
			return "", fmt.Errorf("venv from %s: %w: %s", found, err, out)
		}
		return filepath.Join(dir, "bin", "python"), nil
	})
}

// findPython searches $MITOGEND_PYTHONS, else at pyenv's interpreters and those of .ci/pythons, else on $PATH.
func findPython(version string) (string, error) {
	var candidates []string
	if list := os.Getenv("MITOGEND_PYTHONS"); list != "" {
		candidates = filepath.SplitList(list)
	} else {
		root := os.Getenv("PYENV_ROOT")
		if root == "" {
			root = filepath.Join(os.Getenv("HOME"), ".pyenv")
		}
		candidates, _ = filepath.Glob(filepath.Join(root, "versions", version+"*", "bin", "python"))
		sort.Sort(sort.Reverse(sort.StringSlice(candidates)))
		candidates = append(candidates, filepath.Join(cmp.Or(os.Getenv("MITOGEND_TREE"), "/var/cache/mitogend-tests"), "python/usr/bin/python"+version))
	}
	for _, name := range []string{"python" + version, "python3"} {
		if path, err := exec.LookPath(name); err == nil {
			candidates = append(candidates, path)
		}
	}
	for _, path := range candidates {
		out, err := exec.Command(path, "-c", "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])").Output()
		if err == nil && string(out) == version {
			return path, nil
		}
	}
	return "", fmt.Errorf("no Python %s: set MITOGEND_PYTHONS", version)
}

// relayed gives a stand-in for an interpreter, behind a link with a round trip time, which may count bytes.
func (b *bed) relayed(python string, rtt time.Duration, count string) (string, error) {
	f, err := os.CreateTemp(b.dir, "relay-*")
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "#!/bin/sh\nexec %s -relay -rtt %v -count '%s' -- %s \"$@\"\n", b.self, rtt, count, python)
	return f.Name(), errors.Join(err, f.Chmod(0o755), f.Close())
}

// packages are what the cold imports need, as Debian installs them for the peer's interpreter.
var packages = []string{"django", "asgiref", "sqlparse", "pytz", "sqlalchemy", "greenlet", "jinja2", "markupsafe"}

// sources copies the packages without extension modules and without .pyc files, so that everybody imports the same source.
func (b *bed) sources() (string, error) {
	return b.once("sources", func(dir string) (string, error) {
		for _, name := range packages {
			out, err := exec.Command(b.peer, "-c", "import sys, os; m = __import__(sys.argv[1]); "+
				"sys.stdout.write(os.path.dirname(m.__file__))", name).Output()
			if err != nil {
				return "", fmt.Errorf("%s is not installed for %s", name, b.peer)
			}
			if err := copySource(filepath.Join(dir, name), string(out)); err != nil {
				return "", err
			}
		}
		return dir, nil
	})
}

func copySource(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && d.Name() == "__pycache__":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dst, rel), 0o755)
		case filepath.Ext(path) != ".py":
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dst, rel), data, 0o644)
	})
}

// compiled is the same with .pyc files by the given interpreter.
func (b *bed) compiled(version string) (string, error) {
	src, err := b.sources()
	if err != nil {
		return "", err
	}
	python, err := b.python(version)
	if err != nil {
		return "", err
	}
	return b.once("compiled-"+version, func(dir string) (string, error) {
		if err := copySource(dir, src); err != nil {
			return "", err
		}
		// Exit status 1 means that some file of a package does not compile (a template, for example), which does not matter.
		_ = exec.Command(python, "-m", "compileall", "-q", dir).Run()
		if pyc, _ := filepath.Glob(filepath.Join(dir, "jinja2", "__pycache__", "*.pyc")); len(pyc) == 0 {
			return "", errors.New("compileall wrote nothing")
		}
		return dir, nil
	})
}

// bigFile is a file of n bytes that compresses badly.
func (b *bed) bigFile(n int64) (string, error) {
	return b.once(fmt.Sprintf("file-%d", n), func(path string) (string, error) {
		random, err := os.Open("/dev/urandom")
		if err != nil {
			return "", err
		}
		defer random.Close()
		f, err := os.Create(path)
		if err != nil {
			return "", err
		}
		_, err = io.CopyN(f, random, n)
		return path, errors.Join(err, f.Close())
	})
}

// modules makes count modules of about size bytes, named modPREFIX0 and so on.
func (b *bed) modules(size, count int) (dir, prefix string, err error) {
	prefix = fmt.Sprintf("mod%d_", size)
	dir, err = b.once(fmt.Sprintf("modules-%d", size), func(dir string) (string, error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		for i := range count {
			var s strings.Builder
			fmt.Fprintf(&s, "\"\"\"Module %d of the kind that people write: functions, text, comments.\"\"\"\n\nimport os\nimport sys\n", i)
			for j := 0; s.Len() < size; j++ {
				fmt.Fprintf(&s, moduleFunction, j, i, j*7919%1000, j, j*104729%9973)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s%d.py", prefix, i)), []byte(s.String()), 0o644); err != nil {
				return "", err
			}
		}
		return dir, nil
	})
	return dir, prefix, err
}

const moduleFunction = `

def function_%d(values, limit=%d, name='value-%d'):
    """Adds what is below the limit and counts the rest."""
    total, rest = 0, []
    for position, value in enumerate(values):
        # Every tenth one counts twice.
        if value < limit and position %% 10:
            total += value
        else:
            rest.append((name, position, value * %d))
    return {'total': total, 'rest': rest, 'where': os.getpid(), 'seed': %d}
`

// buildMitogend builds the command as it is shipped.
func (b *bed) buildMitogend(ctx context.Context, root string) error {
	out := filepath.Join(b.dir, "mitogend")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "codec.notfastpath", "-trimpath", "-ldflags=-s -w", "-o", out, "./cmd/mitogend")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./cmd/mitogend: %w: %s", err, text)
	}
	b.mitogend = out
	return nil
}

// environ is the environment of drivers, and so of children: nothing in it may change what a child can import. Nobody writes
// .pyc files: a master that imports the modules that it serves would leave them for the floor. No running daemon is found. The
// cache of bytecode is this run's; its first samples fill it.
func (b *bed) environ(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PYTHON") && !strings.HasPrefix(kv, "MITOGEN") &&
			!strings.HasPrefix(kv, "XDG_RUNTIME_DIR=") && !strings.HasPrefix(kv, "XDG_CACHE_HOME=") {
			env = append(env, kv)
		}
	}
	return append(append(env, "LC_ALL=C.UTF-8", "XDG_RUNTIME_DIR="+filepath.Join(b.dir, "run"), "XDG_CACHE_HOME="+filepath.Join(b.dir, "cache"), "PYTHONDONTWRITEBYTECODE=1"), extra...)
}
