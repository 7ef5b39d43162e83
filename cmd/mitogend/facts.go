package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/itchyny/gojq"
	"github.com/spf13/cobra"

	"mitogend/daemon"
	"mitogend/pyproto/printable"
)

// facts are what facts.py can tell, in the order in which they are shown, with what they are.
var facts = []struct{ name, what string }{
	{"system", "Linux, Darwin ..."}, {"kernel", "its release"}, {"machine", "x86_64, aarch64 ..."}, {"hostname", ""},
	{"distribution", "debian, ubuntu, rhel, alpine ... (ID of os-release)"}, {"distribution_version", "12, 22.04 ..."},
	{"distribution_name", "as people read it"}, {"distribution_like", "a list of those that it comes from"},
	{"cpus", "how many are online"}, {"cpu", "the model"}, {"load", "of 1, 5 and 15 minutes"},
	{"memory", "in bytes"}, {"memory_available", "in bytes"}, {"swap", "in bytes"}, {"uptime", "in seconds"},
	{"disks", "a list of mount, device, filesystem, size and free (bytes; null for those of other machines)"},
	{"addresses", "IP addresses by interface"},
	{"package_manager", "apt, dnf, apk ..."}, {"service_manager", "systemd, sysvinit ..."}, {"container", "docker, podman, lxc ...; null for none"},
	{"python", "the version that runs there"}, {"python_executable", ""}, {"pythons", "interpreters on the path"},
	{"user", "who one is there"}, {"uid", ""},
}

// factsFunction gives them.
const factsFunction = "mitogen.facts:collect"

func newFacts(a *app) *cobra.Command {
	c := &callCommand{}
	var about strings.Builder
	for _, f := range facts {
		fmt.Fprintf(&about, "\n  %-22s%s", f.name, f.what)
	}
	cmd := &cobra.Command{
		Use:   "facts [flags] [NAME]...",
		Short: "Show what the targets are: system, memory, disks, addresses ...",
		Long: `facts shows what each target is. Nothing is started for it there; what cannot be told is null. --where of this and other
commands selects targets by them. NAME is one of:
` + about.String(),
		Example: `  mitogend facts
  mitogend facts -H ssh:web1,ssh:web2 --table distribution distribution_version memory
  mitogend exec -H ssh:web1,ssh:web2 --where 'distribution == "debian" and memory > 8e9' -- uptime`,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.facts(cmd, a, args) },
		ValidArgsFunction: completeFacts,
	}
	c.register(cmd, "")
	f := cmd.Flags()
	f.StringVar(&c.selection, "select", "", "show what `FILTER`, in the language of jq, makes of them: .memory, {cpus, memory} ...")
	f.BoolVar(&c.table, "table", false, "show a table: a line for each target, and a column for each fact")
	hideImports(cmd)
	return cmd
}

// facts shows them as call shows what a function returns; on one target each on a line of its own.
func (c *callCommand) facts(cmd *cobra.Command, a *app, args []string) error {
	for _, name := range args {
		if !isFact(name) {
			return usagef("%s: there is no fact of that name; mitogend facts --help lists them", name)
		}
	}
	if c.table && c.json {
		return usagef("--table and --json exclude each other")
	}
	show, err := c.shower(a)
	if err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(target) string { return strings.Join(append([]string{"facts"}, args...), " ") }
	err = fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		text, err := askFacts(ctx, j, args)
		if err != nil {
			return failed(ctx, err)
		}
		out := &outcome{OK: true, Result: text}
		switch {
		case c.selection != "" || c.table:
			var v any
			if err = json.Unmarshal(text, &v); err == nil {
				out.Result, err = show.result(ctx, j, v, text)
			}
		case !c.json:
			err = writeFacts(j, text)
		}
		if err != nil {
			return failed(ctx, err)
		}
		return out
	})
	show.flush(fl.targets)
	return err
}

func isFact(name string) bool {
	for _, f := range facts {
		if f.name == name {
			return true
		}
	}
	return false
}

// askFacts gives those of a target as a JSON object; all where none is named.
func askFacts(ctx context.Context, j *job, names []string) (json.RawMessage, error) {
	var args []any
	if len(names) > 0 {
		list := make([]any, len(names))
		for i, name := range names {
			list[i] = name
		}
		args = []any{list}
	}
	v, err := j.child.CallWith(ctx, daemon.CallOptions{Convert: daemon.ConvertResult}, factsFunction, args...).Value()
	if err != nil {
		return nil, err
	}
	return resultJSON(v, j.python == 2)
}

// writeFacts shows them, a line for each.
func writeFacts(j *job, text json.RawMessage) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(text, &values); err != nil {
		return err
	}
	var out bytes.Buffer
	for _, f := range facts {
		value, ok := values[f.name]
		if !ok {
			continue
		}
		shown := string(value)
		var s string
		if json.Unmarshal(value, &s) == nil && string(value) != "null" {
			shown = s
		}
		fmt.Fprintf(&out, "%-22s%s\n", f.name, printable.Line(shown))
	}
	_, err := j.stdout.Write(out.Bytes())
	return err
}

// where is an expression over facts that leaves some of the targets.
type where struct {
	text  string
	names []string // of facts that it looks at
	code  *gojq.Code
}

var word = regexp.MustCompile(`[A-Za-z_][A-Za-z_0-9]*`)

// newWhere reads an expression of jq's language, in which the names of facts stand for their values; nil for none.
func newWhere(text string) (*where, error) {
	if text == "" {
		return nil, nil
	}
	w := &where{text: text}
	var defs strings.Builder
	for _, f := range facts {
		fmt.Fprintf(&defs, "def %s: $facts.%s;\n", f.name, f.name)
		if slices.Contains(word.FindAllString(text, -1), f.name) {
			w.names = append(w.names, f.name)
		}
	}
	if len(w.names) == 0 {
		return nil, usagef("--where %s: it looks at no fact, as in --where 'memory > 8e9'; mitogend facts --help lists them", text)
	}
	// By itself first, so that an error is of what was written.
	query, err := gojq.Parse(text)
	if err == nil {
		query, err = gojq.Parse(". as $facts | " + defs.String() + "(" + text + "\n)")
	}
	if err == nil {
		w.code, err = gojq.Compile(query)
	}
	if err != nil {
		return nil, usagef("--where %s: %w", text, err)
	}
	return w, nil
}

// holds asks the target.
func (w *where) holds(ctx context.Context, j *job) (bool, error) {
	text, err := askFacts(ctx, j, w.names)
	if err != nil {
		return false, err
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return false, err
	}
	it := w.code.RunWithContext(ctx, v)
	got, ok := it.Next()
	if err, isErr := got.(error); isErr {
		return false, fmt.Errorf("--where %s: %w", w.text, err)
	}
	yes, isBool := got.(bool)
	if !ok || !isBool {
		return false, fmt.Errorf("--where %s: it gives %s, not true or false", w.text, printable.Line(fmt.Sprint(got)))
	}
	return yes, nil
}
