package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/python/bytecode"
)

// oursExperiments drive mitogend by its Go API, as a Go program that embeds it would.
var oursExperiments = map[string]experimentFunc{
	"codec":      newCodec,
	"connect":    newOursConnect,
	"concurrent": newOursConcurrent,
	"memory":     newOursMemory,
	"payload":    newOursPayload,
	"calls":      newOursCalls,
	"pipeline":   newOursPipeline,
	"fanout":     newOursFanout,
	"hops":       newOursHops,
	"bulk":       newOursBulk,
	"route":      newOursRoute,
	"file":       newOursFile,
	"import":     newOursImport,
	"module":     newOursModule,
	"idle":       newOursIdle,
	"warm":       newOursWarm,
	"fleet":      newOursFleet,
}

// master is a daemon and the parameters that its experiment works with.
type master struct {
	params
	d     *daemon.Daemon
	store *bytecode.Store
	ctx   context.Context
}

func newMaster(p params) (*master, error) {
	raw, _ := p["path"].([]any)
	var path []string
	for _, dir := range raw {
		path = append(path, fmt.Sprint(dir))
	}
	cache, err := bytecode.DefaultDir()
	if err != nil {
		return nil, err
	}
	dir, err := bytecode.OpenDir(cache, 0)
	if err != nil {
		return nil, err
	}
	// As the command does.
	store := bytecode.New(bytecode.Options{Dir: dir})
	d, err := daemon.New(daemon.Options{Path: path, Bytecode: store})
	return &master{p, d, store, context.Background()}, err
}

func (m *master) close() error {
	ctx, cancel := context.WithTimeout(m.ctx, 30*time.Second)
	defer cancel()
	defer m.store.Close()
	return m.d.Shutdown(ctx)
}

// target names one fresh child, which ssh reaches if there is a configuration for that.
func (m *master) target() string {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	target := "local:?connect_timeout=300"
	if config := m.str("ssh_config"); config != "" {
		target = "ssh:127.0.0.1?connect_timeout=300&ssh_args=" + escape("-F "+config)
	}
	target += "&python=" + escape(m.str("python"))
	if r := m.str("runtime"); r != "" {
		target += "&runtime=" + url.QueryEscape(r)
	}
	return target
}

func (m *master) connect(options ...daemon.ConnectOptions) (*daemon.Child, error) {
	return m.d.Connect(m.ctx, m.target(), options...)
}

// connectAll gives n children, width at a time (0: all at once).
func (m *master) connectAll(n, width int) ([]*daemon.Child, error) {
	list := make([]*daemon.Child, n)
	return list, parallel(n, width, func(i int) (err error) {
		list[i], err = m.connect()
		return err
	})
}

// closeAll ends children and waits until they are reaped.
func (m *master) closeAll(list []*daemon.Child) error {
	return parallel(len(list), 0, func(i int) error { return list[i].Close(m.ctx) })
}

func getpid(ctx context.Context, c *daemon.Child) (pid int, err error) {
	err = c.Call(ctx, "os:getpid").Decode(&pid)
	return pid, err
}

// because is err if there is one, else an error about the answer.
func because(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return fmt.Errorf(format, args...)
}

type oursFunc struct {
	*master
	f func(n int) (metrics, error)
}

func (o oursFunc) sample(n int) (metrics, error) { return o.f(n) }

func newOursConnect(p params) (experiment, error) {
	m, err := newMaster(p)
	return oursFunc{m, func(int) (metrics, error) {
		cpu, t := cpuSelf(), time.Now()
		c, err := m.connect()
		if err != nil {
			return nil, err
		}
		s, cpu := time.Since(t).Seconds(), cpuSelf()-cpu
		if _, err := getpid(m.ctx, c); err != nil {
			return nil, err
		}
		ready := time.Since(t).Seconds()
		return metrics{"seconds": s, "master_cpu": cpu, "ready_seconds": ready}, c.Close(m.ctx)
	}}, err
}

