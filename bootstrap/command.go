package bootstrap

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"mitogend/internal/nothere"
)

// Boot is what the interpreter on the target is started with: `python -c Stub Args...`.
//
// Stub must pass through every login shell inside single quotes, and through sudo -i: no single quote, newline, dollar,
// backtick, exclamation mark or backslash. mitogend/python.Stub keeps to that.
type Boot struct {
	Stub string
	Args []string
	// Elsewhere is true for a plan that a child's launcher will run. A plan for this machine lets Start look for the
	// interpreter; elsewhere a line of sh does it, in the same round trip.
	Elsewhere bool
	// Mitogen has the program called with the options of Mitogen's own method and in its order, for a client that was written for it:
	// what users name in place of ssh, sudo or docker is often a script that reads its arguments.
	Mitogen bool
	// SudoPrompt belongs to that: sudo is given its question by -p where no password is there for it.
	SudoPrompt bool
	// Supply, where it is set, sends an interpreter to a target that has none.
	Supply *Supply
}

// unsafeInStub are the bytes that some shell treats specially inside single quotes, and those that end the quotes.
const unsafeInStub = "'\n\r$`!\\\x00"

func (b Boot) check() error {
	if b.Stub == "" {
		return fmt.Errorf("no first stage was given")
	}
	if i := strings.IndexAny(b.Stub, unsafeInStub); i >= 0 {
		return fmt.Errorf("the first stage contains %q, which not every shell passes on", b.Stub[i])
	}
	for _, a := range b.Args {
		if a == "" || strings.Trim(a, plainBytes) != "" {
			return fmt.Errorf("the first stage's argument %q is empty or contains what a shell may treat specially", a)
		}
	}
	return nil
}

// plainBytes may stand in Args: the chooser joins them with spaces and lets the shell split them again.
const plainBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:@%/+=-"

// DefaultPythons is the list of interpreters that is tried when the target names none. One with a bracket is a pattern: every file
// of that name in the directories of PATH is tried.
var DefaultPythons = []string{
	"python3", "python", "python2", "/usr/libexec/platform-python", "python3.[0-9][0-9]", "python3.[0-9]", "python2.7",
}

// tooOldStatus is the exit status with which the probe says that an interpreter is older than 2.7, or 3.0 to 3.5.
const tooOldStatus = "9"

// probe is Python that every version since 2.4 and every shell's single quotes take: it ends with tooOldStatus unless
// sys.hexversion is 2.7 (0x207, 519) and up to 3.0 (0x300, 768) exclusive, or 3.6 (0x306, 774) and later; and with 1 where there is
// no zlib, which the first stage cannot do without, and which is a file that the current directory might have as well.
const probe = `import sys;` + nothere.Line + `v=sys.hexversion>>16;(v<519 or 767<v<774)and sys.exit(` + tooOldStatus + `);import zlib`

// chooser is run as `sh -c chooser mitogend STUB COUNT ARG... PYTHON...`, where COUNT tells how many ARGs belong to the stub. Each
// candidate runs the probe first, which costs an interpreter start without site, because a pyenv shim or a wrapper script
// exists and is executable even when what it stands for is not there. No single quote, newline, backslash or exclamation
// mark may stand in it: csh, fish and the rest then all pass it on unharmed. What sudo asks with is none of the child's business, and
// PYTHONINSPECT would have a traceback and an interactive interpreter follow each program's end.
const chooser = `unset SUDO_PROMPT PYTHONINSPECT;s=$1 n=$2 a= t=;shift 2;while [ $n -gt 0 ];do a="$a $1";shift;n=$((n-1));done;` +
	`c() { "$1" -SEc "` + probe + `" </dev/null >/dev/null 2>&1&&exec "$1" -c "$s" $a;t="$t $1=$?"; };` +
	`for p do case $p in *[[]*)set +f;IFS=:;for d in $PATH;do IFS=" ";for q in "$d"/$p;do [ -x "$q" ]&&c "$q";done;done;` +
	`IFS=" ";;*)c "$p";;esac;done;`

// What follows where there is none: the end, or a question for one, which is answered by a command.
const (
	tellNone = `echo "MITOERR tried$t"`
	askOne   = `echo "` + noPython + `$t";read -r l&&eval "$l"`
)

// interpreter says which Python the target shall use: one exact command, or candidates to choose from.
type interpreter struct {
	command []string // python_path, or a single candidate: taken as it is
	choose  []string
	sent    bool // where there is none, one is sent
}

// argv gives the words that start the child on the target. With noDollar no word contains a dollar sign: sudo -i hands its
// words to a login shell, and quotes everything but letters, digits, `_`, `-` and `$`.
func (in interpreter) argv(b Boot, noDollar bool) []string {
	if len(in.choose) == 0 {
		return append(append(append([]string{}, in.command...), "-c", b.Stub), b.Args...)
	}
	script := chooser + tellNone
	if in.sent {
		script = chooser + askOne
	}
	if noDollar {
		script = "set -f;eval `printf %b '" + octal(script) + "'`"
	}
	out := append([]string{"sh", "-c", script, "mitogend", b.Stub, fmt.Sprint(len(b.Args))}, b.Args...)
	return append(out, in.choose...)
}

// line gives the same as one command line for a login shell of unknown kind. Its first word is the program: restricted shells
// have no exec, and forced commands look at it. Most shells become their last command by themselves.
func (in interpreter) line(b Boot) string { return shellescape.QuoteCommand(in.argv(b, false)) }

// quoted gives the same as words that a login shell reads when they are joined by spaces.
func (in interpreter) quoted(b Boot) []string {
	words := in.argv(b, false)
	for i, w := range words {
		words[i] = shellescape.Quote(w)
	}
	return words
}

// octal writes every byte of s but letters and digits as printf %b reads them, so that nothing of it is split or expanded.
func octal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, `\0%03o`, c)
	}
	return b.String()
}

// byHand is the hint to run a command, which can be pasted into a shell.
func byHand(argv []string, more ...string) string {
	return "run it by hand: " + shellescape.QuoteCommand(append(slices.Clip(argv), more...))
}

// base is the program's name without its directory, for labels.
func base(program string) string { return path.Base(program) }
