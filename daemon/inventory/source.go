package inventory

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mitogend/daemon/owned"
)

// Environment names the variable that lists sources, separated as in PATH.
const Environment = "MITOGEND_INVENTORY"

// defaultNames are looked for in the current directory. None of them is ever run: a directory that one happens to be
// in must not decide what is executed.
var defaultNames = []string{"mitogend-hosts.yaml", "mitogend-hosts.yml", "mitogend-hosts.ini", "mitogend-hosts"}

// Found is what there is where no source was named.
type Found struct {
	Sources []string
	// Here is the one source if it lies in the current directory.
	Here string
	// Refused says which files of the current directory do not count, and why: somebody else could have written them.
	Refused []error
	// Vault are the passwords of what ansible-vault has encrypted.
	Vault []VaultPassword
}

// Look looks for sources where none was named: those in $MITOGEND_INVENTORY; else the first of mitogend-hosts.yaml,
// .yml, .ini and mitogend-hosts in the current directory that is no program and that nobody but the user and root
// could have put there; else mitogend/hosts.yaml, .yml, .ini or hosts in the user's configuration directory.
func Look() (f Found) {
	if list := os.Getenv(Environment); list != "" {
		f.Sources = filepath.SplitList(list)
		return f
	}
	for _, name := range defaultNames {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 != 0 {
			continue
		}
		if err := owned.CheckFile(name); err != nil {
			f.Refused = append(f.Refused,
				errorf("%s of the current directory is not used: %w; -i %s uses it all the same",
					name, err, name))
			continue
		}
		f.Sources, f.Here = []string{name}, name
		return f
	}
	if dir, err := os.UserConfigDir(); err == nil {
		for _, name := range defaultNames {
			path := filepath.Join(dir, "mitogend", strings.TrimPrefix(name, "mitogend-"))
			if _, err := os.Stat(path); err == nil {
				f.Sources = []string{path}
				return f
			}
		}
	}
	return f
}

// Find gives the sources that Look finds, nil when there is none.
func Find() []string { return Look().Sources }

// load reads one source.
func (inv *Inventory) load(source string) error {
	if strings.Contains(source, ",") {
		if _, err := os.Stat(source); err != nil {
			return inv.readList(source)
		}
	}
	info, err := os.Stat(source)
	if err != nil {
		return fileError(source, err)
	}
	if !info.IsDir() {
		inv.addDir(filepath.Dir(source))
		return inv.loadFile(source, info)
	}
	inv.addDir(source)
	files, err := listDir(source)
	if err != nil {
		return err
	}
	for _, file := range files {
		if info, err = os.Stat(file); err != nil {
			return fileError(file, err)
		}
		if err := inv.loadFile(file, info); err != nil {
			return err
		}
	}
	return nil
}

func (inv *Inventory) addDir(dir string) {
	if !slices.Contains(inv.dirs, dir) {
		inv.dirs = append(inv.dirs, dir)
	}
}

func (inv *Inventory) readList(source string) error {
	for _, name := range strings.Split(source, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if err := inv.addHosts(inv.group(groupUngrouped), name, nil, position{file: source}); err != nil {
			return err
		}
	}
	return nil
}

func fileError(path string, err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	return errorf("%s: %w", path, err)
}

// skipped are endings of files in a directory that are no sources.
var skipped = []string{"~", ".bak", ".orig", ".swp", ".pyc", ".pyo", ".cfg", ".retry", ".rpm", ".md", ".txt"}

// listDir gives the files of a directory that count, sorted.
func listDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fileError(dir, err)
	}
	var files []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || strings.HasPrefix(e.Name(), ".") ||
			slices.ContainsFunc(skipped, func(end string) bool { return strings.HasSuffix(e.Name(), end) }) {
			continue
		}
		files = append(files, path)
	}
	return files, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fileError(path, err)
	}
	if len(data) > maxFile {
		return nil, errorf("%s: it is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

// loadFile tells a file's format.
func (inv *Inventory) loadFile(path string, info fs.FileInfo) error {
	ext := filepath.Ext(path)
	known := ext == ".yaml" || ext == ".yml" || ext == ".json" || ext == ".ini"
	if info.Mode()&0o111 != 0 && !known {
		return inv.runScript(path)
	}
	data, err := readFile(path)
	if err != nil {
		return err
	}
	return inv.open(path, data, func(data []byte) error {
		if known && ext != ".ini" || !known && looksLikeYAML(data) {
			return inv.readYAML(path, data)
		}
		return inv.readINI(path, data)
	})
}

// looksLikeYAML judges by the first line that says something.
func looksLikeYAML(data []byte) bool {
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		return text == "---" || text[0] == '{' || strings.HasPrefix(text, "%YAML") || strings.HasSuffix(text, ":")
	}
	return false
}
