package main

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/peterh/liner"
	"golang.org/x/term"
)

// typist reads the lines that are typed.
type typist struct {
	line    *liner.State // nil without a terminal
	lines   *bufio.Reader
	history string
}

func (p *prompts) newTypist() *typist {
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		return &typist{lines: bufio.NewReader(os.Stdin)}
	}
	t := &typist{line: liner.NewLiner(), history: historyFile()}
	restore := sync.OnceFunc(func() { _ = t.line.Close() })
	p.fl.app.restore.Store(&restore)
	t.line.SetCtrlCAborts(true)
	t.line.SetTabCompletionStyle(liner.TabPrints)
	t.line.SetWordCompleter(func(line string, pos int) (string, []string, string) {
		head := string([]rune(line)[:pos])
		tail := string([]rune(line)[pos:])
		word := dotted().FindString(head)
		if strings.TrimSpace(head) == "" {
			return head, []string{"    "}, tail
		}
		found, _ := p.ask('c', word)
		return strings.TrimSuffix(head, word), completions(word, found), tail
	})
	if f, err := os.Open(t.history); err == nil {
		_, _ = t.line.ReadHistory(f)
		_ = f.Close()
	}
	return t
}

// dotted matches the word before the cursor. It is compiled when it is first needed: classes of letters take long.
var dotted = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[\pL\pN_.]*$`) })

// completion matches what may complete a word: a name, and what may stand behind it.
var completion = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[\pL\pN_.]+(\(\)?|[: ])?$`) })

// completions gives the words of a target's answer. Nothing else of the answer gets onto the screen, or into a line
// that runs on other targets.
func completions(word, answer string) []string {
	return slices.DeleteFunc(strings.Split(answer, "\n"), func(w string) bool { return !strings.HasPrefix(w, word) || !completion().MatchString(w) })
}

// historyFile is where lines are remembered. It is empty if there is no such place.
func historyFile() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".local/state")
	}
	return filepath.Join(dir, "mitogend", "repl_history")
}

// read gives one line. If the input ends within a line, it gives that line and io.EOF.
func (t *typist) read(prompt string) (string, error) {
	if t.line == nil {
		text, err := t.lines.ReadString('\n')
		return strings.TrimRight(text, "\r\n"), err
	}
	text, err := t.line.Prompt(prompt)
	if err == nil && strings.TrimSpace(text) != "" {
		t.line.AppendHistory(text)
		t.remember()
	}
	return text, err
}

// remember writes the history.
func (t *typist) remember() {
	if t.history != "" && os.MkdirAll(filepath.Dir(t.history), 0o700) == nil {
		// What was typed may be secret.
		if f, err := os.OpenFile(t.history, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
			_, _ = t.line.WriteHistory(f)
			_ = f.Close()
		}
	}
}

func (t *typist) close() {
	if t.line != nil {
		_ = t.line.Close()
	}
}
