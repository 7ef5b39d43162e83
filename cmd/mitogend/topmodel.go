package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"charm.land/bubbles/v2/help"
	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

// topModel is top on a terminal. All of it belongs to the goroutine of Update and View. The commands that these give
// run on other goroutines, ask the daemon, and give messages.
type topModel struct {
	ctx   context.Context
	c     *client.Client
	every time.Duration

	now, before look
	err         error // of the daemon; it ends top
	paused      bool

	width, height int
	pages         [2]topPage
	page          int
	filter        textinput.Model
	typing        bool
	asked         *question
	notice        string
	help          help.Model
}

// topPage is a table that the screen can show.
type topPage struct {
	name    string
	columns []string
	orders  []topOrder
	rows    func(m *topModel, filtered bool, order topOrder) []topRow

	order    int
	reverse  bool
	selected string // the key of the selected row
	at       int    // where that row was
	first    int    // the first row on the screen
}

// topOrder is a column to sort by. If less is nil, the rows stay as they come.
type topOrder struct {
	name string
	less func(x, y topRow) int
}

// topRow is one line of a table.
type topRow struct {
	key     string
	cells   []string
	context wire.Context
	work    *wire.Work
}

// question is asked before something is ended.
type question struct {
	text string
	what wire.Close
}

type (
	lookMsg struct {
		look
		err error
	}
	tickMsg  struct{}
	endedMsg struct {
		n   int
		err error
	}
)

type topKeys struct {
	Up, Down, PageUp, PageDown, Home, End, Page, Sort, Reverse, Filter, Kill, Pause, Help, Quit key.Binding
}

func bind(label, what string, keys ...string) key.Binding {
	return key.NewBinding(key.WithKeys(keys...), key.WithHelp(label, what))
}

var keysOfTop = topKeys{
	Up: bind("↑", "up", "up", "k"), Down: bind("↓", "down", "down", "j"),
	PageUp: bind("pgup", "page up", "pgup", "b"), PageDown: bind("pgdn", "page down", "pgdown", "space"),
	Home: bind("home", "first", "home", "g"), End: bind("end", "last", "end", "G"),
	Page: bind("tab", "what runs", "tab"), Sort: bind("s", "sort by the next", "s"), Reverse: bind("r", "the other way round", "r"),
	Filter: bind("/", "filter", "/"), Kill: bind("x", "end it", "x", "delete"), Pause: bind("p", "pause", "p"),
	Help: bind("?", "all keys", "?", "h"), Quit: bind("q", "quit", "q", "ctrl+c", "ctrl+d"),
}

func (k topKeys) ShortHelp() []key.Binding {
	return []key.Binding{k.Page, k.Sort, k.Filter, k.Kill, k.Pause, k.Quit, k.Help}
}

func (k topKeys) FullHelp() [][]key.Binding {
	return [][]key.Binding{{k.Up, k.Down, k.PageUp, k.PageDown, k.Home}, {k.End, k.Page, k.Sort, k.Reverse, k.Filter}, {k.Kill, k.Pause, k.Help, k.Quit}}
}

func newTopModel(ctx context.Context, c *client.Client, every time.Duration) *topModel {
	m := &topModel{ctx: ctx, c: c, every: every, width: 80, height: 24, filter: textinput.New(), help: help.New()}
	m.filter.Prompt, m.filter.CharLimit = "/", 200
	m.filter.SetVirtualCursor(true)
	by := func(name string, less func(x, y *wire.Context) int) topOrder {
		return topOrder{name, func(x, y topRow) int { return less(&x.context, &y.context) }}
	}
	m.pages = [2]topPage{
		{name: "interpreters", columns: contextColumns, rows: (*topModel).contextRows, orders: []topOrder{
			{name: "state"},
			by("target", func(x, y *wire.Context) int { return strings.Compare(x.Name, y.Name) }),
			by("age", func(x, y *wire.Context) int { return cmp.Compare(y.Age, x.Age) }),
			by("calls", func(x, y *wire.Context) int { return cmp.Compare(y.Calls, x.Calls) }),
			by("failed", func(x, y *wire.Context) int { return cmp.Compare(y.Failures, x.Failures) }),
			by("bytes", func(x, y *wire.Context) int { return cmp.Compare(y.In+y.Out, x.In+x.Out) }),
		}},
		{name: "what runs", columns: []string{"ID", "TARGET", "WHAT", "SINCE", "AS", "FOR"}, rows: (*topModel).workRows, orders: []topOrder{
			{"since", func(x, y topRow) int { return cmp.Compare(y.work.Seconds, x.work.Seconds) }},
			{"target", func(x, y topRow) int { return strings.Compare(x.cells[1], y.cells[1]) }},
			{"what", func(x, y topRow) int { return strings.Compare(x.work.What, y.work.What) }},
			{"for", func(x, y topRow) int { return cmp.Compare(x.work.Client, y.work.Client) }},
		}},
	}
	return m
}

func (m *topModel) Init() tea.Cmd { return m.look }

