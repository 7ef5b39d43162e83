package unixclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"mitogend/daemon"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// python is an interpreter that imports Mitogen.
func python(t testing.TB) string {
	t.Helper()
	path := "/usr/bin/python3"
	if p := os.Getenv("MITOGEND_STOCK_PYTHON"); p != "" {
		path = p
	}
	if out, err := exec.Command(path, "-c", "import mitogen.unix").CombinedOutput(); err != nil {
		pythons.Missing(t, fmt.Sprintf("%s has no Mitogen: %v\n%s", path, err, out))
	}
	return path
}

// serve runs a daemon with a socket until the test ends.
func serve(t *testing.T, opt Options) (d *daemon.Daemon, socket string) {
	t.Helper()
	return serveWith(t, daemon.Options{}, opt)
}

func serveWith(t *testing.T, dopt daemon.Options, opt Options) (d *daemon.Daemon, socket string) {
	t.Helper()
	return serveUntil(context.Background(), t, dopt, opt)
}

// serveUntil serves clients until ctx ends or the test does.
func serveUntil(ctx context.Context, t *testing.T, dopt daemon.Options, opt Options) (d *daemon.Daemon, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mg")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "mitogen.sock")
	log := slogzap.Slog(zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
	dopt.Logger = log
	if d, err = daemon.New(dopt); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	opt.Logger = log
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	s := New(d, opt)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		sctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		if err := d.Shutdown(sctx); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return d, socket
}

// start begins a program; its output is collected.
func start(t *testing.T, source string, files map[string]string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "program.py")
	for name, text := range map[string]string{"program.py": source} {
		write(t, filepath.Join(dir, name), text)
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	cmd := exec.Command(python(t), append([]string{script}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a program to its end and wants that output.
func run(t *testing.T, want, source string, files map[string]string, args ...string) {
	t.Helper()
	cmd, out := start(t, source, files, args...)
	kill := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	if err != nil || out.String() != want {
		t.Errorf("%v; want %q, got\n%s", err, want, out)
	}
}

const program = `
import logging
import os
import sys
import mitogen.core
import mitogen.select
import helper
import mitogen.parent

def here(n):
    return helper.VALUE + n

def boom():
    raise ValueError('no')

@mitogen.core.takes_router
def ping(sender, router):
    recv = mitogen.core.Receiver(router)
    sender.send(recv.to_sender())
    return [m.unpickle() for m in recv]

def speak():
    logging.getLogger('child').warning('from the child')

if __name__ == '__main__':
    import mitogen.unix # which children cannot import
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format='%(message)s')
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        c = router.local(via=parent, name='one')
        assert c.call(os.getpid) != os.getpid()
        print(c.name, c.call(here, 1))
        try:
            c.call(boom)
        except mitogen.core.CallError as e:
            print(str(e).splitlines()[0])
        recv = mitogen.core.Receiver(router)
        reply = c.call_async(ping, recv.to_sender())
        to = recv.get().unpickle()
        to.send(1)
        to.send(b'two')
        to.close()
        print(reply.get().unpickle())
        d = router.local(via=c, name='two')
        print(d.call(here, 2))
        f = router.fork(via=c)
        print(f.call(here, 3))
        with mitogen.parent.CallChain(c, pipelined=True) as chain:
            chain.call_no_reply(boom)
            try:
                chain.call(here, 1)
            except mitogen.core.CallError as e:
                print('chain', str(e).splitlines()[0])
        calls = [x.call_async(here, i) for i, x in enumerate((c, d, f))]
        print(sorted(m.unpickle() for m in mitogen.select.Select(calls)))
        c.call(speak)
        d.shutdown(wait=True)
        try:
            d.call(here, 1)
        except mitogen.core.ChannelError as e:
            print('gone')
        try:
            router.proxy_connect(parent, 'nosuch')
        except mitogen.core.CallError as e:
            print(str(e).splitlines()[0])
        try:
            router.local(via=parent, nonsense=1)
        except mitogen.core.CallError as e:
            print(str(e).split(':')[0])
        try:
            router.local(via=parent, python_path='/nonexistent/python')
        except mitogen.core.StreamError as e:
            print(str(e).split(': ')[1])
        try:
            router.sudo(via=parent, sudo_path='/bin/false')
        except mitogen.core.StreamError as e:
            print(str(e).split(': ', 1)[1].splitlines()[0])
    finally:
        router.broker.shutdown()
        router.broker.join()
`

const programOutput = `None.one 42
builtins.ValueError: no
[1, b'two']
43
44
chain builtins.ValueError: no
[41, 42, 43]
from the child
gone
builtins.ModuleNotFoundError: No module named 'mitogen.nosuch'
builtins.TypeError
Child start failed
EOF on stream; last 100 lines received:
`

func TestProgram(t *testing.T) {
	d, socket := serve(t, Options{})
	run(t, programOutput, program, map[string]string{"helper.py": "VALUE = 41\n"}, socket)
	poll.Until(t, "the client's children are gone", func() bool { return len(d.Children()) == 0 })
}

const valueProgram = `
import sys
import helper

def value():
    return NAME + helper.VALUE

if __name__ == '__main__':
    import mitogen.unix
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        c = router.local(via=parent)
        print('connected')
        sys.stdout.flush()
        sys.stdin.readline()
        print(c.call(value))
    finally:
        router.broker.shutdown()
        router.broker.join()
`

// Two programs at once, each with its own __main__ and its own version of a module.
func TestTwoClients(t *testing.T) {
	_, socket := serve(t, Options{})
	type client struct {
		cmd *exec.Cmd
		in  io.WriteCloser
		out *bytes.Buffer
	}
	var clients []client
	for _, name := range []string{"a", "b"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "program.py"), strings.Replace(valueProgram, "NAME", "'"+name+"'", 1))
		write(t, filepath.Join(dir, "helper.py"), "VALUE = '"+strings.ToUpper(name)+"'\n")
		cmd := exec.Command(python(t), filepath.Join(dir, "program.py"), socket)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client{cmd, in, &out})
	}
	for _, c := range clients {
		_, _ = io.WriteString(c.in, "\n")
	}
	for i, want := range []string{"connected\naA\n", "connected\nbB\n"} {
		if err := clients[i].cmd.Wait(); err != nil || clients[i].out.String() != want {
			t.Errorf("%v; want %q, got %s", err, want, clients[i].out)
		}
	}
}

// When a client is killed, what only it used ends with it.
func TestClientDies(t *testing.T) {
	d, socket := serve(t, Options{})
	cmd, out := start(t, `
import sys, time
import mitogen.unix
router, parent = mitogen.unix.connect(sys.argv[1])
c = router.local(via=parent)
router.local(via=c)
time.sleep(60)
`, nil, socket)
	poll.Until(t, "both children are there", func() bool { return len(d.Routes()) == 3 })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	poll.Until(t, "the children are gone", func() bool { return len(d.Routes()) == 0 })
	if out.Len() > 0 {
		t.Error(out)
	}
}

// raw is a client that speaks frames by itself.
type raw struct {
	net.Conn
	id pyproto.ContextID
}

func dial(t *testing.T, socket string) *raw {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, uint32(os.Getpid()))); err != nil {
		t.Fatal(err)
	}
	var hello [12]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		t.Fatal(err)
	}
	if server, pid := binary.BigEndian.Uint32(hello[4:]), binary.BigEndian.Uint32(hello[8:]); server != 0 || int(pid) != os.Getpid() {
		t.Fatalf("the server says that it is context %d of process %d", server, pid)
	}
	return &raw{conn, pyproto.ContextID(binary.BigEndian.Uint32(hello[:]))}
}

