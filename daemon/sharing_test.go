package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"mitogend/pyproto"
)

const digestScript = `
import hashlib, sys
stdin = getattr(sys.stdin, 'buffer', sys.stdin)
digest = hashlib.sha256()
while 1:
    data = stdin.read(1 << 16)
    if not data:
        break
    digest.update(data)
sys.stdout.write(digest.hexdigest())
`

// feedAll runs a program on each child that is given what its reader has; they read together.
func feedAll(t *testing.T, children []*Child, input func(n int) []byte) {
	t.Helper()
	var wg sync.WaitGroup
	for n, c := range children {
		wg.Add(1)
		go func() {
			defer wg.Done()
			data := input(n)
			digest(t, c, bytes.NewReader(data), data)
		}()
	}
	wg.Wait()
}

// digest has a program read what in has, which is to be data.
func digest(t *testing.T, c *Child, in io.Reader, data []byte) {
	t.Helper()
	var out bytes.Buffer
	status, err := c.Run(testContext(t), RunOptions{Path: "digest.py", Source: []byte(digestScript), Stdin: in, Stdout: &out})
	if want := fmt.Sprintf("%x", sha256.Sum256(data)); err != nil || status != (ExitStatus{}) || out.String() != want {
		t.Errorf("%s: %v, %v: %q, not %s", c.Name(), status, err, out.String(), want)
	}
}

func noise(seed uint64, size int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	out := make([]byte, size)
	_, _ = io.ReadFull(rand.NewChaCha8(key), out)
	return out
}

// TestSharedBound: both ends keep as much.
func TestSharedBound(t *testing.T) {
	text, err := os.ReadFile("../python/parent.py")
	if err != nil || !strings.Contains(string(text), fmt.Sprintf("\nMAX_SHARED = %d << 20\n", maxShared>>20)) {
		t.Error("parent.py keeps something else")
	}
}

// What is the same for several children goes to each hop before them once, and each gets its own.
func TestSharedInput(t *testing.T) {
	list := ends(t)
	oldest, newest := target(list[0]), target(list[1])
	const size = 12 << 20
	for name, chains := range map[string][]string{
		"one hop":  {oldest + "+" + newest, oldest + "+" + oldest, oldest + "+" + newest, oldest + "+" + newest},
		"two hops": {newest + "+" + oldest + "+" + newest, newest + "+" + oldest + "+" + newest, newest + "+" + oldest, newest + "+" + newest},
	} {
		t.Run(name, func(t *testing.T) {
			d := treeDaemon(t, Options{})
			var children []*Child
			for _, chain := range chains {
				children = append(children, connect(t, d, chain))
			}
			s := children[0].stream
			feedAll(t, children, func(int) []byte { return noise(1, 100) }) // what programs take is there
			before := s.bytesOut.Load()
			feedAll(t, children, func(int) []byte { return noise(2, size) })
			if sent := s.bytesOut.Load() - before; sent > size*5/4 {
				t.Errorf("%d bytes went to the hop for %d", sent, size)
			}
			// Beside other input, with more than hops keep, and with what they keep no more.
			feedAll(t, children, func(n int) []byte {
				if n%2 == 0 {
					return noise(3, size)
				}
				return append(noise(uint64(4+n), size), noise(2, size)...)
			})
			// Once they are told to keep nothing, all goes on.
			s.shared().mu.Lock()
			s.shared().used = s.shared().used.Add(-2 * shareIdle)
			s.shared().mu.Unlock()
			s.shared().expire(s)
			s.shared().mu.Lock()
			if s.shared().numbers != nil || s.shared().bytes != 0 || s.shared().late != 0 {
				t.Errorf("%d pieces, %d bytes, %d late", len(s.shared().numbers), s.shared().bytes, s.shared().late)
			}
			s.shared().mu.Unlock()
			feedAll(t, children, func(n int) []byte { return noise(2, size) })
		})
	}
}

// A hop that has lost what it should keep ends its connection: nobody gets input with a hole.
func TestSharedInputIsLost(t *testing.T) {
	for _, py := range ends(t) {
		t.Run(py.Version, func(t *testing.T) {
			d := treeDaemon(t, Options{})
			c := connect(t, d, target(py)+"+"+target(py))
			of := newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: 4999}, make([]byte, minShared))
			if err := c.stream.offer(shareFrame(of, 77, c.via.id, false)); err != nil {
				t.Fatal(err)
			}
			select {
			case <-c.Done():
			case <-testContext(t).Done():
				t.Fatal("it goes on")
			}
		})
	}
}

