package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// workers prints, or returns as lines, what workers of each kind make of functions of a served module, of its own, and of one that
// imports lazily; and how many processes and descriptors a second round adds.
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

def report(rounds):
    lines = []
    for n in range(rounds):
        before = count()
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
	Write(t, dir, "app/late.py", "VALUE = 10\n")
	return filepath.Join(dir, "app")
}

// However a worker is started, it imports what the program does, from the disk or served; in run and call, here and behind a hop.
// MITOGEND_LONG runs all of it; otherwise each Python and each way are met.
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
