package bootstrap

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

// DefaultTimeout is how long a connection may take, from the start of the program to MITO002.
const DefaultTimeout = 30 * time.Second

// Stdio says which descriptors the started program gets. "Data" is what carries the handshake and then the frames.
type Stdio string

const (
	// Socketpair: one Unix socket as stdin and stdout, a pipe as stderr.
	Socketpair Stdio = "socketpair"
	// Pipes: two pipes as stdin and stdout, a third as stderr.
	Pipes Stdio = "pipes"
	// PTY: a terminal in raw mode, without echo, as stdin, stdout, stderr and controlling terminal.
	PTY Stdio = "pty"
	// Hybrid: a socket as stdin and stdout, a terminal as stderr and controlling terminal.
	Hybrid Stdio = "hybrid"
	// HybridPipes is Hybrid with two pipes for the data: SELinux policies let sudo's command inherit pipes, not sockets.
	HybridPipes Stdio = "hybrid-pipes"
)

// valid reports whether s is one of the layouts above.
func (s Stdio) valid() bool {
	switch s {
	case Socketpair, Pipes, PTY, Hybrid, HybridPipes:
		return true
	}
	return false
}

// Secret is text that formatting never shows. The bytes are got by a conversion.
type Secret string

// Format implements fmt.Formatter for every verb, %#v and %x among them.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.mask())) }

// MarshalText keeps the text out of JSON and other encoders that ask for it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.mask()), nil }

func (s Secret) mask() string {
	if s == "" {
		return ""
	}
	return "******"
}

// Prompt is a question that the program may ask on its terminal, and the answer to it.
//
// Pattern is a regular expression of the subset that Go's regexp and Python's re (UNICODE) share. It is searched in the
// unfinished line, as [normalise] leaves it: text after the last newline, without control characters and escape sequences,
// every kind of space a plain one. Prompts are tried in order and the first that matches counts.
type Prompt struct {
	Name    string // what is asked for, as the user calls it: "password", "host key"; several patterns may share one
	Pattern string
	Answer  Secret // sent with a newline after it
	Known   bool   // whether there is an answer; an empty Answer may be one
	Repeat  bool   // answered every time; otherwise a second question of the same Name means that the answer was refused
	Settle  bool   // a pattern that a banner could match: answered when nothing follows for SettleTime
	Missing string // why the connection fails when Known is false
	Refused string // why it fails when the question comes again
	Hint    string // what to try in both cases

	own *regexp.Regexp // Pattern, where it is this plan's alone; see patterns
}

// SettleTime is how long an unfinished line has to stay as it is before a Prompt with Settle is answered.
const SettleTime = 40 * time.Millisecond

// Failure explains a program that ended: the first Failure with a line of the output that its Pattern matches gives the
// reason. It never ends a connection by itself, since a banner can say anything.
type Failure struct {
	Pattern string // Go regexp, searched in one normalised line
	With    string // counts only where a line matches this one, too
	Unless  string // and not where a line matches this one
	Sent    bool   // counts only after a password was sent
	Reason  string // empty: the line itself is the reason
	Hint    string
	Advise  func(output []string) string `json:"-"` // in place of Hint: one that depends on what was printed
	Retry   bool                         // worth another attempt a little later
	// NoPython says that an interpreter is missing or does not serve.
	NoPython bool

	own *regexp.Regexp // Pattern, where it is this plan's alone; see patterns
}

// Plan tells how to start a child: which program, on which descriptors, which questions it may ask. It is plain data, so that
// the same plan can be run by Start on this machine or by a child's launcher ([Plan.Map]) for a hop behind it.
type Plan struct {
	Method string // "ssh"
	Label  string // how errors call the hop: "ssh web1"
	Argv   []string
	// Pythons, if not empty, are tried one after the other in place of Argv[0]: the first that starts and is recent enough
	// is taken. Only the local method of this machine has it; a plan for elsewhere leaves the choice to the target's sh.
	Pythons  []string
	Env      map[string]string // added to the inherited environment
	Stdio    Stdio
	Input    string // written to stdin at once, for a program that is a shell; empty for all others
	Prompts  []Prompt
	Failures []Failure
	Timeout  time.Duration // 0 means DefaultTimeout
	Silence  time.Duration // how long the child may give no sign of life; 0 is for ever. The daemon sees to it
	Hint     string        // what to try when no Failure matches
	Supply   *Supply       `json:"-"` // where it is set, Argv asks for an interpreter when the target has none
	asking   []string      // what asks in place of Argv, where none of Pythons is there
}

