package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/python"
)

// Put copies a source to a child. Where dest is a directory there, or ends with a slash, it goes into that; otherwise
// dest is its name. An *Error says that some files are not in place; the others are.
func Put(ctx context.Context, r daemon.Remote, s *Source, dest string, o Options) (*Result, error) {
	a := algorithmOf(r.Version().Major)
	switch {
	case dest == "":
		return nil, ErrNoName
	case o.Sync && o.Delete && path.Clean(dest) == "/":
		return nil, errors.New("/: all of the target cannot be the destination of sync")
	case o.Xattrs && r.Version().Major == 2:
		return nil, errPython
	}
	p := &put{lost: map[string]bool{}, session: start(ctx, r, python.Receive(), o.letters(a), dest), source: s,
		o: &o, a: a, result: &Result{}}
	p.changed = sync.NewCond(&p.mu)
	answered := make(chan error, 1)
	go func() {
		err := p.answers()
		p.mu.Lock()
		p.over = true
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			p.cancel() // what is written would not be read
		}
		answered <- err
	}()
	err := p.send()
	if err == nil {
		err = <-answered
		answered <- nil
	}
	err = p.end(err)
	<-answered // nothing more is told to OnFile
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && len(p.result.Errors) > 0:
		err = &Error{p.result}
	}
	return p.result, err
}

// put is the sending side, for one child.
type put struct {
	*session
	source *Source
	o      *Options
	a      algorithm
	result *Result         // Sent and Same are send's; the rest is of answers, under mu
	asked  int             // questions
	lost   map[string]bool // by send: paths of what cannot be read, or its attributes, which was told

	// mu protects the following.
	mu      sync.Mutex
	changed *sync.Cond
	over    bool
	same    []byte   // answers to questions
	settled bool     // all of them
	wanted  bool     // a large file is announced
	old     []digest // what is there of it, as far as blocksHere
	// blocksHere is how many blocks it has.
	blocksHere int
	reply      byte // N, or x for none; 0 until it is there
}

// answers takes what the child says until its end.
func (p *put) answers() error {
	for {
		tag, data, err := p.reader.read()
		if err != nil {
			return err
		}
		p.mu.Lock()
		done := p.answer(tag, data)
		p.changed.Broadcast()
		bad := tag == 0
		p.mu.Unlock()
		switch {
		case bad:
			return errProtocol
		case done != nil:
			if errors.Is(done, io.EOF) {
				return nil
			}
			return done
		case tag == 'r' && p.o.OnFile != nil:
			p.o.OnFile("delete", string(data))
		}
	}
}

// answer takes one message; io.EOF is the end.
func (p *put) answer(tag byte, data []byte) error {
	switch {
	case tag == 'A' && len(p.same)+len(data) <= p.asked:
		p.same = append(p.same, data...)
	case tag == 'p':
		p.settled = true
	case tag == 'r' && p.o.Delete:
		p.result.Deleted++
	case (tag == 'n' || tag == 'N') && p.wanted && len(data)%digestLen == 0:
		for at := 0; at < len(data) && len(p.old) < p.blocksHere; at += digestLen {
			p.old = append(p.old, digest(data[at:]))
		}
		if tag == 'N' {
			p.reply, p.wanted = tag, false
		}
	case tag == 'x' && p.wanted:
		p.result.fail(string(data))
		p.reply, p.wanted = tag, false
	case tag == 'e':
		p.result.fail(string(data))
	case tag == 'T' && len(data) == 16:
		p.result.Files = int(binary.BigEndian.Uint64(data))
		p.result.Bytes = int64(binary.BigEndian.Uint64(data[8:]))
		return io.EOF
	default:
		return errProtocol
	}
	return nil
}

func (p *put) send() error {
	items := p.source.items
	for _, text := range p.source.Errors {
		p.mu.Lock()
		p.result.fail(text)
		p.mu.Unlock()
	}
	var err error
	if p.o.Sync {
		if items, err = p.differing(); err != nil {
			return err
		}
	}
	for _, it := range items {
		if p.o.DryRun {
			break
		}
		if err := p.item(it); err != nil {
			return err
		}
	}
	err = p.wire.write('q')
	if err == nil {
		err = p.wire.w.Flush()
	}
	return err
}

