package client_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"mitogend/daemon/client"
	"mitogend/importer"
)

// Contexts that end all the time lose nothing of what a function sends, and do not let it end.
func TestRecvWithShortContexts(t *testing.T) {
	ctx := t.Context()
	c, err := client.Dial(ctx, socket, client.Options{Source: &importer.Options{Path: []string{lib}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Shutdown(ctx) }()
	child, err := c.Connect(ctx, "local:")
	if err != nil {
		t.Fatal(err)
	}
	const most = 5000
	ch, err := child.OpenChannel(ctx, "words:numbers", most)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	for want := int64(1); ; {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		v, err := ch.Recv(short)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		if err == io.EOF && want == most+1 {
			break
		}
		if err != nil || v != want {
			t.Fatalf("%v, %v in place of %d", v, err, want)
		}
		want++
	}
	if v, err := ch.Result(); v != int64(most) || err != nil {
		t.Error(v, err)
	}
}
