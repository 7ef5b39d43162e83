package daemon

import "mitogend/pyproto"

// Traffic is what went over a connection, in bytes. Children behind a hop share the connection of the first hop.
type Traffic struct {
	In, Out int64
	// Queued waits for the child to read.
	Queued int
}

// Traffic is what has gone over the connection so far.
func (c *Child) Traffic() Traffic {
	c.stream.mu.Lock()
	defer c.stream.mu.Unlock()
	return Traffic{In: c.stream.bytesIn.Load(), Out: c.stream.bytesOut.Load(), Queued: c.stream.queued}
}

// Method is the connection method of the child's own hop, as "ssh".
func (c *Child) Method() string { return c.method }

// PID is the process of a child that is behind no hop, and 0 for others. For a method such as ssh it is that
// program's.
func (c *Child) PID() int {
	if c.via != nil || c.stream.proc == nil {
		return 0
	}
	return c.stream.proc.PID
}

// Reaches tells whether messages to a context go over the child's connection.
func (c *Child) Reaches(id pyproto.ContextID) bool { return c.d.streamOf(id) == c.stream }

// Routes gives the head of the connection that leads there for each context that can be reached.
func (d *Daemon) Routes() map[pyproto.ContextID]pyproto.ContextID {
	out := map[pyproto.ContextID]pyproto.ContextID{}
	d.routes.m.Range(func(id, s any) bool {
		out[id.(pyproto.ContextID)] = s.(*stream).id
		return true
	})
	return out
}
