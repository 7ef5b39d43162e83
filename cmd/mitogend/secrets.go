package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// secrets are the passwords that the user has typed.
type secrets struct{ ssh, become string }

var becomeMethods = []string{"sudo", "su", "doas"}

// For gives the password of a hop; it is daemon.ConnectOptions.Secrets.
func (s secrets) For(_ int, method string) (string, bool) {
	switch {
	case method == "ssh":
		return s.ssh, s.ssh != ""
	case slices.Contains(becomeMethods, method):
		return s.become, s.become != ""
	}
	return "", false
}

// ask asks for the passwords that the flags name, if a target needs them.
func (t *targetFlags) ask(ctx context.Context, targets []target) (s secrets, err error) {
	if t.askPass && needs(targets, "ssh") {
		if s.ssh, err = askPassword(ctx, "--ask-pass", "SSH password: ", inTarget); err != nil {
			return s, err
		}
	}
	if t.askBecome && needs(targets, becomeMethods...) {
		s.become, err = askPassword(ctx, "--ask-become-pass", "Become password: ", inTarget)
	}
	return s, err
}

// inTarget is the way to give a password without a terminal.
const inTarget = "password_env=NAME or password_file=PATH in the target"

// askPassword asks on the controlling terminal, whatever stdin is. If ctx ends, the terminal is restored.
func askPassword(ctx context.Context, flag, prompt, instead string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", usagef("%s: there is no terminal to ask on; give %s instead", flag, instead)
	}
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", usagef("%s: %w", flag, err)
	}
	// Without a handler, ^\ would end this process and leave the terminal silent.
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGQUIT)
	defer signal.Stop(quit)
	// This comes before the question: otherwise a quick answer would be on the screen.
	if silent, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		silent.Lflag = silent.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
		silent.Iflag |= unix.ICRNL
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, silent)
	}
	fmt.Fprint(tty, prompt)
	type answer struct {
		text []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		text, err := bufio.NewReader(tty).ReadBytes('\n') // term.ReadPassword does not hear ^D
		read <- answer{bytes.TrimRight(text, "\r\n"), err}
	}()
	select {
	case <-quit:
		_ = term.Restore(fd, before)
		fmt.Fprintln(tty)
		return "", signalError{syscall.SIGQUIT}
	case <-ctx.Done():
		// The read cannot be interrupted, but the process is about to end.
		_ = term.Restore(fd, before)
		fmt.Fprintln(tty)
		return "", context.Cause(ctx)
	case a := <-read:
		_ = term.Restore(fd, before)
		fmt.Fprintln(tty)
		_ = tty.Close()
		if errors.Is(a.err, io.EOF) || a.err == nil && len(a.text) == 0 {
			a.err = errors.New("no password was typed")
		}
		if a.err != nil {
			return "", usagef("%s: %w", flag, a.err)
		}
		return string(a.text), nil
	}
}
