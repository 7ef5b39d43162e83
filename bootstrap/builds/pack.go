package builds

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Forms in which a build can be packed. What is unpacked from any of them is the file manifest and the directory python.
const (
	Tar   = "tar" // for tar
	Shell = "sh"  // a script for sh, which has every file as base64
	Gzip  = ".gz" // ends the name of a form that is compressed
)

// keepTime is how long a packed build is kept in memory after somebody wanted it.
const keepTime = time.Minute

// pack is a packed build. It is made once, while others wait.
type pack struct {
	once  sync.Once
	data  []byte
	err   error
	timer *time.Timer
}

// Pack gives a build of the set in a form, even if ctx ends while it is packed. The bytes must not be changed.
func (s *Set) Pack(ctx context.Context, b *Build, form string) ([]byte, error) {
	key := b.Hash + " " + form
	s.mu.Lock()
	p := s.packs[key]
	if p == nil {
		p = &pack{}
		p.timer = time.AfterFunc(keepTime, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.packs[key] == p {
				delete(s.packs, key)
			}
		})
		s.packs[key] = p
	}
	p.timer.Reset(keepTime)
	s.mu.Unlock()
	// Others wait for it, so it does not end when the first caller gives up.
	p.once.Do(func() { p.data, p.err = b.Pack(context.WithoutCancel(ctx), form) })
	if p.err != nil {
		s.mu.Lock()
		if s.packs[key] == p {
			p.timer.Stop()
			delete(s.packs, key)
		}
		s.mu.Unlock()
	}
	return p.data, p.err
}

// Pack packs the build.
func (b *Build) Pack(ctx context.Context, form string) ([]byte, error) {
	var buf bytes.Buffer
	var w io.Writer = &buf
	var z *gzip.Writer
	kind, compressed := strings.CutSuffix(form, Gzip)
	if compressed {
		z, _ = gzip.NewWriterLevel(&buf, 5) // a level that exists
		w = z
	}
	var err error
	switch kind {
	case Tar:
		err = b.packTar(ctx, w)
	case Shell:
		err = b.packShell(ctx, w)
	default:
		err = fmt.Errorf("builds: there is no form %q", form)
	}
	if err == nil && z != nil {
		err = z.Close()
	}
	return buf.Bytes(), err
}

func (b *Build) packTar(ctx context.Context, out io.Writer) error {
	w := tar.NewWriter(out)
	put := func(name string, exec bool, data []byte) error {
		mode := int64(0o644)
		if exec {
			mode = 0o755
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	if err := put("manifest", false, b.manifest); err != nil {
		return err
	}
	if err := b.contents(ctx, func(m member, data []byte) error { return put("python/"+m.name, m.exec, data) }); err != nil {
		return err
	}
	return w.Close()
}

// packShell writes a script that stops at what fails. Names are plain ones, and need no more than single quotes.
func (b *Build) packShell(ctx context.Context, w io.Writer) error {
	const lines = 57 // bytes of a line of base64
	put := func(name string, exec bool, data []byte) error {
		text := &strings.Builder{}
		fmt.Fprintf(text, "base64 -d >'%s' <<'.' || exit 1\n", name)
		for len(data) > 0 {
			n := min(lines, len(data))
			text.WriteString(base64.StdEncoding.EncodeToString(data[:n]) + "\n")
			data = data[n:]
		}
		text.WriteString(".\n")
		if exec {
			fmt.Fprintf(text, "chmod 755 '%s' || exit 1\n", name)
		}
		_, err := io.WriteString(w, text.String())
		return err
	}
	if err := put("manifest", false, b.manifest); err != nil {
		return err
	}
	made := map[string]bool{}
	return b.contents(ctx, func(m member, data []byte) error {
		dir := path.Dir("python/" + m.name)
		if !made[dir] {
			made[dir] = true
			if _, err := fmt.Fprintf(w, "mkdir -p '%s' || exit 1\n", dir); err != nil {
				return err
			}
		}
		return put("python/"+m.name, m.exec, data)
	})
}
