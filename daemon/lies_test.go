package daemon

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

// watched is a daemon whose own faults fail the test. Otherwise they only end a stream.
func watched(t testing.TB, opt Options) *Daemon {
	t.Helper()
	core, logs := zapobserver.New(zapcore.ErrorLevel)
	opt.Logger = slogzap.Slog(zap.New(core))
	t.Cleanup(func() {
		for _, e := range logs.FilterMessageSnippet("fault of the daemon").All() {
			t.Errorf("%s: %v", e.Message, e.ContextMap())
		}
	})
	return newDaemon(t, opt)
}

// liar is the attacker. What it sends comes in on the peer's stream: its own, or that of an honest hop, which passes
// on what has a true source.
type liar struct {
	*peer
	src pyproto.ContextID
}

func (l *liar) say(handle pyproto.Handle, payload string) { l.from(l.src, handle, 0, payload) }

func (l *liar) from(src pyproto.ContextID, handle, replyTo pyproto.Handle, payload string) {
	l.t.Helper()
	l.send(pyproto.Header{Src: src, Auth: src, Handle: handle, ReplyTo: replyTo}, payload)
}

// answer reads until the answer to a question comes.
func (p *peer) answer(handle pyproto.Handle) *pyproto.Message {
	p.t.Helper()
	for {
		if m := p.read(); m.Handle == handle {
			return m
		}
	}
}

// sync waits until all that was sent is handled.
func (l *liar) sync() {
	l.t.Helper()
	l.from(l.src, 54321, 1999, "")
	l.answer(1999)
}

// behind puts a child behind a peer, and has the test send for both.
func (p *peer) behind() *Child {
	p.t.Helper()
	d := p.c.d
	c := d.newChild(ConnectOptions{}, "local")
	c.via, c.stream, c.responder = p.c, p.c.stream, p.c.responder
	p.c.stream.ids.give(c.id)
	d.children.Store(c.id, c)
	p.send(pyproto.Header{Src: p.id, Auth: p.id, Handle: pyproto.AddRoute}, fmt.Sprint(c.id))
	poll.Until(p.t, "the route is there", func() bool { return d.streamOf(c.id) == p.c.stream })
	return c
}

// lied is the tree of one row: the liar, and those who must not notice.
type lied struct {
	t    *testing.T
	d    *Daemon
	liar *liar
	b    *peer          // a sibling on a connection of its own
	call pyproto.Handle // of a call that it has not answered yet
	recv pyproto.Handle // of a receiver of its messages
	near *Child         // an honest child behind the liar's hop; nil when the liar has no hop
	far  *Child         // an honest child behind b
}

func connectPayload(method string, via pyproto.ContextID, launcher uint32, args map[string]any) string {
	if args == nil {
		args = map[string]any{}
	}
	payload, err := pyproto.Marshal(map[string]any{"method": method, "name": nil, "via": int64(via), "launcher": int64(launcher), "args": args})
	if err != nil {
		panic(err)
	}
	return string(payload)
}

// wantNone asks for a child and wants an error.
func (w *lied) wantNone(method string, via pyproto.ContextID, args map[string]any, reason string) {
	w.t.Helper()
	w.liar.from(w.liar.src, pyproto.Connect, 1998, connectPayload(method, via, 5000, args))
	m := w.liar.answer(1998)
	if m.IsDead() {
		return
	}
	v, err := m.Value()
	var up struct {
		ID    uint32  `py:"id"`
		Error *string `py:"error"`
	}
	if err == nil {
		err = pyproto.Assign(&up, v)
	}
	if err != nil || up.Error == nil || up.ID != 0 || !strings.Contains(*up.Error, reason) {
		w.t.Errorf("%s behind %d: %v, %v", method, via, v, err)
	}
}

// block has a peer ask for numbers, and gives the first.
func (p *peer) block(src pyproto.ContextID) pyproto.ContextID {
	p.t.Helper()
	p.send(pyproto.Header{Src: src, Auth: src, Handle: pyproto.AllocateID, ReplyTo: 1997}, "")
	v, err := p.answer(1997).Value()
	if err != nil {
		p.t.Fatal(err)
	}
	return pyproto.ContextID(v.(pyproto.Tuple)[0].(int64))
}

