package requirements

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

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
	uvTold, pipTold := told(uvIs, env), told(pipIs, env)
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
	pipSays := byPip(ctx, r, p, env, part)
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

// A tool has settings in its environment and in files.
type tool struct {
	prefix string
	files  func(get func(string) string) []string
}

var uvIs = tool{"UV_", func(get func(string) string) []string {
	if isSet(get("UV_NO_CONFIG")) {
		return nil
	}
	files := []string{filepath.Join(configHome(get), "uv", "uv.toml")}
	for _, dir := range configDirs(get) {
		files = append(files, filepath.Join(dir, "uv", "uv.toml"))
	}
	return append(files, filepath.Join(etc, "uv", "uv.toml"))
}}

var pipIs = tool{"PIP_", func(get func(string) string) []string {
	if get("PIP_CONFIG_FILE") == os.DevNull {
		return nil
	}
	files := []string{filepath.Join(etc, "pip.conf"), filepath.Join(get("HOME"), ".pip", "pip.conf"), filepath.Join(configHome(get), "pip", "pip.conf")}
	for _, dir := range configDirs(get) {
		files = append(files, filepath.Join(dir, "pip", "pip.conf"))
	}
	if venv := get("VIRTUAL_ENV"); venv != "" {
		files = append(files, filepath.Join(venv, "pip.conf"))
	}
	return files
}}

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
const (
	settings = `default-index|index|index-url|extra-index-url|find-links|no-index|offline|index-strategy|constraint|constraints|` +
		`constraint-dependencies|override|override-dependencies|exclude-newer|uploaded-prior-to|require-hashes|pre|prerelease|config-file`
	maxSettings = 1 << 20
)

var (
	settingName = regexp.MustCompile(`^(?:` + settings + `)$`)
	settingLine = regexp.MustCompile(`(?mi)^[ \t]*(?:\[\[[ \t]*(?:pip\.)?index[ \t]*\]\]|(?:` + settings + `)[ \t]*[=:])`)
)

// told gives the name of a variable or file that tells a tool where to look, or what to take; "" if there is none.
func told(t tool, env []string) string {
	values := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		values[name] = value
	}
	found := ""
	for name, value := range values {
		setting, ok := strings.CutPrefix(name, t.prefix)
		setting = strings.ToLower(strings.ReplaceAll(setting, "_", "-"))
		if ok && settingName.MatchString(setting) && isSet(value) && value != os.DevNull && (found == "" || name < found) {
			found = name
		}
	}
	if found != "" {
		return found
	}
	for _, file := range t.files(func(name string) string { return values[name] }) {
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxSettings {
			continue
		}
		if data, err := os.ReadFile(file); err == nil && settingLine.Match(data) {
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
