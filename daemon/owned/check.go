package owned

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CheckDir says, as an error, who else could put something into a directory, or another one in its place.
func CheckDir(dir string) error {
	real, err := realPath(dir)
	if err != nil {
		return err
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		// In a sticky directory nobody can replace what is another's, but everybody can put something beside it.
		if err := check("the directory "+at, at, info, at != real); err != nil {
			return err
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// CheckFile says, as an error, who else could have written a file, or put it there.
func CheckFile(path string) error {
	real, err := realPath(path)
	if err != nil {
		return err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return err
	}
	if err := check(path, real, info, false); err != nil {
		return err
	}
	if real != path {
		// The link is the directory's, which counts as well.
		if err := CheckDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return CheckDir(filepath.Dir(real))
}

func realPath(path string) (string, error) {
	if path == "." {
		// Not $PWD, which may lead through a link.
		b := make([]byte, unix.PathMax)
		n, err := unix.Getcwd(b)
		if err != nil {
			return "", os.NewSyscallError("getcwd", err)
		}
		return strings.TrimRight(string(b[:n]), "\x00"), nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// check judges one file or directory; name is what the error calls it.
func check(name, path string, info fs.FileInfo, stickyDoes bool) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case !ok:
		return fmt.Errorf("%s: its owner is not known", name)
	case !trusted(st.Uid):
		return fmt.Errorf("%s belongs to user %d", name, st.Uid)
	case stickyDoes && mode&fs.ModeSticky != 0:
		return nil
	case mode.Perm()&0o002 != 0:
		return fmt.Errorf("others may write to %s (mode %o)", name, mode.Perm())
	case mode.Perm()&0o020 != 0 && !(privateGroup(st.Uid, st.Gid) && plainMode(path)):
		return fmt.Errorf("its group may write to %s (mode %o)", name, mode.Perm())
	}
	return nil
}

// plainMode tells that a file has no access list, which the group bits would stand for.
func plainMode(path string) bool {
	_, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP)
}

// privateGroup tells whether nobody but the user is in the group: it has the user's name, is the user's own group,
// and neither file names anybody else.
func privateGroup(uid, gid uint32) bool {
	return isPrivate("/etc/passwd", "/etc/group", uid, gid)
}

func isPrivate(passwd, group string, uid, gid uint32) bool {
	user := ""
	err := fields(passwd, func(f []string) error {
		if len(f) < 4 || number(f[3]) != int64(gid) {
			return nil
		}
		if number(f[2]) != int64(uid) || user != "" {
			return errShared
		}
		user = f[0]
		return nil
	})
	if err != nil || user == "" {
		return false
	}
	found := false
	err = fields(group, func(f []string) error {
		if len(f) < 4 || number(f[2]) != int64(gid) {
			return nil
		}
		if f[0] != user || found || f[3] != "" && f[3] != user {
			return errShared
		}
		found = true
		return nil
	})
	return err == nil && found
}

var errShared = errors.New("owned: the group is not private")

func number(s string) int64 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return -1
	}
	return int64(n)
}

// fields reads a file of lines with colons.
func fields(path string, fn func([]string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if err := fn(strings.Split(strings.TrimSpace(s.Text()), ":")); err != nil {
			return err
		}
	}
	return s.Err()
}
