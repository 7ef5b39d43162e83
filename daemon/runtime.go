package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/internal/fault"
	"mitogend/pyproto"
	"mitogend/python"
)

// Runtime is an installed Mitogen that children run in place of our own runtime. It is read once and does not change.
type Runtime struct {
	// Dir is the directory that has the package mitogen.
	Dir string
	// Version is Mitogen's, as (0, 3, 3).
	Version []int

	core    string
	version []any // with what follows the numbers: (0, 3, 52, 'dev')
	modules map[string]importer.Virtual
	digest  string
	imp     bool // the core needs the module imp, which Python 3.12 has no more
}

// The first releases with another dialect; see docs/protocol.md.
var (
	versionOldest = []int{0, 2, 10}
	versionPKL    = []int{0, 3, 39} // enc PKL and BIN

	versionSudoPrompt = []int{0, 3, 49} // sudo -p
)

// maxRuntimeFile bounds one file of an installed Mitogen.
const maxRuntimeFile = 4 << 20

var (
	versionLine = regexp.MustCompile(`(?m)^__version__\s*=\s*\(([^)\n]+)`)
	importsImp  = regexp.MustCompile(`(?m)^import imp\b`)
	nonBlocking = regexp.MustCompile(`(?m)^def set_nonblock\b`)             // the child's stdio does not block
	strippable  = regexp.MustCompile(`(?m)^\s*#\s*!mitogen:\s*minify_safe`) // Mitogen's master strips what says so
	stageCall   = regexp.MustCompile(`(?m)^class ExternalContext\b`)
)

func runtimeErrorf(format string, args ...any) error {
	return fault.Errorf("daemon: runtime mitogen", format, args...)
}

// LoadRuntime reads the Mitogen in dir, which has the package mitogen or is it.
func LoadRuntime(dir string) (*Runtime, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, runtimeErrorf("%w", err)
	}
	root := filepath.Join(dir, "mitogen")
	if _, err := os.Stat(filepath.Join(root, "core.py")); errors.Is(err, fs.ErrNotExist) && filepath.Base(dir) == "mitogen" {
		root, dir = dir, filepath.Dir(dir)
	}
	r := &Runtime{Dir: dir, modules: map[string]importer.Virtual{}}
	sources := map[string][]byte{}
	if err := r.read(root, "mitogen", sources); err != nil {
		return nil, runtimeErrorf("%w", err)
	}
	return r, r.check(root, sources)
}

// read collects the package's modules, and their sources by name.
func (r *Runtime) read(dir, name string, sources map[string][]byte) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		base, isPython := strings.CutSuffix(e.Name(), ".py")
		switch {
		case e.IsDir():
			if _, err := os.Stat(filepath.Join(path, "__init__.py")); err == nil {
				if err := r.read(path, name+"."+e.Name(), sources); err != nil {
					return err
				}
			}
			continue
		case !isPython:
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Size() > maxRuntimeFile {
			return fmt.Errorf("%s has %d bytes; at most %d are read", path, info.Size(), maxRuntimeFile)
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		module := name + "." + base
		if base == "__init__" {
			module = name
		}
		sources[module] = source
		r.modules[module] = importer.NewVirtual(path, module == name, func() []byte {
			if strippable.Match(source) {
				return []byte(python.Strip(string(source)))
			}
			return source
		})
	}
	return nil
}

func (r *Runtime) check(root string, sources map[string][]byte) error {
	core := sources["mitogen.core"]
	if core == nil || !stageCall.Match(core) || sources["mitogen"] == nil {
		return runtimeErrorf("%s is no Mitogen: its core.py or __init__.py is missing or not Mitogen's", root)
	}
	m := versionLine.FindSubmatch(sources["mitogen"])
	if m == nil {
		return runtimeErrorf("%s does not tell its version", root)
	}
	for _, n := range strings.Split(string(m[1]), ",") {
		if n = strings.TrimSpace(n); n == "" {
			continue
		}
		if word := strings.Trim(n, `'"`); len(word) == len(n)-2 && len(r.Version) > 0 {
			r.version = append(r.version, word)
			continue
		}
		v, err := strconv.Atoi(n)
		if err != nil || len(r.version) > len(r.Version) {
			return runtimeErrorf("%s has the version %s, which cannot be read", root, m[1])
		}
		r.Version, r.version = append(r.Version, v), append(r.version, v)
	}
	if r.before(versionOldest) {
		return runtimeErrorf("%s is %s; 0.2.10 or later is needed", root, r)
	}
	if r.core = string(core); nonBlocking.Match(core) {
		r.core = strings.TrimRight(r.core, "\n") + "\n\n\n" + python.StockTail()
	}
	if strippable.Match(core) {
		r.core = python.Strip(r.core)
	}
	names := make([]string, 0, len(sources))
	for name := range sources {
		names = append(names, name)
	}
	sort.Strings(names)
	sum := sha256.New()
	for _, name := range names {
		fmt.Fprintf(sum, "%s %d\n", name, len(sources[name]))
		sum.Write(sources[name])
	}
	r.digest = hex.EncodeToString(sum.Sum(nil))
	r.imp = importsImp.Match(core)
	return nil
}