func newOursConcurrent(p params) (experiment, error) {
	m, err := newMaster(p)
	return oursFunc{m, func(int) (metrics, error) {
		self, kids, t := cpuSelf(), cpuChildren(), time.Now()
		list, err := m.connectAll(m.int("n"), m.int("width"))
		if err != nil {
			return nil, err
		}
		out := metrics{"seconds": time.Since(t).Seconds()}
		if err := errors.Join(m.closeAll(list), waitNoChildren(time.Minute)); err != nil {
			return nil, err
		}
		out["master_cpu"] = cpuSelf() - self
		out["cpu"] = out["master_cpu"] + cpuChildren() - kids
		return out, nil
	}}, err
}

func newOursMemory(p params) (experiment, error) {
	m, err := newMaster(p)
	return oursFunc{m, func(int) (metrics, error) {
		c, err := m.connect()
		if err != nil {
			return nil, err
		}
		pid, err := getpid(m.ctx, c)
		if err != nil {
			return nil, err
		}
		rss, err := statusBytes(pid, "VmRSS")
		return metrics{"rss": rss}, errors.Join(err, c.Close(m.ctx))
	}}, err
}

func newOursPayload(p params) (experiment, error) {
	m, err := newMaster(p)
	return oursFunc{m, func(int) (metrics, error) {
		c, err := m.connect(daemon.ConnectOptions{Bytecode: daemon.BytecodeNever}) // as for a child that is far away
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(m.str("count_file"))
		if err != nil {
			return nil, err
		}
		var args, stdin float64
		_, err = fmt.Sscan(string(text), &args, &stdin)
		return metrics{"bytes": stdin, "args_bytes": args}, errors.Join(err, c.Close(m.ctx))
	}}, err
}

// withChild is an experiment on one child that stays.
func withChild(p params, f func(m *master, c *daemon.Child) (metrics, error)) (experiment, error) {
	m, err := newMaster(p)
	if err != nil {
		return nil, err
	}
	c, err := m.connect()
	return oursFunc{m, func(int) (metrics, error) { return f(m, c) }}, err
}

func newOursCalls(p params) (experiment, error) {
	return withChild(p, func(m *master, c *daemon.Child) (metrics, error) {
		n := m.int("n")
		cpu, t := cpuSelf(), time.Now()
		for range n {
			if _, err := getpid(m.ctx, c); err != nil {
				return nil, err
			}
		}
		s, cpu := time.Since(t).Seconds(), cpuSelf()-cpu
		return metrics{"seconds": s / float64(n), "cpu_10k": cpu / float64(n) * 10000}, nil
	})
}

func newOursPipeline(p params) (experiment, error) {
	return withChild(p, func(m *master, c *daemon.Child) (metrics, error) {
		pending := make([]*daemon.Pending, m.int("n"))
		t := time.Now()
		for i := range pending {
			pending[i] = c.Start(m.ctx, "os:getpid")
		}
		for _, call := range pending {
			if _, err := call.Result(m.ctx).Value(); err != nil {
				return nil, err
			}
		}
		return metrics{"per_second": float64(len(pending)) / time.Since(t).Seconds()}, nil
	})
}

func newOursFanout(p params) (experiment, error) {
	m, err := newMaster(p)
	if err != nil {
		return nil, err
	}
	list, err := m.connectAll(m.int("n"), 16)
	return oursFunc{m, func(int) (metrics, error) {
		pending := make([]*daemon.Pending, len(list))
		t := time.Now()
		for i, c := range list {
			pending[i] = c.Start(m.ctx, "os:getpid")
		}
		for _, call := range pending {
			if _, err := call.Result(m.ctx).Value(); err != nil {
				return nil, err
			}
		}
		return metrics{"seconds": time.Since(t).Seconds()}, nil
	}}, err
}

