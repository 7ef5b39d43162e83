package bootstrap

import (
	"bytes"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mitogend/integration/pythons"
	"mitogend/python"
)

func TestMain(m *testing.M) {
	fds := openDescriptors()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		// Files that the garbage collector closes do not count as closed in time.
		if now := openDescriptors(); now > fds+2 {
			fmt.Fprintf(os.Stderr, "%d descriptors open at the start, %d at the end\n", fds, now)
			code = 1
		}
		if kids := children(); len(kids) > 0 {
			fmt.Fprintf(os.Stderr, "child processes left: %v\n", kids)
			code = 1
		}
	}
	os.Exit(code)
}

func openDescriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}

// children lists the processes whose parent is this one.
func children() []string {
	var out []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		rest := string(b[bytes.LastIndexByte(b, ')')+1:])
		if f := strings.Fields(rest); len(f) > 1 && f[1] == fmt.Sprint(os.Getpid()) {
			out = append(out, string(b[:bytes.LastIndexByte(b, ')')+1]))
		}
	}
	return out
}

// interpreters gives the real Pythons to test with.
func interpreters(t testing.TB) []string {
	var out []string
	for _, p := range pythons.All(t) {
		out = append(out, p.Path)
	}
	return out
}

// anyPython gives one interpreter of 3.x.
func anyPython(t testing.TB) string {
	for _, p := range interpreters(t) {
		if exec.Command(p, "-c", "import sys;sys.exit(sys.version_info[0]<3)").Run() == nil {
			return p
		}
	}
	t.Fatal("no Python 3 among the interpreters")
	return ""
}

var boot = Boot{Stub: python.Stub(), Args: []string{"test"}}

// echoCore is a stand-in for the runtime: after MITO002 it sends "up" and then everything back that it receives.
const echoCore = `
import os, select
def main(config, source):
    os.write(1, b'MITO002\nup')
    while 1:
        try:
            data = os.read(0, 65536)
        except OSError:
            select.select([0], [], [])
            continue
        if not data:
            break
        while data:
            data = data[os.write(1, data):]
    os._exit(0)
`

func preambleOf(core string) func(*Process) ([]byte, error) {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = io.WriteString(w, core+"\x00{}")
	_ = w.Close()
	pre := append(fmt.Appendf(nil, "%d\n", z.Len()), z.Bytes()...)
	return func(*Process) ([]byte, error) { return pre, nil }
}

var echo = StartOptions{Preamble: preambleOf(echoCore)}

func build(t testing.TB, method string, opts map[string]any) *Plan {
	t.Helper()
	p, err := Build(method, opts, boot)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// started runs the plan and closes the process at the test's end.
func started(t testing.TB, p *Plan, opt StartOptions) *Process {
	t.Helper()
	proc, err := Start(context.Background(), p, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proc.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return proc
}

// checkEcho sends every byte value through the child and back.
func checkEcho(t testing.TB, p *Process) {
	t.Helper()
	_ = p.Reader().SetReadDeadline(time.Now().Add(20 * time.Second))
	r := io.MultiReader(bytes.NewReader(p.Buffered()), p.Reader())
	want := []byte("up")
	for i := range 256 {
		want = append(want, byte(i), byte(i))
	}
	want = bytes.Repeat(want, 40)
	if _, err := p.Writer().Write(want[2:]); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the bytes that came back are others")
	}
}

// mustFail starts a plan that cannot succeed and returns its error, which must name the step.
func mustFail(t testing.TB, p *Plan, opt StartOptions, step Step) *Error {
	t.Helper()
	proc, err := Start(context.Background(), p, opt)
	if err == nil {
		_ = proc.Close(context.Background())
		t.Fatal("the connection succeeded")
	}
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("got a %T: %v", err, err)
	}
	if step != "" && e.Step != step {
		t.Errorf("step %q, want %q: %v", e.Step, step, e)
	}
	return e
}

func has(t testing.TB, e error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(e.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, e)
		}
	}
	if strings.ContainsAny(e.Error(), "\n\r") {
		t.Errorf("the error is more than a line: %q", e.Error())
	}
}
