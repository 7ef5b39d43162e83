package bootstrap

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"mitogend/pyproto/printable"
)

// Step names the part of a connection that failed, in the order in which they happen.
type Step string

const (
	StepOptions Step = "options"        // the target or its arguments are wrong
	StepProgram Step = "program"        // ssh, sudo, docker ... could not be started
	StepConnect Step = "connect"        // it was started, and gave no MITO000: network, authentication, shell
	StepSupply  Step = "sending Python" // the target has none, and was being sent one
	StepPython  Step = "interpreter"    // no usable Python on the target
	StepStage   Step = "first stage"    // after MITO000 and before MITO001
	StepRuntime Step = "runtime"        // after MITO001 and before MITO002
)

// Error is a connection that failed. Callers branch on Step (doctor), Retry and TimedOut.
type Error struct {
	Label    string // the hop, as Plan.Label
	Step     Step
	Reason   string
	Hint     string   // what to try; may be empty
	Output   []string // the last lines that the program printed, secrets masked
	Status   string   // how the program ended: "exit status 255", "signal: killed"; empty while unknown
	Retry    bool     // the other side was busy: the same attempt may succeed later
	TimedOut bool
	NoPython bool  // the interpreter is missing or does not serve: another may
	Err      error // the cause, where there is one
}

// PasswordRefused tells whether a password was sent and not taken: one more attempt may lock the account. The hint says so: that is
// what launchers and control.sock bring of an error.
func (e *Error) PasswordRefused() bool { return e.Hint == hintRefused }

// outputShown is how many of the last lines Error() quotes; Output has them all.
const outputShown = 3

// Error gives one line.
func (e *Error) Error() string { return "bootstrap: " + e.Plain() }

