package main

import (
	"time"

	"github.com/spf13/pflag"

	"mitogend/bootstrap"
)

// duration is the value of a flag: seconds, or a text such as 1m30s, as in targets and files.
type duration time.Duration

func durationVar(f *pflag.FlagSet, to *time.Duration, name string, def time.Duration, usage string) {
	*to = def
	f.Var((*duration)(to), name, usage)
}

func (d *duration) Set(s string) error {
	v, err := bootstrap.ParseDuration(s)
	if err == nil {
		*d = duration(v)
	}
	return err
}

// String is empty for zero, for which the flag's own text says what is meant.
func (d *duration) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

func (*duration) Type() string { return "duration" }
