package bootstrap

var jailMethod = &Method{
	Name: "jail",
	Spec: "JAIL",
	Doc:  "a FreeBSD jail by jexec",
	Args: []Arg{
		{"container", Text, "its name or number"},
		{"username", Text, "user in the jail (default root)"},
		{"jexec_path", Text, "the program (default jexec)"},
	},
	spec: containerSpec,
	plan: func(o *options, b Boot) (*Plan, error) {
		name, in := o.need("container", "jail"), o.interpreter()
		program := "jexec"
		if b.Mitogen {
			program = "/usr/sbin/jexec"
		}
		argv := []string{o.textOr("jexec_path", program)}
		if user := o.word("username"); user != "" {
			argv = append(argv, "-U", user) // looked up in the jail's own user database
		}
		return containerPlan("jail "+name, append(argv, name), in, b, jailFailures), nil
	},
}

var jailFailures = []Failure{
	{Pattern: `(?i)jail .* not found|jail_attach.*invalid argument`, Reason: "there is no such jail, or it is not running", Hint: "jls shows which there are"},
	{Pattern: `(?i)operation not permitted|permission denied`, Reason: "this user may not enter the jail", Hint: "go through sudo or doas first"},
	{Pattern: `(?i)no such user|getpwnam`, Reason: "there is no such user in the jail", Hint: "check username"},
}
