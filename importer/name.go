package importer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest module name that is looked up, in bytes. Longer ones are refused.
const MaxName = 1024

// nameFault says what is wrong with a module name that came over the wire; "" means nothing is. What passes cannot leave a
// directory it is looked up in: no component is empty, or has a separator, a control character or a drive letter's colon.
// Components need not be identifiers, since importlib.import_module takes others and migrations are called 0001_initial.
func nameFault(name string) string {
	switch {
	case name == "":
		return "the name is empty"
	case len(name) > MaxName:
		return "the name is too long"
	case !utf8.ValidString(name):
		return "the name is not UTF-8"
	case name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, ".."):
		return "the name has an empty component"
	}
	for _, r := range name {
		if r < utf8.RuneSelf {
			if r == '.' || r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
				continue
			}
		} else if unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.Pc) {
			continue
		}
		return "the name has a character that no module name has"
	}
	return ""
}

// parentName cuts a.b.c into a.b and c, and a into "" and a.
func parentName(name string) (parent, leaf string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// ancestors lists the packages that name lies in, outermost first.
func ancestors(name string) []string {
	var out []string
	for i := 0; i < len(name); i++ {
		if name[i] == '.' {
			out = append(out, name[:i])
		}
	}
	return out
}
