package pyproto

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmarks take their values from testdata/bench.py, and run it once more for CPython's own figures: compare
// "Loads/call" with "CPython/loads/call" of the same run. $MITOGEND_BENCH_PYTHON names the interpreter.

func benchPython(b *testing.B) string {
	b.Helper()
	p := os.Getenv("MITOGEND_BENCH_PYTHON")
	if p == "" {
		p = "python3"
	}
	if _, err := exec.LookPath(p); err != nil {
		b.Fatalf("the values come from Python: %v", err)
	}
	return p
}

// cpuTime is what this process has used so far, the collector's share included. On a busy machine it is steadier than
// the time on the wall, and it is what bench.py reports.
func cpuTime(b testing.TB) time.Duration {
	b.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func reportCPU(b *testing.B, start time.Duration) {
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
}

var benchRows = []string{"call", "module", "mixed", "bytes"}

func benchPickles(b *testing.B) map[string][]byte {
	b.Helper()
	dir := b.TempDir()
	if out, err := exec.Command(benchPython(b), "testdata/bench.py", dir).CombinedOutput(); err != nil {
		b.Fatalf("bench.py: %v\n%s", err, out)
	}
	m := make(map[string][]byte)
	for _, name := range benchRows {
		data, err := os.ReadFile(filepath.Join(dir, name+".pickle"))
		if err != nil {
			b.Fatal(err)
		}
		m[name] = data
	}
	return m
}

func BenchmarkLoads(b *testing.B) {
	pickles := benchPickles(b)
	for _, name := range benchRows {
		data := pickles[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			start := cpuTime(b)
			for b.Loop() {
				if _, err := Unmarshal(data); err != nil {
					b.Fatal(err)
				}
			}
			reportCPU(b, start)
		})
	}
}

func BenchmarkDumps(b *testing.B) {
	pickles := benchPickles(b)
	for _, name := range benchRows {
		v, err := Unmarshal(pickles[name])
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				if _, err := Marshal(v); err != nil {
					b.Fatal(err)
				}
			}
			reportCPU(b, start)
		})
	}
}

// BenchmarkReread reads what this package wrote, which has neither a memo nor the latin1 detour.
func BenchmarkReread(b *testing.B) {
	pickles := benchPickles(b)
	for _, name := range benchRows {
		v, err := Unmarshal(pickles[name])
		if err != nil {
			b.Fatal(err)
		}
		data, err := Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				if _, err := Unmarshal(data); err != nil {
					b.Fatal(err)
				}
			}
			reportCPU(b, start)
		})
	}
}

func BenchmarkCPython(b *testing.B) {
	out, err := exec.Command(benchPython(b), "testdata/bench.py").Output()
	if err != nil {
		b.Fatalf("bench.py: %v", err)
	}
	for line := range bytes.Lines(out) {
		var name string
		var loads, dumps float64
		var size int
		if _, err := fmt.Sscan(string(line), &name, &loads, &dumps, &size); err != nil {
			b.Fatalf("bench.py printed %q: %v", line, err)
		}
		report := func(op string, ns float64) {
			b.Run(op+"/"+name, func(b *testing.B) {
				for b.Loop() { // nothing: the figure is bench.py's
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(ns, "cpu-ns/op")
			})
		}
		report("loads", loads)
		report("dumps", dumps)
	}
}

func BenchmarkHeader(b *testing.B) {
	h := Header{Enc: EncMGC, Dst: 1, Src: 2, Auth: 3, Handle: 101, ReplyTo: 1000, Length: 80}
	var buf [HeaderLen]byte
	b.ReportAllocs()
	for b.Loop() {
		h.Put(buf[:])
		if _, err := ParseHeader(buf[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLatin1(b *testing.B) {
	text := utf8Of(randomBytes(20000))
	dst := make([]byte, len(text))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if n, ok := latin1(dst, text); !ok || n != 20000 {
			b.Fatal("refused")
		}
	}
}
