package importer

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Description tells what would be served for a name, and why not.
type Description struct {
	Name   string `json:"name"`
	Served bool   `json:"served"`
	Reason string `json:"reason,omitempty"` // why it is not served
	Kind   Kind   `json:"kind,omitempty"`
	Path   string `json:"path,omitempty"`
	// Wheel is the file of a wheelhouse that it is served from. OtherWheels are what other children get in its place; if a version was
	// named, other children of that version.
	Wheel       string   `json:"wheel,omitempty"`
	OtherWheels []string `json:"other_wheels,omitempty"`
	// Size and Compressed are bytes of source, as it is and as it is sent.
	Size       int                 `json:"size"`
	Compressed int                 `json:"compressed"`
	Modules    []string            `json:"modules,omitempty"` // in a package
	Imports    []ImportDescription `json:"imports,omitempty"`
	Related    []string            `json:"related,omitempty"`
	// Unpacked is how many files are laid down on the target, and UnpackedBytes what they have; 0 of what is not unpacked.
	Unpacked      int   `json:"unpacked,omitempty"`
	UnpackedBytes int64 `json:"unpacked_bytes,omitempty"`
	// Objects are what an extension module may be loaded from, in the order of preference; the target takes the first that fits it.
	Objects []ObjectDescription `json:"objects,omitempty"`
	// Closure is what a child gets that has nothing yet. ClosureBytes is its size on the wire.
	Closure      []string `json:"closure,omitempty"`
	ClosureBytes int      `json:"closure_bytes"`
}

// ImportDescription is one import in the source.
type ImportDescription struct {
	Line int    `json:"line"`
	Text string `json:"text"`
	// When says under which condition it is done; empty means always.
	When string `json:"when,omitempty"`
	// Loads are the modules that are sent for it, without the module itself and the packages it lies in.
	Loads []string `json:"loads,omitempty"`
}

// Describe tells what a child of version v would be served for name. The error is ctx's.
func (im *Importer) Describe(ctx context.Context, name string, v Version) (*Description, error) {
	s := im.searchFor(v, Platform{Version: v, any: true})
	d := &Description{Name: name}
	m, err := s.module(ctx, name)
	var none *NotFoundError
	if errors.As(err, &none) {
		d.Reason = none.Reason
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	d.Served, d.Kind, d.Path = true, m.Kind, m.Path
	d.Wheel, d.OtherWheels = s.wheelsOf(m.loc)
	d.Size, d.Compressed, d.Modules, d.Related = m.Size, len(m.Compressed), m.Present, m.Related
	f := follower{search: s, sp: s.find(name), src: m.unit.src}
	for i := range m.Imports {
		imp := &m.Imports[i]
		id := ImportDescription{Line: imp.Line, Text: imp.String(), When: imp.guard.String()}
		if f.active(imp.guard) {
			id.Loads = slices.DeleteFunc(f.targets(imp), func(loaded string) bool { return within(name, loaded) })
		}
		d.Imports = append(d.Imports, id)
	}
	if s.unpackTop(name) == name {
		files, _, _ := s.tree(name, nil) // else it would not be served
		d.Unpacked = len(files)
		for _, file := range files {
			d.UnpackedBytes += file.Size
		}
	}
	d.Objects = s.objectsOf(f.sp)
	if d.Objects != nil {
		d.Imports = nil // of what stands for it
	}
	d.Closure = s.closure(name)
	for _, name := range d.Closure {
		rec, err := s.record(ctx, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			d.ClosureBytes += len(rec)
		}
	}
	return d, nil
}

// String writes the import as a statement.
func (i *Import) String() string {
	module := strings.Repeat(".", i.Level) + i.Module
	switch {
	case i.hint:
		return "...import...(" + quote(module) + ")"
	case i.Dynamic:
		return "import_module(" + quote(module) + ")"
	case i.Names == nil:
		return "import " + module
	}
	return "from " + module + " import " + strings.Join(i.Names, ", ")
}

func quote(s string) string { return "'" + s + "'" }

// String writes the conditions, outermost first.
func (g *guard) String() string {
	if g == nil {
		return ""
	}
	out := g.parent.String()
	add := func(text string) {
		if out != "" {
			out += ", "
		}
		out += text
	}
	switch {
	case g.cond != nil && g.negate:
		add("unless " + g.cond.expr.String())
	case g.cond != nil:
		add("if " + g.cond.expr.String())
	case g.try != nil:
		add(map[tryPart]string{
			partBody: "in a try", partHandler: "when an import fails", partRare: "when something else fails", partElse: "when the try succeeds",
		}[g.part])
	case g.lazy && (g.parent == nil || !g.parent.lazy):
		add("in a function")
	}
	return out
}
