package importer

//go:generate sh -c "python3 gen_stdlib.py > stdlib_table.go"

import (
	"fmt"
	"strings"
)

// Version is the Python of a child, for example {3, 11}. The zero Version means that it is not known.
type Version struct{ Major, Minor int }

// Known tells whether v says anything.
func (v Version) Known() bool { return v.Major != 0 }

func (v Version) String() string {
	if !v.Known() {
		return "unknown"
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

func (v Version) less(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// column is the bit of the nearest version in stdlibTable: the newest one that is not newer than v, within v's generation.
func (v Version) column() int {
	best := 0
	for i, w := range stdlibVersions {
		if w.Major <= v.Major && (!v.less(w) || stdlibVersions[best].Major < w.Major) {
			best = i
		}
	}
	return best
}

// later tells whether a release is newer than this table. It may lack modules that the nearest column has.
func (v Version) later() bool { return stdlibVersions[len(stdlibVersions)-1].less(v) }

// Stdlib tells whether the standard library of v has the top-level module that name is or lies in. With an unknown version
// it is enough that one version has it.
func Stdlib(name string, v Version) bool {
	top, _, _ := strings.Cut(name, ".")
	bits := stdlibTable[top]
	if !v.Known() {
		return bits != 0
	}
	return bits>>v.column()&1 != 0
}
