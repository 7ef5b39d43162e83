package transfer

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mitogend/daemon"
)

// Files are the same there and back, whatever digests this machine is fast at.
func TestEachAlgorithm(t *testing.T) {
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	t.Cleanup(func() { _ = d.Shutdown(ctx) })
	c, err := d.Connect(ctx, "local:?python=python3")
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 5*block/2)
	for i := range large {
		large[i] = byte(rand.Int())
	}
	files := map[string][]byte{"small": []byte("text"), "large": large, "empty": nil, "holes": append(make([]byte, 3*block), large...)}
	was := fastSHA
	defer func() { fastSHA = was }()
	for _, fastSHA = range []bool{true, false} {
		here, there, back := t.TempDir(), t.TempDir(), t.TempDir()
		for name, data := range files {
			if err := os.WriteFile(filepath.Join(here, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s, err := NewSource([]string{here}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Put(ctx, c, s, there+"/", Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := Get(ctx, c, []string{filepath.Join(there, filepath.Base(here))}, back+"/", Options{}); err != nil {
			t.Fatal(err)
		}
		for name, data := range files {
			got, err := os.ReadFile(filepath.Join(back, filepath.Base(here), name))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("SHA-256 %v: %s has %d bytes of %d, or others: %v", fastSHA, name, len(got), len(data), err)
			}
		}
	}
}
