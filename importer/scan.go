package importer

import (
	"bytes"
	"slices"
	"strings"
)

// Import is one import that a module's source has: a statement, or a call such as __import__("x") with a literal name.
type Import struct {
	// Module is the dotted name without leading dots; empty in "from . import x".
	Module string `json:"module,omitempty"`
	// Level is the number of leading dots.
	Level int `json:"level,omitempty"`
	// Names are what a from-import names, "*" included; nil for "import a.b".
	Names []string `json:"names,omitempty"`
	Line  int      `json:"line"`
	// Lazy: in a function's body, so not done when the module is imported.
	Lazy bool `json:"lazy,omitempty"`
	// Dynamic: a call with a literal name.
	Dynamic bool `json:"dynamic,omitempty"`

	hint  bool // a call of something that is only called like an import
	guard *guard
}

// source is what a scan finds in one module, whatever the child's version. Nothing in it refers to the scanned bytes.
type source struct {
	imports []Import
	// all is a literal __all__: "from package import *" imports the submodules among these names.
	all []string
	// names are module-level names that were given a condition, as in PY3 = sys.version_info[0] == 3.
	names map[string]*expr
	// absolute: from __future__ import absolute_import, so no implicit relative imports on 2.x.
	absolute bool
	// extends: the package extends its __path__ over the whole path.
	extends bool
	// paths: it mentions __file__, __path__, or another of pathMakers, or readsFiles.
	paths bool
	// unpack: it asks for being unpacked.
	unpack bool
	// lists are names with dots that stand beside each other as texts.
	lists [][]string
	// mainGuard is the offset of the module-level line if __name__ == '__main__', -1 without one.
	mainGuard int
	// mitogenMain: calls mitogen.main(), Mitogen's own form of that guard.
	mitogenMain bool
	// called has the module's functions with imports in them that its own top level calls.
	called map[string]bool
}

// guard is a condition under which a block runs; those of parent apply as well.
type guard struct {
	parent *guard
	cond   *condition // nil: none
	negate bool
	// try is set in the blocks of a try statement, where part tells which.
	try  *tryBlock
	part tryPart
	// lazy: in a function's body, of the module-level function fn if that is not empty.
	lazy bool
	fn   string
}

// under makes a guard that applies within g.
func (g *guard) under(n guard) *guard {
	n.parent = g
	if g != nil && g.lazy {
		n.lazy, n.fn = true, g.fn
	}
	return &n
}

// dormant tells whether no import runs the code.
func (g *guard) dormant() bool { return g != nil && g.lazy && g.fn == "" }

// condition is what an if statement tests. It is parsed when an import depends on it.
type condition struct {
	text []byte
	expr *expr
}

// tryBlock has the indexes of the imports in a try statement's body.
type tryBlock struct{ imports []int }

type tryPart byte

const (
	partBody    tryPart = iota
	partHandler         // except ImportError and what includes it
	partRare            // except something else
	partElse
)

// block is an open compound statement.
type block struct {
	indent int    // of its header
	guard  *guard // of its body
	// For the clauses that may follow at the same indentation: that the conditions of an if and its elifs do not hold, or the
	// try statement.
	otherwise *guard
	try       *tryBlock
}

type scanner struct {
	src     []byte
	pos     int
	nesting int // of f-strings

	out    *source
	blocks []block
	// importing has the module-level functions with imports in them.
	importing map[string]bool
	// line is the number of the line that the offset counted is in.
	line, counted int
}

// readsFiles tells whether a source imports coverage, which opens the files of the modules that it measures.
func readsFiles(src []byte) bool { return bytes.Contains(src, []byte("import coverage")) }

// pathMakers are what makes paths of files, in a module.
var pathMakers = []string{"__file__", "__path__", "sys.modules[", "pkg_resources", "importlib.resources", "importlib_resources"}