// check reports what is wrong with a plan that was put together by hand.
func (p *Plan) check() error {
	switch {
	case len(p.Argv) == 0 || p.Argv[0] == "":
		return errors.New("the plan names no program")
	case !p.Stdio.valid():
		return fmt.Errorf("unknown stdio layout %q", string(p.Stdio))
	}
	for _, a := range append(append([]string{}, p.Argv...), p.Pythons...) {
		if strings.IndexByte(a, 0) >= 0 {
			return errors.New("an argument contains a NUL byte")
		}
	}
	for _, q := range p.Prompts {
		if q.own != nil {
			continue
		}
		if _, err := compile(q.Pattern); err != nil {
			return fmt.Errorf("prompt %s: %w", q.Name, err)
		}
	}
	for _, f := range p.Failures {
		for i, pattern := range []string{f.Pattern, f.With, f.Unless} {
			if i == 0 && f.own != nil {
				continue
			}
			if _, err := compile(pattern); err != nil {
				return fmt.Errorf("failure pattern: %w", err)
			}
		}
	}
	return nil
}

func (p *Plan) timeout() time.Duration {
	if p.Timeout > 0 {
		return p.Timeout
	}
	return DefaultTimeout
}

// Map gives the plan as what every codec of ours can write: maps, lists, text, bools and floats (seconds). It holds the
// secrets in clear, for the one place that has to know them: the launcher of the child that runs the plan.
//
// The launcher does what Start does (see the package comment), with Python's re in place of regexp. It reports what
// [Plan.Explain] takes: an [Outcome], whose last line is an unfinished one, or that with MITOERR. Failures stay here.
func (p *Plan) Map() map[string]any {
	prompts := make([]any, len(p.Prompts))
	for i, q := range p.Prompts {
		prompts[i] = map[string]any{
			"name": q.Name, "pattern": q.Pattern, "answer": string(q.Answer), "known": q.Known,
			"repeat": q.Repeat, "settle": q.Settle, "missing": q.Missing, "refused": q.Refused, "hint": q.Hint,
		}
	}
	env := make(map[string]any, len(p.Env))
	for k, v := range p.Env {
		env[k] = v
	}
	return map[string]any{
		"method": p.Method, "label": p.Label, "argv": anyList(p.Argv), "pythons": anyList(p.Pythons), "env": env,
		"stdio": string(p.Stdio), "input": p.Input, "supply": p.Supply != nil, "prompts": prompts, "timeout": p.timeout().Seconds(),
		"settle_time": SettleTime.Seconds(),
	}
}

func anyList(ss []string) []any {
	out := make([]any, len(ss))
	for i, s := range ss {
		out[i] = s
	}
	return out
}

// patterns holds what compile has compiled: the patterns of this package, which are few and fixed. It is for ever, so that none is in
// it that differs from plan to plan, by a text of a caller's, who may be code in a child, or by a nonce: those belong to their plan
// (Prompt.own, Failure.own).
var patterns sync.Map // string -> *regexp.Regexp

// Texts that patterns are made of: a pattern takes far more memory than its text.
const (
	maxPatternText = 200 // characters
	maxPatterns    = 20
)

// ownPattern compiles a pattern for one plan. Its maker has bounded the text.
func ownPattern(pattern string) *regexp.Regexp {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil // check says so
	}
	return re
}

func compile(pattern string) (*regexp.Regexp, error) {
	if re, ok := patterns.Load(pattern); ok {
		return re.(*regexp.Regexp), nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	patterns.Store(pattern, re)
	return re, nil
}

// matches reports whether pattern, which Plan.check has seen, is found in text. It is own, if that is not nil.
func matches(own *regexp.Regexp, pattern, text string) bool {
	if own != nil {
		return own.MatchString(text)
	}
	re, err := compile(pattern)
	return err == nil && re.MatchString(text)
}

func (q *Prompt) matches(text string) bool { return matches(q.own, q.Pattern, text) }