func newOursHops(p params) (experiment, error) {
	m, err := newMaster(p)
	if err != nil {
		return nil, err
	}
	hops := make([]string, m.int("depth"))
	for i := range hops {
		hops[i] = m.target()
	}
	c, err := m.d.Connect(m.ctx, strings.Join(hops, "+"))
	return oursFunc{m, func(int) (metrics, error) {
		n := m.int("n")
		t := time.Now()
		for range n {
			if _, err := getpid(m.ctx, c); err != nil {
				return nil, err
			}
		}
		return metrics{"seconds": time.Since(t).Seconds() / float64(n)}, nil
	}}, err
}

func newOursBulk(p params) (experiment, error) {
	size, n := p.int("size"), max(p.int("n"), 1)
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7919 >> 3)
	}
	prepared := false
	return withChild(p, func(m *master, c *daemon.Child) (metrics, error) {
		if !prepared {
			prepared = true
			if err := c.Call(m.ctx, "bench_child:prepare", size).Err(); err != nil {
				return nil, err
			}
		}
		t := time.Now()
		for range n {
			var got int
			if err := c.Call(m.ctx, "bench_child:size", data).Decode(&got); err != nil || got != size {
				return nil, because(err, "the child got %d bytes", got)
			}
		}
		to := time.Since(t).Seconds()
		t = time.Now()
		for range n {
			v, err := c.Call(m.ctx, "bench_child:blob", size).Value()
			if b, ok := v.([]byte); err != nil || !ok || len(b) != size {
				return nil, because(err, "the child sent %T, not %d bytes", v, size)
			}
		}
		back := time.Since(t).Seconds()
		total := float64(size * n)
		return metrics{
			"arg_rate": total / to, "result_rate": total / back,
			"arg_seconds": to / float64(n), "result_seconds": back / float64(n),
		}, nil
	})
}

func newOursRoute(p params) (experiment, error) {
	m, err := newMaster(p)
	if err != nil {
		return nil, err
	}
	r := &oursRoute{master: m}
	if r.children, err = m.connectAll(2*m.int("pairs"), 16); err != nil {
		return nil, err
	}
	for i := 0; i < len(r.children); i += 2 {
		v, err := r.children[i+1].Call(m.ctx, "bench_route:receiver", "bench").Value()
		if err != nil {
			return nil, err
		}
		r.senders = append(r.senders, v)
	}
	// The first message includes imports and making the data.
	if _, err := r.run(1); err != nil {
		return nil, err
	}
	return r, resetPeak()
}

type oursRoute struct {
	*master
	children []*daemon.Child // A, B, A, B, ...
	senders  []any           // for B's receivers
}

// run sends count messages from each A to its B, and gives the largest peak of memory of an A.
func (r *oursRoute) run(count int) (peak float64, err error) {
	size := r.int("size")
	var drains, pumps []*daemon.Pending
	for i, sender := range r.senders {
		drains = append(drains, r.children[2*i+1].Start(r.ctx, "bench_route:drain", "bench", count))
		pumps = append(pumps, r.children[2*i].Start(r.ctx, "bench_route:pump", sender, size, count))
	}
	for i := range r.senders {
		var kb, got int
		if err := pumps[i].Result(r.ctx).Decode(&kb); err != nil {
			return 0, err
		}
		if err := drains[i].Result(r.ctx).Decode(&got); err != nil || got != size*count {
			return 0, because(err, "%d bytes arrived", got)
		}
		peak = max(peak, float64(kb)*1024)
	}
	return peak, nil
}

func (r *oursRoute) sample(int) (metrics, error) {
	count := r.int("n")
	t := time.Now()
	peak, err := r.run(count)
	if err != nil {
		return nil, err
	}
	s := time.Since(t).Seconds()
	own, err := statusBytes(0, "VmHWM")
	return metrics{
		"rate":        float64(r.int("size")*count*len(r.senders)) / s,
		"sender_peak": peak, "master_peak": own,
	}, err
}