// ScriptReadsFiles tells whether a script may open files of served modules by their paths. Its own __file__ is no such
// path.
func ScriptReadsFiles(src []byte) bool {
	if readsFiles(src) || bytes.Contains(src, []byte(".__file__")) {
		return true
	}
	return slices.ContainsFunc(pathMakers[1:], func(maker string) bool { return bytes.Contains(src, []byte(maker)) })
}

// scanSource finds the imports in Python 2 or 3 source. The source need not be a valid program: what makes no sense is passed over.
func scanSource(src []byte) *source {
	text := bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	s := &scanner{src: maskDoubleByte(text), line: 1, out: &source{mainGuard: -1}}
	for s.pos < len(s.src) {
		if indent, ok := s.indentation(); ok {
			s.logicalLine(indent)
		}
	}
	if s.out.mainGuard >= 0 {
		s.out.mainGuard += len(src) - len(text)
	}
	s.out.paths = readsFiles(src)
	for _, maker := range pathMakers {
		s.out.paths = s.out.paths || bytes.Contains(src, []byte(maker))
	}
	s.out.lists = listedNames(src)
	s.out.unpack = bytes.Contains(src, []byte(strings.TrimSpace(unpackMark))) && markedUnpack(src)
	return s.out
}

// indentation goes to the first character of a line, and tells whether the line has code; otherwise it goes behind the line.
func (s *scanner) indentation() (indent int, code bool) {
	for ; s.pos < len(s.src); s.pos++ {
		switch s.src[s.pos] {
		case ' ':
			indent++
		case '\t':
			indent = indent/8*8 + 8
		case '\f':
			indent = 0
		case '\n', '\r':
			s.newline()
			return 0, false
		case '#':
			s.comment()
		default:
			return indent, true
		}
		if s.pos < len(s.src) && (s.src[s.pos] == '\n' || s.src[s.pos] == '\r') {
			s.newline()
			return 0, false
		}
	}
	return 0, false
}

// logicalLine handles the statements of one logical line: several joined by ';', or a header with its suite on the same line.
func (s *scanner) logicalLine(indent int) {
	var prev block
	n := len(s.blocks)
	for ; n > 0 && s.blocks[n-1].indent >= indent; n-- {
		prev = s.blocks[n-1]
	}
	if n == len(s.blocks) || prev.indent != indent {
		prev = block{}
	}
	s.blocks = s.blocks[:n]
	var g *guard
	if n > 0 {
		g = s.blocks[n-1].guard
	}
	for {
		var end byte
		if g, end = s.statement(g, prev, indent); end == '\n' {
			return
		}
		prev = block{}
		s.space()
	}
}

// statement handles one statement under the guard g, or a header. It returns the guard for the rest of the line, and what
// ended the statement. prev is the block that a clause such as else continues.
func (s *scanner) statement(g *guard, prev block, indent int) (*guard, byte) {
	start := s.pos
	word := s.peekWord()
	switch string(word) {
	case "import":
		s.pos += len(word)
		s.importStatement(g, start)
	case "from":
		s.pos += len(word)
		s.fromStatement(g, start)
	case "async":
		s.pos += len(word)
		s.space()
		return s.statement(g, prev, indent)
	case "lazy":
		// Since 3.15 (PEP 810): the module is imported when the name is first used, as by an import in a function.
		s.pos += len(word)
		s.space()
		next := string(s.peekWord())
		s.pos = start
		if next == "import" || next == "from" {
			s.pos += len(word)
			s.space()
			_, end := s.statement(g.under(guard{lazy: true}), prev, indent)
			return g, end
		}
	case "def":
		s.pos += len(word)
		s.space()
		lazy := &guard{parent: g, lazy: true}
		name := s.peekWord()
		end := s.skip(lazy)
		if indent == 0 {
			lazy.fn = string(name)
		}
		s.blocks = append(s.blocks, block{indent: indent, guard: lazy})
		return lazy, end
	case "if", "elif", "else", "while", "try", "except", "finally":
		return s.clause(string(word), g, prev, indent)
	default:
		if g == nil || !g.lazy {
			s.assignment(word, g)
		}
	}
	end := s.skip(g)
	if end == ':' && !g.dormant() && bytes.Contains(s.src[start:s.pos], []byte("lambda")) {
		g = &guard{parent: g, lazy: true}
	}
	return g, end
}

