package importer

import (
	"strconv"
	"strings"
)

// truth is the outcome of a condition.
type truth int8

const (
	maybe truth = iota
	yes
	no
)

func (t truth) not() truth {
	switch t {
	case yes:
		return no
	case no:
		return yes
	}
	return maybe
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// value is what an expression is in the child.
type value struct {
	kind  valueKind
	truth truth // valueBool
	num   int
	text  string
	items []value
	// open: items are only the first ones, more follow (sys.version_info).
	open bool
}

type valueKind byte

const (
	valueUnknown  valueKind = iota
	valueBool               // also what is only known by its truth
	valueInt                // num
	valueHex                // sys.hexversion of Python num>>24 . num>>16&255, the rest unknown
	valueText               // text
	valueTuple              // items
	valuePrefix             // text that begins with text and goes on
	valuePlatform           // sys.platform of some POSIX system
)

// env is what conditions are decided by.
type env struct {
	v     Version
	names map[string]*expr // of the module
	main  bool             // it is __main__
	depth int
}

// decide gives the truth of a condition in the child, which runs on a POSIX system.
func (n *env) decide(e *expr) truth { return n.eval(e).bool() }

func (v value) bool() truth {
	switch v.kind {
	case valueBool:
		return v.truth
	case valueInt:
		return truthOf(v.num != 0)
	case valueText:
		return truthOf(v.text != "")
	case valueTuple:
		return truthOf(v.open || len(v.items) > 0)
	}
	return maybe
}

func boolean(t truth) value { return value{kind: valueBool, truth: t} }

func (n *env) eval(e *expr) value {
	if n.depth++; n.depth > 2*maxExprDepth {
		return value{}
	}
	defer func() { n.depth-- }()
	switch e.op {
	case opInt:
		return value{kind: valueInt, num: e.num}
	case opString:
		return value{kind: valueText, text: e.name}
	case opTuple:
		v := value{kind: valueTuple}
		for _, a := range e.args {
			v.items = append(v.items, n.eval(a))
		}
		return v
	case opName:
		return n.name(e.name)
	case opNot:
		return boolean(n.eval(e.args[0]).bool().not())
	case opAnd, opOr:
		return boolean(n.connect(e.op, n.eval(e.args[0]).bool(), n.eval(e.args[1]).bool()))
	case opCompare:
		return boolean(compareValues(e.name, n.eval(e.args[0]), n.eval(e.args[1])))
	case opIndex:
		v, at := n.eval(e.args[0]), n.eval(e.args[1])
		if at.kind == valueInt && at.num >= 0 {
			if v.kind == valueTuple && at.num < len(v.items) {
				return v.items[at.num]
			}
			if v.kind == valuePrefix && at.num == 0 {
				return value{kind: valueText, text: v.text[:1]}
			}
		}
	case opSlice:
		if e.args[1] != nil {
			return slice(n.eval(e.args[0]), n.eval(e.args[1]))
		}
	case opCall:
		return n.call(e)
	}
	return value{}
}

func (n *env) connect(op exprOp, a, b truth) truth {
	decisive := no
	if op == opOr {
		decisive = yes
	}
	switch {
	case a == decisive || b == decisive:
		return decisive
	case a == maybe || b == maybe:
		return maybe
	}
	return decisive.not()
}

func slice(v, end value) value {
	if end.kind != valueInt || end.num < 0 {
		return value{}
	}
	switch {
	case v.kind == valueTuple && end.num <= len(v.items):
		return value{kind: valueTuple, items: v.items[:end.num]}
	case v.kind == valueTuple && v.open:
		return v
	case v.kind == valuePrefix && end.num <= len(v.text):
		return value{kind: valueText, text: v.text[:end.num]}
	}
	return value{}
}

// name gives the value of a name that modules use in conditions around imports.
func (n *env) name(name string) value {
	if e := n.names[name]; e != nil {
		return n.eval(e)
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch name {
	case "True", "__debug__":
		return boolean(yes)
	case "False", "None":
		return boolean(no)
	case "__name__":
		if n.main {
			return value{kind: valueText, text: "__main__"}
		}
		return value{kind: valueText, text: "module"} // any other
	case "sys.platform", "_sys.platform":
		return value{kind: valuePlatform}
	case "os.name", "_os.name":
		return value{kind: valueText, text: "posix"}
	case "sys.implementation.name":
		return value{kind: valueText, text: "cpython"}
	case "sys.builtin_module_names":
		return value{}
	}
	switch last {
	case "TYPE_CHECKING", "MYPY", "MYPY_CHECK_RUNNING":
		return boolean(no)
	}
	if !n.v.Known() {
		return value{}
	}
	major, minor := value{kind: valueInt, num: n.v.Major}, value{kind: valueInt, num: n.v.Minor}
	switch {
	case last == "version_info":
		return value{kind: valueTuple, items: []value{major, minor}, open: true}
	case strings.HasSuffix(name, "version_info.major"):
		return major
	case strings.HasSuffix(name, "version_info.minor"):
		return minor
	case last == "hexversion":
		return value{kind: valueHex, num: n.v.Major<<24 | n.v.Minor<<16}
	case name == "sys.version":
		return value{kind: valuePrefix, text: n.v.String() + "."}
	}
	return n.versionName(last)
}

// versionName understands PY2, PY3, IS_PY3, py3k, _py2, PY37, py_38: at least that version.
func (n *env) versionName(name string) value {
	s := strings.ToLower(strings.TrimLeft(name, "_"))
	s = strings.TrimPrefix(strings.TrimPrefix(s, "is_"), "is")
	s, ok := strings.CutPrefix(s, "py")
	if !ok {
		return value{}
	}
	s = strings.TrimLeft(strings.TrimPrefix(s, "thon"), "_")
	s = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(s, "_plus"), "_only"), "_")
	switch s {
	case "2", "2k":
		return boolean(truthOf(n.v.Major == 2))
	case "3", "3k":
		return boolean(truthOf(n.v.Major == 3))
	}
	if s == "" || s[0] != '2' && s[0] != '3' {
		return value{}
	}
	minor, err := strconv.Atoi(strings.TrimLeft(s[1:], "_"))
	if err != nil || minor > 99 {
		return value{}
	}
	return boolean(truthOf(!n.v.less(Version{int(s[0] - '0'), minor})))
}

