package requirements

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"mitogend/importer"
)

// errMissing: that program is not on this machine.
var errMissing = errors.New("it is not there")

// unable says why uv finds nothing for a target, whatever is needed.
type unable struct{ why string }

func (u unable) Error() string { return "uv finds no wheels for " + u.why }

const tellPip = "tell pip as well, by PIP_INDEX_URL or PIP_FIND_LINKS"

const install = "install it (python3 -m ensurepip, or the package python3-pip), or put wheels into a directory and name it with --wheels"

// find fills part. uv is asked first. But where the user has told only one of the two where to look, the other is not asked: it would
// look elsewhere, where somebody else may have put a project of the same name.
func find(ctx context.Context, r importer.Requirements, p importer.Platform, env []string, part string) error {
	python, prefix, others, noPip := pip(ctx, p.Version, env)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	uvTold, pipTold := told(uvIs, env, ""), told(pipIs, env, prefix)
	unread := unreadBy(prefix, others, env)
	if pipTold == "" {
		pipTold = unread
	}
	if noPip == nil && unread != "" {
		noPip = fmt.Errorf("pip runs under %s here, which does not read %s: make PIP_CONFIG_FILE name the file whose settings count", python[0], unread)
	}
	onlyUV, onlyPip := uvTold != "" && pipTold == "", pipTold != "" && uvTold == ""
	uvSays := errMissing
	if !onlyPip {
		if uvSays = byUV(ctx, r, p, env, part); uvSays == nil || ctx.Err() != nil {
			return uvSays
		}
		// What it has left is not pip's.
		if err := os.RemoveAll(filepath.Join(part, importer.Site)); err != nil {
			return err
		}
	}
	cannot := errors.As(uvSays, new(unable))
	switch {
	case !onlyUV:
	case errors.Is(uvSays, errMissing):
		return fmt.Errorf("there is no uv on PATH, of version %s or later, which %s tells where to look: %s", oldestUV, uvTold, tellPip)
	case cannot:
		return fmt.Errorf("%w, and only uv is told where to look, by %s: %s", uvSays, uvTold, tellPip)
	default:
		return uvSays
	}
	pipSays := noPip
	if noPip == nil {
		pipSays = byPip(ctx, python, r, p, env, part)
	}
	switch {
	case pipSays == nil || ctx.Err() != nil:
		return pipSays
	case !errors.Is(pipSays, errMissing):
		if uvSays == errMissing || cannot {
			return pipSays
		}
		return fmt.Errorf("%w; %w", uvSays, pipSays)
	case onlyPip:
		return fmt.Errorf("there is no pip on this machine, of version 20.3 or later, which %s tells where to look: %s", pipTold, install)
	case uvSays == errMissing:
		return fmt.Errorf("there is neither uv, of version %s or later, nor pip, of 20.3 or later, on this machine, that would find them: %s",
			oldestUV, strings.Replace(install, "install it", "install one", 1))
	case cannot:
		return fmt.Errorf("%w, and there is no pip on this machine, of version 20.3 or later, that would: %s", uvSays, install)
	}
	return uvSays
}

// etc is another directory in tests only.
var etc = "/etc"

// A tool has settings in its environment and in files. prefix is sys.prefix of the Python that it runs under, if it is known.
type tool struct {
	variables string // how their names begin
	files     func(get func(string) string, prefix string) []string
	tells     func(file []byte) bool
}

var uvIs = tool{"UV_", func(get func(string) string, _ string) []string {
	if isSet(get("UV_NO_CONFIG")) {
		return nil
	}
	files := []string{filepath.Join(configHome(get), "uv", "uv.toml")}
	for _, dir := range configDirs(get) {
		files = append(files, filepath.Join(dir, "uv", "uv.toml"))
	}
	return append(files, filepath.Join(etc, "uv", "uv.toml"))
}, uvTells}

var pipIs = tool{"PIP_", func(get func(string) string, prefix string) []string {
	if get("PIP_CONFIG_FILE") == os.DevNull {
		return nil
	}
	files := []string{filepath.Join(etc, "pip.conf"), filepath.Join(get("HOME"), ".pip", "pip.conf"), filepath.Join(configHome(get), "pip", "pip.conf")}
	for _, dir := range configDirs(get) {
		files = append(files, filepath.Join(dir, "pip", "pip.conf"))
	}
	if prefix != "" {
		files = append(files, filepath.Join(prefix, "pip.conf"))
	}
	return files
}, pipTells}

