package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/integration/pythons"
)

// TestFaultsOfACopy: the processes of a target do not ask the kernel for new memory with each block.
func TestFaultsOfACopy(t *testing.T) {
	const size = 32 << 20
	pages := int64(size / os.Getpagesize())
	dir := t.TempDir()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	for name, part := range map[string][]byte{"small": data[:block], "large": data} {
		if err := os.WriteFile(filepath.Join(dir, name), part, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pythons.Each(t, func(t *testing.T, p pythons.Python) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d, err := daemon.New(daemon.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Shutdown(context.Background()) }()
		c, err := d.Connect(ctx, "local:?python="+p.Path)
		if err != nil {
			t.Fatal(err)
		}
		copied := func(name string, copyTo func(from, dest string) error) int64 {
			t.Helper()
			before := faults(t, c.PID())
			if err := copyTo(filepath.Join(dir, name), t.TempDir()); err != nil {
				t.Fatal(err)
			}
			return faults(t, c.PID()) - before
		}
		put := func(from, dest string) error {
			s, err := NewSource([]string{from}, Options{})
			if err == nil {
				_, err = Put(ctx, c, s, dest, Options{})
			}
			return err
		}
		get := func(from, dest string) error {
			_, err := Get(ctx, c, []string{from}, dest, Options{})
			return err
		}
		copied("small", put) // starts the process that programs are forked off
		for name, fn := range map[string]func(from, dest string) error{"put": put, "get": get} {
			small, large := copied("small", fn), copied("large", fn)
			t.Logf("%s: %d faults, and %d for %d pages", name, small, large, pages)
			if small <= 0 || large-small > pages/4 {
				t.Errorf("%s: %d more page faults for a file of %d pages", name, large-small, pages)
			}
		}
	})
}

// faults gives how many page faults a process and those below it have had, and those that have ended.
func faults(t *testing.T, pid int) (n int64) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]int64{}
	children := map[string][]string{}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// The fields behind the name: state, ppid, pgrp, session, tty, tpgid, flags, minflt, cminflt.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		minor, err1 := strconv.ParseInt(fields[7], 10, 64)
		ended, err2 := strconv.ParseInt(fields[8], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		id := filepath.Base(filepath.Dir(name))
		own[id] = minor + ended
		children[fields[1]] = append(children[fields[1]], id)
	}
	for below := []string{fmt.Sprint(pid)}; len(below) > 0; below = below[1:] {
		n += own[below[0]]
		below = append(below, children[below[0]]...)
	}
	return n
}
