package bootstrap

import "strings"

// Typed gives a method's arguments as what they mean, whatever source they are of, for runtimes with methods of their own: bool, int64,
// float64 for seconds, a list of text, text, or Secret.
func Typed(method string, opts map[string]any) (map[string]any, error) {
	m, ok := methods[method]
	if !ok {
		return opts, nil // Build refuses it
	}
	o := &options{values: opts}
	out := map[string]any{}
	for _, key := range sortedKeys(opts) {
		if opts[key] == nil {
			continue
		}
		arg, _ := m.arg(key)
		switch arg.Kind {
		case Number:
			out[key] = int64(o.number(key, 0, -1<<31, 1<<31-1))
		case Flag:
			out[key] = o.flag(key, false)
		case Duration:
			out[key] = o.duration(key, 0).Seconds()
		case Words:
			words := o.words(key)
			out[key] = anyList(words)
			if key != "python_path" && strings.HasSuffix(key, "_path") && len(words) == 1 {
				out[key] = words[0] // a program, as a rule
			}
		case Names:
			out[key] = anyList(o.names(key))
		case Password:
			out[key], _ = o.secret(key)
		default:
			out[key] = o.text(key)
		}
	}
	if o.err != nil {
		return nil, &Error{Label: method, Step: StepOptions, Reason: o.err.Error(), Err: o.err}
	}
	return out, nil
}
