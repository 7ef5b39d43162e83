package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

func standinBed(t *testing.T) *bed {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		pythons.Missing(t, "there is no C compiler (gcc): ", err)
	}
	b, err := newBed("/usr/bin/python3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// The stand-in connects, answers calls and ends as a child does.
func TestStandin(t *testing.T) {
	child, err := standinBed(t).standin()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMaster(params{"python": child})
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.connect()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if pid, err := getpid(m.ctx, c); err != nil || pid <= 1 {
			t.Error(pid, err)
		}
	}
	if err := errors.Join(c.Close(m.ctx), waitNoChildren(time.Minute), m.close()); err != nil {
		t.Error(err)
	}
}

// A fleet of stand-ins is connected, called and ended, and each step has its figures. Building the command takes long.
func TestFleet(t *testing.T) {
	if os.Getenv("MITOGEND_LONG") == "" {
		t.Skip("MITOGEND_LONG=1 runs it")
	}
	b := standinBed(t)
	if err := b.buildMitogend(t.Context(), "../.."); err != nil {
		t.Fatal(err)
	}
	p, err := fleetSpec(5).params(b, ours)
	if err != nil {
		t.Fatal(err)
	}
	p["dir"] = filepath.Join(b.dir, "fleet")
	f, err := newOursFleet(p)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.sample(0)
	if err != nil {
		t.Error(err)
	}
	for _, c := range fleetCurves() {
		if m[c.metric] <= 0 {
			t.Errorf("%s is %v", c.metric, m[c.metric])
		}
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

// The report says where the peers stop.
func TestFleetStops(t *testing.T) {
	b := &bed{most: 100}
	if _, err := fleetSpec(101).params(b, mitogen); err == nil || !strings.Contains(err.Error(), "more than -peers 100") {
		t.Error(err)
	}
	b.most = 1 << 30
	if _, err := fleetSpec(100_000_000).params(b, execnet); err == nil || !strings.Contains(err.Error(), "of memory that this machine has free") {
		t.Error(err)
	}
	var out strings.Builder
	c := reportCurve{Title: "X", Axis: "n", X: []float64{1}, Figures: map[subject][]*figure{ours: {nil}}, Stops: []string{"Mitogen, 1: why"}}
	if err := c.text(&out); err != nil || !strings.HasSuffix(out.String(), "\nMitogen, 1: why\n") {
		t.Errorf("%v: %s", err, &out)
	}
}
