package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// floorExperiments measure the cost of the same work with nothing in between: a bare interpreter, a socket, a local disk.
var floorExperiments = map[string]experimentFunc{
	"connect":    newFloorConnect,
	"concurrent": newFloorConcurrent,
	"memory":     newFloorMemory,
	"calls":      newFloorCalls,
	"fanout":     newFloorFanout,
	"bulk":       newFloorBulk,
	"route":      newFloorRoute,
	"file":       newFloorFile,
	"import":     newFloorImport,
	"module":     newFloorModule,
	"process":    newProcess,
	"warm":       newProcess,
	"copy":       newCopy,
}

// simple is an experiment without state.
type simple func(n int) (metrics, error)

func (f simple) sample(n int) (metrics, error) { return f(n) }
func (f simple) close() error                  { return nil }

func newFloorConnect(p params) (experiment, error) {
	python := p.str("python")
	return simple(func(int) (metrics, error) {
		cpu, t := cpuSelf(), time.Now()
		if err := exec.Command(python, "-c", "pass").Run(); err != nil {
			return nil, err
		}
		s := time.Since(t).Seconds()
		return metrics{"seconds": s, "ready_seconds": s, "master_cpu": cpuSelf() - cpu}, nil
	}), nil
}

func newFloorConcurrent(p params) (experiment, error) {
	python, n, width := p.str("python"), p.int("n"), p.int("width")
	return simple(func(int) (metrics, error) {
		self, kids, t := cpuSelf(), cpuChildren(), time.Now()
		if err := parallel(n, width, func(int) error { return exec.Command(python, "-c", "pass").Run() }); err != nil {
			return nil, err
		}
		m := metrics{"seconds": time.Since(t).Seconds(), "master_cpu": cpuSelf() - self}
		m["cpu"] = m["master_cpu"] + cpuChildren() - kids
		return m, nil
	}), nil
}