// fork has a peer ask for a fork of itself, and gives its number.
func (p *peer) fork() pyproto.ContextID {
	p.t.Helper()
	p.send(pyproto.Header{Src: p.id, Auth: p.id, Handle: pyproto.Connect, ReplyTo: 1996}, connectPayload("fork", p.id, 0, nil))
	v, err := p.answer(1996).Value()
	var up behindReply
	if err == nil {
		err = pyproto.Assign(&up, v)
	}
	if err != nil || up.Error != nil || up.ID == 0 {
		p.t.Fatal(v, err)
	}
	return pyproto.ContextID(up.ID)
}

// others are contexts that are not the liar's: the daemon, those of others, a client's, and numbers of nobody.
func (w *lied) others() []pyproto.ContextID {
	ids := []pyproto.ContextID{0, w.b.id, w.far.id, firstPeer + 1, math.MaxUint32, pyproto.ContextID(w.d.lastID.Load()) + 1,
		pyproto.ContextID(w.d.lastID.Load()) + 2, pyproto.ContextID(w.d.lastAsked.Load()) + 1, firstAsked - 1, endAsked - 1}
	if w.near != nil {
		ids = append(ids, w.near.id, w.liar.id)
	}
	return ids
}

// lies are messages that a peer may not send. lied.check says what must hold for the others.
var lies = []struct {
	name string
	lie  func(w *lied)
}{
	{"a source that is not behind it", func(w *lied) {
		for _, id := range w.others() {
			if w.near != nil && w.d.streamOf(id) == w.liar.c.stream {
				continue // its hop would not pass it on
			}
			for _, h := range []pyproto.Header{{Src: id, Auth: w.liar.src}, {Src: w.liar.src, Auth: id}, {Src: id, Auth: id}} {
				for _, dst := range []pyproto.ContextID{0, w.b.id, w.far.id} {
					for _, handle := range []pyproto.Handle{w.call, w.recv, pyproto.CallFunction, pyproto.DelRoute, pyproto.Connect, pyproto.ForwardLog} {
						h.Dst, h.Handle = dst, handle
						w.liar.send(h, fmt.Sprint(w.b.id))
						h.ReplyTo = pyproto.IsDead
						w.liar.send(h, "forged")
						h.ReplyTo = 0
					}
				}
			}
		}
	}},
	{"a message that is too large, in the name of others", func(w *lied) {
		for _, id := range []pyproto.ContextID{0, w.b.id, w.far.id} {
			for _, handle := range []pyproto.Handle{w.call, w.recv, 54323} {
				w.liar.send(pyproto.Header{Dst: 1 << 20, Src: id, Auth: w.liar.src, Handle: 1, ReplyTo: handle}, strings.Repeat("x", 1<<20+1))
			}
		}
	}},
	{"a reply to the call of another", func(w *lied) {
		for h := w.call - 5; h < w.call+20; h++ {
			w.liar.say(h, "\x80\x02X\x06\x00\x00\x00forged.")
			w.liar.say(h, "")
		}
	}},
	{"a dead message for the call of another, and for its receiver", func(w *lied) {
		for h := w.call - 5; h < w.call+20; h++ {
			w.liar.from(w.liar.src, h, pyproto.IsDead, "forged")
		}
	}},
	{"a dead message for a fixed handle", func(w *lied) {
		for h := range pyproto.FirstDynamic {
			w.liar.from(w.liar.src, h, pyproto.IsDead, fmt.Sprint(w.b.id))
		}
	}},
	{"DEL_ROUTE of others", func(w *lied) {
		for _, id := range append(w.others(), w.liar.src, w.liar.id) {
			w.liar.say(pyproto.DelRoute, fmt.Sprint(id))
			w.liar.say(pyproto.DelRoute, fmt.Sprintf("%d:name", id))
		}
		for _, text := range []string{"", ":", "-1", "+1", " 1", "1_0", "0x1", strings.Repeat("9", 1<<20), "\x00", "99999999999999999999"} {
			w.liar.say(pyproto.DelRoute, text)
		}
	}},
	{"ADD_ROUTE of numbers of others, and of those that nobody has yet", func(w *lied) {
		for _, id := range w.others() {
			w.liar.say(pyproto.AddRoute, fmt.Sprint(id))
			w.liar.say(pyproto.AddRoute, fmt.Sprintf("%d:name", id))
			w.liar.say(pyproto.DelRoute, fmt.Sprint(id))
		}
		for i := range 2000 {
			w.liar.say(pyproto.AddRoute, fmt.Sprint(w.d.lastID.Load()+uint32(i)))
			w.liar.say(pyproto.AddRoute, fmt.Sprint(w.d.lastAsked.Load()+uint32(i)))
		}
	}},
	{"ADD_ROUTE out of the block of another", func(w *lied) {
		first := w.b.block(w.b.id)
		for _, id := range []pyproto.ContextID{first, first + 1, first + idBlock - 1, first + idBlock} {
			w.liar.say(pyproto.AddRoute, fmt.Sprint(id))
			w.liar.say(pyproto.DelRoute, fmt.Sprint(id))
		}
		w.liar.sync()
		w.b.send(pyproto.Header{Src: w.b.id, Auth: w.b.id, Handle: pyproto.AddRoute}, fmt.Sprint(first+1))
		poll.Until(w.t, "its owner announces it", func() bool { return w.d.streamOf(first+1) == w.b.c.stream })
	}},
	{"the fork of another: announced, ended, taken back", func(w *lied) {
		id := w.b.fork()
		for range 2 {
			w.liar.say(pyproto.AddRoute, fmt.Sprint(id))
			w.liar.say(pyproto.DelRoute, fmt.Sprint(id))
			w.wantNone("unfork", id, nil, "is not a child")
			w.wantNone("fork", id, nil, "is not a child")
			w.liar.sync()
			c := w.d.child(id)
			if c == nil || c.gone() != nil || c.stream != w.b.c.stream {
				w.t.Errorf("the fork is %v", c)
			}
			w.b.send(pyproto.Header{Src: w.b.id, Auth: w.b.id, Handle: pyproto.AddRoute}, fmt.Sprint(id))
			poll.Until(w.t, "it is announced by its parent", func() bool { return w.d.streamOf(id) == w.b.c.stream })
		}
	}},
	{"answers to handles of the runtime, by the daemon's authority", func(w *lied) {
		for _, h := range []pyproto.Handle{pyproto.Ping, pyproto.GetModule, pyproto.LoadModuleHandle, pyproto.Allow, pyproto.Shared, pyproto.LoadCode} {
			w.liar.from(w.liar.src, 54321, h, "")
			w.liar.from(w.liar.src, pyproto.AllocateID, h, "")
			question, _ := pyproto.Marshal(pyproto.Tuple{strings.Repeat("x", 100), "y", "z"})
			w.liar.from(w.liar.src, pyproto.GetResource, h, string(question))
			// To another: no handle of it is asked.
			w.liar.send(pyproto.Header{Dst: w.b.id, Src: w.liar.src, Auth: w.liar.src, Handle: 54321, ReplyTo: h}, "")
		}
		w.liar.from(w.liar.src, 54321, 1994, "")
		for m := w.liar.read(); m.Handle != 1994; m = w.liar.read() {
			if m.Handle.Reserved() && (m.ReplyTo == pyproto.IsDead || m.Handle == pyproto.Shared || m.Handle == pyproto.Ping) {
				w.t.Errorf("it was sent %v: %q", m.Handle, m.Payload)
			}
		}
		if n := w.d.Refused(); n < 4*6 {
			w.t.Errorf("%d messages were refused", n)
		}
	}},
	{"FLOW for itself and for others, and questions to them", func(w *lied) {
		for _, id := range append(w.others(), w.liar.src) {
			w.liar.say(pyproto.Flow, fmt.Sprintf("%d:1", id))
		}
		for range 50 {
			h := pyproto.Header{Dst: w.b.id, Src: w.liar.src, Auth: w.liar.src, Handle: 54321, ReplyTo: 1995}
			w.liar.send(h, "")
		}
		for range 50 {
			w.b.answer(54321)
			w.b.send(pyproto.Header{Dst: w.liar.src, Src: w.b.id, Auth: w.b.id, Handle: 1995, ReplyTo: pyproto.IsDead}, noHandle)
		}
	}},
	{"FLOW for a number of its own, and questions in its name", func(w *lied) {
		id := w.liar.block(w.liar.src)
		w.liar.from(w.liar.id, pyproto.AddRoute, 0, fmt.Sprint(id))
		w.liar.from(w.liar.id, pyproto.Flow, 0, fmt.Sprintf("%d:1", id))
		for range 50 {
			w.liar.send(pyproto.Header{Dst: w.b.id, Src: id, Auth: id, Handle: 54321, ReplyTo: 1995}, "")
		}
		for range 50 {
			w.b.answer(54321)
			w.b.send(pyproto.Header{Dst: id, Src: w.b.id, Auth: w.b.id, Handle: 1995, ReplyTo: pyproto.IsDead}, noHandle)
			// What an honest child answers that is no dead message.
			w.b.send(pyproto.Header{Dst: id, Src: w.b.id, Auth: w.b.id, Handle: 1995}, "\x80\x02N.")
		}
	}},
	{"CONNECT behind others, and by methods that run a command", func(w *lied) {
		for _, id := range w.others() {
			for _, method := range []string{"local", "ssh", "fork", "unfork", "exec"} {
				w.wantNone(method, id, map[string]any{}, "is not a child")
			}
		}
		for _, method := range []string{"exec", "shell", "", "no", "unfork\x00", "../local"} {
			w.wantNone(method, w.liar.src, map[string]any{"command": []any{"sh", "-c", "id"}}, "cannot connect by the method")
		}
		w.wantNone("local", w.liar.src, map[string]any{"password_file": "/etc/shadow"}, "no argument")
		w.wantNone("sudo", w.liar.src, map[string]any{"password_env": "HOME"}, "no argument")
		w.liar.from(w.liar.src, pyproto.Connect, 1994, "\x80\x02cos\nsystem\n)R.")
		w.liar.answer(1994)
	}},
	{"what only a client may send", func(w *lied) {
		call := pyproto.Call{Module: "mitogen.parent", Function: "_proxy_connect"}
		payload, err := call.AppendPickle(nil)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, h := range []pyproto.Handle{pyproto.CallFunction, pyproto.LoadModuleHandle} {
			w.liar.from(w.liar.src, h, 1993, string(payload))
			if m := w.liar.answer(1993); !m.IsDead() || string(m.Payload) != notAdmitted {
				w.t.Errorf("handle %d: %v %q", h, m.Header, m.Payload)
			}
		}
	}},
	{"every fixed handle, with the number of another", func(w *lied) {
		for h := range pyproto.FirstDynamic {
			if h == pyproto.ForwardLog {
				continue
			}
			for _, replyTo := range []pyproto.Handle{0, 1992} {
				w.liar.from(w.liar.src, h, replyTo, fmt.Sprintf("%d\x00%d", w.b.id, w.far.id))
			}
		}
	}},
	{"calls, modules and ends for others", func(w *lied) {
		for _, dst := range []pyproto.ContextID{w.b.id, w.far.id} {
			for _, h := range []pyproto.Handle{pyproto.CallFunction, pyproto.Shutdown, pyproto.LoadModuleHandle, pyproto.DelRoute, pyproto.LoadCode} {
				w.liar.send(pyproto.Header{Dst: dst, Src: w.liar.src, Auth: w.liar.src, Handle: h}, fmt.Sprint(w.b.id))
				if m := w.b.answer(h); m.Auth != w.liar.src || m.Src != w.liar.src {
					w.t.Errorf("it came with the authority of %d", m.Auth)
				}
			}
		}
	}},
	{"as many numbers as there are", func(w *lied) {
		w.d.lastAsked.Store(endAsked - 3*idBlock)
		for range 10 {
			w.liar.from(w.liar.src, pyproto.AllocateID, 1991, "")
			m := w.liar.answer(1991)
			if m.IsDead() {
				continue
			}
			v, _ := m.Value()
			block := v.(pyproto.Tuple)
			if first, end := block[0].(int64), block[1].(int64); first < firstAsked || end > firstPeer-1<<20 || end != first+idBlock {
				w.t.Errorf("it was given %d to %d", first, end)
			}
		}
		for range 3 * idBlock {
			w.liar.from(w.liar.src, pyproto.Connect, 0, connectPayload("fork", w.liar.src, 0, nil))
		}
	}},
	{"a frame that is too large, between others", func(w *lied) {
		h := pyproto.Header{Dst: w.b.id, Src: w.liar.src, Auth: w.liar.src, Handle: 54321, ReplyTo: 1990}
		w.liar.send(h, "before")
		w.liar.send(h, strings.Repeat("Z", 3<<20))
		w.liar.send(h, "behind")
		for _, want := range []string{"before", "behind"} {
			if m := w.b.answer(54321); string(m.Payload) != want {
				w.t.Errorf("%d bytes came, want %q", len(m.Payload), want)
			}
		}
	}},
}

