package integration

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

const clientModule = `
import sys

def echo(v):
    return v

def pair():
    return (1, 2)

def add(a, b):
    return a + b

def fail(text):
    raise ValueError(text)

def say(text):
    sys.stdout.write(text)

def pump(channel, factor):
    n = 0
    for value in channel:
        n += 1
        channel.send(factor * value)
    return n

def send(sender, count):
    for i in range(count):
        sender.send(i)
    sender.close()
`

const clientWants = `{"after": "ok", "async": [["output", "hello", null], ["result", "", null]], "cancel": true, "cancelled": "cancelled",
"chain": "first", "channel": true, "close": 1, "echo": [true, true, true, true, true, true, true, true, true],
"error": ["call", "ValueError", "why"], "event": ["call", "mod:echo", true], "exit": 5, "kwargs": 3, "list": true,
"modules": [["mod", true], ["nope", false]], "pipelined": true, "plain": [1, 2], "receiver": [0, 1, 2],
"call_many": [[0, "result", 3], [1, "result", 3], [2, "result", 3]],
"run_many": [["INPUT", "all", 5], ["INPUT", "own", 5], ["INPUT", "all", 5]],
"open_many": [[["message", 0], ["result", 1]], [["message", 10], ["result", 1]], [["message", 20], ["result", 1]]],
"put": [["result", 1, 0]], "get": [["send", "there/mod.py"], ["result", 1]], "relative": "usage",
"run": ["IN PUT", "arg"], "stats": true, "timeout": "timeout", "tuple": 1}`

// A client that uses only docs/control.md, and no code of ours.
func TestIndependentClient(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import msgpack").Run(); err != nil {
		pythons.Missing(t, python, " has no msgpack: install python3-msgpack")
	}
	script, err := filepath.Abs("testdata/control_client.py")
	if err != nil {
		t.Fatal(err)
	}
	d := Serve(t)
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "mod.py", clientModule)
		cmd := exec.Command(python, script, d.Socket, p.Target(), dir)
		cmd.Env = environ()
		r := runCommand(t, cmd)
		var got, want map[string]any
		if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
			t.Fatal(err, r)
		}
		if err := json.Unmarshal([]byte(clientWants), &want); err != nil {
			t.Fatal(err)
		}
		version, _ := json.Marshal(got["python"])
		if regexp.MustCompile(`[\[\]]`).ReplaceAllString(string(version), "") != regexp.MustCompile(`\.`).ReplaceAllString(p.Version, ",") {
			t.Errorf("python is %s", version)
		}
		delete(got, "python")
		for k := range want {
			a, _ := json.Marshal(want[k])
			b, _ := json.Marshal(got[k])
			if !bytes.Equal(a, b) {
				t.Errorf("%s: got %s, want %s", k, b, a)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v", got)
		}
	})
}

// The bytes in docs/control.md are those that go over the wire.
func TestDocumentedBytes(t *testing.T) {
	doc, err := os.ReadFile("../docs/control.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(name string) []byte {
		m := regexp.MustCompile("(?s)```" + name + "\n(.*?)```").FindSubmatch(doc)
		if m == nil {
			t.Fatalf("no %s in the document", name)
		}
		var out []byte
		for _, line := range regexp.MustCompile(`(?m)^((?:[0-9a-f]{2} )+)`).FindAllSubmatch(m[1], -1) {
			b, err := hex.DecodeString(string(bytes.ReplaceAll(line[1], []byte(" "), nil)))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b...)
		}
		return out
	}
	d := Serve(t)
	nc, err := net.Dial("unix", d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(block("request")); err != nil {
		t.Fatal(err)
	}
	want := block("response")
	got := make([]byte, 64)
	_ = nc.SetReadDeadline(time.Now().Add(commandTime))
	n, err := nc.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	// All but the process id, which may have another length.
	if head := want[:len(want)-3]; !bytes.HasPrefix(got[:n], head) || n <= len(head) {
		t.Errorf("got % x, documented % x", got[:n], want)
	}
}
