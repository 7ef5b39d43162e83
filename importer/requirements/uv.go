package requirements

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"mitogend/importer"
)

// oldestUV is the first that needs no virtual environment for --target and knows these platforms.
const oldestUV = "0.5.6"

var uvVersion = regexp.MustCompile(`^uv (\d+)\.(\d+)\.(\d+)`)

// uv gives the path of a uv that is new enough.
func uv(ctx context.Context, env []string) (string, error) {
	path, err := exec.LookPath("uv")
	if err != nil || !filepath.IsAbs(path) {
		return "", errMissing
	}
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay = env, time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	m := uvVersion.FindStringSubmatch(string(out))
	if err != nil || m == nil || importer.Newer(oldestUV, strings.Join(m[1:], ".")) {
		return "", errMissing
	}
	return path, nil
}

// byUV has uv lay everything down in part: it fetches no wheels, but installs into any directory, for any Python and platform that it
// knows. How it does that is from its documentation, of 0.5.6 to 0.12: tests have a stand-in that takes what is documented, and no uv.
func byUV(ctx context.Context, r importer.Requirements, p importer.Platform, env []string, part string) error {
	path, err := uv(ctx, env)
	if err != nil {
		return err
	}
	system, err := uvPlatform(p)
	if err != nil {
		return err
	}
	site := filepath.Join(part, importer.Site)
	// cpython: wheels are chosen for the kind of Python that uv has found here. copy: what is served is nobody else's file.
	argv := []string{"pip", "install", "--target", site, "--python", "cpython", "--python-version", p.Version.String(), "--python-platform", system,
		"--only-binary", ":all:", "--link-mode", "copy", "--no-compile-bytecode"}
	links, err := uvLinks(r, env)
	if err != nil {
		return err
	}
	for _, place := range links {
		argv = append(argv, "--find-links", place)
	}
	for _, file := range r.Files {
		if file, err = filepath.Abs(file); err != nil {
			return err
		}
		argv = append(argv, "-r", file)
	}
	cmd := exec.CommandContext(ctx, path, append(append(argv, "--"), r.Lines...)...)
	// It is not started where the user is: settings and environments that lie there may be somebody else's.
	cmd.Dir = part
	cmd.Env = append(env[:len(env):len(env)], "UV_PYTHON_DOWNLOADS=never", "UV_NO_PROGRESS=1", "UV_NO_WRAP=1", "NO_COLOR=1")
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) { // git may leave a process
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("uv: %s", uvError(said.String(), err))
	}
	return checkSite(site, p)
}

// uvLinks are the places of --find-links, which takes the place of uv's own setting and has commas between them.
func uvLinks(r importer.Requirements, env []string) (links []string, err error) {
	for _, place := range r.Links {
		if strings.Contains(place, ",") {
			return nil, unable{"a --find-links with a comma in it"}
		}
		if !strings.Contains(place, "://") {
			if place, err = filepath.Abs(place); err != nil {
				return nil, err
			}
		}
		links = append(links, place)
	}
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "UV_FIND_LINKS="); ok && value != "" && len(links) > 0 {
			links = append(links, value)
		}
	}
	return links, nil
}

// uvGlibc are the minor versions of glibc that uv has names for.
var uvGlibc = []int{40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17}

// uvPlatform gives uv's name for a target, or for the newest platform whose wheels the target can load.
func uvPlatform(p importer.Platform) (string, error) {
	if p.Major != 3 || p.Minor < 8 {
		return "", unable{"Python " + p.Version.String()}
	}
	// uv has no names for debug builds and the like.
	if p.ABI != fmt.Sprintf("cp%d%d", p.Major, p.Minor) {
		return "", unable{"a Python of the kind " + p.ABI}
	}
	var libc [2]int
	for i, n := range strings.SplitN(p.LibcVersion, ".", 3) {
		if i < len(libc) {
			libc[i], _ = strconv.Atoi(n)
		}
	}
	known := p.Machine == "x86_64" || p.Machine == "aarch64"
	switch {
	case known && p.Libc == "musl" && libc[0] == 1 && libc[1] >= 2:
		return p.Machine + "-unknown-linux-musl", nil
	case known && p.Libc == "glibc" && libc[0] == 2:
		for _, minor := range uvGlibc {
			if minor <= libc[1] {
				return fmt.Sprintf("%s-manylinux_2_%d", p.Machine, minor), nil
			}
		}
	case p.Machine == "riscv64" && p.Libc == "glibc" && libc[0] == 2 && libc[1] >= 39:
		return "riscv64-unknown-linux", nil
	}
	return "", unable{p.String()}
}

// checkSite looks whether what was found is for the target's Python: uv takes it from one that it finds here whether that is free-threaded.
func checkSite(site string, p importer.Platform) error {
	entries, err := os.ReadDir(site)
	if err != nil {
		return fmt.Errorf("uv: it has laid nothing down: %w", err)
	}
	for _, e := range entries {
		project, ok := strings.CutSuffix(e.Name(), ".dist-info")
		if !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(site, e.Name(), "WHEEL"))
		if err != nil {
			return fmt.Errorf("uv: what it has found is no wheel: %w", err)
		}
		if tag, ok := p.FitsWheel(data); !ok {
			return fmt.Errorf("uv: it has found %s for another Python: %s", project, tag)
		}
	}
	return nil
}

// uvError is what uv says is wrong: all from the first line on that begins as an error, without the drawing around it.
func uvError(said string, err error) string {
	var words []string
	for line := range strings.Lines(said) {
		text := strings.TrimSpace(line)
		begins := strings.HasPrefix(text, "error:") || strings.HasPrefix(text, "×")
		if len(words) == 0 && !begins {
			continue
		}
		words = append(words, strings.Fields(strings.TrimPrefix(strings.TrimLeft(text, "×╰─▶├│ "), "error: "))...)
	}
	if len(words) == 0 {
		if words = strings.Fields(said); len(words) == 0 {
			return err.Error()
		}
	}
	return fmt.Sprintf("%.1000s", strings.Join(words, " "))
}