// check wants everything to be as it would be without the liar.
func (w *lied) check(p *Pending, r *Receiver) {
	t, d, b := w.t, w.d, w.b
	t.Helper()
	ctx := testContext(t)
	for _, c := range []*Child{b.c, w.far, w.near} {
		if c != nil && (c.gone() != nil || d.child(c.id) != c || d.streamOf(c.id) != c.stream) {
			t.Errorf("%s: %v", c.name, c.gone())
		}
	}
	b.send(pyproto.Header{Src: b.id, Auth: b.id, Handle: w.call}, "\x80\x02X\x06\x00\x00\x00honest.")
	if v, err := p.Result(ctx).Value(); v != "honest" || err != nil {
		t.Errorf("the call gave %v, %v", v, err)
	}
	b.send(pyproto.Header{Src: b.id, Auth: b.id, Handle: w.recv}, "\x80\x02K\x05.")
	if v, err := r.Next(ctx); v != int64(5) || err != nil {
		t.Errorf("the receiver gave %v, %v", v, err)
	}
	// No message came to it that looks like the daemon's.
	b.send(pyproto.Header{Src: b.id, Auth: b.id, Handle: 54322, ReplyTo: 1989}, "")
	for m := b.read(); m.Handle != 1989; m = b.read() {
		if m.Src == 0 && m.Handle != pyproto.Flow { // which asks it to send nothing to who takes nothing
			t.Errorf("it was sent %+v %q", m.Header, m.Payload)
		}
	}
	// The next child is like any other.
	n := newPeerOn(t, d, "socketpair")
	if n.id == 0 || n.id >= firstPeer || d.streamOf(n.id) != n.c.stream {
		t.Errorf("the next child is context %d, which leads to %v", n.id, d.streamOf(n.id))
	}
	n.c.pushed.store("mod", struct{}{})
	p = n.c.Start(ctx, "mod:fn")
	n.send(pyproto.Header{Src: n.id, Auth: n.id, Handle: n.answer(pyproto.CallFunction).ReplyTo}, "\x80\x02K\x02.")
	if v, err := p.Result(ctx).Value(); v != int64(2) || err != nil {
		t.Errorf("its call gave %v, %v", v, err)
	}
}

