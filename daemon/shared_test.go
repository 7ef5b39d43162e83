package daemon

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/zap"
	zaptest "go.uber.org/zap/zaptest/observer"

	"mitogend/bootstrap"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

// What follows writes pickles in which one value stands at many places, which Marshal does not do.

// pickled is a text, or for 'T' bytes.
func pickled(op byte, s string) string {
	return string(binary.LittleEndian.AppendUint32([]byte{op}, uint32(len(s)))) + s
}

// shared is a list that names v n times. It is nested: a list of n times that list, and so on.
func shared(v string, n, levels int) string {
	for i := range levels {
		v = "(" + v + "q" + string(rune(i)) + strings.Repeat("h"+string(rune(i)), n-1) + "l"
	}
	return v
}

// dict is one of texts.
func dict(pairs ...string) string {
	s := "}("
	for i, v := range pairs {
		if i%2 == 0 {
			v = pickled('X', v)
		}
		s += v
	}
	return s + "u"
}

// bombs are values of less than 64 KiB, which come to gigabytes.
var bombs = map[string]string{
	"nested lists":  shared(pickled('X', strings.Repeat("x", 1000)), 100, 3),
	"a list":        shared(pickled('X', strings.Repeat("x", 30000)), 15000, 1),
	"bytes":         shared(pickled('T', strings.Repeat("x", 30000)), 15000, 1),
	"deeper lists":  shared(pickled('X', "x"), 20, 5),
	"a nested dict": shared(dict("k", shared(pickled('X', strings.Repeat("x", 1000)), 100, 2)), 100, 1),
}

// allocated is what f allocates, in bytes.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

const fewBytes = 48 << 20

// TestSharedArguments: what a child asks for costs the daemon little, whatever the request stands for.
func TestSharedArguments(t *testing.T) {
	core, logs := zaptest.New(zap.WarnLevel)
	d := newDaemon(t, Options{Logger: slogzap.Slog(zap.New(core))})
	evil := newPeer(t, d)
	for name, v := range bombs {
		for _, arg := range []string{"port", "runtime", "ssh_args", "python_path", "password_prompt", "unidirectional"} {
			request := "\x80\x02" + dict("method", pickled('X', "ssh"), "name", "N", "via", "J"+string(binary.LittleEndian.AppendUint32(nil, uint32(evil.id))),
				"launcher", "M\x88\x13", "args", dict("hostname", pickled('X', "h"), arg, v)) + "."
			if len(request) > maxQuestion {
				t.Fatalf("%s: %d bytes", name, len(request))
			}
			var answer *pyproto.Message
			used := allocated(func() {
				evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.Connect, ReplyTo: 1999}, request)
				answer = evil.answer(1999)
			})
			if used > fewBytes {
				t.Errorf("%s as %s: %d MiB were allocated", name, arg, used>>20)
			}
			if len(answer.Payload) > 500 || !answer.IsDead() || !strings.Contains(string(answer.Payload), "at every place") {
				t.Errorf("%s as %s: answered with %d bytes: %.200q", name, arg, len(answer.Payload), answer.Payload)
			}
		}
	}
	if logs.FilterMessage(boundText).Len() == 0 {
		t.Error("no bound is in the log")
	}
}

// TestPlainArguments: what is wrong with arguments that share nothing is told in a few words.
func TestPlainArguments(t *testing.T) {
	d := newDaemon(t, Options{})
	evil := newPeer(t, d)
	long := strings.Repeat("x", 50000)
	for _, args := range []map[string]any{
		{"port": long}, {"port": []any{long}}, {"runtime": long}, {"runtime": []any{long}}, {"hostname": "-" + long}, {"check_host_keys": long},
		{long: 1}, {"password_prompt": long}, {"connect_timeout": long}, {"python": "~" + long},
	} {
		if args["hostname"] == nil {
			args["hostname"] = "h"
		}
		evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.Connect, ReplyTo: 1999}, connectPayload("ssh", evil.id, 5000, args))
		m := evil.answer(1999)
		var up behindReply
		if err := pyproto.Decode(m.Payload, &up); err != nil || up.Error == nil || len(*up.Error) > 1500 {
			t.Errorf("%v, %d bytes: %.300q", err, len(m.Payload), m.Payload)
		}
	}
}

