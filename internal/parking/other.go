//go:build !linux

package parking

import "syscall"

// waits is empty: nobody parks.
type waits struct{}

func (waits) remove(*Place) {}
func (waits) closeUnused()  {}

// Park is false: the caller reads on, and is not nudged again.
func (p *Place) Park(syscall.RawConn) bool {
	p.End()
	return false
}
