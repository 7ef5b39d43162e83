package python

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"mitogend/internal/nothere"
)

//go:embed first_stage.py
var firstStage string

//go:embed core.py
var core string

var stub = sync.OnceValue(func() string {
	return fmt.Sprintf(`import sys;`+nothere.Line+`import zlib,binascii;exec(zlib.decompress(binascii.a2b_base64("%s")))`,
		base64.StdEncoding.EncodeToString(deflate([]byte(squeeze(Shrink(firstStage))))))
})

// cores has core.py for 2.x and for 3.x.
var cores = map[int]func() string{
	2: sync.OnceValue(func() string { return Shrink(generation(core, 2)) }),
	3: sync.OnceValue(func() string { return Shrink(generation(core, 3)) }),
}

// Core is the source of core.py as children of Python 2.x or 3.x run it.
func Core(major int) string { return cores[major]() }

// Stub is the text for `python -c`. It holds no character that any shell treats specially within single quotes: no
// quote, newline, dollar, backtick, exclamation mark or backslash.
func Stub() string { return stub() }

// CoreFile is where the core's code says that it comes from.
const CoreFile = "/master:mitogen/core.py"

// Booter has the core as the first stage of one Python reads it.
type Booter struct {
	packed packed
	err    error
}

// Boot gives the Booter for a Python of that sys.hexversion, with the code of its [Core], from [CoreFile], as that
// very Python marshals it. Without code, the child compiles the core, and Boot costs something only once.
func Boot(hexVersion uint32, code []byte) *Booter {
	plain, ok := boots[int(hexVersion>>24)]
	if ok && len(code) == 0 {
		return plain()
	}
	return booter(hexVersion, code, pack)
}

// BootHere is Boot for one child on this machine: nothing is compressed, which takes milliseconds.
func BootHere(hexVersion uint32, code []byte) *Booter { return booter(hexVersion, code, packHere) }

func booter(hexVersion uint32, code []byte, pack func([]byte) packed) *Booter {
	core, ok := cores[int(hexVersion>>24)]
	if !ok {
		return &Booter{err: fmt.Errorf("python: there is no runtime for sys.hexversion %#x", hexVersion)}
	}
	text := []byte(core())
	if len(code) > 0 {
		text = slices.Concat(text, []byte{0}, code)
	}
	return &Booter{packed: pack(text)}
}

// Preamble is what the stub reads after it wrote MITO000: one line with a size, then that many bytes of zlib. The
// values of config may be nil, bool, int, string, and slices, arrays and maps (by string) of these.
func (b *Booter) Preamble(config map[string]any) ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	literal, err := Literal(config)
	if err != nil {
		return nil, err
	}
	stream := b.packed.with([]byte("\x00" + literal))
	return append([]byte(strconv.Itoa(len(stream))+"\n"), stream...), nil
}

var boots = map[int]func() *Booter{
	2: sync.OnceValue(func() *Booter { return &Booter{packed: pack([]byte(Core(2)))} }),
	3: sync.OnceValue(func() *Booter { return &Booter{packed: pack([]byte(Core(3)))} }),
}

func deflate(data []byte) []byte { return pack(data).with(nil) }

// Literal writes v as a Python literal that means the same in both generations.
func Literal(v any) (string, error) {
	var b strings.Builder
	if err := literal(&b, v); err != nil {
		return "", err
	}
	return b.String(), nil
}

func literal(b *strings.Builder, v any) error {
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int:
		b.WriteString(strconv.Itoa(v))
	case uint32:
		b.WriteString(strconv.FormatUint(uint64(v), 10))
	case string:
		b.WriteString("u" + strconv.QuoteToASCII(v))
	case []string:
		return list(b, len(v), func(i int) any { return v[i] })
	case []int:
		return list(b, len(v), func(i int) any { return v[i] })
	case []any:
		return list(b, len(v), func(i int) any { return v[i] })
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		b.WriteByte('{')
		for _, k := range keys {
			b.WriteString(strconv.QuoteToASCII(k) + ":")
			if err := literal(b, v[k]); err != nil {
				return err
			}
			b.WriteByte(',')
		}
		b.WriteByte('}')
	default:
		return fmt.Errorf("python: no literal for a %T", v)
	}
	return nil
}

func list(b *strings.Builder, n int, at func(int) any) error {
	b.WriteByte('[')
	for i := range n {
		if err := literal(b, at(i)); err != nil {
			return err
		}
		b.WriteByte(',')
	}
	b.WriteByte(']')
	return nil
}

