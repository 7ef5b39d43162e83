package bytecode

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/zlib"

	"mitogend/daemon/owned"
	"mitogend/python"
)

const (
	// helloTime is how long an interpreter may take to start, compileTime how long for one source, on a busy machine.
	helloTime   = 20 * time.Second
	compileTime = 60 * time.Second
	// cpuSeconds bounds a compiler's whole processor time; it is replaced, between two sources, when it has had half
	// of that.
	cpuSeconds = 40
	// maxMemory bounds its address space.
	maxMemory = 1 << 30
	// maxUnpacked bounds the size of code when it is unpacked.
	maxUnpacked = 256 << 20
	// maxHello bounds what it says of itself.
	maxHello = 4200
)

// compiler is a process. It is owned by one goroutine; others may kill it.
type compiler struct {
	magic  uint16
	cmd    *exec.Cmd
	in     io.WriteCloser
	pipe   io.ReadCloser
	out    *bufio.Reader // of pipe
	number uint32
	spent  time.Duration // of processor time
	stop   func() bool

	// mu protects the following, and is held across a kill.
	mu   sync.Mutex
	over bool // it is being reaped
}

// errSpecial: an interpreter is of no use as a compiler.
var errSpecial = errors.New("a debug or free-threaded build, or an optimizing one")

// startCompiler starts an interpreter, of 2.x or 3.x, and has it say what it is. It ends with ctx, at the latest.
func startCompiler(ctx context.Context, interpreter string, major int) (*compiler, error) {
	if err := owned.CheckFile(interpreter); err != nil {
		return nil, err
	}
	flags := []string{"-I", "-S"}
	if major == 2 {
		flags = []string{"-E", "-s", "-S"}
	}
	c := &compiler{cmd: exec.Command(interpreter, append(flags, "-c", python.Compiler())...)}
	c.cmd.Dir = "/"
	c.cmd.Env = []string{}
	for _, name := range []string{"PATH", "HOME", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			c.cmd.Env = append(c.cmd.Env, name+"="+v)
		}
	}
	// A group of its own: no signal of the terminal is for it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.pipe, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(c.pipe, maxHello)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.stop = context.AfterFunc(ctx, c.kill)
	if err = limit(c.cmd.Process.Pid); err == nil {
		err = c.hello()
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// within kills the process unless done is called in time.
func (c *compiler) within(d time.Duration) (done func() bool) { return time.AfterFunc(d, c.kill).Stop }

// kill ends it, and what a wrapper may have started. It does nothing once the process is reaped.
func (c *compiler) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		// Whoever has left the group may hold the other ends.
		_ = c.in.Close()
		_ = c.pipe.Close()
	}
}

// end kills and reaps it. It has nothing to lose.
func (c *compiler) end() {
	c.kill()
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.stop()
	_ = c.cmd.Wait()
}

// hello reads what it says of itself.
func (c *compiler) hello() error {
	defer c.within(helloTime)()
	line, err := c.out.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("it says nothing of itself: %w", err)
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "MITOCODE ")
	if !ok {
		return fmt.Errorf("it says %.60q of itself", line)
	}
	words := strings.SplitN(text, " ", 3)
	if len(words) != 3 {
		return errSpecial
	}
	pid, err := strconv.Atoi(words[0])
	if err != nil {
		return errSpecial
	}
	magic, err := strconv.ParseUint(words[1], 16, 16)
	if err != nil {
		return errSpecial
	}
	library := words[2]
	if pid != c.cmd.Process.Pid {
		// The limits are those of the process that was started.
		return errors.New("a wrapper that stays beside the interpreter")
	}
	if err := owned.CheckFile(library); err != nil {
		return err
	}
	c.magic = uint16(magic)
	return nil
}

// compile gives the code of a source; it is empty if there is to be none. After an error the process is of no use any
// more.
func (c *compiler) compile(file string, source []byte) ([]byte, error) {
	defer c.within(compileTime)()
	c.number++
	request := binary.BigEndian.AppendUint32(make([]byte, 0, 12+len(file)+len(source)), c.number)
	request = binary.BigEndian.AppendUint32(request, uint32(len(file)))
	request = binary.BigEndian.AppendUint32(request, uint32(len(source)))
	request = append(append(request, file...), source...)
	if _, err := c.in.Write(request); err != nil {
		return nil, err
	}
	var head [16]byte
	if _, err := io.ReadFull(c.out, head[:]); err != nil {
		return nil, err
	}
	number, check := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	spent, size := binary.BigEndian.Uint32(head[8:]), binary.BigEndian.Uint32(head[12:])
	if number != c.number || check != crc32.ChecksumIEEE(request[12:]) || size > maxCode {
		return nil, errors.New("it answers what was not asked")
	}
	c.spent = time.Duration(spent) * time.Millisecond
	code := make([]byte, size)
	if _, err := io.ReadFull(c.out, code); err != nil {
		return nil, err
	}
	if size > 0 && !isCode(code) {
		return nil, errors.New("it answers with what is no code")
	}
	return code, nil
}

// isCode tells whether what was marshalled is a code object, and whole as zlib.
func isCode(packed []byte) bool {
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return false
	}
	var first [1]byte
	// The highest bit says that others refer to it.
	if _, err := io.ReadFull(r, first[:]); err != nil || first[0]&0x7f != 'c' {
		return false
	}
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxUnpacked))
	return err == nil && n < maxUnpacked
}

// worn tells that it should be replaced, so that the next source has time enough.
func (c *compiler) worn() bool { return c.spent > cpuSeconds*time.Second/2 }
