package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	yaml "go.yaml.in/yaml/v3"

	"mitogend/bootstrap"
	"mitogend/bootstrap/builds"
	"mitogend/daemon"
	"mitogend/daemon/control"
	"mitogend/daemon/inventory"
	"mitogend/daemon/pool"
	"mitogend/importer"
	"mitogend/internal/fault"
)

// settings configure serve. Each has a key in mitogend.yaml, a flag and an environment variable of the same name. A
// flag wins over the environment, and the environment wins over the file.
type settings struct {
	listen, http     string
	pprof            bool
	path             []string
	venv             string
	libs             []string
	unpack           []string
	compilers        []string
	wheels           []string
	constraints      []string
	pythonFrom       []string
	pythonDir        string
	keepPython       bool
	allow, deny      []string
	runtime          string
	inventory        []string
	vaultFiles       []string
	idleTime         time.Duration
	maxConnections   int
	perTarget        int
	maxClients       int
	maxMessage       int
	maxPending       int
	stallTime, grace time.Duration
	logLevel         string
	logLevels        []string
	logFormat        string
	logFile          string
	trace            string
	otlpEndpoint     string

	// from says where a value was set, by key. A key that is not there has the default.
	from map[string]string
}

// setting is one of the settings.
type setting struct {
	key, usage string
	value      func(*settings) any // a pointer
	file       bool                // it is a path; in the configuration file it is relative to that file's directory
	commas     bool                // commas separate several paths, too
	fixed      bool                // a reload does not change it
}

