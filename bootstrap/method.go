package bootstrap

import (
	"fmt"
	"sort"
	"strings"

	"mitogend/pyproto/printable"
)

// Arg describes one argument of a connection method.
type Arg struct {
	Name string
	Kind Kind
	Doc  string
}

// Method describes a connection method: how its SPEC in a target is read and which arguments it takes.
type Method struct {
	Name string
	Spec string // what stands after the colon, as usage text: "[USER@]HOST[:PORT]"
	Doc  string
	Args []Arg

	// spec puts what a target has after the colon into opts. nil: the method takes no SPEC. It is not asked where that is empty and
	// the argument specArg is given.
	spec    func(spec string, opts map[string]any) error
	specArg string
	plan    func(o *options, b Boot) (*Plan, error)
}

// commonArgs are taken by every method. Those without a use here are arguments that stock Mitogen clients pass, and that the
// caller handles.
var commonArgs = []Arg{
	{"name", Text, "the context's name, for logs and errors"},
	{"python", Names, "interpreters to try in order; one alone is taken without trying (default python3,python,python2, then any python3.X)"},
	{"python_path", Words, "the interpreter's exact command, as in Mitogen; wins over python"},
	{"python_from", Names, "builds of Python on this machine, directories or tar files, of which a target that has none is sent the one that fits it"},
	{"python_dir", Text, "directory there to unpack it in (default: one that is in memory)"},
	{"keep_python", Flag, "leave it there for the next connection (default false)"},
	{"connect_timeout", Duration, "limit for the whole connection (default 30s)"},
	{"silence_timeout", Duration, "give the connection up when the child gives no sign of life for this long (default: never)"},
	{"runtime", Text, "embedded, mitogen or mitogen:DIR; handled by the daemon"},
	{"remote_name", Text, "name of the process in ps, for stock children"},
	{"debug", Flag, "debug logging in a stock child"},
	{"profiling", Flag, "profiling in a stock child"},
	{"unidirectional", Flag, "the child may talk to its parents only"},
}

// methods holds every method by name. It is written by this package's variable initialisation alone.
var methods = func() map[string]*Method {
	m := map[string]*Method{}
	for _, x := range []*Method{
		localMethod, sshMethod, sudoMethod, suMethod, doasMethod, dockerMethod, podmanMethod, buildahMethod, kubectlMethod,
		lxcMethod, lxdMethod, incusMethod, jailMethod, setnsMethod, machinectlMethod, execMethod,
	} {
		m[x.Name] = x
	}
	return m
}()

// Methods lists the connection methods by name.
func Methods() []*Method {
	out := make([]*Method, 0, len(methods))
	for _, m := range methods {
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// AllArgs gives the method's arguments and then the common ones.
func (m *Method) AllArgs() []Arg { return append(append([]Arg{}, m.Args...), commonArgs...) }

func (m *Method) arg(name string) (Arg, bool) {
	for _, list := range [][]Arg{m.Args, commonArgs} {
		for _, a := range list {
			if a.Name == name {
				return a, true
			}
		}
	}
	return Arg{}, false
}

// Build makes the plan for one hop. The keys of opts are the method's argument names; a nil value is the same as none, as in
// Python clients. Values are text, bytes, Secret, bools, numbers, time.Duration and lists of text.
func Build(method string, opts map[string]any, b Boot) (*Plan, error) {
	m, ok := methods[method]
	if !ok {
		return nil, &Error{Step: StepOptions, Reason: fmt.Sprintf("unknown connection method %q", printable.Cut(method, errorText)), Hint: "one of " + methodNames()}
	}
	fail := func(err error) (*Plan, error) {
		return nil, &Error{Label: method, Step: StepOptions, Reason: err.Error(), Err: err}
	}
	if err := b.check(); err != nil {
		return fail(err)
	}
	for _, key := range sortedKeys(opts) {
		if _, ok := m.arg(key); !ok {
			return fail(fmt.Errorf("%s takes no argument %q; it takes %s", method, printable.Cut(key, errorText), argNames(m)))
		}
	}
	o := &options{values: opts, mitogen: b.Mitogen, supply: b.Supply != nil}
	p, err := m.plan(o, b)
	if o.err != nil {
		err = o.err
	}
	if err == nil {
		err = o.finish(p, method)
	}
	if err != nil {
		return fail(err)
	}
	if o.chooses {
		p.Supply = b.Supply
	}
	return p, nil
}

func methodNames() string {
	var names []string
	for _, m := range Methods() {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

func argNames(m *Method) string {
	var names []string
	for _, a := range m.AllArgs() {
		names = append(names, a.Name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
