package bootstrap

import "strings"

// asker decides what to do about unfinished lines of the stream on which a program asks.
// It belongs to the goroutine that reads that stream.
type asker struct {
	prompts []Prompt
	given   map[string]bool // names of what was answered: ssh asks twice in different words
}

func newAsker(prompts []Prompt) *asker {
	return &asker{prompts: prompts, given: map[string]bool{}}
}

// verdict is what an unfinished line asks for.
type verdict int

const (
	keepReading verdict = iota
	settle              // a question, if nothing follows for SettleTime
	answer
	giveUp // no answer is known, or it was refused
)

// maxQuestion is how much of the end of an unfinished line is searched for a question: what a program prints without a newline must
// not cost more time than it takes to print.
const maxQuestion = 1200

// lastOf gives the end of an unfinished line, normalised. The launcher in a child does the same.
func lastOf(partial []byte) string {
	return normalise(string(partial[max(0, len(partial)-maxQuestion):]))
}

// look judges the unfinished line. settled is true when nothing followed for SettleTime.
func (a *asker) look(partial []byte, settled bool) (verdict, *Prompt) {
	if a == nil || len(a.prompts) == 0 || len(partial) == 0 {
		return keepReading, nil
	}
	text := lastOf(partial)
	if strings.TrimSpace(text) == "" {
		return keepReading, nil
	}
	for i := range a.prompts {
		p := &a.prompts[i]
		if !p.matches(text) {
			continue
		}
		if p.Settle && !settled {
			return settle, p
		}
		if !p.Known || a.given[p.Name] && !p.Repeat {
			return giveUp, p
		}
		a.given[p.Name] = true
		return answer, p
	}
	return keepReading, nil
}