// settingList has all settings, in the order in which they are shown.
var settingList = []setting{
	{key: "listen", usage: "`DIR`ectory for the sockets (default $XDG_RUNTIME_DIR/mitogend, else ~/.cache/mitogend)", file: true, fixed: true, value: func(s *settings) any { return &s.listen }},
	{key: "http", usage: "serve metrics and health on this `HOST:PORT`, as 127.0.0.1:9101 (default off)", fixed: true, value: func(s *settings) any { return &s.http }},
	{key: "pprof", usage: "serve profiles of the daemon on pprof.sock beside the other sockets", fixed: true, value: func(s *settings) any { return &s.pprof }},
	{key: "path", usage: "`DIR`ectory, zip, egg or wheel file to look modules up in, for clients that name none; repeatable", file: true, value: func(s *settings) any { return &s.path }},
	{key: "venv", usage: "virtual environment `DIR` whose site-packages follow", file: true, value: func(s *settings) any { return &s.venv }},
	{key: "libs", usage: "send such clients' targets the libraries that extension modules need and they lack, from `DIRS`; system stands for this machine's own", file: true, commas: true, value: func(s *settings) any { return &s.libs }},
	{key: "wheels", usage: "directories of wheels, of which such clients' targets are served what fits them, behind path; `DIR`, repeatable", file: true, value: func(s *settings) any { return &s.wheels }},
	{key: "constraint", usage: "take versions of wheels that constraint `FILE` allows, as pip does; repeatable", file: true, value: func(s *settings) any { return &s.constraints }},
	{key: "python_from", usage: "send a target that has no Python the one of these that fits it: a `BUILD` is a directory with bin and lib, a directory of such, or a tar file; repeatable", file: true, value: func(s *settings) any { return &s.pythonFrom }},
	{key: "python_dir", usage: "unpack it in this `DIR`ectory of the target (default: one that is in memory)", value: func(s *settings) any { return &s.pythonDir }},
	{key: "keep_python", usage: "leave it there for the next connection", value: func(s *settings) any { return &s.keepPython }},
	{key: "unpack", usage: "unpack these `PACKAGES` in the memory of such clients' targets, for code that needs files on a disk; repeatable, comma-separated", value: func(s *settings) any { return &s.unpack }},
	{key: "compilers", usage: "interpreters of this machine that may compile what is served, besides those on PATH and those of local targets; `FILE` or pattern, repeatable", file: true, fixed: true, value: func(s *settings) any { return &s.compilers }},
	{key: "allow", usage: "serve only these `MODULES` to such clients; repeatable, comma-separated", value: func(s *settings) any { return &s.allow }},
	{key: "deny", usage: "never serve these `MODULES` to such clients; repeatable, comma-separated", value: func(s *settings) any { return &s.deny }},
	{key: "runtime", usage: "what the children of such clients run, and of programs on mitogen.sock whose own Mitogen is not found: embedded, mitogen (on path, or python3's) or mitogen:DIR", fixed: true, value: func(s *settings) any { return &s.runtime }},
	{key: "inventory", usage: "`FILE`, program or directory that lists hosts, or names with commas, for targets of clients of the socket that are names; repeatable", file: true, value: func(s *settings) any { return &s.inventory }},
	{key: "vault_password_file", usage: "`FILE` with the password of what ansible-vault has encrypted there, LABEL@FILE for those of a label, or a program that prints it; repeatable", file: true, value: func(s *settings) any { return &s.vaultFiles }},
	{key: "idle_time", usage: "keep a connection that nobody uses for this long", value: func(s *settings) any { return &s.idleTime }},
	{key: "max_connections", usage: "close connections that nobody uses beyond this number", value: func(s *settings) any { return &s.maxConnections }},
	{key: "per_target", usage: "connections with one target at most, when calls on it take long", value: func(s *settings) any { return &s.perTarget }},
	{key: "max_clients", usage: "clients at once", fixed: true, value: func(s *settings) any { return &s.maxClients }},
	{key: "max_message", usage: "largest argument or result, in bytes", fixed: true, value: func(s *settings) any { return &s.maxMessage }},
	{key: "max_pending", usage: "bytes that may wait for one child to read", fixed: true, value: func(s *settings) any { return &s.maxPending }},
	{key: "stall_time", usage: "how long a child or client may take nothing of what waits for it", fixed: true, value: func(s *settings) any { return &s.stallTime }},
	{key: "grace", usage: "how long running work may take when the daemon is stopped", value: func(s *settings) any { return &s.grace }},
	{key: "log_level", usage: "debug, info, warn or error", value: func(s *settings) any { return &s.logLevel }},
	{key: "log_levels", usage: "levels of components, as pool=debug; repeatable, comma-separated (" + strings.Join(control.Components, ", ") + ")", value: func(s *settings) any { return &s.logLevels }},
	{key: "log_format", usage: "console, json, or auto: console on a terminal", fixed: true, value: func(s *settings) any { return &s.logFormat }},
	{key: "log_file", usage: "append the log to this `FILE` (default stderr)", file: true, fixed: true, value: func(s *settings) any { return &s.logFile }},
	{key: "otlp_endpoint", usage: "send OpenTelemetry spans of calls and imports to this address, as http://127.0.0.1:4318 (default off)", fixed: true, value: func(s *settings) any { return &s.otlpEndpoint }},
	{key: "trace", usage: "write every frame to this `FILE`, secrets masked", file: true, fixed: true, value: func(s *settings) any { return &s.trace }},
}

func (s setting) flag() string { return strings.ReplaceAll(s.key, "_", "-") }

func (s setting) env() string { return "MITOGEND_" + strings.ToUpper(s.key) }

// list tells whether the setting has several values.
func (s setting) list() bool {
	_, ok := s.value(&settings{}).(*[]string)
	return ok
}

func defaultSettings() *settings {
	return &settings{
		idleTime: pool.DefaultIdle, maxConnections: pool.DefaultMax(), perTarget: pool.DefaultPerTarget, maxClients: control.DefaultMaxClients,
		maxMessage: 128 << 20, maxPending: 4 << 20, stallTime: time.Minute, grace: control.DefaultGrace,
		runtime: "embedded", logLevel: "info", logFormat: "auto", from: map[string]string{},
	}
}

