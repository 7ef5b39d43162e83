package unixclient

import (
	"bytes"
	"compress/zlib"
	"context"
	"testing"

	"mitogend/daemon"
)

func stock(t testing.TB) *daemon.Runtime {
	t.Helper()
	r, err := daemon.FindRuntime(context.Background(), "mitogen", nil, []string{python(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func deflate(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
