package bytecode

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// limit is applied before the process is given anything to do.
func limit(pid int) error {
	// Behind everything else that runs here.
	if err := unix.Setpriority(unix.PRIO_PROCESS, pid, 10); err != nil {
		return fmt.Errorf("its priority: %w", err)
	}
	for what, most := range map[int]uint64{
		unix.RLIMIT_CPU: cpuSeconds, unix.RLIMIT_AS: maxMemory, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_CORE: 0,
	} {
		var old unix.Rlimit
		if err := unix.Prlimit(pid, what, nil, &old); err != nil {
			return fmt.Errorf("its limits: %w", err)
		}
		most = min(most, old.Max)
		if err := unix.Prlimit(pid, what, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
			return fmt.Errorf("its limits: %w", err)
		}
	}
	return nil
}
