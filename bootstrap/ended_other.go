//go:build !linux

package bootstrap

// endedChild gives no child: the reaper asks for each.
func endedChild() int { return -1 }

// Exiting tells whether the system is ending the process.
func (p *Process) Exiting() bool { return false }
