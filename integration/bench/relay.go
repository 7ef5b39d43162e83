package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// relayMain stands in front of an interpreter: it starts the real one and passes stdin and stdout on, each byte late by half
// the round trip. With a count file it writes there how many bytes went to the interpreter so far, arguments included.
func relayMain(args []string) int {
	flags := flag.NewFlagSet("relay", flag.ContinueOnError)
	rtt := flags.Duration("rtt", 0, "round trip time")
	countFile := flags.String("count", "", "file for the number of bytes")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "bench relay: no command")
		return 2
	}
	counter, err := newCounter(*countFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench relay:", err)
		return 1
	}
	for _, arg := range flags.Args()[1:] {
		counter.add(len(arg) + 1)
	}

	cmd := exec.Command(flags.Arg(0), flags.Args()[1:]...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		var stdout io.ReadCloser
		stdout, err = cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			go func() {
				delay(stdin, os.Stdin, *rtt/2, counter.add)
				_ = stdin.Close()
			}()
			delay(os.Stdout, stdout, *rtt/2, nil)
			err = cmd.Wait()
		}
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench relay:", err)
		return 1
	}
	return 0
}

// counter keeps a decimal number in a file.
type counter struct {
	file  *os.File
	total atomic.Int64
}

func newCounter(name string) (*counter, error) {
	c := &counter{}
	if name == "" {
		return c, nil
	}
	var err error
	c.file, err = os.Create(name)
	return c, err
}

func (c *counter) add(n int) {
	total := c.total.Add(int64(n))
	if c.file != nil {
		// The number only grows, so that a later one always covers an earlier one.
		_, _ = c.file.WriteAt([]byte(strconv.FormatInt(total, 10)), 0)
	}
}

type late struct {
	due  time.Time
	data []byte
}

// delay copies src to dst, each chunk lag after it came in. The link itself is as wide as memory: 256 MB may be under way.
func delay(dst io.Writer, src io.Reader, lag time.Duration, seen func(int)) {
	const window = 256 << 20
	var (
		mu      sync.Mutex
		room    = sync.NewCond(&mu)
		flying  int
		broken  bool
		pending = make(chan late, window/4096)
		done    = make(chan struct{})
	)
	go func() {
		defer close(done)
		for c := range pending {
			if lag > 0 {
				time.Sleep(time.Until(c.due))
			}
			_, err := dst.Write(c.data)
			mu.Lock()
			flying -= len(c.data)
			broken = broken || err != nil
			room.Signal()
			mu.Unlock()
		}
	}()
	buf := make([]byte, 1<<18)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if seen != nil {
				seen(n)
			}
			mu.Lock()
			for flying+n > window && !broken {
				room.Wait()
			}
			flying += n
			stop := broken
			mu.Unlock()
			if stop {
				break
			}
			pending <- late{time.Now().Add(lag), append([]byte(nil), buf[:n]...)}
		}
		if err != nil {
			break
		}
	}
	close(pending)
	<-done
}
