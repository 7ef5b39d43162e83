package daemon

import "time"

// drainTime is how long a stream is read after its program has ended. What the program wrote is in the pipe by then.
const drainTime = time.Second

// watchExit ends the stream of a program that has ended, also when a process that it left behind holds the other end open
// and no end of file ever comes.
func (s *stream) watchExit() {
	defer s.d.wg.Done()
	select {
	case <-s.ended:
		return
	case <-s.proc.Done():
	}
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-s.ended:
	case <-t.C:
		s.fail(errEOF)
	}
}
