package main

import (
	"slices"
	"strings"
	"testing"
)

func TestLateFlags(t *testing.T) {
	for args, want := range map[string]string{
		"m:f":                          "m:f",
		"m:f -1 -.5 - x":               "m:f -1 -.5 - x",
		"m:f --kw a=1 x --json":        "m:f x [json kw]",
		"m:f --kw=a=1":                 "m:f [kw]",
		"m:f -vv x":                    "m:f x [verbose]",
		"m:f -p 3 x":                   "m:f x [parallel]",
		"m:f -p3 x":                    "m:f x [parallel]",
		"m:f -vp 3":                    "m:f [parallel verbose]",
		"m:f -- --json":                "m:f --json",
		"-- m:f --json":                "m:f --json",
		"--json m:f x -- -q -- y":      "m:f x -q -- y [json]",
		"m:f --frob":                   "error",
		"m:f --json=maybe":             "error",
		"m:f --kw":                     "error",
		"m:f -p":                       "error",
		"m:f --python p1,p2 --kw b=-1": "m:f [kw python]",
	} {
		cmd := newCall(&app{})
		root := newRoot(&app{})
		root.AddCommand(cmd)
		if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
			t.Fatal(args, err)
		}
		rest, err := lateFlags(cmd, cmd.Flags().Args())
		got := strings.Join(rest, " ")
		var changed []string
		for _, name := range []string{"json", "kw", "parallel", "python", "verbose"} {
			if cmd.Flag(name).Changed {
				changed = append(changed, name)
			}
		}
		slices.Sort(changed)
		if changed != nil {
			got += " [" + strings.Join(changed, " ") + "]"
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q (%v)", args, got, want, err)
		}
	}
	if looksLikeFlag("-a b") || looksLikeFlag("--- x") || !looksLikeFlag("--kw=a b") {
		t.Error("blanks")
	}
}
