package bootstrap

var lxcMethod = &Method{
	Name: "lxc",
	Spec: "CONTAINER",
	Doc:  "a container of classic LXC by lxc-attach",
	Args: []Arg{
		{"container", Text, "its name"},
		{"lxc_attach_path", Text, "the program (default lxc-attach)"},
	},
	spec: containerSpec,
	plan: func(o *options, b Boot) (*Plan, error) {
		name, in := o.need("container", "container"), o.interpreter()
		argv := []string{o.textOr("lxc_attach_path", "lxc-attach"), "--clear-env", "--name", name, "--"}
		return containerPlan("lxc "+name, argv, in, b, lxcFailures), nil
	},
}

var (
	lxdMethod   = lxcLike("lxd", "lxc", "lxc_path", "an instance of LXD by lxc exec")
	incusMethod = lxcLike("incus", "incus", "incus_path", "an instance of Incus by incus exec")
)

// lxcLike makes the method of LXD and of its fork, whose clients differ by name only.
func lxcLike(name, program, pathKey, doc string) *Method {
	return &Method{
		Name: name,
		Spec: "[REMOTE:]INSTANCE",
		Doc:  doc,
		Args: []Arg{
			{"container", Text, "its name"},
			{pathKey, Text, "the program (default " + program + ")"},
		},
		spec: containerSpec,
		plan: func(o *options, b Boot) (*Plan, error) {
			instance, in := o.need("container", "container"), o.interpreter()
			// Without the mode the client would ask for a terminal when ours is one.
			mode := "--mode=non-interactive"
			if b.Mitogen && name == "lxd" {
				mode = "--mode=noninteractive"
			}
			argv := []string{o.textOr(pathKey, program), "exec", mode, instance, "--"}
			return containerPlan(name+" "+instance, argv, in, b, lxcFailures), nil
		},
	}
}

// lxcFailures are the messages of lxc-attach, lxc and incus.
var lxcFailures = []Failure{
	{Pattern: `(?i)is not running|instance is stopped|failed to get init pid|not_running|container .* stopped`, Reason: "the container is stopped", Hint: "start it (lxc-start, lxc start, incus start)"},
	{Pattern: `(?i)instance not found|container .* (is not defined|does not exist)|^error: not found|no such object|failed to fetch instance`, Reason: "there is no such container", Hint: "lxc-ls, lxc list or incus list shows which there are"},
	{Pattern: `(?i)is (frozen|paused)`, Reason: "the container is frozen", Hint: "unfreeze it"},
	{Pattern: `(?i)permission denied|you must be root|insufficient privileges|not authorized`, Reason: "this user may not attach to the container", Hint: "go through sudo first: sudo:+lxc:NAME"},
	{Pattern: `(?i)(cannot|can't) connect to|connection refused|unix.socket.*no such file`, Reason: "the container daemon does not answer", Hint: "is it running?"},
	{Pattern: `(?i)failed to (get|attach|setns|open|change|move)`, Hint: "lxc-attach -l DEBUG shows more"},
}
