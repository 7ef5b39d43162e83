package importer

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"mitogend/internal/slogzap"
)

// Options say where modules come from and what may be served.
type Options struct {
	// Path has directories and zip, egg or wheel files (or directories in them), looked at in this order. Entries that do not
	// exist are passed over, until they do.
	Path []string
	// Modules are trees of files, of a Go program itself for one, that come behind Path.
	Modules []Tree
	// Venv is a virtual environment whose site-packages come behind Path; empty for none.
	Venv string
	// Wheels are directories of wheels, behind Path. Each child is served the wheels that fit it: of each project the newest version, or
	// the newest that the constraint files allow.
	Wheels, Constraints []string
	// Requirements are what a child needs besides. They are fetched by Fetch, which gives a directory of wheels, or one with a directory
	// Site, that nobody changes any more; its error is shown to the user.
	Requirements Requirements
	Fetch        func(context.Context, Requirements, Platform) (dir string, err error)
	// Policy limits what is served, to every child.
	Policy Policy
	// Main is the script that is served as __main__; nil for none.
	Main *Main
	// Virtual has modules that are on no path, by name. They win over the path and the standard library, and no policy applies.
	Virtual map[string]Virtual
	// Reserved has packages that are served from Virtual only, with the reason that a child is given.
	Reserved map[string]string
	// Libs are directories, absolute. A child that lacks a library of an extension module's is sent one from there; LibsSystem stands
	// for those of this machine. If there are none, the child needs its own, unless they lie beside the module.
	Libs []string
	// Unpack names packages and modules whose files a child of ours lays down in memory, to load them from there; see unpack.go.
	Unpack []string
	// MaxSource is the size of the largest source that is served, in bytes; 0 means DefaultMaxSource.
	MaxSource int64
	// MaxResource is the same for data files; 0 means DefaultMaxResource.
	MaxResource int64
	// MaxCache bounds the memory for sources and records, in bytes; 0 means DefaultMaxCache.
	MaxCache int64
	// Logger may be nil.
	Logger *slog.Logger
}

// Defaults of Options.
const (
	DefaultMaxSource   = 16 << 20
	DefaultMaxResource = 64 << 20
	DefaultMaxCache    = 128 << 20
)

// Site is the name of a directory in what Options.Fetch gives, where projects lie as they are installed.
const Site = "site"

// Requirements name projects, as pip takes them.
type Requirements struct {
	Lines []string // name>=1,<2
	Files []string // with such lines
	Links []string // directories, or addresses, where wheels are looked for as well (--find-links)
	// Python says which versions of Python may be served, as >=3.11; empty for all.
	Python string
}

// Empty tells whether nothing is needed.
func (r Requirements) Empty() bool { return len(r.Lines)+len(r.Files)+len(r.Python) == 0 }

// Main is a script.
type Main struct {
	Path string
	// Source is read from Path when nil.
	Source []byte
	// Run serves the script whole, for a child that runs it. Otherwise it is served for its functions, cut at its guard
	// if __name__ == '__main__', and refused when it has none.
	Run bool
}

// NotFoundError says why a module is not served.
type NotFoundError struct {
	Name   string
	Reason string
	// Absent: there is nothing of that name. Otherwise there is something, or may be, and it cannot or must not be served.
	Absent bool
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("importer: %s is not served: %s", shorten(e.Name), e.Reason)
}

