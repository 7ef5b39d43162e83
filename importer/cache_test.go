package importer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mitogend/integration/poll"
)

// Many children ask for the same modules at once: each is read, scanned and compressed once, and all get the same record.
func TestBuiltOnce(t *testing.T) {
	files := map[string]string{"p/__init__.py": "import p.m0\n"}
	for i := range 40 {
		files[fmt.Sprintf("p/m%d.py", i)] = fmt.Sprintf("import p.m%d\nx = %d\n", (i+1)%40, i)
	}
	im := onPath(t, files)
	names := im.Closure(py3, "p")
	if len(names) != 41 {
		t.Fatalf("closure %q", names)
	}
	im.cache = newCache(DefaultMaxCache)
	var wg sync.WaitGroup
	records := make([]map[string]*byte, 32)
	for g := range records {
		wg.Go(func() {
			s := im.search(py3)
			records[g] = map[string]*byte{}
			for i := range names {
				name := names[(i+g)%len(names)]
				rec, err := s.record(context.Background(), name)
				if err != nil {
					t.Error(err)
					return
				}
				records[g][name] = &rec[0]
			}
		})
	}
	wg.Wait()
	if im.cache.builds != int64(len(names)) {
		t.Errorf("%d builds for %d modules", im.cache.builds, len(names))
	}
	for _, name := range names {
		for g := range records {
			if records[g][name] != records[0][name] {
				t.Fatalf("%s: child %d was sent another record", name, g)
			}
		}
	}
}

// While one search reads a file, others for it wait, or give up with their context; searches for other files go on.
func TestWaitersShareOneRead(t *testing.T) {
	c := newCache(DefaultMaxCache)
	key := fileKey{size: 6}
	loc := location{dir: "/x.py"}
	reading, let := make(chan struct{}), make(chan struct{})
	read := func() ([]byte, fileKey, error) {
		close(reading)
		<-let
		return []byte("x = 1\n"), key, nil
	}
	never := func() ([]byte, fileKey, error) {
		t.Error("read a second time")
		return nil, key, nil
	}
	results := make(chan *unit, 3)
	get := func(read func() ([]byte, fileKey, error)) {
		u, err := c.get(context.Background(), loc, key, read)
		if err != nil {
			t.Error(err)
		}
		results <- u
	}
	go get(read)
	<-reading
	go get(never)
	go get(never)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.get(ctx, loc, key, never); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter whose context ends: %v", err)
	}
	if _, err := c.get(context.Background(), location{dir: "/y.py"}, key, func() ([]byte, fileKey, error) { return nil, key, nil }); err != nil {
		t.Errorf("another file: %v", err)
	}
	close(let)
	first, second, third := <-results, <-results, <-results
	if first == nil || second != first || third != first {
		t.Error("the waiters got other units")
	}
}

// An error, and a scan that panics, reach everyone who waits, and are not kept.
func TestFailedReads(t *testing.T) {
	c := newCache(DefaultMaxCache)
	loc, key := location{dir: "/x.py"}, fileKey{}
	fail := errors.New("no luck")
	for _, read := range []func() ([]byte, fileKey, error){
		func() ([]byte, fileKey, error) { return nil, key, fail },
		func() ([]byte, fileKey, error) { panic("oh") },
	} {
		if _, err := c.get(context.Background(), loc, key, read); err == nil || !strings.Contains(err.Error(), "no luck") && !strings.Contains(err.Error(), "oh") {
			t.Errorf("got %v", err)
		}
	}
	if u, err := c.get(context.Background(), loc, key, func() ([]byte, fileKey, error) { return []byte("ok"), key, nil }); err != nil || u.size != 2 {
		t.Errorf("after failures: %v, %v", u, err)
	}
	keys := 0
	if _, err := c.get(context.Background(), location{dir: "/y.py"}, key, func() ([]byte, fileKey, error) {
		keys++
		return nil, fileKey{mtime: int64(keys)}, nil
	}); err != nil {
		t.Errorf("a file that changed between stat and read: %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	files := map[string]string{}
	for i := range 100 {
		files[fmt.Sprintf("m%d.py", i)] = strings.Repeat(fmt.Sprintf("x%d = 1\n", i), 1000)
	}
	im := newImporter(t, Options{Path: []string{tree(t, files)}, MaxCache: 100_000})
	for range 3 {
		for i := range 100 {
			if got := sourceOf(t, im, fmt.Sprintf("m%d", i), py3); !strings.HasPrefix(got, fmt.Sprintf("x%d = 1", i)) {
				t.Fatal(got)
			}
		}
	}
	c := im.cache
	if c.bytes > c.limit || c.order.Len() != len(c.slots) || c.order.Len() == 0 || c.order.Len() > 20 {
		t.Errorf("%d bytes of %d, %d in order, %d slots", c.bytes, c.limit, c.order.Len(), len(c.slots))
	}
	var sum int64
	for e := c.order.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*slot).cost
	}
	if sum != c.bytes {
		t.Errorf("the slots cost %d, %d are counted", sum, c.bytes)
	}
}

