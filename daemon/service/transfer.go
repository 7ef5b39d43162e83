package service

import (
	"io"
	"maps"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"mitogend/daemon/socket"
	"mitogend/pyproto"
)

const (
	// window is how many bytes may be sent to one context and not acknowledged.
	window = 1 << 20
	// chunk, with its pickle and header, is what Mitogen's loop reads at once.
	chunk = 128<<10 - 100
	// maxJobs is how many files of one connection may wait to be sent.
	maxJobs = 1000
	// maxOpen is how many of them are open at a time, one of each context that takes some. A context that has to wait for
	// acknowledgements, or else the one whose turn comes last, gives its place to others.
	maxOpen = 32
)

// queue has the transfers over one connection.
type queue struct {
	// mu protects the following, and all fetchers. Never held across I/O.
	mu       sync.Mutex
	fetchers map[pyproto.ContextID]*fetcher
	turns    []*fetcher // those with jobs; the one that was sent a part last is last
	count    int        // of places taken, those of jobs included
	open     int        // files
	running  bool       // somebody sends
	gone     bool       // the connection is, or the client
}

// fetcher is one context behind the connection. It gets its files one after the other, and makes no other wait.
type fetcher struct {
	id      pyproto.ContextID
	jobs    []*transfer
	unacked int
}

// add queues a file for a context.
func (q *queue) add(job *transfer) {
	r := q.fetchers[job.to.Context]
	if r == nil {
		if q.fetchers == nil {
			q.fetchers = map[pyproto.ContextID]*fetcher{}
		}
		r = &fetcher{id: job.to.Context}
		q.fetchers[r.id] = r
	}
	if r.jobs = append(r.jobs, job); len(r.jobs) == 1 {
		q.turns = append(q.turns, r)
	}
}

// next gives the context whose turn it is, and takes it out of turns; nil if all wait.
func (q *queue) next() *fetcher {
	for i, r := range q.turns {
		if r.unacked < window {
			q.turns = slices.Delete(q.turns, i, i+1)
			if r.jobs[0].file == nil && q.open >= maxOpen {
				q.suspend()
			}
			return r
		}
	}
	return nil
}

// suspend closes the file of one of turns, to be opened again when its turn comes.
func (q *queue) suspend() {
	var last *fetcher
	for _, r := range slices.Backward(q.turns) {
		if r.jobs[0].file == nil {
			continue
		}
		if r.unacked >= window {
			last = r
			break
		}
		if last == nil {
			last = r
		}
	}
	if last != nil {
		last.jobs[0].close(q)
	}
}

// end drops the first job of a context.
func (q *queue) end(r *fetcher) {
	r.jobs[0].close(q)
	r.jobs = r.jobs[1:]
	q.count--
}

// forget drops a context that waits for nothing and owes nothing.
func (q *queue) forget(r *fetcher) {
	if len(r.jobs) == 0 && r.unacked == 0 {
		delete(q.fetchers, r.id)
	}
}

// sweep drops what is for contexts that are gone, except the one that is sent a part right now: it is none of turns.
func (q *queue) sweep(there func(pyproto.ContextID) bool) {
	q.turns = slices.DeleteFunc(q.turns, func(r *fetcher) bool {
		if there(r.id) {
			return false
		}
		for len(r.jobs) > 0 {
			q.end(r)
		}
		return true
	})
	maps.DeleteFunc(q.fetchers, func(id pyproto.ContextID, r *fetcher) bool { return len(r.jobs) == 0 && !there(id) })
}

// transfer is a file to be sent. It is opened when its turn comes, by the same rules as when it was asked for.
type transfer struct {
	to   pyproto.Sender
	open func() (*os.File, error)
	file *os.File // of a context's first job, once its turn has come
	info os.FileInfo
	at   int64 // so much of it was read
}

func (t *transfer) close(q *queue) {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
		q.open--
	}
}

// fetch replies with what the file is, and then sends it to the receiver that the caller names.
func (f *Files) fetch(c *call) error {
	path, err := c.text("path")
	if err != nil {
		return err
	}
	v, _ := c.args.Get("sender")
	to, ok := v.(pyproto.Sender)
	switch {
	case !ok || to.Handle.Reserved():
		return raised("Argument 'sender' type incorrect")
	case to.Context != c.in.Src:
		return raised("mitogen.service.Error: sender= kwarg context must match requestee context")
	}
	open := func() (*os.File, error) { return f.openWhenPossible(c.in.Src, path, c.in.Auth == 0) }
	file, err := open()
	if err != nil {
		return err
	}
	stat, err := describe(file, path)
	_ = file.Close()
	if err != nil {
		return err
	}
	q := f.queue(c.in.Src)
	if q == nil {
		return nil // nobody is there to be told
	}
	if !q.reserve(f.there) {
		f.d.Reached(c.in.Src, "files that wait to be sent", maxJobs)
		return raise("mitogen.service.Error: %d files wait to be sent already; acknowledge what has come", maxJobs)
	}
	// The description comes before the first part of the file.
	if err := c.in.Reply(stat); err != nil {
		q.mu.Lock()
		q.count--
		q.mu.Unlock()
		return err
	}
	q.mu.Lock()
	q.add(&transfer{to: to, open: open})
	q.mu.Unlock()
	f.pump(q)
	return nil
}

// openWhenPossible is open for a context. It waits while there are no descriptors.
func (f *Files) openWhenPossible(id pyproto.ContextID, path string, client bool) (*os.File, error) {
	for pause := time.Duration(0); ; socket.Pause(f.ctx, &pause) {
		file, err := f.open(path, client)
		if !socket.IsShortage(err) || f.ctx.Err() != nil || f.d.Ended(id) == nil {
			return file, err
		}
		if pause == 0 {
			f.d.Reached(id, "descriptors of the daemon, for files to send", openLimit())
		}
	}
}