// separator stands between several values in one text; "" if a text is one value.
func (s setting) separator(env bool) string {
	switch {
	case !s.file || s.commas:
		return ","
	case env:
		return string(filepath.ListSeparator)
	}
	return ""
}

// set sets values that are given as text: one, or several for a list.
func (s setting) set(to *settings, texts []string, dir string) error {
	if len(texts) != 1 && !s.list() {
		return fmt.Errorf("%s: one value is wanted", s.key)
	}
	if s.file {
		for i, text := range texts {
			noPath := s.key == "inventory" && strings.Contains(text, ",") || s.key == "libs" && text == importer.LibsSystem
			label := ""
			if s.key == "vault_password_file" {
				if label, text = vaultLabel(text); label != "" {
					label += "@"
				}
			}
			if text != "" && !filepath.IsAbs(text) && !noPath {
				texts[i] = label + filepath.Join(dir, text)
			}
		}
	}
	var err error
	switch v := s.value(to).(type) {
	case *string:
		*v = texts[0]
		if rest, ok := strings.CutPrefix(*v, "mitogen:"); ok && s.key == "runtime" && rest != "" && !filepath.IsAbs(rest) {
			*v = "mitogen:" + filepath.Join(dir, rest)
		}
	case *[]string:
		*v = texts
	case *bool:
		*v, err = strconv.ParseBool(texts[0])
	case *int:
		*v, err = strconv.Atoi(texts[0])
	case *time.Duration:
		*v, err = bootstrap.ParseDuration(texts[0])
	}
	if err != nil {
		return fmt.Errorf("%s: %q is no %s", s.key, texts[0], map[bool]string{true: "number, true or false", false: "duration such as 90s or 10m"}[!s.duration()])
	}
	return nil
}

func (s setting) duration() bool {
	_, ok := s.value(&settings{}).(*time.Duration)
	return ok
}

// check refuses values that make no sense.
func (s *settings) check() error {
	for _, n := range []struct {
		key string
		ok  bool
		why string
	}{
		{"max_connections", s.maxConnections > 0, "must be greater than 0"},
		{"per_target", s.perTarget > 0, "must be greater than 0"},
		{"max_clients", s.maxClients > 0, "must be greater than 0"},
		{"max_message", s.maxMessage >= 1<<20 && s.maxMessage <= 1<<30, "must be from 1 MiB to 1 GiB"},
		{"max_pending", s.maxPending >= 64<<10, "must be at least 64 KiB"},
		{"stall_time", s.stallTime > 0, "must be greater than 0"},
		{"grace", s.grace > 0, "must be greater than 0"},
		{"log_format", slices.Contains([]string{"auto", "console", "json"}, s.logFormat), "must be auto, console or json"},
	} {
		if !n.ok {
			return fmt.Errorf("%s: %s", n.key, n.why)
		}
	}
	if err := checkRuntime(s.runtime); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if s.otlpEndpoint != "" {
		if err := control.CheckEndpoint(s.otlpEndpoint); err != nil {
			return fmt.Errorf("otlp_endpoint: %w", err)
		}
	}
	if _, err := s.levels(); err != nil {
		return err
	}
	if err := checkWheels(s.wheels); err != nil {
		return err
	}
	if _, err := builds.Open(s.pythonFrom); err != nil {
		return fmt.Errorf("python_from: %w", err)
	}
	if dir := s.pythonDir; dir != "" && (dir[0] != '/' || strings.ContainsAny(dir, "\n\r\x00")) {
		return fmt.Errorf("python_dir: %q is no absolute path", dir)
	}
	_, err := importer.New(s.source())
	return err
}

