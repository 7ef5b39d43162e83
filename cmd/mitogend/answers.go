package main

import (
	"bytes"
	"strconv"
	"sync"
)

// answers takes a program's output apart. Answers are taken out; everything else was printed, and is gathered, also
// what a thread prints between two texts.
type answers struct {
	mark   []byte
	came   chan []byte
	g      *gatherer
	target string

	mu      sync.Mutex // guards the following
	to      *gathered  // what was printed since a text has begun or ended
	running bool       // a text has begun and not ended
	held    []byte     // may be the beginning of an answer
	late    int        // answers that will come, and nobody waits for
}

// maxAnswer bounds an answer, in bytes. Real ones are much shorter.
const maxAnswer = 1 << 20

func newAnswers(mark []byte, g *gatherer, target string) *answers {
	return &answers{mark: append([]byte{0}, mark...), came: make(chan []byte, 1), g: g, target: target, to: g.writer(target)}
}

// begin begins a text.
func (a *answers) begin() {
	a.drain()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cut()
	a.running = true
}

// end ends a text, if one runs. What was printed until now can be shown.
func (a *answers) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cut()
	a.running = false
}

// cut hands what was printed until now to the gatherer. The caller holds mu.
func (a *answers) cut() {
	_ = a.to.Close()
	a.to = a.g.writer(a.target)
}

// drain drops an answer that nobody has taken.
func (a *answers) drain() {
	select {
	case <-a.came:
	default:
	}
}

// giveUp drops the answer to the last question, even if it comes later: it does not answer the next question.
func (a *answers) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.came:
	default:
		a.late++
	}
}

// waits tells whether a text still runs: its answer has not come.
func (a *answers) waits() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running && len(a.came) == 0
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
				a.print(data[:head]) // no answer of ours
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
	if len(data) > 0 {
		_, _ = a.to.Write(data)
	}
}

// partial gives how many bytes at the end of data may be the beginning of mark.
func partial(data, mark []byte) int {
	for n := min(len(data), len(mark)-1); n > 0; n-- {
		if bytes.HasSuffix(data, mark[:n]) {
			return n
		}
	}
	return 0
}