// Plain gives the line without the package's name, for whoever has typed a target.
func (e *Error) Plain() string {
	var b strings.Builder
	if e.Label != "" {
		b.WriteString(printable.Line(e.Label) + ": ")
	}
	b.WriteString(printable.Line(e.Reason))
	if e.Status != "" {
		b.WriteString(" (" + printable.Line(e.Status) + ")")
	}
	if out := e.Output; len(out) > 0 {
		if len(out) > outputShown {
			out = out[len(out)-outputShown:]
		}
		b.WriteString("; it printed: ")
		for i, line := range out {
			if i > 0 {
				b.WriteString(" | ")
			}
			fmt.Fprintf(&b, "%q", line)
		}
	}
	if e.Hint != "" {
		b.WriteString("; try: " + printable.Line(e.Hint))
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Plain gives what an Error in err says, without the package's name; other errors as they are.
func Plain(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return errors.New(e.Plain())
	}
	return err
}

// ArgError is what is wrong with one argument of a connection method, in an Error with StepOptions.
type ArgError struct {
	Arg string
	err error
}

func (e *ArgError) Error() string { return e.Arg + ": " + e.err.Error() }

func (e *ArgError) Unwrap() error { return e.err }

// errorText is how much an error says of a text that it was given: in bytes.
const errorText = 200

// argErrorf makes an ArgError, which quotes no more than errorText of each text.
func argErrorf(arg, format string, args ...any) error {
	for i, v := range args {
		if s, ok := v.(string); ok {
			args[i] = printable.Cut(s, errorText)
		}
	}
	return &ArgError{arg, fmt.Errorf(format, args...)}
}

// Outcome is how an attempt ended before the child was up, for [Plan.Explain].
type Outcome struct {
	Step     Step     // how far the handshake had come
	Output   []string // the last lines that the program printed, normalised
	Status   string   // how the program ended, or StatusTimedOut
	Answered bool     // a password was sent
	Open     string   // what was printed last and is no whole line: a question, perhaps; it is in Output, too
	Dialing  string   // an address that had sent no packet to the program when the time was up
}

// Explain looks in what a program has printed for the reason why it ended, or was silent until the timeout, before the child was up. The
// answers of the plan's prompts are masked in the error. A program that ends after it was sent a password has most likely refused it,
// in whatever language. A question that has no answer, or came a second time, is recognised when it is the last line.
func (p *Plan) Explain(o Outcome) *Error {
	step, output, status, answered := o.Step, o.Output, o.Status, o.Answered
	secrets := p.secrets(answered)
	e := &Error{Label: p.Label, Step: step, Output: maskAll(output, secrets), Status: status}
	if step == StepPython {
		for _, line := range output {
			text, ok := strings.CutPrefix(line, complaint)
			if !ok {
				continue
			}
			e.Reason = "no usable Python: " + explainPython(text)
			if text, ok := strings.CutPrefix(text, "python_from: "); ok {
				e.Reason = "no usable Python there, and none could be sent: " + text
				e.Output = nil
			}
		}
		e.Hint, e.NoPython = hintPython, true
		if p.Supply != nil {
			e.Hint = hintSupply
		}
		return e
	}
	if f, i := p.failure(output, answered); f != nil {
		e.Reason, e.Hint, e.Retry, e.NoPython = f.Reason, f.Hint, f.Retry, f.NoPython
		if f.Advise != nil {
			e.Hint = f.Advise(e.Output)
		}
		if e.Reason == "" {
			e.Reason = e.Output[i]
		}
		if status == StatusTimedOut {
			e.Status, e.TimedOut, e.Reason = "", true, fmt.Sprintf("no child after %s: %s", p.timeout(), e.Reason)
		}
		return e
	}
	e.Hint = p.Hint
	last := ""
	if len(output) > 0 {
		last = output[len(output)-1]
	}
	if status == StatusTimedOut {
		e.Status, e.TimedOut = "", true
	}
	switch step {
	case StepConnect:
		if q := p.open(last, answered); q != nil {
			e.Reason, e.Hint = q.problem()
			return e
		}
		e.Reason = "the program ended before an interpreter answered"
		if p.Method == "ssh" && status == fmt.Sprintf("exit status %d", sshFailed) {
			e.Reason = fmt.Sprintf("ssh ended with status %d before an interpreter answered", sshFailed)
			if e.Status = ""; last != "" {
				e.Reason += ": " + e.Output[len(e.Output)-1]
			}
		}
		if answered {
			e.Reason, e.Hint = "the program ended after it was given the password, which was probably refused", hintRefused
		}
	case StepSupply:
		e.Reason, e.Hint = "it ended while Python was sent to it", hintSupply
	case StepStage:
		e.Reason = "the interpreter ended while it was receiving the runtime"
		if p.Method == "ssh" {
			e.Hint = "StdinNull or ForkAfterAuthentication in ssh_config take its input away: ssh_args='-oStdinNull=no -oForkAfterAuthentication=no'"
		}
	case StepRuntime:
		e.Reason = "the runtime ended before it was ready"
		e.Hint = ""
	}
	if e.TimedOut {
		p.explainTimeout(e, o)
	}
	return e
}

// explainTimeout says what the connection waited for.
func (p *Plan) explainTimeout(e *Error, o Outcome) {
	e.Reason = fmt.Sprintf("no child after %s; it waited %s", p.timeout(), waitedFor[o.Step])
	switch {
	case o.Step != StepConnect:
	case o.Dialing != "":
		e.Reason = fmt.Sprintf("no child after %s; nothing answers at %s: not one packet came back", p.timeout(), o.Dialing)
		e.Hint = "is the host up, and does a firewall let the connection through?"
	case o.Open != "":
		e.Reason = fmt.Sprintf("no child after %s; it seems to wait for an answer to %q, which is no question that is known", p.timeout(),
			mask(o.Open, p.secrets(o.Answered)))
		if _, ok := methods[p.Method].arg("password_prompt"); methods[p.Method] != nil && ok {
			e.Hint = "if it asks for the password: password_prompt=TEXT"
		}
	case p.Method == "ssh" && len(o.Output) == 0:
		e.Hint = p.Hint + "; a start-up file there may wait, and SessionType none in ssh_config runs nothing (ssh_args=-oSessionType=default)"
	}
}

// StatusTimedOut in place of how the program ended says that it was still running when the time was up.
const StatusTimedOut = "timed out"

// waitedFor is what a connection was waiting for.
var waitedFor = map[Step]string{
	StepConnect: "for an interpreter to start",
	StepSupply:  "for Python to be taken and unpacked",
	StepStage:   "for the interpreter to take the runtime",
	StepRuntime: "for the runtime to start",
}

// open finds the prompt that a line is, if it could not be answered.
func (p *Plan) open(line string, answered bool) *Prompt {
	for i, q := range p.Prompts {
		if q.matches(line) {
			if q.Known && (q.Repeat || !answered) {
				return nil
			}
			return &p.Prompts[i]
		}
	}
	return nil
}

// problem says why the connection fails at a question.
func (q *Prompt) problem() (reason, hint string) {
	if q.Known {
		return q.Refused, q.Hint
	}
	return q.Missing, q.Hint
}

// failure finds the first Failure that a line of the output matches, and that line. Newest lines first: an earlier attempt of the
// program may have complained about something that it then got over.
func (p *Plan) failure(output []string, answered bool) (*Failure, int) {
	for i := range p.Failures {
		f := &p.Failures[i]
		if f.Sent && !answered || f.Unless != "" && lastMatch(nil, f.Unless, output) >= 0 || f.With != "" && lastMatch(nil, f.With, output) < 0 {
			continue
		}
		if j := lastMatch(f.own, f.Pattern, output); j >= 0 {
			return f, j
		}
	}
	return nil, 0
}

// lastMatch gives the index of the last line that pattern, compiled as own if that is not nil, matches, or -1.
func lastMatch(own *regexp.Regexp, pattern string, lines []string) int {
	for i := len(lines) - 1; i >= 0; i-- {
		if matches(own, pattern, lines[i]) {
			return i
		}
	}
	return -1
}

// secrets gives what to mask when passwords were sent.
func (p *Plan) secrets(answered bool) []string {
	var out []string
	for _, q := range p.Prompts {
		if answered && q.Name == namePassword && q.Answer != "" {
			out = append(out, normalise(string(q.Answer)))
		}
	}
	return out
}

// explainPython turns the text of a MITOERR line into words: the target's sh reports `python3=127`.
func explainPython(text string) string {
	words := strings.Fields(text)
	for i, w := range words {
		j := strings.LastIndexByte(w, '=')
		if j <= 0 {
			continue
		}
		switch w[j+1:] {
		case "127":
			words[i] = w[:j] + " (not found),"
		case "126":
			words[i] = w[:j] + " (cannot be executed),"
		case tooOldStatus:
			words[i] = w[:j] + " (older than 2.7, or 3.0 to 3.5),"
		case "1":
			words[i] = w[:j] + " (does not start, or lacks zlib),"
		default:
			words[i] = w[:j] + " (does not start, exit status " + w[j+1:] + "),"
		}
	}
	return strings.TrimSuffix(strings.Join(words, " "), ",")
}
