package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/integration/poll"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitTime is how long anything here may take. It finds what hangs, not what is slow.
const waitTime = 30 * time.Second

// bed is a daemon whose CALL_SERVICE is answered by Files.
type bed struct {
	d     *daemon.Daemon
	files *Files
	end   func() // of the client that the files belong to
	logs  *observer.ObservedLogs
	// auth is the authority of calls, by the handle for their reply. A caller acts with the daemon's own, as a client
	// does; here it also stands for a client's child.
	auth sync.Map
}

func newBed(t *testing.T) *bed {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	d, err := daemon.New(daemon.Options{Logger: slogzap.Slog(zap.New(core))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &bed{d: d, files: New(ctx, d), logs: logs}
	b.end = func() { cancel(); b.files.Close() }
	d.Handle(pyproto.CallService, func(in *daemon.Incoming) {
		if auth, ok := b.auth.Load(in.ReplyTo); ok {
			in.Auth = auth.(pyproto.ContextID)
		}
		b.files.Call(in)
	})
	t.Cleanup(func() {
		b.end()
		ctx, cancel := context.WithTimeout(context.Background(), waitTime)
		defer cancel()
		if err := d.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// caller is a process that calls services, frame by frame.
type caller struct {
	t    *testing.T
	b    *bed
	id   pyproto.ContextID
	conn net.Conn
	last pyproto.Handle
}

func (b *bed) caller(t *testing.T) *caller {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	own := os.NewFile(uintptr(fds[0]), "caller")
	defer own.Close()
	c := &caller{t: t, b: b, last: 1000}
	if c.conn, err = net.FileConn(own); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	_ = c.conn.SetDeadline(time.Now().Add(waitTime))
	_, err = b.d.Attach(os.NewFile(uintptr(fds[1]), "daemon"), "caller", func(id pyproto.ContextID) error {
		c.id = id
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// send calls a service by that authority and gives the handle of the reply.
func (c *caller) send(auth pyproto.ContextID, payload any) pyproto.Handle {
	c.t.Helper()
	data, err := pyproto.Marshal(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	c.last++
	c.b.auth.Store(c.last, auth)
	h := pyproto.Header{Enc: pyproto.EncMGC, Src: c.id, Auth: c.id, Handle: pyproto.CallService, ReplyTo: c.last, Length: uint32(len(data))}
	if _, err := c.conn.Write(append(h.Append(nil), data...)); err != nil {
		c.t.Fatal(err)
	}
	return c.last
}

// next reads a message.
func (c *caller) next() (pyproto.Header, any) {
	c.t.Helper()
	head := make([]byte, pyproto.HeaderLen)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		c.t.Fatal(err)
	}
	h, err := pyproto.ParseHeader(head)
	if err != nil {
		c.t.Fatal(err)
	}
	data := make([]byte, h.Length)
	if _, err := io.ReadFull(c.conn, data); err != nil {
		c.t.Fatal(err)
	}
	if h.ReplyTo == pyproto.IsDead {
		return h, string(data)
	}
	v, err := pyproto.Unmarshal(data)
	if err != nil {
		c.t.Fatal(err)
	}
	return h, v
}

func method(service, name string, kwargs ...pyproto.Arg) pyproto.Tuple {
	return pyproto.Tuple{service, name, pyproto.Kwargs(kwargs)}
}

func arg(name string, v any) pyproto.Arg { return pyproto.Arg{Name: name, Value: v} }

// call waits for the reply to a call. see gets other messages that come before it.
func (c *caller) call(auth pyproto.ContextID, payload any, see func(pyproto.Header, any)) any {
	c.t.Helper()
	reply := c.send(auth, payload)
	for {
		h, v := c.next()
		if h.Handle == reply {
			return v
		}
		if see == nil {
			c.t.Fatalf("a message to handle %d: %.60v", h.Handle, v)
		}
		see(h, v)
	}
}

func writeFile(t *testing.T, size int) (path string, data []byte) {
	t.Helper()
	data = make([]byte, size)
	random := rand.New(rand.NewPCG(1, uint64(size)))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
	return path, data
}

const receiver = 77 // handle of the caller's

func (c *caller) fetch(path string) pyproto.Tuple {
	return method(fileService, "fetch", arg("path", path), arg("sender", pyproto.Sender{Context: c.id, Handle: receiver}))
}

// A file arrives whole, with at most a window of it not acknowledged.
func TestFetch(t *testing.T) {
	for _, size := range []int{0, 1, chunk, chunk + 1, 3*window + 17} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			b := newBed(t)
			c := b.caller(t)
			path, want := writeFile(t, size)
			if v := c.call(0, method(fileService, "register", arg("path", path)), nil); v != nil {
				t.Fatalf("register gave %v", v)
			}
			meta, ok := c.call(c.id, c.fetch(path), nil).(*pyproto.Dict)
			if !ok {
				t.Fatal("fetch gives no dict")
			}
			if n, _ := meta.Get("size"); n != int64(size) {
				t.Errorf("size is %v", n)
			}
			if mode, _ := meta.Get("mode"); mode != int64(unix.S_IFREG|0o640) {
				t.Errorf("mode is %v", mode)
			}
			var got []byte
			unacked, ended := 0, false
			take := func(h pyproto.Header, v any) {
				t.Helper()
				if h.Handle != receiver {
					t.Fatalf("a message to handle %d", h.Handle)
				}
				if h.ReplyTo == pyproto.IsDead {
					ended = true
					return
				}
				data := v.(pyproto.Blob)
				got = append(got, data...)
				unacked += len(data)
			}
			for len(got) < min(size, window) {
				take(c.next())
			}
			// What comes before the reply to a later request has been sent by now.
			c.call(0, method(fileService, "register", arg("path", "/x")), take)
			if unacked >= window+chunk {
				t.Errorf("%d bytes were sent ahead", unacked)
			}
			for !ended {
				c.send(c.id, method(fileService, "acknowledge", arg("size", int64(unacked))))
				unacked = 0
				take(c.next())
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes came of %d, or others", len(got), len(want))
			}
		})
	}
}

// A prefix lets children have what is below it, and nothing else.
func TestPrefix(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	path, _ := writeFile(t, 3)
	dir := filepath.Dir(path)
	if err := os.WriteFile(dir+"x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.call(0, method(fileService, "register_prefix", arg("path", dir)), nil)
	for _, bad := range []string{dir + "x", dir + "/../" + filepath.Base(dir) + "x", "/etc/passwd"} {
		if v := c.call(c.id, c.fetch(bad), nil); !strings.Contains(fmt.Sprint(v), "is not registered") {
			t.Errorf("%s: %v", bad, v)
		}
	}
	if v, ok := c.call(c.id, c.fetch(path), nil).(*pyproto.Dict); !ok {
		t.Errorf("%s: %v", path, v)
	}
}

// The target of a link counts, and so does what is below a prefix when the file is opened.
func TestPrefixAndLinks(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	outside, _ := writeFile(t, 5)
	other := filepath.Dir(outside)
	path, _ := writeFile(t, 3)
	dir := filepath.Dir(path)
	for name, to := range map[string]string{"out": other, "in": ".", "abs": dir, "up": "../"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(other, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "sub"), filepath.Join(dir, "deep")); err != nil {
		t.Fatal(err)
	}
	c.call(0, method(fileService, "register_prefix", arg("path", dir)), nil)
	for _, bad := range []string{"/out/file", "/deep/../file/x", "/up/" + filepath.Base(dir) + "x"} {
		if v, ok := c.call(c.id, c.fetch(dir+bad), nil).(*pyproto.CallError); !ok {
			t.Errorf("%s: %v", bad, v)
		}
	}
	// The kernel's dir/deep/../file is other/file. Ours is dir/file.
	meta, ok := c.call(c.id, c.fetch(dir+"/deep/../file"), func(pyproto.Header, any) {}).(*pyproto.Dict)
	if !ok {
		t.Fatal("no file")
	}
	if size, _ := meta.Get("size"); size != int64(3) {
		t.Errorf("the file has %v bytes", size)
	}
	for _, good := range []string{"/in/file", "/abs/file", "/in/abs/file"} {
		if v, ok := c.call(c.id, c.fetch(dir+good), func(pyproto.Header, any) {}).(*pyproto.Dict); !ok {
			t.Errorf("%s: %v", good, v)
		}
	}
	// When more is registered, more is given.
	c.call(0, method(fileService, "register_prefix", arg("path", other)), func(pyproto.Header, any) {})
	if v, ok := c.call(c.id, c.fetch(dir+"/out/file"), func(pyproto.Header, any) {}).(*pyproto.Dict); !ok {
		t.Errorf("a link into another prefix: %v", v)
	}
}

// Files that a child asks for and never takes cost no descriptors, and beyond a bound no memory.
func TestFetchWithoutEnd(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	path, _ := writeFile(t, 3*window)
	c.call(0, method(fileService, "register", arg("path", path)), nil)
	refused := 0
	for range 2 * maxJobs {
		if _, ok := c.call(c.id, c.fetch(path), func(pyproto.Header, any) {}).(*pyproto.CallError); ok {
			refused++
		}
	}
	if refused != maxJobs {
		t.Errorf("%d of %d were refused", refused, 2*maxJobs)
	}
	if n := openFiles(t, path); n > 2 {
		t.Errorf("%d descriptors are open", n)
	}
	b.wantBound(t, "files that wait to be sent")
	_ = c.conn.Close()
	poll.Until(t, "the files are closed", func() bool { return openFiles(t, path) == 0 })
}

// told counts the lines in the log about a bound.
func (b *bed) told(bound string) int {
	return b.logs.FilterMessage("a bound was reached").FilterField(zap.String("bound", bound)).Len()
}

// wantBound wants one line in the log about a bound.
func (b *bed) wantBound(t *testing.T, bound string) {
	t.Helper()
	if n := b.told(bound); n != 1 {
		t.Errorf("%q was told %d times: %v", bound, n, b.logs.All())
	}
}

// Slow requests are bounded in number, and all requests in size. Others are answered all the time.
func TestRequestsWithoutEnd(t *testing.T) {
	b := newBed(t)
	c, other := b.caller(t), b.caller(t)
	path, _ := writeFile(t, 10)
	other.call(0, method(fileService, "register", arg("path", path)), nil)
	q := b.files.queue(c.id)
	q.mu.Lock() // so that what is acknowledged waits
	for range maxRunning {
		c.send(c.id, method(fileService, "acknowledge", arg("size", int64(0))))
	}
	for range 10 {
		if e, ok := c.call(c.id, c.fetch(path), nil).(*pyproto.CallError); !ok || !strings.Contains(e.Text, "at most 1000 requests") {
			t.Errorf("got %v", e)
		}
	}
	b.wantBound(t, "requests to services at once")
	if _, ok := other.call(other.id, other.fetch(path), nil).(*pyproto.Dict); !ok {
		t.Error("another is not answered")
	}
	q.mu.Unlock()
	poll.Until(t, "it is answered again", func() bool {
		_, ok := c.call(c.id, c.fetch(path), func(pyproto.Header, any) {}).(*pyproto.Dict)
		return ok
	})
	if e, ok := c.call(c.id, c.fetch(strings.Repeat("x", maxQuestion)), func(pyproto.Header, any) {}).(*pyproto.CallError); !ok || !strings.Contains(e.Text, "at most 65536 bytes") {
		t.Errorf("got %v", e)
	}
	b.wantBound(t, "bytes of a request to a service")
	// What is too large is not even read.
	many := make(pyproto.Tuple, maxQuestion)
	if e, ok := c.call(c.id, many, func(pyproto.Header, any) {}).(*pyproto.CallError); !ok || !strings.Contains(e.Text, "at most 65536 bytes") {
		t.Errorf("got %v", e)
	}
}

// A child that asks for a file while the daemon has no descriptors waits, and then gets all of it.
func TestFetchOutOfDescriptors(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	path, data := writeFile(t, 3*chunk)
	c.call(0, method(fileService, "register", arg("path", path)), nil)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	least := before
	least.Cur = 1
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &least); err != nil {
		t.Fatal(err)
	}
	reply := c.send(c.id, c.fetch(path))
	// It is counted before it is told.
	for end := time.Now().Add(waitTime); b.told("descriptors of the daemon, for files to send") == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	b.wantBound(t, "descriptors of the daemon, for files to send")
	if h, v := c.next(); h.Handle != reply || v == nil {
		t.Fatalf("got %v, %v", h, v)
	} else if _, failed := v.(*pyproto.CallError); failed {
		t.Fatalf("got %v", v)
	}
	var got []byte
	for len(got) < len(data) {
		_, v := c.next()
		part, ok := v.(pyproto.Blob)
		if !ok {
			t.Fatalf("got %T after %d bytes", v, len(got))
		}
		got = append(got, part...)
	}
	if !bytes.Equal(got, data) {
		t.Error("other bytes have come")
	}
}

func TestRefusals(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	path, _ := writeFile(t, 3)
	dir := filepath.Dir(path)
	large := filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, maxPushed+1)); err != nil {
		t.Fatal(err)
	}
	sender := arg("sender", pyproto.Sender{Context: c.id, Handle: receiver})
	to := arg("context", pyproto.Context{ID: c.id})
	for _, x := range []struct {
		auth    pyproto.ContextID
		payload any
		want    string
	}{
		{0, "text", "Invalid message format."},
		{0, pyproto.Tuple{"a", "b"}, "Invalid message format."},
		{0, pyproto.Tuple{int64(1), "b", pyproto.Kwargs{}}, "Invalid message format."},
		{0, pyproto.Tuple{fileService, "fetch", []any{}}, "Invalid message format."},
		{0, method("some.Service", "x"), "there is no service some.Service here"},
		{0, method(fileService, "x"), "No such method: 'x'"},
		{0, method(fileService, "register"), "Required argument 'path' missing."},
		{0, method(fileService, "register", arg("path", int64(1))), "Argument 'path' type incorrect"},
		{c.id, method(fileService, "register", arg("path", path)), "Caller is not authorized to invoke 'register'"},
		{c.id, method(pushService, "propagate_to", arg("path", path), to), "Caller is not authorized to invoke 'propagate_to'"},
		{0, method(fileService, "fetch", arg("path", path)), "Argument 'sender' type incorrect"},
		{c.id, method(fileService, "fetch", arg("path", path), sender), "is not registered with FileService"},
		{0, method(fileService, "fetch", arg("path", path), arg("sender", pyproto.Sender{Context: 5, Handle: 6})), "must match requestee context"},
		{0, method(fileService, "fetch", arg("path", dir), sender), "is not a regular file"},
		{0, method(fileService, "fetch", arg("path", "/dev/zero"), sender), "is not a regular file"},
		{0, method(fileService, "fetch", arg("path", dir+"/none"), sender), "[Errno 2] No such file or directory"},
		{0, method(fileService, "acknowledge", arg("size", int64(-1))), "Argument 'size' type incorrect"},
		{0, method(pushService, "propagate_to", arg("path", path), arg("context", "c")), "Argument 'context' type incorrect"},
		{0, method(pushService, "propagate_to", arg("path", path), arg("context", pyproto.Context{ID: 9})), "no route to context 9"},
		{0, method(pushService, "propagate_to", arg("path", dir), to), "no regular file"},
		{0, method(pushService, "propagate_to", arg("path", large), to), fmt.Sprintf("at most %d bytes", maxPushed)},
		{0, method(pushService, "propagate_paths_and_modules", arg("paths", []any{int64(1)}), to), "Argument 'paths' type incorrect"},
	} {
		e, ok := c.call(x.auth, x.payload, nil).(*pyproto.CallError)
		if !ok || !strings.Contains(e.Error(), x.want) {
			t.Errorf("%v: got %v, want %s", x.payload, e, x.want)
		}
	}
}

// A small file is sent over a connection once. Contexts behind the head of the connection get it from there.
func TestPropagate(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	path, want := writeFile(t, 1000)
	to := arg("context", pyproto.Context{ID: c.id})
	var pushed []pyproto.Tuple
	see := func(h pyproto.Header, v any) {
		if h.Handle != pyproto.CallService {
			t.Errorf("a message to handle %d", h.Handle)
		}
		pushed = append(pushed, v.(pyproto.Tuple))
	}
	c.call(0, method(pushService, "propagate_to", arg("path", path), to), see)
	c.call(0, method(pushService, "propagate_paths_and_modules", arg("paths", []any{path}), to), see)
	if len(pushed) != 1 || pushed[0][1] != "store_and_forward" {
		t.Fatalf("pushed %.200v", pushed)
	}
	if data, _ := pushed[0][2].(pyproto.Kwargs).Get("data"); !bytes.Equal(data.(pyproto.Blob), want) {
		t.Error("the data is another")
	}
}

// openFiles counts the descriptors of a file.
func openFiles(t *testing.T, path string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == path {
			n++
		}
	}
	return n
}

// A child that is gone in the middle of its transfers leaves no open file, even if its client stays.
func TestTransfersOfSomebodyWhoGoes(t *testing.T) {
	for name, leave := range map[string]func(*bed, *caller){
		"child":  func(_ *bed, c *caller) { _ = c.conn.Close() },
		"client": func(b *bed, _ *caller) { b.end() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			c := b.caller(t)
			path, _ := writeFile(t, 3*window)
			got := 0
			see := func(_ pyproto.Header, v any) {
				if data, ok := v.(pyproto.Blob); ok {
					got += len(data)
				}
			}
			for range 3 {
				c.call(0, c.fetch(path), see)
			}
			for got < window {
				see(c.next())
			}
			if n := openFiles(t, path); n != 1 { // the others wait for their turn
				t.Fatalf("%d files are open", n)
			}
			leave(b, c)
			poll.Until(t, "the files are closed", func() bool { return openFiles(t, path) == 0 })
		})
	}
}

// behind makes contexts behind the caller, which it speaks for.
func (c *caller) behind(n int) (ids []pyproto.ContextID) {
	c.t.Helper()
	c.last++
	reply := c.last
	c.frame(pyproto.Header{Src: c.id, Handle: pyproto.AllocateID, ReplyTo: reply}, nil)
	h, v := c.next()
	block, ok := v.(pyproto.Tuple)
	if h.Handle != reply || !ok {
		c.t.Fatalf("got %v %v", h, v)
	}
	for i := range n {
		id := pyproto.ContextID(block[0].(int64)) + pyproto.ContextID(i)
		ids = append(ids, id)
		c.frame(pyproto.Header{Src: c.id, Handle: pyproto.AddRoute}, fmt.Append(nil, id))
	}
	return ids
}

func (c *caller) frame(h pyproto.Header, payload []byte) {
	c.t.Helper()
	h.Enc, h.Auth, h.Length = pyproto.EncMGC, c.id, uint32(len(payload))
	if _, err := c.conn.Write(append(h.Append(nil), payload...)); err != nil {
		c.t.Fatal(err)
	}
}

// ask has a context behind the caller call a service, without a reply.
func (c *caller) ask(src pyproto.ContextID, payload any) {
	c.t.Helper()
	data, err := pyproto.Marshal(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	c.frame(pyproto.Header{Src: src, Handle: pyproto.CallService}, data)
}

// Contexts that never acknowledge what they get, or that die, keep nobody behind the same connection waiting.
func TestFetchersBehindOneConnection(t *testing.T) {
	b := newBed(t)
	c := b.caller(t)
	path, data := writeFile(t, 3*window)
	const silent = maxOpen + 3
	ids := c.behind(silent + 2)
	fetch := func(id pyproto.ContextID) {
		c.ask(id, method(fileService, "fetch", arg("path", path), arg("sender", pyproto.Sender{Context: id, Handle: receiver})))
	}
	got := map[pyproto.ContextID]int{}
	read := map[pyproto.ContextID][]byte{}
	ended := map[pyproto.ContextID]bool{}
	take := func() (pyproto.ContextID, int) {
		h, v := c.next()
		part, _ := v.(pyproto.Blob)
		got[h.Dst] += len(part)
		read[h.Dst] = append(read[h.Dst], part...)
		ended[h.Dst] = ended[h.Dst] || h.ReplyTo == pyproto.IsDead
		return h.Dst, len(part)
	}
	for _, id := range ids[:silent] {
		fetch(id)
		fetch(id)
		for got[id] < window {
			take()
		}
	}
	acknowledge := func(id pyproto.ContextID, n int) {
		c.ask(id, method(fileService, "acknowledge", arg("size", int64(n))))
	}
	finish := func(good pyproto.ContextID) {
		for !ended[good] {
			if id, n := take(); id == good && n > 0 {
				acknowledge(good, n)
			}
		}
		if !bytes.Equal(read[good], data) {
			t.Errorf("%d: %d bytes came of %d, or others", good, got[good], len(data))
		}
	}
	fetch(ids[silent])
	finish(ids[silent])
	for _, id := range ids[:silent] {
		if got[id] > window+chunk || ended[id] {
			t.Errorf("%d got %d bytes", id, got[id])
		}
	}
	if n := openFiles(t, path); n > maxOpen {
		t.Errorf("%d files are open", n)
	}

	// Those whose files were closed for others get the rest, once they acknowledge.
	q := b.files.queue(c.id)
	var closed []pyproto.ContextID
	q.mu.Lock()
	for id, r := range q.fetchers {
		if len(r.jobs) > 0 && r.jobs[0].file == nil {
			closed = append(closed, id)
		}
	}
	q.mu.Unlock()
	if len(closed) < silent-maxOpen {
		t.Errorf("%d files are closed", len(closed))
	}
	for _, id := range closed {
		acknowledge(id, got[id])
		finish(id)
	}

	// With those that are gone, what waits for them goes, when the next one asks.
	for _, id := range ids[:silent] {
		c.frame(pyproto.Header{Src: c.id, Handle: pyproto.DelRoute}, fmt.Append(nil, id))
	}
	fetch(ids[silent+1])
	for got[ids[silent+1]] < window {
		take()
	}
	poll.Until(t, "one file is open", func() bool { return openFiles(t, path) == 1 })
	poll.Until(t, "one place is taken, by one context", func() bool { // also the last acknowledgement is handled
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.count == 1 && len(q.fetchers) == 1 && q.open == 1
	})
}

// A file is closed for one whose turn it is: of those that are sent nothing now, or else the one whose turn comes last.
func TestOpenFilesOfAConnection(t *testing.T) {
	var q queue
	for id := range pyproto.ContextID(maxOpen + 2) {
		q.add(&transfer{to: pyproto.Sender{Context: id + 1}})
	}
	for range maxOpen {
		r := q.next()
		r.jobs[0].file, _ = os.Open(os.DevNull)
		q.open++
		r.unacked = window
		q.turns = append(q.turns, r)
	}
	turn := func(id, closed pyproto.ContextID) {
		t.Helper()
		r := q.next()
		if r == nil || r.id != id {
			t.Fatalf("it is the turn of %v", r)
		}
		if q.open != maxOpen-1 || q.fetchers[closed].jobs[0].file != nil {
			t.Errorf("%d files are open; that of %d: %v", q.open, closed, q.fetchers[closed].jobs[0].file)
		}
		r.jobs[0].file, _ = os.Open(os.DevNull)
		q.open++
		q.turns = append(q.turns, r)
	}
	q.fetchers[maxOpen].unacked = 0
	turn(maxOpen+1, maxOpen-1)
	for _, r := range q.turns {
		r.unacked = 0
	}
	turn(maxOpen+2, maxOpen+1)
	q.sweep(func(pyproto.ContextID) bool { return false })
	if q.open != 0 {
		t.Errorf("%d files are open", q.open)
	}
}

// A file that was closed for others is read on from where that was, unless it is another one by then.
func TestFileIsOpenedAgain(t *testing.T) {
	path, data := writeFile(t, 3000)
	var q queue
	job := &transfer{open: func() (*os.File, error) { return os.Open(path) }}
	q.add(job)
	buf := make([]byte, 1000)
	for i := range 2 {
		if n := job.read(buf); !bytes.Equal(buf[:n], data[i*1000:][:1000]) {
			t.Errorf("part %d is another one, of %d bytes", i, n)
		}
		q.suspend()
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := job.read(buf); n != 0 {
		t.Errorf("%d bytes of another file came", n)
	}
	job.close(&q)
}

// What gives no reply is known, and so nobody waits for one.
func TestSilent(t *testing.T) {
	for _, row := range []struct {
		payload any
		want    bool
	}{
		{method(fileService, "acknowledge", arg("size", int64(1))), true},
		{method(pushService, "store_and_forward"), true},
		{method(pushService, "forward", arg("path", "x")), true},
		{method(fileService, "fetch", arg("path", "x")), false},
		{method("program.Service", "acknowledge"), false},
		{"acknowledge", false},
		{method(fileService, "acknowledge", arg("size", strings.Repeat("x", maxQuestion))), false},
	} {
		payload, err := pyproto.Marshal(row.payload)
		if err != nil {
			t.Fatal(err)
		}
		if got := Silent(&daemon.Incoming{Message: pyproto.Message{Payload: payload}}); got != row.want {
			t.Errorf("%.100v: %v", row.payload, got)
		}
	}
}