// clause handles the header of an if, while or try statement, or of a later clause of one.
func (s *scanner) clause(word string, g *guard, prev block, indent int) (*guard, byte) {
	line := s.pos
	s.pos += len(word)
	start := s.pos
	end := s.skip(g)
	if end != ':' {
		return g, end
	}
	b := block{indent: indent, guard: g}
	if g.dormant() {
		s.blocks = append(s.blocks, b)
		return g, end
	}
	header := s.src[start : s.pos-1]
	switch {
	case word == "if" || word == "while":
		cond := &condition{text: header}
		b.guard = g.under(guard{cond: cond})
		if word == "if" {
			b.otherwise = g.under(guard{cond: cond, negate: true})
		}
		if word == "if" && g == nil && s.out.mainGuard < 0 && isMainGuard(header) {
			s.out.mainGuard = line
		}
	case word == "elif" && prev.otherwise != nil:
		cond := &condition{text: header}
		b.guard = prev.otherwise.under(guard{cond: cond})
		b.otherwise = prev.otherwise.under(guard{cond: cond, negate: true})
	case word == "else" && prev.otherwise != nil:
		b.guard = prev.otherwise
	case word == "try":
		b.try = &tryBlock{}
		b.guard = g.under(guard{try: b.try, part: partBody})
	case word == "except" && prev.try != nil:
		b.try = prev.try
		b.guard = g.under(guard{try: b.try, part: handlerPart(header)})
	case word == "else" && prev.try != nil:
		b.try = prev.try
		b.guard = g.under(guard{try: b.try, part: partElse})
	}
	s.blocks = append(s.blocks, b)
	return b.guard, end
}

// handlerPart tells whether an except clause catches a failed import. What it cannot see through it takes for one that does.
func handlerPart(header []byte) tryPart {
	types, _, _ := bytes.Cut(header, []byte(" as "))
	if len(bytes.TrimSpace(types)) == 0 {
		return partHandler
	}
	for _, name := range []string{"Import", "ModuleNotFound", "Exception", "StandardError", "_"} {
		if bytes.Contains(types, []byte(name)) {
			return partHandler
		}
	}
	if bytes.Contains(types, []byte("Error")) || bytes.Contains(types, []byte("Interrupt")) {
		return partRare
	}
	return partHandler
}

func isMainGuard(header []byte) bool {
	text := strings.Map(func(r rune) rune {
		if r == '"' {
			return '\''
		}
		if strings.ContainsRune(" \t()", r) {
			return -1
		}
		return r
	}, string(header))
	return strings.HasPrefix(text, "__name__=='__main__'") || strings.HasPrefix(text, "'__main__'==__name__")
}

// importStatement reads what follows the word import, as far as it is understood.
func (s *scanner) importStatement(g *guard, start int) {
	line := s.lineAt(start)
	for {
		s.space()
		name := s.dotted()
		if name == "" {
			return
		}
		s.add(g, Import{Module: name, Line: line})
		s.alias()
		if s.pos >= len(s.src) || s.src[s.pos] != ',' {
			return
		}
		s.pos++
	}
}

