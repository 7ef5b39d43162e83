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
	return inv.loadDir(source, 0)
}

// loadDir reads the sources in a directory, and those in directories below it, sorted.
func (inv *Inventory) loadDir(dir string, depth int) error {
	entries, err := listDir(dir, depth)
	if err != nil {
		return err
	}
	programs := map[string]bool{}
	for _, e := range entries {
		programs[stem(e.path)] = programs[stem(e.path)] || isProgram(e.path, e.info)
	}
	for _, e := range entries {
		name := filepath.Base(e.path)
		switch {
		case slices.Contains(notSources, name), slices.ContainsFunc(skipped, func(end string) bool {
			return strings.HasSuffix(name, end)
		}):
		case e.info.IsDir():
			err = inv.loadDir(e.path, depth+1)
		case filepath.Ext(name) == ".ini" && programs[stem(e.path)]: // the program's own settings
		default:
			err = inv.loadFile(e.path, e.info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stem is a path without its extension.
func stem(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) }

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

// skipped are endings of names in a directory that are no sources: those of Ansible's INVENTORY_IGNORE_EXTS.
var skipped = []string{
	"~", ".bak", ".orig", ".swp", ".pyc", ".pyo", ".cfg", ".retry", ".rpm", ".md", ".txt", ".rst",
}

// notSources are what Ansible keeps beside sources.
var notSources = []string{"group_vars", "host_vars", "vars_plugins"}

// maxDirs bounds directories in directories: a link may lead back.
const maxDirs = 20

type entry struct {
	path string
	info fs.FileInfo // of what a link leads to
}

// listDir gives what is in a directory, sorted, but for what is hidden and for links to nothing.
func listDir(dir string, depth int) ([]entry, error) {
	if depth > maxDirs {
		return nil, errorf("%s: directories are nested more than %d deep", dir, maxDirs)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fileError(dir, err)
	}
	var list []entry
	for _, e := range names {
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err == nil && !strings.HasPrefix(e.Name(), ".") {
			list = append(list, entry{path, info})
		}
	}
	return list, nil
}

// variableExts are the endings of files with variables; in a directory, a file with any other is something else.
var variableExts = []string{"", ".yml", ".yaml", ".json"}

// variableFiles gives the files with the variables of a group or host, sorted: as Ansible, the first that exists of
// the name itself and the name with an ending; of a directory, all that is in it and below.
func variableFiles(base string) ([]string, error) {
	for _, ext := range variableExts {
		info, err := os.Stat(base + ext)
		switch {
		case err != nil:
		case info.IsDir():
			return variablesBelow(base+ext, 0)
		default:
			return []string{base + ext}, nil
		}
	}
	return nil, nil
}

func variablesBelow(dir string, depth int) ([]string, error) {
	entries, err := listDir(dir, depth)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		ext := filepath.Ext(e.path)
		switch {
		case strings.HasSuffix(e.path, "~"):
		case e.info.IsDir() && ext == "":
			more, err := variablesBelow(e.path, depth+1)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
		case e.info.Mode().IsRegular() && slices.Contains(variableExts, ext):
			files = append(files, e.path)
		}
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

// knownExts are the endings that tell a format, whatever the file's mode.
var knownExts = []string{".yaml", ".yml", ".json", ".ini"}

func isProgram(path string, info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !slices.Contains(knownExts, filepath.Ext(path))
}

// loadFile tells a file's format.
func (inv *Inventory) loadFile(path string, info fs.FileInfo) error {
	var err error
	if inv.source, err = filepath.Abs(path); err != nil {
		return fileError(path, err)
	}
	defer func() { inv.source = "" }()
	if isProgram(path, info) {
		return inv.runScript(path)
	}
	ext := filepath.Ext(path)
	known := slices.Contains(knownExts, ext)
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
