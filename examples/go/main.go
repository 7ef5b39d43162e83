// Command go calls Python functions from Go: on this machine, or on the targets that are its arguments.
//
//	go run ./examples/go
//	go run ./examples/go ssh:web1 ssh:web2+sudo:root
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"mitogend/daemon"
	"mitogend/pyproto"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	targets := os.Args[1:]
	if len(targets) == 0 {
		targets = []string{"local:"}
	}
	if err := run(ctx, targets); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

// disk is what facts.disk returns.
type disk struct {
	Size int64 `py:"size"`
	Free int64 `py:"free"`
}

func run(ctx context.Context, targets []string) error {
	d, err := daemon.New(daemon.Options{Path: []string{"examples/facts"}, Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer func() {
		// A context of its own, since ctx may have ended.
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = d.Shutdown(closing)
	}()
	for _, target := range targets {
		child, err := d.Connect(ctx, target)
		if err != nil {
			return err
		}
		megabytes := pyproto.Kwargs{{Name: "unit", Value: 1 << 20}}
		root, err := daemon.Call[disk](ctx, child, "facts:disk", "/", megabytes)
		if err != nil {
			return err
		}
		fmt.Printf("%s: Python %v, %d of %d MiB are free\n", target, child.Version(), root.Free, root.Size)

		// What Python raises is an error with its type and traceback.
		var raised *pyproto.CallError
		err = child.Call(ctx, "facts:disk", "/nowhere").Err()
		if !errors.As(err, &raised) {
			return fmt.Errorf("expected an exception, got %v", err)
		}
		fmt.Printf("%s: %s\n", target, raised.Message())
	}
	return nil
}
