package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mitogend/importer"
)

// One look serves all connections for a time, but not a client that may have changed something since.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "m.py"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("x = 1\n")
	im, err := importer.New(importer.Options{Path: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	p := newPool(t, Options{})
	v := importer.Version{Major: 3, Minor: 11}
	one, two := &Conn{p: p, im: im, ready: make(chan struct{})}, &Conn{p: p, im: im, ready: make(chan struct{})}
	one.remember(importer.Event{Name: "m"})
	two.remember(importer.Event{Name: "m"})
	two.remember(importer.Event{Name: "absent"})
	first := p.check(im, importer.Version{}, time.Time{})
	if one.outdated(time.Time{}) || two.outdated(time.Time{}) {
		t.Error("nothing has changed")
	}
	if one.checked != first && time.Since(first.began) < checkTime/2 {
		t.Error("one look was not enough")
	}
	if p.check(im, v, time.Time{}) == first {
		t.Error("another version has the same check")
	}
	write("x = 22\n")
	now := time.Now()
	for i, c := range []*Conn{one, two} {
		if !c.outdated(now) {
			t.Errorf("connection %d is not outdated", i)
		}
	}
	write("x = 1\n")
	if one.outdated(time.Now()) {
		t.Error("what was sent is served again")
	}
	if err := os.WriteFile(filepath.Join(dir, "absent.py"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if now = time.Now(); one.outdated(now) || !two.outdated(now) {
		t.Error("a module that was refused is there")
	}
	p.checkMu.Lock()
	for _, k := range p.checks {
		k.began = k.began.Add(-2 * checkTime)
	}
	p.checkMu.Unlock()
	if p.check(im, v, time.Time{}); len(p.checks) != 1 {
		t.Errorf("%d checks are kept", len(p.checks))
	}
}

// What counts is what was sent, whatever has become of it when that is noted. But it may have been another child's.
func TestCheckOfWhatWasSent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "m.py")
	if err := os.WriteFile(file, []byte("x = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := importer.New(importer.Options{Path: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	sent := importer.Event{Name: "m"}
	sent.Mark, _ = im.Look(importer.Version{}).Mark("m")
	others := sent
	others.Platform = importer.Platform{Version: importer.Version{Major: 2, Minor: 7}}
	if err := os.WriteFile(file, []byte("x = 22\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range []importer.Event{sent, others} {
		c := &Conn{p: newPool(t, Options{}), im: im, ready: make(chan struct{})}
		c.remember(e)
		if outdated := c.outdated(time.Now()); outdated != (e.Platform == importer.Platform{}) {
			t.Errorf("%v: outdated: %v", e.Platform, outdated)
		}
	}
}

// A check of many modules looks at their directories once, and builds no record.
func TestCheckIsCheap(t *testing.T) {
	dir := t.TempDir()
	const modules = 150
	im, err := importer.New(importer.Options{Path: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	c := &Conn{p: newPool(t, Options{}), im: im, ready: make(chan struct{})}
	main := ""
	for i := range modules {
		name := fmt.Sprint("m", i)
		if err := os.WriteFile(filepath.Join(dir, name+".py"), []byte("import sys\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		main += "import " + name + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "main.py"), []byte(main), 0o600); err != nil {
		t.Fatal(err)
	}
	c.remember(importer.Event{Name: "main"})
	for i := range modules {
		c.remember(importer.Event{Name: fmt.Sprint("m", i)})
	}
	// What changed just now is read again each time.
	deadline := time.Now().Add(30 * time.Second)
	const most = 10
	for {
		n := testing.AllocsPerRun(1, func() {
			if c.outdated(time.Now()) {
				t.Fatal("nothing has changed")
			}
		})
		if n <= most*modules {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%.0f allocations for %d modules", n, modules)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
