package bootstrap

import (
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kballard/go-shellquote"

	"mitogend/internal/duration"
)

// Kind is the type of a connection argument. Text is accepted for every kind, since targets and inventories hold nothing
// else; a Python client sends typed values, and from 2.7 its text arrives as bytes.
type Kind string

const (
	Text     Kind = "text"
	Number   Kind = "number"
	Flag     Kind = "flag"     // true, yes, on, 1 / false, no, off, 0
	Words    Kind = "words"    // a list, or text that is split as a shell would
	Names    Kind = "names"    // a list, or text that is split at commas
	Duration Kind = "duration" // seconds, or text such as 1m30s
	Password Kind = "password" // a Secret; never in a target
)

// options reads argument values of any source. The first bad value is kept in err, and Build reports it: a method reads what
// it needs without a check after each line.
type options struct {
	values  map[string]any
	mitogen bool // text that names a program is one word, as Mitogen has it
	supply  bool // an interpreter can be sent to a target that has none
	chooses bool // the interpreter is one of several, and may be sent
	err     error
}

// fail keeps an error about an argument. Of the values that come from outside, args have texts and types only.
func (o *options) fail(key, format string, args ...any) {
	if o.err == nil {
		o.err = argErrorf(key, format, args...)
	}
}

// finish fills in what every method has in common.
func (o *options) finish(p *Plan, method string) error {
	p.Method = method
	p.Timeout = o.duration("connect_timeout", DefaultTimeout)
	p.Silence = o.duration("silence_timeout", 0)
	if o.err != nil {
		return o.err
	}
	return p.check()
}

// has reports whether the argument was given.
func (o *options) has(key string) bool { return o.values[key] != nil }

// text reads a string; NUL bytes cannot be passed to a program and are refused here, with the argument's name.
func (o *options) text(key string) string {
	s, ok := asText(o.values[key])
	switch {
	case o.values[key] == nil:
		return ""
	case !ok:
		o.fail(key, "wanted text, got %T", o.values[key])
	case strings.IndexByte(s, 0) >= 0:
		o.fail(key, "contains a NUL byte")
	}
	return s
}

// word is text that becomes a program's argument of its own, as a host or a user: one that begins with a dash would be taken
// for an option (`ssh -oProxyCommand=...`).
func (o *options) word(key string) string {
	s := o.text(key)
	if strings.HasPrefix(s, "-") {
		o.fail(key, "%q begins with a dash", s)
	}
	return s
}

// need is word for an argument that must be there.
func (o *options) need(key, what string) string {
	s := o.word(key)
	if s == "" {
		o.fail(key, "no %s was given", what)
	}
	return s
}

// textOr is text with a default.
func (o *options) textOr(key, def string) string {
	if s := o.text(key); s != "" {
		return s
	}
	return def
}

// oneOf is text that must be one of a few words; the first is the default.
func (o *options) oneOf(key string, words ...string) string {
	s := o.textOr(key, words[0])
	for _, w := range words {
		if s == w {
			return s
		}
	}
	o.fail(key, "%q is none of %s", s, strings.Join(words, ", "))
	return words[0]
}

// program reads the words of a program that may have some of its own before our arguments, as in "sudo su -".
func (o *options) program(key, def string) []string {
	if s, ok := asText(o.values[key]); ok && o.mitogen && s != "" {
		return o.noNUL(key, []string{s})
	}
	if words := o.words(key); len(words) > 0 {
		return words
	}
	return []string{def}
}

func (o *options) number(key string, def, low, high int) int {
	v := o.values[key]
	if v == nil {
		return def
	}
	var n int64
	ok := true
	switch x := v.(type) {
	case int:
		n = int64(x)
	case int64:
		n = x
	case uint64:
		n, ok = int64(x), x <= math.MaxInt64
	case float64:
		n, ok = int64(x), x == math.Trunc(x) && math.Abs(x) < 1<<53
	default:
		s, isText := asText(v)
		var err error
		n, err = strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		ok = isText && err == nil
	}
	if !ok {
		if s, isText := asText(v); isText {
			o.fail(key, "%q is no whole number", s)
		} else if f, isFloat := v.(float64); isFloat {
			o.fail(key, "%v is no whole number", f)
		} else {
			// The value may be one of a child's, which comes to far more in full than it was sent as.
			o.fail(key, "wanted a whole number, got %T", v)
		}
		return def
	}
	if n < int64(low) || n > int64(high) {
		o.fail(key, "%d is not between %d and %d", n, low, high)
		return def
	}
	return int(n)
}

func (o *options) flag(key string, def bool) bool {
	v := o.values[key]
	if v == nil {
		return def
	}
	on, ok := ReadFlag(v)
	if !ok {
		if s, isText := asText(v); isText {
			o.fail(key, "wanted true or false, got %q", s)
		} else {
			o.fail(key, "wanted true or false, got %T", v)
		}
		return def
	}
	return on
}

// ReadFlag reads the value of a flag of a method, as [Build] does; ok is false for what is none.
func ReadFlag(v any) (on, ok bool) {
	switch x := v.(type) {
	case bool:
		return x, true
	case int:
		return x != 0, true
	case int64:
		return x != 0, true
	}
	s, _ := asText(v)
	switch strings.ToLower(s) {
	case "true", "yes", "on", "1":
		return true, true
	case "false", "no", "off", "0":
		return false, true
	}
	return false, false
}

