package bytecode

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const nice = 10

// limit is applied before the process is given anything to do.
func limit(pid int) error {
	// It runs behind everything else here. The kernel gives 20 minus the nice value, which may be higher already:
	// only root may lower it.
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, pid); err != nil || 20-p < nice {
		if err := unix.Setpriority(unix.PRIO_PROCESS, pid, nice); err != nil {
			return fmt.Errorf("its priority: %w", err)
		}
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
