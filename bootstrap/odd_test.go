package bootstrap

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mitogend/python"

	"mitogend/integration/pythons"
)

var real = StartOptions{Preamble: func(p *Process) ([]byte, error) {
	return python.Boot(p.HexVersion, nil).Preamble(map[string]any{"context_id": 1, "parent_ids": []int{0}})
}}

// TestOddSurroundings starts the real runtime where something that one takes for granted is missing.
func TestOddSurroundings(t *testing.T) {
	nonblock := `import fcntl,os,sys;[fcntl.fcntl(f,4,fcntl.fcntl(f,3)|os.O_NONBLOCK) for f in (0,1,2)];os.execvp(sys.argv[1],sys.argv[1:])`
	for name, words := range map[string][]string{
		"ulimit -n 64":     {"sh", "-c", `ulimit -n 64; exec "$@"`, "sh"},
		"no cwd":           {"sh", "-c", `d=$(mktemp -d); cd $d; rmdir $d; exec "$@"`, "sh"},
		"no environment":   {"env", "-i"},
		"C locale":         {"env", "LC_ALL=C", "LANG=C", "PYTHONIOENCODING=ascii"},
		"no home":          {"env", "-u", "TERM", "HOME=/no/such/home"},
		"no stderr":        {"sh", "-c", `exec "$@" 2>&-`, "sh"},
		"SIGPIPE ignored":  {"sh", "-c", `trap "" PIPE HUP; exec "$@"`, "sh"},
		"prints first":     {"sh", "-c", `echo a login script; echo says hello >&2; exec "$@"`, "sh"},
		"stays in between": {"sh", "-c", `"$@"; exit $?`, "sh"},
	} {
		for _, py := range interpreters(t) {
			p := build(t, "exec", map[string]any{"command": words, "python": py})
			proc, err := Start(t.Context(), p, real)
			if err != nil {
				t.Errorf("%s: %s: %v", name, py, err)
				continue
			}
			if err := proc.Close(t.Context()); err != nil || proc.ExitStatus() != "exit status 0" {
				t.Errorf("%s: %s: %v, it ended with %s", name, py, err, proc.ExitStatus())
			}
		}
	}
	for _, py := range interpreters(t) {
		for _, s := range layouts {
			p := build(t, "exec", map[string]any{"command": []string{py, "-c", nonblock}, "python": py, "stdio": string(s)})
			proc, err := Start(t.Context(), p, real)
			if err != nil {
				t.Errorf("non-blocking %s: %s: %v", s, py, err)
				continue
			}
			if err := proc.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestNoTerminal explains a machine without devpts, seen through a mount namespace of its own.
func TestNoTerminal(t *testing.T) {
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root, for a mount namespace")
	}
	if os.Getenv("BOOTSTRAP_TEST_NO_PTS") != "" {
		e := mustFail(t, build(t, "su", map[string]any{"su_path": "true"}), echo, StepProgram)
		has(t, e, "no terminal can be made", "devpts")
		return
	}
	needProgram(t, "unshare")
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs none /dev/pts && mount -t tmpfs none /dev && exec "$0" -test.run='^TestNoTerminal$' -test.count=1`, os.Args[0])
	cmd.Env = append(os.Environ(), "BOOTSTRAP_TEST_NO_PTS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestIdleChildIsCheap counts what idle children cost this process: two pipes each.
func TestIdleChildIsCheap(t *testing.T) {
	p := build(t, "local", map[string]any{"python": anyPython(t)})
	before := openDescriptors()
	const n = 20
	for range n {
		started(t, p, real)
	}
	// The runtime takes over stderr, and then the pipe is closed.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		open := openDescriptors() - before
		if open <= 2*n+2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d descriptors for %d children", open, n)
		}
	}
}

// TestMarks feeds the handshake in one piece, and a byte at a time.
func TestMarks(t *testing.T) {
	const all = "hello\nMITO000\nMITO002\r\nMITO000 zz\nMITO000 30b07f0 zz\nMITO000 30b07f0 10000\nx MITO000 30b07f0 a70d\r\nMITO000 30b07f0\nMITO001\nnoise\nMITO002\nframes\n"
	for _, size := range []int{1, 2, 7, len(all)} {
		m := marks{}
		m.phase = waitHello
		var got []string
		rest := all
		// A bare MITO000 is a stock first stage's: start where the embedded one is expected.
		rest = strings.Replace(rest, "MITO000\n", "MITO0000\n", 1)
		for m.phase != ready {
			chunk := rest[:min(size, len(rest))]
			for b := []byte(chunk); len(b) > 0 && m.phase != ready; {
				n, ev := m.next(b)
				b, rest = b[n:], rest[n:]
				switch ev {
				case evText:
					got = append(got, m.text)
				case evHello:
					got = append(got, "<hello>")
				case evReceived:
					got = append(got, "<received>")
				case evReady:
					got = append(got, "<ready>")
				}
			}
		}
		want := "hello|MITO0000|MITO002|MITO000 zz|MITO000 30b07f0 zz|MITO000 30b07f0 10000|<hello>|MITO000 30b07f0|<received>|noise|<ready>"
		if s := strings.Join(got, "|"); s != want || rest != "frames\n" || m.hello != (Hello{0x030b07f0, 0x0da7}) {
			t.Errorf("in pieces of %d: %s, %q, %x", size, s, rest, m.hello)
		}
	}
	m := marks{}
	if _, ev := m.next([]byte("MITO000\n")); ev != evHello || m.hello != (Hello{}) {
		t.Errorf("a stock first stage is not understood: %v", ev)
	}
}

func FuzzMarks(f *testing.F) {
	f.Add([]byte("x\nMITO000 30b07f0\nMITO001\nMITO002\nrest"), 3)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		whole, pieces := marks{}, marks{}
		run := func(m *marks, b []byte) (rest int) {
			for len(b) > 0 && m.phase != ready {
				n, _ := m.next(b)
				b = b[n:]
			}
			return len(b)
		}
		restWhole := run(&whole, data)
		restPieces := 0
		for b := data; len(b) > 0; {
			n := min(max(size, 1), len(b))
			if pieces.phase == ready {
				restPieces += n
			} else {
				restPieces = run(&pieces, b[:n])
			}
			b = b[n:]
		}
		if len(data) < maxLine && (whole.phase != pieces.phase || whole.hello != pieces.hello || whole.phase == ready && restWhole != restPieces) {
			t.Fatalf("whole %v, in pieces %v", whole.phase, pieces.phase)
		}
	})
}