// TestLies: a child, and one behind an honest hop, send what they may not send.
func TestLies(t *testing.T) {
	for link := range links {
		for _, hop := range []bool{false, true} {
			for _, row := range lies {
				role := "child"
				if hop {
					role = "grandchild"
				}
				t.Run(link+"/"+role+"/"+row.name, func(t *testing.T) {
					t.Parallel()
					d := watched(t, Options{MaxMessage: 1 << 20})
					d.Handle(pyproto.CallFunction, func(*Incoming) { t.Error("a call came through") })
					d.Handle(pyproto.LoadModuleHandle, func(*Incoming) { t.Error("a module came through") })
					w := &lied{t: t, d: d, b: newPeerOn(t, d, link)}
					l := newPeerOn(t, d, link)
					w.liar = &liar{l, l.id}
					if hop {
						w.near = l.behind()
						w.liar.src = l.behind().id
					}
					w.far = w.b.behind()
					w.b.c.pushed.store("mod", struct{}{})
					p := w.b.c.Start(testContext(t), "mod:fn")
					w.call = w.b.answer(pyproto.CallFunction).ReplyTo
					r, err := d.NewReceiver(w.b.c, 0)
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					w.recv = r.handle
					row.lie(w)
					w.liar.sync()
					w.check(p, r)
				})
			}
		}
	}
}

