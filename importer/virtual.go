package importer

import "fmt"

// WithVirtual gives an importer of the same path and policy that has other virtual modules. The two share what they have read.
func (im *Importer) WithVirtual(modules map[string]Virtual) (*Importer, error) {
	other := *im
	other.opt.Virtual = modules
	other.virtual = make(map[string]*unit, len(modules))
	for name, v := range modules {
		if fault := nameFault(name); fault != "" {
			return nil, fmt.Errorf("importer: virtual module %q: %s", name, fault)
		}
		other.virtual[name] = newUnit(v.Source)
	}
	return &other, nil
}
