// Package service answers CALL_SERVICE at context 0 as Mitogen's own FileService and PushFileService do, for the
// children of one client: mitogen.service.FileService.get(context 0, path, out) in a child fetches a file of this
// machine that the client has registered.
//
// Chunks are frames of bytes, or pickled Blobs for releases before 0.3.39. A context is sent at most a mebibyte that it
// has not acknowledged, one file after the other. Those behind one connection are sent a part each in turn.
//
// # Goroutines
//
//	name                      started in    ends when                                        waited for by
//	a request                 Files.Call    it is answered; it also sends chunks if nobody   Files.wg, in Close
//	                                        else does for that connection
//	the end of a connection   Files.queue   that has come, and its files are closed          Files.wg, in Close
//
// # Locks
//
// Files.mu and queue.mu are taken alone, and not held across I/O.
package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"mitogend/daemon"
	"mitogend/daemon/socket"
	"mitogend/pyproto"
)

// Names of the services.
const (
	fileService = "mitogen.service.FileService"
	pushService = "mitogen.service.PushFileService"
)

const (
	// maxPushed bounds a file of PushFileService, which children keep in memory.
	maxPushed = 64 << 20
	// maxStored bounds the files that a client's own PushFileService has sent.
	maxStored = 256 << 20
	// maxQuestion is the largest request of a child, and maxRunning how many requests of one connection are answered
	// at once.
	maxQuestion = 64 << 10
	maxRunning  = 1000
)

// Files are the services of one client. They are safe for concurrent use.
type Files struct {
	ctx context.Context
	d   *daemon.Daemon

	// mu protects the following. Nothing is locked under it.
	mu       sync.Mutex
	paths    map[string]bool
	prefixes map[string]bool
	queues   map[pyproto.ContextID]*queue // by connection
	pushed   map[pushedFile]bool
	stored   map[string][]byte         // from a PushFileService of the client's, which takes context 0 for a hop
	size     int                       // of stored
	running  map[pyproto.ContextID]int // requests, by connection
	closed   bool

	wg sync.WaitGroup
}

// pushedFile is one that was sent over a connection.
type pushedFile struct {
	head pyproto.ContextID
	path string
}

// New makes services whose work ends with ctx.
func New(ctx context.Context, d *daemon.Daemon) *Files {
	return &Files{
		ctx: ctx, d: d, paths: map[string]bool{}, prefixes: map[string]bool{}, queues: map[pyproto.ContextID]*queue{},
		pushed: map[pushedFile]bool{}, stored: map[string][]byte{}, running: map[pyproto.ContextID]int{},
	}
}

// Close waits until nothing is sent any more and every file is closed. That is soon after the context of New has
// ended.
func (f *Files) Close() {
	f.mu.Lock()
	f.closed = true // from now on begin counts nobody
	f.mu.Unlock()
	f.wg.Wait()
}

// call is a CALL_SERVICE.
type call struct {
	in      *daemon.Incoming
	service string
	method  string
	args    pyproto.Kwargs
}

// Call answers a message. It does not block: files are read on other goroutines.
func (f *Files) Call(in *daemon.Incoming) {
	if in.Auth != 0 && len(in.Payload) > maxQuestion { // before it is decoded: values take many times its size
		f.d.Reached(in.Src, "bytes of a request to a service", maxQuestion)
		_ = in.Reply(callError(raise("mitogen.service.Error: a request has at most %d bytes", maxQuestion)))
		return
	}
	c, err := parse(in)
	if err != nil {
		_ = in.Reply(callError(err))
		return
	}
	if f.ctx.Err() != nil {
		in.Refuse("the client is gone")
		return
	}
	head := f.d.Stream(in.Src)
	switch full, closed := f.begin(head); {
	case closed:
		in.Refuse("the client is gone")
		return
	case full:
		f.d.Reached(in.Src, "requests to services at once", maxRunning)
		_ = in.Reply(callError(raise("mitogen.service.Error: at most %d requests are answered at once", maxRunning)))
		return
	}
	if in.Auth == 0 && c.service == pushService && c.method == "store_and_forward" {
		f.store(c) // here, since the next message may ask for it
	}
	go func() {
		defer f.done(head)
		f.answer(c)
	}()
}

// begin counts a request of a connection, unless too many are answered or all is closed.
func (f *Files) begin(head pyproto.ContextID) (full, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	full = f.running[head] >= maxRunning
	if !full && !f.closed {
		f.running[head]++
		f.wg.Add(1)
	}
	return full, f.closed
}

func (f *Files) done(head pyproto.ContextID) {
	defer f.wg.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[head]--; f.running[head] == 0 {
		delete(f.running, head)
	}
}