// Who comes later, and is sent what the hop keeps no more, is waited for: then they go on together.
func TestLateInput(t *testing.T) {
	list := ends(t)
	d := treeDaemon(t, Options{})
	d.sharePatience = within
	var children []*Child
	for range 3 {
		children = append(children, connect(t, d, target(list[1])+"+"+target(list[1])))
	}
	feedAll(t, children, func(int) []byte { return noise(1, 100) })
	s := children[0].stream
	const head, size = maxShared + 4<<20, maxShared + 32<<20
	data := noise(2, size)
	ahead := make(chan struct{})
	var wg sync.WaitGroup
	before := s.bytesOut.Load()
	for n, c := range children {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var in io.Reader = bytes.NewReader(data)
			if n == 0 {
				in = io.MultiReader(bytes.NewReader(data[:head]), &closer{ahead}, bytes.NewReader(data[head:]))
			} else {
				<-ahead
			}
			digest(t, c, in, data)
		}()
	}
	wg.Wait()
	if sent := s.bytesOut.Load() - before; sent > 3*head+size-head+size/4 {
		t.Errorf("%d bytes went to the hop for %d", sent, size)
	}
}

// Who waits for late ones stops with its context.
func TestLateInputGivenUp(t *testing.T) {
	py := target(ends(t)[1])
	d := treeDaemon(t, Options{})
	c := connect(t, d, py+"+"+py)
	connect(t, d, py+"+"+py)
	sh := c.stream.shared()
	sh.mu.Lock()
	sh.late, sh.bytes = 1, maxShared
	sh.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: 4999}, make([]byte, minShared))
	if err := (&feeder{c: c, patience: within}).send(ctx, f); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// closer is an empty reader that closes a channel.
type closer struct{ c chan struct{} }

func (o *closer) Read([]byte) (int, error) {
	close(o.c)
	return 0, io.EOF
}

// TestSharedWithPrograms: a file that several programs of a child ask for, goes to the child once.
func TestSharedWithPrograms(t *testing.T) {
	const size = 6 << 20
	data := noise(4, size)
	d := newDaemon(t, Options{Path: []string{sharedPackage(t, data)}})
	want := fmt.Sprintf("%x\n", sha256.Sum256(data))
	for _, py := range ends(t) {
		c := connect(t, d, target(py))
		before := c.stream.bytesOut.Load()
		for range 3 {
			var out bytes.Buffer
			if _, err := c.Run(testContext(t), RunOptions{Path: "p.py", Source: []byte(sharedProgram), Stdout: &out}); err != nil || out.String() != want {
				t.Errorf("%s: %q, %v", py.Version, out.String(), err)
			}
		}
		if sent := c.stream.bytesOut.Load() - before; sent > size*5/4 {
			t.Errorf("%s: %d bytes went to the child for %d", py.Version, sent, size)
		}
	}
}

const sharedProgram = "import pkg\nprint(pkg.digest())\n"

// sharedPackage makes a directory with a package that has data, and a function that reads it.
func sharedPackage(t *testing.T, data []byte) string {
	t.Helper()
	return writeFiles(t, map[string]string{
		"pkg/__init__.py": "import hashlib, pkgutil\n\ndef digest():\n    return hashlib.sha256(pkgutil.get_data('pkg', 'data')).hexdigest()\n",
		"pkg/data":        string(data),
	})
}

// TestSharedAnswers: a file that several children behind a hop ask for, goes to the hop once; so does what their programs ask for.
func TestSharedAnswers(t *testing.T) {
	list := ends(t)
	const size = 6 << 20
	data := noise(3, size)
	d := newDaemon(t, Options{Path: []string{sharedPackage(t, data)}})
	ctx := testContext(t)
	want := fmt.Sprintf("%x", sha256.Sum256(data))
	var children []*Child
	for _, py := range []string{target(list[0]), target(list[1]), target(list[1])} {
		children = append(children, connect(t, d, target(list[1])+"+"+py))
	}
	s := children[0].stream
	before := s.bytesOut.Load()
	for _, c := range children {
		var got string
		if err := c.Call(ctx, "pkg:digest").Decode(&got); err != nil || got != want {
			t.Errorf("%s: %q, %v", c.Name(), got, err)
		}
		var out bytes.Buffer
		if _, err := c.Run(ctx, RunOptions{Path: "p.py", Source: []byte(sharedProgram), Stdout: &out}); err != nil || out.String() != want+"\n" {
			t.Errorf("%s: %q, %v", c.Name(), out.String(), err)
		}
	}
	if sent := s.bytesOut.Load() - before; sent > size*5/4 {
		t.Errorf("%d bytes went to the hop for %d", sent, size)
	}
}
