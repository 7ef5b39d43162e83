package daemon

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

// A liar behind a hop goes through the handshake and then does what its first argument says. The second is the number
// of an honest context behind the same hop. It makes a file for each step that is done.
const liarProgram = `
import ast, os, select, struct, sys, time, zlib
HEADER = struct.Struct('>HLLLLLL')
def write(data):
    while data:
        data = data[os.write(1, data[:65536]):]
def send(handle, data=b'', dst=0, reply=0, count=1, src=None):
    src = me if src is None else src
    write(HEADER.pack(0x4d49, dst, src, src, handle, reply, len(data)) * 1 + data if count == 1 else
          (HEADER.pack(0x4d49, dst, src, src, handle, reply, len(data)) + data) * count)
def done(step):
    open(os.path.join(sys.argv[3], step), 'w').close()
write(b'MITO000 %x\n' % sys.hexversion)
size = b''
while not size.endswith(b'\n'):
    size += os.read(0, 1)
data = b''
while len(data) < int(size):
    data += os.read(0, int(size) - len(data))
config = ast.literal_eval(zlib.decompress(data).split(b'\0')[1].decode())
me, hop = config['context_id'], config['parent_ids'][0]
write(b'MITO001\nMITO002\n')
victim = int(sys.argv[2])
def claim():
    for n in range(me + 1, me + 30):
        for to in hop, 0:
            send(103, b'%d' % n, dst=to)
    send(103, b'9' * 1000000, dst=hop)
def end():
    for n in (victim, hop, 0, me):
        for handle in 104, 106:
            for to in hop, 0, victim:
                send(handle, b'%d' % n, dst=to)
    for handle in range(1000, 1400):
        for to in hop, 0, victim:
            send(handle, b'I am not the respondent', dst=to, reply=999)
def flow():
    for n in (me, victim, hop, 0, me + 1):
        for to in hop, 0, victim:
            send(990, b'%d:1' % n, dst=to)
    for to in hop, victim:
        send(4999, dst=to, reply=7, count=1000)
    for to in hop, 0, victim:
        # What only the master shares; and an end of it.
        for data in struct.pack('>QII', 1, 101, hop) + b'x' * 20000, struct.pack('>QII', 77, 101, hop), b'x', b'':
            send(988, data, dst=to)
def unread():
    while True:
        send(4999, dst=hop, reply=7, count=200)
        send(101, dst=victim, reply=7, count=200)
if sys.argv[1] == 'asks':
    import pickle, signal
    send(112, pickle.dumps((u'read', u'big', u'data'), 2), reply=1234, count=300)
    signal.pause()
for step in claim, end, flow:
    step()
    done(step.__name__)
# Until the test says so, it reads and answers nothing.
while not os.path.exists(os.path.join(sys.argv[3], 'go')):
    if select.select([0], [], [], 0.01)[0]:
        os.read(0, 65536)
unread()
`

// peakOf is the most memory that a process has had, in bytes.
func peakOf(t *testing.T, pid int64) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// A child behind a real hop cannot harm its siblings or later children by what it says, and the hop does not keep
// what the child does not read.
func TestHopLies(t *testing.T) {
	for _, py := range ends(t) {
		t.Run(py.Version, func(t *testing.T) { testHopLies(t, py) })
	}
}