// A file that many writers replace while readers are served: each read sees one whole state, and the last one is seen in the end.
func TestReadersAndWriters(t *testing.T) {
	dir := tree(t, map[string]string{"m.py": "v = 0\n" + strings.Repeat("#", 4000)})
	im := newImporter(t, Options{Path: []string{dir}})
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				src := sourceOf(t, im, "m", py3)
				var v, n int
				if _, err := fmt.Sscanf(src, "v = %d", &v); err != nil || len(src) < 4000 {
					t.Errorf("a torn read: %.20q, %d bytes", src, n)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	file := filepath.Join(dir, "m.py")
	for i := range 200 {
		write(t, file+".tmp", fmt.Sprintf("v = %d\n%s", i, strings.Repeat("#", 4000)), false)
		if err := os.Rename(file+".tmp", file); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
	if got := sourceOf(t, im, "m", py3); !strings.HasPrefix(got, "v = 199\n") {
		t.Errorf("in the end: %.10q", got)
	}
}

func TestSettled(t *testing.T) {
	at := time.Unix(1000, 5_000_000)
	for _, c := range []struct {
		mtime, ctime time.Time
		want         bool
	}{
		{time.Unix(900, 1), time.Unix(900, 1), true},
		{time.Unix(999, 950_000_001), time.Unix(900, 1), false},
		{time.Unix(900, 1), time.Unix(1000, 1), false},
		{time.Unix(999, 0), time.Unix(999, 0), false}, // times of whole seconds: an old filesystem
		{time.Unix(997, 0), time.Unix(997, 0), true},
		{time.Unix(2000, 0), time.Unix(900, 1), false}, // from the future
	} {
		k := fileKey{mtime: c.mtime.UnixNano(), ctime: c.ctime.UnixNano()}
		if got := k.settled(at); got != c.want {
			t.Errorf("%v, %v: %v", c.mtime, c.ctime, got)
		}
	}
}

func TestReadFileLimits(t *testing.T) {
	dir := tree(t, map[string]string{"x": "12345"})
	if data, _, err := readFile(filepath.Join(dir, "x"), 5); err != nil || string(data) != "12345" {
		t.Errorf("%q, %v", data, err)
	}
	if _, _, err := readFile(filepath.Join(dir, "x"), 4); err == nil {
		t.Error("the limit is not kept")
	}
	// What says that it is empty and is not.
	if data, _, err := readFile("/proc/self/status", 1<<20); err != nil || !strings.Contains(string(data), "Pid:") {
		t.Errorf("/proc: %v", err)
	}
	if _, _, err := readFile("/proc/self/status", 10); err == nil {
		t.Error("the limit is not kept for what says that it is empty")
	}
	if _, _, err := readFile("/dev/zero", 10); err == nil {
		t.Error("a device is read")
	}
	if _, _, err := readFile(filepath.Join(dir, "absent"), 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestListingCache(t *testing.T) {
	dir := tree(t, map[string]string{"a.py": ""})
	f, err := newFinder(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		name := fmt.Sprintf("n%d.py", i)
		write(t, filepath.Join(dir, name), "", false)
		l, err := f.listDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := l.types[name]; !ok {
			t.Fatalf("%s is not listed", name)
		}
	}
	// Once it is settled the listing is kept.
	f.dirs[dir].settled = true
	kept, err := f.listDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.listDir(dir); err != nil || again != kept {
		t.Error("an unchanged directory is listed again")
	}
	if len(kept.types) != 51 {
		t.Errorf("%d entries", len(kept.types))
	}
}

// What has a time in the future is read once more, and then kept.
func TestTimesInTheFuture(t *testing.T) {
	dir := tree(t, map[string]string{"m.py": "import os\n"})
	zip := filepath.Join(dir, "a.zip")
	zipTree(t, zip, map[string]string{"z.py": "import sys\n"})
	when := time.Now().Add(time.Hour).Truncate(time.Second).Add(time.Millisecond)
	for _, path := range []string{filepath.Join(dir, "m.py"), zip, dir} {
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	im := newImporter(t, Options{Path: []string{dir, zip}})
	kept := map[string]any{}
	poll.Until(t, "all of it is kept", func() bool {
		sourceOf(t, im, "m", py3)
		sourceOf(t, im, "z", py3)
		a, _ := im.finder.archive(zip)
		l, _ := im.finder.listDir(dir)
		now := map[string]any{"archive": a, "listing": l}
		im.cache.mu.Lock()
		for at, s := range im.cache.slots {
			now[at.file] = s
		}
		im.cache.mu.Unlock()
		same := maps.Equal(now, kept)
		kept = now
		return same && len(now) == 4
	})
	// But no longer than until it changes.
	write(t, filepath.Join(dir, "m.py"), "import io\n", false)
	zipTree(t, zip, map[string]string{"z.py": "import re!\n"})
	for _, path := range []string{filepath.Join(dir, "m.py"), zip, dir} {
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if m, z := sourceOf(t, im, "m", py3), sourceOf(t, im, "z", py3); m != "import io\n" || z != "import re!\n" {
		t.Errorf("%q, %q", m, z)
	}
}

// What was read of an archive goes when there is another one in its place.
func TestReplacedArchives(t *testing.T) {
	zip := filepath.Join(t.TempDir(), "a.zip")
	im := newImporter(t, Options{Path: []string{zip}})
	for i := range 20 {
		want := fmt.Sprintf("x = %d\n", i)
		zipTree(t, zip, map[string]string{"z.py": want})
		if got := sourceOf(t, im, "z", py3); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if n := len(im.cache.slots); n != 1 {
		t.Errorf("%d sources are kept", n)
	}
}