// hosts reads the inventory. It gives nil if there is none.
func (s *settings) hosts(ctx context.Context) (*inventory.Inventory, error) {
	if len(s.inventory) == 0 {
		return nil, nil
	}
	// Hosts are looked up later as well, when ctx may have ended.
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	inv, err := interruptible(ctx, func() (*inventory.Inventory, error) {
		return inventory.Open(alive, inventory.Found{Sources: s.inventory, Vault: vaultPasswords(s.vaultFiles)})
	})
	if !stop() || err != nil {
		cancel()
	}
	if err != nil {
		return nil, fmt.Errorf("inventory: %s", fault.Plain(err))
	}
	return inv, nil
}

// levels gives the log levels.
func (s *settings) levels() (*control.Levels, error) {
	level, err := control.ParseLevel(s.logLevel)
	if err != nil {
		return nil, fmt.Errorf("log_level: %w", err)
	}
	l := control.NewLevels(level)
	for _, entry := range s.logLevels {
		component, name, ok := strings.Cut(entry, "=")
		if !ok || component == "" {
			return nil, fmt.Errorf("log_levels: %q is not COMPONENT=LEVEL", entry)
		}
		if err := l.Set(component, name); err != nil {
			return nil, fmt.Errorf("log_levels: %w", err)
		}
	}
	return l, nil
}

// source says what is served for clients that name nothing.
func (s *settings) source() importer.Options {
	return importer.Options{
		Path: s.path, Venv: s.venv, Policy: importer.Policy{Allow: s.allow, Deny: s.deny}, Libs: s.libs, Unpack: s.unpack,
		Wheels: s.wheels, Constraints: s.constraints,
	}
}

// poolOptions gives the pool's options that a reload can change.
func (s *settings) poolOptions() pool.Options {
	o := pool.Options{
		Source: s.source(), PythonFrom: daemon.PythonFrom{Builds: s.pythonFrom, Dir: s.pythonDir, Keep: s.keepPython},
		Idle: s.idleTime, Max: s.maxConnections, PerTarget: s.perTarget,
	}
	if o.Idle == 0 {
		o.Idle = -1 // 0 is the pool's default; the user means none
	}
	return o
}

// settingFlags are the flags of serve and of config.
type settingFlags struct {
	file   string
	values map[string]*flagValue
}

// flagValue is the flag of one setting.
type flagValue struct {
	s     setting
	texts []string
}

func (v *flagValue) String() string { return strings.Join(v.texts, ",") }

func (v *flagValue) Type() string {
	switch v.s.value(&settings{}).(type) {
	case *bool:
		return "bool"
	case *int:
		return "int"
	case *time.Duration:
		return "duration"
	}
	return "string"
}

// Set implements pflag.Value.
func (v *flagValue) Set(text string) error {
	texts := []string{text}
	if sep := v.s.separator(false); v.s.list() && sep != "" {
		texts = strings.Split(text, sep)
	}
	if v.s.list() {
		v.texts = append(v.texts, texts...)
	} else {
		v.texts = texts
	}
	return v.s.set(defaultSettings(), slices.Clone(texts), "")
}

func (f *settingFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.file, "config", "", "configuration `FILE` (default $MITOGEND_CONFIG, else ~/.config/mitogend/mitogend.yaml, else /etc/mitogend/mitogend.yaml)")
	f.values = map[string]*flagValue{}
	for _, s := range settingList {
		v := &flagValue{s: s}
		f.values[s.key] = v
		short := ""
		if s.key == "path" {
			short = "I"
		}
		if s.key == "inventory" {
			short = "i"
		}
		usage := s.usage
		if d := fmt.Sprint(shown(s, defaultSettings())); d != "" && d != "[]" && d != "false" {
			usage += " (default " + d + ")"
		}
		fl := fs.VarPF(v, s.flag(), short, usage)
		if v.Type() == "bool" {
			fl.NoOptDefVal = "true"
		}
	}
}