// Refusals are counted. For each kind a stream has one line in the log at once, and then one a minute.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	core, logs := zapobserver.New(zapcore.WarnLevel)
	d := newDaemon(t, Options{Logger: slogzap.Slog(zap.New(core))})
	a, b := newPeer(t, d), newPeer(t, d)
	l := &liar{a, a.id}
	for range 100 {
		l.say(pyproto.DelRoute, fmt.Sprint(b.id))
		l.say(pyproto.AddRoute, fmt.Sprint(b.id))
		l.from(b.id, pyproto.DelRoute, 0, "")
	}
	l.sync()
	if n := len(logs.FilterMessageSnippet("refused a message").All()); n != 3 {
		t.Errorf("%d lines for 3 kinds", n)
	}
	if n := d.Refused(); n != 300 {
		t.Errorf("%d are counted", n)
	}
}

// The stream that a message comes on decides what it may do, even if the tables say that its source is a child of
// ours.
func TestOwnStreamOnly(t *testing.T) {
	d := watched(t, Options{Path: []string{writeFiles(t, map[string]string{"pkg/__init__.py": "", "pkg/data.txt": "secret"})}})
	evil, b := newPeer(t, d), newPeer(t, d)
	b.c.opt.OnLog = func(l Log) { t.Errorf("logged as %s: %s", l.Target, l.Text) }
	question, err := pyproto.Marshal(pyproto.Tuple{"read", "pkg", "data.txt"})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []pyproto.Header{
		{Handle: pyproto.GetModule}, {Handle: pyproto.ForwardLog}, {Handle: pyproto.Connect, ReplyTo: 1999},
	} {
		h.Src, h.Auth = b.id, b.id
		payload := "pkg"
		switch h.Handle {
		case pyproto.ForwardLog:
			payload = "x\x0030\x00forged"
		case pyproto.Connect:
			payload = connectPayload("fork", b.id, 0, nil)
		}
		before := len(d.Children())
		d.deliver(evil.c.stream, h, []byte(payload), nil)
		if len(d.Children()) != before {
			t.Errorf("handle %d has made a child", h.Handle)
		}
	}
	if b.c.launcher.Load() != 0 {
		t.Error("it has a launcher")
	}
	// The daemon's files are for all of its children. The files of b's importer are for b.
	b.c.opt.Importer = d.importer
	other, err := d.NewImporter(importer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	evil.c.opt.Importer = other
	d.deliver(evil.c.stream, pyproto.Header{Src: b.id, Auth: b.id, Handle: pyproto.GetResource, ReplyTo: 1998}, question, nil)
	if m := b.answer(1998); !m.IsDead() {
		t.Errorf("b's file was read over another stream: %q", m.Payload)
	}
	b.send(pyproto.Header{Src: b.id, Auth: b.id, Handle: pyproto.GetResource, ReplyTo: 1997}, string(question))
	if m := b.answer(1997); string(m.Payload) != "secret" {
		t.Errorf("got %v %q", m.Header, m.Payload)
	}
}

// A launch succeeds if the hop before the child has announced its route, whatever others claim, and fails otherwise.
func TestLaunchRoutes(t *testing.T) {
	for _, c := range []struct {
		honest  bool
		version int64
	}{{true, 0x30b07f0}, {false, 0x30b07f0}, {false, 0x30507f0}, {false, 0x20607f0}} {
		honest := c.honest
		d := watched(t, Options{})
		hop, evil := newPeer(t, d), newPeer(t, d)
		below := &liar{hop, hop.behind().id}
		hop.c.launcher.Store(5000)
		plan, err := bootstrap.Build("local", map[string]any{}, bootstrap.Boot{Stub: "pass", Args: []string{"x"}, Elsewhere: true})
		if err != nil {
			t.Fatal(err)
		}
		next := d.newChild(ConnectOptions{Name: "next"}, "local")
		next.via = hop.c
		done := make(chan error, 1)
		go func() { done <- hop.c.launch(testContext(t), next, plan) }()
		m := hop.answer(5000)
		for _, l := range []*liar{{evil, evil.id}, below} {
			l.say(pyproto.AddRoute, fmt.Sprint(next.id))
			l.say(pyproto.DelRoute, fmt.Sprint(next.id))
			l.sync()
		}
		if d.streamOf(next.id) != nil || next.gone() != nil {
			t.Fatal("the number of a child that is being started was claimed")
		}
		if honest || c.version != 0x30b07f0 {
			hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.AddRoute}, fmt.Sprint(next.id))
		}
		up, err := pyproto.Marshal(map[string]any{"ok": true, "hexversion": c.version})
		if err != nil {
			t.Fatal(err)
		}
		hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: m.ReplyTo}, string(up))
		err = <-done
		if honest != (err == nil) || honest != (d.child(next.id) == next) {
			t.Fatalf("honest: %v; %v, %v", honest, err, d.child(next.id))
		}
		if !honest {
			// The interpreter was started all the same, and is ended.
			if m := hop.answer(5000); string(m.Payload) != fmt.Sprint(next.id) {
				t.Errorf("got %q", m.Payload)
			}
		}
	}
}

