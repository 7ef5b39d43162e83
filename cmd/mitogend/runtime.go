package main

import (
	"strings"

	"github.com/spf13/pflag"
)

// runtimeFlag is --runtime: what runs in the children.
type runtimeFlag struct{ runtime string }

func (f *runtimeFlag) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.runtime, "runtime", "embedded", "what runs on targets that name no runtime: embedded, mitogen (your installed Mitogen, on --path or python3's), or mitogen:DIR")
}

// apply sets the key runtime of targets that have none. What is behind the first hop runs the same.
func (f *runtimeFlag) apply(targets []target) error {
	switch {
	case f.runtime == "" || f.runtime == "embedded":
		return nil
	case f.runtime != "mitogen" && (!strings.HasPrefix(f.runtime, "mitogen:") || f.runtime == "mitogen:"):
		return usagef("--runtime %s: embedded, mitogen or mitogen:DIR", f.runtime)
	}
	for _, t := range targets {
		if len(t.hops) == 0 || t.hops[0].Args["runtime"] != "" {
			continue
		}
		args := map[string]string{"runtime": f.runtime}
		for k, v := range t.hops[0].Args {
			args[k] = v
		}
		t.hops[0].Args = args
	}
	return nil
}
