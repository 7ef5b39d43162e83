package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zlib"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/python"
	"mitogend/python/bytecode"
)

// bytecodeMethods are the methods whose children run on this machine, over a link that is faster than compiling.
var bytecodeMethods = map[string]bool{"local": true, "sudo": true, "su": true, "doas": true}

func (k sink) LoadCode(name string, magic, code []byte) error {
	payload := slices.Concat([]byte(name), []byte{0}, magic, code)
	if len(payload) > k.c.d.opt.MaxMessage {
		return nil // it has the source
	}
	return k.send(pyproto.LoadCode, payload)
}

// nearTime tells who is near: a child that takes eight kilobytes and answers within it. Bytecode is twice the size of
// source; a near child gets it in less time than it would take to compile the source.
const nearTime = 10 * time.Millisecond

// takesCode tells whether the child is sent bytecode. magic is the child's magic number. near is false as well while
// it is not known.
func (c *Child) takesCode(magic uint16, near bool) bool {
	if magic == 0 || c.runtime != nil || c.via != nil {
		return false
	}
	switch c.opt.Bytecode {
	case BytecodeNever:
		return false
	case BytecodeAlways:
		return true
	}
	return near || bytecodeMethods[c.method]
}

// sendCode has the responder send the child the bytecode that there is, and keep the sources that it compresses.
func (c *Child) sendCode(proc *bootstrap.Process, opt *importer.ResponderOptions) {
	store := c.d.opt.Bytecode
	if store != nil && c.opt.Bytecode != BytecodeNever {
		opt.Kept = func(u importer.Uncompiled) []byte { return store.Source(u.Hash) }
		opt.Keep = func(u importer.Uncompiled) { store.KeepSource(u.Hash, u.Size, u.Compressed) }
	}
	if !c.takesCode(proc.Magic, proc.Took < nearTime) {
		return
	}
	opt.Code = sink{c}.LoadCode
	opt.Far = !bytecodeMethods[c.method]
	if store == nil {
		return
	}
	p := pythonOf(proc.Hello) // and not c, which what is kept here may outlive
	opt.Compiled = func(u importer.Uncompiled) (magic, code []byte) {
		return append(binary.LittleEndian.AppendUint16(nil, p.Magic), "\r\n"...), store.Code(p, sourceOf(p, u))
	}
	opt.Ahead = func(u importer.Uncompiled) { store.Ahead(p, sourceOf(p, u)) }
}

func pythonOf(h bootstrap.Hello) bytecode.Python {
	return bytecode.Python{Magic: h.Magic, Major: int(h.HexVersion >> 24), Minor: int(h.HexVersion >> 16 & 0xff)}
}

// servedPath stands before the path of each served module in the child.
const servedPath = "/master:"

// sourceOf is what a module's code is asked for by.
func sourceOf(p bytecode.Python, u importer.Uncompiled) bytecode.Source {
	source := bytecode.Source{Hash: u.Hash, Size: u.Size, Name: u.Path, Text: u.Text}
	if p.Major == 2 {
		// Python 3 corrects the name by itself.
		source.File = servedPath + u.Path
	}
	return source
}

// boots has what first stages read, by bootKey.
type boots struct{ m sync.Map } // to *boot

// bootKey has no minor version: that is only what children say of themselves. magic is 0 where the core goes without its code.
type bootKey struct {
	magic uint16
	major int
}

// boot is what the first stages of one kind of Python read. The first interpreter on this machine gets it as it is:
// compressing it would be a fifth of what a short command costs. For all others it is compressed once.
type boot struct {
	code []byte
	used atomic.Bool // the first one has it
	once sync.Once
	made *python.Booter
}

func (b *boot) booter(hexVersion uint32, here bool) *python.Booter {
	if here && !b.used.Swap(true) {
		return python.BootHere(hexVersion, b.code)
	}
	b.once.Do(func() { b.made = python.Boot(hexVersion, b.code) })
	return b.made
}

// boot gives what the child's first stage reads: with the core's code if the child takes code and there is some.
func (c *Child) boot(proc *bootstrap.Process) *python.Booter {
	path := ""
	if c.method == "local" {
		path = interpreterOf(proc.PID)
	}
	var (
		here, p = path != "", pythonOf(proc.Hello)
		known   = bootKey{0, p.Major}
		code    []byte
	)
	if store := c.d.opt.Bytecode; store != nil && c.takesCode(proc.Magic, false) {
		if here {
			// It is likely to fit, whatever PATH names.
			store.Offer(path, proc.Magic)
		}
		coded := bootKey{p.Magic, p.Major}
		if b, ok := c.d.boots.m.Load(coded); ok {
			return b.(*boot).booter(proc.HexVersion, here)
		}
		if code = c.coreCode(p); len(code) > 0 {
			known = coded
		}
	}
	b, _ := c.d.boots.m.LoadOrStore(known, &boot{code: code})
	return b.(*boot).booter(proc.HexVersion, here)
}

// coreCode gives the code of the core for a Python, or nothing if it is not known.
func (c *Child) coreCode(p bytecode.Python) []byte {
	text := python.Core(p.Major)
	code, _ := unpacked(c.d.opt.Bytecode.Code(p, bytecode.Source{
		Hash: sha256.Sum256([]byte(text)), Size: len(text), File: python.CoreFile, Text: func() ([]byte, error) { return []byte(text), nil },
	}))
	return code
}

// interpreterOf gives the interpreter that a process is; "" if that is not known, or if the process is a program that
// runs an interpreter, such as a shell or docker exec: nobody knows what that would make of a compiler's arguments.
func interpreterOf(pid int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if name := filepath.Base(path); err != nil || !strings.HasPrefix(name, "python") && !strings.HasPrefix(name, "pypy") {
		return ""
	}
	return path
}

// unpacked is the reverse of the compression of code.
func unpacked(code []byte) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(code))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
