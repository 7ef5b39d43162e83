package dial_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"mitogend/daemon/control"
	"mitogend/daemon/dial"
	"mitogend/daemon/wire"
	"mitogend/pyproto"
)

// TestMain serves the default socket.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("/tmp", "dial-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		_ = os.Setenv("XDG_RUNTIME_DIR", dir)
		s, err := control.New(control.Options{})
		if err != nil {
			panic(err)
		}
		at, err := control.DefaultDir()
		if err != nil {
			panic(err)
		}
		ln, err := control.Listen(at)
		if err != nil {
			panic(err)
		}
		go func() { _ = s.Serve(ln) }()
		defer s.Shutdown(context.Background())
		return m.Run()
	}())
}

// A function on a target that the daemon connects, or has connected before.
func ExampleCall() {
	ctx := context.Background()
	c, err := dial.Default(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	name, err := dial.Call[string](ctx, c, "local:", "posixpath:join", "a", "b")
	fmt.Println(name, err)
	// Output: a/b <nil>
}

func TestOutcomes(t *testing.T) {
	ctx := t.Context()
	c, err := dial.Default(ctx)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Call(ctx, "local:", "json:dumps", []any{int64(1)}, pyproto.Kwargs{{Name: "indent", Value: 1}})
	if v != "[\n 1\n]" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	var raised *pyproto.CallError
	if v, err := c.Call(ctx, "local:", "os:listdir", "/nowhere"); v != nil || !errors.As(err, &raised) || !strings.Contains(raised.Text, "/nowhere") {
		t.Errorf("%v, %v", v, err)
	}
	if n, err := dial.Call[int](ctx, c, "local:", "posixpath:join", "a", "b"); n != 0 || err == nil {
		t.Errorf("text as a number: %v, %v", n, err)
	}
	var e *dial.Error
	if _, err := c.Call(ctx, "local:?python=/nowhere/python", "os:getpid"); !errors.As(err, &e) || e.Kind != wire.KindConnect {
		t.Errorf("%v", err)
	}
	if _, err := c.Call(ctx, "nonsense:x", "os:getpid"); !errors.As(err, &e) || e.Kind != wire.KindUsage {
		t.Errorf("%v", err)
	}
	var list wire.List
	if err := c.Do(ctx, "list", nil, &list); err != nil || len(list.Contexts) == 0 {
		t.Errorf("%v, %v", list, err)
	}
	c.Close()
	if _, err := c.Call(ctx, "local:", "os:getpid"); !errors.Is(err, dial.ErrDisconnected) {
		t.Errorf("%v", err)
	}
	if _, err := dial.Dial(ctx, "/nowhere/s"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestIsSmall: all that the package brings into a program that uses it, beside Go's own packages.
func TestIsSmall(t *testing.T) {
	want := []string{
		"github.com/ugorji/go/codec", "golang.org/x/sys/unix",
		"mitogend/daemon/dial", "mitogend/daemon/internal/link", "mitogend/daemon/socket", "mitogend/daemon/wire", "mitogend/internal/duration",
		"mitogend/internal/fault", "mitogend/pyproto", "mitogend/pyproto/printable",
	}
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