// unreadBy gives a file of another Python, or of the environment that is active, which tells pip where to look, where the pip under prefix
// does not read it, nor one like it, and the variables leave that open.
func unreadBy(prefix string, others, env []string) string {
	values := valuesOf(env)
	file := values["PIP_CONFIG_FILE"]
	if file == os.DevNull || file != "" && pipTells(settingsIn(file)) || isSet(values["PIP_INDEX_URL"]) || isSet(values["PIP_NO_INDEX"]) {
		return ""
	}
	var own []byte
	if prefix != "" {
		own = settingsIn(filepath.Join(prefix, "pip.conf"))
	}
	for _, dir := range append([]string{values["VIRTUAL_ENV"], values["CONDA_PREFIX"]}, others...) {
		if dir == "" {
			continue
		}
		file := filepath.Join(dir, "pip.conf")
		if data := settingsIn(file); pipTells(data) && !bytes.Equal(data, own) {
			return file
		}
	}
	return ""
}

// settingsIn reads a file of settings; nil if there is none.
func settingsIn(file string) []byte {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxSettings {
		return nil
	}
	data, _ := os.ReadFile(file)
	return data
}

func valuesOf(env []string) map[string]string {
	values := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		values[name] = value
	}
	return values
}

func configHome(get func(string) string) string {
	if dir := get("XDG_CONFIG_HOME"); dir != "" {
		return dir
	}
	return filepath.Join(get("HOME"), ".config")
}

func configDirs(get func(string) string) []string {
	if dirs := get("XDG_CONFIG_DIRS"); dirs != "" {
		return filepath.SplitList(dirs)
	}
	return []string{filepath.Join(etc, "xdg")}
}

// The settings, of either, that decide which projects are found. Of others, such as a certificate or a proxy, the worst is an error.
var settings = strings.Fields(`default-index index index-url pypi-url extra-index-url find-links no-index offline index-strategy
	constraint constraints constraint-dependencies override override-dependencies requirement exclude-newer exclude-newer-package
	uploaded-prior-to require-hashes pre prerelease config-file`)

const maxSettings = 1 << 20

// isSetting takes names as pip does: in any case, with underscores, and in files with dashes before them.
func isSetting(name string) bool {
	return slices.Contains(settings, strings.TrimPrefix(strings.ReplaceAll(strings.ToLower(name), "_", "-"), "--"))
}

var pipLine = regexp.MustCompile(`(?m)^[ \t]*([A-Za-z_-]+)[ \t]*[=:]`)

// pipTells looks in all sections of a pip.conf.
func pipTells(file []byte) bool {
	// Its reader takes a lone CR for a line end.
	for _, m := range pipLine.FindAllSubmatch(bytes.ReplaceAll(file, []byte("\r"), []byte("\n")), -1) {
		if isSetting(string(m[1])) {
			return true
		}
	}
	return false
}

// uvTells looks in a uv.toml, and in its table for uv pip. What cannot be read may tell anything: uv will say what is wrong with it.
func uvTells(file []byte) bool {
	var all map[string]any
	if toml.Unmarshal(file, &all) != nil {
		return true
	}
	pip, _ := all["pip"].(map[string]any)
	for _, table := range []map[string]any{all, pip} {
		for name := range table {
			if isSetting(name) {
				return true
			}
		}
	}
	return false
}

// told gives the name of a variable or file that tells a tool where to look, or what to take; "" if there is none.
func told(t tool, env []string, prefix string) string {
	values := valuesOf(env)
	found := ""
	for name, value := range values {
		setting, ok := strings.CutPrefix(name, t.variables)
		if ok && isSetting(setting) && isSet(value) && value != os.DevNull && (found == "" || name < found) {
			found = name
		}
	}
	if found != "" {
		return found
	}
	for _, file := range t.files(func(name string) string { return values[name] }, prefix) {
		if data := settingsIn(file); data != nil && t.tells(data) {
			return file
		}
	}
	return ""
}

func isSet(value string) bool {
	switch strings.ToLower(value) {
	case "", "0", "false", "no", "off":
		return false
	}
	return true
}
