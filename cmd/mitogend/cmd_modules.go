package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/internal/slogzap"
	"mitogend/pyproto/printable"
)

type modulesCommand struct {
	pathFlags
	json    bool
	version string
}

func newModules(a *app) *cobra.Command {
	c := &modulesCommand{}
	cmd := &cobra.Command{
		Use:   "modules [flags] NAME...",
		Short: "Show what would be served for a module name, or why nothing is",
		Example: `  mitogend modules -I examples/report shop.orders
  mitogend modules -I ./lib mypackage.models
  mitogend modules --wheels ./wheels --python-version 3.8 numpy
  mitogend modules --venv ~/venv --python-version 2.7 six`,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
		ValidArgsFunction: c.completeModule,
	}
	c.register(cmd, ".")
	f := cmd.Flags()
	f.BoolVar(&c.json, "json", false, "one line of JSON for each name")
	f.StringVar(&c.version, "python-version", "", "as a child of Python `X.Y` is served (default: of a version that is not known)")
	return cmd
}

func (c *modulesCommand) run(cmd *cobra.Command, a *app, names []string) error {
	if len(names) == 0 {
		return usagef("which modules? Write mitogend modules NAME...")
	}
	var v importer.Version
	if c.version != "" {
		if n, err := fmt.Sscanf(c.version+"\n", "%d.%d\n", &v.Major, &v.Minor); n != 2 || err != nil {
			return usagef("--python-version %s: not a version such as 3.11", c.version)
		}
	}
	opt, err := c.options(a, ".")
	if err != nil {
		return err
	}
	d, err := daemon.New(daemon.Options{Logger: slogzap.Slog(a.logger())})
	if err != nil {
		return err
	}
	im, err := d.NewImporter(opt)
	if err != nil {
		return usageError{err}
	}
	missing := false
	for _, name := range names {
		desc, err := im.Describe(cmd.Context(), name, v)
		if err != nil {
			return err
		}
		missing = missing || !desc.Served
		if c.json {
			writeJSON(cmd.OutOrStdout(), desc)
			continue
		}
		describe(cmd.OutOrStdout(), desc)
	}
	if missing {
		return statusError(statusRaised)
	}
	return nil
}

// describe prints a description for people.
func describe(w io.Writer, d *importer.Description) {
	var b strings.Builder
	row := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "  %-9s %s\n", key, printable.Line(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(&b, "%s\n", printable.Line(d.Name))
	if !d.Served {
		row("served", "no: %s", d.Reason)
		_, _ = io.WriteString(w, b.String())
		return
	}
	row("file", "%s", d.Path)
	if d.Wheel != "" {
		row("wheel", "%s", filepath.Base(d.Wheel))
	}
	for _, other := range d.OtherWheels {
		row("or", "%s, as the target is", other)
	}
	row("kind", "%s", d.Kind)
	if d.Unpacked > 0 {
		row("unpacked", "%s, %d bytes", several(d.Unpacked, "file"), d.UnpackedBytes)
	}
	for _, o := range d.Objects {
		libc := o.Libc
		if o.Version != "" {
			libc += " " + o.Version
		}
		row("object", "%s, %d bytes, for %s with %d bits%s", filepath.Base(o.File), o.Size, o.Machine, o.Bits, strings.TrimSuffix(", "+libc, ", "))
		for _, lib := range o.Libraries {
			switch {
			case lib.Spare:
				row("needs", "%s, sent from %s (%d bytes) if the target lacks it", lib.Name, lib.File, lib.Size)
			case lib.File != "":
				row("needs", "%s, sent from %s (%d bytes)", lib.Name, lib.File, lib.Size)
			default:
				row("needs", "%s, of the target", lib.Name)
			}
		}
	}
	if d.Objects == nil {
		row("size", "%d bytes, %d compressed", d.Size, d.Compressed)
	}
	if len(d.Modules) > 0 {
		row("modules", "%s", strings.Join(d.Modules, " "))
	}
	row("related", "%s", orNone(d.Related))
	row("closure", "%s, %d bytes", several(len(d.Closure), "module"), d.ClosureBytes)
	for _, imp := range d.Imports {
		text := imp.Text
		if imp.When != "" {
			text += "  (" + imp.When + ")"
		}
		if len(imp.Loads) > 0 {
			text += "  -> " + strings.Join(imp.Loads, " ")
		}
		row(fmt.Sprintf("line %d", imp.Line), "%s", text)
	}
	_, _ = io.WriteString(w, b.String())
}
