package bootstrap

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

var suMethod = &Method{
	Name: "su",
	Spec: "[USER]",
	Doc:  "another user by su",
	Args: []Arg{
		{"username", Text, "the user to become (default root)"},
		{"password", Password, "that user's password"},
		{"su_path", Words, "the program (default su), with words of its own where it has some: sudo su -"},
		{"su_args", Words, "further options, before the user"},
		{"password_prompt", Text, "its question, where it is none that is known"},
		{"incorrect_prompts", Names, "further texts that mean a wrong password: 20 at most, of 200 characters"},
	},
	spec: userSpec,
	plan: planSu,
}

func planSu(o *options, b Boot) (*Plan, error) {
	user := o.word("username")
	if user == "" {
		user = "root"
	}
	password, known := o.secret("password")
	in := o.interpreter()
	argv := append(append(o.program("su_path", "su"), o.words("su_args")...), user)
	return &Plan{
		Label: "su " + user,
		// su reads the password from stdin, and some only if that is a terminal: the frames have to share it.
		Stdio:    PTY,
		Argv:     append(argv, "-c", in.line(b)),
		Prompts:  passwordPrompts("su", password, known, o.promptPattern(), "", false),
		Failures: append(o.incorrect("su"), slices.Concat(accountFailures, suFailures, in.failures())...),
		Hint:     byHand(argv, "-c", "true"),
	}, nil
}

// patternText reads a text that a pattern is made of.
func (o *options) patternText(key, s string) string {
	s = strings.TrimSpace(normalise(s))
	if utf8.RuneCountInString(s) > maxPatternText {
		o.fail(key, "%q has more than %d characters", s, maxPatternText)
		return ""
	}
	return s
}

// promptPattern makes a pattern of password_prompt. Case does not count, and spaces match any.
func (o *options) promptPattern() string {
	s := o.patternText("password_prompt", o.text("password_prompt"))
	if s == "" {
		return ""
	}
	return `(?i)` + regexp.QuoteMeta(s) + ` *$`
}

// incorrect makes failures of incorrect_prompts.
func (o *options) incorrect(who string) []Failure {
	var out []Failure
	texts := o.names("incorrect_prompts")
	if len(texts) > maxPatterns {
		o.fail("incorrect_prompts", "%d texts; at most %d are searched for", len(texts), maxPatterns)
		return nil
	}
	for _, s := range texts {
		if s = o.patternText("incorrect_prompts", s); s != "" {
			pattern := `(?i)` + regexp.QuoteMeta(s)
			out = append(out, Failure{Pattern: pattern, Sent: true, Reason: who + " has refused the password", Hint: hintRefused, own: ownPattern(pattern)})
		}
	}
	return out
}

const suRefused = `(?i)authentication failure|incorrect password|su: sorry|^sorry$|authentication (service cannot|information cannot|token manipulation)|wrong password`

var suFailures = []Failure{
	{Pattern: suRefused, Sent: true, Reason: "su has refused the password", Hint: hintRefused},
	{Pattern: suRefused, Reason: "su has let nobody in", Hint: hintNotAsked},
	{Pattern: `(?i)user .* does not exist|unknown (login|id|user)|no passwd entry|invalid user`, Reason: "there is no such user", Hint: "getent passwd on the target lists them"},
	{Pattern: `(?i)permission denied|not in (the )?(group )?wheel|not a member`, Reason: "su does not let this user become another", Hint: "PAM may demand a group: look at /etc/pam.d/su"},
	{Pattern: `(?i)must be run from a terminal|not a tty|no tty`, Reason: "su does not accept its terminal", Hint: "is devpts mounted there?"},
	{Pattern: `(?i)must be suid|setuid|cannot set (user|group) id|cannot set groups`, Reason: "su cannot become root here", Hint: "a file system mounted nosuid, or a container without privileges"},
	{Pattern: `(?i)unrecognized option|invalid option|usage: su`, Reason: "this su does not know an option", Hint: "check su_path"},
}