// fromStatement reads what follows the word from.
func (s *scanner) fromStatement(g *guard, start int) {
	imp := Import{Line: s.lineAt(start)}
	for s.space(); s.pos < len(s.src) && s.src[s.pos] == '.'; s.space() {
		imp.Level++
		s.pos++
	}
	if string(s.peekWord()) != "import" {
		imp.Module = s.dotted()
		s.space()
	}
	if word := s.peekWord(); string(word) != "import" || imp.Module == "" && imp.Level == 0 {
		return
	}
	s.pos += len("import")
	s.space()
	between := s.space
	if s.pos < len(s.src) && s.src[s.pos] == '(' {
		s.pos++
		between = s.blank
	}
	for {
		between()
		if s.pos < len(s.src) && s.src[s.pos] == '*' {
			s.pos++
			imp.Names = append(imp.Names, "*")
			break
		}
		word := s.peekWord()
		if len(word) == 0 {
			break
		}
		s.pos += len(word)
		imp.Names = append(imp.Names, string(word))
		between()
		if string(s.peekWord()) == "as" {
			s.pos += len("as")
			between()
			s.pos += len(s.peekWord())
			between()
		}
		if s.pos >= len(s.src) || s.src[s.pos] != ',' {
			break
		}
		s.pos++
	}
	if s.pos < len(s.src) && s.src[s.pos] == ')' {
		s.pos++
	}
	if imp.Names == nil {
		return
	}
	if imp.Module == "__future__" && imp.Level == 0 {
		for _, name := range imp.Names {
			s.out.absolute = s.out.absolute || name == "absolute_import"
		}
	}
	s.add(g, imp)
}

// alias skips "as name".
func (s *scanner) alias() {
	s.space()
	if string(s.peekWord()) == "as" {
		s.pos += len("as")
		s.space()
		s.pos += len(s.peekWord())
		s.space()
	}
}

// dotted reads a.b.c; blanks may stand around the dots. It is "" when there is no name.
func (s *scanner) dotted() string {
	word := s.peekWord()
	s.pos += len(word)
	name := string(word)
	for len(word) > 0 {
		before := s.pos
		s.space()
		if s.pos >= len(s.src) || s.src[s.pos] != '.' {
			s.pos = before
			break
		}
		s.pos++
		s.space()
		word = s.peekWord()
		s.pos += len(word)
		name += "." + string(word)
	}
	return name
}

// add records an import. Its conditions are parsed now, so that nothing keeps the source.
func (s *scanner) add(g *guard, imp Import) {
	imp.guard, imp.Lazy = g, g != nil && g.lazy
	for p := g; p != nil; p = p.parent {
		if p.cond != nil && p.cond.expr == nil {
			p.cond.expr, p.cond.text = parseExpr(p.cond.text), nil
		}
		if p.try != nil && p.part == partBody && !imp.hint {
			p.try.imports = append(p.try.imports, len(s.out.imports))
		}
	}
	if imp.Lazy && g.fn != "" {
		if s.importing == nil {
			s.importing = map[string]bool{}
		}
		s.importing[g.fn] = true
	}
	s.out.imports = append(s.out.imports, imp)
}

// lineAt is called with growing offsets.
func (s *scanner) lineAt(pos int) int {
	if pos > s.counted {
		text := s.src[s.counted:pos]
		n := bytes.Count(text, []byte("\n"))
		if n == 0 {
			n = bytes.Count(text, []byte("\r")) // old Macintosh line ends
		}
		s.line += n
		s.counted = pos
	}
	return s.line
}

// conditionWords are what makes an assignment worth parsing as a condition.
var conditionWords = [][]byte{[]byte("version"), []byte("platform"), []byte("PY"), []byte("py"), []byte("os.name")}

// assignment looks at "word = ..." for __all__ and for names of conditions, without moving on.
func (s *scanner) assignment(word []byte, g *guard) {
	if len(word) == 0 {
		return
	}
	start := s.pos
	defer func() { s.pos = start }()
	s.pos += len(word)
	s.space()
	all := string(word) == "__all__"
	if all && s.pos < len(s.src) && s.src[s.pos] == '+' {
		s.pos++
	}
	if s.pos+1 >= len(s.src) || s.src[s.pos] != '=' || s.src[s.pos+1] == '=' {
		return
	}
	s.pos++
	s.space()
	if all {
		if s.pos < len(s.src) && (s.src[s.pos] == '[' || s.src[s.pos] == '(') {
			s.out.all = append(s.out.all, s.literals()...)
		}
		return
	}
	if g != nil {
		return
	}
	begin := s.pos
	s.comment()
	text := s.src[begin:s.pos]
	for _, w := range conditionWords {
		if bytes.Contains(text, w) {
			s.setName(string(word), parseExpr(text))
			return
		}
	}
}

