package control_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// transferred takes a stream to its end, and gives the other items and the result.
func transferred(t *testing.T, c *client.Client, method string, p *wire.Transfer) (items []wire.Item, result *pyproto.Dict, err error) {
	t.Helper()
	var got wire.Items
	if err := c.Do(t.Context(), method, p, &got); err != nil {
		return nil, nil, err
	}
	for {
		for _, item := range got.Items {
			switch item.Kind {
			case wire.ItemError:
				return items, nil, item.Error
			case wire.ItemResult:
				result, _ = item.Value.V.(*pyproto.Dict)
			default:
				items = append(items, item)
			}
		}
		if got.End {
			return items, result, nil
		}
		id := got.Stream
		got = wire.Items{}
		if err := c.Do(t.Context(), "read", &wire.Read{Stream: id}, &got); err != nil {
			return items, nil, err
		}
	}
}

func count(d *pyproto.Dict, name string) int64 {
	v, _ := d.Lookup(name)
	n, _ := v.(int64)
	return n
}

func faults(d *pyproto.Dict) []any {
	v, _ := d.Lookup("errors")
	list, _ := v.([]any)
	return list
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

// files are the regular files below dir, by name, with their content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func transfer(target, dest string, sources ...string) *wire.Transfer {
	p := &wire.Transfer{Sources: sources, Dest: dest}
	p.Target.Target = target
	return p
}

