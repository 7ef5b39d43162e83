package bootstrap

import (
	"errors"
	"slices"
	"strings"

	"github.com/kballard/go-shellquote"
)

var execMethod = &Method{
	Name: "exec",
	Spec: "COMMAND",
	Doc:  "any command line that runs the command that is put after it, or that ends in a shell",
	Args: []Arg{
		{"command", Words, "its words; the child's command follows them, or stands in place of a word {} as one quoted line"},
		{"shell", Flag, "the command is a shell that reads its commands from stdin (default false)"},
		{"stdio", Text, "socketpair (default), pipes, pty, hybrid or hybrid-pipes"},
		{"password", Password, "answer to a password question on the terminal (pty, hybrid)"},
		{"password_prompt", Text, "that question, where it is none that is known"},
	},
	spec: func(spec string, opts map[string]any) error {
		if spec == "" {
			return nil
		}
		words, err := shellquote.Split(spec)
		if err != nil {
			return err
		}
		opts["command"] = words
		return nil
	},
	plan: planExec,
}

func planExec(o *options, b Boot) (*Plan, error) {
	words, in := o.words("command"), o.interpreter()
	password, known := o.secret("password")
	if len(words) == 0 {
		return nil, errors.New("no command was given")
	}
	p := &Plan{
		Label:    "exec " + base(words[0]),
		Stdio:    Stdio(o.oneOf("stdio", string(Socketpair), string(Pipes), string(PTY), string(Hybrid), string(HybridPipes))),
		Prompts:  passwordPrompts("the command", password, known, o.promptPattern(), "", false),
		Failures: slices.Concat(accountFailures, in.failures()),
		Hint:     byHand(words),
	}
	if known && (p.Stdio == Socketpair || p.Stdio == Pipes) {
		return nil, argErrorf("password", "with stdio=%s there is no terminal that it could be asked for on; take pty, hybrid or hybrid-pipes", p.Stdio)
	}
	if o.flag("shell", false) {
		p.Argv, p.Input = words, "exec "+in.line(b)+"\n" // the shell must not read on
		return p, nil
	}
	placed := false
	for _, w := range words {
		if strings.Contains(w, "{}") {
			w, placed = strings.ReplaceAll(w, "{}", in.line(b)), true
		}
		p.Argv = append(p.Argv, w)
	}
	if !placed {
		p.Argv = append(p.Argv, in.argv(b, false)...)
	}
	return p, nil
}
