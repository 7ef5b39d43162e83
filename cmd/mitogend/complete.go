package main

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon/control"
	"mitogend/daemon/wire"
	"mitogend/importer"
)

// The shell asks for completion at a key. So completion prints nothing, asks nobody for a password, and leaves out what
// it cannot find out.

type completer = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// checkShell lets completion refuse a shell for which there is no script, where Cobra shows its help.
func checkShell(root *cobra.Command) {
	cmd, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	cmd.Args = nil
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("there is no completion script for %s: bash, zsh, fish or powershell", args[0])
		}
		return cmd.Help()
	}
}

// completeTime is how long a completion may take.
const completeTime = 3 * time.Second

// choices gives the words that begin with begun. A word that ends with a colon, a dot or a slash goes on.
func choices(list []string, begun string) ([]string, cobra.ShellCompDirective) {
	directive := cobra.ShellCompDirectiveNoFileComp
	list = slices.DeleteFunc(list, func(w string) bool { return !strings.HasPrefix(w, begun) })
	slices.Sort(list)
	list = slices.Compact(list)
	goesOn := func(w string) bool {
		w, _, _ = strings.Cut(w, "\t")
		return strings.HasSuffix(w, ":") || strings.HasSuffix(w, ".") || strings.HasSuffix(w, "/")
	}
	if len(list) > 0 && !slices.ContainsFunc(list, func(w string) bool { return !goesOn(w) }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return list, directive
}

// completeList completes the last of several words with commas between them.
func completeList(list ...string) completer {
	return func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		ahead := begun[:strings.LastIndexByte(begun, ',')+1]
		out := make([]string, len(list))
		for i, w := range list {
			out[i] = ahead + w
		}
		return choices(out, begun)
	}
}

// completeFlag sets how the value of a flag is completed.
func completeFlag(cmd *cobra.Command, name string, fn completer) {
	_ = cmd.RegisterFlagCompletionFunc(name, fn) // it fails only if there is no such flag
}

func completeDirs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// complete completes -H: a target, host or group, the last of several, or @FILE.
func (f *inventoryFlags) complete(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	if file, ok := strings.CutPrefix(begun, "@"); ok {
		return choices(filesOf("@", file), begun)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	last := 0
	if i := strings.LastIndexByte(begun, ','); i >= 0 && !strings.Contains(begun[i:], "?") {
		last = i + 1
	}
	ahead, word := begun[:last], begun[last:]
	var out []string
	if method, _, ok := strings.Cut(word, ":"); ok && method == "ssh" {
		for _, host := range sshHosts() {
			out = append(out, ahead+"ssh:"+host)
		}
	}
	// This is the last term of a pattern.
	if i := strings.LastIndexAny(word, ":&!"); i >= 0 {
		ahead += word[:i+1]
	} else {
		for _, m := range bootstrap.Methods() {
			out = append(out, ahead+m.Name+":")
		}
	}
	for _, name := range f.names(ctx) {
		out = append(out, ahead+name)
	}
	return choices(out, begun)
}

// names are the hosts and groups of the inventory.
func (f *inventoryFlags) names(ctx context.Context) []string {
	f.vaultFlags.ask = false
	f.app = &app{quiet: true, console: newConsole(nil, nil, func(error) {})}
	inv, err := interruptible(ctx, func() ([]string, error) {
		inv, err := f.inventory(ctx)
		if err != nil || inv == nil {
			return nil, err
		}
		return append(inv.Hosts(), inv.Groups()...), nil
	})
	if err != nil {
		return nil
	}
	return inv
}

// filesOf lists the paths that begin with begun. Each gets ahead in front.
func filesOf(ahead, begun string) []string {
	found, _ := filepath.Glob(begun + "*")
	for i, path := range found {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path += "/"
		}
		found[i] = ahead + path
	}
	return found
}

