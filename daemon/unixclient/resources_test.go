package unixclient

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// Mitogen 0.3.3 knows nothing of resources: this program asks and answers with the frames of releases that do. Its
// client answers for package data, counts, does not answer for package silence, and for late when it is asked for go.
const resourceProgram = `
import sys
import threading
import mitogen.core

@mitogen.core.takes_econtext
def ask(names, econtext):
    import threading
    got, done = {}, threading.Event()
    def load(msg):
        package, name, content = msg.unpickle()
        got[package, name] = content
        if len(got) == len(names):
            done.set()
    econtext.router.add_handler(load, 113, policy=mitogen.core.has_parent_authority)
    for name in names:
        econtext.parent.send(mitogen.core.Message.pickled(name, handle=112))
    done.wait(30)
    econtext.router.del_handler(113)
    return [got.get(name, 'unanswered') for name in names]

def serve(router, own):
    def answer(msg):
        if msg.is_dead:
            return
        package, name = msg.unpickle()
        package, name = [x.decode() if isinstance(x, bytes) else x for x in (package, name)]
        asked.append((package, name))
        if package in ('silence', 'late'):
            return
        if name == 'go':
            router.stream_by_id(0).protocol.send(mitogen.core.Message.pickled(
                ('late', 'own.txt', own), dst_id=0, handle=113))
        content = own if name == 'own.txt' else b'' if name == 'empty' else b'x' * 3000000 if name == 'large' else None
        router.stream_by_id(0).protocol.send(mitogen.core.Message.pickled(
            (package, name, content), dst_id=0, handle=113))
    asked = []
    router.add_handler(answer, 112)
    return asked

if __name__ == '__main__':
    import mitogen.unix
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        own = sys.argv[2].encode()
        asked = serve(router, own)
        c = router.local(via=parent)
        print('ready')
        sys.stdout.flush()
        sys.stdin.readline()
        assert c.call(ask, [(u'data', u'own.txt'), (u'data', u'empty'), (u'data', u'none')]) == [own, b'', None]
        assert [len(x) for x in c.call(ask, [(u'data', u'large')])] == [3000000]
        print(c.call(ask, [(u'silence', u'own.txt'), (u'daemons', u'here.txt'), (u'late', u'own.txt')]))
        assert c.call(ask, [(u'late', u'own.txt'), (u'data', u'go')]) == [own, None]
        print(c.call(ask, [(u'data', u'../own.txt'), (u'mitogen', u'own.txt'), (u'kept.back', u'own.txt')]))
        print(asked)
    finally:
        router.broker.shutdown()
        router.broker.join()
`

const resourceOutput = `ready
[None, b'of the daemon', None]
[None, None, None]
[('data', 'own.txt'), ('data', 'empty'), ('data', 'none'), ('data', 'large'), ('silence', 'own.txt'), ('late', 'own.txt'), ('data', 'go')]
`

// Files of the client's packages, which the daemon does not have, come from the client that owns the child, never
// from another. Where nobody answers, the answer is no.
func TestResources(t *testing.T) {
	path := t.TempDir()
	write(t, filepath.Join(path, "daemons", "__init__.py"), "")
	write(t, filepath.Join(path, "daemons", "here.txt"), "of the daemon")
	_, socket := serveWith(t, daemon.Options{Path: []string{path}, Policy: importer.Policy{Deny: []string{"kept"}}},
		Options{ModuleTimeout: 5 * time.Second})
	var clients []*exec.Cmd
	var outs []*bytes.Buffer
	var ins []io.WriteCloser
	for _, name := range []string{"A", "B"} {
		script := filepath.Join(t.TempDir(), "program.py")
		write(t, script, resourceProgram)
		cmd := exec.Command(python(t), script, socket, name)
		out := &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		clients, outs, ins = append(clients, cmd), append(outs, out), append(ins, in)
	}
	for _, in := range ins {
		_, _ = io.WriteString(in, "\n")
	}
	for i, cmd := range clients {
		kill := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		if err != nil || outs[i].String() != resourceOutput {
			t.Errorf("%v; want %q, got\n%s", err, resourceOutput, outs[i])
		}
	}
}

// A client whose Python is too old to answer is not asked, and its children do not wait.
func TestResourcesOfAnOldPython(t *testing.T) {
	list := pythons.All(t)
	if list[0].Version != "2.7" && list[0].Version != "3.6" {
		pythons.Missing(t, "needs a Python before 3.7")
	}
	out, err := exec.Command(python(t), "-c", "import mitogen,os;print(os.path.dirname(mitogen.__file__))").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "mitogen"), os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		t.Fatal(err)
	}
	program := strings.Replace(resourceProgram, "        assert c.call", "        print(c.call(ask, [(u'data', u'own.txt')]), asked)\n        sys.exit()\n        assert c.call", 1)
	write(t, filepath.Join(dir, "program.py"), "from __future__ import print_function\n"+program)
	_, socket := serve(t, Options{ModuleTimeout: time.Hour})
	cmd := exec.Command(list[0].Path, filepath.Join(dir, "program.py"), socket, "x")
	if got, err := cmd.CombinedOutput(); err != nil || string(got) != "ready\n[None] []\n" {
		t.Errorf("%v: %s", err, got)
	}
}

func TestParseResource(t *testing.T) {
	pickle := func(v any) []byte {
		b, err := pyproto.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		payload []byte
		data    string
		ok      bool
	}{
		{pickle(pyproto.Tuple{[]byte("p"), []byte("n"), []byte("x")}), "x", true},
		{pickle(pyproto.Tuple{"p", "n", pyproto.Blob("x")}), "x", true},
		{append(pickle(pyproto.Tuple{"p", "n"}), pickle([]byte("x"))...), "x", true},
		{append(pickle(pyproto.Tuple{"p", "n"}), pickle(nil)...), "", true},
		{pickle(pyproto.Tuple{"p", "n"}), "", false},
		{append(pickle(pyproto.Tuple{"p", "n"}), 'x'), "", false},
		{append(pickle(pyproto.Tuple{"p", "n", nil}), pickle(nil)...), "", false},
		{pickle(pyproto.Tuple{int64(1), "n", nil}), "", false},
		{pickle(pyproto.Tuple{"p", "n", int64(1)}), "", false},
		{pickle("p"), "", false},
		{nil, "", false},
	} {
		key, data, ok := parseResource(c.payload)
		if ok != c.ok || string(data) != c.data || ok && key != (resourceKey{"p", "n"}) {
			t.Errorf("%q: got %v, %q, %v", c.payload, key, data, ok)
		}
	}
}
