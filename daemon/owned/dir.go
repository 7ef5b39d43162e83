package owned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MakeDir makes a directory of mode 0700, and those above it, unless it is there. The error says who else could put
// something into it.
func MakeDir(path string) error {
	// Nothing is made where it would not be used: under sudo with the user's HOME, a directory of root's would keep
	// the user out.
	at := path
	info, err := os.Stat(at)
	for errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		info, err = os.Stat(at)
	}
	// Whatever is made in a sticky directory, as /tmp, stays one's own.
	if err == nil && info.Mode()&fs.ModeSticky == 0 {
		err = CheckDir(at)
	}
	if err == nil {
		err = os.MkdirAll(path, 0o700)
	}
	if err == nil {
		err = CheckDir(path)
	}
	return err
}

// OpenDir opens a directory that is the user's, and closed to all others.
func OpenDir(path string) (*os.Root, error) {
	if err := CheckDir(path); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	// What was opened, whatever stood there before.
	info, err := root.Stat(".")
	switch {
	case err != nil:
	case !Mine(info):
		err = errors.New("it belongs to another user")
	case info.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("it is open to others (mode %o); chmod 700 closes it", info.Mode().Perm())
	default:
		return root, nil
	}
	return nil, errors.Join(err, root.Close())
}

// Mine tells whether a file is the user's, and not only root's.
func Mine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
