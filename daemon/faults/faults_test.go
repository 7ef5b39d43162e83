package faults

import (
	"errors"
	"testing"

	"mitogend/daemon"
	"mitogend/daemon/wire"
)

// Work that the end of the daemon has cut off may have run; what it has refused has not. Both are told apart over the
// socket.
func TestShutdown(t *testing.T) {
	var dead *daemon.DeadError
	cut := ToError(FromError(CutOff("web1")))
	if !errors.Is(cut, daemon.ErrShutdown) || !errors.As(cut, &dead) || !dead.Lost || dead.Target != "web1" {
		t.Errorf("%v", cut)
	}
	if e := FromError(cut); e.Kind != wire.KindShutdown || !e.Lost || e.Target != "web1" {
		t.Errorf("%+v", e)
	}
	refused := ToError(FromError(daemon.ErrShutdown))
	if !errors.Is(refused, daemon.ErrShutdown) || errors.As(refused, &dead) {
		t.Errorf("%v", refused)
	}
}
