package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zlib"

	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// resourceQueue answers the questions about files that come over one stream, in order but for those that are parked.
// Its goroutine lives while there are any: no file is looked at on a readLoop.
type resourceQueue struct {
	// mu protects the following. Daemon.mu may be taken under it.
	mu      sync.Mutex
	queue   []pyproto.Message
	bytes   int // of queue
	running bool
	parked  map[pyproto.ContextID]questions // of contexts that take no answers for now
	waiting questions                       // all of parked
}

// questions are so many, and their bytes.
type questions struct{ n, bytes int }

func (q questions) plus(n, bytes int) questions { return questions{q.n + n, q.bytes + bytes} }

func (q questions) within(n, bytes int) bool { return q.n <= n && q.bytes <= bytes }

// ask queues a GET_RESOURCE of the embedded runtime. Its payload is a question, see [Daemon.resource]. It has a
// handle for the answer, so that contexts in between pass both on like a call; stock children are answered by
// LOAD_RESOURCE.
func (q *resourceQueue) ask(s *stream, h pyproto.Header, payload []byte) (refused string) {
	if len(payload) > maxQuestion {
		return s.reached("bytes of a request for a resource", maxQuestion).Error()
	}
	if !q.add(s, h, payload) {
		return s.reached("requests for resources that wait", maxQuestions).Error()
	}
	return ""
}

// add queues a question; false says that there is no room for it.
func (q *resourceQueue) add(s *stream, h pyproto.Header, payload []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxQuestions || q.bytes+len(payload) > maxQuestionBytes {
		return false
	}
	q.push(s, pyproto.Message{Header: h, Payload: bytes.Clone(payload)})
	return true
}

// push queues a question for which there is room. mu is held.
func (q *resourceQueue) push(s *stream, m pyproto.Message) {
	q.queue = append(q.queue, m)
	q.bytes += len(m.Payload)
	if q.running {
		return
	}
	if err := s.d.enter(); err != nil {
		q.queue, q.bytes = nil, 0
		return
	}
	q.running = true
	go func() {
		defer s.d.wg.Done()
		defer s.survive("a request for a resource")
		for m, ok := q.next(); ok; m, ok = q.next() {
			s.answerResource(m)
		}
	}()
}

func (q *resourceQueue) next() (m pyproto.Message, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.queue, q.running = nil, false
		return m, false
	}
	m = q.queue[0]
	q.queue[0] = pyproto.Message{}
	q.queue = q.queue[1:]
	q.bytes -= len(m.Payload)
	return m, true
}

// park keeps the question of a context that takes no messages for now until it does: it may be one that asks and does
// not read, and the hops before it are not to keep the answers.
func (q *resourceQueue) park(s *stream, m pyproto.Message) {
	q.mu.Lock()
	room := q.count(m, 1)
	q.mu.Unlock()
	if !room {
		s.refuseResource(m, s.reached("requests for resources of a context that takes no answers", maxQuestions))
		return
	}
	_ = s.d.run(func() {
		_ = s.d.waitGate(s.ctx, m.Src) // which opens when the context is lost
		q.mu.Lock()
		defer q.mu.Unlock()
		q.count(m, -1)
		if s.d.streamOf(m.Src) == s {
			q.push(s, m)
		}
	})
}

// refuseResource answers that there is none. A stock child has no handle for that.
func (s *stream) refuseResource(m pyproto.Message, reason error) {
	if c := s.childOf(m.Src); m.ReplyTo == 0 && c != nil && c.runtime != nil {
		if q, ok := c.resourceRequest(m.Payload); ok {
			_ = c.SendResource(s.d.ctx, q, nil)
		}
		return
	}
	s.d.refuse(m.Header, reason.Error())
}

// count counts a question that is parked, or by -1 is no more. False says that there is no room for it. mu is held.
func (q *resourceQueue) count(m pyproto.Message, n int) bool {
	bytes := n * len(m.Payload)
	of, all := q.parked[m.Src].plus(n, bytes), q.waiting.plus(n, bytes)
	if n > 0 && !(of.within(maxQuestions, maxParkedBytes) && all.within(4*maxQuestions, 16*maxParkedBytes)) {
		return false
	}
	if q.waiting = all; of.n == 0 {
		delete(q.parked, m.Src)
		return true
	}
	if q.parked == nil {
		q.parked = map[pyproto.ContextID]questions{}
	}
	q.parked[m.Src] = of
	return true
}