// sshHosts are the hosts that the user's ssh_config names.
func sshHosts() []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	f, err := os.Open(filepath.Join(home, ".ssh", "config"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 1 && strings.EqualFold(fields[0], "host") {
			out = append(out, slices.DeleteFunc(fields[1:], func(h string) bool { return strings.ContainsAny(h, "*?!") })...)
		}
	}
	return out
}

// modules gives an importer of what the flags serve.
func (p *pathFlags) modules(first string) *importer.Importer {
	opt, err := p.options(&app{quiet: true, console: newConsole(nil, nil, func(error) {})}, first)
	if err != nil {
		return nil
	}
	im, err := importer.New(opt)
	if err != nil {
		return nil
	}
	return im
}

// moduleNames gives the modules whose names begin with begun. A package is also given with a dot, for what is in it.
func moduleNames(ctx context.Context, im *importer.Importer, begun string) []string {
	pkg := begun[:strings.LastIndexByte(begun, '.')+1]
	if pkg == "" {
		var out []string
		for _, name := range im.TopLevel(importer.Version{}) {
			out = append(out, name)
			if leaf, ok := strings.CutSuffix(name, "."); ok {
				out = append(out, leaf)
			}
		}
		return out
	}
	d, err := im.Describe(ctx, strings.TrimSuffix(pkg, "."), importer.Version{})
	if err != nil || !d.Served {
		return nil
	}
	var out []string
	for _, name := range d.Modules {
		out = append(out, pkg+name)
	}
	return out
}

func (p *pathFlags) completeModule(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	im := p.modules(".")
	if im == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return choices(moduleNames(ctx, im, begun), begun)
}

// topFunction matches a function or class of a module.
var topFunction = regexp.MustCompile(`(?m)^(?:(?:async[ \t]+)?def|class)[ \t]+([A-Za-z]\w*)`)

// completeFunction completes MODULE:FUNCTION.
func (p *pathFlags) completeFunction(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	im := p.modules(".")
	if im == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	module, _, ok := strings.Cut(begun, ":")
	if !ok {
		names := moduleNames(ctx, im, begun)
		for i, name := range names {
			if !strings.HasSuffix(name, ".") {
				names[i] += ":"
			}
		}
		return choices(names, begun)
	}
	d, err := im.Describe(ctx, module, importer.Version{})
	if err != nil || !d.Served {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	source, err := os.ReadFile(d.Path)
	if err != nil { // it is in an archive, say
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, m := range topFunction.FindAllSubmatch(source, -1) {
		out = append(out, module+":"+string(m[1]))
	}
	return choices(out, begun)
}

// completeScript completes the argument of run: a file, or with -m a module.
func (c *runCommand) completeScript(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if c.module && len(args) == 0 {
		return c.completeModule(cmd, args, begun)
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// completeConnections completes the argument of close: names, targets and ids of the running daemon's connections.
func (f *daemonFlags) completeConnections(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	c, err := f.must(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer func() { _ = c.Shutdown(ctx) }()
	list, err := c.List(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, one := range list {
		if one.State == "hop" || one.State == "other" {
			continue
		}
		out = append(append(out, one.Name), one.Names...)
		if one.ID != 0 {
			out = append(out, cobra.CompletionWithDesc(strconv.FormatUint(uint64(one.ID), 10), one.Name))
		}
	}
	return choices(out, begun)
}

// The choices for flags of logs.
var (
	eventKinds = []string{wire.EventLog, wire.EventConnected, wire.EventLost, wire.EventClosed, wire.EventImport, wire.EventCall, wire.EventOutput}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// completeLevels completes --set of logs: COMPONENT=LEVEL.
func completeLevels(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	out := slices.Clone(logLevels)
	for _, c := range control.Components {
		for _, l := range logLevels {
			out = append(out, c+"="+l)
		}
	}
	return completeList(out...)(cmd, args, begun)
}

func completeFacts(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, f := range facts {
		if !slices.Contains(args, f.name) {
			out = append(out, cobra.CompletionWithDesc(f.name, f.what))
		}
	}
	return choices(out, begun)
}
