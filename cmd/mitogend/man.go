package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"mitogend/docs"
)

// writeMan writes a page for each command and topic.
func writeMan(root *cobra.Command, dir string) error {
	fail := func(err error) error {
		return commandError{fmt.Errorf("--man %s: %w", dir, cause(err)), statusRaised}
	}
	if dir == "" {
		return usagef("--man: a directory is wanted")
	}
	commands, topics := filepath.Join(dir, "man1"), filepath.Join(dir, "man7")
	for _, d := range []string{commands, topics} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fail(err)
		}
	}
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Title: "MITOGEND", Section: "1", Source: "mitogend " + version, Manual: "mitogend"}
	if err := doc.GenManTree(root, header, commands); err != nil {
		return fail(err)
	}
	for _, t := range docs.Topics {
		name := "mitogend-" + t.Name
		if err := os.WriteFile(filepath.Join(topics, name+".7"), manPage(name, t), 0o644); err != nil {
			return fail(err)
		}
	}
	return nil
}

// manPage gives a topic as a page for man(1). The page has the topic's sections, one level higher if the topic is a
// section itself.
func manPage(name string, t docs.Topic) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%% %s 7 \"\" \"mitogend %s\" mitogend\n\n# NAME\n\n%s - %s\n\n# DESCRIPTION\n\n", strings.ToUpper(name), version, name, t.Short)
	text := t.Readable()
	if title, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(title, "#") {
		text = rest
	}
	b.WriteString(text)
	return foldCells(md2man.Render(b.Bytes()))
}

// foldCells lets a long cell of a table have several lines.
func foldCells(page []byte) []byte {
	var b strings.Builder
	table, block := false, false
	for line := range strings.Lines(string(page)) {
		switch {
		case line == ".TS\n", line == ".TE\n":
			table = line == ".TS\n"
		case block:
			block = !strings.HasPrefix(line, "T}")
		case table:
			block = strings.HasSuffix(line, "T{\n")
			cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			for i, cell := range cells {
				if len(cell) > maxCell && cell != "T{" {
					cells[i] = "T{\n" + cell + "\nT}"
				}
			}
			line = strings.Join(cells, "\t") + "\n"
		}
		b.WriteString(line)
	}
	return []byte(b.String())
}

// maxCell is the length of the longest cell that stays one line.
const maxCell = 24
