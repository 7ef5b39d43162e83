//go:build !linux

package parking

import "syscall"

// waits is empty: nobody parks.
type waits struct{}

func (waits) remove(int32) {}

// Park is false: the caller reads on.
func (p *Place) Park(syscall.RawConn) bool { return false }
