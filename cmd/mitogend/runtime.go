package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// runtimeFlag is --runtime: what runs in the children.
type runtimeFlag struct{ runtime string }

func (f *runtimeFlag) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.runtime, "runtime", "embedded", "what runs on targets that name no runtime: embedded, mitogen (your installed Mitogen, on --path or python3's), or mitogen:DIR")
}

// apply sets the key runtime of targets that have none. Children behind the first hop run the same.
func (f *runtimeFlag) apply(targets []target) error {
	if err := checkRuntime(f.runtime); err != nil {
		return usagef("--runtime: %w", err)
	}
	if f.runtime == "" || f.runtime == "embedded" {
		return nil
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

// checkRuntime refuses what is no runtime.
func checkRuntime(runtime string) error {
	dir, named := strings.CutPrefix(runtime, "mitogen:")
	if named && dir != "" || runtime == "" || runtime == "embedded" || runtime == "mitogen" {
		return nil
	}
	return fmt.Errorf("%q is not embedded, mitogen or mitogen:DIR", runtime)
}