// A child ends once, however many report its end at the same time.
func TestEndedOnce(t *testing.T) {
	events := make(chan Event, 1<<16)
	d := watched(t, Options{OnEvent: func(e Event) { events <- e }})
	a := newPeer(t, d)
	const n = 2000
	for range n {
		c := d.newChild(ConnectOptions{}, "fork")
		c.via, c.stream = a.c, a.c.stream
		a.c.stream.ids.give(c.id)
		d.children.Store(c.id, c)
		if err := d.addRoute(a.c.stream, c.id); err != nil {
			t.Fatal(err)
		}
		done := make(chan bool)
		go func() {
			_, _ = a.c.connectBehind(d.ctx, &behindRequest{Method: "unfork", Via: uint32(c.id)})
			done <- true
		}()
		go func() {
			c.end("again")
			done <- true
		}()
		a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.DelRoute}, fmt.Sprint(c.id))
		<-done
		<-done
		if c.gone() == nil {
			t.Fatal("it has not ended")
		}
	}
	(&liar{a, a.id}).sync()
	if a.c.gone() != nil || len(d.Children()) != 1 || len(d.Routes()) != 1 {
		t.Errorf("%v; %d children, %d routes", a.c.gone(), len(d.Children()), len(d.Routes()))
	}
	if len(events) > n {
		t.Errorf("%d events for %d children", len(events), n)
	}
}

