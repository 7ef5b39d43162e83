package main

import (
	"context"

	"mitogend/daemon"
)

// withStock is a spec whose children run Mitogen's own runtime, under mitogend and under Mitogen's master.
func withStock(base *spec) *spec {
	s := *base
	s.name = "stock-" + base.name
	s.params = func(b *bed, who subject) (params, error) {
		if who != ours && who != mitogen {
			return nil, errUnsupported
		}
		p, err := base.params(b, who)
		if err != nil || who == mitogen {
			return p, err
		}
		r, err := daemon.FindRuntime(context.Background(), "mitogen", nil, []string{b.peer})
		if err != nil {
			return nil, err
		}
		p["runtime"] = "mitogen:" + r.Dir
		return p, nil
	}
	return &s
}

// underMaster is a spec of Mitogen's own driver, as a program under `mitogend master` and under Mitogen's master.
func underMaster(base *spec) *spec {
	s := *base
	s.name, s.under = "master-"+base.name, true
	s.params = func(b *bed, who subject) (params, error) {
		if who != ours && who != mitogen {
			return nil, errUnsupported
		}
		return base.params(b, who)
	}
	return &s
}

func stockSpecs() []*spec {
	return []*spec{
		withStock(connectSpec("3.11")),
		withStock(&spec{name: "calls", op: "calls", pinned: true, warm: 2, reps: 9, quick: 3, params: local("peer", params{"n": 2000})}),
		withStock(&spec{name: "pipeline", op: "pipeline", pinned: true, warm: 1, reps: 5, quick: 2, params: local("peer", params{"n": 5000})}),
		underMaster(&spec{name: "calls", op: "calls", pinned: true, warm: 2, reps: 9, quick: 3, params: local("peer", params{"n": 2000})}),
		withStock(importSpec("django", "django.db.models", 0)),
		withStock(importSpec("sqlalchemy", "sqlalchemy.orm", 0)),
		withStock(importSpec("jinja2", "jinja2", 0)),
	}
}

func stockRows() []*row {
	return []*row{
		{name: "stock-connect", what: "connect to a local child that runs Mitogen's runtime", spec: "stock-connect-3.11", metric: "seconds", unit: unitSeconds},
		{name: "stock-call", what: "call round trip to it, pinned", spec: "stock-calls", metric: "seconds", unit: unitSeconds},
		{name: "stock-master-call", what: "call under mitogend master, pinned", spec: "master-calls", metric: "seconds", unit: unitSeconds},
		{name: "stock-pipeline", what: "pipelined calls, pinned", spec: "stock-pipeline", metric: "per_second", unit: unitPerSec, higher: true},
		{name: "stock-django", what: "cold import django.db.models there", spec: "stock-import-django", metric: "seconds", unit: unitSeconds},
		{name: "stock-sqlalchemy", what: "cold import sqlalchemy.orm there", spec: "stock-import-sqlalchemy", metric: "seconds", unit: unitSeconds},
		{name: "stock-jinja2", what: "cold import jinja2 there", spec: "stock-import-jinja2", metric: "seconds", unit: unitSeconds},
	}
}
