package importer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// recorder is a Sink that keeps what was queued.
type recorder struct {
	mu   sync.Mutex
	sent []string // names, "-name" for a refusal, "name>target" for a forward
	recs map[string][]byte
	fail error
	// hold, when not nil, blocks every LoadModule until it is closed, or sent something.
	hold chan struct{}
}

func (r *recorder) LoadModule(payload []byte, name string) error {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	if r.recs == nil {
		r.recs = map[string][]byte{}
	}
	r.recs[name] = payload
	if missing(payload) {
		name = "-" + name
	}
	r.sent = append(r.sent, name)
	return nil
}

func (r *recorder) ForwardModule(payload []byte, target uint32, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if want := fmt.Sprintf("%d\x00%s", target, name); string(payload) != want {
		return fmt.Errorf("payload %q, want %q", payload, want)
	}
	r.sent = append(r.sent, fmt.Sprintf("%s>%d", name, target))
	return r.fail
}

// missing tells whether a LOAD_MODULE is a refusal.
func missing(payload []byte) bool {
	v, err := pyproto.Unmarshal(payload)
	t, ok := v.(pyproto.Tuple)
	return err == nil && ok && len(t) == 5 && t[3] == nil
}

func (r *recorder) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

// serve runs a responder for the test.
func serve(t *testing.T, im *Importer, sink Sink, opt ResponderOptions) *Responder {
	t.Helper()
	r, err := NewResponder(im, sink, opt)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	r.Start(context.Background(), inGroup(&wg), func(error) {})
	t.Cleanup(func() {
		r.Close()
		wg.Wait()
	})
	return r
}

// inGroup has functions run that wg waits for.
func inGroup(wg *sync.WaitGroup) func(func()) error {
	return func(work func()) error {
		wg.Go(work)
		return nil
	}
}

// ask requests names and waits until all are answered.
func ask(t *testing.T, r *Responder, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := r.Request(name); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, r)
}

// settle waits until what was queued before is done.
func settle(t *testing.T, r *Responder) {
	t.Helper()
	if err := r.Push(context.Background()); err != nil {
		t.Fatal(err)
	}
}

var appFiles = map[string]string{
	"app/__init__.py": "from . import util\n", "app/util.py": "import lib\n", "app/web/__init__.py": "", "app/web/view.py": "from .. import model\nimport lib.x\n",
	"app/model.py": "", "lib/__init__.py": "", "lib/x.py": "import app.web.view\n", "alone.py": "import os\n",
}

func TestResponderOrder(t *testing.T) {
	im := onPath(t, appFiles)
	sink := &recorder{}
	r := serve(t, im, sink, ResponderOptions{Version: py3})
	ask(t, r, "app")
	equal(t, "app", sink.names(), []string{"app.util", "lib", "app"})
	ask(t, r, "app.web.view")
	equal(t, "app.web.view", sink.names()[3:], []string{"app.web", "app.model", "lib.x", "app.web.view"})
	ask(t, r, "nothing", "os", "alone")
	equal(t, "others", sink.names()[7:], []string{"-nothing", "-os", "alone"})

	m, err := pyproto.ParseLoadModule(sink.recs["app.web.view"])
	if err != nil {
		t.Fatal(err)
	}
	src, err := inflate(m.Source)
	if err != nil || string(src) != appFiles["app/web/view.py"] || m.IsPkg || !strings.HasSuffix(m.Path, "/app/web/view.py") {
		t.Errorf("record %+v, %v", m, err)
	}
	equal(t, "related", m.Related, []string{"app.model", "lib", "lib.x"})
}

// TestResponderTellsFirst: whoever has what the child answers with a module has been told of the module.
func TestResponderTellsFirst(t *testing.T) {
	sink := &recorder{}
	told := 0
	r := serve(t, onPath(t, appFiles), sink, ResponderOptions{Version: py3, Observe: func(e Event) {
		if n := len(sink.names()); n != told {
			t.Errorf("told of %s %s after %v, as number %d", e.What, e.Name, sink.names(), told+1)
		}
		told++
	}})
	ask(t, r, "app", "nothing")
	if err := r.Push(context.Background(), "app.web.view"); err != nil {
		t.Fatal(err)
	}
	if err := r.Forward(context.Background(), 7, Platform{Version: py3}, "app"); err != nil {
		t.Fatal(err)
	}
	if n := len(sink.names()); n != told || n < 8 {
		t.Errorf("told of %d, sent %v", told, sink.names())
	}
}