// Silent tells whether a message calls one of those methods of Mitogen's own services that give no reply, though Mitogen
// leaves a handle for one: acknowledge comes for each part of a file.
func Silent(in *daemon.Incoming) bool {
	if len(in.Payload) > maxQuestion {
		return false
	}
	c, err := parse(in)
	if err != nil {
		return false
	}
	switch c.service + " " + c.method {
	case fileService + " acknowledge", pushService + " store_and_forward", pushService + " forward":
		return true
	}
	return false
}

func parse(in *daemon.Incoming) (*call, error) {
	v, err := in.Value()
	if err != nil {
		return nil, err
	}
	t, ok := v.(pyproto.Tuple)
	if !ok || len(t) != 3 {
		return nil, raised("Invalid message format.")
	}
	c := &call{in: in}
	var ok1, ok2 bool
	c.service, ok1 = pyproto.Text(t[0])
	c.method, ok2 = pyproto.Text(t[1])
	if d, empty := t[2].(*pyproto.Dict); empty && d.Len() == 0 {
		ok = true
	} else {
		c.args, ok = t[2].(pyproto.Kwargs)
	}
	if !ok || !ok1 || !ok2 {
		return nil, raised("Invalid message format.")
	}
	return c, nil
}

// callError is an exception of Mitogen's for the caller.
func callError(err error) *pyproto.CallError {
	return &pyproto.CallError{Text: "mitogen.core.CallError: " + err.Error() + "\n"}
}

// raised is the text of an exception in Mitogen's words, for programs that compare it.
type raised string

func (r raised) Error() string { return string(r) }

func raise(format string, args ...any) error { return raised(fmt.Sprintf(format, args...)) }

func (c *call) text(name string) (string, error) {
	v, ok := c.args.Get(name)
	if !ok {
		return "", raise("Required argument '%s' missing.", name)
	}
	s, ok := pyproto.Text(v)
	if !ok {
		return "", raise("Argument '%s' type incorrect", name)
	}
	return s, nil
}

// context is the argument of that name.
func (c *call) context() (pyproto.Context, error) {
	v, _ := c.args.Get("context")
	to, ok := v.(pyproto.Context)
	if !ok {
		return to, raise("Argument 'context' type incorrect")
	}
	return to, nil
}

// answer runs one method. Methods that Mitogen marks as giving no reply reply only when they fail.
func (f *Files) answer(c *call) {
	method, parents := f.find(c)
	var err error
	switch {
	case method == nil && c.service != fileService && c.service != pushService:
		err = fmt.Errorf("there is no service %s here", c.service)
	case method == nil:
		err = raise("No such method: '%s'", c.method)
	case parents && c.in.Auth != 0:
		err = raise("Caller is not authorized to invoke '%s' of service '%s'", c.method, c.service)
	default:
		err = method(c)
	}
	if err != nil {
		_ = c.in.Reply(callError(err))
	}
}

// find gives the method, and whether only the client may call it.
func (f *Files) find(c *call) (method func(*call) error, parents bool) {
	switch c.service + " " + c.method {
	case fileService + " register":
		return func(c *call) error { return f.register(c, f.paths) }, true
	case fileService + " register_prefix":
		return func(c *call) error { return f.register(c, f.prefixes) }, true
	case fileService + " fetch":
		return f.fetch, false
	case fileService + " acknowledge":
		return f.acknowledge, false
	case pushService + " propagate_to":
		return f.propagate, true
	case pushService + " store_and_forward", pushService + " forward":
		return f.forward, true
	case pushService + " propagate_paths_and_modules":
		return f.propagateAll, true
	}
	return nil, false
}

func (f *Files) register(c *call, set map[string]bool) error {
	path, err := c.text("path")
	if err != nil {
		return err
	}
	f.mu.Lock()
	set[path] = true
	f.mu.Unlock()
	return c.in.Reply(nil)
}

// open opens a file that the client itself asks for, or that a child may have: one that was registered by just this
// name, or that is below a registered prefix. Prefixes count for the file that is opened, whatever links lead there.
func (f *Files) open(path string, client bool) (*os.File, error) {
	exact, dirs := f.registered(path)
	// O_NONBLOCK: opening a pipe that nobody writes to would wait.
	const flag = os.O_RDONLY | syscall.O_NONBLOCK
	if client || exact {
		file, err := os.OpenFile(path, flag, 0)
		if err != nil {
			return nil, ioError(err, path)
		}
		return file, nil
	}
	if len(dirs) == 0 {
		return nil, raise("mitogen.service.Error: Path '%s' is not registered with FileService.", path)
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, ioError(err, path)
	}
	for _, dir := range dirs {
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			continue
		}
		rel, err := filepath.Rel(dir, abs)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, ioError(err, path)
		}
		file, err := root.OpenFile(rel, flag, 0)
		_ = root.Close()
		if err != nil {
			return nil, ioError(err, path)
		}
		return file, nil
	}
	return nil, raise("mitogen.service.Error: Path '%s' is not registered with FileService: a link leads out of what is.", path)
}

