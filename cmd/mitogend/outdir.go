package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// outDir is the directory of -o. It has a directory for each target, with its stdout, stderr and status.
type outDir struct {
	path string

	mu   sync.Mutex // guards used
	used map[string]int
}

// outFiles are the files of one target.
type outFiles struct {
	dir            string
	stdout, stderr *outFile
	told           bool // they could not be made, and that was said
}

// outFile is one of these files. It keeps the first error. It is safe for concurrent use.
type outFile struct {
	mu  sync.Mutex // guards the following
	f   *os.File
	err error
}

func (o *outFile) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && o.f != nil {
		_, o.err = o.f.Write(p)
	}
	return len(p), nil
}

func (o *outFile) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.f != nil {
		if err := o.f.Close(); o.err == nil {
			o.err = err
		}
		o.f = nil
	}
	return o.err
}

func newOutDir(path string) (*outDir, error) {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, usagef("-o %s: %w", path, cause(err))
	}
	return &outDir{path: path, used: map[string]int{}}, nil
}

// clear removes what earlier commands have left of these targets: of one that does not begin, nothing must look like its
// outcome. What is no regular file stays, and is written to.
func (d *outDir) clear(targets []target) error {
	count := map[string]int{}
	for _, t := range targets {
		base := fileName(t.name)
		count[base]++
		dir := filepath.Join(d.path, numbered(base, count[base]))
		for _, name := range []string{"status", "stdout", "stderr"} {
			path := filepath.Join(dir, name)
			if info, err := os.Lstat(path); err != nil || name != "status" && !info.Mode().IsRegular() {
				continue // open tells why a directory cannot be used
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("-o %s: %s of an earlier command: %w", dir, name, cause(err))
			}
		}
	}
	return nil
}

// numbered gives the directory of the nth target of a name.
func numbered(base string, n int) string {
	if n > 1 {
		return fmt.Sprintf("%s#%d", base, n)
	}
	return base
}

// open makes empty files for a target. It removes a status of an earlier command.
func (d *outDir) open(name string) (*outFiles, error) {
	base := fileName(name)
	d.mu.Lock()
	d.used[base]++
	base = numbered(base, d.used[base])
	d.mu.Unlock()
	o := &outFiles{dir: filepath.Join(d.path, base)}
	err := os.Mkdir(o.dir, 0o777)
	if errors.Is(err, fs.ErrExist) {
		err = os.Remove(filepath.Join(o.dir, "status"))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	for _, each := range []struct {
		name string
		file **outFile
	}{{"stdout", &o.stdout}, {"stderr", &o.stderr}} {
		*each.file = &outFile{err: err}
		if err == nil {
			(*each.file).f, err = os.Create(filepath.Join(o.dir, each.name))
			(*each.file).err = err
		}
	}
	return o, err
}

// finish closes the files and writes the status, with the reason if there is one. It gives the first error of all.
func (o *outFiles) finish(status int, reason string) error {
	err := o.stdout.Close()
	if err2 := o.stderr.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return err
	}
	text := fmt.Sprintln(status)
	if reason != "" {
		text += reason + "\n"
	}
	// The status comes last: whoever finds it finds all.
	tmp := filepath.Join(o.dir, ".status")
	if err := os.WriteFile(tmp, []byte(text), 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(o.dir, "status"))
}

// remove removes the files of a target that --where has left out.
func (o *outFiles) remove() {
	_, _ = o.stdout.Close(), o.stderr.Close()
	for _, name := range []string{"stdout", "stderr", ""} {
		_ = os.Remove(filepath.Join(o.dir, name)) // this removes the directory only if it is empty
	}
}

// maxFileName leaves room for a suffix.
const maxFileName = 200

// fileName makes a file name of a target's name. Letters, digits and @+,=_:.- stay as they are, others become %XX.
func fileName(target string) string {
	target = strings.TrimSuffix(target, ":")
	var b strings.Builder
	for i := range len(target) {
		c := target[i]
		plain := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("@+,=_-:", c) >= 0 || c == '.' && i > 0
		if plain {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if len(name) > maxFileName {
		sum := sha256.Sum256([]byte(target))
		name = name[:maxFileName-17] + "-" + hex.EncodeToString(sum[:8])
	}
	return name
}

// failedFile is the file of --failed. It is made at the start, so that an error is told before anything has run.
type failedFile struct {
	name string
	tmp  *os.File // nil if the name is no regular file, which is written to directly
}

func newFailedFile(name string) (*failedFile, error) {
	f := &failedFile{name: followed(name)}
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return nil, usagef("--failed %s: it is a directory", name)
	case err == nil && !info.Mode().IsRegular():
		f.name = name
		return f, nil
	}
	tmp := filepath.Join(filepath.Dir(f.name), ".mitogend-failed-"+rand.Text())
	was := err == nil
	if f.tmp, err = os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666); err == nil && was {
		err = f.tmp.Chmod(info.Mode().Perm())
	}
	if err != nil {
		f.discard()
		return nil, usagef("--failed %s: %w", name, cause(err))
	}
	return f, nil
}

// maxLinks is how many links one name may lead through, as for the kernel.
const maxLinks = 40

// followed gives the file that a link leads to, also one that is not there yet.
func followed(name string) string {
	for range maxLinks {
		to, err := os.Readlink(name)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Dir(name) + "/" + to // not cleaned: a directory in it may be a link
		}
		name = to
	}
	return name
}

// discard removes what was made, and leaves an older file as it is.
func (f *failedFile) discard() {
	if f.tmp != nil {
		_ = f.tmp.Close()
		_ = os.Remove(f.tmp.Name())
	}
}

// write writes the names to the file, one a line.
func (f *failedFile) write(names []string) error {
	text := strings.Join(names, "\n")
	if text != "" {
		text += "\n"
	}
	if f.tmp == nil {
		return os.WriteFile(f.name, []byte(text), 0o666)
	}
	_, err := f.tmp.WriteString(text)
	if err2 := f.tmp.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.tmp.Name(), f.name)
	}
	if err != nil {
		_ = os.Remove(f.tmp.Name())
	}
	return err
}
