package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// partOf is the name of what has come so far of a large file.
func (g *get) partOf(name string) string {
	sum := g.a.sum([]byte(name))
	return fmt.Sprintf("%s%x%s", hidden, sum[:8], partSuffix)
}

// part opens what has come of a file so far; see Receiver.part of transfer_receive.py.
func (g *get) part(name string) (f *os.File, tmp string, err error) {
	tmp = path.Join(path.Dir(name), g.partOf(path.Base(name)))
	for range 3 {
		if info, err := g.root.Lstat(tmp); err == nil && !info.Mode().IsRegular() {
			_ = g.root.Remove(tmp)
		}
		f, err = g.open(tmp, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			_ = g.root.Remove(tmp)
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			_ = f.Close()
			break // somebody writes to it
		}
		var st unix.Stat_t
		info, err2 := f.Stat()
		there, err3 := g.root.Lstat(tmp)
		if err2 == nil && err3 == nil && os.SameFile(info, there) {
			if unix.Fstat(int(f.Fd()), &st) == nil && info.Mode().IsRegular() && st.Uid == uint32(os.Geteuid()) &&
				st.Nlink == 1 {
				return f, tmp, f.Chmod(0o600)
			}
			_ = g.root.Remove(tmp)
		}
		_ = f.Close()
	}
	tmp = g.temporary(name)
	f, err = g.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, tmp, err
}

// maxSize bounds a file: one of nothing but holes costs its target nothing, and takes more than a minute here.
const maxSize = 1 << 48

// maxOffered bounds the digests of what is here of a file, which are kept. What is beyond comes again.
const maxOffered = maxListed / digestLen

// large takes a large file.
func (g *get) large(ctx context.Context, e *entry) error {
	if e.size > maxSize {
		return errors.Join(errors.New("it is larger than 256 TiB"), g.reply('x'))
	}
	if g.to != nil {
		if err := g.reply('N'); err != nil {
			return err
		}
		return g.blocks(ctx, e, nil, 0, nil, nil)
	}
	err := g.free(e.path)
	var f *os.File
	var tmp string
	if err == nil {
		f, tmp, err = g.part(e.path)
	}
	if err != nil {
		return errors.Join(err, g.reply('x'))
	}
	defer f.Close()
	if !strings.HasSuffix(tmp, partSuffix) {
		defer func() { _ = g.root.Remove(tmp) }() // nobody would find it, if it is there still
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, g.reply('x'))
	}
	had, basis := f, (*os.File)(nil)
	if g.o.Sync && info.Size() == 0 {
		if basis = g.basis(e.path); basis != nil {
			defer basis.Close()
			had = basis
		}
	}
	there, err := had.Stat()
	if err != nil {
		return errors.Join(err, g.reply('x'))
	}
	old, err := g.offer(ctx, had, min(there.Size(), e.size, maxOffered*block))
	if err != nil {
		return err
	}
	err = g.blocks(ctx, e, f, info.Size(), old, basis)
	var fatal fatalError
	switch {
	case errors.As(err, &fatal), errors.Is(err, errAbandoned) && !errors.Is(err, errUnsteady):
		return err // the next transfer goes on with what has come
	case err == nil:
		err = g.finish(f, e)
	}
	if there, lerr := g.root.Lstat(tmp); err == nil && (lerr != nil || !os.SameFile(info, there)) {
		err = errDiffers // somebody else has taken its name
	}
	return g.rename(tmp, e.path, err)
}

// offer tells the child what is here of a file.
func (g *get) offer(ctx context.Context, f *os.File, size int64) (old []digest, err error) {
	list := make([]byte, 0, block)
	err = g.a.eachBlock(f, size, func(d digest) error {
		if err := g.over(ctx); err != nil {
			return fatalError{err}
		}
		old = append(old, d)
		if list = append(list, d[:]...); len(list) >= block {
			if err := g.reply('n', list); err != nil {
				return err
			}
			list = list[:0]
		}
		return nil
	})
	var fatal fatalError
	switch {
	case errors.As(err, &fatal):
		return nil, err
	case err != nil:
		return nil, errors.Join(err, g.reply('x'))
	}
	return old, g.reply('N', list)
}

func (g *get) reply(tag byte, data ...[]byte) error {
	err := g.wire.write(tag, data...)
	if err == nil {
		err = g.wire.w.Flush()
	}
	if err != nil {
		return fatalError{err}
	}
	return nil
}

var (
	errAbandoned = errors.New("it cannot be read any more")
	// errUnsteady: all has come, and it was another file then. If that is always so, what has come is of no use.
	errUnsteady = fmt.Errorf("%w as it was", errAbandoned)
)

// blocks takes a file's blocks. K is for those that basis has, or f itself where that is nil. An error with a file
// here is kept until all have come.
func (g *get) blocks(ctx context.Context, e *entry, f *os.File, had int64, old []digest, basis *os.File) error {
	w := func(data []byte, at int64) error {
		if g.to != nil {
			_, err := g.to.Write(data)
			return err
		}
		_, err := f.WriteAt(data, at)
		return err
	}
	root := g.a.new()
	var at, hole int64 // nothing but zeros lies before hole, from where it was looked up
	var kept error
	for {
		tag, data, err := g.reader.read()
		switch {
		case err != nil:
			return fatalError{err}
		case tag == 'X' && at == e.size:
			return errUnsteady
		case tag == 'X':
			return errAbandoned
		case tag == 'E':
			if kept == nil && (at != e.size || len(data) != digestLen || digest(root.Sum(nil)) != digest(data)) {
				kept = errDiffers
			}
			if kept == nil && f != nil {
				kept = f.Truncate(e.size)
			}
			return kept
		case tag == 'B' && int64(len(data)) == min(block, e.size-at) && len(data) > 0:
			d := g.a.sum(data)
			_, _ = root.Write(d[:])
			if kept == nil {
				kept = w(data, at)
			}
			g.result.Sent += int64(len(data))
			at += int64(len(data))
			g.done(int64(len(data)))
		case (tag == 'Z' || tag == 'K') && len(data) == 8:
			count := binary.BigEndian.Uint64(data)
			if count > uint64(blocksOf(e.size-at)) {
				return fatalError{errProtocol}
			}
			for range count {
				if err := g.over(ctx); err != nil && err != io.EOF {
					return fatalError{err}
				}
				n := min(block, e.size-at)
				d := g.a.zero(int(n))
				number := int(at / block)
				switch {
				case tag == 'K' && number >= len(old):
					return fatalError{errProtocol}
				case tag == 'K' && basis != nil && kept == nil:
					d, kept = g.copyBlock(f, basis, at, n)
				case tag == 'K':
					d = old[number]
				case kept == nil && g.to != nil:
					kept = w(zeros[:n], at)
				case kept == nil && at < had:
					if at+n > hole {
						hole = nextData(f, max(at, hole), had)
					}
					if at+n > hole { // else it stays a hole: it could be a large one
						kept = w(zeros[:n], at)
					}
				}
				_, _ = root.Write(d[:])
				at += n
				g.done(n)
			}
		default:
			return fatalError{errProtocol}
		}
	}
}

func (g *get) done(n int64) {
	if g.o.OnBytes != nil {
		g.o.OnBytes(n)
	}
}