// parallel runs f(0) ... f(n-1), width of them at once (0: all), and gives the first error.
func parallel(n, width int, f func(i int) error) error {
	if width <= 0 || width > n {
		width = n
	}
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		todo  = make(chan int)
	)
	for range width {
		wg.Go(func() {
			for i := range todo {
				if err := f(i); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	wg.Wait()
	return first
}

func newFloorMemory(p params) (experiment, error) {
	python := p.str("python")
	return simple(func(int) (metrics, error) {
		cmd := exec.Command(python, "-c", "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
			return nil, err
		}
		rss, err := statusBytes(cmd.Process.Pid, "VmRSS")
		if err != nil {
			return nil, err
		}
		_ = stdin.Close()
		return metrics{"rss": rss}, cmd.Wait()
	}), nil
}

// bare is an interpreter that runs one function of py/floor_child.py, and our end of its socket.
type bare struct {
	cmd  *exec.Cmd
	conn *net.UnixConn
}

func startBare(p params, what string, env ...string) (*bare, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.str("python"), p.str("floor_child"), what)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stderr = theirs, os.Stderr
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &bare{cmd, conn.(*net.UnixConn)}, nil
}

func (b *bare) close() error {
	_ = b.conn.Close()
	return b.cmd.Wait()
}

type bares []*bare

func (bs bares) close() error {
	var first error
	for _, b := range bs {
		if err := b.close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// echo sends one small message and waits for it to come back.
func (b *bare) echo(buf []byte) error {
	if _, err := b.conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(b.conn, buf)
	return err
}

func newFloorCalls(p params) (experiment, error) {
	b, err := startBare(p, "echo")
	if err != nil {
		return nil, err
	}
	return &floorCalls{b, p.int("n")}, nil
}

type floorCalls struct {
	*bare
	n int
}

func (f *floorCalls) sample(int) (metrics, error) {
	buf := make([]byte, 64) // about the size of a call's frame
	cpu, t := cpuSelf(), time.Now()
	for range f.n {
		if err := f.echo(buf); err != nil {
			return nil, err
		}
	}
	n := float64(f.n)
	return metrics{"seconds": time.Since(t).Seconds() / n, "cpu_10k": (cpuSelf() - cpu) / n * 10000}, nil
}

func newFloorFanout(p params) (experiment, error) {
	f := &floorFanout{}
	for range p.int("n") {
		b, err := startBare(p, "echo")
		if err != nil {
			return nil, err
		}
		f.bares = append(f.bares, b)
	}
	return f, nil
}

type floorFanout struct{ bares }

func (f *floorFanout) sample(int) (metrics, error) {
	buf := make([]byte, 64)
	t := time.Now()
	for _, b := range f.bares {
		if _, err := b.conn.Write(buf); err != nil {
			return nil, err
		}
	}
	for _, b := range f.bares {
		if _, err := io.ReadFull(b.conn, buf); err != nil {
			return nil, err
		}
	}
	return metrics{"seconds": time.Since(t).Seconds()}, nil
}

func newFloorBulk(p params) (experiment, error) {
	sink, err := startBare(p, "sink")
	if err != nil {
		return nil, err
	}
	source, err := startBare(p, "source")
	if err != nil {
		return nil, err
	}
	return &floorBulk{bares{sink, source}, make([]byte, p.int("size")), max(p.int("n"), 1)}, nil
}

type floorBulk struct {
	bares
	data []byte
	n    int
}

func (f *floorBulk) sample(int) (metrics, error) {
	sink, source := f.bares[0].conn, f.bares[1].conn
	head := binary.BigEndian.AppendUint64(nil, uint64(len(f.data)))
	t := time.Now()
	for range f.n {
		if _, err := sink.Write(head); err != nil {
			return nil, err
		}
		if _, err := sink.Write(f.data); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(sink, make([]byte, 1)); err != nil {
			return nil, err
		}
	}
	to := time.Since(t).Seconds()
	t = time.Now()
	for range f.n {
		if _, err := source.Write(head); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(source, f.data); err != nil {
			return nil, err
		}
	}
	back := time.Since(t).Seconds()
	total := float64(len(f.data) * f.n)
	return metrics{
		"arg_rate": total / to, "result_rate": total / back,
		"arg_seconds": to / float64(f.n), "result_seconds": back / float64(f.n),
	}, nil
}

func newFloorRoute(p params) (experiment, error) {
	f := &floorRoute{size: p.int("size"), n: p.int("n")}
	for range p.int("pairs") {
		a, err := startBare(p, "source")
		if err != nil {
			return nil, err
		}
		b, err := startBare(p, "sink")
		if err != nil {
			return nil, err
		}
		f.bares = append(f.bares, a, b)
	}
	return f, nil
}

type floorRoute struct {
	bares
	size, n int
}

func (f *floorRoute) sample(int) (metrics, error) {
	total := f.size * f.n
	pairs := len(f.bares) / 2
	t := time.Now()
	err := parallel(pairs, pairs, func(i int) error {
		a, b := f.bares[2*i].conn, f.bares[2*i+1].conn
		head := binary.BigEndian.AppendUint64(nil, uint64(total))
		if _, err := a.Write(head); err != nil {
			return err
		}
		if _, err := b.Write(head); err != nil {
			return err
		}
		if _, err := io.CopyN(b, a, int64(total)); err != nil {
			return err
		}
		_, err := io.ReadFull(b, make([]byte, 1))
		return err
	})
	if err != nil {
		return nil, err
	}
	return metrics{"rate": float64(total*pairs) / time.Since(t).Seconds()}, nil
}

// newFloorFile is "cat FILE | python", the reader taking chunks as a receiver of frames would.
func newFloorFile(p params) (experiment, error) {
	const script = "import os\n" +
		"with open('/dev/null', 'wb') as fp:\n" +
		"    for chunk in iter(lambda: os.read(0, 131072), b''): fp.write(chunk)\n"
	return simple(func(int) (metrics, error) {
		cat := exec.Command("cat", p.str("file"))
		python := exec.Command(p.str("python"), "-c", script)
		pipe, err := cat.StdoutPipe()
		if err != nil {
			return nil, err
		}
		python.Stdin, python.Stderr = pipe.(*os.File), os.Stderr
		t := time.Now()
		if err := cat.Start(); err != nil {
			return nil, err
		}
		if err := python.Run(); err != nil {
			return nil, err
		}
		s := time.Since(t).Seconds()
		return metrics{"rate": p.float("size") / s}, cat.Wait()
	}), nil
}

// newFloorImport imports from the local disk in a new interpreter: source only, then with .pyc files. On a link with delay, one
// round trip is added, since the source has to come from the other machine once.
func newFloorImport(p params) (experiment, error) {
	const script = "import sys, time; sys.path[:0] = sys.argv[2:]; t = time.perf_counter(); __import__(sys.argv[1]); " +
		"print(time.perf_counter() - t)"
	run := func(dir string) (float64, error) {
		cmd := exec.Command(p.str("python"), "-c", script, p.str("package"), dir)
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	}
	return simple(func(int) (metrics, error) {
		source, err := run(p.str("source_dir"))
		if err != nil {
			return nil, err
		}
		pyc, err := run(p.str("pyc_dir"))
		if err != nil {
			return nil, err
		}
		rtt := p.float("rtt")
		return metrics{"seconds": source + rtt, "warm_seconds": source + rtt, "pyc_seconds": pyc + rtt}, nil
	}), nil
}

func newFloorModule(p params) (experiment, error) {
	b, err := startBare(p, "importer", "PYTHONPATH="+p.str("source_dir"), "PYTHONDONTWRITEBYTECODE=1")
	if err != nil {
		return nil, err
	}
	return &floorModule{b, bufio.NewReader(b.conn), p.str("prefix")}, nil
}

type floorModule struct {
	*bare
	in     *bufio.Reader
	prefix string
}

func (f *floorModule) sample(n int) (metrics, error) {
	if _, err := fmt.Fprintf(f.conn, "%s%d\n", f.prefix, n); err != nil {
		return nil, err
	}
	line, err := f.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return metrics{"seconds": s}, err
}
