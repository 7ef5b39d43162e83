package control

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/daemon/wire"
)

// Whoever is in a hurry does not wait for a collector that does not answer.
func TestHurryWithSpans(t *testing.T) {
	asked, free := make(chan struct{}), make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-free
	}))
	defer collector.Close()
	defer close(free)
	logged, logs := observer.New(zap.WarnLevel)
	x := newExporter(collector.URL, "test", zap.New(logged), func(int64) {})
	go x.run()
	x.add(&wire.Event{Kind: wire.EventCall})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	x.close(ctx)
	for _, entry := range logs.All() {
		if text := fmt.Sprint(entry.ContextMap()["error"]); !strings.Contains(text, context.Canceled.Error()) {
			t.Error(text)
		}
	}
	if logs.Len() != 1 {
		t.Errorf("%d records", logs.Len())
	}
}
