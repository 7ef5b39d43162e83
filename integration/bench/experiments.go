package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

type subject string

const (
	ours      subject = "mitogend"
	mitogen   subject = "Mitogen"
	execnet   subject = "execnet"
	floor     subject = "floor"
	cpython   subject = "CPython"
	ogrek     subject = "og-rek"
	gopickle  subject = "gopickle"
	masters           = "masters" // the kind of rows that compare the first four
	codecs            = "codecs"  // the kind that compares ours with the last three
	smallFile         = 32_000_000
	roundTrip         = 100 * time.Millisecond
)

var subjectsOf = map[string][]subject{
	masters: {ours, mitogen, execnet, floor},
	codecs:  {ours, cpython, ogrek, gopickle},
	copies:  {ours, scp, rsync, tar},
}

// spec is one experiment: an operation of the drivers with its parameters. One spec may feed several rows.
type spec struct {
	name   string
	kind   string // masters if empty
	op     string
	pinned bool // bound to CPU 0, with all that it starts
	fresh  bool // a new driver for each sample
	under  bool // ours is Mitogen's driver, run by `mitogend master`
	warm   int  // samples thrown away
	reps   int  // samples kept
	quick  int  // the same with -quick
	limit  time.Duration
	// params makes the parameters for one subject. An error says why that subject is left out.
	params func(b *bed, s subject) (params, error)
}

// local is the usual set of parameters: a child of some version, the children's modules on the path.
func local(version string, extra params) func(*bed, subject) (params, error) {
	return func(b *bed, _ subject) (params, error) {
		python, err := b.python(version)
		if err != nil {
			return nil, err
		}
		p := params{"python": python, "path": []string{b.childDir()}, "floor_child": b.py("floor_child.py")}
		for k, v := range extra {
			p[k] = v
		}
		return p, nil
	}
}

func connectSpec(version string) *spec {
	return &spec{name: "connect-" + version, op: "connect", warm: 3, reps: 21, quick: 5, params: local(version, nil)}
}

func payloadParams(b *bed, s subject) (params, error) {
	p, err := local("3.11", nil)(b, s)
	if err != nil {
		return nil, err
	}
	count := filepath.Join(b.dir, "count-"+string(s))
	p["count_file"] = count
	p["python"], err = b.relayed(p.str("python"), 0, count)
	return p, err
}

func importSpec(short, name string, rtt time.Duration) *spec {
	s := &spec{name: "import-" + short, op: "import", fresh: true, warm: 1, reps: 9, quick: 3}
	if rtt > 0 {
		s.name += "-delayed"
		s.warm, s.reps, s.quick = 0, 3, 1
	}
	s.params = func(b *bed, who subject) (params, error) {
		p, err := local("3.11", params{"package": name, "module": "bench_import_" + short, "rtt": rtt.Seconds()})(b, who)
		if err != nil {
			return nil, err
		}
		sources, err := b.sources()
		if err != nil {
			return nil, err
		}
		p["path"] = []string{b.childDir(), sources}
		p["source_dir"] = sources
		if p["pyc_dir"], err = b.compiled("3.11"); err != nil {
			return nil, err
		}
		if rtt > 0 && who != floor {
			p["python"], err = b.relayed(p.str("python"), rtt, "")
		}
		return p, err
	}
	return s
}

// overSSH is an import in a child that ssh reaches.
func overSSH(short, name string) *spec {
	s := importSpec(short, name, 0)
	s.name += "-ssh"
	s.reps = 7
	base := s.params
	s.params = func(b *bed, who subject) (params, error) {
		p, err := base(b, who)
		if err == nil && who != floor {
			p["ssh_config"], err = b.sshd()
		}
		return p, err
	}
	return s
}

func fileSpec(name string, size int64) *spec {
	return &spec{name: name, op: "file", warm: 1, reps: 7, quick: 2, params: func(b *bed, s subject) (params, error) {
		p, err := local("3.11", params{"size": size})(b, s)
		if err != nil {
			return nil, err
		}
		p["file"], err = b.bigFile(size)
		return p, err
	}}
}

func processParams(b *bed, s subject) (params, error) {
	python, err := b.python("3.11")
	if err != nil {
		return nil, err
	}
	switch s {
	case ours:
		if b.mitogend == "" {
			return nil, errors.New("cmd/mitogend was not built")
		}
		return params{"argv": []string{b.mitogend, "call", "--daemon", "none", "--python", python, "os:getpid"}}, nil
	case mitogen:
		return params{"argv": []string{b.peer, b.py("mitogen_once.py"), python}}, nil
	case execnet:
		return params{"argv": []string{b.peer, b.py("execnet_once.py"), python}}, nil
	}
	return params{"argv": []string{python, "-c", "import os; print(os.getpid())"}}, nil
}

