package requirements

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mitogend/daemon/owned"
)

// unused is how long wheels are kept that nobody asks for. What is in use is fetched anew each day.
const unused = 30 * 24 * time.Hour

// leftOver is the age at which a directory that is being filled counts as left by a killed process.
const leftOver = 24 * time.Hour

const filling = "part."

// Usage is what the directory holds.
type Usage struct {
	Path  string
	Sets  int // of wheels, each for the same requirements and kind of target
	Bytes int64
}

func cacheDir() (string, error) {
	caches, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no directory for a cache: %w", err)
	}
	return filepath.Join(caches, "mitogend", "requirements"), nil
}

// CacheUsage looks at the directory, which need not be there.
func CacheUsage() (Usage, error) {
	u := Usage{}
	err := eachSet(&u, func(string, fs.FileInfo) error { return nil })
	return u, err
}

// ClearCache removes all that is in the directory, and tells what it was.
func ClearCache() (Usage, error) {
	u := Usage{}
	err := eachSet(&u, func(path string, _ fs.FileInfo) error { return os.RemoveAll(path) })
	return u, err
}

// trim removes what nobody uses any more.
func trim() error {
	return eachSet(&Usage{}, func(path string, info fs.FileInfo) error {
		age := time.Since(info.ModTime())
		if age > unused || age > leftOver && strings.HasPrefix(info.Name(), filling) {
			return os.RemoveAll(path)
		}
		return nil
	})
}

// eachSet measures all that is in the directory, and calls do for each.
func eachSet(u *Usage, do func(path string, info fs.FileInfo) error) error {
	top, err := cacheDir()
	if err != nil {
		return err
	}
	u.Path = top
	entries, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = owned.CheckDir(top)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", top, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // others have removed it
		}
		path := filepath.Join(top, e.Name())
		_ = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil
			}
			if info, err := e.Info(); err == nil {
				u.Bytes += info.Size()
			}
			return nil
		})
		if !strings.HasPrefix(e.Name(), filling) {
			u.Sets++
		}
		if err := do(path, info); err != nil {
			return err
		}
	}
	return nil
}
