package control

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// text is a field of a log record as text.
func text(v any) string {
	if d, ok := v.(time.Duration); ok {
		return d.String()
	}
	return fmt.Sprint(v)
}

// List describes the contexts of the tree, parents before what is behind them.
func (s *Server) List() *wire.List {
	out := &wire.List{Contexts: []wire.Context{}}
	users := map[pyproto.ContextID]pool.Info{}
	commands := map[int]string{0: ""}
	named := func(pid int) string {
		if _, ok := commands[pid]; !ok {
			commands[pid] = command(pid)
		}
		return commands[pid]
	}
	for _, i := range s.pool.List() {
		if i.Child == nil {
			c := wire.Context{State: "connecting", Age: time.Since(i.Connected).Seconds(), Leases: i.Leases}
			called(&c, i)
			out.Contexts = append(out.Contexts, c)
			continue
		}
		users[i.Child.ID()] = i
	}
	known := map[pyproto.ContextID]bool{}
	for _, c := range s.d.Children() {
		known[c.ID()] = true
		info, used := users[c.ID()]
		out.Contexts = append(out.Contexts, describe(c, info, used, named))
	}
	for id, head := range s.d.Routes() {
		if !known[id] {
			out.Contexts = append(out.Contexts, wire.Context{ID: uint32(id), Parent: uint32(head), State: "other"})
		}
	}
	slices.SortFunc(out.Contexts, func(a, b wire.Context) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func describe(c *daemon.Child, i pool.Info, used bool, command func(pid int) string) wire.Context {
	t := c.Traffic()
	w := wire.Context{
		ID: uint32(c.ID()), Name: c.Name(), Method: c.Method(), Python: c.Version().String(), PID: c.PID(),
		In: t.In, Out: t.Out, Queued: t.Queued, State: "hop",
	}
	if via := c.Via(); via != nil {
		w.Parent = uint32(via.ID())
	}
	if !used {
		return w
	}
	called(&w, i)
	w.Leases, w.Calls, w.Failures, w.Running, w.Programs, w.Fresh = i.Leases, i.Calls, i.Failures, i.Running, int64(i.Programs), i.Fresh
	for _, d := range i.Doing {
		w.Work = append(w.Work, wire.Work{
			ID: d.ID, Method: string(d.Kind), What: printable.Short(d.What), Target: printable.Short(d.Target), Client: d.Client, Program: command(d.Client), Seconds: time.Since(d.Since).Seconds(),
		})
	}
	w.Age, w.Idle = time.Since(i.Connected).Seconds(), time.Since(i.LastUsed).Seconds()
	switch {
	case i.Running > 0 || i.Programs > 0:
		w.State, w.Idle = "busy", 0
	case i.Leases > 0:
		w.State, w.Idle = "used", 0
	default:
		w.State = "idle"
	}
	return w
}

// command is the name of a process, empty if there is none.
func command(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSuffix(string(b), "\n")
}

// called sets the names of a connection.
func called(c *wire.Context, i pool.Info) {
	c.Name = i.Target
	if len(i.Names) > 0 {
		c.Name, c.Chain, c.Names = i.Names[0], i.Target, i.Names
	}
}

// Stats gives the counters.
func (s *Server) Stats() *wire.Stats {
	s.mu.Lock()
	clients, stopping := len(s.conns), s.stopping
	s.mu.Unlock()
	n := &s.counts
	out := &wire.Stats{
		Version: s.opt.Version, PID: os.Getpid(), Uptime: time.Since(s.start).Seconds(), Stopping: stopping, Clients: clients,
		ClientsSeen: n.seen.Load(), Refused: n.refused.Load(), BadMessages: n.bad.Load(), Requests: n.requests.Load(),
		Active: n.active.Load(), Streams: n.streams.Load(), Connections: len(s.pool.List()), Contexts: len(s.d.Routes()),
		Connected: n.connected.Load(), ConnectsFailed: n.connectsFailed.Load(), Lost: n.lost.Load(), Closed: n.closed.Load(), Calls: n.calls.Load(), CallsFailed: n.failed.Load(),
		Programs: n.programs.Load(), Modules: n.modules.Load(), ModuleBytes: n.moduleBytes.Load(), Dropped: s.hub.dropped.Load(),
		SpansDropped: n.spansDropped.Load(),
		Goroutines:   runtime.NumGoroutine(),
	}
	if s.opt.LogErrors != nil {
		out.LogErrors = s.opt.LogErrors()
	}
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	out.HeapBytes = sample[0].Value.Uint64()
	out.RSSBytes = residentBytes()
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		out.Descriptors = len(entries) - 1 // the directory itself
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		out.MaxFiles = limit.Cur
	}
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		out.CPUSeconds = time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
	}
	return out
}

// residentBytes is the memory of the process, 0 where the system does not tell.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	words := strings.Fields(string(b))
	if len(words) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(words[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
