package bootstrap

import "slices"

var doasMethod = &Method{
	Name: "doas",
	Spec: "[USER]",
	Doc:  "another user by doas",
	Args: []Arg{
		{"username", Text, "the user to become (default root)"},
		{"password", Password, "the password of the user who calls doas"},
		{"doas_path", Words, "the program (default doas), with words of its own where it has some"},
		{"doas_args", Words, "further options; -n is dropped"},
		{"password_prompt", Text, "its question, where it is none that is known"},
		{"incorrect_prompts", Names, "further texts that mean a wrong password: 20 at most, of 200 characters"},
	},
	spec: userSpec,
	plan: planDoas,
}

func planDoas(o *options, b Boot) (*Plan, error) {
	user := o.word("username")
	if user == "" {
		user = "root"
	}
	password, known := o.secret("password")
	in := o.interpreter()
	argv := o.program("doas_path", "doas")
	for _, a := range o.words("doas_args") {
		if a != "-n" {
			argv = append(argv, a)
		}
	}
	argv = append(argv, "-u", user)
	return &Plan{
		Label:    "doas " + user,
		Stdio:    Hybrid,
		Argv:     slices.Concat(argv, []string{"--"}, in.argv(b, false)),
		Prompts:  passwordPrompts("doas", password, known, o.promptPattern(), `^doas \([^)]*\) password: *$`, true),
		Failures: append(o.incorrect("doas"), slices.Concat(accountFailures, doasFailures, in.failures())...),
		Hint:     byHand(argv, "true"),
	}, nil
}

var doasFailures = []Failure{
	{Pattern: `(?i)(authentication|authorization) failed|doas: sorry`, Sent: true, Reason: "doas has refused the password", Hint: hintRefused},
	{Pattern: `(?i)(authentication|authorization) failed|doas: sorry`, Reason: "doas has let nobody in", Hint: hintNotAsked},
	{Pattern: `(?i)a tty is required|unable to open /dev/tty`, Reason: "doas does not accept its terminal", Hint: "is devpts mounted there?"},
	{Pattern: `(?i)doas is not enabled|doas\.conf: (no such file|not found)`, Reason: "doas is not configured", Hint: "write /etc/doas.conf there"},
	{Pattern: `(?i)doas\.conf.*(syntax error|is (group|world) writable|not owned)|syntax error at line`, Reason: "doas's configuration is broken", Hint: "doas -C /etc/doas.conf there"},
	{Pattern: `(?i)operation not permitted|not permitted`, Reason: "doas's rules do not allow it", Hint: "add a permit line to /etc/doas.conf there"},
	{Pattern: `(?i)unknown user`, Reason: "there is no such user", Hint: "getent passwd on the target lists them"},
	{Pattern: `(?i)not installed setuid`, Reason: "doas cannot become root here", Hint: "a file system mounted nosuid, or a broken installation"},
}
