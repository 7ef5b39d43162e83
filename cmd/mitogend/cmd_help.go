package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"golang.org/x/term"

	"mitogend/bootstrap"
	"mitogend/docs"
)

func newHelp(a *app) *cobra.Command {
	man := ""
	cmd := &cobra.Command{
		Use:   "help [flags] [TOPIC | COMMAND]",
		Short: "Show a command's help, or a page of the manual",
		Long: `help shows what COMMAND does and its flags, or a page of the manual:

` + topicList() + `
On a terminal a long page goes through $PAGER (less, if it is not set; empty for none).`,
		Example: `  mitogend help targets
  mitogend help exit-status
  mitogend help put
  mitogend help --man /usr/local/share/man`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flag("man").Changed {
				if len(args) > 0 {
					return usagef("help --man writes all pages; %s is too much", args[0])
				}
				return writeMan(cmd.Root(), man)
			}
			return a.help(cmd.Root(), args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var out []string
			for _, c := range cmd.Root().Commands() {
				if c.IsAvailableCommand() {
					out = append(out, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			for _, t := range docs.Topics {
				out = append(out, cobra.CompletionWithDesc(t.Name, t.Short))
			}
			return choices(out, begun)
		},
	}
	cmd.Flags().StringVar(&man, "man", "", "write man pages of all commands and topics below `DIR`, into man1 and man7")
	return cmd
}

// topicList is a line for each topic.
func topicList() string {
	var b strings.Builder
	for _, t := range docs.Topics {
		fmt.Fprintf(&b, "  %-15s %s\n", t.Name, t.Short)
	}
	return b.String()
}

// help shows the help of a command, which may have several words, or a topic. A command wins.
func (a *app) help(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return root.Help()
	}
	if cmd, rest, err := root.Find(args); err == nil && cmd != root && len(rest) == 0 {
		cmd.InitDefaultHelpFlag()
		return cmd.Help()
	}
	topic, ok := docs.Find(args[0])
	if !ok || len(args) > 1 {
		names := commandNames(root)
		for _, t := range docs.Topics {
			names = append(names, t.Name)
		}
		return usagef("there is no command or topic %q%s; mitogend help --help lists the topics, and mitogend help the commands", strings.Join(args, " "), didYouMean(args[0], names))
	}
	return a.page(topic)
}

// page shows a topic, by the pager where it is longer than the terminal.
func (a *app) page(t docs.Topic) error {
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	terminal := err == nil
	if !terminal {
		width = maxWidth
	}
	colour := terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	text := showMarkdown(t.Readable(), width, colour)
	if terminal && strings.Count(text, "\n") >= height && a.pager(text) {
		return nil
	}
	_, err = io.WriteString(a.console.out, text)
	return err
}

// pager shows a text by $PAGER; false where there is none.
func (a *app) pager(text string) bool {
	command, set := os.LookupEnv("PAGER")
	if !set {
		command = "less"
	}
	words, err := shellquote.Split(command)
	if err != nil || len(words) == 0 || words[0] == "cat" {
		return false
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), os.Stdout, os.Stderr
	cmd.Env = bootstrap.WithoutSecrets(os.Environ())
	if _, set := os.LookupEnv("LESS"); !set {
		cmd.Env = append(cmd.Env, "LESS=FRX")
	}
	if cmd.Start() != nil {
		return false
	}
	signal.Ignore(os.Interrupt) // it is the pager's: less ends a search by it
	defer signal.Notify(a.signals, os.Interrupt)
	return cmd.Wait() == nil
}

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

// manPage is a topic for man(1). Its sections are those of the topic, one level higher where it is a section itself.
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

// foldCells lets every long cell of a table be several lines.
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

// maxCell is the longest cell that is one line.
const maxCell = 24

// commandNames are those of a command's own commands.
func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// didYouMean gives " (did you mean X?)", or nothing.
func didYouMean(word string, names []string) string {
	c := &cobra.Command{SuggestionsMinimumDistance: min(2, len(word)/2)}
	for _, name := range names {
		c.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	found := c.SuggestionsFor(word)
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return " (did you mean " + strings.Join(slices.Compact(found), " or ") + "?)"
}