// openLimit is how many files this process may have open.
func openLimit() int {
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return int(min(limit.Cur, math.MaxInt32))
}

// reserve takes a place for a file.
func (q *queue) reserve(there func(pyproto.ContextID) bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sweep(there)
	if q.count >= maxJobs {
		return false
	}
	q.count++
	return true
}

// there tells whether a context has not ended.
func (f *Files) there(id pyproto.ContextID) bool { return f.d.Stream(id) != 0 }

// describe is the reply of fetch.
func describe(file *os.File, path string) (map[string]any, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, ioError(err, path)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || !ok {
		return nil, raise("'%s' is not a regular file.", path)
	}
	out := map[string]any{
		"size": info.Size(), "mode": int64(st.Mode), "owner": nil, "group": nil,
		"mtime": float64(info.ModTime().UnixNano()) / 1e9, "atime": float64(st.Atim.Nano()) / 1e9,
	}
	if u, err := user.LookupId(strconv.Itoa(int(st.Uid))); err == nil {
		out["owner"] = u.Username
	}
	if g, err := user.LookupGroupId(strconv.Itoa(int(st.Gid))); err == nil {
		out["group"] = g.Name
	}
	return out, nil
}

// queue gives the queue of the connection that leads to a context; nil if the connection is gone.
func (f *Files) queue(id pyproto.ContextID) *queue {
	ended := f.d.Ended(id)
	if ended == nil {
		return nil
	}
	head := f.d.Stream(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queues[head]
	if q == nil {
		q = &queue{}
		f.queues[head] = q
		f.wg.Go(func() {
			select {
			case <-ended:
			case <-f.ctx.Done():
			}
			f.drop(head, q)
		})
	}
	return q
}

// drop closes the files of a connection that is gone.
func (f *Files) drop(head pyproto.ContextID, q *queue) {
	f.mu.Lock()
	delete(f.queues, head)
	maps.DeleteFunc(f.pushed, func(p pushedFile, _ bool) bool { return p.head == head })
	f.mu.Unlock()
	q.mu.Lock()
	q.gone = true
	q.mu.Unlock()
	f.pump(q)
}

// acknowledge is called by the receiver for each chunk. It gives no reply.
func (f *Files) acknowledge(c *call) error {
	v, _ := c.args.Get("size")
	size, ok := v.(int64)
	if !ok || size < 0 {
		return raised("Argument 'size' type incorrect")
	}
	q := f.queue(c.in.Src)
	if q == nil {
		return nil
	}
	q.mu.Lock()
	if r := q.fetchers[c.in.Src]; r != nil {
		r.unacked -= int(min(size, int64(r.unacked)))
		q.forget(r)
	}
	q.mu.Unlock()
	f.pump(q)
	return nil
}

// pump sends to each context in turn until their windows are full or nothing is left. Only one goroutine at a time does
// it for a queue.
func (f *Files) pump(q *queue) {
	q.mu.Lock()
	if q.running {
		q.mu.Unlock()
		return
	}
	q.running = true
	buf := make([]byte, chunk)
	for !q.gone {
		r := q.next()
		if r == nil {
			break
		}
		job := r.jobs[0]
		opened := job.file != nil
		q.mu.Unlock()
		n := job.read(buf)
		q.mu.Lock()
		if !opened && job.file != nil {
			q.open++
		}
		r.unacked += n // before it is sent: it may be acknowledged at once
		q.mu.Unlock()
		done := f.sendChunk(job, buf[:n])
		q.mu.Lock()
		if done {
			r.unacked -= min(n, r.unacked) // of a part, it was not sent
			q.end(r)
		}
		if len(r.jobs) > 0 {
			q.turns = append(q.turns, r)
		} else {
			q.forget(r)
		}
		if !f.there(r.id) {
			q.sweep(f.there) // it has ended while the part was sent, and the last sweep may have left it
		}
	}
	q.running = false
	if q.gone {
		q.sweep(func(pyproto.ContextID) bool { return false })
	}
	q.mu.Unlock()
}

// read reads the next part of a file. A file that fails, is gone by now, or is another one when it is opened again, is cut
// short; the receiver sees that its size is wrong.
func (t *transfer) read(buf []byte) (n int) {
	if t.file == nil {
		t.file, _ = t.open()
		if t.file != nil && !t.resume() {
			return 0
		}
	}
	if t.file != nil {
		n, _ = io.ReadFull(t.file, buf) // after an error the next read gives nothing
		t.at += int64(n)
	}
	return n
}

// resume goes to where the file was closed. It is false if this is not the same file any more.
func (t *transfer) resume() bool {
	info, err := t.file.Stat()
	if err != nil {
		return false
	}
	before := t.info
	t.info = info
	if before == nil {
		return true
	}
	if !os.SameFile(before, info) || before.Size() != info.Size() || !before.ModTime().Equal(info.ModTime()) {
		return false
	}
	_, err = t.file.Seek(t.at, io.SeekStart)
	return err == nil
}

// sendChunk sends a part of a file, or if that is empty the file's end, and tells whether the file is done.
func (f *Files) sendChunk(job *transfer, part []byte) (done bool) {
	if len(part) == 0 {
		_ = f.d.Send(f.ctx, job.to.Context, job.to.Handle, pyproto.IsDead, []byte("Sender was explicitly closed."))
		return true
	}
	return f.d.SendBytes(f.ctx, job.to.Context, job.to.Handle, part) != nil
}
