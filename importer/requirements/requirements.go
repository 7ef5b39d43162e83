// Package requirements fetches what programs need: uv or pip on this machine finds wheels for the Python, the machine and the C library of
// a target, and they are kept in a directory of ours. Nothing is installed, neither here nor there. find.go says which of the two is asked.
//
// The directory is requirements/KEY.N in mitogend's directory of the user's caches, of mode 0700, which nobody else may write to. The key
// is made of all that decides what is in it, save for what an index has. So an index is asked again after a day. If something else comes
// of that, it becomes the next one by number: what children are served from does not change. What was not found in 30 days is removed.
// There are no goroutines. The same is fetched once, while others wait.
//
// # Locks
//
// running.mu guards what is being fetched. It is held for nothing else.
package requirements

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
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

// fresh is how long wheels are taken without asking again.
const fresh = 24 * time.Hour

// maxFile is the size of the largest file of requirements, in bytes. maxFiles is how many files are looked at: those given, and those
// that they name.
const (
	maxFile  = 4 << 20
	maxFiles = 100
)

// otherFile finds what a file of requirements names by -r or -c.
var otherFile = regexp.MustCompile(`(?m)^[ \t]*(?:-r|-c|--requirement|--constraint)[ \t=]*([^ \t\r\n=][^ \t\r\n]*)`)

var projectName = regexp.MustCompile(`^\s*[A-Za-z0-9][A-Za-z0-9._-]*\s*($|[\[(;<>=!~@])`)

// Check tells whether a line is a requirement. The error begins with the text.
func Check(line string) error {
	d, err := pypi.ParseDependency(line)
	if err != nil || d.Name == "" || !projectName.MatchString(line) || strings.ContainsAny(line, "\n\r\x00") {
		return fmt.Errorf("%.100q: that is no requirement, as numpy or numpy>=1.26,<2", line)
	}
	return nil
}

// running keeps the same from being fetched twice at once.
var running struct {
	mu sync.Mutex
	by map[string]chan struct{}
}

// Fetch gives a directory with wheels for a platform, or with importer.Site. env is the environment of uv and pip. The error has what
// they say, or says what to do.
func Fetch(ctx context.Context, r importer.Requirements, p importer.Platform, env []string) (string, error) {
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
	if err := owned.MakeDir(top); err != nil {
		return "", fmt.Errorf("wheels cannot be kept in %s: %w; set XDG_CACHE_HOME to a directory of your own", top, err)
	}
	done, err := enter(ctx, filepath.Join(top, key))
	if err != nil {
		return "", err
	}
	defer done()
	if dir, _ := newest(top, key); isFresh(dir) {
		return dir, nil
	}
	dir, err := download(ctx, r, p, env, top, key)
	if err != nil {
		return "", err
	}
	_ = trim() // the next time
	return dir, nil
}

// enter waits until nobody else fetches the same.
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
				continue // uv or pip says what is wrong with it
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
	settings := slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, "PIP_") && !strings.HasPrefix(kv, "UV_") })
	slices.Sort(settings)
	fmt.Fprintf(h, "%q %q %q %q\n", settings, told(uvIs, env, ""), told(pipIs, env, ""), unreadBy("", nil, env))
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// download has everything fetched, and gives the directory that has it then.
func download(ctx context.Context, r importer.Requirements, p importer.Platform, env []string, top, key string) (string, error) {
	part, err := os.MkdirTemp(top, filling)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	if err := find(ctx, r, p, env, part); err != nil {
		return "", err
	}
	return keep(part, top, key)
}

// newest gives the last of the directories of a key, and its number; "" and 0 if there is none.
func newest(top, key string) (dir string, n int) {
	found, _ := os.ReadDir(top)
	for _, e := range found {
		if number, ok := strings.CutPrefix(e.Name(), key+"."); ok {
			if i, err := strconv.Atoi(number); err == nil && i > n {
				dir, n = filepath.Join(top, e.Name()), i
			}
		}
	}
	return dir, n
}

// keep makes part the newest directory of a key, unless that has the same, or other processes were faster.
func keep(part, top, key string) (string, error) {
	for {
		dir, n := newest(top, key)
		if isFresh(dir) {
			return dir, nil
		}
		if dir != "" && same(part, dir) {
			now := time.Now()
			if err := os.Chtimes(dir, now, now); !errors.Is(err, fs.ErrNotExist) {
				return dir, err
			}
			continue // somebody has removed it
		}
		next := filepath.Join(top, fmt.Sprint(key, ".", n+1))
		if err := os.Rename(part, next); !errors.Is(err, fs.ErrExist) {
			return next, err
		}
	}
}

// same tells whether two directories have the same files.
func same(a, b string) bool {
	x, errx := contents(a)
	y, erry := contents(b)
	return errx == nil && erry == nil && maps.Equal(x, y)
}

// contents gives the digest of each file, and the mode of all else.
func contents(dir string) (map[string]string, error) {
	out := map[string]string{}
	return out, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		out[rel] = e.Type().String()
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		out[rel] = string(h.Sum(nil))
		return err
	})
}

func isFresh(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && time.Since(info.ModTime()) < fresh
}