// newOursFile sends a file over a channel, whose flow control limits what waits in the child.
func newOursFile(p params) (experiment, error) {
	return withChild(p, func(m *master, c *daemon.Child) (metrics, error) {
		cpu, t := cpuSelf(), time.Now()
		f, err := os.Open(m.str("file"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		ch, err := c.Open(m.ctx, daemon.CallOptions{}, "bench_child:sink")
		if err != nil {
			return nil, err
		}
		defer ch.Close()
		if _, err := ch.SendFrom(m.ctx, f); err != nil {
			return nil, errors.Join(err, ch.Result(m.ctx).Err())
		}
		if err := ch.CloseSend(m.ctx); err != nil {
			return nil, err
		}
		var size float64
		if err := ch.Result(m.ctx).Decode(&size); err != nil || size != m.float("size") {
			return nil, because(err, "%.0f bytes arrived", size)
		}
		s, cpu := time.Since(t).Seconds(), cpuSelf()-cpu
		return metrics{"rate": size / s, "cpu_gb": cpu / size * 1e9}, nil
	})
}

// newOursImport calls a function of a module that imports a package the child does not have; then the same in a second
// child, for which everything was found and packed before.
func newOursImport(p params) (experiment, error) {
	m, err := newMaster(p)
	return oursFunc{m, func(int) (metrics, error) {
		var requests, bytes atomic.Int64
		cold, err := m.timedImport(daemon.ConnectOptions{OnImport: func(e importer.Event) {
			bytes.Add(int64(e.Bytes))
			if e.What != importer.Preloaded && e.What != importer.Forwarded && e.What != importer.Foretold {
				requests.Add(1)
			}
		}})
		if err != nil {
			return nil, err
		}
		warm, err := m.timedImport(daemon.ConnectOptions{})
		return metrics{
			"seconds": cold, "warm_seconds": warm,
			"get_modules": float64(requests.Load()), "bytes": float64(bytes.Load()),
		}, err
	}}, err
}

func (m *master) timedImport(opt daemon.ConnectOptions) (seconds float64, err error) {
	c, err := m.connect(opt)
	if err != nil {
		return 0, err
	}
	// The child's first call is not part of the import.
	if _, err := getpid(m.ctx, c); err != nil {
		return 0, err
	}
	t := time.Now()
	if err := c.Call(m.ctx, m.str("module")+":done").Err(); err != nil {
		return 0, err
	}
	return time.Since(t).Seconds(), c.Close(m.ctx)
}

func newOursModule(p params) (experiment, error) {
	m, err := newMaster(p)
	if err != nil {
		return nil, err
	}
	c, err := m.connect()
	if err == nil {
		err = c.Call(m.ctx, "bench_child:nothing").Err()
	}
	return oursFunc{m, func(n int) (metrics, error) {
		t := time.Now()
		err := c.Call(m.ctx, "bench_child:import_name", m.str("prefix")+strconv.Itoa(n)).Err()
		return metrics{"seconds": time.Since(t).Seconds()}, err
	}}, err
}

// newOursIdle counts memory in use: free memory of Go's heap is returned before each reading, once the children are
// idle, and so have no goroutines.
func newOursIdle(p params) (experiment, error) {
	m, err := newMaster(p)
	return oursFunc{m, func(int) (metrics, error) {
		few, err := m.connectAll(20, 8)
		if err != nil {
			return nil, err
		}
		rss, fds, err := footprint()
		if err != nil {
			return nil, err
		}
		n := m.int("n")
		more, err := m.connectAll(n, 8)
		if err != nil {
			return nil, err
		}
		rss2, fds2, err := footprint()
		out := metrics{"bytes": (rss2 - rss) / float64(n), "descriptors": float64(fds2-fds) / float64(n)}
		return out, errors.Join(err, m.closeAll(append(few, more...)))
	}}, err
}

func footprint() (rss float64, fds int, err error) {
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > 20 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	debug.FreeOSMemory()
	if rss, err = statusBytes(0, "VmRSS"); err != nil {
		return 0, 0, err
	}
	fds, err = descriptors()
	return rss, fds, err
}