func (m *topModel) look() tea.Msg {
	l, err := lookAt(m.ctx, m.c)
	return lookMsg{l, err}
}

func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.help.SetWidth(m.width)
	case lookMsg:
		if m.err = msg.err; m.err != nil {
			return m, tea.Quit
		}
		if !m.paused {
			m.before, m.now = m.now, msg.look
		}
		return m, tea.Tick(m.every, func(time.Time) tea.Msg { return tickMsg{} })
	case tickMsg:
		return m, m.look
	case endedMsg:
		switch {
		case msg.err != nil:
			m.notice = "not ended: " + printable.Line(msg.err.Error())
		case msg.n == 0:
			m.notice = "nothing was ended: it has ended by itself, or is a hop, which ends with what is behind it"
		default:
			m.notice = "ended"
		}
	case tea.KeyPressMsg:
		return m, m.press(msg)
	case tea.PasteMsg:
		// Outside the filter, the letters of a pasted text would act as keys.
		if m.typing && m.asked == nil {
			var cmd tea.Cmd
			m.filter, cmd = m.filter.Update(msg)
			return m, cmd
		}
	}
	return m, nil
}

// press handles a key.
func (m *topModel) press(msg tea.KeyPressMsg) tea.Cmd {
	m.notice = ""
	k := keysOfTop
	p := &m.pages[m.page]
	if m.asked != nil {
		q := m.asked
		m.asked = nil
		if msg.String() != "y" {
			m.notice = "left as it is"
			return nil
		}
		m.notice = "ending it ..."
		return func() tea.Msg {
			n, err := m.c.End(m.ctx, q.what)
			return endedMsg{n, err}
		}
	}
	if m.typing {
		switch msg.String() {
		case "esc", "ctrl+c":
			m.filter.Reset()
			fallthrough
		case "enter":
			m.typing = false
			m.filter.Blur()
			return nil
		}
		var cmd tea.Cmd
		m.filter, cmd = m.filter.Update(msg)
		return cmd
	}
	rows := m.rows()
	page := max(1, m.room())
	switch {
	case key.Matches(msg, k.Quit):
		return tea.Quit
	case msg.String() == "ctrl+z":
		return tea.Suspend
	case msg.String() == "esc":
		m.filter.Reset()
	case key.Matches(msg, k.Up):
		p.move(rows, -1)
	case key.Matches(msg, k.Down):
		p.move(rows, 1)
	case key.Matches(msg, k.PageUp):
		p.move(rows, -page)
	case key.Matches(msg, k.PageDown):
		p.move(rows, page)
	case key.Matches(msg, k.Home):
		p.move(rows, -len(rows))
	case key.Matches(msg, k.End):
		p.move(rows, len(rows))
	case key.Matches(msg, k.Page):
		m.page = (m.page + 1) % len(m.pages)
	case key.Matches(msg, k.Sort):
		p.order = (p.order + 1) % len(p.orders)
	case key.Matches(msg, k.Reverse):
		p.reverse = !p.reverse
	case key.Matches(msg, k.Filter):
		m.typing = true
		return m.filter.Focus()
	case key.Matches(msg, k.Pause):
		m.paused = !m.paused
	case key.Matches(msg, k.Help):
		m.help.ShowAll = !m.help.ShowAll
	case key.Matches(msg, k.Kill):
		if i := p.find(rows); i >= 0 {
			m.ask(rows[i])
		}
	}
	return nil
}

// ask asks whether to end a row.
func (m *topModel) ask(r topRow) {
	name := ansi.Truncate(printable.Line(dash(r.context.Name)), widest, "…")
	switch {
	case r.work != nil && r.work.Method == "run":
		m.asked = &question{fmt.Sprintf("end the program %s on %s?", printable.Line(r.work.What), name), wire.Close{Work: r.work.ID}}
	case r.work != nil:
		m.asked = &question{fmt.Sprintf("end %s on %s, and with it the connection, which has %s?", printable.Line(r.work.What), name,
			several(r.context.Leases, "user")), wire.Close{Work: r.work.ID}}
	case r.context.ID == 0:
		m.notice = "it is being connected: end the command that waits for it"
	default:
		m.asked = &question{fmt.Sprintf("end the connection with %s, id %d, which has %s?", name, r.context.ID, several(r.context.Leases, "user")),
			wire.Close{Kill: r.context.ID}}
	}
}

func (m *topModel) contextRows(filtered bool, order topOrder) []topRow {
	var out []topRow
	add := func(c wire.Context, depth int) {
		k := fmt.Sprint(c.ID)
		if c.ID == 0 {
			k = "connecting " + c.Name
		}
		out = append(out, topRow{key: k, cells: contextCells(c, depth), context: c})
	}
	if filtered || order.less != nil {
		for _, c := range m.now.list {
			add(c, 0)
		}
		return out
	}
	for c, depth := range tree(m.now.list) {
		add(c, depth)
	}
	return out
}

