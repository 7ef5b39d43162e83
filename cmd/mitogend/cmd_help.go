package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"
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

// topicList has one line for each topic.
func topicList() string {
	var b strings.Builder
	for _, t := range docs.Topics {
		fmt.Fprintf(&b, "  %-15s %s\n", t.Name, t.Short)
	}
	return b.String()
}

// help shows the help of a command, whose name may have several words, or a topic. If there are both, the command wins.
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

// page shows a topic. The pager shows one that is longer than the terminal.
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

// pager shows a text with $PAGER. It is false if there is no pager.
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
	// The pager gets Ctrl-C: less ends a search then. A signal that is ignored here would be ignored there.
	signal.Reset(os.Interrupt)
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	defer func() {
		signal.Reset(os.Interrupt)
		signal.Notify(a.signals, os.Interrupt)
	}()
	return cmd.Run() == nil
}