func (c *raw) send(t *testing.T, m pyproto.Message) {
	t.Helper()
	if _, err := c.Write(m.Append(nil)); err != nil {
		t.Fatal(err)
	}
}

// recv gives the next message. It answers by itself where its Mitogen is: it has none.
func (c *raw) recv(t *testing.T) *pyproto.Message {
	t.Helper()
	for {
		m, err := pyproto.ReadMessage(c, pyproto.DefaultMaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		if m.Handle != pyproto.GetModule || string(m.Payload) != ofMitogen {
			return m
		}
		none, err := pyproto.Marshal(pyproto.Tuple{ofMitogen, nil, nil, nil, pyproto.Tuple{}})
		if err != nil {
			t.Fatal(err)
		}
		c.send(t, pyproto.Message{Header: c.header(pyproto.LoadModuleHandle, 0), Payload: none})
	}
}

func (c *raw) header(handle, replyTo pyproto.Handle) pyproto.Header {
	return pyproto.Header{Enc: pyproto.EncMGC, Src: c.id, Auth: c.id, Handle: handle, ReplyTo: replyTo}
}

// alive wants an answer, which comes behind the answers to all that was sent before.
func (c *raw) alive(t *testing.T) {
	t.Helper()
	c.send(t, pyproto.Message{Header: c.header(pyproto.AllocateID, 4000)})
	if m := c.recv(t); m.Handle != 4000 || m.IsDead() {
		t.Fatalf("got %v %q", m.Header, m.Payload)
	}
}

func TestBadClients(t *testing.T) {
	_, socket := serve(t, Options{})
	other := dial(t, socket)
	t.Run("says nothing", func(t *testing.T) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	})
	t.Run("closes after the handshake", func(t *testing.T) { _ = dial(t, socket).Close() })
	t.Run("another's source", func(t *testing.T) {
		c := dial(t, socket)
		h := c.header(pyproto.AllocateID, 2000)
		h.Src = other.id
		c.send(t, pyproto.Message{Header: h})
		c.alive(t)
	})
	t.Run("a module that nobody asked for, twice, and no pickle", func(t *testing.T) {
		c := dial(t, socket)
		payload, _ := pyproto.Marshal(pyproto.Tuple{"m", nil, "m.py", pyproto.Blob("x"), []any{}})
		for _, p := range [][]byte{payload, payload, []byte("junk"), nil} {
			c.send(t, pyproto.Message{Header: c.header(pyproto.LoadModuleHandle, 0), Payload: p})
		}
		c.alive(t)
	})
	t.Run("calls that are not for us", func(t *testing.T) {
		c := dial(t, socket)
		for _, call := range []any{
			nil, pyproto.Tuple{nil, "os", nil, "getpid", pyproto.Tuple{}, pyproto.Kwargs{}},
			pyproto.Tuple{nil, "mitogen.parent", nil, "_proxy_connect", pyproto.Tuple{}, pyproto.Kwargs{}},
			pyproto.Tuple{nil, "mitogen.parent", nil, "_proxy_connect", pyproto.Tuple{nil, "local", int64(3)}, pyproto.Kwargs{}},
			pyproto.Tuple{nil, "mitogen.parent", nil, "_proxy_connect", pyproto.Tuple{int64(3), []byte("local"), pyproto.Kwargs{}}, pyproto.Kwargs{}},
		} {
			payload, err := pyproto.Marshal(call)
			if err != nil {
				t.Fatal(err)
			}
			c.send(t, pyproto.Message{Header: c.header(pyproto.CallFunction, 2000), Payload: payload})
			v, err := c.recv(t).Value()
			if e, ok := v.(*pyproto.CallError); err != nil || !ok || e.Type() == "" {
				t.Errorf("%v: got %v, %v", call, v, err)
			}
		}
	})
	t.Run("an unknown frame", func(t *testing.T) {
		c := dial(t, socket)
		if _, err := c.Write(bytes.Repeat([]byte{'x'}, 100)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
	})
	other.alive(t)
}

// One client more than there may be is sent away, until another has gone.
func TestTooManyClients(t *testing.T) {
	_, socket := serve(t, Options{MaxClients: 2})
	one, two := dial(t, socket), dial(t, socket)
	third := func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, uint32(os.Getpid())))
		_, err = io.ReadFull(conn, make([]byte, 12))
		return err == nil
	}
	if third() {
		t.Error("a third client was taken")
	}
	one.alive(t)
	two.alive(t)
	_ = one.Close()
	poll.Until(t, "another is taken", third)
	two.alive(t)
}