// differing asks which of the source's files differ there.
func (p *put) differing() ([]*item, error) {
	p.mu.Lock()
	p.asked = len(p.source.items)
	p.mu.Unlock()
	for _, it := range p.source.items {
		var head, sum []byte
		if p.o.Checksum && it.kind() == unix.S_IFREG && it.link == "" {
			c, err := p.source.whole(it, p.a, p.o.Xattrs)
			if sum = c.sum[:]; err != nil {
				sum = make([]byte, digestLen)
				p.lose(it, err)
			} else {
				head = append(c.append(nil), c.told...)
			}
		}
		if head == nil {
			head = p.head(it)
		}
		if err := p.wire.write('Q', head, sum); err != nil {
			return nil, err
		}
	}
	err := p.wire.write('P')
	if err == nil {
		err = p.wire.w.Flush()
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	for !p.settled && !p.over {
		p.changed.Wait()
	}
	same, ended := p.same, !p.settled
	p.mu.Unlock()
	if ended {
		return nil, io.ErrClosedPipe // the program has said why
	}
	if len(same) != len(p.source.items) {
		return nil, errProtocol
	}
	var out []*item
	for i, it := range p.source.items {
		switch {
		case it.special():
			continue
		case same[i] == '=':
			if it.kind() != unix.S_IFDIR {
				p.result.Same++
			}
			p.done(it.size)
			continue
		}
		out = append(out, it)
		if p.o.OnFile != nil && it.kind() != unix.S_IFDIR {
			p.o.OnFile("send", it.path)
		}
	}
	return out, nil
}

func (p *put) done(n int64) {
	if p.o.OnBytes != nil && n > 0 {
		p.o.OnBytes(n)
	}
}

func (p *put) fail(it *item, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.fail(it.name + ": " + cause(err).Error())
}

// lose is the same for a file that is not sent.
func (p *put) lose(it *item, err error) {
	p.fail(it, err)
	p.lost[it.path] = true
}

// item sends one file. The error is that nothing can be sent any more.
func (p *put) item(it *item) error {
	if it.kind() != unix.S_IFREG || it.link != "" {
		switch {
		case it.kind() == unix.S_IFDIR:
			return p.wire.write('d', p.head(it))
		case it.kind() == unix.S_IFLNK:
			return p.wire.write('l', p.head(it))
		case it.kind() == unix.S_IFREG && p.lost[it.link]:
			p.lose(it, errUnlinked)
		case it.kind() == unix.S_IFREG:
			return p.wire.write('h', p.head(it))
		}
		return nil
	}
	if p.lost[it.path] {
		p.done(it.size)
		return nil
	}
	c, err := p.source.read(it, p.a, p.o.Xattrs)
	if err != nil {
		p.lose(it, err)
		p.done(it.size)
		return nil
	}
	head := append(c.append(make([]byte, 0, entryLen+len(it.path)+64)), c.told...)
	if c.large != nil {
		defer c.large.close()
		return p.large(it, c.large, head)
	}
	p.result.Sent += c.size
	err = p.wire.write('f', head, c.sum[:], c.data)
	p.done(it.size)
	return err
}

var errUnlinked = errors.New("the file that it is another name of was not copied")

// large announces a file, waits for what the child has of it, and sends the rest.
func (p *put) large(it *item, r *blockReader, head []byte) error {
	p.mu.Lock()
	p.wanted, p.reply, p.old, p.blocksHere = true, 0, p.old[:0], blocksOf(r.at.size)
	p.mu.Unlock()
	err := p.wire.write('F', head)
	if err == nil {
		err = p.wire.w.Flush()
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	for p.reply == 0 && !p.over {
		p.changed.Wait()
	}
	reply, old := p.reply, p.old
	p.mu.Unlock()
	switch reply {
	case 0:
		return io.ErrClosedPipe
	case 'x':
		p.done(it.size)
		return nil
	}
	err = p.blocks(r, old)
	var failed sourceError
	if errors.As(err, &failed) {
		p.lose(it, failed.error)
		return p.wire.write('X')
	}
	return err
}

// sourceError is a file that cannot be read any more.
type sourceError struct{ error }

func (p *put) blocks(r *blockReader, old []digest) error {
	root := p.a.new()
	var run byte // K or Z, of which count are to be told
	var count uint64
	flush := func() error {
		if count == 0 {
			return nil
		}
		err := p.wire.write(run, binary.BigEndian.AppendUint64(nil, count))
		count = 0
		return err
	}
	for n := range blocksOf(r.at.size) {
		size := min(block, r.at.size-int64(n)*block)
		data, d, err := r.block(n)
		if err != nil {
			return errors.Join(flush(), sourceError{err})
		}
		_, _ = root.Write(d[:])
		tag := byte('B')
		switch {
		case n < len(old) && old[n] == d:
			tag = 'K'
		case data == nil:
			tag = 'Z'
		}
		if tag != run {
			if err := flush(); err != nil {
				return err
			}
			run = tag
			err = p.wire.w.Flush()
		}
		if tag == 'B' && err == nil {
			// Each block is a piece of its own, so that it is the same for all who get it, and goes to a hop before them once.
			if err = p.wire.write('B', data); err == nil {
				err = p.wire.w.Flush()
			}
			p.result.Sent += size
		} else {
			count++
		}
		if err != nil {
			return err
		}
		p.done(size)
	}
	if err := flush(); err != nil {
		return err
	}
	if err := r.at.check(r.f); err != nil {
		return sourceError{err}
	}
	return p.wire.write('E', root.Sum(nil))
}

// Names gives what the source's top files are called.
func (s *Source) Names() (names []string) {
	for _, it := range s.items {
		if name := path.Base(it.path); name == it.path && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
