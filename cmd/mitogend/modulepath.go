package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mitogend/importer"
)

// pathFlags say where modules come from and which may be served.
type pathFlags struct {
	path  []string
	venv  string
	allow []string
	deny  []string
}

func (p *pathFlags) register(cmd *cobra.Command, first string) {
	f := cmd.Flags()
	f.StringArrayVarP(&p.path, "path", "I", nil, "`DIR`ectory, zip, egg or wheel file to look modules up in, in order; repeatable (default "+first+", then $MITOGEND_PATH)")
	f.StringVar(&p.venv, "venv", "", "virtual environment `DIR` whose site-packages follow")
	f.StringSliceVar(&p.allow, "allow", nil, "serve only these `MODULES` and what lies in them; repeatable, comma-separated")
	f.StringSliceVar(&p.deny, "deny", nil, "never serve these `MODULES`, nor what lies in them; repeatable, comma-separated")
}

// options gives what the flags say; first is the default path's first entry.
func (p *pathFlags) options(first string) (importer.Options, error) {
	opt := importer.Options{Path: p.path, Venv: p.venv, Policy: importer.Policy{Allow: p.allow, Deny: p.deny}}
	for _, dir := range p.path {
		// Python takes no notice of such an entry, and so does the importer; here it is a typing mistake.
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return opt, usagef("--path %s: %w", dir, cause(err))
		}
	}
	if len(p.path) == 0 {
		opt.Path = []string{first}
		for _, dir := range filepath.SplitList(os.Getenv("MITOGEND_PATH")) {
			if dir != "" {
				opt.Path = append(opt.Path, dir)
			}
		}
	}
	return opt, nil
}
