package main

// withBytecode is an import whose modules have bytecode beside them, as installed packages do.
func withBytecode(short, name string) *spec {
	s := importSpec(short, name, 0)
	s.name = "bytecode-" + short
	base := s.params
	s.params = func(b *bed, who subject) (params, error) {
		p, err := base(b, who)
		if err != nil {
			return nil, err
		}
		p["path"] = []string{b.childDir(), p.str("pyc_dir")}
		return p, nil
	}
	return s
}

func bytecodeSpecs() (list []*spec) {
	for _, p := range importedPackages {
		list = append(list, withBytecode(p.short, p.name))
	}
	return list
}

func bytecodeRows() (list []*row) {
	for _, p := range importedPackages {
		list = append(list, &row{name: "bytecode-" + p.short, what: "cold import " + p.name + " that has .pyc here (floor: disk with .pyc)",
			spec: "bytecode-" + p.short, metric: "seconds", floor: "pyc_seconds", unit: unitSeconds})
	}
	return list
}
