package importer

import (
	"fmt"
	"sync"
)

// Virtual is a module that is served from memory. Its copies, in whatever importers, share what is made of its source.
type Virtual struct {
	path  string
	isPkg bool
	unit  func() *unit
}

// NewVirtual makes a module, or a package, whose source is asked for once, when it is first wanted. The path is for tracebacks.
func NewVirtual(path string, isPkg bool, source func() []byte) Virtual {
	return Virtual{path, isPkg, sync.OnceValue(func() *unit { return newUnit(source()) })}
}

// WithVirtual gives an importer of the same path and policy that has other virtual modules. The two share what they have read.
func (im *Importer) WithVirtual(modules map[string]Virtual) (*Importer, error) {
	other := *im
	other.opt.Virtual = modules
	other.views = newViews()
	if err := checkVirtual(modules); err != nil {
		return nil, err
	}
	return &other, nil
}

func checkVirtual(modules map[string]Virtual) error {
	for name := range modules {
		if fault := nameFault(name); fault != "" {
			return fmt.Errorf("importer: virtual module %q: %s", name, fault)
		}
	}
	return nil
}

// packageIsThere tells whether a virtual module lies in a package that the child has from the beginning.
func (im *Importer) packageIsThere(name, parent string) bool {
	_, module := im.opt.Virtual[name]
	_, pkg := im.opt.Virtual[parent]
	return module && !pkg
}
