package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// workers runs functions of a served module, of its own module, and of one that imports lazily, in workers of each kind. It prints the
// results, or returns them as lines, and how many processes and descriptors a second round adds.
const workers = `from __future__ import print_function
import multiprocessing, os, sys, time
import square

started = []

def begin(value):
    import doubled
    started.append(doubled.twice(value))

def own(n):
    return n + started[0]

def lazily(n):
    import late
    return late.VALUE * n

def preloaded(_):
    return square.PID == os.getppid()

def interpreted(n):
    import late
    return late.VALUE + n

def one_round(out):
    methods = getattr(multiprocessing, 'get_all_start_methods', lambda: [None])()
    for method in sorted(methods, key=str):
        context = multiprocessing.get_context(method) if method else multiprocessing
        if method == 'forkserver':
            context.set_forkserver_preload(['square'])
        pool = context.Pool(2, begin, (3,), maxtasksperchild=2)
        for fn in square.square, own, lazily:
            out('%s %s %s' % (method, fn.__name__, pool.map_async(fn, range(4), 1).get(60)))
        if method == 'forkserver':
            out('preloaded %s' % pool.map_async(preloaded, range(2), 1).get(60))
        pool.close()
        pool.join()
        queue = context.Queue()
        process = context.Process(target=square.put, args=(queue, 5))
        process.start()
        out('queue %s' % queue.get(True, 60))
        process.join()
        queue.close()
        queue.join_thread()
        out('exit code %s' % process.exitcode)
    if sys.version_info[0] == 3:
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2) as pool:
            out('executor %s' % list(pool.map(square.square, range(4))))
        with multiprocessing.Manager() as manager:
            out('manager %s' % manager.list([1, 2])[:])
    if sys.version_info >= (3, 14):
        from concurrent.futures import InterpreterPoolExecutor
        with InterpreterPoolExecutor(2) as pool:
            out('interpreters %s' % list(pool.map(square.square, range(4))))
            out('interpreters %s' % list(pool.map(interpreted, range(4))))

def count():
    """The children of this process, and its descriptors."""
    children = 0
    for name in os.listdir('/proc'):
        try:
            with open('/proc/%s/stat' % name) as f:
                children += f.read().rpartition(')')[2].split()[1] == str(os.getpid())
        except (OSError, IOError):
            pass
    return children, len(os.listdir('/proc/self/fd'))

def settled():
    """The count once it has stayed for 0.3 s: ends of workers of an earlier round may still be noticed."""
    last, looks, end = count(), 0, time.time() + 30
    while looks < 30 and time.time() < end:
        time.sleep(0.01)
        now = count()
        last, looks = now, looks + 1 if now == last else 0
    return last

def report(rounds):
    lines = []
    for n in range(rounds):
        before = settled() if n else count()
        one_round(lines.append)
    # The ends of the last workers may still be noticed.
    end = time.time() + 30
    while rounds > 1 and count() != before and time.time() < end:
        time.sleep(0.01)
    if rounds > 1:
        lines.append('processes and descriptors: %+d %+d' % tuple(b - a for a, b in zip(before, count())))
    return lines

if __name__ == '__main__':
    print('\n'.join(report(int(sys.argv[1]))))
    sys.exit(7)
`

func writeWorkers(t *testing.T) (app string) {
	t.Helper()
	dir := t.TempDir()
	Write(t, dir, "app/workers.py", workers)
	Write(t, dir, "app/square.py", `import os
PID = os.getpid()
def square(n):
    import doubled
    return doubled.twice(n) * n
def put(queue, n):
    queue.put(square(n))
`)
	Write(t, dir, "app/doubled.py", "def twice(n):\n    return 2 * n\n")
	Write(t, dir, "app/late/value.txt", "10\n")
	Write(t, dir, "app/late/__init__.py", `import os
with open(os.path.join(os.path.dirname(__file__), 'value.txt')) as f:
    VALUE = int(f.read())
`)
	return filepath.Join(dir, "app")
}

// However a worker is started, it can import what the program can, from the disk or served; in run and call, here and behind a hop.
// MITOGEND_LONG runs all combinations; otherwise each Python and each way of starting is used at least once.
func TestWorkersImport(t *testing.T) {
	long := os.Getenv("MITOGEND_LONG") != ""
	short := map[string][]string{
		"2.7": {"run local", "call hop"}, "3.6": {"run hop"}, "3.8": {"call local"}, "3.11": {"call hop"}, "3.13": {"run local"},
		"3.14": {"call local"}, "3.15": {"run hop"},
	}
	for _, version := range []string{"2.7", "3.6", "3.8", "3.11", "3.13", "3.14", "3.15"} {
		t.Run(version, func(t *testing.T) {
			p := clean(t, pythons.Of(t, version))
			rounds := "1"
			if long {
				rounds = "2"
			}
			app := writeWorkers(t)
			want := p.Local(t, app, app, "workers.py", rounds)
			if want.Status != 7 || !strings.Contains(want.Stdout, "square [0, 2, 8, 18]\n") {
				t.Fatal(want)
			}
			for _, hop := range []string{"local", "hop"} {
				target := p.Target()
				if hop == "hop" {
					target = "local:+" + target
				}
				for _, how := range []string{"run", "call"} {
					if !long && !slices.Contains(short[version], how+" "+hop) {
						continue
					}
					t.Run(how+" "+hop, func(t *testing.T) {
						t.Parallel()
						want := want
						var got Result
						if how == "run" {
							got = Mitogend(t, app, "run", "-H", target, "workers.py", rounds)
						} else {
							got = Mitogend(t, app, "call", "-H", target, "workers:report", rounds)
							want.Status = 0
							var lines []string
							if err := json.Unmarshal([]byte(got.Stdout), &lines); err != nil {
								t.Fatal(err, got)
							}
							got.Stdout = strings.Join(lines, "\n") + "\n"
						}
						if got.Status != want.Status || got.Stdout != want.Stdout || got.Stderr != want.Stderr {
							t.Errorf("%v\nwanted %v", got, want)
						}
					})
				}
			}
		})
	}
}

