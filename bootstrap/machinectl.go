package bootstrap

var machinectlMethod = &Method{
	Name: "machinectl",
	Spec: "MACHINE",
	Doc:  "a systemd-nspawn container or another machine that systemd-machined knows, by systemd-run",
	Args: []Arg{
		{"container", Text, "the machine's name as in machinectl list; .host is this machine"},
		{"username", Text, "user in the machine (default root)"},
		{"systemd_run_path", Text, "the program (default systemd-run)"},
	},
	spec: containerSpec,
	// machinectl shell would put a terminal between us and the child, with newlines translated.
	plan: func(o *options, b Boot) (*Plan, error) {
		name, in := o.need("container", "machine"), o.interpreter()
		argv := []string{o.textOr("systemd_run_path", "systemd-run"), "--machine=" + name, "--quiet", "--pipe", "--wait", "--collect"}
		if user := o.word("username"); user != "" {
			argv = append(argv, "--uid="+user)
		}
		return containerPlan("machinectl "+name, append(argv, "--"), in, b, machinectlFailures), nil
	},
}

var machinectlFailures = []Failure{
	{Pattern: `(?i)no machine .* known|machine .* (does not exist|not found)|host is down`, Reason: "there is no such machine, or it is not running", Hint: "machinectl list shows which there are"},
	{Pattern: `(?i)access denied|permission denied|interactive authentication required`, Reason: "this user may not start a command in the machine", Hint: "go through sudo first: sudo:+machinectl:NAME"},
	{Pattern: `(?i)failed to (connect to|create) bus|no such file or directory.*bus`, Reason: "systemd does not answer, here or in the machine", Hint: "the machine must have been booted (systemd-nspawn -b), with D-Bus running in it"},
}