// TestKeptSources: what was kept of a source is sent, and everything else is compressed here.
func TestKeptSources(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	long := strings.Repeat("# one of several that are compressed at once\n", aheadSize/20)
	files := map[string]string{
		"app/__init__.py": "from . import util\nimport app.model\n" + long, "app/util.py": "import lib\n" + long,
		"app/model.py": "X = 1\n" + long, "lib/__init__.py": "Y = 2\n" + long, "lone.py": "import app.model\n",
	}
	dir := tree(t, files)
	kept := stored([]byte("another zlib"))
	sink := &recorder{}
	im := newImporter(t, Options{Path: []string{dir}})
	opt := ResponderOptions{Version: py3, Kept: func(u Uncompiled) []byte {
		mu.Lock()
		defer mu.Unlock()
		name := strings.TrimPrefix(u.Path, dir+"/")
		asked[name]++
		if want := sha256.Sum256([]byte(files[name])); u.Hash != want || u.Size != len(files[name]) {
			t.Errorf("%s: asked for %x of %d bytes", name, u.Hash, u.Size)
		}
		if strings.HasPrefix(name, "app/") {
			return kept
		}
		return nil
	}}
	ahead := map[string]int{}
	opt.Ahead = func(u Uncompiled) {
		mu.Lock()
		defer mu.Unlock()
		ahead[strings.TrimPrefix(u.Path, dir+"/")]++
	}
	// It is asked for children of other versions, too, which are sent no code.
	py2 := opt
	py2.Version = Version{2, 7}
	r := serve(t, im, &recorder{}, py2)
	if err := r.Forward(context.Background(), 7, Platform{Version: py3}, "lone"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for name := range files {
		if asked[name] != 1 {
			t.Errorf("%s was asked for %d times for a child of another version", name, asked[name])
		}
	}
	if len(ahead) != 0 {
		t.Errorf("code is read ahead for a child of another version: %v", ahead)
	}
	clear(asked)
	mu.Unlock()
	im = newImporter(t, Options{Path: []string{dir}})
	ask(t, serve(t, im, sink, opt), "lone", "app")
	ask(t, serve(t, im, &recorder{}, opt), "lone", "app")
	for name, file := range map[string]string{"app": "app/__init__.py", "app.util": "app/util.py", "app.model": "app/model.py",
		"lib": "lib/__init__.py", "lone": "lone.py"} {
		m, err := pyproto.ParseLoadModule(sink.recs[name])
		if err != nil {
			t.Fatal(name, err)
		}
		if strings.HasPrefix(file, "app/") {
			if !bytes.Equal(m.Source, kept) {
				t.Errorf("%s was compressed anew", name)
			}
		} else if src, err := inflate(m.Source); err != nil || string(src) != files[file] {
			t.Errorf("%s: got %q, %v", name, src, err)
		}
		if asked[file] != 1 {
			t.Errorf("%s was asked for %d times", file, asked[file])
		}
		if ahead[file] != 1 {
			t.Errorf("the code of %s was read ahead %d times", file, ahead[file])
		}
	}
}

func TestResponderPushAndForward(t *testing.T) {
	ctx := context.Background()
	im := onPath(t, appFiles)
	sink := &recorder{}
	var events []Event
	r := serve(t, im, sink, ResponderOptions{Version: py3, Local: []string{"lib"}, Observe: func(e Event) { events = append(events, e) }})
	if err := r.Push(ctx, "app.util"); err != nil {
		t.Fatal(err)
	}
	equal(t, "pushed", sink.names(), []string{"app", "app.util"})
	ask(t, r, "app", "lib.x")
	equal(t, "asked", sink.names()[2:], []string{"app.web", "app.web.view", "app.model", "lib.x"})
	if err := r.Push(ctx, "app.util", "lib.x", "absent"); err != nil || len(sink.names()) != 6 {
		t.Errorf("nothing is left to push: %v, %q", err, sink.names())
	}
	r.Add(7, Platform{Version: py2})
	if err := r.Forward(ctx, 7, Platform{Version: py2}, "app.util"); err != nil {
		t.Fatal(err)
	}
	equal(t, "forwarded", sink.names()[6:], []string{"app>7", "app.util>7", "lib", "lib>7"})
	if err := r.Forward(ctx, 7, Platform{Version: py2}, "app"); err != nil || len(sink.names()) != 10 {
		t.Errorf("nothing is left to forward: %v, %q", err, sink.names())
	}
	r.Forget(7)
	if err := r.Forward(ctx, 7, Platform{Version: py2}, "lib"); err != nil {
		t.Fatal(err)
	}
	equal(t, "forgotten", sink.names()[10:], []string{"lib>7"})
	settle(t, r)
	count := map[What]int{}
	for _, e := range events {
		count[e.What]++
		if want := map[string]string{"app.web": "lib.x", "app.web.view": "lib.x", "app.model": "app.web.view", "lib": "app.util"}[e.Name]; e.What == Preloaded && e.For != want {
			t.Errorf("%s came for %q, want %q", e.Name, e.For, want)
		}
		if (e.What != Duplicate) != (e.Bytes > 0) {
			t.Errorf("%+v", e)
		}
	}
	if fmt.Sprint(count) != "map[answered:1 duplicate:1 forwarded:4 preloaded:6]" {
		t.Errorf("events %v", count)
	}
	if err := r.Push(ctx); err != nil {
		t.Error(err)
	}
}

// A request that crosses with a push needs no second record; a child that lost one gets it again; refusals are looked up anew.
func TestResponderDuplicates(t *testing.T) {
	im := onPath(t, appFiles)
	sink := &recorder{}
	r := serve(t, im, sink, ResponderOptions{Version: py3})
	if err := r.Push(context.Background(), "lib"); err != nil {
		t.Fatal(err)
	}
	ask(t, r, "lib")
	equal(t, "crossed", sink.names(), []string{"lib"})
	for range 1000 {
		ask(t, r, "lib")
	}
	equal(t, "lost", sink.names(), []string{"lib", "lib", "lib", "lib"})
	ask(t, r, "gone")
	ask(t, r, "gone")
	equal(t, "refused", sink.names()[4:], []string{"-gone", "-gone"})
	write(t, im.finder.path[0]+"/gone.py", "here\n", false)
	ask(t, r, "gone")
	equal(t, "found", sink.names()[6:], []string{"gone"})
}

func TestResponderFlood(t *testing.T) {
	im := onPath(t, appFiles)
	sink := &recorder{hold: make(chan struct{})}
	r := serve(t, im, sink, ResponderOptions{Version: py3, MaxPending: 50})
	if err := r.Request("alone"); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the first request is being answered", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.pending) == 0
	})
	for range 1000 {
		if err := r.Request("absent"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 49 {
		if err := r.Request(fmt.Sprintf("absent%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Request("onemore"); !errors.Is(err, ErrFlood) {
		t.Errorf("the 51st name: %v", err)
	}
	close(sink.hold)
	settle(t, r)
	if got := sink.names(); len(got) != 51 {
		t.Errorf("%d answers", len(got))
	}
	if err := r.Request(strings.Repeat("x", maxPendingBytes+1)); !errors.Is(err, ErrFlood) {
		t.Errorf("a name of 4 MB: %v", err)
	}
}

func TestResponderBadNames(t *testing.T) {
	im := onPath(t, appFiles)
	sink := &recorder{}
	r := serve(t, im, sink, ResponderOptions{Reasons: true})
	names := []string{"", "../../etc/passwd", "a\x00b", "\xff\xfe", strings.Repeat("x", 100_000), "app..util", "app/util"}
	ask(t, r, names...)
	for i, name := range names {
		v, err := pyproto.Unmarshal(sink.recs[name])
		if err != nil {
			t.Fatal(err)
		}
		got := v.(pyproto.Tuple)
		if b, ok := got[0].([]byte); ok {
			got[0] = string(b)
		}
		if got[0] != name || got[1] != nil || got[3] != nil || got[2] == "" {
			t.Errorf("%d: %.100q is answered with %.100v", i, name, got)
		}
	}
	if len(sink.names()) != len(names) {
		t.Errorf("%d answers", len(sink.names()))
	}
}

func TestResponderReasonsAndPolicy(t *testing.T) {
	im := onPath(t, appFiles)
	for _, reasons := range []bool{false, true} {
		sink := &recorder{}
		r := serve(t, im, sink, ResponderOptions{Version: py3, Reasons: reasons, Policy: Policy{Deny: []string{"lib"}}})
		ask(t, r, "lib.x", "app.util")
		equal(t, "with a policy", sink.names(), []string{"-lib.x", "app", "-lib", "app.util"})
		v, err := pyproto.Unmarshal(sink.recs["lib.x"])
		if err != nil {
			t.Fatal(err)
		}
		want := pyproto.Tuple{"lib.x", nil, nil, nil, pyproto.Tuple{}}
		if reasons {
			want[2] = "denied by the policy (deny lib)"
		}
		if fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("record %v, want %v", v, want)
		}
		if _, err := r.Resource(context.Background(), "lib", "x.py"); err == nil {
			t.Error("a denied package's file is served")
		}
		if data, err := r.Resource(context.Background(), "app", "util.py"); err != nil || string(data) != appFiles["app/util.py"] {
			t.Errorf("%q, %v", data, err)
		}
	}
	// The runtime's own modules are exempt.
	own := newImporter(t, Options{Policy: Policy{Allow: []string{"app"}}, Virtual: map[string]Virtual{
		"mitogen.parent": NewVirtual("", false, func() []byte { return nil }), "mitogen": NewVirtual("", true, func() []byte { return nil }),
	}})
	sink := &recorder{}
	ask(t, serve(t, own, sink, ResponderOptions{Policy: Policy{Deny: []string{"mitogen"}}}), "mitogen", "mitogen.parent", "mitogen.x")
	equal(t, "virtual", sink.names(), []string{"mitogen", "mitogen.parent", "-mitogen.x"})
	if _, err := NewResponder(im, &recorder{}, ResponderOptions{Policy: Policy{Allow: []string{"a b"}}}); err == nil {
		t.Error("a bad prefix is accepted")
	}
}

// Below a 3.x child runs a 2.7, which needs a backport of what the 3.x has by itself.
func TestResponderVersions(t *testing.T) {
	im := onPath(t, map[string]string{"configparser.py": "# backport\n", "new_ns/x.py": ""})
	sink := &recorder{}
	r := serve(t, im, sink, ResponderOptions{Version: py3})
	ask(t, r, "configparser")
	r.Add(7, Platform{Version: py2})
	r.Add(8, Platform{Version: py2})
	ask(t, r, "configparser", "new_ns")
	equal(t, "sent", sink.names(), []string{"-configparser", "configparser", "new_ns"})
	// Once the last of them is gone, nothing is looked up for them.
	write(t, im.Path()[0]+"/enum.py", "", false)
	r.Forget(7)
	if n := len(r.kinds.list()); n != 2 {
		t.Errorf("%d kinds", n)
	}
	r.Forget(8)
	r.Forget(8)
	ask(t, r, "enum")
	equal(t, "sent", sink.names()[3:], []string{"-enum"})
	if k := &r.kinds; len(k.list()) != 1 || len(k.of)+len(k.count)+len(k.order) != 0 {
		t.Errorf("kept: %+v", k)
	}
}

// A child that has others started behind it, and says each time that they are another Python, cannot make each of its questions
// dearer without end.
func TestKindsBehindAConnection(t *testing.T) {
	reached := 0
	r := serve(t, onPath(t, appFiles), &recorder{}, ResponderOptions{Version: py3, Reached: func(_ string, limit int) {
		if reached++; limit != maxKinds {
			t.Errorf("limit %d", limit)
		}
	}})
	for i := range 1000 {
		r.Add(uint32(1+i), Platform{Version: Version{3, 100 + i}})
		r.Add(5000, Platform{Version: Version{3, 100 + i}}) // one that tells another thing each time
	}
	if n := len(r.kinds.list()); n != 1+maxKinds || reached == 0 {
		t.Errorf("%d kinds are known, the bound was reached %d times", n, reached)
	}
	for i := range 1000 {
		r.Forget(uint32(1 + i))
	}
	r.Forget(5000)
	if k := &r.kinds; len(k.list()) != 1 || len(k.of)+len(k.count)+len(k.order) != 0 {
		t.Errorf("kept: %+v", k)
	}
}

func TestResponderMain(t *testing.T) {
	script := []byte("import app\nif __name__ == '__main__':\n    import alone\n")
	dir := tree(t, appFiles)
	im := newImporter(t, Options{Path: []string{dir}, Main: &Main{Path: "/x/script.py", Source: script}})
	for _, c := range []struct {
		main *Main
		want []string
		src  string
	}{
		{nil, []string{"app", "app.util", "lib", "__main__"}, "import app\n"},
		{&Main{Path: "own.py", Source: script, Run: true}, []string{"app", "app.util", "lib", "alone", "__main__"}, string(script)},
		{&Main{Path: "own.py", Source: []byte("work()\n")}, []string{"-__main__"}, ""},
		{&Main{Path: dir + "/absent.py"}, []string{"-__main__"}, ""},
		{&Main{Path: dir + "/alone.py", Run: true}, []string{"__main__"}, "import os\n"},
	} {
		sink := &recorder{}
		ask(t, serve(t, im, sink, ResponderOptions{Version: py3, Main: c.main}), "__main__")
		equal(t, "sent", sink.names(), c.want)
		if c.src == "" {
			continue
		}
		m, err := pyproto.ParseLoadModule(sink.recs["__main__"])
		if err != nil {
			t.Fatal(err)
		}
		if src, err := inflate(m.Source); err != nil || string(src) != c.src {
			t.Errorf("source %q, %v", src, err)
		}
	}
}

func TestResponderEnds(t *testing.T) {
	ctx := context.Background()
	im := onPath(t, appFiles)
	broken := errors.New("the stream is lost")
	r, err := NewResponder(im, &recorder{fail: broken}, ResponderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithCancel(ctx)
	cancel()
	if err := r.Push(waiting, "app"); !errors.Is(err, context.Canceled) {
		t.Errorf("a push that nobody does: %v", err)
	}
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	r.Start(ctx, inGroup(&wg), func(err error) { failed <- err })
	if err := <-failed; !errors.Is(err, broken) {
		t.Errorf("the sink's error: %v", err)
	}
	wg.Wait()
	for what, err := range map[string]error{"Request": r.Request("app"), "Push": r.Push(ctx, "app"), "Forward": r.Forward(ctx, 1, Platform{Version: py3}, "app")} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}

	// A push in the queue ends with the responder.
	hold := &recorder{hold: make(chan struct{})}
	r = serve(t, im, hold, ResponderOptions{})
	if err := r.Request("alone"); err != nil {
		t.Fatal(err)
	}
	pushed := make(chan error)
	go func() { pushed <- r.Push(ctx, "app") }()
	poll.Until(t, "the push is queued", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.jobs) == 1 && len(r.pending) == 0
	})
	r.Close()
	if err := <-pushed; !errors.Is(err, ErrClosed) {
		t.Errorf("a push in the queue: %v", err)
	}
	close(hold.hold)

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	r, err = NewResponder(im, &recorder{}, ResponderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start(cancelled, inGroup(&wg), func(err error) { t.Errorf("a context that has ended is told as %v", err) })
	if err := r.Push(ctx, "app"); !errors.Is(err, ErrClosed) {
		t.Errorf("a push after the context has ended: %v", err)
	}
	wg.Wait()

	// Nobody can work any more.
	r, err = NewResponder(im, &recorder{}, ResponderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start(ctx, func(func()) error { return broken }, func(err error) { t.Error(err) })
	if err := r.Push(ctx, "app"); !errors.Is(err, ErrClosed) {
		t.Errorf("a push that nobody can do: %v", err)
	}
}

// A module that cannot be built is passed over as a related one, and refused as what was asked for.
func TestResponderLargeAndVanishing(t *testing.T) {
	dir := tree(t, map[string]string{"a.py": "import big, b, c.d\n", "big.py": strings.Repeat("#", 2000), "b.py": "", "c/__init__.py": strings.Repeat("#", 2000), "c/d.py": ""})
	sink := &recorder{}
	r := serve(t, newImporter(t, Options{Path: []string{dir}, MaxSource: 1000}), sink, ResponderOptions{})
	ask(t, r, "a", "big", "c.d")
	equal(t, "sent", sink.names(), []string{"b", "a", "-big", "c.d"})
}

// What the child's policy denies is refused ahead like what is not there.
func TestResponderForetellsThePolicy(t *testing.T) {
	im := onPath(t, map[string]string{"a.py": "import b, c.d, e\n", "b.py": "", "c/__init__.py": "", "c/d.py": "", "e.py": ""})
	sink := &recorder{}
	var foretold []Event
	r := serve(t, im, sink, ResponderOptions{Version: py3, Policy: Policy{Deny: []string{"b", "c.d"}}, Observe: func(e Event) {
		if e.What == Foretold {
			foretold = append(foretold, e)
		}
	}})
	if err := r.Push(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	equal(t, "pushed", sink.names(), []string{"a", "-b", "-c.d", "c", "e"})
	if len(foretold) != 2 || foretold[0].For != "a" || !strings.Contains(foretold[1].Reason, "denied by the policy") {
		t.Errorf("%+v", foretold)
	}
}

// What the standard library looks for on its own is refused ahead, too, where it has the module that does so.
func TestResponderForetellsForTheStandardLibrary(t *testing.T) {
	dir := tree(t, map[string]string{"a.py": "try:\n  import zoneinfo\nexcept ImportError:\n  import b\n", "b.py": "", "c.py": "from .zoneinfo import x\n"})
	im := newImporter(t, Options{Path: []string{dir}})
	for _, c := range []struct {
		v    Version
		want []string
	}{{py3, []string{"a", "-tzdata", "c"}}, {Version{3, 8}, []string{"b", "a", "-zoneinfo", "c"}}} {
		sink := &recorder{}
		r := serve(t, im, sink, ResponderOptions{Version: c.v})
		if err := r.Push(context.Background(), "a", "c"); err != nil {
			t.Fatal(err)
		}
		got := sink.names()
		slices.Sort(got)
		slices.Sort(c.want)
		equal(t, c.v.String(), got, c.want)
	}
	write(t, dir+"/tzdata.py", "", false)
	sink := &recorder{}
	r := serve(t, im, sink, ResponderOptions{Version: py3})
	if err := r.Push(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	equal(t, "with the package", sink.names(), []string{"a"})
}

// What a module will look for in vain is refused ahead; what was refused is not preloaded later, but answered when asked again.
func TestResponderForetells(t *testing.T) {
	dir := tree(t, map[string]string{
		"a.py":         "try:\n  import fast\nexcept ImportError:\n  pass\ntry:\n  from pkg import native, gone\nexcept ImportError:\n  import later\nimport own.x, os\ndef f(): import lazy\n",
		"fast.abi3.so": "", "pkg/__init__.py": "", "pkg/native.abi3.so": "", "b.py": "import later, fast, configparser\n",
	})
	im := newImporter(t, Options{Path: []string{dir}})
	sink := &recorder{}
	var events []string
	r := serve(t, im, sink, ResponderOptions{Version: py3, Reasons: true, Local: []string{"own"}, Observe: func(e Event) { events = append(events, string(e.What)) }})
	if err := r.Push(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	equal(t, "pushed", sink.names(), []string{"a", "-fast", "-pkg.native", "-later", "pkg"})
	equal(t, "events", events, []string{"preloaded", "foretold", "foretold", "foretold", "preloaded"})
	if v, err := pyproto.Unmarshal(sink.recs["pkg.native"]); err != nil || !strings.Contains(fmt.Sprint(v), "extension module") {
		t.Errorf("%v, %v", v, err)
	}
	if v, err := pyproto.Unmarshal(sink.recs["later"]); err != nil || v.(pyproto.Tuple)[2] != nil {
		t.Errorf("%v, %v", v, err)
	}

	write(t, dir+"/later.py", "", false)
	ask(t, r, "b")
	equal(t, "b", sink.names()[5:], []string{"b"})
	ask(t, r, "later", "fast")
	equal(t, "asked", sink.names()[6:], []string{"later", "-fast"})
	// Below it runs a 2.7, for which there is a backport: it is asked for, so nothing is refused ahead.
	write(t, dir+"/configparser.py", "", false)
	write(t, dir+"/c.py", "import configparser, enum\n", false)
	r.Add(9, Platform{Version: py2})
	if err := r.Forward(context.Background(), 9, Platform{Version: py2}, "c"); err != nil {
		t.Fatal(err)
	}
	equal(t, "forwarded", sink.names()[8:], []string{"c", "-enum", "c>9", "configparser", "configparser>9"})
}

// Names that are refused are kept within bounds, and those that no module has not at all.
func TestRefusedNamesAreBounded(t *testing.T) {
	im := onPath(t, appFiles)
	sink := &countSink{}
	reached := map[string]int{} // by the responder's goroutine
	r := serve(t, im, sink, ResponderOptions{Version: Version{3, 11}, Reached: func(bound string, _ int) { reached[bound]++ }})
	ask(t, r, "app")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const n = 10000
	for i := range n {
		if i%1000 == 0 {
			settle(t, r)
		}
		ask := fmt.Sprintf("%d_%s", i, strings.Repeat("x", MaxName-10)) // 10 MB of them
		if i%100 == 0 {
			ask += strings.Repeat("y", 100_000) // and 10 MB more
		}
		if err := r.Request(ask); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, r)
	if sink.n < n {
		t.Errorf("%d of %d names were answered", sink.n, n)
	}
	if grown := int64(heap()) - int64(before); grown > 2*maxRefusedBytes {
		t.Errorf("%d bytes are kept", grown)
	}
	runtime.KeepAlive(r)
	if len(reached) != 2 || reached["bytes of a module's name that is remembered"] != n/100 {
		t.Errorf("these bounds were told: %v", reached)
	}
	// Short ones are counted.
	for i := range maxRefused + 10 {
		if i%1000 == 0 {
			settle(t, r)
		}
		if err := r.Request(strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, r)
	if len(r.refused) > maxRefused || r.refusedBytes > maxRefusedBytes {
		t.Errorf("%d names of %d bytes are kept", len(r.refused), r.refusedBytes)
	}
}

// TestBeginWaitsForTheFirstPart: what is large goes in parts, in the order of the whole; Begin returns with the first, and Push with all.
func TestBeginWaitsForTheFirstPart(t *testing.T) {
	large := strings.Repeat("# 16 bytes long\n", partSize/16)
	im := onPath(t, map[string]string{
		"m.py": "import p.a, b\n", "p/__init__.py": "", "p/a.py": large + "import c\n", "b.py": large, "c.py": "", "along.py": "",
		"small.py": "import c, d\n", "d.py": "",
	})
	sink := &recorder{hold: make(chan struct{}, 4)} // lets one module through for each that it is sent
	r := serve(t, im, sink, ResponderOptions{Version: py3, With: []string{"along"}})
	push := func(begin bool, name string) chan error {
		done := make(chan error, 1)
		go func() {
			if begin {
				done <- r.Begin(context.Background(), name)
			} else {
				done <- r.Push(context.Background(), name)
			}
		}()
		return done
	}
	returns := func(done chan error) {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	first := []string{"m", "p", "p.a", "along"}
	for range first {
		sink.hold <- struct{}{}
	}
	returns(push(true, "m"))
	if got := sink.names(); !slices.Equal(got, first) {
		t.Errorf("begun with %q", got)
	}
	// The same behind it waits for all of that.
	again := push(false, "m")
	for range 2 {
		sink.hold <- struct{}{}
	}
	returns(again)
	if got := sink.names(); !slices.Equal(got, append(first, "c", "b")) {
		t.Errorf("pushed %q", got)
	}
	// What is small is one part.
	for range 2 {
		sink.hold <- struct{}{}
	}
	returns(push(true, "small"))
	if got := sink.names()[6:]; !slices.Equal(got, []string{"small", "d"}) {
		t.Errorf("begun with %q", got)
	}
}

// countSink counts modules.
type countSink struct{ n int }

func (s *countSink) LoadModule([]byte, string) error            { s.n++; return nil }
func (s *countSink) ForwardModule([]byte, uint32, string) error { return nil }

// TestSiblingsGoAhead: a child that asks for the modules of a package one after another is sent more and more of them, and no more than
// is allowed.
func TestSiblingsGoAhead(t *testing.T) {
	files := map[string]string{"p/__init__.py": "", "p/test.py": "", "p/secret.py": "", "p/data/a.txt": "", "other.py": "", "q/__init__.py": "", "q/a.py": "", "q/b.py": ""}
	var names []string
	for i := range 200 {
		name := fmt.Sprintf("m%03d", i)
		files["p/"+name+".py"] = "import other\n"
		names = append(names, "p."+name)
	}
	// Not in the order of the alphabet.
	rand.New(rand.NewSource(1)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	sink := &recorder{}
	r := serve(t, onPath(t, files), sink, ResponderOptions{Version: py3, Policy: Policy{Deny: []string{"p.secret"}}})
	asked := 0
	for _, name := range append([]string{"q.a", "q.b"}, names...) {
		if !slices.Contains(sink.names(), name) {
			asked++
			ask(t, r, name)
		}
	}
	if asked > 15 {
		t.Errorf("%d questions", asked)
	}
	for _, name := range []string{"p.test", "p.secret", "p.data"} {
		if slices.Contains(sink.names(), name) {
			t.Errorf("%s was sent", name)
		}
	}

	// A large package.
	noise := make([]byte, 100<<10)
	for i := range 100 {
		for j := range noise {
			noise[j] = byte(' ' + rand.Intn(90))
		}
		files[fmt.Sprintf("q/big%02d.py", i)] = "#" + strings.ReplaceAll(string(noise), "\n", " ")
	}
	sink = &recorder{}
	r = serve(t, onPath(t, files), sink, ResponderOptions{Version: py3})
	for i := range 10 {
		before := len(sink.names())
		ask(t, r, fmt.Sprintf("q.big%02d", 99-i))
		if n := len(sink.names()) - before; n > 7 {
			t.Errorf("question %d: %d modules", i, n)
		}
	}
}

// TestLikelyGoAhead: what is asked for tells what will be asked for next.
func TestLikelyGoAhead(t *testing.T) {
	files := map[string]string{"conf.py": "APPS = [\n    'apps.one',  # the first\n    'apps.two',\n    \"apps.three.Class\",\n]\n", "single/__init__.py": "", "single/only/__init__.py": "", "single/only/deep.py": ""}
	for _, app := range []string{"one", "two", "three", "other", "fifth"} {
		files["apps/"+app+"/__init__.py"] = ""
		files["apps/"+app+"/models.py"] = ""
		files["apps/"+app+"/admin.py"] = "import extra_" + app
		files["apps/"+app+"/migrations/__init__.py"] = ""
		files["apps/"+app+"/migrations/0001_initial.py"] = ""
		files["apps/"+app+"/migrations/named.py"] = ""
		files["extra_"+app+".py"] = ""
	}
	files["apps/__init__.py"] = ""
	for _, c := range []struct {
		what, first, want string
		asked             []string
	}{
		{"a list", "conf", "apps.two apps.three", []string{"apps.one"}},
		{"packages of a list", "conf", "apps.two.models apps.three.models", []string{"apps.one", "apps.one.models"}},
		{"a pattern", "user", "", []string{"apps.one", "apps.one.models"}},
		{"a pattern", "user", "apps.fifth.admin extra_fifth", []string{"apps.one", "apps.two", "apps.fifth", "apps.one.admin", "apps.two.admin"}},
		{"names that are none", "user", "apps.one.migrations.0001_initial", []string{"apps.one", "apps.one.migrations"}},
		{"the only one", "user", "single.only single.only.deep", []string{"single"}},
	} {
		files["user.py"] = ""
		sink := &recorder{}
		r := serve(t, onPath(t, files), sink, ResponderOptions{Version: py3})
		ask(t, r, c.first)
		var before []string
		for _, name := range c.asked {
			before = sink.names()
			ask(t, r, name)
		}
		got := sink.names()[len(before):]
		got = slices.DeleteFunc(got, func(name string) bool { return name == c.asked[len(c.asked)-1] || name == "apps" })
		slices.Sort(got)
		want := strings.Fields(c.want)
		slices.Sort(want)
		if c.what != "a pattern" && !slices.Equal(got, want) || c.what == "a pattern" && c.want != "" && !subset(want, got) || c.want == "" && len(got) > 0 {
			t.Errorf("%s: after %v came %v, want %v", c.what, c.asked, got, want)
		}
	}
	// The list of a script that is not sent.
	sink := &recorder{}
	r := serve(t, onPath(t, files), sink, ResponderOptions{Version: py3})
	r.LearnLists([]byte(files["conf.py"]))
	ask(t, r, "apps.one")
	if !slices.Contains(sink.names(), "apps.two") {
		t.Errorf("came %v", sink.names())
	}
}

func subset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(name string) bool { return !slices.Contains(all, name) })
}

func TestListedNames(t *testing.T) {
	for src, want := range map[string]string{
		"x = ['a.b', \"c.d\",\n  # 'no.name'\n 'e.f.g' # more\n]": "[[a.b c.d e.f.g]]",
		"x = 'a.b'; y = 'c.d'":                               "[]",
		"{'a.b': 'c.d', 'e.f': 1}":                           "[[c.d e.f]]",
		"('a.b', 'c', 'd.e', 'f.g')":                         "[[d.e f.g]]",
		"['a.', '.b', 'a..b', 'a b.c', 'a.b\", 'x.y', 'z.w'": "[[x.y z.w]]",
		"'" + strings.Repeat("a", 200) + ".b', 'c.d'":        "[]",
		"'a.b', 'c.d'\n'e.f' 'g.h'":                          "[[a.b c.d e.f g.h]]",
		"#":                                                  "[]", "'": "[]", "'a.b": "[]", "# 'a.b', 'c.d'": "[]",
	} {
		if got := fmt.Sprint(listedNames([]byte(src))); got != want {
			t.Errorf("%q: %s, want %s", src, got, want)
		}
	}
	long := listedNames([]byte(strings.Repeat("'a.b',", 1000)))
	many := listedNames([]byte(strings.Repeat("['a.b','c.d'];", 1000)))
	if len(long) != 1 || len(long[0]) != maxListLength || len(many) != maxLists {
		t.Error(len(long), len(many))
	}
}

// An event has the mark of what was sent, which a later look compares; not for what is another thing to Look.
func TestEventsHaveMarks(t *testing.T) {
	im := onPath(t, appFiles)
	for _, stock := range []bool{false, true} {
		seen := 0
		r := serve(t, im, &recorder{}, ResponderOptions{Version: py3, Stock: stock, Main: &Main{Source: []byte("import app\n"), Run: true}, Observe: func(e Event) {
			want, ok := im.Look(py3).Mark(e.Name)
			if e.What == Refused || stock {
				want = [16]byte{}
			} else if ok {
				seen++
			}
			if e.Mark != want || want != [16]byte{} && e.Platform != (Platform{Version: py3}) {
				t.Errorf("%+v, want %x", e, want)
			}
		}})
		ask(t, r, "app.web.view", "alone", "none", "__main__")
		if !stock && seen < 8 {
			t.Errorf("%d modules", seen)
		}
	}
}
