package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/kballard/go-shellquote"

	"mitogend/docs"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// commandNames gives the commands that mitogend help lists, and their subcommands.
func commandNames(t *testing.T) []string {
	listed := regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)
	var names []string
	for _, m := range listed.FindAllStringSubmatch(Mitogend(t, ".", "help").Stdout, -1) {
		names = append(names, m[1])
	}
	if len(names) < 20 {
		t.Fatalf("the commands are %q", names)
	}
	return append(names, "config check", "config show", "cache clear")
}

// others have no example that a fresh clone could run: completion is for a shell, master for a user's program.
var others = []string{"completion", "master"}

// firstExample is the first command line under Examples.
var firstExample = regexp.MustCompile(`(?m)^Examples:\n  (mitogend.*)$`)

// The first example of each help page runs as it is written, in a fresh clone, beside a running daemon.
func TestFirstExamples(t *testing.T) {
	clone, home := t.TempDir(), t.TempDir()
	for _, name := range []string{"examples", "docs"} {
		if err := os.CopyFS(filepath.Join(clone, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"README.md", "go.mod"} {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		Write(t, clone, name, string(text))
	}
	env := append(environ(), "MITOGEND_DAEMON=", "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_RUNTIME_DIR="+socketDir(t))
	tmp := t.TempDir() + "/"
	command := func(line string) *exec.Cmd {
		args, err := shellquote.Split(strings.ReplaceAll(line, "/tmp/", tmp))
		if err != nil || args[0] != "mitogend" {
			t.Fatalf("%s: %v", line, err)
		}
		cmd := Command(t, clone, args[1:]...)
		cmd.Env = append(slices.Clone(env), cmd.Env[len(cmd.Env)-1]) // with its mark
		return cmd
	}
	examples := map[string]string{}
	names := commandNames(t)
	for _, name := range names {
		m := firstExample.FindStringSubmatch(Mitogend(t, ".", append(strings.Fields(name), "--help")...).Stdout)
		switch {
		case m != nil && !slices.Contains(others, name):
			examples[name] = m[1]
		case m == nil && !slices.Contains(others, name):
			t.Errorf("%s has no example", name)
		}
	}
	daemon := command(examples["serve"])
	log := &Buffer{}
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the daemon serves", func() bool { return command(examples["ps"]).Run() == nil })
	mark := daemon.Env[len(daemon.Env)-1]
	for _, name := range names {
		line := examples[name]
		if line == "" || name == "serve" || name == "stop" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			cmd := command(line)
			cmd.Env[len(cmd.Env)-1] = mark // its processes are the daemon's
			switch name {
			case "repl":
				term := onTerminal(t, cmd)
				term.expect(">>> ")
				term.send("\x04")
				if status := term.wait(); status != 0 {
					t.Errorf("status %d\n%s", status, term.screen())
				}
				return
			case "top":
				term := onTerminal(t, cmd)
				term.expect("mitogend ")
				term.send("q\x03")
				if status := term.wait(); status != 0 && status != 130 {
					t.Errorf("status %d\n%s", status, term.screen())
				}
				return
			}
			if r := runCommand(t, cmd); r.Status != 0 || r.Stdout+r.Stderr == "" && name != "put" && name != "get" {
				t.Errorf("%s: %v", line, r)
			}
		})
	}
	if r := runCommand(t, command(examples["stop"])); r.Status != 0 {
		t.Error(r)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon: %v\n%s", err, log)
	}
}

// marks are parts of Markdown that a reader should not see.
var marks = regexp.MustCompile(`\]\([\w./#-]*\)|(?m)^\|[ -]|<!--`)

// Every page is shown within the width (except code), without links or marks, and on a terminal with colour or by the pager.
func TestHelpTopics(t *testing.T) {
	for _, topic := range docs.Topics {
		r := Mitogend(t, ".", "help", topic.Name)
		if r.Status != 0 || r.Stderr != "" || strings.Contains(r.Stdout, "\x1b") || marks.MatchString(r.Stdout) {
			t.Error(topic.Name, r)
		}
		for _, line := range strings.Split(r.Stdout, "\n") {
			if utf8.RuneCountInString(line) > 110 && !strings.HasPrefix(line, "    ") && topic.Page != "security" { // names of tests are long
				t.Errorf("%s: a line is %d wide: %s", topic.Name, utf8.RuneCountInString(line), line)
			}
		}
	}
	at := func(env ...string) *terminal {
		cmd := Command(t, ".", "help", "results")
		cmd.Env = append(append(cmd.Env, "TERM=xterm"), env...)
		return onTerminal(t, cmd)
	}
	for env, want := range map[string]string{"PAGER=": "\x1b[1mHow it went", "PAGER=sed -n 's/^/paged /p'": "paged ", "PAGER=/no/such/pager": "How it went"} {
		term := at(env)
		if status := term.wait(); status != 0 || !strings.Contains(term.screen(), want) {
			t.Errorf("%s: status %d\n%s", env, status, term.screen())
		}
	}
	term := at(`PAGER=sh -c 'trap "exit 0" INT; echo begun; while :; do sleep 0.1; done'`)
	term.expect("begun")
	term.send("\x03")
	if status := term.wait(); status != 0 || strings.Contains(term.screen(), "interrupted") {
		t.Errorf("the pager was interrupted: status %d\n%s", status, term.screen())
	}
	term = at("NO_COLOR=1", "PAGER=")
	if term.wait(); strings.Contains(term.screen(), "\x1b[1m") {
		t.Error(term.screen())
	}
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	Mitogend(t, ".", "help", "--man", dir).Want(t, 0, "", "")
	var pages []string
	for _, name := range commandNames(t) {
		pages = append(pages, "man1/mitogend-"+strings.ReplaceAll(name, " ", "-")+".1")
	}
	for _, topic := range docs.Topics {
		pages = append(pages, "man7/mitogend-"+topic.Name+".7")
	}
	pages = slices.DeleteFunc(pages, func(p string) bool { return strings.HasSuffix(p, "-help.1") }) // cobra's generator leaves help out
	for _, page := range append(pages, "man1/mitogend.1") {
		text, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(string(text), "\n.TH ") || !strings.Contains(string(text), ".SH NAME\nmitogend") {
			t.Errorf("%s: %v, %.200q", page, err, text)
		}
	}
	file := Write(t, dir, "file", "")
	Mitogend(t, ".", "help", "--man", file).Want(t, 1, "", "--man "+file+": not a directory")
	Mitogend(t, ".", "help", "--man", dir, "run").Want(t, 2, "", "run is too much")
	groff, err := exec.LookPath("groff")
	if err != nil {
		pythons.Missing(t, "there is no groff to read them")
	}
	out, err := exec.Command("sh", "-c", groff+" -t -man -Tutf8 "+dir+"/man7/mitogend-exit-status.7").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "every target succeeded") || strings.Contains(string(out), "warning") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A mistyped word is answered by a suggestion.
