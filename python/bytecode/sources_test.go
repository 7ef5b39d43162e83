package bytecode

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// TestSources: a source is kept once, and is there for the next process. What is broken is written anew.
func TestSources(t *testing.T) {
	t.Parallel()
	dir := ownDir(t)
	var asked atomic.Int32
	zip := func() []byte { asked.Add(1); return []byte("its zlib") }
	hash := sha256.Sum256([]byte("X = 1\n"))
	s := newStore(t, dir, Options{})
	check := func(want int32) {
		t.Helper()
		for range 3 {
			s.KeepSource(hash, 6, zip)
			s.Settle(waitTime)
		}
		if got := s.Source(hash); string(got) != "its zlib" || asked.Load() != want {
			t.Errorf("it has %q, and was asked %d times, not %d", got, asked.Load(), want)
		}
	}
	if got := s.Source(hash); got != nil {
		t.Errorf("%q is there at first", got)
	}
	check(1)
	if got := s.Source(sha256.Sum256([]byte("X = 2\n"))); got != nil {
		t.Errorf("it has %q of another source", got)
	}
	if err := os.WriteFile(filepath.Join(dir, sourceKey(hash).String()), []byte("evil"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.Source(hash); got != nil {
		t.Errorf("a broken entry gives %q", got)
	}
	check(2)
	s.Close()
	s = newStore(t, dir, Options{})
	check(2)
	// There is no code of that source.
	p := Python{1, 3, 99}
	if code := settled(t, s, p, sourceOf("/x.py", "X = 1\n")); code != nil {
		t.Errorf("it has code: %q", code)
	}
	if s.waiting != 0 || len(s.pending) != 0 {
		t.Errorf("%d bytes and %d sources still wait", s.waiting, len(s.pending))
	}
}

// TestSourcesAreBounded: a source is not kept where there is no room for it, no directory, or the store is closed.
func TestSourcesAreBounded(t *testing.T) {
	t.Parallel()
	held, hold := make(chan struct{}), make(chan struct{})
	s := newStore(t, ownDir(t), Options{})
	s.KeepSource([32]byte{1}, 1, func() []byte { close(held); <-hold; return []byte("1") })
	<-held
	var asked atomic.Int32
	zip := func() []byte { asked.Add(1); return []byte("z") }
	s.KeepSource([32]byte{2}, maxSource+1, zip)
	if len(s.saving) != 0 {
		t.Error("one that is too large waits")
	}
	const n = maxWaiting / maxSource
	for i := range n + 5 {
		s.KeepSource([32]byte{3, byte(i)}, maxSource, zip)
	}
	if len(s.saving) != n || s.waiting != maxWaiting {
		t.Errorf("%d wait, of %d bytes", len(s.saving), s.waiting)
	}
	close(hold)
	s.Settle(waitTime)
	if asked.Load() != n || s.waiting != 0 {
		t.Errorf("%d were kept of %d, and %d bytes wait", asked.Load(), n, s.waiting)
	}
	// What waits when it is closed is given up, and nobody waits for it any more.
	held, hold = make(chan struct{}), make(chan struct{})
	s.KeepSource([32]byte{4}, 1, func() []byte { close(held); <-hold; return []byte("1") })
	<-held
	for i := range maxQueue + 5 {
		s.KeepSource(sha256.Sum256(fmt.Append(nil, i)), 1, zip)
	}
	if len(s.saving) != maxQueue {
		t.Errorf("%d wait, not %d", len(s.saving), maxQueue)
	}
	s.stop()
	close(hold)
	s.Close()
	s.KeepSource([32]byte{5}, 1, zip)
	if asked.Load() != n || s.waiting != 0 || len(s.pending) != 0 || len(s.saving) != 0 || s.saves {
		t.Errorf("asked %d times; %d bytes, %d and %d sources wait", asked.Load(), s.waiting, len(s.pending), len(s.saving))
	}
	none := newStore(t, "", Options{})
	none.KeepSource([32]byte{6}, 1, zip)
	if none.Source([32]byte{6}) != nil || len(none.saving) != 0 || none.saves {
		t.Error("it is kept without a directory")
	}
}
