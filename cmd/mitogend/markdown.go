package main

import (
	"regexp"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/russross/blackfriday/v2"
)

// Widths in columns.
const (
	minWidth   = 40
	maxWidth   = 110 // longer lines are hard to read
	minColumn  = 10  // of a table
	columnGap  = "  "
	codeIndent = "    "
)

// Styles on a terminal.
const (
	styleHeading = "\x1b[1m"
	styleStrong  = "\x1b[1m"
	styleCode    = "\x1b[36m"
	styleOff     = "\x1b[0m"
)

// showMarkdown gives a page for a terminal, at most width columns wide. Without colour it is for a file.
func showMarkdown(text string, width int, colour bool) string {
	m := &markdown{width: min(max(width, minWidth), maxWidth), colour: colour}
	parser := blackfriday.New(blackfriday.WithExtensions(blackfriday.Tables | blackfriday.FencedCode | blackfriday.NoIntraEmphasis | blackfriday.Autolink))
	for n := parser.Parse([]byte(text)).FirstChild; n != nil; n = n.Next {
		m.block(n, "")
	}
	return strings.TrimLeft(m.out.String(), "\n")
}

// markdown shows a parsed page.
type markdown struct {
	out    strings.Builder
	width  int
	colour bool
}

func (m *markdown) style(style, text string) string {
	if !m.colour {
		return text
	}
	return style + text + styleOff
}

// block shows a paragraph or the like after an empty line.
func (m *markdown) block(n *blackfriday.Node, indent string) {
	switch n.Type {
	case blackfriday.Heading:
		text := m.inline(n)
		if n.Level == 1 {
			text = strings.ToUpper(text)
		}
		m.out.WriteString("\n" + m.style(styleHeading, text) + "\n")
	case blackfriday.CodeBlock:
		m.out.WriteString("\n")
		for line := range strings.Lines(strings.TrimRight(string(n.Literal), "\n") + "\n") {
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				line = indent + codeIndent + m.style(styleCode, line)
			}
			m.out.WriteString(line + "\n")
		}
	case blackfriday.Table:
		m.out.WriteString("\n")
		m.table(n)
	case blackfriday.List:
		m.list(n, indent)
	case blackfriday.HTMLBlock, blackfriday.HorizontalRule:
	case blackfriday.BlockQuote:
		for c := n.FirstChild; c != nil; c = c.Next {
			m.block(c, indent+codeIndent)
		}
	default:
		m.out.WriteString("\n")
		m.lines(indent, indent, m.inline(n))
	}
}

func (m *markdown) list(n *blackfriday.Node, indent string) {
	if indent == "" {
		m.out.WriteString("\n")
	}
	for item := n.FirstChild; item != nil; item = item.Next {
		first := indent + "* "
		for c := item.FirstChild; c != nil; c = c.Next {
			if c.Type != blackfriday.Paragraph {
				m.block(c, indent+"  ")
				continue
			}
			m.lines(first, indent+"  ", m.inline(c))
			first = indent + "  "
		}
	}
}

// lines shows a text in lines that fit the width.
func (m *markdown) lines(first, rest, text string) {
	for i, line := range wrap(text, m.width-len(rest)) {
		if i > 0 {
			first = rest
		}
		m.out.WriteString(first + line + "\n")
	}
}

// inline gives the text of a block.
func (m *markdown) inline(n *blackfriday.Node) string {
	var b strings.Builder
	for c := n.FirstChild; c != nil; c = c.Next {
		switch c.Type {
		case blackfriday.Code:
			if text := string(c.Literal); m.colour {
				b.WriteString(m.style(styleCode, strings.ReplaceAll(text, " ", unbroken)))
			} else {
				b.WriteString("`" + text + "`")
			}
		case blackfriday.Strong:
			b.WriteString(m.style(styleStrong, m.inline(c)))
		case blackfriday.Link:
			text, to := m.inline(c), string(c.Destination)
			if b.WriteString(text); strings.Contains(to, "://") && to != text {
				b.WriteString(" <" + to + ">")
			}
		case blackfriday.Text:
			b.Write(c.Literal)
		case blackfriday.HTMLSpan:
		default:
			b.WriteString(m.inline(c))
		}
	}
	return b.String()
}

