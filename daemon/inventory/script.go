package inventory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mitogend/bootstrap"
)

// scriptTime is how long a program may take to print its inventory, or the variables of one host.
const scriptTime = 60 * time.Second

// metaKey stands among the groups and holds the variables of all hosts.
const metaKey = "_meta"

// runScript reads what PROGRAM --list prints. Where that has no _meta, PROGRAM --host NAME is asked for the hosts
// that are used.
func (inv *Inventory) runScript(path string) error {
	out, err := runProgram(inv.ctx, path, "--list")
	if err != nil {
		return err
	}
	at := position{file: path}
	inv.named = map[string]bool{}
	defer func() { inv.named = nil }()
	var groups map[string]json.RawMessage
	if err := unmarshal(out, &groups, at); err != nil {
		return err
	}
	for _, name := range sortedNames(groups) {
		if name == metaKey {
			continue
		}
		if err := checkName("group", name); err != nil {
			return at.errorf("%w", err)
		}
		if err := inv.jsonGroup(name, groups[name], at); err != nil {
			return err
		}
	}
	if meta, ok := groups[metaKey]; ok {
		return inv.jsonMeta(meta, at)
	}
	ask := func(name string) (vars, error) { return askHost(inv.ctx, path, name) }
	for name := range inv.named { // and no host that only others name
		inv.hosts[name].ask = append(inv.hosts[name].ask, ask)
	}
	return nil
}

// jsonGroup reads {"hosts": [...], "vars": {...}, "children": [...]}, or the older form, a list of hosts.
func (inv *Inventory) jsonGroup(name string, data []byte, at position) error {
	g := inv.group(name)
	var group struct {
		Hosts    []string       `json:"hosts"`
		Vars     map[string]any `json:"vars"`
		Children []string       `json:"children"`
	}
	if data[0] == '[' {
		data = append(append([]byte(`{"hosts":`), data...), '}')
	}
	if err := unmarshal(data, &group, at); err != nil {
		return fmt.Errorf("%w (group %s)", err, name)
	}
	for _, h := range group.Hosts {
		if err := inv.addHosts(g, h, nil, at); err != nil {
			return err
		}
	}
	for k, v := range group.Vars {
		g.vars[k] = jsonValue(v, at)
	}
	for _, c := range group.Children {
		if err := checkName("group", c); err != nil {
			return at.errorf("%w", err)
		}
		inv.group(c)
		g.child(c)
	}
	return nil
}

func (inv *Inventory) jsonMeta(data []byte, at position) error {
	var meta struct {
		Hostvars map[string]map[string]any `json:"hostvars"`
	}
	if err := unmarshal(data, &meta, at); err != nil {
		return err
	}
	for _, name := range sortedNames(meta.Hostvars) {
		if err := checkName("host", name); err != nil {
			return at.errorf("%w", err)
		}
		h := inv.host(inv.group(groupAll), name)
		for k, v := range meta.Hostvars[name] {
			h.vars[k] = jsonValue(v, at)
		}
	}
	return nil
}

func askHost(ctx context.Context, path, name string) (vars, error) {
	out, err := runProgram(ctx, path, "--host", name)
	if err != nil {
		return nil, err
	}
	at := position{file: path + " --host " + name}
	told := map[string]any{}
	if len(bytes.TrimSpace(out)) > 0 {
		if err := unmarshal(out, &told, at); err != nil {
			return nil, err
		}
	}
	list := vars{}
	for k, v := range told {
		list[k] = jsonValue(v, at)
	}
	return list, nil
}

// unmarshal keeps numbers as they were written.
func unmarshal(data []byte, to any, at position) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(to); err != nil {
		return at.errorf("what it printed is no inventory in JSON: %w", err)
	}
	return nil
}

func jsonValue(v any, at position) value {
	out := value{at: at, raw: v}
	switch v := v.(type) {
	case nil:
		out.other = nothing
	case string:
		out.text, out.raw = v, nil
	case json.Number, bool:
		out.text = fmt.Sprint(v)
	case []any:
		out.list = []string{}
		for _, x := range v {
			switch x := x.(type) {
			case string, json.Number, bool:
				out.list = append(out.list, fmt.Sprint(x))
			default:
				out.other = "a list of more than text"
			}
		}
	case map[string]any:
		out.other = "a mapping"
		if text, ok := v["__ansible_vault"].(string); ok && len(v) == 1 {
			out.other, out.raw = "", vaultText(text)
		}
	}
	return out
}

// runProgram gives what a program prints. What it complains of is part of the error.
func runProgram(ctx context.Context, path string, args ...string) ([]byte, error) {
	at := position{file: strings.Join(append([]string{path}, args...), " ")}
	program, err := filepath.Abs(path)
	if err != nil {
		return nil, at.errorf("%w", err)
	}
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, scriptTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = filepath.Dir(program), bootstrap.WithoutSecrets(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, complaints := &bounded{max: maxFile}, &bounded{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, complaints
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has ended well, and something that it has started goes on with its stdout
	}
	switch {
	case whole.Err() != nil:
		return nil, at.errorf("%w", context.Cause(whole))
	case ctx.Err() != nil:
		return nil, at.errorf("it did not end within %v", scriptTime)
	case errors.Is(err, syscall.ENOEXEC):
		return nil, at.errorf("%w; a script needs a #! line, and any other file must not have execute permission",
			syscall.ENOEXEC)
	case err != nil:
		lines := strings.Split(strings.TrimSpace(complaints.String()), "\n")
		if last := lines[len(lines)-1]; last != "" {
			return nil, at.errorf("%w; it printed: %q", err, last)
		}
		return nil, at.errorf("%w", err)
	case out.cut:
		return nil, at.errorf("it printed more than %d bytes", maxFile)
	}
	return out.Bytes(), nil
}

// bounded keeps the beginning of what is written to it, and drops the rest.
type bounded struct {
	bytes.Buffer
	max int
	cut bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.max - b.Len(); len(p) > room {
		p, b.cut = p[:room], true
	}
	b.Buffer.Write(p)
	return n, nil
}
