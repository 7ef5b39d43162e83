package integration

import (
	"context"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/client"
)

// flood gives n bytes as fast as they are read.
type flood struct {
	n     int64
	taken atomic.Int64
}

func (f *flood) Read(p []byte) (int, error) {
	if f.taken.Load() >= f.n {
		return 0, io.EOF
	}
	f.taken.Add(int64(len(p)))
	return len(p), nil
}

// slowTime is how long the slow consumer reads.
func slowTime() time.Duration {
	if os.Getenv("MITOGEND_LONG") != "" {
		return 10 * time.Second
	}
	return 2 * time.Second
}

const slowReader = `import os, sys, time
end = time.time() + float(sys.argv[1])
while time.time() < end:
    n = 0
    while n < 102400:
        n += len(os.read(0, 102400 - n))
    time.sleep(0.1)
`

const slowFunction = `
import time
def take(channel, seconds):
    end = time.time() + seconds
    n = 0
    for value in channel:
        n += len(value)
        if time.time() > end:
            return n
        time.sleep(len(value) / 1048576.0)
`

// 2 GB are sent to a child that reads 1 MB/s. The daemon stays small, and calls of another child are as quick as before.
func TestSlowConsumer(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	Write(t, dir, "slow.py", slowFunction)
	target := AnyPython(t).Target()
	connect := func(opt client.Options) *client.Child {
		t.Helper()
		c, err := d.Dial(t, opt).Connect(context.Background(), target)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	other := connect(client.Options{Fresh: true})
	alone := latency(t, other, time.Second/2)
	for name, send := range map[string]func(*client.Child) int64{
		"stdin of a program": func(c *client.Child) int64 {
			in := &flood{n: 2 << 30}
			_, err := c.Run(context.Background(), daemon.RunOptions{
				Path: "slow.py", Source: []byte(slowReader), Args: []string{slowTime().String()[:len(slowTime().String())-1]}, Stdin: in,
			})
			if err != nil {
				t.Error(err)
			}
			return in.taken.Load()
		},
		"messages of a channel": func(c *client.Child) int64 {
			ch, err := c.OpenChannel(context.Background(), "slow:take", slowTime().Seconds())
			if err != nil {
				t.Error(err)
				return 0
			}
			sent := int64(0)
			for sent < 2<<30 && ch.Send(context.Background(), make([]byte, 100<<10)) == nil {
				sent += 100 << 10
			}
			ch.Close()
			return sent
		},
	} {
		t.Run(name, func(t *testing.T) {
			slow := connect(sourceOf(dir))
			done := make(chan int64, 1)
			go func() { done <- send(slow) }()
			during := latency(t, other, slowTime()*3/4)
			sent := <-done
			peak := peakRSS(t, d.PID())
			t.Logf("%d kB were taken in %v; peak of the daemon %d MB; another's call took %v (median; 99 of 100 below %v), alone %v (%v)",
				sent>>10, slowTime(), peak>>20, during[0], during[1], alone[0], alone[1])
			limit := int64(100 << 20)
			if raceEnabled {
				limit *= 4 // the race detector's own memory
			}
			if peak > limit {
				t.Errorf("the daemon had %d MB", peak>>20)
			}
			if during[0] > 20*alone[1] {
				t.Errorf("another's call took %v, alone 99 of 100 took less than %v", during[0], alone[1])
			}
			if sent > 64<<20 {
				t.Errorf("%d bytes were taken of somebody who reads 1 MB/s", sent)
			}
		})
	}
}

// latency calls a function again and again, and gives the median and the 99th percentile.
func latency(t testing.TB, c *client.Child, d time.Duration) [2]time.Duration {
	t.Helper()
	var times []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		at := time.Now()
		if err := c.Call(context.Background(), "os:getpid").Err(); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(at))
	}
	slices.Sort(times)
	return [2]time.Duration{times[len(times)/2], times[len(times)*99/100]}
}

// One client's large transfer does not delay another's calls.
func TestFairness(t *testing.T) {
	d := Serve(t)
	target := AnyPython(t).Target()
	connect := func() *client.Child {
		t.Helper()
		c, err := d.Dial(t, client.Options{Fresh: true}).Connect(context.Background(), target)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	other, big := connect(), connect()
	alone := latency(t, other, time.Second/2)
	done := make(chan error, 1)
	in := &flood{n: 1 << 30}
	if os.Getenv("MITOGEND_LONG") == "" {
		in.n = 128 << 20
	}
	go func() {
		_, err := big.Run(context.Background(), daemon.RunOptions{
			Path: "sink.py", Source: []byte("import os\nwhile os.read(0, 1048576):\n    pass\n"), Stdin: in,
		})
		done <- err
	}()
	var times []time.Duration
	started := time.Now()
	for {
		at := time.Now()
		if err := other.Call(context.Background(), "os:getpid").Err(); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(at))
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			slices.Sort(times)
			// If calls waited for the transfer, there would be only one.
			if len(times) < 20 || times[len(times)/2] > 20*alone[1] {
				t.Errorf("%d calls in the meantime, %v each; alone 99 of 100 took less than %v", len(times), times[len(times)/2], alone[1])
			}
			t.Logf("%d MB in %v; another's call took %v (median; 99 of 100 below %v), alone %v (%v)", in.n>>20, time.Since(started).Round(time.Millisecond),
				times[len(times)/2], times[len(times)*99/100], alone[0], alone[1])
			return
		default:
		}
	}
}