// shorten makes a name fit for a message.
func shorten(name string) string {
	if len(name) > 100 {
		name = name[:100] + "..."
	}
	if nameFault(name) != "" {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// Importer finds modules and builds their records. It is safe for concurrent use, and shared by all streams.
type Importer struct {
	// Constant after New.
	opt    Options
	finder *finder
	cache  *cache
	// Of shared objects.
	objects *objects
	empty   *unit // of namespace packages
	log     *zap.Logger

	// Which children it is for, see For; and the others of the same.
	platform Platform
	views    *views
}

// views are importers for different kinds of children. They share everything else.
type views struct {
	mu sync.Mutex
	by map[Platform]*Importer
	// prepared are those that Options.Fetch was called for.
	prepared map[Platform]bool
}

func newViews() *views {
	return &views{by: map[Platform]*Importer{}, prepared: map[Platform]bool{}}
}

// New checks the options. Of the path it reads only what Venv has.
func New(opt Options) (*Importer, error) {
	if err := opt.Policy.check(); err != nil {
		return nil, err
	}
	for _, name := range opt.Unpack {
		if fault := nameFault(name); fault != "" {
			return nil, fmt.Errorf("importer: package to unpack %q: %s", name, fault)
		}
	}
	f, err := newFinder(opt.Path, opt.Venv)
	if err != nil {
		return nil, err
	}
	if f.trees, err = openTrees(opt.Modules); err != nil {
		return nil, err
	}
	if opt.Wheels, err = absolute(opt.Wheels); err != nil {
		return nil, err
	}
	if opt.Constraints, err = absolute(opt.Constraints); err != nil {
		return nil, err
	}
	if _, err := readConstraints(opt.Constraints); err != nil {
		return nil, err
	}
	for p, def := range map[*int64]int64{
		&opt.MaxSource: DefaultMaxSource, &opt.MaxResource: DefaultMaxResource, &opt.MaxCache: DefaultMaxCache,
	} {
		if *p <= 0 {
			*p = def
		}
	}
	im := &Importer{opt: opt, finder: f, cache: newCache(opt.MaxCache), objects: newObjects(), empty: newUnit(nil), log: slogzap.Zap(opt.Logger),
		views: newViews()}
	if err := checkVirtual(opt.Virtual); err != nil {
		return nil, err
	}
	return im, nil
}

func absolute(files []string) ([]string, error) {
	var out []string
	for _, file := range files {
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("importer: %s: %w", file, err)
		}
		out = append(out, abs)
	}
	return out, nil
}

// Path lists the path entries in the order of search. The virtual environment's come last.
func (im *Importer) Path() []string {
	var out []string
	for _, root := range im.search(Version{}).roots {
		out = append(out, root.String())
	}
	return out
}

// Directory lists the modules that one entry of the path has for a child of version v; packages have a dot at the end. They are those
// that Python would find there, before it looks further.
func (im *Importer) Directory(dir string, v Version) []string {
	s := im.search(v)
	var names []string
	for _, root := range s.roots {
		if sameFile(root.String(), dir) {
			names = append(names, s.directory(root)...)
		}
	}
	slices.Sort(names)
	return names
}

// TopLevel lists the same for the whole path, without what policies refuse.
func (im *Importer) TopLevel(v Version, also ...Policy) []string {
	s := im.search(v)
	seen := map[string]bool{}
	var names []string
	for _, root := range s.roots {
		for _, name := range s.directory(root) {
			leaf := strings.TrimSuffix(name, ".")
			if seen[leaf] {
				continue
			}
			seen[leaf] = true
			sp := s.find(leaf)
			refused := sp.why != ""
			for i := range also {
				refused = refused || s.refuses(&also[i], sp) != ""
			}
			if !refused {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// Module finds and builds a module for a child of version v. The error is a *NotFoundError, or ctx's.
func (im *Importer) Module(ctx context.Context, name string, v Version) (*Module, error) {
	return im.search(v).module(ctx, name)
}

// Related lists what importing name directly imports at once and can be served from here. It is empty when name cannot be served.
func (im *Importer) Related(name string, v Version) []string {
	s := im.search(v)
	sp := s.find(name)
	u, err := s.unit(sp)
	if err != nil {
		return nil
	}
	return s.relatedOf(sp, u)
}

// Closure lists the modules that importing the names loads from here, the names and the packages they lie in included, in the
// order in which they are needed. What cannot be served is left out.
func (im *Importer) Closure(v Version, names ...string) []string {
	return im.search(v).closure(names...)
}

// ScriptClosure is Closure for what a script imports.
func (im *Importer) ScriptClosure(v Version, script []byte) []string {
	s := im.search(v)
	related, _ := s.related(&spec{name: "__main__", kind: KindMain}, scanSource(script))
	return s.closure(related...)
}
