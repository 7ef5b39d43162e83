package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/internal/slogzap"
	"mitogend/pyproto/printable"
)

type doctorCommand struct {
	targetFlags
	json bool
}

func newDoctor(a *app) *cobra.Command {
	c := &doctorCommand{}
	cmd := &cobra.Command{
		Use:   "doctor [flags] [-H TARGET]...",
		Short: "Try targets step by step and say which step fails and what to do",
		Long: `doctor connects each target by itself, not through a running daemon, and tells for every hop which command it ran,
which steps worked, how long they took, what the program printed last, and what to try. Its exit status is 3 if any fails.`,
		Example: `  mitogend doctor
  mitogend doctor -H ssh:web1+sudo:root
  mitogend doctor -H 'web:!web07' --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd, a) },
	}
	c.register(cmd)
	cmd.Flags().BoolVar(&c.json, "json", false, "one line of JSON for each target")
	return cmd
}

// stepCall comes after bootstrap's steps: a function is called.
const stepCall bootstrap.Step = "call"

// hopSteps are the steps of a hop, in order.
var hopSteps = []bootstrap.Step{
	bootstrap.StepOptions, bootstrap.StepProgram, bootstrap.StepConnect, bootstrap.StepPython, bootstrap.StepStage, bootstrap.StepRuntime,
}

// stepText says what happens in each step.
var stepText = map[bootstrap.Step]string{
	bootstrap.StepOptions: "the target's arguments",
	bootstrap.StepProgram: "the program is started",
	bootstrap.StepConnect: "it reaches the other side: network, authentication, shell",
	bootstrap.StepPython:  "an interpreter is found",
	bootstrap.StepStage:   "the interpreter takes the runtime",
	bootstrap.StepRuntime: "the runtime starts",
	stepCall:              "a function is called",
}

// diagnosis is what doctor has found out about a target.
type diagnosis struct {
	Target  string    `json:"target"`
	OK      bool      `json:"ok"`
	Hops    []*triage `json:"hops"`
	Step    string    `json:"step,omitempty"` // the one that failed
	Python  string    `json:"python,omitempty"`
	System  string    `json:"system,omitempty"`
	Trip    float64   `json:"round_trip_seconds,omitempty"`
	Seconds float64   `json:"seconds"`
}

// triage is what doctor has found out about one hop.
type triage struct {
	Hop     string     `json:"hop"`
	Label   string     `json:"label"`
	Command []string   `json:"command,omitempty"`
	State   string     `json:"state"` // ok, failed or untried
	Seconds float64    `json:"seconds"`
	Steps   []stepRow  `json:"steps,omitempty"`
	Failure *complaint `json:"failure,omitempty"`
}

type stepRow struct {
	Step string `json:"step"`
	OK   bool   `json:"ok"`
}

type complaint struct {
	Step     string   `json:"step"`
	Reason   string   `json:"reason"`
	Status   string   `json:"status,omitempty"`
	Output   []string `json:"output"`
	Try      string   `json:"try,omitempty"`
	TimedOut bool     `json:"timed_out,omitempty"`
}

const (
	stateOK      = "ok"
	stateFailed  = "failed"
	stateUntried = "untried"
)

func (c *doctorCommand) run(cmd *cobra.Command, a *app) error {
	ctx := cmd.Context()
	targets, err := c.read(ctx, a, cmd.InOrStdin())
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	asked, err := c.ask(ctx, targets)
	if err != nil {
		return err
	}
	results := make([]*diagnosis, len(targets))
	ready := make([]chan struct{}, len(targets))
	slots := make(chan struct{}, c.parallel)
	var wg sync.WaitGroup
	for i, t := range targets {
		ready[i] = make(chan struct{})
		wg.Go(func() {
			slots <- struct{}{}
			if ctx.Err() == nil {
				results[i] = c.examine(ctx, a, t, asked)
			}
			<-slots
			close(ready[i])
		})
	}
	failed := false
	for i := range targets { // in the order in which they were given
		<-ready[i]
		d := results[i]
		if d == nil || stopped(ctx) {
			continue
		}
		failed = failed || !d.OK
		if c.json {
			writeJSON(a.console.out, d)
		} else {
			d.print(a.console.out, a.verbose > 0)
		}
	}
	wg.Wait()
	if failed {
		return statusError(statusConnect)
	}
	return nil
}

// examine connects one target. It uses a daemon of its own, so that no hop is shared and each hop's time is known.
func (c *doctorCommand) examine(ctx context.Context, a *app, t target, asked secrets) *diagnosis {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.timeout, timeoutError{c.timeout})
		defer cancel()
	}
	started := time.Now()
	d := &diagnosis{Target: t.name}
	for i, hop := range t.hops {
		d.Hops = append(d.Hops, newTriage(hop.OrSSH(), i > 0, c.python))
	}
	var mu sync.Mutex
	var connected []time.Time
	master, err := daemon.New(daemon.Options{Logger: slogzap.Slog(a.logger()), OnEvent: func(e daemon.Event) {
		if e.Kind == daemon.Connected {
			mu.Lock()
			connected = append(connected, e.Time)
			mu.Unlock()
		}
	}})
	if err != nil {
		d.fail(0, &complaint{Step: string(bootstrap.StepOptions), Reason: err.Error()}, 0)
		return d
	}
	defer func() {
		closing, cancel := a.closing(endTime)
		defer cancel()
		_ = master.Shutdown(closing)
	}()
	child, err := master.ConnectHops(ctx, t.name, t.hops, daemon.ConnectOptions{
		Python: c.python, PythonFrom: c.pythonFrom, Timeout: c.connectTimeout, Secrets: t.passwords(asked),
	})
	mu.Lock()
	last := started
	for i, at := range connected {
		d.pass(i, at.Sub(last))
		last = at
	}
	n := len(connected)
	mu.Unlock()
	if err == nil {
		n--
		err = d.call(ctx, child)
	}
	d.Seconds = time.Since(started).Seconds()
	d.OK = err == nil
	if err != nil {
		var hop *daemon.HopError
		if errors.As(err, &hop) {
			n = hop.Hop
		}
		d.fail(min(max(n, 0), len(d.Hops)-1), newComplaint(ctx, err), time.Since(last))
	}
	return d
}

// newTriage tells which command a hop will run.
func newTriage(hop bootstrap.Hop, elsewhere bool, python []string) *triage {
	tr := &triage{Hop: hop.String(), Label: hop.Method, State: stateUntried}
	args, err := hop.Options()
	if err != nil {
		return tr
	}
	if len(python) > 0 && args["python"] == nil && args["python_path"] == nil {
		args["python"] = python
	}
	if plan, err := bootstrap.Build(hop.Method, args, bootstrap.Boot{Stub: "STUB", Elsewhere: elsewhere}); err == nil {
		tr.Label, tr.Command = plan.Label, plan.Argv
	}
	return tr
}

// call tries the child that was connected.
func (d *diagnosis) call(ctx context.Context, child *daemon.Child) error {
	d.Python = child.Version().String()
	if err := child.Call(ctx, "platform:platform").Decode(&d.System); err != nil {
		return err
	}
	sent := time.Now()
	err := child.Call(ctx, "os:getpid").Err()
	d.Trip = time.Since(sent).Seconds()
	return err
}

func (d *diagnosis) pass(i int, took time.Duration) {
	tr := d.Hops[i]
	tr.State, tr.Seconds, tr.Steps = stateOK, took.Seconds(), nil
	for _, s := range hopSteps {
		tr.Steps = append(tr.Steps, stepRow{string(s), true})
	}
}

func (d *diagnosis) fail(i int, why *complaint, took time.Duration) {
	d.Step = why.Step
	tr := d.Hops[i]
	if tr.State != stateOK {
		tr.Seconds = took.Seconds()
	}
	tr.State, tr.Failure = stateFailed, why
	if tr.Steps == nil {
		for _, s := range hopSteps {
			if string(s) == why.Step {
				break
			}
			tr.Steps = append(tr.Steps, stepRow{string(s), true})
		}
	}
	tr.Steps = append(tr.Steps, stepRow{why.Step, false})
}

func newComplaint(ctx context.Context, err error) *complaint {
	var e *bootstrap.Error
	var timeout timeoutError
	switch {
	case errors.As(err, &e):
		c := &complaint{
			Step: string(e.Step), Reason: e.Reason, Status: e.Status, Output: e.Output, Try: e.Hint, TimedOut: e.TimedOut,
		}
		if c.Output == nil {
			c.Output = []string{}
		}
		return c
	case errors.As(context.Cause(ctx), &timeout):
		return &complaint{Step: string(bootstrap.StepConnect), Reason: timeout.Error(), Output: []string{}, TimedOut: true}
	}
	var hop *daemon.HopError
	step := stepCall
	if errors.As(err, &hop) {
		step = bootstrap.StepConnect
	}
	return &complaint{Step: string(step), Reason: explain(ctx, err).String(), Output: []string{}}
}

// print shows a target as a list of hops with their steps.
func (d *diagnosis) print(w io.Writer, verbose bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", printable.Line(d.Target))
	for i, tr := range d.Hops {
		switch tr.State {
		case stateUntried:
			fmt.Fprintf(&b, "  hop %d, %s: not tried\n", i+1, printable.Line(tr.Label))
			continue
		case stateOK:
			fmt.Fprintf(&b, "  hop %d, %s: ok, %.3f s\n", i+1, printable.Line(tr.Label), tr.Seconds)
			if !verbose {
				continue
			}
		default:
			fmt.Fprintf(&b, "  hop %d, %s: FAILED at step %q after %.3f s\n", i+1, printable.Line(tr.Label), tr.Failure.Step, tr.Seconds)
		}
		if tr.Command != nil {
			fmt.Fprintf(&b, "    command: %s\n", printable.Line(commandLine(tr.Command, verbose)))
		}
		for _, s := range tr.Steps {
			word := "ok    "
			if !s.OK {
				word = "FAILED"
			}
			fmt.Fprintf(&b, "    %s %-11s  %s\n", word, s.Step, stepText[bootstrap.Step(s.Step)])
		}
		if tr.Failure != nil {
			tr.Failure.print(&b)
		}
	}
	if d.OK {
		fmt.Fprintf(&b, "  ok: Python %s on %s, %.1f ms a round trip\n", printable.Line(d.Python), printable.Line(d.System), 1000*d.Trip)
	}
	_, _ = io.WriteString(w, b.String())
}

// commandLine quotes a command. It shows only the beginning of our own long script, unless whole is set.
func commandLine(argv []string, whole bool) string {
	const shown = 60
	words := make([]string, len(argv))
	for i, w := range argv {
		if len(w) > 2*shown && !whole {
			w = strings.ToValidUTF8(w[:shown], "") + "..."
		}
		words[i] = shellquote.Join(w)
	}
	return strings.Join(words, " ")
}

func (c *complaint) print(b *strings.Builder) {
	fmt.Fprintf(b, "    reason:  %s\n", printable.Line(c.Reason))
	if c.Status != "" {
		fmt.Fprintf(b, "    ended:   %s\n", printable.Line(c.Status))
	}
	for i, line := range c.Output {
		head := "        "
		if i == 0 {
			head = "printed:"
		}
		fmt.Fprintf(b, "    %s %q\n", head, line)
	}
	if c.Try != "" {
		fmt.Fprintf(b, "    try:     %s\n", printable.Line(c.Try))
	}
}
