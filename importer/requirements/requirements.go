// Package requirements resolves what programs need: pip on this machine finds wheels for the Python, the machine and the C library of a
// target, and they are kept in a directory of ours. Nothing is installed, neither here nor there.
//
// The directory is requirements/KEY in mitogend's directory of the user's caches, of mode 0700, which nobody else may write to. The key
// is made of all that decides what is in it, but for what an index has: after a day pip is asked again, and what nobody has asked for
// in 30 days is removed. There are no goroutines; the same is resolved once, while others wait.
package requirements

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"deps.dev/util/pypi"

	"mitogend/daemon/owned"
	"mitogend/importer"
)

// fresh is how long what was found is taken without asking again.
const fresh = 24 * time.Hour

// maxFile is the size of the largest file of requirements, in bytes; maxFiles is how many are looked at, with those that they
// name.
const (
	maxFile  = 4 << 20
	maxFiles = 100
)

// otherFile finds what a file of requirements names by -r or -c.
var otherFile = regexp.MustCompile(`(?m)^[ \t]*(?:-r|-c|--requirement|--constraint)[ \t=]*([^ \t\r\n=][^ \t\r\n]*)`)

var projectName = regexp.MustCompile(`^\s*[A-Za-z0-9][A-Za-z0-9._-]*\s*($|[\[(;<>=!~@])`)

// Check finds what is no requirement. The error begins with the text.
func Check(line string) error {
	d, err := pypi.ParseDependency(line)
	if err != nil || d.Name == "" || !projectName.MatchString(line) || strings.ContainsAny(line, "\n\r\x00") {
		return fmt.Errorf("%.100q: that is no requirement, as numpy or numpy>=1.26,<2", line)
	}
	return nil
}

// running keeps the same from being resolved twice at once.
var running struct {
	mu sync.Mutex
	by map[string]chan struct{}
}

// Resolve gives a directory with wheels for a platform. env is pip's environment. The error has what pip says, or says what to
// do.
func Resolve(ctx context.Context, r importer.Requirements, p importer.Platform, env []string) (string, error) {
	if len(r.Lines)+len(r.Files) == 0 {
		return "", nil
	}
	for _, line := range r.Lines {
		if err := Check(line); err != nil {
			return "", err
		}
	}
	if p.ABI == "" || p.Machine == "" {
		return "", errors.New("it is not known what the target is")
	}
	key, err := keyOf(r, p, env)
	if err != nil {
		return "", err
	}
	top, err := cacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(top, 0o700); err != nil {
		return "", err
	}
	if err := owned.CheckDir(top); err != nil {
		return "", fmt.Errorf("wheels cannot be kept in %s, where somebody else could put others: %w; set XDG_CACHE_HOME to a directory of your own", top, err)
	}
	dir := filepath.Join(top, key)
	done, err := enter(ctx, dir)
	if err != nil {
		return "", err
	}
	defer done()
	if isFresh(dir) {
		return dir, nil
	}
	if err := download(ctx, r, p, env, top, dir); err != nil {
		return "", err
	}
	_ = trim() // the next time
	return dir, nil
}

// enter waits until nobody else resolves the same.
func enter(ctx context.Context, dir string) (done func(), err error) {
	for {
		running.mu.Lock()
		other := running.by[dir]
		if other == nil {
			if running.by == nil {
				running.by = map[string]chan struct{}{}
			}
			own := make(chan struct{})
			running.by[dir] = own
			running.mu.Unlock()
			return func() {
				running.mu.Lock()
				delete(running.by, dir)
				running.mu.Unlock()
				close(own)
			}, nil
		}
		running.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func keyOf(r importer.Requirements, p importer.Platform, env []string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %v %q %q %q %q\n", r.Lines, r.Files, p.Version, p.ABI, p.Machine, p.Libc, p.LibcVersion)
	files := slices.Clone(r.Files)
	for i := 0; i < len(files); i++ {
		file := files[i]
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
			if i >= len(r.Files) {
				continue // pip says what is wrong with it
			}
			return "", fmt.Errorf("%s: it is no file, or cannot be read, or has more than %d MiB", file, maxFile>>20)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %x\n", file, sha256.Sum256(data))
		for _, m := range otherFile.FindAllStringSubmatch(string(data), -1) {
			other := m[1]
			if !filepath.IsAbs(other) {
				other = filepath.Join(filepath.Dir(file), other)
			}
			if !slices.Contains(files, other) && len(files) < maxFiles {
				files = append(files, other)
			}
		}
	}
	for _, place := range r.Links {
		stamp := ""
		if entries, err := os.ReadDir(place); err == nil {
			for _, e := range entries {
				if info, err := e.Info(); err == nil {
					stamp += fmt.Sprintf("%s %d %d\n", e.Name(), info.Size(), info.ModTime().UnixNano())
				}
			}
		} else if !strings.Contains(place, "://") {
			return "", err
		}
		fmt.Fprintf(h, "%q %x\n", place, sha256.Sum256([]byte(stamp)))
	}
	settings := slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, "PIP_") })
	slices.Sort(settings)
	fmt.Fprintf(h, "%q\n", settings)
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// notHere keeps Python from the modules of the current directory, which may be somebody else's. (-P is of 3.11.)
const notHere = "import sys;sys.path[:]=[p for p in sys.path if p];"

