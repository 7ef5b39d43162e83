package bootstrap

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The questions of a target without Python come once each, in their order, before an interpreter, and only where they may.
func TestMarksOfASupply(t *testing.T) {
	const size, send = "MITOSIZE h tar.gz", "MITOSEND h tar.gz"
	const tried = "MITONOPY tried python3=127"
	for _, c := range []struct {
		supply bool
		lines  []string
		want   []string // the questions
	}{
		{true, []string{tried, size, send, "MITO000 30b02f0"}, []string{tried, size, send}},
		{true, []string{"motd " + tried, "x", size + "\r"}, []string{tried, size}},
		{true, []string{size, send, tried}, []string{tried}},
		{true, []string{tried, tried, send, size, size, send, send}, []string{tried, size, send}},
		{true, []string{"MITO000 30b02f0", tried, size, send}, nil},
		{false, []string{tried, size, send}, nil},
	} {
		m := marks{supply: c.supply}
		var got []string
		for _, line := range c.lines {
			if _, ev := m.next([]byte(line + "\n")); ev == evAsked {
				got = append(got, m.text)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.lines, got, c.want)
		}
	}
}

func TestSupplyAnswers(t *testing.T) {
	ctx := context.Background()
	offer := Offer{Machines: []string{"x86_64", "aarch64"}, Loader: "/l'x", Hash: "abc", Python: "bin/python3.11", Label: "Python 3.11; `id`",
		Pack: func(_ context.Context, form string) ([]byte, error) {
			if form != "tar" {
				return nil, errors.New("no such form")
			}
			return []byte("packed"), nil
		}}
	s := &Supply{Dir: "/d $(id)", Offers: func(context.Context) ([]Offer, error) { return []Offer{offer}, nil }}
	for question, want := range map[string]string{"MITOSIZE abc tar": "6\n", "MITOSEND abc tar": "packed"} {
		if got, err := s.Answer(ctx, question); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", question, got, err)
		}
	}
	for _, question := range []string{"", "MITOSEND", "MITOSEND abc", "MITOSEND abd tar", "MITOSEND abc sh", "MITOSEND abc tar x"} {
		if got, err := s.Answer(ctx, question); err == nil {
			t.Errorf("%s: %q", question, got)
		}
	}
	// What a shell makes of the script's head, and that it stops where the script is cut off.
	script, err := s.Answer(ctx, noPython+" python3=127")
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"dash", "bash", "busybox sh", "zsh --emulate sh"} {
		words := strings.Fields(shell)
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Log(err)
			continue
		}
		run := func(script string) (string, error) {
			cmd := exec.Command(words[0], append(words[1:], "-c", `read -r l&&eval "$l"`)...)
			cmd.Env = []string{"PATH=/usr/bin:/bin"}
			cmd.Stdin = strings.NewReader(script)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		out, err := run(string(script))
		if err == nil || !strings.Contains(out, "MITOERR python_from: no build fits this machine") || !strings.Contains(out, "Python 3.11; `id` needs /l'x, which is not there") {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
		if out, err := run(string(script[:len(script)/2])); err == nil || out != "" {
			t.Errorf("%s, cut off: %v\n%s", shell, err, out)
		}
	}
}