// Workers that import a real package when they need it.
func TestWorkersOfRealPrograms(t *testing.T) {
	path := debian(t, "jinja2", "markupsafe", "sqlalchemy", "click")
	dir := t.TempDir()
	Write(t, dir, "program.py", `import multiprocessing
def render(n):
    import jinja2
    return jinja2.Template('{% for i in range(n) %}{{ i }},{% endfor %}').render(n=n)
def query(n):
    from sqlalchemy import create_engine, text
    with create_engine('sqlite://').connect() as connection:
        return connection.execute(text('select :n * :n'), {'n': n}).scalar()
def command(n):
    import click
    from click.testing import CliRunner
    @click.command()
    @click.option('--n', type=int)
    def main(n):
        click.echo(n + 1)
    return CliRunner().invoke(main, ['--n', str(n)]).output
if __name__ == '__main__':
    for method in 'fork', 'forkserver', 'spawn':
        with multiprocessing.get_context(method).Pool(2) as pool:
            for work in render, query, command:
                print(method, pool.map_async(work, range(4), 1).get(80))
`)
	for _, version := range []string{"3.8", "3.11", "3.13"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := clean(t, pythons.Of(t, version))
			want := p.Local(t, dir, path, "program.py")
			got := Mitogend(t, dir, "run", "-I", path, "-H", p.Target(), "program.py")
			if want.Status != 0 || got != want {
				t.Errorf("%v\nwanted %v", got, want)
			}
		})
	}
}

// Forked processes import, one after the other: nothing is left of them, and each name is asked for once.
func TestManyForks(t *testing.T) {
	forks := 30
	if os.Getenv("MITOGEND_LONG") != "" {
		forks = 1000
	}
	dir := t.TempDir()
	for n := range 20 {
		Write(t, dir, fmt.Sprintf("late%d.py", n), fmt.Sprintf("VALUE = %d\n", n))
	}
	Write(t, dir, "program.py", workers[:strings.Index(workers, "import square")]+workers[strings.Index(workers, "def count"):strings.Index(workers, "def report")]+`
def load(n):
    return __import__('late%d' % n).VALUE == n

for n in range(int(sys.argv[1])):
    if n == 1:
        before = settled() # the end of the first one may still be noticed
    pid = os.fork()
    if not pid:
        ok = 0
        try:
            ok = load(n % 20) and load(n * 7 % 20)
        finally:
            os._exit(not ok)
    assert os.waitpid(pid, 0)[1] == 0
end = time.time() + 30
while count() != before and time.time() < end:
    time.sleep(0.01)
print(count() == before)
`)
	for _, version := range []string{"2.7", "3.6", "3.15"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := clean(t, pythons.Of(t, version))
			trace := filepath.Join(t.TempDir(), "trace")
			cmd := Command(t, dir, "run", "--trace", trace, "-H", p.Target(), "program.py", fmt.Sprint(forks))
			runCommand(t, cmd).Want(t, 0, "True\n", "")
			text, err := os.ReadFile(trace)
			if err != nil {
				t.Fatal(err)
			}
			for n := range 20 {
				if asked := strings.Count(string(text), fmt.Sprintf("  \"late%d\"\n", n)); asked != 1 {
					t.Errorf("late%d was asked for %d times", n, asked)
				}
			}
		})
	}
}

// Workers also work in modes of Python that report more, or load modules in another way.
func TestForksInModes(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "late.py", "def square(n):\n    return n * n\n")
	Write(t, dir, "program.py", `import multiprocessing, os, sys
def work(n):
    import late
    return late.square(n)
def fork():
    pid = os.fork()
    if not pid:
        os._exit(work(2))
    return os.waitpid(pid, 0)[1] >> 8
def report():
    out = [fork()]
    for method in 'fork', 'forkserver', 'spawn':
        pool = multiprocessing.get_context(method).Pool(2)
        out.append(pool.map_async(work, range(3), 1).get(80))
        pool.close()
        pool.join()
    return out
if __name__ == '__main__':
    print(str(report()).replace(' ', ''))
    sys.exit(7)
`)
	const want = "[4,[0,1,4],[0,1,4],[0,1,4]]\n"
	modes := map[string][]string{
		"3.6":  {"-W error"},
		"3.13": {"-X dev", "-W error"},
		"3.15": {"-X dev", "-W error", "-X frozen_modules=off", "-X lazy_imports=all"},
	}
	for _, version := range []string{"3.6", "3.13", "3.15"} {
		for _, mode := range modes[version] {
			t.Run(version+" "+mode, func(t *testing.T) {
				t.Parallel()
				p := clean(t, pythons.Of(t, version))
				target := Python{version, p.Command + " " + mode, nil}.Target()
				Mitogend(t, dir, "run", "-H", target+"+"+target, "program.py").Want(t, 7, want, "")
				Mitogend(t, dir, "call", "-H", target, "program:report").Want(t, 0, want, "")
			})
		}
	}
}