func TestTransfers(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		here, there, back := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "there"), t.TempDir()
		write(t, here+"/small", []byte("text"))
		write(t, here+"/sub/large", random(3<<20))
		write(t, here+"/caf\xe9", []byte("x"))
		put := transfer(local(py), there, here)
		put.Progress, put.Read = true, true
		items, r, err := transferred(t, c, "put", put)
		if err != nil || count(r, "files") != 3 || count(r, "bytes") != 3<<20+5 || count(r, "sent") != 3<<20+5 || len(faults(r)) > 0 {
			t.Fatal(r, err)
		}
		var moved int64
		for _, item := range items {
			if item.Kind != wire.ItemProgress || item.Count < moved || item.Total != 3<<20+5 {
				t.Errorf("%+v", item)
			}
			moved = item.Count
		}
		if len(items) == 0 {
			t.Error("no progress")
		}
		if got := files(t, there); !maps.Equal(got, files(t, here)) {
			t.Errorf("%d files", len(got))
		}

		// What differs is sent, and what the source lacks is removed; with dry_run neither.
		sync := transfer(local(py), there, here)
		sync.Sync, sync.Delete, sync.Files, sync.DryRun = true, true, true, true
		write(t, here+"/small", []byte("other text"))
		write(t, there+"/caf\xe9 gone", nil)
		kinds := func(items []wire.Item) (out []string) {
			for _, item := range items {
				out = append(out, item.Kind+" "+string(item.Data))
			}
			slices.Sort(out)
			return out
		}
		want := []string{"delete " + there + "/caf\xe9 gone", "send here/small"}
		if items, _, err := transferred(t, c, "put", sync); err != nil || !slices.Equal(kinds(items), want) {
			t.Errorf("%q %v", kinds(items), err)
		}
		if files(t, there)["small"] != "text" {
			t.Error("something has changed")
		}
		sync.DryRun = false
		items, r, err = transferred(t, c, "put", sync)
		if err != nil || !slices.Equal(kinds(items), want) || count(r, "sent") != 10 || count(r, "deleted") != 1 || count(r, "same") != 2 {
			t.Errorf("%q %v %v", kinds(items), r, err)
		}
		if got := files(t, there); !maps.Equal(got, files(t, here)) {
			t.Errorf("%d files", len(got))
		}

		get := transfer(local(py), back+"/", there, there+"/nosuch")
		_, r, err = transferred(t, c, "get", get)
		if err != nil || count(r, "files") != 3 || len(faults(r)) != 1 || !strings.Contains(fmt.Sprint(faults(r)), "nosuch: No such file") {
			t.Fatal(r, err)
		}
		if got := files(t, back+"/there"); !maps.Equal(got, files(t, here)) {
			t.Errorf("%d files", len(got))
		}
		pull := transfer(local(py), back+"/there", there)
		pull.Sync, pull.Checksum = true, true
		if _, r, err := transferred(t, c, "get", pull); err != nil || count(r, "sent") != 0 || count(r, "same") < 3 {
			t.Error(r, err)
		}

		// Options that are tested elsewhere come through.
		attributes := transfer(local(py), back+"/attributes", here)
		attributes.Xattrs = true
		if err := unix.Setxattr(here+"/small", "user.a", []byte("x"), 0); err != nil {
			pythons.Missing(t, "no extended attributes: ", err)
		}
		_, _, err = transferred(t, c, "put", attributes)
		if py.Version == "2.7" {
			var e *wire.Error
			if !errors.As(err, &e) || e.Kind != wire.KindUsage || !strings.Contains(e.Message, "Python 2 has no functions") {
				t.Error(err)
			}
		} else if n, xerr := unix.Getxattr(back+"/attributes/small", "user.a", make([]byte, 9)); err != nil || n != 1 {
			t.Error(n, err, xerr)
		}
	})
	if n := b.Stats().Streams; n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func TestTransferRequests(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	dir := t.TempDir()
	write(t, dir+"/file", []byte("x"))
	const target = "local:?python=python3"
	for name, test := range map[string]struct {
		method string
		change func(*wire.Transfer)
		want   string
	}{
		"a relative source":           {"put", func(p *wire.Transfer) { p.Sources = []string{"file"} }, "file is not absolute: the daemon's working directory is not yours"},
		"a source at home":            {"put", func(p *wire.Transfer) { p.Sources = []string{dir + "/file", "~/file"} }, "~/file is not absolute"},
		"a relative destination":      {"get", func(p *wire.Transfer) { p.Dest = "there" }, "there is not absolute"},
		"a missing source":            {"put", func(p *wire.Transfer) { p.Sources = []string{dir + "/nosuch"} }, "nosuch: no such file"},
		"no source":                   {"get", func(p *wire.Transfer) { p.Sources = nil }, "one is missing"},
		"no destination":              {"put", func(p *wire.Transfer) { p.Dest = "" }, "one is missing"},
		"two sources to sync":         {"put", func(p *wire.Transfer) { p.Sync, p.Sources = true, []string{"/a", "/b"} }, "one source, not 2"},
		"delete without sync":         {"put", func(p *wire.Transfer) { p.Delete = true }, "need sync"},
		"a dry run without sync":      {"get", func(p *wire.Transfer) { p.DryRun = true }, "need sync"},
		"a destination below a file":  {"get", func(p *wire.Transfer) { p.Dest = dir + "/file/below" }, "file exists"},
		"a child of somebody else's":  {"get", func(p *wire.Transfer) { p.Target = wire.Target{Child: 77} }, "has not connected a child 77"},
		"all of this machine, synced": {"get", func(p *wire.Transfer) { p.Sync, p.Dest = true, "/" }, "all of this machine"},
	} {
		p := transfer(target, dir+"/there", dir+"/file")
		test.change(p)
		_, _, err := transferred(t, c, test.method, p)
		var e *wire.Error
		if !errors.As(err, &e) || e.Kind != wire.KindUsage && !strings.HasPrefix(name, "a child") || !strings.Contains(e.Message, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A file that fails is reported, and the others are copied.
	write(t, dir+"/there/file/x", nil)
	write(t, dir+"/other", []byte("other"))
	_, r, err := transferred(t, c, "put", transfer(target, dir+"/there", dir+"/file", dir+"/other"))
	if err != nil || count(r, "files") != 1 || !strings.Contains(fmt.Sprint(faults(r)), dir+"/there/file: Is a directory") {
		t.Error(r, err)
	}
	if got, _ := os.ReadFile(dir + "/there/other"); string(got) != "other" {
		t.Errorf("%q", got)
	}
}

// A client that goes away or closes the stream ends the transfer at whatever point it is: nothing runs on, and no
// half file has its name. The next transfer goes on with what has come.
func TestTransferOfAClientThatLeaves(t *testing.T) {
	b := newBed(t, nil)
	dir := t.TempDir()
	data := random(64 << 20)
	write(t, dir+"/large", data)
	const target = "local:?python=python3"
	running := func() (n int) {
		for _, c := range b.List().Contexts {
			n += c.Running + c.Leases
		}
		return n
	}
	part := func(there string) (size int64) {
		found, _ := filepath.Glob(there + "/.mitogend-*.part")
		for _, name := range found {
			if info, err := os.Stat(name); err == nil {
				size = max(size, info.Size())
			}
		}
		return size
	}
	for _, method := range []string{"put", "get"} {
		there := filepath.Join(dir, method)
		for _, leave := range []string{"close", "hang up", "timeout"} {
			c := b.dial(t, client.Options{})
			p := transfer(target, there+"/large", dir+"/large")
			before := part(there)
			if leave == "timeout" {
				p.Timeout = 0.05
			}
			var got wire.Items
			if err := c.Do(t.Context(), method, p, &got); err != nil {
				t.Fatal(err)
			}
			if leave != "timeout" {
				poll.Until(t, "a part has come", func() bool {
					_, err := os.Stat(there + "/large")
					return part(there) > before || err == nil
				})
			}
			switch leave {
			case "timeout":
				for id := got.Stream; !got.End; {
					if err := c.Do(t.Context(), "read", &wire.Read{Stream: id}, &got); err != nil {
						t.Fatal(err)
					}
				}
			case "close":
				if err := c.Do(t.Context(), "close", &wire.Close{Stream: got.Stream}, nil); err != nil {
					t.Error(err)
				}
			case "hang up":
				_ = c.Shutdown(t.Context())
			}
			poll.Until(t, "nothing runs", func() bool { return running() == 0 })
			if found, err := os.ReadFile(there + "/large"); err == nil && !bytes.Equal(found, data) {
				t.Fatalf("%s, %s: half a file has the name", method, leave)
			}
		}
		had := part(there)
		_, r, err := transferred(t, b.dial(t, client.Options{}), method, transfer(target, there+"/large", dir+"/large"))
		if err != nil || count(r, "files") != 1 {
			t.Fatal(r, err)
		}
		if sent := count(r, "sent"); had > 1<<20 && sent > int64(len(data))-had+252<<10 {
			t.Errorf("%s: %d bytes were sent, though %d were there", method, sent, had)
		}
		if found, err := os.ReadFile(there + "/large"); err != nil || !bytes.Equal(found, data) {
			t.Error(len(found), err)
		}
		if left, _ := filepath.Glob(there + "/.mitogend-*"); len(left) > 0 {
			t.Errorf("%q are left", left)
		}
	}
}

// Some of a client's transfers run at once, and the others wait: none is refused, and none holds up another method.
func TestManyTransfers(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	dir := t.TempDir()
	write(t, dir+"/file", []byte("x"))
	const n = 40
	var streams []uint32
	for i := range n {
		var got wire.Items
		if err := c.Do(t.Context(), "put", transfer("local:?python=python3", fmt.Sprintf("%s/there/%d", dir, i), dir+"/file"), &got); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, got.Stream)
	}
	if err := c.Do(t.Context(), "ping", nil, nil); err != nil {
		t.Error(err)
	}
	for _, id := range streams {
		var got wire.Items
		if err := c.Do(t.Context(), "read", &wire.Read{Stream: id}, &got); err != nil || !got.End || got.Items[0].Kind != wire.ItemResult {
			t.Error(got, err)
		}
	}
	if got := files(t, dir+"/there"); len(got) != n {
		t.Errorf("%d files", len(got))
	}
}