// warmParams: a command beside a running daemon; the floor is a command that does nothing.
func warmParams(b *bed, s subject) (params, error) {
	if b.mitogend == "" {
		return nil, errors.New("cmd/mitogend was not built")
	}
	python, err := b.python("3.11")
	if err != nil {
		return nil, err
	}
	switch s {
	case ours:
		return params{"mitogend": b.mitogend, "python": python, "listen": filepath.Join(b.dir, "warm")}, nil
	case floor:
		return params{"argv": []string{b.mitogend, "version"}}, nil
	}
	return nil, errUnsupported
}

func bulkSpec(name string, size, n int) *spec {
	return &spec{name: name, op: "bulk", warm: 1, reps: 7, quick: 3, params: local("3.11", params{"size": size, "n": n})}
}

func routeSpec(name string, pairs, n int) *spec {
	return &spec{name: name, op: "route", warm: 1, reps: 5, quick: 2,
		params: local("3.11", params{"pairs": pairs, "size": 65536, "n": n})}
}

func fanoutSpec(n int) *spec {
	return &spec{name: fmt.Sprintf("fanout-%d", n), op: "fanout", warm: 5, reps: 15, quick: 5,
		params: local("3.11", params{"n": n})}
}

func concurrentSpec(n int) *spec {
	return &spec{name: fmt.Sprintf("concurrent-%d", n), op: "concurrent", reps: 3, quick: 1,
		params: local("3.11", params{"n": n, "width": min(n, 100)})}
}

// tableSpecs are the experiments behind the table.
func tableSpecs() []*spec {
	list := []*spec{
		connectSpec("2.7"), connectSpec("3.6"), connectSpec("3.11"), connectSpec("3.13"), connectSpec("3.15"),
		{name: "process", op: "process", warm: 2, reps: 11, quick: 3, params: processParams},
		{name: "warm", op: "warm", warm: 2, reps: 15, quick: 3, params: warmParams},
		concurrentSpec(100),
		{name: "payload", op: "payload", reps: 1, quick: 1, params: payloadParams},
		{name: "memory", op: "memory", warm: 1, reps: 5, quick: 2, params: local("3.11", nil)},
		{name: "calls", op: "calls", pinned: true, warm: 2, reps: 15, quick: 5, params: local("peer", params{"n": 2000})},
		{name: "pipeline", op: "pipeline", pinned: true, warm: 1, reps: 9, quick: 3, params: local("peer", params{"n": 5000})},
		fanoutSpec(200),
		bulkSpec("bulk", 64_000_000, 1),
		routeSpec("route", 1, 4000),
		fileSpec("file", 256_000_000),
		importSpec("django", "django.db.models", 0),
		importSpec("sqlalchemy", "sqlalchemy.orm", 0),
		importSpec("jinja2", "jinja2", 0),
		importSpec("django", "django.db.models", roundTrip),
		importSpec("sqlalchemy", "sqlalchemy.orm", roundTrip),
		importSpec("jinja2", "jinja2", roundTrip),
		overSSH("django", "django.db.models"),
		overSSH("sqlalchemy", "sqlalchemy.orm"),
		overSSH("jinja2", "jinja2"),
		{name: "idle", op: "idle", fresh: true, reps: 3, quick: 1, params: local("3.11", params{"n": 400})},
		{name: "codec", kind: codecs, op: "codec", pinned: true, reps: 7, quick: 1, limit: 5 * time.Minute, params: codecParams},
	}
	for _, v := range otherVersions {
		list = append(list,
			&spec{name: "memory-" + v, op: "memory", warm: 1, reps: 3, quick: 1, params: local(v, nil)},
			&spec{name: "calls-" + v, op: "calls", pinned: true, warm: 1, reps: 7, quick: 2, params: local(v, params{"n": 2000})},
			&spec{name: "bulk-" + v, op: "bulk", warm: 1, reps: 3, quick: 1, params: local(v, params{"size": 64_000_000, "n": 1})})
	}
	list = append(list, bytecodeSpecs()...)
	list = append(list, copySpecs()...)
	return append(list, stockSpecs()...)
}

// otherVersions are the versions besides 3.11 under which the child itself is measured.
var otherVersions = []string{"2.7", "3.6", "3.13", "3.15"}

// codecParams names the directory where CPython writes the pickles that all read.
func codecParams(b *bed, s subject) (params, error) {
	dir, err := b.once("pickles", func(dir string) (string, error) { return dir, writePickles(b.peer, b.py("codec.py"), dir) })
	return params{"dir": dir, "library": string(s)}, err
}
