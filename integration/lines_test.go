package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

const linedModule = `"""A module whose lines are looked at."""
import warnings


def fail(n):
    # A comment, which does not go over the wire.
    if n:
        return fail(n - 1)

    raise ValueError(
        'here'
    )


def warn():
    warnings.warn('old', stacklevel=1)
    warnings.warn('older', stacklevel=2)


class Thing(object):
    """It has a method."""

    def method(self, x):
        # Doubled.
        y = x * 2

        return [z
                for z in (y,)]


def generator():
    yield 1

    yield 2
`

const linedProgram = `
import inspect, io, linecache, pdb, sys, traceback, warnings
import lined
Out = io.StringIO if sys.version_info[0] > 2 else io.BytesIO
warnings.simplefilter('always')
sys.stderr = sys.stdout
try:
    lined.fail(2)
except ValueError:
    traceback.print_exc(file=sys.stdout)
lined.warn()
print(inspect.getsource(lined.Thing))
print(inspect.getsource(lined.Thing.method))
print(inspect.getsourcelines(lined.fail)[1])
print(inspect.getdoc(lined.Thing))
print(inspect.getsource(lined) == ''.join(linecache.getlines(lined.__file__)))
steps = lined.generator()
next(steps)
print(steps.gi_frame.f_lineno)
out = Out()
debugger = pdb.Pdb(stdin=Out('b lined.Thing.method\nc\nn\nl\nw\np y\nc\nq\n'), stdout=out)
debugger.use_rawinput = 0
debugger.run('lined.Thing().method(3)', {'lined': lined})
print(out.getvalue())
lines = set()
def trace(frame, event, arg):
    if frame.f_globals.get('__name__') == 'lined':
        lines.add((frame.f_code.co_name, frame.f_lineno, event))
        return trace
sys.settrace(trace)
lined.Thing().method(1), list(lined.generator()), lined.warn()
sys.settrace(None)
print(sorted(lines))
`

const coveredProgram = `
import io, sys
import coverage
measured = coverage.Coverage(data_file=None, include=['*lined.py'])
measured.start()
import lined
lined.Thing().method(1)
measured.stop()
out = io.StringIO()
measured.report(file=out, show_missing=True)
print(out.getvalue())
`

// TestLinesOfBytecode: tracebacks, warnings, inspect, pdb, a trace function and coverage show of a module that came as bytecode what they
// show of its source.
func TestLinesOfBytecode(t *testing.T) {
	check := func(t *testing.T, py Python, program string, want ...string) {
		home, work := t.TempDir(), t.TempDir()
		Write(t, work, "lined.py", linedModule)
		script := Write(t, work, "program.py", program)
		run := func(use, trace string) string {
			t.Helper()
			cmd := Command(t, work, "run", "-I", work, "-H", py.Target(), "--bytecode", use, "--trace", trace, script)
			cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+home)
			got := runCommand(t, cmd)
			if got.Status != 0 || got.Stderr != "" {
				t.Fatal(got)
			}
			return got.Stdout
		}
		source := run("never", filepath.Join(home, "never"))
		for _, text := range want {
			if !strings.Contains(source, text) {
				t.Errorf("%q is not in\n%s", text, source)
			}
		}
		// A compiler has the code for who comes next.
		poll.Until(t, "bytecode is sent", func() bool {
			trace := filepath.Join(t.TempDir(), "trace")
			if code := run("always", trace); code != source {
				t.Fatalf("as bytecode:\n%s\nas source:\n%s", code, source)
			}
			text, err := os.ReadFile(trace)
			return err == nil && strings.Contains(string(text), ` LOAD_CODE `) && strings.Contains(string(text), `"lined\x00`)
		})
	}
	EachPython(t, func(t *testing.T, py Python) {
		check(t, py, linedProgram, "lined.py\", line 8, in fail", "lined.py:16: UserWarning: old", "program.py:11: UserWarning: older", "        # Doubled.",
			"lined.py(25)method()", "('warn', 17, 'line')", "\nTrue\n32\n")
	})
	t.Run("coverage", func(t *testing.T) {
		if exec.Command("/usr/bin/python3", "-c", "import coverage").Run() != nil {
			pythons.Missing(t, "coverage of /usr/bin/python3 (package python3-coverage)")
			return
		}
		check(t, Python{"3", "/usr/bin/python3", []string{"/usr/bin/python3"}}, coveredProgram, "lined.py      15      7    53%   7-10, 16-17, 32-34")
	})
}