func TestDidYouMean(t *testing.T) {
	for _, c := range [][]string{
		{"cal x:y", `there is no command "cal" (did you mean call?); mitogend help lists them, and mitogend exec -- cal x:y runs that on targets`},
		{"uptime", `there is no command "uptime"; mitogend help lists them, and mitogend exec -- uptime runs that on targets`},
		{"targets", `there is no command "targets"; mitogend help targets shows that page of the manual`},
		{"call --tmeout 1 os:getpid", "unknown flag: --tmeout (did you mean --timeout?); mitogend call --help lists the flags"},
		{"call os:getpid --tmeout 1", "unknown flag: --tmeout (did you mean --timeout?); mitogend call --help lists the flags, and --"},
		{"ps --jason", "(did you mean --json?)"},
		{"ps --nothing-like-it", "unknown flag: --nothing-like-it; mitogend ps --help"},
		{"help exit-staus", `there is no command or topic "exit-staus" (did you mean exit-status?); `},
		{"help ps more", `there is no command or topic "ps more"`},
		{"help xyzzy", `there is no command or topic "xyzzy"; mitogend help --help lists the topics`},
	} {
		if r := Mitogend(t, ".", strings.Fields(c[0])...); r.Status != 2 || !strings.Contains(r.Stderr, c[1]) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %v", c[0], r)
		}
	}
	version := Mitogend(t, ".", "version")
	if r := Mitogend(t, ".", "--version"); r != version || r.Status != 0 {
		t.Error(r, version)
	}
	if r := Mitogend(t, ".", "help", "config", "show"); r != Mitogend(t, ".", "config", "show", "--help") {
		t.Error(r)
	}
}

func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "mitogend-hosts.yaml", "web: {hosts: {web01: , web02: , db1: }}\n")
	Write(t, dir, "hosts.txt", "")
	Write(t, dir, ".ssh/config", "Host bastion *.example\n  User x\nhost bar\n")
	Write(t, dir, "shop/__init__.py", "")
	Write(t, dir, "shop/orders.py", "import os\ndef totals(x):\n    def inner(): pass\nclass Order(object): pass\nasync def later(): pass\n")
	Write(t, dir, "own.py", "")
	d := Serve(t)
	if r := d.Run(t, dir, "call", "-q", "-H", "local:", "os:getpid"); r.Status != 0 {
		t.Fatal(r)
	}
	complete := func(args ...string) string {
		cmd := Command(t, dir, append([]string{"__complete"}, args...)...)
		cmd.Env = append(cmd.Env, "HOME="+dir, "MITOGEND_DAEMON="+d.Socket)
		return runCommand(t, cmd).Stdout
	}
	for _, c := range []struct{ line, want string }{
		{"call -H web", "web\nweb01\nweb02\n:4\n"},
		{"call -H web01,db", "web01,db1\n:4\n"},
		{"exec -H web:!d", "web:!db1\n:4\n"},
		{"put -H ssh:ba", "ssh:bar\nssh:bastion\n:4\n"},
		{"doctor -H loc", "local:\n:6\n"},
		{"run -H @ho", "@hosts.txt\n:4\n"},
		{"hosts web", "web\nweb01\nweb02\n:4\n"},
		{"call ow", "own:\n:6\n"},
		{"call shop.", "shop.orders:\n:6\n"},
		{"call shop.orders:", "shop.orders:Order\nshop.orders:later\nshop.orders:totals\n:4\n"},
		{"call own:x a", ":0\n"},
		{"modules sho", "shop\nshop.\n:4\n"},
		{"run -m ow", "own\n:4\n"},
		{"logs --kind log,clo", "log,closed\n:4\n"},
		{"logs --level de", "debug\n:4\n"},
		{"logs --set pool=d", "pool=debug\n:4\n"},
		{"facts memory mem", "memory_available\tin bytes\n:4\n"},
		{"call --prefer h", "here\n:4\n"},
		{"help exit", "exit-status\texit statuses\n:4\n"},
		{"close loc", "local:\n:6\n"},
	} {
		words := strings.Fields(c.line)
		if got := complete(words...); got != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := Mitogend(t, dir, "completion", shell); r.Status != 0 || !strings.Contains(r.Stdout, "mitogend") {
			t.Error(shell, r)
		}
	}
}
