package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"mitogend/daemon/work"
)

// programInput is what programs read: nothing, stdin itself, or all of it each.
type programInput struct {
	src    io.Reader // nil for /dev/null
	shared *work.Input
}

// stdin gives what programs read. One target has stdin itself; several have all of it each, unless it is a terminal.
func (fl *fleet) stdin() *programInput {
	switch one := len(fl.targets) == 1; {
	// A background job that reads the terminal would be stopped.
	case background(os.Stdin), !one && term.IsTerminal(int(os.Stdin.Fd())):
		return &programInput{}
	case one:
		return &programInput{src: os.Stdin}
	}
	fail := func(err error) {
		fl.app.stop(commandError{fmt.Errorf("stdin: %w; what runs is ended, since it would not get all of it", cause(err)), statusRaised})
	}
	return &programInput{src: &toldReader{os.Stdin, fail}, shared: work.NewInput(os.Stdin, fail)}
}

// reader gives what one program reads, nil for /dev/null, and ends it.
func (in *programInput) reader() (r io.Reader, done func()) {
	if in.shared == nil {
		return in.src, func() {}
	}
	one := in.shared.Reader()
	return one, func() { _ = one.Close() }
}

// all gives what a running daemon gives to each of several programs; nil for /dev/null.
func (in *programInput) all() io.Reader { return in.src }

// toldReader tells of a failure, which ends nothing: the read waits for ever then, since nobody may take what came before for all of it.
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