// The numbers of contexts end where those of clients begin, and never start again.
func TestNumbersEnd(t *testing.T) {
	d := watched(t, Options{})
	for _, last := range []uint32{0, firstAsked - 3, firstAsked - 1, firstAsked, endAsked - 2, endAsked, firstPeer, math.MaxUint32 - 1, math.MaxUint32} {
		for _, n := range []uint32{1, idBlock} {
			d.lastID.Store(last)
			d.lastAsked.Store(max(last, firstAsked-1))
			for range 5 {
				id := d.allocate(n)
				if id != 0 && (uint32(id) <= last && last < firstAsked || uint64(id)+uint64(n) > endAsked) {
					t.Errorf("after %d: %d numbers from %d on", last, n, id)
				}
				if last >= endAsked && id != 0 {
					t.Errorf("after %d there is %d", last, id)
				}
			}
		}
	}
	if _, err := d.Connect(context.Background(), "local:"); !errors.Is(err, errNoIDs) {
		t.Errorf("connected: %v", err)
	}
	d.lastPeer.Store(endPeer - 1)
	_, w, _, _ := links["pipes"](t)
	if _, err := d.Attach(w, "client", func(id pyproto.ContextID) error { return fmt.Errorf("it is %d", id) }); !errors.Is(err, errNoIDs) {
		t.Errorf("attached: %v", err)
	}
}

// Children that ask for numbers use up none of those for the daemon's own children.
func TestNumbersAskedFor(t *testing.T) {
	d := watched(t, Options{})
	a := newPeer(t, d)
	before := d.lastID.Load()
	for range 3 * idBlock {
		if id := d.allocateFor(a.c.stream); id == 0 {
			t.Fatal("there is none")
		}
	}
	for range 100 {
		a.block(a.id)
	}
	if used := d.lastID.Load() - before; used > idBlock {
		t.Errorf("a child has used up %d of our numbers", used)
	}
	d.lastAsked.Store(endAsked)
	a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.AllocateID, ReplyTo: 1999}, "")
	a.wantDead(1999, "used up")
	if newPeer(t, d).id == 0 {
		t.Error("no child can be connected any more")
	}
}

// A readLoop waits for somebody else's peer no longer than StallTimeout, whatever that peer does.
func TestHeldNoLonger(t *testing.T) {
	for _, how := range []string{"gate", "trickle"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := watched(t, Options{StallTimeout: 300 * time.Millisecond, MaxPending: 1 << 20})
			evil, b := newPeer(t, d), newPeer(t, d)
			dst := evil.id
			if how == "gate" {
				dst = evil.behind().id
				evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.Flow}, fmt.Sprintf("%d:1", dst))
				(&liar{evil, evil.id}).sync()
			} else {
				stop := make(chan bool)
				defer close(stop)
				go func() { // little by little is progress
					tick := time.NewTicker(50 * time.Millisecond)
					defer tick.Stop()
					for {
						select {
						case <-tick.C:
							_, _ = evil.in.Read(make([]byte, 16<<10))
						case <-stop:
							return
						}
					}
				}()
			}
			b.c.pushed.store("mod", struct{}{})
			p := b.c.Start(testContext(t), "mod:fn")
			call := b.answer(pyproto.CallFunction).ReplyTo
			go func() {
				h := pyproto.Header{Enc: pyproto.EncMGC, Dst: dst, Src: b.id, Auth: b.id, Handle: 1999}
				m := pyproto.Message{Header: h, Payload: make([]byte, 600<<10)}
				for range 6 {
					_, _ = b.f.Write(m.Append(nil))
				}
				h.Dst, h.Handle = 0, call
				_, _ = b.f.Write((&pyproto.Message{Header: h, Payload: []byte("\x80\x02K\x02.")}).Append(nil))
			}()
			if v, err := p.Result(testContext(t)).Value(); v != int64(2) || err != nil {
				t.Errorf("%v, %v", v, err)
			}
		})
	}
}

