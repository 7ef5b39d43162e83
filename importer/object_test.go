package importer

import (
	"archive/zip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMembersOfArchives: nobody waits for another member than his own, each is unpacked once, and what is kept is
// bounded.
func TestMembersOfArchives(t *testing.T) {
	const size = 30 << 20
	path := filepath.Join(t.TempDir(), "lib.zip")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	names := []string{"a.so", "b.so", "c.so", "d.so"}
	for _, name := range names {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(make([]byte, size))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	im := newImporter(t, Options{Path: []string{path}})
	arc, err := openArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) ([]byte, error) {
		file := location{arc: arc, dir: name}
		r, n, done, err := im.openObject(file, arc.fileKey(name))
		if err != nil {
			return nil, err
		}
		defer done()
		first := make([]byte, 1)
		_, err = r.ReadAt(first, n-1)
		return first, err
	}
	o := im.objects
	for range 3 {
		for _, name := range names[:2] {
			if _, err := read(name); err != nil {
				t.Fatal(err)
			}
		}
		if len(o.members) != 2 || o.kept != 2*size {
			t.Fatalf("%d members with %d bytes are kept", len(o.members), o.kept)
		}
	}
	if _, err := o.unpack(location{arc: arc, dir: "absent.so"}, fileKey{}); err == nil || len(o.members) != 2 {
		t.Errorf("got %v, and %d members are kept", err, len(o.members))
	}
	// Two that take long.
	for range maxUnpacking {
		o.unpacking <- struct{}{}
	}
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := read("c.so")
			ended <- err
		}()
	}
	for _, name := range names[:2] {
		if _, err := read(name); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("it was unpacked beside two others: %v", err)
	default:
	}
	for range maxUnpacking {
		<-o.unpacking
	}
	for range 2 {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it is not unpacked")
		}
	}
	for _, name := range names {
		if _, err := read(name); err != nil {
			t.Error(err)
		}
		if o.kept > maxMembers || o.kept != size*len(o.members) {
			t.Errorf("%d members with %d bytes are kept", len(o.members), o.kept)
		}
	}
}

// The loader's configuration is read from where it lies, whatever is in the current directory.
func TestLoaderDirs(t *testing.T) {
	etc := tree(t, map[string]string{
		"ld.so.conf":           "include ld.so.conf.d/*.conf # more\n/last\nrelative\n",
		"ld.so.conf.d/a.conf":  "/first\ninclude ../more/*.conf\ninclude ../ld.so.conf\n",
		"ld.so.conf.d/b.other": "/other\n",
		"more/c.conf":          "/second\n",
	})
	t.Chdir(tree(t, map[string]string{"ld.so.conf.d/x.conf": "/evil\n", "more/x.conf": "/evil\n"}))
	equal(t, "directories", loaderDirs(filepath.Join(etc, "ld.so.conf")), []string{"/first", "/second", "/last"})
}
