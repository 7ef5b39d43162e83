package daemon

import (
	"fmt"
	"os"
	"path/filepath"

	"mitogend/python"
)

// WriteShim puts the Python package mitogend_client into a directory, for the PYTHONPATH of a program that shall have the
// daemon as its master; $MITOGEND_SOCKET names the socket.
func WriteShim(dir string) error {
	files, err := python.ClientFiles()
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("daemon: %w", err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("daemon: %w", err)
		}
	}
	return nil
}
