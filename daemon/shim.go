package daemon

import (
	"os"
	"path/filepath"

	"mitogend/python"
)

// WriteShim puts the Python package mitogend_client into a directory. With that on its PYTHONPATH, a program has the
// daemon as its master; $MITOGEND_SOCKET names the socket.
func WriteShim(dir string) error {
	files, err := python.ClientFiles()
	if err != nil {
		return errorf("%w", err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return errorf("%w", err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return errorf("%w", err)
		}
	}
	return nil
}
