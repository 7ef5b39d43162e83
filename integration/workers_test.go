package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// workers prints what workers of each start method make of functions of a served module, of the script, and of one that imports lazily.
const workers = `from __future__ import print_function
import multiprocessing, sys
import square

def lazily(n):
    import doubled
    return doubled.twice(n)

def own(n):
    return n + 1

def main():
    methods = getattr(multiprocessing, 'get_all_start_methods', lambda: [None])()
    for method in methods:
        context = multiprocessing.get_context(method) if method else multiprocessing
        for fn in square.square, lazily, own:
            pool = context.Pool(2)
            try:
                print(method, pool.map_async(fn, range(4)).get(60))
            finally:
                pool.close()
                pool.join()
    if sys.version_info[0] == 3:
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2) as pool:
            print(list(pool.map(square.square, range(4))))
        with multiprocessing.Manager() as manager:
            print(manager.list([1, 2])[:])
    if sys.version_info >= (3, 14):
        from concurrent.futures import InterpreterPoolExecutor
        with InterpreterPoolExecutor(2) as pool:
            print(list(pool.map(square.square, range(4))))

if __name__ == '__main__':
    main()
    sys.exit(7)
`

// However a worker is started, it imports what the program does, from the disk or served, here or behind a hop.
func TestWorkersImport(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "app/workers.py", workers)
	Write(t, dir, "app/square.py", "def square(n):\n    import doubled\n    return doubled.twice(n) * n\n")
	Write(t, dir, "app/doubled.py", "def twice(n):\n    return 2 * n\n")
	app := filepath.Join(dir, "app")
	EachPython(t, func(t *testing.T, p Python) {
		script := filepath.Join(app, "workers.py")
		want := p.Local(t, dir, app, script)
		if want.Status != 7 || !strings.Contains(want.Stdout, "[0, 2, 8, 18]") {
			t.Fatal(want)
		}
		for _, target := range []string{p.Target(), "local:+" + p.Target()} {
			got := Mitogend(t, dir, "run", "--daemon", "none", "-H", target, script)
			if got.Status != want.Status || got.Stdout != want.Stdout {
				t.Errorf("%s: %v\nwanted %v", target, got, want)
			}
		}
	})
}
