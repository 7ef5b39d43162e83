// Package docs has the manual that mitogend help and the man pages show.
package docs

import (
	"embed"
	"regexp"
	"strings"
)

//go:embed *.md
var files embed.FS

// Topic is a page of the manual, or one section of it.
type Topic struct {
	Name  string
	Short string // a line on what it is about
	// Page is the name of a file here, Section the title of a section in it; empty for the whole page.
	Page, Section string
	// More are further sections of the page.
	More []string
}

// Topics lists all topics, in the order of mitogend help.
var Topics = []Topic{
	{Name: "targets", Short: "where to run: every connection method and its arguments", Page: "targets"},
	{Name: "inventory", Short: "names of hosts, groups, patterns, variables and ansible-vault", Page: "targets", Section: "Names: the inventory"},
	{Name: "passwords", Short: "where passwords come from, and who is asked", Page: "targets", Section: "Passwords"},
	{Name: "commands", Short: "all commands, with what they have in common", Page: "cli"},
	{Name: "results", Short: "how it went on several targets: -b, -o, --failed, --batch, --where ...", Page: "cli", Section: "How it went, on several targets"},
	{Name: "values", Short: "how call converts Python's values, and arguments", Page: "cli", Section: "call"},
	{Name: "json", Short: "the lines of --json", Page: "cli", Section: "--json"},
	{Name: "exit-status", Short: "exit statuses", Page: "cli", Section: "Exit status"},
	{Name: "programs", Short: "the process of a program, and how it differs from python SCRIPT", Page: "cli", Section: "run"},
	{Name: "host-variables", Short: "the inventory's variables in a program", Page: "cli", Section: "Host variables"},
	{Name: "files", Short: "put, get and sync", Page: "cli", Section: "put, get, sync"},
	{Name: "imports", Short: "which modules are served, and how they are found", Page: "imports"},
	{Name: "wheels", Short: "directories of wheels, and extension modules", Page: "imports", Section: "Wheelhouses", More: []string{"Extension modules"}},
	{Name: "daemon", Short: "mitogend serve: its commands and configuration", Page: "serve"},
	{Name: "control", Short: "the daemon's socket, for any language", Page: "control"},
	{Name: "migrating", Short: "programs that were written for Mitogen", Page: "migrating"},
	{Name: "packages", Short: "packages that were tested", Page: "packages"},
	{Name: "security", Short: "who is trusted with what, and what is not defended", Page: "security"},
	{Name: "performance", Short: "what it costs, measured", Page: "performance"},
	{Name: "protocol", Short: "the wire", Page: "protocol"},
}

// Find gives the topic of a name.
func Find(name string) (Topic, bool) {
	for _, t := range Topics {
		if t.Name == name {
			return t, true
		}
	}
	return Topic{}, false
}

// Text is the topic's Markdown; empty if there is no such page or section, which a test finds.
func (t Topic) Text() string {
	data, err := files.ReadFile(t.Page + ".md")
	if err != nil {
		return ""
	}
	if t.Section == "" {
		return string(data)
	}
	text := section(string(data), t.Section)
	for _, title := range t.More {
		text += "\n" + section(string(data), title)
	}
	return text
}

// section gives a section with its title, up to the next section of the same or a higher level.
func section(page, title string) string {
	var out strings.Builder
	level, code := 0, false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if n := headingLevel(line); n > 0 && !code {
			switch {
			case level == 0 && strings.Trim(line[n:], " `\n") == title:
				level = n
			case level > 0 && n <= level:
				return out.String()
			}
		}
		if level > 0 {
			out.WriteString(line)
		}
	}
	return out.String()
}

// headingLevel counts the # at the beginning of a heading; 0 for any other line.
func headingLevel(line string) int {
	n := len(line) - len(strings.TrimLeft(line, "#"))
	if n == 0 || !strings.HasPrefix(line[n:], " ") {
		return 0
	}
	return n
}

// link matches a link within the manual, or to another file of the repository.
var link = regexp.MustCompile(`!?\[([^\]\n]+)\]\(([\w./-]*?(\w+)\.(?:md|svg))?(#[\w-]*)?\)`)

// Readable is the topic's Markdown without links: those to other pages become the name of a topic.
func (t Topic) Readable() string {
	return link.ReplaceAllStringFunc(t.Text(), func(text string) string {
		m := link.FindStringSubmatch(text)
		if text[0] == '!' {
			return ""
		}
		if page := m[3]; m[1] == page+".md" {
			for _, other := range Topics {
				if other.Page == page && other.Section == "" {
					return "`mitogend help " + other.Name + "`"
				}
			}
		}
		return m[1]
	})
}
