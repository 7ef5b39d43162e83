package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// relayMain stands in front of an interpreter: it starts the real one and passes stdin and stdout on, each byte late by half
// the round trip. With a count file it writes there how many bytes the interpreter has as arguments, and how many went to its stdin so
// far.
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
	counter, err := newCounter(*countFile, flags.Args()[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench relay:", err)
		return 1
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

// counter keeps two decimal numbers in a file: bytes of arguments, and of stdin.
type counter struct {
	file  *os.File
	args  int
	stdin atomic.Int64
}

func newCounter(name string, args []string) (*counter, error) {
	c := &counter{}
	if name == "" {
		return c, nil
	}
	for _, arg := range args {
		c.args += len(arg) + 1
	}
	var err error
	c.file, err = os.Create(name)
	return c, err
}

func (c *counter) add(n int) {
	total := c.stdin.Add(int64(n))
	if c.file != nil {
		// The numbers only grow, so a later text always overwrites an earlier one completely.
		_, _ = c.file.WriteAt(fmt.Append(nil, c.args, " ", total), 0)
	}
}

type late struct {
	due  time.Time
	data []byte
}

// delay copies src to dst, each chunk lag after it came in. The link's bandwidth is not limited: 256 MB may be on their way.
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
