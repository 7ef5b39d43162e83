package daemon

import (
	"fmt"

	"mitogend/pyproto"
)

// allow tells the hops before a context, if there are any, that it was given n numbers. It is sent before the context
// itself hears of them. With 0 numbers, first is taken back.
func (d *Daemon) allow(id, first pyproto.ContextID, n uint32) {
	if s := d.streamOf(id); s != nil && s.id != id {
		_ = d.post(id, pyproto.Allow, 0, fmt.Append(nil, uint32(first), ":", uint32(first)+n))
	}
}

// takeBack has a number that was given for a child of a context, and that nobody has announced, no longer be announced:
// neither s nor the hops are to keep what nobody uses.
func (d *Daemon) takeBack(s *stream, parent, id pyproto.ContextID) {
	if s.ids.takeBack(id) {
		d.allow(parent, id, 0)
	}
}
