package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/integration/pythons"
)

// TestPutBehindAHop: what goes to several children behind a hop goes to it once, whatever each of them has of it.
func nameSum(text string) digest { return sha256.Sum256([]byte(text)) }

func TestPutBehindAHop(t *testing.T) {
	list := pythons.All(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Shutdown(context.Background()) })
	from := t.TempDir()
	var size int64
	write := func(name string, n int) {
		data := bytes.Repeat([]byte(name), n/len(name)+1)[:n]
		for at := 0; at < n; at += 1 << 10 {
			copy(data[at:], fmt.Sprint(name, at)) // no two blocks are the same
		}
		if err := os.WriteFile(filepath.Join(from, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		size += int64(n)
	}
	for i := range 4 {
		write(fmt.Sprintf("large-%d", i), 3<<20)
	}
	for i := range 500 {
		write(fmt.Sprintf("small-%d", i), 8<<10)
	}
	source, err := NewSource([]string{from}, Options{Into: true})
	if err != nil {
		t.Fatal(err)
	}
	var children []*daemon.Child
	for i := range 4 {
		c, err := d.Connect(ctx, fmt.Sprintf("local:?python=%s+local:?python=%s", list[len(list)-1].Path, list[i%len(list)].Path))
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, c)
		if c.Version().Major == 2 && algorithmOf(2) != algorithmOf(3) {
			t.Log("Python 2 has another digest here, and gets small files of its own")
			size += 500 * 8 << 10
		}
	}
	put := func(dest func(n int) string) {
		t.Helper()
		var wg sync.WaitGroup
		for n, c := range children {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if _, err := Put(ctx, c, source, dest(n)+"/", Options{Into: true}); err != nil {
					t.Errorf("%s: %v", c.Name(), err)
				}
			}()
		}
		wg.Wait()
		for n := range children {
			for _, it := range source.items[1:] {
				want, _ := os.ReadFile(it.name)
				if got, err := os.ReadFile(filepath.Join(dest(n), it.path)); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d: %s: %v, or other content", n, it.path, err)
				}
			}
		}
	}
	to := t.TempDir()
	whole := func(n int) string { return filepath.Join(to, fmt.Sprint("whole-", n)) }
	before := children[0].Traffic().Out
	put(whole)
	sent := children[0].Traffic().Out - before
	t.Logf("%d bytes for %d", sent, size)
	if sent > size*3/2 {
		t.Errorf("%d bytes went to the hop for %d", sent, size)
	}
	// Each has another part of each large file.
	parts := func(n int) string { return filepath.Join(to, fmt.Sprint("parts-", n)) }
	for n := range children {
		for i := range 4 {
			name := filepath.Join(parts(n), filepath.Base(from), fmt.Sprintf("large-%d", i))
			data, err := os.ReadFile(filepath.Join(from, filepath.Base(name)))
			if err != nil {
				t.Fatal(err)
			}
			sum := nameSum(filepath.Base(name))
			part := filepath.Join(filepath.Dir(name), fmt.Sprintf(".mitogend-%x.part", sum[:8]))
			if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(part, data[:(n+1)*block*2], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	before = children[0].Traffic().Out
	put(parts)
	sent = children[0].Traffic().Out - before
	t.Logf("%d bytes for %d, of which each has another part", sent, size)
	if sent > size*3/2 {
		t.Errorf("%d bytes went to the hop for %d", sent, size)
	}
}
