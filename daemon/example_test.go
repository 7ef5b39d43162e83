package daemon_test

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/pyproto"
)

// Without all:, Go would leave out __init__.py.
//
//go:embed all:testdata/lib
var lib embed.FS

// A function of a module that this program has embedded, in an interpreter of this machine. Others are reached by targets
// like ssh:web1 and ssh:web1+sudo:root.
func Example() {
	ctx := context.Background()
	d, err := daemon.New(daemon.Options{
		Modules: []importer.Tree{{FS: lib, Root: "testdata/lib"}},
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Shutdown(ctx)
	child, err := d.Connect(ctx, "local:")
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := daemon.Call[string](ctx, child, "report:greet", "world")
	fmt.Println(text, err)
	// Output: Hello, world! <nil>
}

// local gives a child, and what ends it.
func local() (*daemon.Child, func()) {
	d, err := daemon.New(daemon.Options{Modules: []importer.Tree{{FS: lib, Root: "testdata/lib"}}})
	if err != nil {
		panic(err)
	}
	child, err := d.Connect(context.Background(), "local:")
	if err != nil {
		panic(err)
	}
	return child, func() { _ = d.Shutdown(context.Background()) }
}

// What Python returns is decoded into Go's types, structs among them; what it raises is an error.
func ExampleChild_Call() {
	child, done := local()
	defer done()
	ctx := context.Background()

	var parts struct {
		Whole int `py:"whole"`
		Rest  int `py:"rest"`
	}
	err := child.Call(ctx, "builtins:dict", pyproto.Kwargs{{Name: "whole", Value: 3}, {Name: "rest", Value: 1}}).Decode(&parts)
	fmt.Println(parts, err)

	err = child.Call(ctx, "report:fail").Err()
	var raised *pyproto.CallError
	fmt.Println(errors.As(err, &raised), raised.Message())
	for line := range strings.Lines(raised.Text) {
		if strings.Contains(line, "embed:") {
			fmt.Println(strings.TrimSpace(line[strings.Index(line, "embed:"):]))
		}
	}
	// Output:
	// {3 1} <nil>
	// true no
	// embed:testdata/lib/report/__init__.py", line 12, in fail
}

// A program runs in a process of its own, with its standard streams.
func ExampleChild_Run() {
	child, done := local()
	defer done()
	status, err := child.Run(context.Background(), daemon.RunOptions{
		Path: "hello.py", Args: []string{"reader"}, Env: []string{"GREETING=Hello"}, WorkDir: "/",
		Source: []byte("import os, sys\nprint(os.environ['GREETING'], sys.argv[1], os.getcwd())\nsys.exit(3)\n"), Stdout: os.Stdout,
	})
	fmt.Println(status.Code, err)
	// Output:
	// Hello reader /
	// 3 <nil>
}

// Several calls are under way: each child runs its own, one at a time.
func ExampleChild_Start() {
	child, done := local()
	defer done()
	ctx := context.Background()
	first, second := child.Start(ctx, "posixpath:join", "a", "b"), child.Start(ctx, "posixpath:basename", "c/d")
	var joined, base string
	fmt.Println(first.Result(ctx).Decode(&joined), second.Result(ctx).Decode(&base), joined, base)
	// Output: <nil> <nil> a/b d
}
