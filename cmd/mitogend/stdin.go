package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"mitogend/daemon/work"
)

// programInput is what programs read: nothing, stdin itself, or each of them all of stdin.
type programInput struct {
	src    io.Reader // nil for /dev/null
	shared *work.Input
}

// stdin gives what programs read. On one target it is stdin itself. On several, each gets all of stdin, unless that
// is a terminal.
func (fl *fleet) stdin() *programInput {
	one := len(fl.targets) == 1
	// The terminal would stop a background job that reads it.
	if background(os.Stdin) || !one && term.IsTerminal(int(os.Stdin.Fd())) {
		return &programInput{}
	}
	fail := func(err error) {
		fl.app.stop(commandError{fmt.Errorf("stdin: %w; what runs is ended, since it would not get all of it", cause(err)), statusRaised})
	}
	in := &programInput{src: &toldReader{os.Stdin, fail}}
	if !one {
		in.shared = work.NewInput(os.Stdin, fail)
	}
	return in
}

// reader gives what one program reads; nil stands for /dev/null. done has to be called when the program has ended.
func (in *programInput) reader() (r io.Reader, done func()) {
	if in.shared == nil {
		return in.src, func() {}
	}
	one := in.shared.Reader()
	return one, func() { _ = one.Close() }
}

// all gives what a running daemon passes on to each of several programs; nil stands for /dev/null.
func (in *programInput) all() io.Reader { return in.src }

// toldReader is for one reader what work.Input is for several: it tells fail of an error, and then waits for ever, so that
// nobody takes what came before for all of it.
type toldReader struct {
	src  io.Reader
	fail func(error)
}

func (r *toldReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.fail(err)
		select {}
	}
	return n, err
}
