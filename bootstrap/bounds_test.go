package bootstrap

import (
	"fmt"
	"strings"
	"testing"

	"mitogend/pyproto"
)

// bomb is a value of a few kilobytes that is written in full as a thousand million bytes and more.
func bomb() any {
	var v any = strings.Repeat("x", 1000)
	for range 3 {
		list := make([]any, 100)
		for i := range list {
			list[i] = v
		}
		v = list
	}
	return v
}

// TestErrorsAreShort: arguments come from code in children, too, and may stand for far more than was sent.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("x", 60<<10)
	for _, m := range Methods() {
		for _, arg := range m.AllArgs() {
			for what, v := range map[string]any{
				"a text": long, "a dash": "-" + long, "a tilde": "~" + long, "NULs": "\x00" + long, "quotes": "'" + long, "a shared list": bomb(), "a list of it": []any{bomb()},
				"a tuple": pyproto.Tuple{bomb()}, "bytes": []byte(long),
			} {
				opts := map[string]any{arg.Name: v}
				if m.specArg != "" && arg.Name != m.specArg {
					opts[m.specArg] = "h"
				}
				if _, err := Build(m.Name, opts, Boot{Stub: "x"}); err != nil && len(err.Error()) > 2000 {
					t.Errorf("%s, %s: %s: an error of %d bytes: %.300s", m.Name, arg.Name, what, len(err.Error()), err)
				}
			}
		}
		if _, err := Build(m.Name, map[string]any{long: "x"}, Boot{Stub: "x"}); err == nil || len(err.Error()) > 2000 {
			t.Errorf("%s: an unknown argument: %.300v", m.Name, err)
		}
	}
	if _, err := Build(long, nil, Boot{Stub: "x"}); err == nil || len(err.Error()) > 1000 {
		t.Errorf("an unknown method: %.300v", err)
	}
}

// TestPatternsOfOnePlan: what is kept for ever does not grow with what plans were made.
func TestPatternsOfOnePlan(t *testing.T) {
	count := func() (n int) {
		patterns.Range(func(any, any) bool { n++; return true })
		return n
	}
	plans := func(text string) {
		for _, m := range Methods() {
			opts := map[string]any{}
			for _, arg := range m.AllArgs() {
				switch arg.Name {
				case m.specArg, "password_prompt", "incorrect_prompts", "password", "username", "python", "name", "container", "hostname", "pod", "command":
					opts[arg.Name] = text
				}
			}
			switch m.Name {
			case "exec":
				opts["stdio"] = "pty"
			case "setns":
				opts["kind"] = "docker"
			}
			p, err := Build(m.Name, opts, Boot{Stub: "x"})
			if err != nil {
				t.Fatalf("%s: %v", m.Name, err)
			}
			p.Explain(Outcome{Step: StepConnect, Output: []string{text + ": not found", "a line"}, Answered: true})
			newAsker(p.Prompts).look([]byte(text), true)
		}
	}
	plans("first")
	before := count()
	for i := range 5 {
		plans(fmt.Sprint("text", i))
	}
	if n := count(); n != before || n == 0 {
		t.Errorf("%d patterns are kept, %d before", n, before)
	}
}

func TestBoundsOfPromptTexts(t *testing.T) {
	texts := func(n, length int) (list []any) {
		for i := range n {
			list = append(list, fmt.Sprintf("%02d%s", i, strings.Repeat("\u00e9", length-2)))
		}
		return list
	}
	for _, test := range []struct {
		arg  string
		v    any
		want string
	}{
		{"password_prompt", texts(1, 200)[0], ""},
		{"password_prompt", texts(1, 201)[0], "more than 200 characters"},
		{"incorrect_prompts", texts(20, 200), ""},
		{"incorrect_prompts", texts(1, 201), "more than 200 characters"},
		{"incorrect_prompts", texts(21, 5), "21 texts; at most 20"},
	} {
		for _, method := range []string{"su", "doas"} {
			_, err := Build(method, map[string]any{test.arg: test.v}, Boot{Stub: "x"})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, %s: %v, want %q", method, test.arg, err, test.want)
			}
		}
	}
	// What was found before is found still.
	p, err := Build("su", map[string]any{"password_prompt": "Kennung  f\u00fcr X", "incorrect_prompts": "nein"}, Boot{Stub: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Explain(Outcome{Step: StepConnect, Output: []string{"NEIN"}, Answered: true}); !e.PasswordRefused() {
		t.Errorf("%v", e)
	}
	if q := p.open("kennung  f\u00fcr x ", false); q == nil || q.Name != namePassword {
		t.Errorf("%v", q)
	}
	long, err := Build("ssh", map[string]any{"hostname": "h", "python_path": "/" + strings.Repeat("x", 60000)}, Boot{Stub: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range long.Failures {
		if len(f.Pattern) > 2000 {
			t.Errorf("a pattern of %d bytes", len(f.Pattern))
		}
	}
	if long.Failures[0].own != nil {
		t.Error("a constant is compiled for each plan")
	}
}