func (s *stream) answerResource(m pyproto.Message) {
	if g, _ := s.d.gateOf(m.Src); g != nil {
		s.resources.park(s, m)
		return
	}
	c := s.childOf(m.Src)
	if m.ReplyTo == 0 && c != nil && c.runtime != nil {
		c.loadResource(m.Payload)
		return
	}
	if owner, ok := s.d.programs.Load(m.Src); c == nil && ok && owner.(*Child).stream == s {
		c = owner.(*Child)
	}
	if c == nil {
		// It is a process that a child has made.
		c = s.childOf(s.id)
	}
	if c == nil {
		s.d.refuse(m.Header, "no resources are served to it")
		return
	}
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: m.Src, Handle: m.ReplyTo}
	v, err := s.d.resource(c, m.Src, m.Payload)
	payload, isData := v.([]byte)
	switch {
	case isData && !s.d.readsPicklesOnly(s, m.Src):
		h.Enc = pyproto.EncBIN
	case err == nil:
		payload, err = pyproto.Marshal(v)
	}
	if err == nil && len(payload) > s.d.opt.MaxMessage {
		err = fmt.Errorf("%d bytes; at most %d are sent", len(payload), s.d.opt.MaxMessage)
	}
	if err != nil {
		var none *importer.NotFoundError
		reason := err.Error()
		if errors.As(err, &none) {
			reason = none.Reason
		}
		s.d.refuse(m.Header, reason)
		return
	}
	if err := c.shareAnswer(s.d.ctx, m.Src, newFrame(h, payload)); err != nil {
		// A lost stream needs no answer. A stream that has not been read for long gets a short one.
		s.d.refuse(m.Header, err.Error())
	}
}

// resource answers a question of the embedded runtime's resources.py that a context has asked, c itself or one that c
// stands for:
//
//	("read", package, file)       the file's bytes
//	("list", package, directory)  of each entry the name, whether it is a directory, and the size; "" is the
//	                              package's own directory. Both may end in the path of a directory: only that one
//	                              of the package's several counts then
//	("tree", package)             the names, sizes and 1 for executable of the files to be unpacked, as zlib of lines
//	                              that end in NULs
//	("files", package, file ...)  the content of these, joined, as z and zlib or r
//	("modules",)                  names of the modules, and with a dot of the packages, that lie in no other one
//	("installed",)                the projects: (name, version, path, [(file, bytes)], whole); only entry points, not
//	                              whole
//	("metadata", project)         the same of one, whole
//	("python", id, question, offset)  up to 1 MiB of what a target asks for that is launched and has no Python; only c's
//	                              own launcher asks
//	("part", module, file, library, token, offset)
//	                              up to 1 MiB of a shared object, or of a library beside it, as z and zlib or r, or p
//	                              and its path, for a child that may find it there; with "bytes" behind it never that
func (d *Daemon) resource(c *Child, from pyproto.ContextID, payload []byte) (any, error) {
	v, err := pyproto.Unmarshal(payload)
	if err != nil {
		return nil, err
	}
	if _, err := resourceLimits.Extent(v); err != nil {
		return nil, fmt.Errorf("a request for a resource has %w", err)
	}
	var q []string
	if err := pyproto.Assign(&q, v); err != nil || len(q) == 0 {
		return nil, fmt.Errorf("a request for a resource that cannot be read")
	}
	im := c.Importer()
	switch kind, args := q[0], q[1:]; {
	case (kind == "read" || kind == "list") && (len(args) == 2 || len(args) == 3):
		where := strings.Join(args[2:], "")
		if kind == "read" {
			return im.ResourceIn(d.ctx, c.Version(), where, args[0], args[1], c.opt.Policy)
		}
		return entries(im, c.Version(), where, args[0], args[1], c.opt.Policy)
	case kind == "tree" && len(args) == 1:
		return d.unpackTree(c, im, args[0])
	case kind == "files" && len(args) > 1:
		return d.unpackFiles(c, im, args[0], args[1:])
	case kind == "part" && (len(args) == 5 || len(args) == 6 && args[5] == "bytes"):
		return d.extensionPart(c, im, args)
	case kind == "python" && len(args) == 3:
		if from != c.id { // c stands for it in what is only read; the answers here are each given once
			return nil, errNoSupply
		}
		return c.part(args)
	case kind == "modules" && len(args) == 0:
		return im.TopLevel(c.Version(), c.opt.Policy), nil
	case kind == "installed" && len(args) == 0:
		return installed(d.ctx, im, c.opt.Policy)
	case kind == "metadata" && len(args) == 1:
		m, err := im.Metadata(d.ctx, args[0], c.opt.Policy)
		if err != nil {
			return nil, err
		}
		return project(m, true), nil
	}
	return nil, fmt.Errorf("no such request for a resource: %q", printable.Cut(q[0], 100))
}

