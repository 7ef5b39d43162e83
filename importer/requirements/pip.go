package requirements

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"mitogend/importer"
	"mitogend/internal/nothere"
)

const notHere = "import sys;" + nothere.Line

const checkPip = "import os;os.write(1,getattr(os,'fsencode',str)(sys.prefix));" +
	"import pip;[int(n) for n in pip.__version__.split('.')[:2]]>=[20,3] or sys.exit(1)"

// pip gives the command line of a pip, 20.3 or later, which takes --abi and --platform more than once: that of the target's Python if
// it is here, since conditions such as python_version < "3.9" are judged by the Python that pip runs under. prefix is that one's
// sys.prefix, and others are those of the Pythons that pip might run under as well.
func pip(ctx context.Context, v importer.Version, env []string) (argv []string, prefix string, others []string, err error) {
	for _, python := range []string{"python" + v.String(), "python3", "python"} {
		path, err := exec.LookPath(python)
		if err != nil {
			continue
		}
		check := exec.CommandContext(ctx, path, "-c", notHere+checkPip)
		check.Env, check.WaitDelay = env, time.Second
		out, err := check.Output()
		if ctx.Err() != nil {
			return nil, "", nil, context.Cause(ctx)
		}
		if err != nil || argv != nil {
			others = append(others, string(out))
			continue
		}
		argv, prefix = []string{path, "-c", notHere + "import runpy;runpy.run_module('pip',None,'__main__',True)"}, string(out)
	}
	if argv == nil {
		err = errMissing
	}
	return argv, prefix, others, err
}

// byPip has pip, by that command line, fetch everything into part.
func byPip(ctx context.Context, argv []string, r importer.Requirements, p importer.Platform, env []string, part string) error {
	digits := strings.ReplaceAll(p.Version.String(), ".", "")
	argv = append(argv, "download", "--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "--dest", part,
		"--implementation", "cp", "--python-version", digits, "--abi", p.ABI, "--abi", "none")
	if p.Major == 3 && !strings.Contains(p.ABI, "t") {
		argv = append(argv, "--abi", "abi3")
	}
	for _, system := range systems(p) {
		argv = append(argv, "--platform", system)
	}
	for _, place := range r.Links {
		argv = append(argv, "--find-links", place)
	}
	for _, file := range r.Files {
		argv = append(argv, "--requirement", file)
	}
	argv = append(append(argv, "--"), r.Lines...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.WaitDelay = env, time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) { // git may leave a process
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("pip: %s", lastError(said.String(), err))
	}
	return nil
}

// lastError is what pip says is wrong.
func lastError(said string, err error) string {
	var lines []string
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "ERROR: "); ok {
			lines = append(lines, text)
		}
	}
	if len(lines) == 0 {
		lines = strings.Split(strings.TrimSpace(said), "\n")
		lines = lines[len(lines)-1:]
	}
	text := strings.Join(lines[:min(len(lines), 3)], "; ")
	if text == "" {
		text = err.Error()
	}
	return fmt.Sprintf("%.1000s", text)
}

// legacy are the names that some tags had before PEP 600, by the minor version of glibc.
var legacy = map[int]string{5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}

// systems gives the platform tags that fit, the newest first.
func systems(p importer.Platform) (out []string) {
	major, minor, _ := strings.Cut(p.LibcVersion, ".")
	minor, _, _ = strings.Cut(minor, ".")
	n, _ := strconv.Atoi(minor)
	for ; n >= 0 && p.Libc != ""; n-- {
		if p.Libc == "musl" {
			out = append(out, fmt.Sprintf("musllinux_%s_%d_%s", major, n, p.Machine))
			continue
		}
		if n < 5 {
			break
		}
		out = append(out, fmt.Sprintf("manylinux_%s_%d_%s", major, n, p.Machine))
		if name := legacy[n]; name != "" {
			out = append(out, name+"_"+p.Machine)
		}
	}
	return append(out, "linux_"+p.Machine)
}