// unbroken stands for a blank within a styled text, so that the style does not run into the next column.
const unbroken = "\u00a0"

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// columns is the width of a text on the screen.
func columns(text string) int { return ansi.StringWidth(text) }

// wrap splits a text into lines of at most width columns. A longer word has a line of its own. A style ends with its
// line, and begins again on the next one.
func wrap(text string, width int) []string {
	var lines []string
	line, size := "", 0
	for _, word := range strings.Fields(strings.ReplaceAll(text, unbroken, "\u2063 \u2063")) {
		n := columns(strings.ReplaceAll(word, "\u2063", ""))
		if line != "" && size+1+n > width {
			lines = append(lines, line)
			line, size = "", 0
		}
		if line != "" {
			line += " "
			size++
		}
		line += word
		size += n
	}
	if lines = append(lines, line); len(lines) == 0 {
		return []string{""}
	}
	style := ""
	for i, line := range lines {
		line = style + strings.ReplaceAll(line, "\u2063", "")
		style = ""
		if all := escapes.FindAllString(line, -1); len(all) > 0 && all[len(all)-1] != styleOff {
			style = all[len(all)-1]
			line += styleOff
		}
		lines[i] = line
	}
	return lines
}

// table shows a table. Columns are as wide as they have to be. If they do not fit, the widest ones are narrower.
func (m *markdown) table(n *blackfriday.Node) {
	var rows [][]string
	head := 0
	for part := n.FirstChild; part != nil; part = part.Next {
		for row := part.FirstChild; row != nil; row = row.Next {
			var cells []string
			for cell := row.FirstChild; cell != nil; cell = cell.Next {
				cells = append(cells, strings.TrimSpace(m.inline(cell)))
			}
			if part.Type == blackfriday.TableHead {
				head++
				if strings.Join(cells, "") == "" { // a table without a title
					head--
					continue
				}
			}
			rows = append(rows, cells)
		}
	}
	widths := m.widths(rows)
	for i, cells := range rows {
		if i < head {
			for j := range cells {
				cells[j] = m.style(styleHeading, strings.ReplaceAll(cells[j], " ", unbroken))
			}
		}
		m.row(cells, widths)
		if i == head-1 {
			rule := make([]string, len(widths))
			for j, w := range widths {
				rule[j] = strings.Repeat("-", w)
			}
			m.out.WriteString(strings.Join(rule, columnGap) + "\n")
		}
	}
}

func (m *markdown) widths(rows [][]string) []int {
	var widths, least []int
	for _, cells := range rows {
		for i, cell := range cells {
			if i == len(widths) {
				widths, least = append(widths, 1), append(least, minColumn)
			}
			widths[i] = max(widths[i], columns(cell))
			for word := range strings.FieldsSeq(strings.ReplaceAll(cell, unbroken, " ")) {
				least[i] = max(least[i], columns(word))
			}
		}
	}
	room := m.width - len(columnGap)*(len(widths)-1)
	for total(widths) > room {
		widest := -1
		for i, w := range widths {
			if w > least[i] && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break // long words are not broken
		}
		widths[widest]--
	}
	return widths
}

func total(list []int) (n int) {
	for _, x := range list {
		n += x
	}
	return n
}

func (m *markdown) row(cells []string, widths []int) {
	parts := make([][]string, len(cells))
	height := 1
	for i, cell := range cells {
		parts[i] = wrap(cell, widths[i])
		height = max(height, len(parts[i]))
	}
	for y := range height {
		line := ""
		for i, part := range parts {
			text := ""
			if y < len(part) {
				text = part[y]
			}
			line += text + strings.Repeat(" ", max(0, widths[i]-columns(text))) + columnGap
		}
		m.out.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
