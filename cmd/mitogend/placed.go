package main

import "strings"

// These stand for the target, and for its machine, in an argument.
const (
	targetMark = "{target}"
	hostMark   = "{host}"
)

// placed replaces targetMark and hostMark in a text.
func placed(text string, t target) string {
	return strings.NewReplacer(targetMark, t.name, hostMark, t.host()).Replace(text)
}

// placedHere is placed for a path on this machine, whatever the names of targets hold.
func placedHere(path string, t target) string {
	return strings.NewReplacer(targetMark, fileName(t.name), hostMark, fileName(t.host())).Replace(path)
}

// named tells whether placed gives another text for each target.
func named(text string) bool {
	return strings.Contains(text, targetMark) || strings.Contains(text, hostMark)
}

func placedAll(args []string, t target) []string {
	argv := make([]string, len(args))
	for i, arg := range args {
		argv[i] = placed(arg, t)
	}
	return argv
}
