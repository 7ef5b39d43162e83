package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// Facts of this machine are what this machine says; --where selects targets by facts.
func TestFacts(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		r := Mitogend(t, dir, "facts", "--json", "-H", p.Target())
		var line struct {
			OK     bool
			Result map[string]any
		}
		if err := json.Unmarshal([]byte(r.Stdout), &line); err != nil || !line.OK || r.Status != 0 {
			t.Fatal(err, r)
		}
		host, _ := os.Hostname()
		got := line.Result
		for name, want := range map[string]any{"system": "Linux", "hostname": host, "uid": float64(os.Getuid())} {
			if got[name] != want {
				t.Errorf("%s is %v, not %v", name, got[name], want)
			}
		}
		if v, _ := got["python"].(string); !strings.HasPrefix(v, p.Version+".") {
			t.Errorf("python is %v", v)
		}
		for _, name := range []string{"cpus", "memory", "memory_available", "uptime"} {
			if n, ok := got[name].(float64); !ok || n <= 0 {
				t.Errorf("%s is %v", name, got[name])
			}
		}
		lo, _ := got["addresses"].(map[string]any)["lo"].([]any)
		if len(lo) == 0 || lo[0] != "127.0.0.1" {
			t.Errorf("the addresses of lo are %v", lo)
		}
		disks, _ := got["disks"].([]any)
		if len(disks) == 0 || disks[0].(map[string]any)["size"].(float64) <= 0 {
			t.Errorf("the disks are %v", disks)
		}
		Mitogend(t, dir, "facts", "-H", p.Target(), "system", "uid").Want(t, 0, "system                Linux\nuid                   "+jsonText(os.Getuid())+"\n", "")
		for expr, want := range map[string]string{
			`system == "Linux" and memory > 1e6`:          "here\n",
			`any(disks[]; .size > 0) and cpus >= 1`:       "here\n",
			`system != "Linux" or memory < 1e6`:           "",
			`distribution_like == ["never", "heard of"]`:  "",
			`.system == "Linux" and ($facts.system|true)`: "here\n",
		} {
			Mitogend(t, dir, "exec", "-H", p.Target(), "--where", expr, "--", "echo", "here").Want(t, 0, want, "")
		}
	})
}

func jsonText(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// A target that is left out is not counted as done, and leaves nothing behind.
func TestWhereOfSeveral(t *testing.T) {
	dir := t.TempDir()
	list := pythons.All(t)
	if len(list) < 2 {
		pythons.Missing(t, "one interpreter is here")
	}
	a, b := clean(t, list[0]), clean(t, list[len(list)-1])
	args := []string{"-H", a.Target(), "-H", b.Target(), "-H", "local:?python=/nonexistent/python"}
	where := `python | startswith("` + a.Version + `.")`
	r := Mitogend(t, dir, append(append([]string{"exec", "-o", "out", "--failed", "failed", "--where", where}, args...), "--", "echo", "{target}")...)
	r.Want(t, 3, "", "1 ok, 1 not reached: local:?python=/nonexistent/python, 1 left out by --where\n")
	entries, err := filepath.Glob(filepath.Join(dir, "out", "*"))
	if err != nil || len(entries) != 2 {
		t.Errorf("%v %v", entries, err)
	}
	if failed, _ := os.ReadFile(filepath.Join(dir, "failed")); string(failed) != "local:?python=/nonexistent/python\n" {
		t.Errorf("failed: %s", failed)
	}
	r = Mitogend(t, dir, append(append([]string{"call", "--json", "--where", where}, args[:4]...), "os:getpid")...)
	if r.Status != 0 || strings.Count(r.Stdout, "\n") != 1 || !strings.Contains(r.Stdout, `"ok":true`) {
		t.Error(r)
	}
	for expr, why := range map[string]string{
		"memory >":        "--where memory >: unexpected EOF",
		"1 == 1":          "it looks at no fact",
		"memory > memry":  "function not defined: memry/0",
		"memory":          "", // see below
		`memory + "text"`: "",
	} {
		want := 2
		if why == "" {
			want, why = 1, "--where "+expr+": "
		}
		Mitogend(t, dir, "call", "-H", a.Target(), "--where", expr, "os:getpid").Want(t, want, "", why)
	}
	Mitogend(t, dir, "call", "--where", "cpus > 0", "--dry-run", "os:getpid").Want(t, 2, "", "--dry-run asks them nothing")
	Mitogend(t, dir, "facts", "system", "-H", a.Target()).Want(t, 0, "system                Linux\n", "")
	Mitogend(t, dir, "facts", "system", "--jsn").Want(t, 2, "", "unknown flag: --jsn")
	Mitogend(t, dir, "facts", "cpus", "cores").Want(t, 2, "", "cores: there is no fact of that name")
}
