package importer

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"deps.dev/util/pypi"
)

// Platform is what a wheel has to fit: a child's Python, and what the child says of it and its machine when it is asked.
type Platform struct {
	Version
	// ABI is as in a wheel's tags: cp311, cp38d, cp37m, cp27mu, cp313t. Empty: the child was not asked, and the rest is empty too.
	ABI string
	// Machine is as in a wheel's tags, of the Python: i686 of one with 32 bits on x86_64.
	Machine string
	// Libc is glibc, musl or empty, of LibcVersion.
	Libc, LibcVersion string

	// fetched is the directory of what such a child needs, as it was when it was asked for; see Prepare.
	fetched string

	// any stands for every platform: to show what there is.
	any bool
}

var (
	abiForm     = regexp.MustCompile(`^cp(\d)(\d{1,3})[a-z]{0,4}$`)
	machineForm = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)
	libcForm    = regexp.MustCompile(`^\d{1,3}(\.\d{1,4}){1,3}$`)
	pythonForm  = regexp.MustCompile(`^(cp|py)(\d)(\d{0,3})$`)
)

// NewPlatform checks what a child of version v has said of itself.
func NewPlatform(v Version, abi, machine, libc, libcVersion string) (Platform, error) {
	m := abiForm.FindStringSubmatch(abi)
	switch {
	case m == nil || m[1] != strconv.Itoa(v.Major) || m[2] != strconv.Itoa(v.Minor):
		return Platform{}, fmt.Errorf("importer: no ABI of Python %s: %.40q", v, abi)
	case !machineForm.MatchString(machine):
		return Platform{}, fmt.Errorf("importer: no machine: %.40q", machine)
	case libc != "" && libc != "glibc" && libc != "musl" || libc != "" && !libcForm.MatchString(libcVersion):
		return Platform{}, fmt.Errorf("importer: no C library: %.40q %.40q", libc, libcVersion)
	}
	return Platform{Version: v, ABI: abi, Machine: machine, Libc: libc, LibcVersion: libcVersion}, nil
}

// String is for the reason why no wheel fits.
func (p Platform) String() string {
	switch {
	case p.ABI == "":
		return "Python " + p.Version.String()
	case p.Libc == "":
		return p.ABI + " on " + p.Machine
	}
	return fmt.Sprintf("%s on %s with %s %s", p.ABI, p.Machine, p.Libc, p.LibcVersion)
}

// FitsWheel tells by a WHEEL file whether what was built is for such a child's Python; tag is what it says. The platform in it may be
// another: some projects rename what they have built.
func (p Platform) FitsWheel(data []byte) (tag string, ok bool) {
	tags := header(data, "tag")
	for _, text := range tags {
		parts := strings.Split(text, "-")
		if len(parts) != 3 {
			continue
		}
		for _, python := range strings.Split(parts[0], ".") {
			for _, abi := range strings.Split(parts[1], ".") {
				if how, _ := p.fitPython(python, abi); how == fits {
					return text, true
				}
			}
		}
	}
	return strings.Join(tags, " "), len(tags) == 0
}

// fit says how well a wheel's tag fits.
type fit int

const (
	fitsNot  fit = iota
	fitsSome     // children of this version, as far as is known
	fits
)

// Ranks of tags, in pip's order: what was built for this very ABI, the stable ABI, this Python without an ABI, any Python; of these what
// was built for the newer Python, and then for the newer C library.
const (
	rankMinor  = 1_000_000
	rankNotAny = 1000 * rankMinor
	rankClass  = 2 * rankNotAny
)

// fit judges one tag (PEP 425); of two that fit the one of the higher rank is taken.
func (p Platform) fit(t pypi.PEP425Tag) (how fit, rank int) {
	how, rank = p.fitPython(t.Python, t.ABI)
	if how == fitsNot || t.Platform == "any" {
		return how, rank
	}
	there, newest := p.fitSystem(t.Platform)
	return min(how, there), rank + rankNotAny + newest
}

func (p Platform) fitPython(python, abi string) (how fit, rank int) {
	m := pythonForm.FindStringSubmatch(python)
	if m == nil {
		return fitsNot, 0
	}
	major, _ := strconv.Atoi(m[2])
	minor, err := strconv.Atoi(m[3])
	if err != nil {
		minor = -1 // py3
	}
	cpython := m[1] == "cp"
	rank = (minor + 1) * rankMinor
	// What is known of the ABI only when the child was asked.
	asked := fitsSome
	if p.ABI != "" || p.any {
		asked = fits
	}
	this := Version{major, minor} == p.Version
	notLater := major == p.Major && minor <= p.Minor
	if !p.Known() {
		this, notLater = p.any, p.any
	}
	switch {
	case abi == "none" && !cpython && notLater:
		return fits, rank
	case abi == "none" && cpython && this:
		return fits, rank + rankClass
	case abi == "abi3" && cpython && major == 3 && notLater && !strings.Contains(p.ABI, "t"):
		return asked, rank + 2*rankClass
	case cpython && this && p.fitABI(abi, m[2]+m[3]):
		return asked, rank + 3*rankClass
	}
	return fitsNot, 0
}

// fitABI compares ABI tags. Since 3.8 a debug build loads what was built for one that is none.
func (p Platform) fitABI(abi, digits string) bool {
	if p.ABI == "" {
		return strings.TrimRight(abi, "dmut") == "cp"+digits
	}
	return abi == p.ABI || abi == strings.TrimSuffix(p.ABI, "d") && !p.less(Version{3, 8})
}

// manylinux are the names from before PEP 600.
var manylinux = map[string]string{"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}

var systemForm = regexp.MustCompile(`^(?:(manylinux|musllinux)_(\d{1,2})_(\d{1,3})|linux)_(.+)$`)

// fitSystem judges a platform tag, of PEP 600 and PEP 656; newest is more for a newer C library.
func (p Platform) fitSystem(system string) (how fit, newest int) {
	name, rest, _ := strings.Cut(system, "_")
	if alias, ok := manylinux[name]; ok {
		system = alias + "_" + rest
	}
	m := systemForm.FindStringSubmatch(system)
	if m == nil {
		return fitsNot, 0
	}
	if m[1] != "" {
		major, _ := strconv.Atoi(m[2])
		minor, _ := strconv.Atoi(m[3])
		newest = 1 + 1000*major + minor
	}
	libc := map[string]string{"manylinux": "glibc", "musllinux": "musl", "": p.Libc}[m[1]]
	switch {
	case p.any:
		return fits, newest
	case p.ABI == "":
		return fitsSome, newest
	case m[4] != p.Machine || libc != p.Libc:
		return fitsNot, 0
	case m[1] != "" && Newer(m[2]+"."+m[3], p.LibcVersion):
		return fitsNot, 0
	case m[1] == "musllinux" && m[2] != strings.Split(p.LibcVersion, ".")[0]:
		return fitsNot, 0
	}
	return fits, newest
}