// A fault of ours in handling a message ends the stream that brought it.
func TestFaultEndsOneStream(t *testing.T) {
	core, logs := zapobserver.New(zapcore.ErrorLevel)
	d := newDaemon(t, Options{Logger: slogzap.Slog(zap.New(core))})
	d.Handle(pyproto.CallService, func(*Incoming) { panic("a fault") })
	a, b := newPeer(t, d), newPeer(t, d)
	a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.CallService}, "")
	select {
	case <-a.c.Done():
	case <-testContext(t).Done():
		t.Fatal("the stream goes on")
	}
	if err := a.c.gone(); err == nil || !strings.Contains(err.Error(), "a fault of the daemon: a fault") {
		t.Error(err)
	}
	(&liar{b, b.id}).sync()
	entries := logs.FilterMessageSnippet("fault of the daemon").All()
	if len(entries) != 1 || !strings.Contains(entries[0].ContextMap()["stack"].(string), "TestFaultEndsOneStream") {
		t.Errorf("logged %v", entries)
	}
}

// TestIDsOfOneName: who ends a connection and is connected again does not get as many ids once more, and an id that is
// announced again and again is one.
func TestIDsOfOneName(t *testing.T) {
	d := watched(t, Options{})
	a, other := newPeer(t, d), newPeer(t, d)
	first := a.block(a.id)
	for range 3 * idBlock {
		a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.AddRoute}, fmt.Sprint(first+1))
		a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.DelRoute}, fmt.Sprint(first+1))
	}
	a.block(a.id)
	if n := a.c.stream.ids.used(); n != 1 {
		t.Errorf("one id that was announced counts as %d", n)
	}
	a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.AddRoute}, fmt.Sprint(first+idBlock-1))
	a.block(a.id)
	if n := a.c.stream.ids.used(); n != 2 {
		t.Errorf("two ids that were announced count as %d", n)
	}
	d.accounts.of(a.c.stream.name).taken.Store(maxIDs)
	_ = a.f.Close()
	<-a.c.stream.ended
	again := newPeerOn(t, d, "socketpair", func(c *Child) { c.stream.name = a.c.stream.name })
	again.send(pyproto.Header{Src: again.id, Auth: again.id, Handle: pyproto.AllocateID, ReplyTo: 1999}, "")
	again.wantDead(1999, "context ids")
	other.block(other.id)
	account := d.accounts.of(a.c.stream.name)
	if n := account.most(account.since.Add(10 * time.Second)); n != maxIDs+idBlock {
		t.Errorf("after 10 s it may have %d", n)
	}
	for i := range maxAccounts + 10 {
		d.accounts.of(fmt.Sprint(i))
	}
	if n := len(d.accounts.m); n > maxAccounts {
		t.Errorf("%d names are remembered", n)
	}
}

// TestDetachedProcesses: a target that detaches and keeps its connection's program for ever does so for some only.
func TestDetachedProcesses(t *testing.T) {
	var set detached
	list := make([]*bootstrap.Process, maxDetached+1)
	for i := range list {
		list[i] = new(bootstrap.Process)
		if got, want := set.add("ssh:evil", list[i]), i < maxDetached; got != want {
			t.Fatalf("process %d: %v", i, got)
		}
	}
	if !set.add("ssh:evil", list[0]) || !set.add("ssh:other", list[maxDetached]) {
		t.Error("one that is known, or of another name, is refused")
	}
	// One that has ended makes room.
	d := watched(t, Options{})
	c, err := d.Connect(context.Background(), target(pythons.Any(t)))
	if err != nil {
		t.Fatal(err)
	}
	if !set.add("ssh:third", c.stream.proc) {
		t.Error("it is refused")
	}
	for i := 1; i < maxDetached; i++ {
		set.add("ssh:third", list[i])
	}
	if set.add("ssh:third", list[0]) {
		t.Error("there is room")
	}
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !set.add("ssh:third", list[0]) {
		t.Error("there is no room for another")
	}
}