func (m *topModel) workRows(bool, topOrder) []topRow {
	var out []topRow
	for _, c := range m.now.list {
		for i := range c.Work {
			w := &c.Work[i]
			client := "nobody any more"
			if w.Client != 0 {
				client = strings.TrimSpace(fmt.Sprintf("%d %s", w.Client, printable.Line(w.Program)))
			}
			out = append(out, topRow{key: fmt.Sprint(w.ID), context: c, work: w, cells: []string{
				fmt.Sprint(c.ID), printable.Line(dash(cmp.Or(w.Target, c.Name))), printable.Line(w.What), shortTime(w.Seconds), printable.Line(w.Method), client,
			}})
		}
	}
	return out
}

// rows gives the rows of the page, filtered and sorted.
func (m *topModel) rows() []topRow {
	p := &m.pages[m.page]
	wanted := strings.ToLower(m.filter.Value())
	order := p.orders[p.order]
	rows := p.rows(m, wanted != "", order)
	if wanted != "" {
		rows = slices.DeleteFunc(rows, func(r topRow) bool { return !strings.Contains(strings.ToLower(strings.Join(r.cells, " ")), wanted) })
	}
	if order.less != nil {
		slices.SortStableFunc(rows, order.less)
	}
	if p.reverse {
		slices.Reverse(rows)
	}
	return rows
}

// find gives the selected row. If that is gone, the row in its place is selected.
func (p *topPage) find(rows []topRow) int {
	i := slices.IndexFunc(rows, func(r topRow) bool { return r.key == p.selected })
	if i < 0 {
		i = min(p.at, len(rows)-1)
	}
	if i >= 0 {
		p.selected, p.at = rows[i].key, i
	}
	return i
}

func (p *topPage) move(rows []topRow, n int) {
	if i := p.find(rows); i >= 0 {
		p.at = max(0, min(len(rows)-1, i+n))
		p.selected = rows[p.at].key
	}
}

// room is how many rows fit on the screen.
func (m *topModel) room() int { return m.height - 5 - strings.Count(m.foot(), "\n") }

// foot gives the lines below the table.
func (m *topModel) foot() string {
	switch {
	case m.asked != nil:
		const answers = " y or n"
		return ansi.Truncate(m.asked.text, max(0, m.width-len(answers)), "…") + answers
	case m.typing:
		return m.filter.View()
	case m.notice != "":
		return m.notice
	}
	return m.help.View(keysOfTop)
}

func (m *topModel) View() tea.View {
	v := tea.NewView("")
	v.AltScreen = true
	if m.now.stats == nil {
		v.Content = "asking the daemon ..."
		return v
	}
	p := &m.pages[m.page]
	rows := m.rows()
	at := p.find(rows)
	room := max(1, m.room())
	p.first = max(0, min(p.first, len(rows)-room))
	if at >= 0 {
		p.first = max(at-room+1, min(p.first, at))
	}
	lines := headLines(m.now.stats, m.before.stats)
	title := fmt.Sprintf("%d %s, by %s", len(rows), p.name, p.orders[p.order].name)
	if f := m.filter.Value(); f != "" {
		title += fmt.Sprintf(", with %q", f)
	}
	if m.paused {
		title += ", paused"
	}
	lines = append(lines, title)
	table := aligned(p.columns, rows)
	lines = append(lines, "\x1b[1m"+ansi.Truncate(table[0], m.width, "")+"\x1b[m")
	shown := table[1:][p.first:min(len(rows), p.first+room)]
	for i, line := range shown {
		line = ansi.Truncate(line, m.width, "")
		if p.first+i == at {
			line = "\x1b[7m" + line + strings.Repeat(" ", max(0, m.width-ansi.StringWidth(line))) + "\x1b[m"
		}
		lines = append(lines, line)
	}
	for i := range lines[:3] {
		lines[i] = ansi.Truncate(lines[i], m.width, "")
	}
	lines = append(lines, slices.Repeat([]string{""}, max(0, room-len(shown)))...)
	for _, line := range strings.Split(m.foot(), "\n") {
		lines = append(lines, ansi.Truncate(line, m.width, ""))
	}
	v.Content = strings.Join(lines, "\n")
	return v
}

// widest is the largest width of a column, in cells of the screen. The last column has no limit.
const widest = 40

// aligned gives the lines of a table, with the titles first.
func aligned(columns []string, rows []topRow) []string {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = len(c)
	}
	for _, r := range rows {
		for i, c := range r.cells {
			if w := ansi.StringWidth(c); w > widest && i < len(r.cells)-1 {
				r.cells[i], w = ansi.Truncate(c, widest, "…"), widest
				widths[i] = w
			} else {
				widths[i] = max(widths[i], w)
			}
		}
	}
	line := func(cells []string) string {
		var b strings.Builder
		for i, c := range cells {
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-ansi.StringWidth(c)+2))
			}
		}
		return b.String()
	}
	out := []string{line(columns)}
	for _, r := range rows {
		out = append(out, line(r.cells))
	}
	return out
}