// registered tells whether a path was registered by just this name. If it is below a registered prefix, it gives all
// prefixes.
func (f *Files) registered(path string) (exact bool, dirs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paths[path] {
		return true, nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return false, nil
	}
	for dir := abs; ; dir = filepath.Dir(dir) {
		if f.prefixes[dir] {
			return false, slices.Collect(maps.Keys(f.prefixes))
		}
		if dir == "/" || dir == "." {
			return false, nil
		}
	}
}

// propagate sends a small file to the head of a context's connection, which keeps it and passes it on.
func (f *Files) propagate(c *call) error {
	path, err := c.text("path")
	if err != nil {
		return err
	}
	to, err := c.context()
	if err != nil {
		return err
	}
	if err := f.push(to, path, func() ([]byte, error) { return f.small(c, path, "overridden_source") }); err != nil {
		return err
	}
	return c.in.Reply(nil)
}

// store keeps a file that the client's own service has sent. forward reports one that was not kept.
func (f *Files) store(c *call) {
	path, err := c.text("path")
	v, _ := c.args.Get("data")
	data, ok := v.(pyproto.Blob)
	f.mu.Lock()
	defer f.mu.Unlock()
	if size := f.size - len(f.stored[path]) + len(data); err == nil && ok && size <= maxStored {
		f.stored[path], f.size = data, size
	}
}

// forward sends what store has kept. It gives no reply.
func (f *Files) forward(c *call) error {
	path, err := c.text("path")
	if err != nil {
		return err
	}
	to, err := c.context()
	if err != nil {
		return err
	}
	return f.push(to, path, func() ([]byte, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		data, ok := f.stored[path]
		if !ok {
			return nil, raise("mitogen.service.Error: '%s' was not sent, or with others it has more than %d bytes", path, maxStored)
		}
		return data, nil
	})
}

func (f *Files) propagateAll(c *call) error {
	v, _ := c.args.Get("context")
	to, ok := v.(pyproto.Context)
	list, _ := c.args.Get("paths")
	paths, isList := list.([]any)
	if !ok || !isList {
		return raised("Argument 'context' or 'paths' type incorrect")
	}
	for _, p := range paths {
		path, ok := pyproto.Text(p)
		if !ok {
			return raised("Argument 'paths' type incorrect")
		}
		if err := f.push(to, path, func() ([]byte, error) { return f.small(c, path, "") }); err != nil {
			return err
		}
	}
	return c.in.Reply(nil)
}

func (f *Files) push(to pyproto.Context, path string, read func() ([]byte, error)) error {
	head := f.d.Stream(to.ID)
	if head == 0 {
		return fmt.Errorf("no route to context %d", to.ID)
	}
	args := pyproto.Kwargs{{Name: "path", Value: path}, {Name: "context", Value: to}}
	method := "store_and_forward"
	key := pushedFile{head, path}
	f.mu.Lock()
	sent := f.pushed[key]
	f.mu.Unlock()
	if sent && head == to.ID {
		return nil
	}
	if sent {
		method = "forward"
	} else {
		data, err := read()
		if err != nil {
			return err
		}
		args = append(args, pyproto.Arg{Name: "data", Value: pyproto.Blob(data)})
	}
	payload, err := pyproto.Marshal(pyproto.Tuple{pushService, method, args})
	if err == nil {
		err = f.d.Send(f.ctx, head, pyproto.CallService, 0, payload)
	}
	if err == nil {
		f.mu.Lock()
		f.pushed[key] = true
		f.mu.Unlock()
	}
	return err
}

// small reads a file for PushFileService, or takes what the caller gives in its place.
func (f *Files) small(c *call, path, override string) ([]byte, error) {
	if v, ok := c.args.Get(override); ok && v != nil && override != "" {
		if s, ok := pyproto.Text(v); ok {
			return []byte(s), nil
		}
		if b, ok := v.(pyproto.Blob); ok {
			return b, nil
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, ioError(err, path)
	}
	if !info.Mode().IsRegular() || info.Size() > maxPushed {
		return nil, raise("'%s' is no regular file of at most %d bytes", path, maxPushed)
	}
	return os.ReadFile(path)
}

// ioError puts an error into Python's words.
func ioError(err error, path string) error {
	if socket.IsShortage(err) {
		return err // the caller waits and tries again
	}
	var e *os.PathError
	switch named := errors.As(err, &e); {
	case named && errors.Is(err, os.ErrNotExist):
		return raise("[Errno 2] No such file or directory: '%s'", path)
	case errors.Is(err, os.ErrPermission):
		return raise("[Errno 13] Permission denied: '%s'", path)
	case named && e.Op == "open":
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}