// Module is a part of the child runtime that is served over the importer.
type Module struct {
	Path string // for tracebacks
	Text func() string
}

//go:embed api.py
var api string

//go:embed channel.py
var channel string

//go:embed disk.py
var disk string

//go:embed extension.py
var extension string

//go:embed facts.py
var facts string

//go:embed files.py
var files string

//go:embed finders.py
var finders string

//go:embed forked.py
var forked string

//go:embed forker.py
var forker string

//go:embed guard.py
var guard string

//go:embed command.py
var command string

// Command is the program that becomes a command.
func Command() string { return Shrink(command) }

//go:embed compiler.py
var compiler string

// Compiler is the program of an interpreter that compiles for children.
func Compiler() string { return Shrink(compiler) }

//go:embed terminal.py
var terminal string

// Terminal is the program that stands between a terminal and a command there.
func Terminal() string { return "SCRIPT = None\n" + withConsole(terminal) }

// TerminalAfter is Terminal for Python's prompt after a script, with its arguments. Without source it is the module
// named path.
func TerminalAfter(path, file string, source []byte, args []string) string {
	encode := func(s string) any { return base64.StdEncoding.EncodeToString([]byte(s)) }
	list := make([]any, len(args))
	for i, a := range args {
		list[i] = encode(a)
	}
	text := any(nil)
	if source != nil {
		text = encode(string(source))
	}
	script, _ := Literal([]any{encode(path), encode(file), text, list})
	return "SCRIPT = " + script + "\n" + withConsole(terminal)
}

//go:embed console.py
var console string

//go:embed prompt.py
var prompt string

// Prompt is the program that runs what is typed for several targets.
func Prompt() string { return withConsole(prompt) }

// withConsole puts ahead of a program the texts that it executes.
func withConsole(program string) string {
	command, _ := Literal(Command())
	begin, _ := Literal(Shrink(console))
	return "COMMAND = " + command + "\nCONSOLE = " + begin + "\n" + Shrink(program)
}

// Programs that transfer files begin with what they have in common.
var (
	//go:embed transfer.py
	transfer string
	//go:embed transfer_helpers.py
	transferHelpers string
	//go:embed transfer_receive.py
	transferReceive string
	//go:embed transfer_send.py
	transferSend string
)

// Receive is the program that files are sent to.
func Receive() string { return Shrink(transfer) + Shrink(transferHelpers) + Shrink(transferReceive) }

// Send is the program that sends files.
func Send() string { return Shrink(transfer) + Shrink(transferSend) }

//go:embed connect.py
var connect string

//go:embed convert.py
var convert string

//go:embed launch.py
var launch string

//go:embed mitogend.py
var mitogend string

//go:embed parent.py
var parent string

//go:embed plain.py
var plain string

//go:embed process.py
var process string

//go:embed program.py
var program string

//go:embed projects.py
var projects string

//go:embed running.py
var running string

//go:embed script.py
var script string

//go:embed resources.py
var resources string

//go:embed sharing.py
var sharing string

//go:embed unpack.py
var unpack string

//go:embed watcher.py
var watcher string

// coreModule gives the text of the module that holds the core of a generation.
func coreModule(major int) func() string {
	return func() string { return "SOURCE=b" + strconv.QuoteToASCII(Core(major)) + "\n" }
}

// Modules gives the parts of the runtime that a child imports when it needs them, by name.
func Modules() map[string]Module {
	m := map[string]Module{
		// A child of the other generation than its parent needs what the parent's own core lacks.
		"mitogen.core2": {"mitogen/core2.py", coreModule(2)},
		"mitogen.core3": {"mitogen/core3.py", coreModule(3)},
	}
	for name, source := range map[string]string{
		"api": api, "channel": channel, "connect": connect, "convert": convert, "disk": disk,
		"extension": extension, "facts": facts, "files": files, "finders": finders, "forked": forked,
		"forker": forker, "guard": guard, "launch": launch, "parent": parent, "plain": plain, "process": process,
		"program": program, "projects": projects, "resources": resources, "running": running, "script": script,
		"sharing": sharing, "unpack": unpack, "watcher": watcher,
	} {
		m["mitogen."+name] = Module{"mitogen/" + name + ".py", func() string { return Shrink(source) }}
	}
	// What programs import by themselves.
	m["mitogend"] = Module{"mitogend.py", func() string { return Shrink(mitogend) }}
	return m
}
