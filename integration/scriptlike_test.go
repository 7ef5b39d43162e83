package integration

import (
	"fmt"
	"strings"
	"testing"
)

// TestScriptsOwnLogging: a program logs where it says, also where something imports logging before it.
func TestScriptsOwnLogging(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "site/sitecustomize.py", "import logging\n")
		Write(t, dir, "log.py", "import logging\nlogging.basicConfig(format='own %(message)s')\nlogging.warning('x')\n")
		cmd := Command(t, dir, "run", "-H", p.Target(), "log.py")
		cmd.Env = append(cmd.Env, "PYTHONPATH="+dir+"/site")
		runCommand(t, cmd).Want(t, 0, "", "own x\n")
	})
}

// TestScriptOpensFiles: the paths that a script makes of a package's are opened, whatever the package itself says.
func TestScriptOpensFiles(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "pkg/__init__.py", "")
		Write(t, dir, "pkg/d.txt", "here\n")
		Write(t, dir, "s.py", "import os, sys, pkg\nsys.stdout.write(open(os.path.join(os.path.dirname(pkg.__file__), 'd.txt')).read())\n")
		Mitogend(t, dir, "run", "-H", p.Target(), "s.py").Want(t, 0, "here\n", "")
		Write(t, dir, "t.py", "import sys, pkg\nsys.stdout.write(open(list(pkg.__path__)[0] + '/d.txt').read())\n")
		Mitogend(t, dir, "run", "-H", p.Target(), "t.py").Want(t, 0, "here\n", "")
	})
}

// TestProgramsBesideOneThatEnds: while orders for large programs are read, others end. On 2.7 their signals cut reads
// short.
func TestProgramsBesideOneThatEnds(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "long.py", "import sys\nsys.stdin.read()\n")
		var filler strings.Builder
		for i := range 30000 {
			fmt.Fprintf(&filler, "# filler %030d\n", i*7919)
		}
		Write(t, dir, "large.py", "print('ran')\n"+filler.String())
		Write(t, dir, "short.py", "print('ran')\n")
		d := Serve(t)
		for i := range 8 {
			done := make(chan Result, 4)
			for j := range 4 {
				name := []string{"large.py", "short.py"}[j%2]
				go func() { done <- d.Run(t, dir, "run", "-H", p.Target(), name) }()
			}
			for range 4 {
				if r := <-done; r.Status != 0 || r.Stdout != "ran\n" {
					t.Errorf("round %d: %d %s", i, r.Status, r.Stderr)
				}
			}
		}
	})
}

// TestProgramsDrawTheirOwnNumbers: programs of one child are processes of their own also to random.
func TestProgramsDrawTheirOwnNumbers(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "site/sitecustomize.py", "import random\n")
		Write(t, dir, "draw.py", "import random\nprint(random.random())\n")
		d := PrepareDaemon(t)
		d.cmd.Env = append(d.cmd.Env, "PYTHONPATH="+dir+"/site", d.mark)
		d.Start()
		seen := map[string]bool{}
		for range 3 {
			r := d.Run(t, dir, "run", "-H", p.Target(), "draw.py")
			if r.Status != 0 || seen[r.Stdout] {
				t.Errorf("status %d, drawn again: %s%s", r.Status, r.Stdout, r.Stderr)
			}
			seen[r.Stdout] = true
		}
	})
}

// TestResourcesByPath: the path of a resource is opened, also by the expression that names it first.
func TestResourcesByPath(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		if p.Version == "2.7" || p.Version == "3.6" || p.Version == "3.7" || p.Version == "3.8" {
			t.Skip("it has no files()")
		}
		dir := t.TempDir()
		Write(t, dir, "pkg/__init__.py", "")
		Write(t, dir, "pkg/d.txt", "here\n")
		Write(t, dir, "s.py", "import importlib.resources, sys\nsys.stdout.write(open(str(importlib.resources.files('pkg') / 'd.txt')).read())\n")
		Mitogend(t, dir, "run", "-H", p.Target(), "s.py").Want(t, 0, "here\n", "")
	})
}