// load reads the file, the environment and the flags, and checks the result.
func (f *settingFlags) load() (*settings, error) {
	out := defaultSettings()
	file, given := f.path()
	if file != "" {
		if err := out.readFile(file); err != nil && (given || !errors.Is(err, fs.ErrNotExist)) {
			return nil, usagef("%s: %w", file, cause(err))
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for _, s := range settingList {
		if text, ok := os.LookupEnv(s.env()); ok && text != "" {
			texts := []string{text}
			if s.list() {
				sep := s.separator(true)
				texts = strings.FieldsFunc(text, func(r rune) bool { return string(r) == sep })
			}
			if err := s.set(out, texts, cwd); err != nil {
				return nil, usagef("$%s: %w", s.env(), err)
			}
			out.from[s.key] = "$" + s.env()
			if s.key == "otlp_endpoint" {
				bootstrap.HideEnv(s.env()) // it may hold a password
			}
		}
		if v := f.values[s.key]; v.texts != nil {
			if err := s.set(out, slices.Clone(v.texts), cwd); err != nil {
				return nil, usagef("--%s: %w", s.flag(), err)
			}
			out.from[s.key] = "--" + s.flag()
		}
	}
	if err := out.check(); err != nil {
		return nil, usagef("configuration: %w", err)
	}
	return out, nil
}

// path gives the configuration file. given says that the user has named it.
func (f *settingFlags) path() (file string, given bool) {
	if f.file != "" {
		return f.file, true
	}
	if file := os.Getenv("MITOGEND_CONFIG"); file != "" {
		return file, true
	}
	if dir, err := os.UserConfigDir(); err == nil {
		if file = filepath.Join(dir, "mitogend", "mitogend.yaml"); exists(file) {
			return file, false
		}
	}
	return "/etc/mitogend/mitogend.yaml", false
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// maxConfig bounds the file, so that a wrong path gives an error and does not fill the memory.
const maxConfig = 1 << 20

// readFile sets what a file says.
func (s *settings) readFile(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return errors.New("it is no configuration file: not a regular one, or larger than 1 MiB")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return err
	}
	if len(doc.Content) == 0 {
		return nil // an empty file
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: KEY: VALUE is wanted", top.Line)
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		at := slices.IndexFunc(settingList, func(d setting) bool { return d.key == key.Value })
		switch {
		case at < 0:
			return fmt.Errorf("line %d: there is no key %q; mitogend config show lists them", key.Line, key.Value)
		case seen[key.Value]:
			return fmt.Errorf("line %d: %s is there twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		texts, err := yamlTexts(value)
		if err == nil {
			err = settingList[at].set(s, texts, dir)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", value.Line, err)
		}
		s.from[key.Value] = file
	}
	return nil
}

// yamlTexts gives a value as texts. The value is a scalar, a list of scalars, or a map, whose entries become KEY=VALUE.
func yamlTexts(n *yaml.Node) ([]string, error) {
	switch {
	case n.Kind == yaml.AliasNode:
		return yamlTexts(n.Alias)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil, errors.New("the value is empty")
	case n.Kind == yaml.ScalarNode:
		return []string{n.Value}, nil
	}
	out := []string{}
	for i, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return nil, errors.New("a value, a list of values or a map of values is wanted")
		}
		if n.Kind == yaml.MappingNode && i%2 == 1 {
			out[len(out)-1] += "=" + item.Value
			continue
		}
		out = append(out, item.Value)
	}
	return out, nil
}

// shown gives a setting's value as YAML and people read it.
func shown(s setting, of *settings) any {
	switch v := s.value(of).(type) {
	case *string:
		return *v
	case *[]string:
		return *v
	case *bool:
		return *v
	case *int:
		return *v
	case *time.Duration:
		text := v.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = text[:len(text)-2]
			}
		}
		return text
	}
	return nil
}

// socketDir is the directory of the sockets.
func (s *settings) socketDir() (string, error) {
	if s.listen != "" {
		return s.listen, nil
	}
	dir, err := control.DefaultDir()
	if err != nil {
		return "", usageError{plain(err)}
	}
	return dir, nil
}
