package bootstrap

import "strings"

var localMethod = &Method{
	Name: "local",
	Doc:  "a fresh interpreter on the same machine",
	Args: []Arg{
		{"stdio", Text, "pipes (default), socketpair, pty, hybrid or hybrid-pipes"},
	},
	plan: planLocal,
}

func planLocal(o *options, b Boot) (*Plan, error) {
	in := o.interpreter()
	p := &Plan{
		Label: "local",
		Stdio: Stdio(o.oneOf("stdio", string(Pipes), string(Socketpair), string(PTY), string(Hybrid), string(HybridPipes))),
		Hint:  "run the interpreter by hand: a broken PYTHONHOME, sitecustomize or wrapper script ends it before it says anything",
	}
	if len(in.choose) > 0 && b.Elsewhere {
		p.Argv = in.argv(b, false)
		return p, nil
	}
	if len(in.choose) > 0 {
		p.Pythons = in.choose
		in.command = in.choose[:1]
		p.asking = interpreter{choose: []string{"/dev/null"}, sent: in.sent}.argv(b, false)
	}
	p.Argv = interpreter{command: in.command}.argv(b, false)
	if len(p.Pythons) == 0 {
		p.Label = "local " + base(strings.Join(in.command, " "))
	}
	return p, nil
}
