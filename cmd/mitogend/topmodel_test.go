package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"mitogend/daemon/wire"
)

func topOf(list ...wire.Context) *topModel {
	m := newTopModel(context.Background(), nil, 1)
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 12})
	m.Update(lookMsg{look: look{&wire.Stats{Version: "v"}, list}})
	return m
}

func press(m *topModel, keys ...string) {
	for _, k := range keys {
		switch k {
		case "up", "down", "pgdown", "home", "end", "tab", "enter", "esc":
			m.Update(tea.KeyPressMsg{Code: map[string]rune{
				"up": tea.KeyUp, "down": tea.KeyDown, "pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd, "tab": tea.KeyTab,
				"enter": tea.KeyEnter, "esc": tea.KeyEscape,
			}[k]})
		default:
			m.Update(tea.KeyPressMsg{Code: rune(k[0]), Text: k})
		}
	}
}

func screenOf(m *topModel) string { return m.View().Content }

// selected is the row that is marked.
func selected(m *topModel) string {
	found := regexp.MustCompile("\x1b\\[7m(.*?) *\x1b\\[m").FindStringSubmatch(screenOf(m))
	if found == nil {
		return ""
	}
	return strings.Join(strings.Fields(found[1])[:2], " ")
}

func TestTopFollowsARow(t *testing.T) {
	var list []wire.Context
	for i := 1; i <= 30; i++ {
		list = append(list, wire.Context{ID: uint32(i), Name: fmt.Sprintf("t%02d", i), State: "idle", Calls: int64(i)})
	}
	m := topOf(list...)
	want := func(what string) {
		t.Helper()
		if got := selected(m); got != what {
			t.Errorf("%q is marked, not %q, of\n%s", got, what, screenOf(m))
		}
	}
	want("1 t01")
	press(m, "down", "down")
	want("3 t03")
	press(m, "s", "s", "s") // by calls, most first
	want("3 t03")
	press(m, "home")
	want("30 t30")
	press(m, "r")
	want("30 t30")
	press(m, "end", "down", "down")
	want("30 t30")
	press(m, "up", "pgdown")
	want("30 t30")
	// What is gone leaves its place to another.
	m.Update(lookMsg{look: look{&wire.Stats{}, list[:29]}})
	want("29 t29")
	press(m, "/", "t", "1", "enter")
	if n := strings.Count(screenOf(m), " idle "); n != 7 || !strings.Contains(screenOf(m), `10 interpreters, by calls, with "t1"`) {
		t.Errorf("%d rows of\n%s", n, screenOf(m))
	}
	press(m, "esc")
	want("19 t19")
	if lines := strings.Split(screenOf(m), "\n"); len(lines) != 12 {
		t.Errorf("%d lines", len(lines))
	}
	// Nothing is there any more, and no key ends that.
	m.Update(lookMsg{look: look{&wire.Stats{}, nil}})
	press(m, "up", "down", "pgdown", "x", "end", "tab", "x", "s", "?")
	if lines := strings.Split(screenOf(m), "\n"); len(lines) != 12 || m.asked != nil {
		t.Errorf("%d lines", len(lines))
	}
}

// No line is wider than the screen, however small that is and whatever children are called.
func TestTopFits(t *testing.T) {
	long := strings.Repeat("数\x1b[31m\n", 60)
	c := wire.Context{ID: 1, Name: long, State: "busy", Leases: 2, Running: 3, Work: []wire.Work{{ID: 7, Method: "call", What: long, Client: 9, Program: long}}}
	for _, size := range [][2]int{{200, 50}, {80, 24}, {20, 6}, {1, 1}, {0, 0}} {
		m := topOf(c, wire.Context{ID: 2, Parent: 1, Name: long, State: "hop"})
		m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		for _, keys := range []string{"", "\t", "x", "y", "?", "/"} {
			if keys == "\t" {
				keys = "tab"
			}
			if keys != "" && keys != "y" {
				press(m, keys)
			}
			for _, line := range strings.Split(screenOf(m), "\n") {
				if plain := ansi.Strip(line); ansi.StringWidth(plain) > size[0] && size[0] > 0 || strings.ContainsAny(plain, "\x1b\r") {
					t.Errorf("%v %s: %q", size, keys, line)
				}
			}
		}
	}
}

// A name may be pasted into the filter, and is nothing anywhere else.
func TestTopPastes(t *testing.T) {
	m := topOf(wire.Context{ID: 4, Name: "web", State: "idle"}, wire.Context{ID: 5, Name: "db", State: "idle"})
	m.Update(tea.PasteMsg{Content: "db"})
	if len(m.rows()) != 2 {
		t.Error("it filters already")
	}
	press(m, "/")
	m.Update(tea.PasteMsg{Content: "db"})
	if rows := m.rows(); len(rows) != 1 || rows[0].context.ID != 5 {
		t.Errorf("%+v", rows)
	}
}

// Only y ends something.
func TestTopAsks(t *testing.T) {
	m := topOf(wire.Context{ID: 4, Name: "web", State: "busy", Leases: 1, Work: []wire.Work{{ID: 7, Method: "run", What: "p.py"}}})
	for _, k := range []string{"n", "enter", "esc", "x", "q"} {
		press(m, "x")
		if m.asked == nil || m.asked.what.Kill != 4 {
			t.Fatalf("%+v", m.asked)
		}
		if _, cmd := m.Update(tea.KeyPressMsg{Code: rune(k[0]), Text: k}); cmd != nil || m.asked != nil {
			t.Errorf("%s does something", k)
		}
	}
	// However long it is, one sees what to press.
	m.Update(lookMsg{look: look{&wire.Stats{}, []wire.Context{{ID: 4, Name: "web", Work: []wire.Work{{ID: 7, Method: "run", What: strings.Repeat("long ", 40)}}}}}})
	press(m, "tab", "x")
	if !strings.Contains(screenOf(m), "end the program long long") || !strings.Contains(screenOf(m), " y or n") {
		t.Errorf("the question is not to be seen in\n%s", screenOf(m))
	}
	if _, cmd := m.Update(tea.KeyPressMsg{Code: 'y', Text: "y"}); cmd == nil {
		t.Error("y does nothing")
	}
}
