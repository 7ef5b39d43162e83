package daemon

import (
	"testing"

	"mitogend/pyproto"
)

// Streams that have talked to each other leave nothing in the tables, in whatever order they end. Each is told of the
// end of every context that it has sent to.
func TestTablesAreEmptyAtTheEnd(t *testing.T) {
	d := newDaemon(t, Options{})
	var peers []*peer
	for range 4 {
		peers = append(peers, newPeer(t, d))
	}
	for _, a := range peers {
		for _, b := range peers {
			if a != b {
				a.send(pyproto.Header{Src: a.id, Auth: a.id, Dst: b.id, Handle: 1}, "N.")
			}
		}
	}
	for _, a := range peers {
		for range len(peers) - 1 {
			if m := a.read(); m.Handle != 1 {
				t.Fatalf("%+v", m.Header)
			}
		}
	}
	for i, a := range peers {
		_, _ = a.f.Close(), a.in.Close()
		<-a.c.stream.ended
		for _, b := range peers[i+1:] {
			if m := b.read(); m.Handle != pyproto.DelRoute {
				t.Fatalf("%+v", m.Header)
			}
		}
	}
	for id := range d.Routes() {
		t.Errorf("context %d has a route", id)
	}
	for _, c := range d.Children() {
		t.Errorf("child %d is there", c.id)
	}
	for i := range d.talkers {
		for id := range d.talkers[i].m {
			t.Errorf("context %d has been sent to", id)
		}
	}
	for _, a := range peers {
		if n := len(d.behind(a.c.stream)); n > 0 {
			t.Errorf("%d contexts are behind a lost stream", n)
		}
		a.c.stream.eachChild(func(c *Child) { t.Errorf("child %d is behind a lost stream", c.id) })
	}
}

// Handles that wait for a context end with it, and no others do, whatever their numbers.
func TestHandlesOfWhoIsGone(t *testing.T) {
	handles := newHandles(func(pyproto.ContextID, pyproto.ContextID) bool { return false })
	ended := map[pyproto.ContextID]int{}
	seen := map[pyproto.Handle]bool{}
	const each = 3
	for id := pyproto.ContextID(1); id <= 3*handleShards; id++ {
		for range each {
			h := handles.add(handler{respondent: id, fn: func(pyproto.Header, []byte, bool) { ended[id]++ }})
			if h < pyproto.FirstDynamic || seen[h] {
				t.Fatalf("handle %d", h)
			}
			seen[h] = true
		}
	}
	gone := map[pyproto.ContextID]bool{1: true, handleShards: true, 2*handleShards + 7: true}
	handles.drop(gone, "gone")
	handles.drop(gone, "gone")
	if len(ended) != len(gone) {
		t.Errorf("%d contexts are told to be gone", len(ended))
	}
	for id := range gone {
		if ended[id] != each {
			t.Errorf("%d handles of context %d have ended", ended[id], id)
		}
	}
	left := 0
	for i := range handles.shards {
		left += len(handles.shards[i].m)
	}
	if left != each*(3*handleShards-len(gone)) {
		t.Errorf("%d handles are left", left)
	}
}
