package main

import (
	"errors"
	"os"
	"slices"
	"sync"
	"unicode/utf8"

	"mitogend/daemon/work"
)

// spoolBlock is the size of a block of a spool. Of each captured output, less than one block is in memory.
const spoolBlock = 16 << 10

// spool keeps the output of many programs in blocks of one file, so that it needs no memory. The file has no name,
// and is gone with the process. If it cannot be made, blocks are kept in memory. A spool is safe for concurrent use.
type spool struct {
	// mu protects the following. It is held while the file is made, and during no other I/O.
	mu   sync.Mutex
	f    *os.File
	err  error // why there is no file
	end  int64
	free []int64
}

// block is a part of a captured output. It is in the file, or in mem if that is not nil.
type block struct {
	at  int64
	mem []byte
}

// put keeps a copy of spoolBlock bytes.
func (s *spool) put(b []byte) block {
	at, f := s.take()
	if f != nil {
		if _, err := f.WriteAt(b, at); err == nil {
			return block{at: at}
		}
		s.give(at) // the disk may be full
	}
	return block{mem: slices.Clone(b)}
}

func (s *spool) take() (at int64, f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil && s.err == nil {
		s.f, s.err = work.Unnamed("mitogend-output-")
	}
	if s.err != nil {
		return 0, nil
	}
	if n := len(s.free); n > 0 {
		at, s.free = s.free[n-1], s.free[:n-1]
		return at, s.f
	}
	s.end += spoolBlock
	return s.end - spoolBlock, s.f
}

func (s *spool) give(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, at)
}

// get gives the content of a block. It uses buf if the block is in the file.
func (s *spool) get(b block, buf []byte) ([]byte, error) {
	if b.mem != nil {
		return b.mem, nil
	}
	_, err := s.f.ReadAt(buf, b.at)
	return buf, err
}

// maxCaptured is how much of a program's stdout, and of its stderr, --json keeps.
const maxCaptured = 16 << 20

// captured keeps the beginning of what is written to it. Writes are safe for concurrent use, the rest is for one
// goroutine once it is sealed.
type captured struct {
	spool *spool

	mu     sync.Mutex // is held during writes, and guards the following
	sealed bool       // it keeps nothing more
	blocks []block
	tail   []byte // less than a block
	size   int
	cut    bool
}

// seal ends the writing. A program that is given up may go on.
func (c *captured) seal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed = true
}

func (c *captured) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(p)
	if c.sealed {
		return n, nil
	}
	if room := maxCaptured - c.size; n > room {
		p, c.cut = p[:room], true
	}
	c.size += len(p)
	for len(p) > 0 {
		k := min(len(p), spoolBlock-len(c.tail))
		c.tail = append(c.tail, p[:k]...)
		p = p[k:]
		if len(c.tail) == spoolBlock {
			c.blocks = append(c.blocks, c.spool.put(c.tail))
			c.tail = c.tail[:0]
		}
	}
	return n, nil
}

// each gives what was captured, piece by piece. A piece is valid until fn returns.
func (c *captured) each(fn func([]byte) error) error {
	buf := make([]byte, spoolBlock)
	for _, b := range c.blocks {
		data, err := c.spool.get(b, buf)
		if err == nil {
			err = fn(data)
		}
		if err != nil {
			return err
		}
	}
	return fn(c.tail)
}

// errNotText ends eachText.
var errNotText = errors.New("it is no text")

// eachText is each for text. No piece ends within a character. The error is errNotText if the output is no text.
func (c *captured) eachText(fn func(string) error) error {
	var rest []byte
	err := c.each(func(data []byte) error {
		rest = append(rest, data...)
		end := len(rest)
		for i := end - 1; i >= max(0, end-utf8.UTFMax+1); i-- {
			if utf8.RuneStart(rest[i]) {
				if !utf8.FullRune(rest[i:]) {
					end = i
				}
				break
			}
		}
		if !utf8.Valid(rest[:end]) {
			return errNotText
		}
		err := fn(string(rest[:end]))
		rest = append(rest[:0], rest[end:]...)
		return err
	})
	if err == nil && len(rest) > 0 {
		err = errNotText
	}
	return err
}

// release gives up the memory, and the blocks of the file.
func (c *captured) release() {
	c.seal()
	for _, b := range c.blocks {
		if b.mem == nil {
			c.spool.give(b.at)
		}
	}
	c.blocks, c.tail = nil, nil
}