// A client that never answers, or answers late, costs its own children a negative answer.
func TestSilentClient(t *testing.T) {
	d, socket := serve(t, Options{ModuleTimeout: 2 * time.Second, Runtime: stock(t)})
	c := dial(t, socket)
	payload, _ := pyproto.Marshal(pyproto.Tuple{nil, "mitogen.parent", nil, "_proxy_connect", pyproto.Tuple{nil, "local",
		pyproto.Kwargs{{Name: "python_path", Value: python(t)}}}, pyproto.Kwargs{}})
	c.send(t, pyproto.Message{Header: c.header(pyproto.CallFunction, 2000), Payload: payload})
	v, err := c.recv(t).Value()
	var up struct {
		ID  uint32  `py:"id"`
		Msg *string `py:"msg"`
	}
	if err == nil {
		err = pyproto.Assign(&up, v)
	}
	if err != nil || up.Msg != nil {
		t.Fatal(v, err)
	}
	call := func(module string, handle pyproto.Handle) {
		h := c.header(pyproto.CallFunction, handle)
		h.Dst = pyproto.ContextID(up.ID)
		payload, _ := pyproto.Marshal(pyproto.Tuple{nil, module, nil, "f", pyproto.Tuple{}, pyproto.Kwargs{}})
		c.send(t, pyproto.Message{Header: h, Payload: payload})
	}
	call("silence", 2001)
	asked := false
	for m := c.recv(t); ; m = c.recv(t) {
		if m.Handle == pyproto.GetModule && string(m.Payload) == "silence" {
			asked = true
		}
		if m.Handle != 2001 {
			continue
		}
		v, err := m.Value()
		if e, ok := v.(*pyproto.CallError); err != nil || !ok || !strings.Contains(e.Text, "silence") || !asked {
			t.Errorf("got %v, %v; asked: %v", v, err, asked)
		}
		break
	}
	// Answered, twice.
	call("spoken", 2002)
	src := fmt.Sprintf("def f():\n    return %d\n", 7)
	for m := c.recv(t); ; m = c.recv(t) {
		if m.Handle == pyproto.GetModule && string(m.Payload) == "spoken" {
			lm := pyproto.LoadModule{Name: "spoken", Path: "spoken.py", Source: deflate(t, src)}
			p, err := lm.AppendPickle(nil)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				c.send(t, pyproto.Message{Header: c.header(pyproto.LoadModuleHandle, 0), Payload: p})
			}
		}
		if m.Handle == 2002 {
			if v, err := m.Value(); err != nil || v != int64(7) {
				t.Errorf("got %v, %v", v, err)
			}
			break
		}
	}
	_ = c.Close()
	poll.Until(t, "the child is gone", func() bool { return len(d.Routes()) == 0 })
}

