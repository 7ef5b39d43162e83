package bootstrap

import (
	"context"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func cpu() time.Duration {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkLocal reports the wall time of one connection up to MITO002 and its end, and the CPU that it costs this process.
func BenchmarkLocal(b *testing.B) {
	p := build(b, "local", map[string]any{"python": anyPython(b)})
	for _, s := range layouts {
		b.Run(string(s), func(b *testing.B) {
			p.Stdio = s
			before := cpu()
			for b.Loop() {
				proc, err := Start(context.Background(), p, echo)
				if err != nil {
					b.Fatal(err)
				}
				if err := proc.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// BenchmarkIdle reports what one idle child costs this process while its stderr is open.
func BenchmarkIdle(b *testing.B) {
	p := build(b, "local", map[string]any{"python": anyPython(b)})
	use := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before, fds := use(), openDescriptors()
	for b.Loop() {
		started(b, p, echo)
	}
	b.ReportMetric(float64(use()-before)/float64(b.N), "bytes/child")
	b.ReportMetric(float64(openDescriptors()-fds)/float64(b.N), "fds/child")
}
