package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// liar gives a target that answers as mode says; see testdata/liar.py.
func liar(t testing.TB, mode string) string {
	t.Helper()
	script, err := filepath.Abs("testdata/liar.py")
	if err != nil {
		t.Fatal(err)
	}
	var python string
	for _, p := range pythons.All(t) {
		if strings.HasPrefix(p.Version, "3.") {
			python = p.Path
		}
	}
	if python == "" {
		t.Skip("the stub needs a Python 3")
	}
	return "exec:" + python + "%20" + script + "%20" + mode
}

// harmless fails the test if one of text's lines was forged, or if a terminal would do anything but show it.
func harmless(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "mitogend: forged") || strings.HasPrefix(line, "99  ssh") || strings.HasPrefix(line, "mitogend: g()") {
			t.Errorf("%s has a forged line: %.500q", what, text)
		}
	}
	inert(t, what, text)
}

// inert fails the test if a terminal would do anything but show the text.
func inert(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is no UTF-8: %.500q", what, text)
	}
	for i, r := range text {
		bidi := r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x61c
		if r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || bidi || r == 0x2028 || r == 0x2029 {
			t.Errorf("%s has %U: %.200q", what, r, text[max(i-50, 0):])
			return
		}
	}
}

func TestWhatAChildSaysIsHarmless(t *testing.T) {
	dir := t.TempDir()
	script := Write(t, dir, "script.py", "print(1)\n")
	for _, mode := range []string{"refuse", "end", "error", "dead", "global", "log", "hang_up"} {
		t.Run(mode, func(t *testing.T) {
			target := liar(t, mode)
			commands := [][]string{
				{"call", "-H", target, "os:getpid"},
				{"call", "-vv", "-H", target, "-H", target + "%20again", "os:getpid"},
			}
			if mode == "refuse" || mode == "error" {
				commands = append(commands, []string{"run", "-H", target, "--trace-imports", script}, []string{"doctor", "-v", "-H", target})
			}
			for _, args := range commands {
				r := Mitogend(t, dir, append(args[:1:1], append([]string{"--timeout", "10s"}, args[1:]...)...)...)
				check := harmless
				if mode == "hang_up" {
					check = inert // a program may print any lines on stderr
				}
				check(t, fmt.Sprint(args, " stdout"), r.Stdout)
				check(t, fmt.Sprint(args, " stderr"), r.Stderr)
				if r.Stderr == "" && r.Stdout == "" {
					t.Errorf("%v says nothing", args)
				}
			}
		})
	}
}

func TestResultsAreShownHarmless(t *testing.T) {
	want := map[string]any{"k\x1b\u009b\x7f\u202e": []any{"v\x1b\u009b\x7f\u2066\u2028", map[string]any{"$bytes": "Yhs="}}}
	for _, asJSON := range []bool{false, true} {
		args := []string{"call", "-H", liar(t, "result")}
		if asJSON {
			args = append(args, "--json")
		}
		r := Mitogend(t, t.TempDir(), append(args, "os:getpid")...)
		harmless(t, "the result", r.Stdout)
		var got any
		if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
			t.Fatal(err)
		}
		if asJSON {
			got = got.(map[string]any)["result"]
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the result is %q, not %q", got, want)
		}
	}
}

func TestDaemonShowsChildrenHarmless(t *testing.T) {
	for _, format := range []string{"console", "json"} {
		t.Run(format, func(t *testing.T) {
			d := Serve(t, "--log-format", format, "--log-level", "debug")
			do := func(args ...string) Result { return d.Run(t, t.TempDir(), args...) }
			for _, mode := range []string{"log", "error", "dead"} {
				do("call", "--timeout", "10s", "-H", liar(t, mode), "os:getpid")
			}
			poll.Until(t, "the fork is listed", func() bool { return strings.Contains(do("ps").Stdout, "RED") })
			for _, args := range [][]string{
				{"ps"}, {"ps", "--json"}, {"top", "--count", "1"}, {"stats"},
				{"logs"}, {"logs", "--json"}, {"logs", "--kind", "log,connected,lost,closed,import,call,output"},
			} {
				r := do(args...)
				harmless(t, fmt.Sprint(args, " stdout"), r.Stdout)
				harmless(t, fmt.Sprint(args, " stderr"), r.Stderr)
				if r.Stdout == "" {
					t.Errorf("%v shows nothing; stderr: %s", args, r.Stderr)
				}
			}
			harmless(t, "the log", d.Log.String())
			if !strings.Contains(d.Log.String(), "RED") {
				t.Errorf("the log does not have what the child logged: %s", d.Log)
			}
		})
	}
}

// TestProgramsOnATerminal: a single program can use the terminal as any program; several cannot overwrite each other's lines.
func TestProgramsOnATerminal(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", `import sys; sys.stdout.write(u"\x1b[32mgreen\x1b[0m \x1b[1A\x1b[2K\rother| forged\n"); sys.stdout.flush()`)
	p := AnyPython(t)
	for targets, want := range map[string]string{
		p.Target():                    "\x1b[32mgreen\x1b[0m \x1b[1A\x1b[2K\rother| forged\r\n",
		p.Target() + "," + p.Target(): p.Target() + "| \x1b[32mgreen\x1b[0m \\x1b[1A\\x1b[2K\\rother| forged\x1b[0m\r\n",
	} {
		term := onTerminal(t, Command(t, dir, "run", "-H", targets, "p.py"))
		if status := term.wait(); status != 0 || !strings.Contains(term.screen(), want) {
			t.Errorf("%s: status %d, %q", targets, status, term.screen())
		}
	}
}