// What a child asks is not passed on any more if it asks for names without end. What its siblings ask is.
func TestNamesInVain(t *testing.T) {
	const most = 20
	d, socket := serve(t, Options{MaxMisses: most, Runtime: stock(t)})
	c := dial(t, socket)
	connect := func() pyproto.ContextID {
		payload, _ := pyproto.Marshal(pyproto.Tuple{nil, "mitogen.parent", nil, "_proxy_connect", pyproto.Tuple{nil, "local",
			pyproto.Kwargs{{Name: "python_path", Value: python(t)}}}, pyproto.Kwargs{}})
		c.send(t, pyproto.Message{Header: c.header(pyproto.CallFunction, 2000), Payload: payload})
		var up struct {
			ID uint32 `py:"id"`
		}
		m := c.recv(t)
		if err := pyproto.Decode(m.Payload, &up); err != nil || up.ID == 0 {
			t.Fatal(m, err)
		}
		return pyproto.ContextID(up.ID)
	}
	asked := map[string]bool{}
	answer := func(lm pyproto.LoadModule) {
		p, err := lm.AppendPickle(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.send(t, pyproto.Message{Header: c.header(pyproto.LoadModuleHandle, 0), Payload: p})
	}
	call := func(child pyproto.ContextID, module string) any {
		h := c.header(pyproto.CallFunction, 2001)
		h.Dst = child
		payload, _ := pyproto.Marshal(pyproto.Tuple{nil, module, nil, "f", pyproto.Tuple{}, pyproto.Kwargs{}})
		c.send(t, pyproto.Message{Header: h, Payload: payload})
		for {
			m := c.recv(t)
			switch name := string(m.Payload); {
			case m.Handle == pyproto.GetModule && strings.HasPrefix(name, "is"):
				asked[name] = true
				answer(pyproto.LoadModule{Name: name, Path: name + ".py", Source: deflate(t, "def f():\n    return 7\n")})
			case m.Handle == pyproto.GetModule:
				asked[name] = true
				answer(pyproto.LoadModule{Name: name, Missing: true})
			case m.Handle == 2001:
				v, err := m.Value()
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
	}
	evil, good := connect(), connect()
	for i := range 2 * most {
		if v := call(evil, fmt.Sprint("is", i)); v != int64(7) { // what there is does not count
			t.Fatalf("got %v", v)
		}
	}
	clear(asked)
	for i := range 2 * most {
		if _, ok := call(evil, fmt.Sprint("not", i)).(*pyproto.CallError); !ok {
			t.Fatal("a module has come")
		}
	}
	if len(asked) != most || d.Bounded() == 0 {
		t.Errorf("%d names were asked for, and bounds were reached %d times", len(asked), d.Bounded())
	}
	if v := call(good, "is_for_another"); v != int64(7) {
		t.Errorf("got %v", v)
	}
}

const filesProgram = `
import io
import os
import sys
import mitogen.core
import mitogen.service

@mitogen.core.takes_econtext
def fetch(path, econtext):
    out = io.BytesIO()
    ok, metadata = mitogen.service.FileService.get(econtext.master, path, out)
    return ok, metadata['size'], out.getvalue() == b'0123456789' * (metadata['size'] // 10)

@mitogen.core.takes_router
def pushed(path, router):
    pool = mitogen.service.get_or_create_pool(router=router)
    return len(pool.get_service(u'mitogen.service.PushFileService').get(path))

if __name__ == '__main__':
    import mitogen.unix
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        path = mitogen.core.to_text(os.path.join(sys.argv[2], 'data'))
        with open(path, 'wb') as fp:
            fp.write(b'0123456789' * 300000)
        c = router.local(via=parent)
        below = router.local(via=c)
        try:
            c.call(fetch, path)
        except mitogen.core.CallError as e:
            print('not registered' in str(e))
        parent.call_service(mitogen.service.FileService, 'register_prefix', path=mitogen.core.to_text(sys.argv[2]))
        print(c.call(fetch, path), below.call(fetch, path))
        try:
            c.call_service(mitogen.service.FileService, 'register', path=u'/etc/passwd')
            c.call(fetch, u'/etc/passwd')
        except mitogen.core.CallError as e:
            print('not registered' in str(e))
        parent.call_service(mitogen.service.PushFileService, 'propagate_to', context=below, path=path)
        print(below.call(pushed, path), c.call(pushed, path))
        # A service of the client's own, for two behind the same child: the second gets it from there.
        push = mitogen.service.PushFileService(router=router)
        own = mitogen.core.to_text(os.path.join(sys.argv[2], 'own'))
        with open(own, 'wb') as fp:
            fp.write(b'12345')
        also = router.local(via=c)
        for context in below, also:
            push.propagate_to(context, own)
        print(below.call(pushed, own), also.call(pushed, own), c.call(pushed, own))
        try:
            parent.call_service(mitogen.service.FileService, 'nothing')
        except mitogen.core.CallError as e:
            print(str(e).splitlines()[0])
    finally:
        router.broker.shutdown()
        router.broker.join()
`

func TestFiles(t *testing.T) {
	_, socket := serve(t, Options{})
	run(t, "True\n(True, 3000000, True) (True, 3000000, True)\nTrue\n3000000 3000000\n5 5 5\nmitogen.core.CallError: No such method: 'nothing'\n",
		filesProgram, nil, socket, t.TempDir())
}

const wrapped = `
import os
import sys
import mitogen.unix

router, parent = mitogen.unix.connect(sys.argv[1])
try:
    child = router.ssh(via=parent, hostname='h', ssh_path=sys.argv[2])
    print(child.call(os.getenv, 'TRIED'), child.call(os.getenv, 'SUDO_PROMPT'))
finally:
    router.broker.shutdown()
    router.broker.join()
`

// Where the interpreter that Mitogen names is missing, another is looked for, and only there.
func TestMissingInterpreter(t *testing.T) {
	_, socket := serve(t, Options{})
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	write(t, filepath.Join(dir, "ssh"), `#!/bin/sh
while [ "$1" != h ]; do shift; done
shift
echo "$1" >>`+log+`
TRIED=$(echo $(wc -l <`+log+`))
PATH=`+dir+`/bin
export PATH TRIED
exec /bin/sh -c "$*"
`)
	if err := errors.Join(os.Chmod(filepath.Join(dir, "ssh"), 0o700), os.Mkdir(filepath.Join(dir, "bin"), 0o700),
		os.Symlink("/bin/sh", filepath.Join(dir, "bin", "sh")), os.Symlink(python(t), filepath.Join(dir, "bin", "python3"))); err != nil {
		t.Fatal(err)
	}
	run(t, "2 None\n", wrapped, nil, socket, filepath.Join(dir, "ssh"))
	if tried, _ := os.ReadFile(log); string(tried) != "python\nsh\n" {
		t.Errorf("was tried: %q", tried)
	}
	if err := os.Symlink(python(t), filepath.Join(dir, "bin", "python")); err != nil {
		t.Fatal(err)
	}
	run(t, "3 None\n", wrapped, nil, socket, filepath.Join(dir, "ssh"))
}

const refusedClient = `
import errno
import sys
import mitogen.unix

router, parent = mitogen.unix.connect(sys.argv[1])
try:
    for path in sys.argv[1], sys.argv[1] + '.none':
        try:
            mitogen.unix.connect(path)
        except mitogen.unix.ConnectError as e:
            print(errno.errorcode[e.errno] in sys.argv[2:])
finally:
    router.broker.shutdown()
    router.broker.join()
`

// A client that is not taken learns so by the class that Mitogen documents.
func TestConnectError(t *testing.T) {
	_, socket := serve(t, Options{MaxClients: 1})
	run(t, "True\nTrue\n", refusedClient, nil, socket, "ECONNRESET", "EPIPE", "ENOENT")
}