// TestReportsOfLaunches: a report that no honest launcher sends costs little, and no more than an honest one is looked at.
func TestReportsOfLaunches(t *testing.T) {
	d := newDaemon(t, Options{})
	evil := newPeer(t, d)
	const denied = "Permission denied (publickey)."
	long := strings.Repeat("y", 300000)
	lines := func(n int, first string) []any {
		list := []any{first}
		for range n - 1 {
			list = append(list, strings.Repeat("z", 100))
		}
		return list
	}
	report := func(more map[string]any) string {
		m := map[string]any{"ok": false, "hexversion": int64(0), "step": "connect", "reason": "", "output": []any{}, "status": nil, "timed_out": false,
			"answered": false, "cancelled": false, "open": "", "dialing": "", "no_terminal": false}
		for k, v := range more {
			m[k] = v
		}
		return pickle(t, m)
	}
	output := func(v string) string {
		return "\x80\x02" + dict("ok", "\x89", "step", pickled('X', "connect"), "output", v) + "."
	}
	rows := []struct{ name, report, want, not string }{
		{"forty lines", report(map[string]any{"output": lines(40, denied)}), denied, ""},
		{"many lines", report(map[string]any{"output": lines(5000, denied)}), "the program ended before", denied},
		{"a long line", report(map[string]any{"output": []any{long + denied}}), "the program ended before", denied},
		{"a long reason", report(map[string]any{"reason": long}), "yyy", ""},
		{"a long open line", report(map[string]any{"open": long, "timed_out": true}), "yyy", ""},
		{"a long address", report(map[string]any{"dialing": long, "timed_out": true}), "yyy", ""},
		{"a long step", report(map[string]any{"step": long}), "", ""},
		{"too many lines", report(map[string]any{"output": lines(20000, denied)}), "cannot be read", denied},
		{"too much", report(map[string]any{"reason": strings.Repeat(long, 5)}), "cannot be read", ""},
	}
	for name, v := range bombs {
		rows = append(rows, struct{ name, report, want, not string }{name, output(v), "cannot be read", ""})
	}
	for _, row := range rows {
		var up behindReply
		used := allocated(func() {
			evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.Connect, ReplyTo: 1999},
				connectPayload("ssh", evil.id, 5000, map[string]any{"hostname": "h"}))
			asked := evil.answer(5000)
			evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: asked.ReplyTo}, row.report)
			if err := pyproto.Decode(evil.answer(1999).Payload, &up); err != nil || up.Error == nil {
				t.Fatalf("%s: %v, %+v", row.name, err, up)
			}
		})
		if used > fewBytes {
			t.Errorf("%s: %d MiB were allocated", row.name, used>>20)
		}
		if text := *up.Error; len(text) > 8000 || !strings.Contains(text, row.want) || row.not != "" && strings.Contains(text, row.not) {
			t.Errorf("%s: %d bytes: %.300s", row.name, len(text), text)
		}
	}
}

func TestChars(t *testing.T) {
	for _, row := range []struct {
		text string
		n    int
		want string
	}{{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"\u00e9\u00e9\u00e9\u00e9", 3, "\u00e9\u00e9\u00e9"}, {"\xff\xff\xff\xff", 3, "\xff\xff\xff"}, {"a", 0, ""}} {
		if got := chars(row.text, row.n); got != row.want {
			t.Errorf("%q, %d: %q", row.text, row.n, got)
		}
	}
}

// TestSharedQuestions: so it is with questions for resources, also a stock child's, whose names are sent back to it.
func TestSharedQuestions(t *testing.T) {
	d := newDaemon(t, Options{})
	evil := newPeer(t, d)
	stock := newPeerOn(t, d, "socketpair", func(c *Child) { c.runtime = &Runtime{Version: []int{0, 3, 37}} })
	all := map[string]string{"many of one bytes": shared(pickled('T', strings.Repeat("x", 300)), 32500, 1)}
	for name, v := range bombs {
		all[name] = v
	}
	for name, v := range all {
		var err error
		if used := allocated(func() { _, err = d.resource(evil.c, evil.id, []byte("\x80\x02"+v+".")) }); err == nil || len(err.Error()) > 300 || used > fewBytes {
			t.Errorf("%s: %d MiB were allocated: %.200v", name, used>>20, err)
		}
		used := allocated(func() {
			stock.send(pyproto.Header{Src: stock.id, Auth: stock.id, Handle: pyproto.GetResource}, "\x80\x02"+v+pickled('X', "name")+"\x86.")
			stock.send(pyproto.Header{Src: stock.id, Auth: stock.id, Handle: pyproto.GetResource}, pickle(t, pyproto.Tuple{"pkg", "none"}))
			if m := stock.answer(pyproto.LoadResource); len(m.Payload) > 1000 {
				t.Errorf("%s: a stock child gets %d bytes", name, len(m.Payload))
			}
		})
		if used > fewBytes {
			t.Errorf("%s of a stock child: %d MiB were allocated", name, used>>20)
		}
	}
}

func TestResultWithin(t *testing.T) {
	for name, v := range bombs {
		value, err := pyproto.Unmarshal([]byte("\x80\x02" + v + "."))
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		if err := (&Result{value: value}).within("x", questionLimits).Decode(&said); err == nil || !strings.Contains(err.Error(), "cannot be read") || said != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var said []string
	if err := (&Result{value: []any{"a", []byte("b")}}).within("x", questionLimits).Decode(&said); err != nil || fmt.Sprint(said) != "[a b]" {
		t.Errorf("%q, %v", said, err)
	}
}

// TestRequestThatIsTooLarge: what a hop would refuse, and answer only if it is honest, is not sent.
func TestRequestThatIsTooLarge(t *testing.T) {
	d := newDaemon(t, Options{MaxMessage: 1 << 20})
	hop := newPeer(t, d)
	if err := hop.c.request(testContext(t), 5000, make([]byte, 1<<20+1)).Err(); err == nil || !strings.Contains(err.Error(), "at most 1048576 are sent") {
		t.Error(err)
	}
	hop.c.launcher.Store(5000)
	plan := &bootstrap.Plan{Method: "local", Argv: []string{"x", strings.Repeat("y", 1<<20)}, Stdio: bootstrap.Socketpair}
	if err := hop.c.launch(testContext(t), d.makeChild(d.allocate(1), ConnectOptions{}, "local"), plan); err == nil || !strings.Contains(err.Error(), "are sent") {
		t.Error(err)
	}
}
