package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mitogend/daemon/owned"
	"mitogend/importer"
	"mitogend/importer/requirements"
)

// pathFlags say where modules come from, and which of them may be served.
type pathFlags struct {
	path  []string
	venv  string
	allow []string
	deny  []string
	libs  []string
	// unpack has names of packages.
	unpack []string
	// wheels has directories of wheels.
	wheels      []string
	constraints []string
	needs       importer.Requirements
}

func (p *pathFlags) register(cmd *cobra.Command, first string) {
	f := cmd.Flags()
	f.StringArrayVarP(&p.path, "path", "I", nil, "`DIR`ectory, zip, egg or wheel file to look modules up in, in order; repeatable (default "+first+", then $MITOGEND_PATH)")
	f.StringVar(&p.venv, "venv", "", "virtual environment `DIR` whose site-packages follow")
	f.StringSliceVar(&p.allow, "allow", nil, "serve only these `MODULES` and what lies in them; repeatable, comma-separated")
	f.StringSliceVar(&p.deny, "deny", nil, "never serve these `MODULES`, nor what lies in them; repeatable, comma-separated")
	f.StringSliceVar(&p.libs, "libs", nil, "send libraries of this machine that extension modules need and a target lacks; --libs=`DIRS` looks there instead")
	f.StringSliceVar(&p.unpack, "unpack", nil, "unpack these `PACKAGES` in the target's memory, for code that needs files on a disk; repeatable, comma-separated")
	f.StringArrayVar(&p.wheels, "wheels", nil, "`DIR`ectory of wheels, as pip download makes it: each target gets those that fit it, after the path; repeatable")
	f.StringArrayVar(&p.constraints, "constraint", nil, "of --wheels, take versions that constraint `FILE` allows, as pip does; repeatable")
	f.StringArrayVar(&p.needs.Lines, "with", nil, "serve what uv or pip finds for this `REQUIREMENT`, such as numpy<2, and for what that needs: each target gets what fits it; repeatable")
	f.StringArrayVar(&p.needs.Files, "requirements", nil, "the same for each line of `FILE`; repeatable")
	f.StringArrayVar(&p.needs.Links, "find-links", nil, "have uv or pip look in this `DIR`ectory or at this address as well; repeatable")
	f.Lookup("libs").NoOptDefVal = importer.LibsSystem
	completeFlag(cmd, "venv", completeDirs)
	completeFlag(cmd, "wheels", completeDirs)
	completeFlag(cmd, "allow", p.completeModule)
	completeFlag(cmd, "deny", p.completeModule)
	completeFlag(cmd, "unpack", p.completeModule)
}

// options gives what the flags say. first is the default path's first entry. The user has not named it, so it is left
// out if somebody else could have put modules there.
func (p *pathFlags) options(a *app, first string) (importer.Options, error) {
	opt := importer.Options{Path: p.path, Venv: p.venv, Policy: importer.Policy{Allow: p.allow, Deny: p.deny}, Libs: p.libs, Unpack: p.unpack,
		Wheels: p.wheels, Constraints: p.constraints, Requirements: p.needs}
	for _, line := range p.needs.Lines {
		if err := requirements.Check(line); err != nil {
			return opt, usagef("--with %w", err)
		}
	}
	for _, file := range p.needs.Files {
		if _, err := os.Stat(file); err != nil {
			return opt, usagef("--requirements %s: %w", file, cause(err))
		}
	}
	if err := checkWheels(p.wheels); err != nil {
		return opt, usagef("--%w", err)
	}
	if len(p.constraints) > 0 && len(p.wheels) == 0 {
		return opt, usagef("--constraint is for --wheels, which is not given")
	}
	for _, dir := range p.path {
		// Python ignores such an entry, and so does the importer. On a command line it is a typing mistake.
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return opt, usagef("--path %s: %w", dir, cause(err))
		}
	}
	if len(p.path) == 0 && first != "" {
		if err := owned.CheckDir(first); err == nil {
			opt.Path = []string{first}
		} else if hasModules(first) {
			a.console.complain("modules of %s are not served: %v; -I %s serves them", first, err, first)
		}
		for _, dir := range filepath.SplitList(os.Getenv("MITOGEND_PATH")) {
			if dir != "" {
				opt.Path = append(opt.Path, dir)
			}
		}
	}
	return opt, nil
}

// checkWheels finds mistakes in the names of directories of wheels. Later faults in these are told where a module is
// missing.
func checkWheels(dirs []string) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		switch {
		case errors.Is(err, syscall.ENOTDIR) && strings.HasSuffix(dir, ".whl"):
			return fmt.Errorf("wheels %s: it is a wheel itself: name its directory, or serve it by -I", dir)
		case err != nil:
			return fmt.Errorf("wheels %s: %w", dir, cause(err))
		case !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".whl") }):
			return fmt.Errorf("wheels %s: there is no wheel (*.whl) in it", dir)
		}
	}
	return nil
}

// maxEntries is how much of a directory hasModules looks at.
const maxEntries = 1000

// hasModules tells whether a directory has modules that somebody may miss.
func hasModules(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxEntries)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".py") || e.IsDir() && exists(filepath.Join(dir, e.Name(), "__init__.py")) {
			return true
		}
	}
	return false
}

// hideImports hides the flags of imports in the help of commands that import nothing of the user's.
func hideImports(cmd *cobra.Command) {
	for _, name := range []string{"path", "venv", "libs", "wheels", "constraint", "with", "requirements", "find-links", "unpack", "allow", "deny", "prefer", "bytecode", "no-bytecode", "compilers", "trace-imports"} {
		_ = cmd.Flags().MarkHidden(name)
	}
}
