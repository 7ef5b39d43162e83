package main

import (
	"bytes"
	"strconv"
	"sync"
)

// answers takes a program's output apart: what it prints goes to whoever wants it now, and answers are taken out.
type answers struct {
	mark []byte
	came chan []byte

	mu   sync.Mutex // guards the following
	to   *gathered  // nil between two texts
	held []byte     // may be the beginning of an answer
	late int        // answers to come that nobody waits for any more
}

// maxAnswer is far more than an answer has.
const maxAnswer = 1 << 20

func newAnswers(mark []byte) *answers {
	return &answers{mark: append([]byte{0}, mark...), came: make(chan []byte, 1)}
}

func (a *answers) begin(to *gathered) {
	a.drain()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.to = to
}

// end gives what was printed to be shown.
func (a *answers) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.to != nil {
		_ = a.to.Close()
		a.to = nil
	}
}

// drain forgets an answer that nobody has waited for.
func (a *answers) drain() {
	select {
	case <-a.came:
	default:
	}
}

// giveUp forgets the answer to what was asked last, also when it comes later: it is none to what is asked next.
func (a *answers) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.came:
	default:
		a.late++
	}
}

// waits tells whether the answer to a text has not come yet.
func (a *answers) waits() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.to != nil && len(a.came) == 0
}

func (a *answers) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	data := append(a.held, p...)
	a.held = nil
	for len(data) > 0 {
		i := bytes.Index(data, a.mark)
		if i < 0 {
			keep := partial(data, a.mark)
			a.print(data[:len(data)-keep])
			a.held = bytes.Clone(data[len(data)-keep:])
			break
		}
		a.print(data[:i])
		data = data[i:]
		head := len(a.mark) + len("00000000\n")
		size := uint64(0)
		if len(data) >= head {
			var err error
			if size, err = strconv.ParseUint(string(data[len(a.mark):head-1]), 16, 64); err != nil || size > maxAnswer {
				a.print(data[:head]) // not of the program
				data = data[head:]
				continue
			}
		}
		if len(data) < head || len(data)-head < int(size) {
			a.held = bytes.Clone(data)
			break
		}
		end := head + int(size)
		answer := bytes.Clone(data[head:end])
		data = data[end:]
		if a.late > 0 {
			a.late--
			continue
		}
		select {
		case a.came <- answer:
		default:
		}
	}
	return len(p), nil
}

func (a *answers) print(data []byte) {
	if a.to != nil && len(data) > 0 {
		_, _ = a.to.Write(data)
	}
}

// partial is how much at the end of data may be the beginning of mark.
func partial(data, mark []byte) int {
	for n := min(len(data), len(mark)-1); n > 0; n-- {
		if bytes.HasSuffix(data, mark[:n]) {
			return n
		}
	}
	return 0
}