func (n *env) call(e *expr) value {
	f := e.args[0]
	if f.op != opName {
		return value{}
	}
	if obj, ok := strings.CutSuffix(f.name, ".startswith"); ok && len(e.args) == 2 {
		return boolean(startsWith(n.name(obj), n.eval(e.args[1])))
	}
	switch f.name {
	case "bool":
		if len(e.args) == 2 {
			return boolean(n.eval(e.args[1]).bool())
		}
	case "platform.system":
		return value{kind: valuePlatform}
	case "platform.python_implementation":
		return value{kind: valueText, text: "CPython"}
	case "platform.python_version":
		if n.v.Known() {
			return value{kind: valuePrefix, text: n.v.String() + "."}
		}
	}
	return value{}
}

func startsWith(v, prefix value) truth {
	if prefix.kind == valueTuple {
		out := no
		for _, p := range prefix.items {
			switch startsWith(v, p) {
			case yes:
				return yes
			case maybe:
				out = maybe
			}
		}
		return out
	}
	if prefix.kind != valueText {
		return maybe
	}
	switch {
	case v.kind == valuePlatform && notPosix(prefix.text):
		return no
	case v.kind == valueText || v.kind == valuePrefix && len(prefix.text) <= len(v.text):
		return truthOf(strings.HasPrefix(v.text, prefix.text))
	}
	return maybe
}

// notPosix tells of a value of sys.platform or platform.system(), or the beginning of one, that no POSIX system has.
func notPosix(s string) bool {
	s = strings.ToLower(s)
	for _, p := range []string{"win", "cygwin", "msys", "java", "cli", "os2", "riscos", "mac", "emscripten", "wasi", "ios", "android"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func compareValues(op string, a, b value) truth {
	switch op {
	case "!=", "<>":
		return compareValues("==", a, b).not()
	case "not in":
		return compareValues("in", a, b).not()
	case "in":
		if b.kind != valueTuple || b.open {
			return maybe
		}
		out := no
		for _, item := range b.items {
			switch compareValues("==", a, item) {
			case yes:
				return yes
			case maybe:
				out = maybe
			}
		}
		return out
	}
	if a.kind == valuePlatform || b.kind == valuePlatform {
		if op == "==" && (a.kind == valueText && notPosix(a.text) || b.kind == valueText && notPosix(b.text)) {
			return no
		}
		return maybe
	}
	c, ok := order(a, b)
	if !ok {
		return maybe
	}
	switch op {
	case "<":
		return truthOf(c < 0)
	case "<=":
		return truthOf(c <= 0)
	case ">":
		return truthOf(c > 0)
	case ">=":
		return truthOf(c >= 0)
	}
	return truthOf(c == 0)
}

// order compares two values: -1, 0 or 1; it is not ok when the outcome depends on something unknown.
func order(a, b value) (int, bool) {
	switch {
	case a.kind == valueTuple && b.kind == valueTuple:
		return orderTuples(a, b)
	case a.kind == valueInt && b.kind == valueInt:
		return cmpInt(a.num, b.num), true
	case a.kind == valueBool && b.kind == valueBool && a.truth != maybe && b.truth != maybe:
		return cmpInt(int(b.truth), int(a.truth)), true
	case a.kind == valueText && b.kind == valueText:
		return strings.Compare(a.text, b.text), true
	case a.kind == valuePrefix && b.kind == valueText:
		n := len(b.text)
		if n > len(a.text) && strings.HasPrefix(b.text, a.text) {
			return 0, false
		}
		if strings.HasPrefix(a.text, b.text) {
			return 1, true // longer
		}
		return strings.Compare(a.text, b.text), true
	case a.kind == valueHex && b.kind == valueInt:
		if c := cmpInt(a.num>>16, b.num>>16); c != 0 {
			return c, true
		}
		return 1, b.num&0xffff == 0
	case b.kind == valueHex || b.kind == valuePrefix:
		if a.kind == valueHex || a.kind == valuePrefix {
			return 0, false
		}
		c, ok := order(b, a)
		return -c, ok
	}
	return 0, false
}

func orderTuples(a, b value) (int, bool) {
	for i := range min(len(a.items), len(b.items)) {
		if c, ok := order(a.items[i], b.items[i]); !ok || c != 0 {
			return c, ok
		}
	}
	switch {
	case a.open && len(b.items) <= len(a.items) && !b.open:
		return 1, true // sys.version_info has five items
	case b.open && len(a.items) <= len(b.items) && !a.open:
		return -1, true
	case a.open || b.open:
		return 0, false
	}
	return cmpInt(len(a.items), len(b.items)), true
}

func cmpInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