// words reads a list; text is split as a shell splits it.
func (o *options) words(key string) []string {
	if s, ok := asText(o.values[key]); ok {
		words, err := shellquote.Split(s)
		if err != nil {
			o.fail(key, "%v", err)
		}
		return o.noNUL(key, words)
	}
	return o.list(key)
}

// names reads a list; text is split at commas.
func (o *options) names(key string) []string {
	s, ok := asText(o.values[key])
	if !ok {
		return o.list(key)
	}
	var out []string
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return o.noNUL(key, out)
}

func (o *options) list(key string) []string {
	var out []string
	switch x := o.values[key].(type) {
	case nil:
	case []string:
		out = append(out, x...)
	case []any:
		for _, v := range x {
			s, ok := asText(v)
			if !ok {
				o.fail(key, "wanted a list of text, got a %T in it", v)
			}
			out = append(out, s)
		}
	default:
		o.fail(key, "wanted a list of text, got %T", x)
	}
	return o.noNUL(key, out)
}

func (o *options) noNUL(key string, words []string) []string {
	for _, w := range words {
		if strings.IndexByte(w, 0) >= 0 {
			o.fail(key, "contains a NUL byte")
		}
	}
	return words
}

func (o *options) duration(key string, def time.Duration) time.Duration {
	v := o.values[key]
	if v == nil {
		return def
	}
	var d time.Duration
	switch x := v.(type) {
	case time.Duration:
		d = x
	case int:
		d = time.Duration(x) * time.Second
	case int64:
		d = time.Duration(x) * time.Second
	case uint64:
		d = time.Duration(x) * time.Second
	case float64:
		d = time.Duration(x * float64(time.Second))
	default:
		s, _ := asText(v)
		var err error
		if d, err = ParseDuration(s); err != nil {
			o.fail(key, "%v", err)
			return def
		}
	}
	if d <= 0 {
		o.fail(key, "must be greater than 0")
		return def
	}
	return d
}

// ParseDuration reads a duration as it is written everywhere: seconds (5, 0.5), or with units (5s, 1m30s).
func ParseDuration(s string) (time.Duration, error) { return duration.Parse(s) }

// secret reads a password. A newline would end it early, and the next reader would get the rest.
func (o *options) secret(key string) (Secret, bool) {
	v := o.values[key]
	if v == nil {
		return "", false
	}
	var s string
	if x, ok := v.(Secret); ok {
		s = string(x)
	} else if t, ok := asText(v); ok {
		s = t
	} else {
		o.fail(key, "wanted text")
	}
	if strings.ContainsAny(s, "\n\r\x00") {
		o.fail(key, "contains a newline or a NUL byte")
	}
	return Secret(s), true
}

// interpreter reads python and python_path.
func (o *options) interpreter() interpreter {
	if s, ok := asText(o.values["python_path"]); ok && o.mitogen && s != "" {
		return interpreter{command: o.noNUL("python_path", []string{s})}
	}
	if words := o.words("python_path"); len(words) > 0 {
		o.refuseTilde("python_path", words[0])
		return interpreter{command: words}
	}
	names := o.names("python")
	for _, n := range names {
		if strings.HasPrefix(n, "-") {
			o.fail("python", "%q begins with a dash", n)
		}
		o.refuseTilde("python", n)
	}
	switch {
	case len(names) == 0:
		names = DefaultPythons
	case len(names) == 1 && !o.supply:
		return interpreter{command: names}
	}
	o.chooses = true
	return interpreter{choose: names, sent: o.supply}
}

// refuseTilde: no shell replaces it on the target, since the command is quoted.
func (o *options) refuseTilde(arg, name string) {
	if strings.HasPrefix(name, "~") {
		o.fail(arg, "%q: ~ stands for no directory of the target here; write the path from / on", name)
	}
}

// SupplyOptions reads the arguments by which Python is sent to a target: places of builds on this machine, with ~/ for the home
// directory, the directory there, and whether it is to be kept.
func SupplyOptions(opts map[string]any) (places []string, dir string, keep bool, err error) {
	o := &options{values: opts}
	for _, place := range o.names("python_from") {
		if rest, ok := strings.CutPrefix(place, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, "", false, argErrorf("python_from", "%w", err)
			}
			place = home + "/" + rest
		}
		places = append(places, place)
	}
	dir, keep = o.text("python_dir"), o.flag("keep_python", false)
	switch {
	case o.err != nil:
	case dir != "" && (dir[0] != '/' || strings.ContainsAny(dir, "\n\r")):
		o.fail("python_dir", "%q is no absolute path", dir)
	case dir != "" && len(places) == 0:
		o.fail("python_dir", "it is for python_from, which is not given")
	case keep && len(places) == 0:
		o.fail("keep_python", "it is for python_from, which is not given")
	}
	return places, dir, keep, o.err
}

// asText accepts what stands for text in any of the sources.
func asText(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case []byte:
		return string(x), true
	case Secret:
		return string(x), true
	}
	return "", false
}
