package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/control"
	"mitogend/daemon/work"
	"mitogend/importer"
	"mitogend/pyproto"
)

// socket is where the daemon of these examples listens; programs use the one of mitogend serve.
var socket string

// lib has the module that the examples call.
var lib string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("/tmp", "client-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		lib = filepath.Join(dir, "lib")
		_ = os.Mkdir(lib, 0o755)
		if err := os.WriteFile(filepath.Join(lib, "words.py"), []byte(words), 0o644); err != nil {
			panic(err)
		}
		s, err := control.New(control.Options{})
		if err != nil {
			panic(err)
		}
		ln, err := control.Listen(filepath.Join(dir, "s"))
		if err != nil {
			panic(err)
		}
		socket = ln.Path()
		go func() { _ = s.Serve(ln) }()
		defer s.Shutdown(context.Background())
		return m.Run()
	}())
}

const words = `
import time

def count(text, least=1):
    return dict((w, text.split().count(w)) for w in set(text.split()) if text.split().count(w) >= least)

def upper(channel):
    for text in channel:
        channel.send(text.upper())

def numbers(channel, most):
    for i in range(most):
        channel.send(i + 1)
        if i % 100 == 0:
            time.sleep(0.002)
    return most
`

// A function in a module of ours, on an interpreter that the daemon holds.
func ExampleClient_Connect() {
	ctx := context.Background()
	c, err := client.Dial(ctx, socket, client.Options{Source: &importer.Options{Path: []string{lib}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Shutdown(ctx)
	child, err := c.Connect(ctx, "local:")
	if err != nil {
		fmt.Println(err)
		return
	}
	var counts map[string]int
	err = child.Call(ctx, "words:count", "a rose is a rose", pyproto.Kwargs{{Name: "least", Value: 2}}).Decode(&counts)
	fmt.Println(counts, err)
	// Output: map[a:2 rose:2] <nil>
}

// A program on several targets as one request, with what it reads.
func ExampleClient_RunMany() {
	ctx := context.Background()
	c, err := client.Dial(ctx, socket, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Shutdown(ctx)
	m := &client.Many{Plan: work.Plan{Parallel: 10, MaxFail: work.NoLimit}}
	for _, name := range []string{"a", "b"} {
		hops, err := bootstrap.ParseTarget("exec:env%20NAME=" + name)
		if err != nil {
			fmt.Println(err)
			return
		}
		m.Places = append(m.Places, client.Place{Name: name, Hops: hops})
	}
	var printed [2]string
	p := &client.ManyPrograms{Program: daemon.Command([]string{"sh", "-c", "read line; echo $line $NAME"}, nil, "")}
	p.Program.Stdin = strings.NewReader("hello\n")
	p.Stdout = func(target int, data []byte) { printed[target] += string(data) }
	err = c.RunMany(ctx, m, p, func(o *client.Outcome) {
		if o.State != work.Done {
			fmt.Println(m.Places[o.Target].Name, o.Status, o.Err)
		}
	})
	fmt.Print(printed[0], printed[1], err)
	// Output:
	// hello a
	// hello b
	// <nil>
}

// Messages both ways, as long as the function runs.
func ExampleChild_OpenChannel() {
	ctx := context.Background()
	c, err := client.Dial(ctx, socket, client.Options{Source: &importer.Options{Path: []string{lib}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Shutdown(ctx)
	child, err := c.Connect(ctx, "local:")
	if err != nil {
		fmt.Println(err)
		return
	}
	ch, err := child.OpenChannel(ctx, "words:upper")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, word := range []string{"one", "two"} {
		if err := ch.Send(ctx, word); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(ch.Recv(ctx))
	}
	_ = ch.CloseSend(ctx)
	fmt.Println(ch.Recv(ctx))
	// Output:
	// ONE <nil>
	// TWO <nil>
	// <nil> EOF
}

// Code that does not care whether the interpreters are its own or a running daemon's.
func Example_either() {
	ctx := context.Background()
	running, err := client.Dial(ctx, socket, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	own, err := daemon.New(daemon.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []daemon.Master{running, own} {
		child, err := m.Open(ctx, "local:", []bootstrap.Hop{{Method: "local"}}, daemon.ConnectOptions{})
		if err == nil {
			err = child.Call(ctx, "os:getpid").Err()
		}
		fmt.Println(err, m.Shutdown(ctx))
	}
	// Output:
	// <nil> <nil>
	// <nil> <nil>
}
