package daemon

import (
	"fmt"

	"mitogend/pyproto"
)

// allowHandle is ours alone (python/parent.py): `first:end`, numbers of contexts that may be announced from where the message goes. The
// hops on the way read it, and refuse every other ADD_ROUTE; who gets it knows its numbers already, and refuses the handle, and no harm.
const allowHandle pyproto.Handle = 987

// allow tells the hops before a context, if there are any, that it was given n numbers. It comes before what tells the context.
func (d *Daemon) allow(id, first pyproto.ContextID, n uint32) {
	if s := d.streamOf(id); s != nil && s.id != id {
		_ = d.post(id, allowHandle, 0, fmt.Append(nil, uint32(first), ":", uint32(first)+n))
	}
}
