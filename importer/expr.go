package importer

import (
	"fmt"
	"strconv"
	"strings"
)

// expr is a condition that guards imports, as far as it says something about the interpreter: its version, its platform, type
// checking. What it does not understand is opUnknown, whose value is neither true nor false.
type expr struct {
	op   exprOp
	name string // opName: dotted; opCompare: the operator; opString: the text
	num  int    // opInt
	args []*expr
}

type exprOp byte

const (
	opUnknown exprOp = iota
	opName
	opInt
	opString
	opTuple
	opNot
	opAnd
	opOr
	opCompare // args: left, right
	opIndex   // args: value, index
	opSlice   // args: value, end (nil: none)
	opCall    // args: function, arguments
)

var unknownExpr = &expr{}

// parseExpr reads a condition. It never fails.
func parseExpr(text []byte) *expr {
	p := &exprParser{text: string(text)}
	p.next()
	e := p.or()
	if p.tok != "" {
		return unknownExpr
	}
	return e
}

// exprParser is a recursive descent over Python's operators, lowest first.
type exprParser struct {
	text  string
	tok   string // "" at the end; "?" for what is not understood
	depth int
}

// maxExprDepth bounds the recursion.
const maxExprDepth = 50

func (p *exprParser) next() {
	p.text = strings.TrimLeft(p.text, " \t\f\r\n\\")
	if p.text == "" || p.text[0] == '#' {
		p.tok, p.text = "", ""
		return
	}
	n := 1
	switch c := p.text[0]; {
	case c == '\'' || c == '"':
		end := strings.IndexByte(p.text[1:], c)
		if end < 0 || strings.Contains(p.text[:end+2], `\`) {
			p.tok, p.text = "?", ""
			return
		}
		n = end + 2
	case wordChars[c]:
		for n < len(p.text) && wordChars[p.text[n]] {
			n++
		}
	case len(p.text) > 1 && p.text[1] == '=' && strings.IndexByte("<>=!", c) >= 0:
		n = 2
	case len(p.text) > 1 && p.text[:2] == "<>":
		n = 2
	}
	p.tok, p.text = p.text[:n], p.text[n:]
}

// accept takes the token when it is the one given.
func (p *exprParser) accept(tok string) bool {
	if p.tok != tok {
		return false
	}
	p.next()
	return true
}

func (p *exprParser) or() *expr {
	if p.depth++; p.depth > maxExprDepth {
		p.tok, p.text = "?", ""
		return unknownExpr
	}
	defer func() { p.depth-- }()
	e := p.and()
	for p.accept("or") {
		e = &expr{op: opOr, args: []*expr{e, p.and()}}
	}
	return e
}

func (p *exprParser) and() *expr {
	e := p.not()
	for p.accept("and") {
		e = &expr{op: opAnd, args: []*expr{e, p.not()}}
	}
	return e
}

func (p *exprParser) not() *expr {
	negate := false
	for p.accept("not") {
		negate = !negate
	}
	e := p.compare()
	if negate {
		e = &expr{op: opNot, args: []*expr{e}}
	}
	return e
}

func (p *exprParser) compare() *expr {
	left := p.postfix()
	var e *expr
	for {
		op := p.tok
		switch op {
		case "<", "<=", ">", ">=", "==", "!=", "<>", "in":
			p.next()
		case "is":
			p.next()
			op = "=="
			if p.accept("not") {
				op = "!="
			}
		case "not":
			p.next()
			if !p.accept("in") {
				return unknownExpr
			}
			op = "not in"
		default:
			if e == nil {
				return left
			}
			return e
		}
		right := p.postfix()
		c := &expr{op: opCompare, name: op, args: []*expr{left, right}}
		if e == nil {
			e = c
		} else { // a < b < c
			e = &expr{op: opAnd, args: []*expr{e, c}}
		}
		left = right
	}
}

func (p *exprParser) postfix() *expr {
	e := p.atom()
	for {
		switch {
		case p.accept("."):
			if e.op == opName && p.tok != "" && wordChars[p.tok[0]] {
				e = &expr{op: opName, name: e.name + "." + p.tok}
			} else {
				e = unknownExpr
			}
			p.next()
		case p.tok == "[":
			p.next()
			e = p.index(e)
		case p.tok == "(":
			p.next()
			args, _ := p.list(")")
			e = &expr{op: opCall, args: append([]*expr{e}, args...)}
		default:
			return e
		}
	}
}

func (p *exprParser) index(e *expr) *expr {
	var at *expr
	if p.tok != ":" {
		at = p.or()
	}
	if !p.accept(":") {
		if at == nil || !p.accept("]") {
			return unknownExpr
		}
		return &expr{op: opIndex, args: []*expr{e, at}}
	}
	var end *expr
	if p.tok != "]" {
		end = p.or()
	}
	if !p.accept("]") || at != nil && (at.op != opInt || at.num != 0) {
		return unknownExpr
	}
	return &expr{op: opSlice, args: []*expr{e, end}}
}

// list reads expressions up to the closing bracket, and tells whether there was a comma.
func (p *exprParser) list(closing string) (items []*expr, comma bool) {
	for p.tok != closing {
		items = append(items, p.or())
		if p.accept(",") {
			comma = true
		} else if p.tok != closing {
			p.tok, p.text = "?", ""
			return items, comma
		}
	}
	p.next()
	return items, comma
}

func (p *exprParser) atom() *expr {
	tok := p.tok
	switch {
	case tok == "" || tok == "?":
		return unknownExpr
	case tok == "(" || tok == "[" || tok == "{":
		p.next()
		items, comma := p.list(map[string]string{"(": ")", "[": "]", "{": "}"}[tok])
		if tok == "(" && len(items) == 1 && !comma {
			return items[0]
		}
		return &expr{op: opTuple, args: items}
	case tok[0] == '\'' || tok[0] == '"':
		p.next()
		return &expr{op: opString, name: tok[1 : len(tok)-1]}
	case '0' <= tok[0] && tok[0] <= '9':
		p.next()
		n, err := strconv.ParseInt(strings.TrimRight(tok, "lL"), 0, 64)
		if err != nil {
			return unknownExpr
		}
		return &expr{op: opInt, num: int(n)}
	case wordChars[tok[0]]:
		p.next()
		return &expr{op: opName, name: tok}
	}
	p.next()
	return unknownExpr
}

// String writes the condition roughly as it was, for people.
func (e *expr) String() string {
	if e == nil {
		return "..."
	}
	var args []string
	for _, a := range e.args {
		args = append(args, a.String())
	}
	switch e.op {
	case opName:
		return e.name
	case opInt:
		return strconv.Itoa(e.num)
	case opString:
		return strconv.Quote(e.name)
	case opTuple:
		if len(args) == 1 {
			return "(" + args[0] + ",)"
		}
		return "(" + strings.Join(args, ", ") + ")"
	case opNot:
		return "not " + args[0]
	case opAnd:
		return args[0] + " and " + args[1]
	case opOr:
		return args[0] + " or " + args[1]
	case opCompare:
		return args[0] + " " + e.name + " " + args[1]
	case opIndex:
		return fmt.Sprintf("%s[%s]", args[0], args[1])
	case opSlice:
		if e.args[1] == nil {
			return args[0] + "[:]"
		}
		return fmt.Sprintf("%s[:%s]", args[0], args[1])
	case opCall:
		return fmt.Sprintf("%s(%s)", args[0], strings.Join(args[1:], ", "))
	}
	return "..."
}