// pip gives the command line of a pip, 20.3 or later, which takes --abi and --platform more than once: that of the target's Python if
// it is here, since conditions such as python_version < "3.9" are judged by the Python that pip runs under.
func pip(ctx context.Context, v importer.Version, env []string) ([]string, error) {
	for _, python := range []string{"python" + v.String(), "python3", "python"} {
		path, err := exec.LookPath(python)
		if err != nil {
			continue
		}
		check := exec.CommandContext(ctx, path, "-c", notHere+"import pip;[int(n) for n in pip.__version__.split('.')[:2]]>=[20,3] or sys.exit(1)")
		check.Env = env
		if check.Run() == nil {
			return []string{path, "-c", notHere + "import runpy;runpy.run_module('pip',None,'__main__',True)"}, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, errors.New("there is no pip on this machine, of version 20.3 or later, that would find them: install it " +
		"(python3 -m ensurepip, or the package python3-pip), or put wheels into a directory and name it with --wheels")
}

// download has pip fetch everything, and puts it in place of what was there.
func download(ctx context.Context, r importer.Requirements, p importer.Platform, env []string, top, dir string) error {
	argv, err := pip(ctx, p.Version, env)
	if err != nil {
		return err
	}
	part, err := os.MkdirTemp(top, filling)
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	digits := strings.ReplaceAll(p.Version.String(), ".", "")
	argv = append(argv, "download", "--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "--dest", part,
		"--implementation", "cp", "--python-version", digits, "--abi", p.ABI, "--abi", "none")
	if p.Major == 3 && !strings.Contains(p.ABI, "t") {
		argv = append(argv, "--abi", "abi3")
	}
	for _, system := range systems(p) {
		argv = append(argv, "--platform", system)
	}
	for _, place := range r.Links {
		argv = append(argv, "--find-links", place)
	}
	for _, file := range r.Files {
		argv = append(argv, "--requirement", file)
	}
	argv = append(append(argv, "--"), r.Lines...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.WaitDelay = env, time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("pip: %s", lastError(said.String(), err))
	}
	return replace(part, dir)
}

// replace puts part in the place of dir, which children may be served from, and which other processes replace as well.
func replace(part, dir string) error {
	old := part + ".old"
	defer os.RemoveAll(old)
	for {
		if isFresh(dir) {
			return nil // somebody was faster
		}
		if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Rename(part, dir); !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
}

func isFresh(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && time.Since(info.ModTime()) < fresh
}

// lastError is what pip says is wrong.
func lastError(said string, err error) string {
	var lines []string
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "ERROR: "); ok {
			lines = append(lines, text)
		}
	}
	if len(lines) == 0 {
		lines = strings.Split(strings.TrimSpace(said), "\n")
		lines = lines[len(lines)-1:]
	}
	text := strings.Join(lines[:min(len(lines), 3)], "; ")
	if text == "" {
		text = err.Error()
	}
	return fmt.Sprintf("%.1000s", text)
}

// legacy are the names that some tags had before PEP 600, by the minor version of glibc.
var legacy = map[int]string{5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}

// systems gives the platform tags that fit, the newest first.
func systems(p importer.Platform) (out []string) {
	major, minor, _ := strings.Cut(p.LibcVersion, ".")
	minor, _, _ = strings.Cut(minor, ".")
	n, _ := strconv.Atoi(minor)
	for ; n >= 0 && p.Libc != ""; n-- {
		if p.Libc == "musl" {
			out = append(out, fmt.Sprintf("musllinux_%s_%d_%s", major, n, p.Machine))
			continue
		}
		if n < 5 {
			break
		}
		out = append(out, fmt.Sprintf("manylinux_%s_%d_%s", major, n, p.Machine))
		if name := legacy[n]; name != "" {
			out = append(out, name+"_"+p.Machine)
		}
	}
	return append(out, "linux_"+p.Machine)
}