// setName keeps the condition of a name that is assigned once.
func (s *scanner) setName(name string, cond *expr) {
	if s.out.names == nil {
		s.out.names = map[string]*expr{}
	}
	if _, twice := s.out.names[name]; twice {
		cond = nil
	}
	s.out.names[name] = cond
}

// call looks at a call whose opening parenthesis is at the position, without moving on: does it import?
func (s *scanner) call(g *guard) {
	i := s.pos
	for i > 0 && wordChars[s.src[i-1]] {
		i--
	}
	callee := s.src[i:s.pos]
	if s.importing[string(callee)] && (g == nil || !g.lazy) && s.src[i-1] != '.' {
		if s.out.called == nil {
			s.out.called = map[string]bool{}
		}
		s.out.called[string(callee)] = true
		return
	}
	if len(callee) < 4 {
		return
	}
	switch string(callee) {
	case "extend_path", "declare_namespace":
		s.out.extends = true
		return
	case "main":
		s.out.mitogenMain = s.out.mitogenMain || bytes.HasSuffix(s.src[:i], []byte("mitogen."))
		return
	}
	direct := string(callee) == "__import__" || string(callee) == "import_module"
	if !direct && !isHint(callee) {
		return
	}
	start := s.pos
	args := s.literals()
	line := s.lineAt(start)
	s.pos = start
	if len(args) == 0 {
		return
	}
	if !direct {
		for _, name := range args {
			if strings.Contains(name, ".") && nameFault(name) == "" {
				s.add(g, Import{Module: name, Line: line, Dynamic: true, hint: true})
			}
		}
		return
	}
	imp := Import{Module: strings.TrimLeft(args[0], "."), Line: line, Dynamic: true}
	imp.Level = len(args[0]) - len(imp.Module)
	if imp.Level > 0 && len(args) > 1 {
		// import_module(".x", "package"): relative to the package named, not to this module.
		base := args[1]
		for range imp.Level - 1 {
			base, _ = parentName(base)
		}
		imp.Module, imp.Level = strings.Trim(base+"."+imp.Module, "."), 0
	}
	if nameFault(imp.Module) == "" {
		s.add(g, imp)
	}
}

// isHint recognises what is called like an import: import_string, preload_module, safe_import. What is called lazy is not done
// at once, and questions are no imports.
func isHint(callee []byte) bool {
	if !bytes.Contains(callee, []byte("import")) && !bytes.Contains(callee, []byte("preload")) {
		return false
	}
	for _, no := range []string{"lazy", "lazi", "is_", "has_", "can_"} {
		if bytes.Contains(callee, []byte(no)) {
			return false
		}
	}
	return true
}

// literals reads the string literals that a list or a call at the position begins with. It stops at the first item that is
// anything else.
func (s *scanner) literals() []string {
	var out []string
	for s.pos++; ; s.pos++ {
		s.blank()
		prefix := s.peekWord()
		s.pos += len(prefix)
		if len(prefix) > 2 || bytes.ContainsAny(prefix, "fFtT") || s.pos >= len(s.src) || s.src[s.pos] != '\'' && s.src[s.pos] != '"' {
			return out
		}
		start := s.pos
		s.str()
		text := strings.Trim(string(s.src[start:s.pos]), `'"`)
		s.blank()
		if s.pos >= len(s.src) || s.src[s.pos] != ',' && s.src[s.pos] != ')' && s.src[s.pos] != ']' || strings.Contains(text, `\`) {
			return out
		}
		if out = append(out, text); s.src[s.pos] != ',' {
			return out
		}
	}
}
