package pty

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMovingStacks opens terminals while the collector moves the stacks of those who do so: each gets its own.
func TestMovingStacks(t *testing.T) {
	stop := make(chan struct{})
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				done := make(chan struct{})
				// A goroutine of its own: one whose stack has been shrunk is not shrunk again.
				go func() {
					defer close(done)
					grow(200)
					ownTerminal(t)
				}()
				<-done
			}
		})
	}
	all.Wait()
	close(stop)
	<-collected
}

// grow makes the stack large, and leaves it so.
//
//go:noinline
func grow(depth int) byte {
	var room [256]byte
	if depth > 0 {
		room[depth%256] = grow(depth - 1)
	}
	return room[0]
}

func ownTerminal(t *testing.T) {
	master, slave, err := Open()
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(master)
	defer unix.Close(slave)
	if want := deviceOf(t, master); deviceOf(t, slave) != want {
		t.Errorf("terminal %d of number %d", deviceOf(t, slave), want)
	}
	if err := SetSize(slave, 33, 77); err != nil {
		t.Error(err)
	}
	if size, err := unix.IoctlGetWinsize(master, unix.TIOCGWINSZ); err != nil || size.Row != 33 || size.Col != 77 {
		t.Errorf("%+v, %v", size, err)
	}
}

// deviceOf is the terminal's number: of a slave by its device, of a master as the kernel tells it.
func deviceOf(t *testing.T, fd int) uint32 {
	if n, err := number(fd); err == nil {
		return n
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Error(err)
	}
	return unix.Minor(st.Rdev)
}

// TestPeerByName takes the way of kernels before 4.13.
func TestPeerByName(t *testing.T) {
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(master)
	defer unix.Close(slave)
	named, err := peerByName(master)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(named)
	var a, b unix.Stat_t
	if unix.Fstat(slave, &a) != nil || unix.Fstat(named, &b) != nil || a.Rdev != b.Rdev {
		t.Errorf("%d, not %d", b.Rdev, a.Rdev)
	}
	for _, fd := range []int{master, slave, named} {
		if got, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || got != unix.FD_CLOEXEC {
			t.Errorf("descriptor %d is not closed on exec: %d, %v", fd, got, err)
		}
	}
}
