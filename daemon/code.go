package daemon

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"

	"mitogend/bootstrap"
	"mitogend/bytecode"
	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/python"
)

// codeHandle is ours alone: bytecode comes ahead of its LOAD_MODULE. The payload is the name, a NUL, the four bytes
// of a magic number, and what marshal reads.
const codeHandle pyproto.Handle = 989

// bytecodeMethods are those whose children run on this machine, over a link that is faster than compiling.
var bytecodeMethods = map[string]bool{"local": true, "sudo": true, "su": true, "doas": true}

func (k sink) LoadCode(name string, magic, code []byte) error {
	payload := slices.Concat([]byte(name), []byte{0}, magic, code)
	if len(payload) > k.s.d.opt.MaxMessage {
		return nil // it has the source
	}
	return k.send(codeHandle, payload)
}

// takesCode tells whether the child, whose magic number that is, is sent bytecode.
func (c *Child) takesCode(magic uint16) bool {
	return magic != 0 && c.runtime == nil && c.via == nil && !c.opt.NoBytecode && bytecodeMethods[c.method]
}

func pythonOf(h bootstrap.Hello) bytecode.Python {
	return bytecode.Python{Magic: h.Magic, Major: int(h.HexVersion >> 24), Minor: int(h.HexVersion >> 16 & 0xff)}
}

// servedPath is what the child puts before the path of a module.
const servedPath = "/master:"

// compiled asks the store, for the responder.
func (c *Child) compiled(u importer.Uncompiled) (magic, code []byte) {
	p := pythonOf(bootstrap.Hello{HexVersion: c.hexVersion.Load(), Magic: c.magic})
	source := bytecode.Source{Hash: u.Hash, Size: u.Size, Text: u.Text}
	if p.Major == 2 {
		// 3.x corrects the name.
		source.File = servedPath + u.Path
	}
	return append(binary.LittleEndian.AppendUint16(nil, c.magic), "\r\n"...), c.d.opt.Bytecode.Code(p, source)
}

// boots has what the first stage reads where the core's code is known, by Python.
type boots struct{ m sync.Map } // bytecode.Python to *python.Booter

// boot gives what a local child's first stage reads: with the core's code, if there is some.
func (c *Child) boot(proc *bootstrap.Process) *python.Booter {
	store := c.d.opt.Bytecode
	if store == nil || !c.takesCode(proc.Magic) {
		return python.Boot(proc.HexVersion, nil)
	}
	if c.method == "local" {
		// It is likely to fit, whatever PATH has.
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", proc.PID)); err == nil {
			store.Offer(path, proc.Magic)
		}
	}
	p := pythonOf(proc.Hello)
	if b, ok := c.d.boots.m.Load(p); ok {
		return b.(*python.Booter)
	}
	text := python.Core(p.Major)
	code := store.Code(p, bytecode.Source{
		Hash: sha256.Sum256([]byte(text)), Size: len(text), File: python.CoreFile, Text: func() ([]byte, error) { return []byte(text), nil },
	})
	b := python.Boot(proc.HexVersion, code)
	if len(code) > 0 {
		c.d.boots.m.Store(p, b)
	}
	return b
}
