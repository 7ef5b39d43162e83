package python

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

// testTime is what one file of tests may take under one interpreter.
const testTime = 5 * time.Minute

// TestPython runs tests/test_*.py, which are unittest programs, under every interpreter, against the runtime as
// children get it: shrunk, and core.py for their own generation.
func TestPython(t *testing.T) {
	files, err := filepath.Glob("tests/test_*.py")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests", err)
	}
	runtime := map[string]string{}
	for _, major := range []string{"2", "3"} {
		runtime[major] = writeRuntime(t, major)
	}
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".py"), func(t *testing.T) {
				t.Parallel()
				runPython(t, py.Path, file, runtime[py.Version[:1]])
			})
		}
	})
}

// TestFirstStageIsOldPython: an interpreter as old as 2.4 can read the first stage, which tells it that it is too old.
func TestFirstStageIsOldPython(t *testing.T) {
	// What came later, as far as 2.7 tells it from what was there.
	program := `import ast, sys
later = ast.IfExp, ast.With, ast.Set, ast.SetComp, ast.DictComp
found = [(type(n).__name__, n.lineno) for n in ast.walk(ast.parse(sys.stdin.read())) if isinstance(n, later)]
sys.exit(found and repr(found) or 0)`
	cmd := exec.Command(pythons.Any(t).Path, "-c", program)
	cmd.Stdin = strings.NewReader(firstStage)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("first_stage.py has what 2.4 cannot read: %s", out)
	}
}

// writeRuntime writes what a child of that generation has of the package mitogen, and gives the directory that it is
// in.
func writeRuntime(t *testing.T, major string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), major)
	n, _ := strconv.Atoi(major)
	parts := map[string]string{"mitogen/core.py": Core(n)}
	for _, m := range Modules() {
		parts[m.Path] = m.Text()
	}
	if err := os.MkdirAll(filepath.Join(dir, "mitogen"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range parts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runPython runs one file of tests. MITOGEND_RUNTIME tells it where the runtime is (see tests/harness.py).
func runPython(t *testing.T, python, file, runtime string) {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-B", filepath.Base(file), "-v")
	cmd.Dir = filepath.Dir(file)
	cmd.Env = append(os.Environ(), "MITOGEND_RUNTIME="+runtime, "PYTHONDONTWRITEBYTECODE=1", "PYTHONFAULTHANDLER=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// An interpreter that hangs says where.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGABRT) }
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		t.Errorf("not done after %v:\n%s", testTime, out)
	case err != nil:
		t.Errorf("%v:\n%s", err, out)
	case !regexp.MustCompile(`(?m)^Ran [1-9]\d* tests? in `).Match(out):
		t.Errorf("ran no test:\n%s", out)
	default:
		for _, line := range strings.Split(string(out), "\n") {
			if strings.Contains(line, "skipped") || strings.HasPrefix(line, "note: ") {
				t.Log(line)
			}
		}
	}
}