// String gives the version: "Mitogen 0.3.3".
func (r *Runtime) String() string {
	parts := make([]string, len(r.Version))
	for i, n := range r.Version {
		parts[i] = strconv.Itoa(n)
	}
	return "Mitogen " + strings.Join(parts, ".")
}

func (r *Runtime) before(v []int) bool {
	for i := range v {
		have := 0
		if i < len(r.Version) {
			have = r.Version[i]
		}
		if have != v[i] {
			return have < v[i]
		}
	}
	return false
}

// Digest stands for all that was read.
func (r *Runtime) Digest() string { return r.digest }

// Old tells whether this Mitogen knows one form of payload only (before 0.3.39).
func (r *Runtime) Old() bool { return r.before(versionPKL) }

// Modules are Mitogen's own modules, for importer.Options.Virtual.
func (r *Runtime) Modules() map[string]importer.Virtual { return r.modules }

// findTime is how long an interpreter gets to say where its Mitogen is.
const findTime = 20 * time.Second

// FindRuntime reads the target key runtime, or the flag. "" and "embedded" give nil, "mitogen:DIR" the Mitogen in
// DIR. "mitogen" gives the one on the path or, if there is none, the one that python (a command; nil for python3)
// imports.
func FindRuntime(ctx context.Context, spec string, path []string, python []string) (*Runtime, error) {
	kind, dir, hasDir := strings.Cut(spec, ":")
	switch {
	case spec == "" || spec == "embedded":
		return nil, nil
	case kind != "mitogen" || hasDir && dir == "":
		return nil, &bootstrap.Error{Step: bootstrap.StepOptions, Reason: fmt.Sprintf("runtime %q: embedded, mitogen or mitogen:DIR", spec)}
	case hasDir:
		return LoadRuntime(dir)
	}
	for _, dir := range path {
		if _, err := os.Stat(filepath.Join(dir, "mitogen", "core.py")); err == nil {
			return LoadRuntime(dir)
		}
	}
	if len(python) == 0 {
		python = []string{"python3"}
	}
	cmd := exec.CommandContext(ctx, python[0], python[1:]...)
	cmd.Env = bootstrap.WithoutSecrets(os.Environ())
	r, _, err := AskRuntime(ctx, cmd)
	return r, err
}

// AskRuntime reads the Mitogen that an interpreter imports, and gives the interpreter's sys.hexversion. cmd is the
// interpreter without a program, in the directory and environment that it is to have.
func AskRuntime(ctx context.Context, cmd *exec.Cmd) (*Runtime, uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	cmd.Env = bootstrap.WithoutSecrets(cmd.Environ())
	const program = `import os,sys
import mitogen
sys.stdout.write('\n' + os.path.dirname(os.path.dirname(os.path.abspath(mitogen.__file__))) + '\n%d\n' % sys.hexversion)`
	cmd.Args = append(cmd.Args, "-c", program)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Start()
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		stop()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // a start-up file may have left a process
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	version, parseErr := strconv.ParseUint(lines[len(lines)-1], 10, 32)
	if err != nil || parseErr != nil || len(lines) < 2 {
		why := "nothing"
		if last := strings.Split(strings.TrimSpace(errs.String()), "\n"); last[len(last)-1] != "" {
			why = last[len(last)-1]
		} else if err != nil {
			why = err.Error()
		}
		return nil, 0, runtimeErrorf("%s imports no Mitogen (%s); install it there, or name it by mitogen:DIR",
			cmd.Args[0], why)
	}
	r, err := LoadRuntime(lines[len(lines)-2])
	return r, uint32(version), err
}

// tooNew gives the first sys.hexversion on which the runtime cannot start, and why.
func (r *Runtime) tooNew() (uint32, string) {
	if r.imp {
		return 0x030c0000, fmt.Sprintf("%s cannot run on Python 3.12 and later: it needs the module imp, which is gone there; "+
			"install a later Mitogen or use another interpreter", r)
	}
	return 1<<32 - 1, ""
}

// cannotStart says why the runtime cannot start on an interpreter, before it is sent there.
func (r *Runtime) cannotStart(hexVersion uint32) error {
	if limit, reason := r.tooNew(); hexVersion >= limit {
		return errors.New(reason)
	}
	return nil
}

// runtimeOf gives the runtime of one hop: the target's own key wins over the options.
func (d *Daemon) runtimeOf(ctx context.Context, s step, opt *ConnectOptions) (*Runtime, error) {
	spec, ok := s.args["runtime"]
	if !ok {
		return opt.Runtime, nil
	}
	text, _ := pyproto.Text(spec)
	if text == "mitogen" && opt.Runtime != nil {
		return opt.Runtime, nil
	}
	path := d.opt.Path
	if opt.Importer != nil {
		path = opt.Importer.Path()
	}
	return d.findRuntime(ctx, text, path)
}
