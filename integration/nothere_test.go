package integration

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNothingOfTheCurrentDirectory: an interpreter that is started in somebody else's directory imports nothing of it,
// from its first line to its end. Where zlib and the like are files of their own, they could be there as well.
func TestNothingOfTheCurrentDirectory(t *testing.T) {
	dir := t.TempDir()
	strange := `import os
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'was-run'), 'a').write(__name__ + '\n')
raise SystemExit('a stranger was run')
`
	for _, name := range []string{
		"zlib", "binascii", "select", "marshal", "os", "sys", "shutil", "signal", "time", "errno", "struct", "_struct", "io", "codecs", "encodings", "fcntl",
		"_socket", "_pickle", "cPickle", "_posixsubprocess", "resource", "pwd", "grp", "termios", "mitogen", "ctypes", "_ctypes", "types", "warnings", "imp",
	} {
		Write(t, dir, name+".py", strange)
	}
	EachPython(t, func(t *testing.T, p Python) {
		for _, target := range []string{p.Target(), "local:?python=" + p.argv[0], p.Target() + "+local:?python=" + p.argv[0], p.Target() + "+local:?python=" + p.argv[0] + ",python3"} {
			r := Mitogend(t, dir, "call", "-H", target, "os:getcwd")
			if r.Status != 0 {
				t.Errorf("%s: %d %s", target, r.Status, r.Stderr)
			}
			if said, err := os.ReadFile(filepath.Join(dir, "was-run")); err == nil {
				t.Fatalf("%s: %s", target, said)
			}
		}
	})
}