func testHopLies(t *testing.T, py pythons.Python) {
	core, log := zapobserver.New(zap.DebugLevel)
	d := treeDaemon(t, Options{Logger: slogzap.Slog(zap.New(core))})
	ctx := testContext(t)
	dir := t.TempDir()
	liarFile := filepath.Join(writeFiles(t, map[string]string{"liar.py": liarProgram}), "liar.py")
	list := ends(t)
	newest := list[len(list)-1]
	honest := connect(t, d, target(py)+"+"+target(py))
	call := func(c *Child) int64 {
		t.Helper()
		var pid int64
		if err := c.Call(ctx, "tree:pid").Decode(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	pid := call(honest)
	var hopPID int64
	if err := honest.Call(ctx, "os:getppid").Decode(&hopPID); err != nil {
		t.Fatal(err)
	}
	argv := []string{newest.Path, liarFile, "lies", fmt.Sprint(uint32(honest.id)), dir}
	liar := connect(t, d, target(py)+"+exec:"+url.PathEscape(strings.Join(argv, " ")))
	// Others are served while it lies, and the next child is what it should be.
	for _, step := range []string{"claim", "end", "flow"} {
		poll.Until(t, step, func() bool {
			if got := call(honest); got != pid {
				t.Fatalf("%s: another answers: %d, not %d", step, got, pid)
			}
			_, err := os.Stat(filepath.Join(dir, step))
			return err == nil
		})
		late := connect(t, d, target(py)+"+"+target(py))
		var parents []any
		if err := late.Call(ctx, "tree:parents").Decode(&parents); err != nil || len(parents) != 2 {
			t.Errorf("%s: later: %v, %v", step, parents, err)
		}
		if got := call(late); got == pid || got == 0 {
			t.Errorf("%s: later: pid %d", step, got)
		}
		if err := late.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	poll.Until(t, "the stream that reads nothing is ended", func() bool {
		start := time.Now()
		if got := call(honest); got != pid {
			t.Fatalf("another answers: %d, not %d", got, pid)
		}
		slowest = max(slowest, time.Since(start))
		return liar.gone() != nil && d.streamOf(liar.id) == nil
	})
	peak := peakOf(t, hopPID)
	t.Logf("the hop had %d MiB at most; the slowest of the honest calls meanwhile took %v", peak>>20, slowest)
	if peak > 200<<20 {
		t.Errorf("the hop had %d MiB", peak>>20)
	}
	if n := log.FilterMessageSnippet("does not read what it has asked for").Len(); n == 0 {
		t.Error("nothing in the log says so")
	}
	if d.streamOf(honest.id) == nil || d.streamOf(liar.id) != nil {
		t.Error("the routes are wrong")
	}
	var root pyproto.ContextID
	d.routes.m.Range(func(id, _ any) bool {
		if id != honest.id && id != honest.stream.id {
			root = id.(pyproto.ContextID)
		}
		return true
	})
	if root != 0 {
		t.Errorf("there is a route to context %d", root)
	}
}

// A child behind a real hop that asks for much and reads none of it has the hop keep what was on its way, and no more.
func TestHopAsksAndReadsNothing(t *testing.T) {
	for _, py := range ends(t) {
		t.Run(py.Version, func(t *testing.T) {
			files := map[string]string{"tree.py": treeModule, "big/__init__.py": "", "big/data": strings.Repeat("x", 9<<20)}
			d := newDaemon(t, Options{Path: []string{writeFiles(t, files)}})
			liarFile := filepath.Join(writeFiles(t, map[string]string{"liar.py": liarProgram}), "liar.py")
			honest := connect(t, d, target(py)+"+"+target(py))
			var hopPID int64
			if err := honest.Call(testContext(t), "os:getppid").Decode(&hopPID); err != nil {
				t.Fatal(err)
			}
			argv := []string{py.Path, liarFile, "asks", "0"}
			liar := connect(t, d, target(py)+"+exec:"+url.PathEscape(strings.Join(argv, " ")))
			poll.Until(t, "its questions are parked", func() bool {
				q := &liar.stream.resources
				q.mu.Lock()
				defer q.mu.Unlock()
				return q.waiting.n > 250 && !q.running
			})
			if err := honest.Call(testContext(t), "tree:pid").Err(); err != nil {
				t.Error(err)
			}
			peak := peakOf(t, hopPID)
			t.Logf("the hop had %d MiB at most", peak>>20)
			if peak > 100<<20 {
				t.Errorf("the hop had %d MiB", peak>>20)
			}
		})
	}
}