// extensionPart compresses what leaves this machine, and sends nothing that the child can read itself.
func (d *Daemon) extensionPart(c *Child, im *importer.Importer, args []string) (any, error) {
	offset, err := strconv.ParseInt(args[4], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("no number of bytes: %q", printable.Cut(args[4], 100))
	}
	f, err := im.ExtensionFile(d.ctx, c.Version(), args[0], args[1], args[2], args[3], c.opt.Policy)
	if err != nil {
		return nil, err
	}
	if !c.sameMachine() {
		data, err := f.Part(offset, "")
		if err != nil {
			return nil, err
		}
		return deflated("z", data)
	}
	if path := f.Path(); path != "" && len(args) == 5 && c.Version().Major > 2 {
		return []byte("p" + path), nil
	}
	return f.Part(offset, "r")
}

// sameMachine tells whether the child is on this machine, so that nothing need be compressed for it.
func (c *Child) sameMachine() bool { return c.via == nil && bytecodeMethods[c.method] }

// unpackTree lists the files that a child unpacks.
func (d *Daemon) unpackTree(c *Child, im *importer.Importer, pkg string) (any, error) {
	files, err := im.Unpack(pkg, c.Version(), c.opt.Policy)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, f := range files {
		mode := 0
		if f.Executable {
			mode = 1
		}
		fmt.Fprintf(&b, "%s\x00%d\x00%d\x00", f.Name, f.Size, mode)
	}
	return deflated("", b.Bytes())
}

// What python/unpack.py asks for at once: so many files, and bytes of all, or one file.
const (
	maxUnpacked      = 400
	maxUnpackedBytes = 1 << 20
)

// resourceLimits are for a question of a list or tuple, "files", a package and files. One too many gets a reason of its
// own.
var resourceLimits = pyproto.Limits{Bytes: maxQuestion, Values: maxUnpacked + 4, Depth: 1}

// unpackFiles reads some of them.
func (d *Daemon) unpackFiles(c *Child, im *importer.Importer, pkg string, names []string) (any, error) {
	head, limit := "", d.opt.MaxMessage
	switch {
	case len(names) > maxUnpacked:
		return nil, fmt.Errorf("%d files are asked for at once; at most %d are sent", len(names), maxUnpacked)
	case len(names) > 1:
		limit = maxUnpackedBytes
	}
	if c.sameMachine() {
		head = "r"
		limit = min(limit+len(head), d.opt.MaxMessage)
	}
	data, err := im.UnpackedData(d.ctx, pkg, names, head, limit, c.Version(), c.opt.Policy)
	if err != nil || head != "" {
		return data, err
	}
	return deflated("z", data)
}

func deflated(head string, data []byte) (any, error) {
	var buf bytes.Buffer
	buf.WriteString(head)
	w, err := zlib.NewWriterLevel(&buf, zlib.BestSpeed)
	if err != nil {
		return nil, err
	}
	_, _ = w.Write(data) // a bytes.Buffer does not fail
	_ = w.Close()
	return buf.Bytes(), nil
}

func entries(im *importer.Importer, v importer.Version, where, pkg, dir string, also importer.Policy) (any, error) {
	list, err := im.ResourcesIn(v, where, pkg, dir, also)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(list))
	for i, e := range list {
		out[i] = pyproto.Tuple{e.Name, e.Dir, e.Size}
	}
	return out, nil
}

// installed has of every project what programs that look for plugins ask for.
func installed(ctx context.Context, im *importer.Importer, also importer.Policy) (any, error) {
	list, err := im.Installed(ctx, "entry_points.txt", also)
	out := make([]any, 0, len(list))
	for _, m := range list {
		out = append(out, project(m, false))
	}
	return out, err
}

// project has what was read of one; whole is whether that is all that there is.
func project(m *importer.Metadata, whole bool) pyproto.Tuple {
	files := []any{}
	for name, data := range m.Files {
		files = append(files, pyproto.Tuple{name, data})
	}
	return pyproto.Tuple{m.Name, m.Version, m.Path, files, whole}
}
