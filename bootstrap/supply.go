package bootstrap

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

// Supply sends Python to a target that has none. What runs there, in the target's sh, is supply.sh: it gets the list of builds, takes the
// first that fits the machine, and asks for it unless it is there. It may be used for many targets at once.
type Supply struct {
	// Dir is an absolute path on the target to unpack in; empty means a directory in memory. Keep leaves it there.
	Dir  string
	Keep bool
	// Offers lists the builds that there are, the best first. It is not asked before a target wants one. The error is shown to the user.
	Offers func(context.Context) ([]Offer, error)
}

// Offer is an interpreter that can be sent.
type Offer struct {
	Machines []string // names of the machines that it runs on, as uname -m has them
	Loader   string   // a path that has to be there; empty for none
	Glibc    string   // the version that is needed; empty for none
	Hash     string   // of the manifest, SHA-256 in hexadecimal digits; see package builds
	Python   string   // the interpreter's path in the build
	Foreign  bool     // it needs LD_LIBRARY_PATH
	Size     int64    // what it takes on the target, in bytes
	Label    string   // how errors call it
	// Pack gives it in a form: "tar" or "sh", which may be followed by ".gz". The bytes must not be changed.
	Pack func(ctx context.Context, form string) ([]byte, error)
}

//go:embed supply.sh
var supplyScript string

// collector is the answer to the first question: a command of one line, which has the target's sh read the script that follows.
const collector = `n="$(printf '\nx')";n=${n%x};l=;while :;do IFS= read -r x||exit 1;[ "$x" = . ]&&break;l="$l$x$n";done;eval "$l"` + "\n"

// IsQuestion tells whether a target may ask this when it has asked n times before.
func IsQuestion(text string, n int) bool {
	return n < len(questions) && strings.HasPrefix(text, questions[n])
}

// Answer gives the bytes to be written to a target that has printed this question. It fails for what is no question. The bytes must not be
// changed.
func (s *Supply) Answer(ctx context.Context, question string) ([]byte, error) {
	list, err := s.Offers(ctx)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(question, noPython) {
		return []byte(collector + s.script(list) + ".\n"), nil
	}
	words := strings.Fields(question)
	for _, b := range list {
		if len(words) == 3 && words[1] == b.Hash {
			data, err := b.Pack(ctx, words[2])
			if err == nil && words[0]+" " == wantSize {
				data = fmt.Appendf(nil, "%d\n", len(data))
			}
			return data, err
		}
	}
	return nil, fmt.Errorf("there is no such build any more: connect again")
}

// script is the text with its variables.
func (s *Supply) script(list []Offer) string {
	var b strings.Builder
	flag := func(v bool) string {
		if v {
			return "1"
		}
		return "''"
	}
	fmt.Fprintf(&b, "keep=%s\ngiven=%s\ntable() {\n:\n", flag(s.Keep), shellescape.Quote(s.Dir))
	for _, x := range list {
		fmt.Fprintf(&b, "try %s %s %s %s %s %s %d %s\n", shellescape.Quote(strings.Join(x.Machines, " ")), shellescape.Quote(x.Loader),
			shellescape.Quote(x.Glibc), shellescape.Quote(x.Hash), shellescape.Quote(x.Python), flag(x.Foreign), x.Size>>10, shellescape.Quote(x.Label))
	}
	b.WriteString("}\n")
	for _, line := range strings.Split(supplyScript, "\n") {
		if line = strings.TrimLeft(line, "\t"); line != "" && line[0] != '#' {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}
