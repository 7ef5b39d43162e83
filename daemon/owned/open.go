package owned

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Replace opens a file to be written anew, which nobody but the user can read.
func Replace(path string) (*os.File, error) { return open(path, true) }

// Append opens a file to be appended to. A new one is the user's alone.
func Append(path string) (*os.File, error) { return open(path, false) }

// maxLinks is the kernel's own limit.
const maxLinks = 40

func open(path string, private bool) (*os.File, error) {
	w := &walk{path: path, dir: unix.AT_FDCWD}
	defer w.enter(unix.AT_FDCWD)
	fd, err := w.to(path)
	if err == nil && fd < 0 {
		fd, err = w.file(private)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// walk goes through a path.
type walk struct {
	path string
	dir  int    // the directory that name is in
	name string // the last one
}

// enter makes another directory the current one.
func (w *walk) enter(dir int) {
	if w.dir != unix.AT_FDCWD {
		_ = unix.Close(w.dir)
	}
	w.dir = dir
}

// to opens all directories on the way, following links. fd is a descriptor of ours that the path names, or -1.
func (w *walk) to(path string) (fd int, err error) {
	rest := path
	for links := 0; ; {
		if strings.HasPrefix(rest, "/") {
			root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, err
			}
			w.enter(root)
			rest = strings.TrimLeft(rest, "/")
		}
		if rest == "" {
			return -1, syscall.EISDIR
		}
		name, more, slash := strings.Cut(rest, "/")
		more = strings.TrimLeft(more, "/")
		if name == "." && more != "" {
			rest = more
			continue
		}
		here, err := unix.Openat(w.dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && !slash {
			w.name = name
			return -1, nil
		}
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		if err = unix.Fstat(here, &st); err != nil {
			_ = unix.Close(here)
			return -1, err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if n, ok := w.descriptor(name); ok {
				_ = unix.Close(here)
				return unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
			}
			target, err := readLink(here)
			_ = unix.Close(here)
			if err != nil {
				return -1, err
			}
			if !trusted(st.Uid) {
				return -1, fmt.Errorf("%s is a link that belongs to user %d; name the file itself", name, st.Uid)
			}
			if links++; links > maxLinks {
				return -1, syscall.ELOOP
			}
			rest = target
			if slash {
				rest += "/" + more
			}
		case unix.S_IFDIR:
			if more == "" {
				_ = unix.Close(here)
				return -1, syscall.EISDIR
			}
			w.enter(here)
			rest = more
		default:
			_ = unix.Close(here)
			if slash {
				return -1, syscall.ENOTDIR
			}
			w.name = name
			return -1, nil
		}
	}
}

// descriptor tells whether name in the current directory is a descriptor of this process, as /proc/self/fd has them.
func (w *walk) descriptor(name string) (int, bool) {
	var fs unix.Statfs_t
	n, err := strconv.Atoi(name)
	if err != nil || w.dir == unix.AT_FDCWD || unix.Fstatfs(w.dir, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return 0, false
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", w.dir))
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	return n, err == nil && strings.HasPrefix(dir, own) && filepath.Base(dir) == "fd"
}

func readLink(fd int) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err == nil && n == 0 {
		err = syscall.ENOENT
	}
	return string(b[:max(n, 0)]), err
}

// maxRaces is how often the file may come and go meanwhile.
const maxRaces = 10

// file opens the name that the walk has come to.
func (w *walk) file(private bool) (int, error) {
	flags := unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	if !private {
		flags |= unix.O_APPEND
	}
	for range maxRaces {
		fd, err := unix.Openat(w.dir, w.name, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			fd, err = unix.Openat(w.dir, w.name, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
			if errors.Is(err, unix.EEXIST) {
				continue
			}
			if err == nil {
				return fd, unix.SetNonblock(fd, false)
			}
		}
		switch {
		case errors.Is(err, unix.ELOOP):
			return -1, errors.New("it has become a link")
		case errors.Is(err, unix.ENXIO):
			return -1, errors.New("nobody reads the pipe, or it is a socket")
		case err != nil:
			return -1, err
		}
		again, err := w.judge(fd, private)
		if err == nil && !again {
			return fd, nil
		}
		_ = unix.Close(fd)
		if err != nil {
			return -1, err
		}
		if err := unix.Unlinkat(w.dir, w.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return -1, fmt.Errorf(
				"others may read it, or it has other names, and it cannot be replaced: %w; chmod 600 it", err)
		}
	}
	return -1, errors.New("it comes and goes")
}

// judge looks at what was there. replace says that it must not be written to, and may be removed.
func (w *walk) judge(fd int, private bool) (replace bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	kind, mode := st.Mode&unix.S_IFMT, st.Mode&0o777
	ours := int(st.Uid) == os.Geteuid()
	switch {
	case !ours && (kind != unix.S_IFCHR || !trusted(st.Uid)):
		return false, fmt.Errorf("it belongs to user %d; give another name", st.Uid)
	case kind == unix.S_IFCHR:
		return false, unix.SetNonblock(fd, false)
	case kind == unix.S_IFIFO && (mode&0o022 != 0 || private && mode&0o044 != 0):
		return false, fmt.Errorf("others may use the pipe (mode %o); chmod 600 it", mode)
	case kind == unix.S_IFIFO:
		return false, nil // it is waited for in Go's poller
	case kind != unix.S_IFREG:
		return false, errors.New("it is no file")
	case private && (mode != 0o600 || st.Nlink != 1):
		return true, nil
	case mode&0o022 != 0:
		return false, fmt.Errorf("others may write to it (mode %o); chmod 600 it", mode)
	case st.Nlink > 1:
		return false, fmt.Errorf("it has %d names (hard links); give another one", st.Nlink)
	case private:
		if err := unix.Ftruncate(fd, 0); err != nil {
			return false, err
		}
	}
	return false, unix.SetNonblock(fd, false)
}

// trusted tells whether what a user made may be relied on.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
