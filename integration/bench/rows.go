package main

import (
	"fmt"
	"math"
)

// row is one line of the table.
type row struct {
	name   string // for -row
	what   string
	spec   string
	metric string
	floor  string // the floor's metric if it is another one
	unit   unit
	higher bool // more is better
	target target
}

// target is the limit that ours must reach.
type target struct {
	text string
	// limit gives the figure that ours must not exceed (with row.higher: must not fall below), from the medians of this run.
	limit func(m medians) float64
	// wanted is Mitogen's figure on the day when the targets were set, divided by the target. It is shown beside today's ratio,
	// since only ratios carry over to another machine. 0: none.
	wanted float64
}

// medians gives a median of this run: by row, then subject. NaN if it is not there.
type medians func(row string, s subject) float64

func atMost(v float64, u unit, reference float64) target {
	t := target{text: "<= " + u.format(v), limit: func(medians) float64 { return v }}
	if reference > 0 {
		t.wanted = reference / v
	}
	return t
}

func atLeast(v float64, u unit, reference float64) target {
	t := target{text: ">= " + u.format(v), limit: func(medians) float64 { return v }}
	if reference > 0 {
		t.wanted = v / reference
	}
	return t
}

func timesFloor(f float64, row string) target {
	return target{
		text:  fmt.Sprintf("<= %.4g x floor", f),
		limit: func(m medians) float64 { return f * m(row, floor) },
	}
}

// twoTrips: the local figure of ours and two round trips.
func twoTrips(local string) target {
	return target{
		text:  "<= local + 2 round trips",
		limit: func(m medians) float64 { return m(local, ours) + 2*roundTrip.Seconds() },
	}
}

func fasterThanC(row string) target {
	return target{text: "< CPython", limit: func(m medians) float64 { return m(row, cpython) }}
}

// reached compares ours with the target; known is false if a figure is missing.
func (r *row) reached(m medians) (ok, known bool) {
	if r.target.limit == nil {
		return false, false
	}
	got, limit := m(r.name, ours), r.target.limit(m)
	if math.IsNaN(got) || math.IsNaN(limit) {
		return false, false
	}
	if r.higher {
		return got >= limit, true
	}
	return got <= limit, true
}

// importedPackages are the packages whose import is measured.
var importedPackages = []struct{ short, name string }{
	{"django", "django.db.models"}, {"sqlalchemy", "sqlalchemy.orm"}, {"jinja2", "jinja2"},
}

func tableRows() []*row {
	rows := []*row{}
	for _, v := range []string{"2.7", "3.6", "3.11", "3.13", "3.15"} {
		name := "connect-" + v
		connect := &row{name: name, what: "connect to a local child, " + v, spec: name, metric: "seconds", unit: unitSeconds}
		if v != "3.6" {
			connect.target = timesFloor(2.2, name)
		}
		rows = append(rows, connect,
			&row{name: name + "-ready", what: "the same and its first call", spec: name, metric: "ready_seconds", unit: unitSeconds})
	}
	rows = append(rows, []*row{
		{name: "process", what: "whole program: start, connect, one call, end", spec: "process", metric: "seconds", unit: unitSeconds},
		{name: "process-cpu", what: "its CPU, children included", spec: "process", metric: "cpu", unit: unitSeconds},
		{name: "warm", what: "the same beside a running daemon (floor: mitogend version)", spec: "warm", metric: "seconds", unit: unitSeconds,
			target: timesFloor(2, "warm")},
		{name: "concurrent-cpu", what: "CPU of 100 concurrent connects, children's whole life included", spec: "concurrent-100",
			metric: "cpu", unit: unitSeconds, target: atMost(3, unitSeconds, 10.5)},
		{name: "concurrent", what: "their wall time until all are connected", spec: "concurrent-100", metric: "seconds", unit: unitSeconds},
		{name: "connect-cpu", what: "master CPU per connect", spec: "connect-3.11", metric: "master_cpu", unit: unitSeconds,
			target: atMost(1.5e-3, unitSeconds, 4.1e-3)},
		{name: "payload", what: "bootstrap payload, compressed", spec: "payload", metric: "bytes", unit: unitBytes,
			target: atMost(8000, unitBytes, 17_700)},
		{name: "payload-args", what: "the command line that reads it", spec: "payload", metric: "args_bytes", unit: unitBytes},
		{name: "memory", what: "child's memory (RSS) after its first call", spec: "memory", metric: "rss", unit: unitBytes,
			target: atMost(13e6, unitBytes, 20e6)},
		{name: "call", what: "call round trip, pinned", spec: "calls", metric: "seconds", unit: unitSeconds,
			target: atMost(25e-6, unitSeconds, 100e-6)},
		{name: "call-cpu", what: "master CPU per 10,000 calls", spec: "calls", metric: "cpu_10k", unit: unitSeconds,
			target: atMost(0.1, unitSeconds, 0.775)},
		{name: "pipeline", what: "pipelined calls, pinned", spec: "pipeline", metric: "per_second", unit: unitPerSec, higher: true,
			target: atLeast(60_000, unitPerSec, 21_500)},
		{name: "fanout-200", what: "one call to each of 200 children", spec: "fanout-200", metric: "seconds", unit: unitSeconds,
			target: atMost(15e-3, unitSeconds, 50e-3)},
		{name: "argument", what: "64 MB argument", spec: "bulk", metric: "arg_rate", unit: unitRate, higher: true,
			target: atLeast(500e6, unitRate, 160e6)},
		{name: "result", what: "64 MB result", spec: "bulk", metric: "result_rate", unit: unitRate, higher: true,
			target: atLeast(500e6, unitRate, 131e6)},
		{name: "route", what: "child A to child B through the master, 64 KB messages", spec: "route", metric: "rate", unit: unitRate,
			higher: true, target: atLeast(250e6, unitRate, 70e6)},
		{name: "route-sender", what: "peak memory of A meanwhile", spec: "route", metric: "sender_peak", unit: unitBytes,
			target: atMost(100e6, unitBytes, 790e6)},
		{name: "route-master", what: "peak memory of the master meanwhile", spec: "route", metric: "master_peak", unit: unitBytes,
			target: atMost(100e6, unitBytes, 0)},
		{name: "file", what: "256 MB file to a child", spec: "file", metric: "rate", unit: unitRate, higher: true,
			target: atLeast(650e6, unitRate, 90e6)},
		{name: "file-cpu", what: "master CPU per GB of it", spec: "file", metric: "cpu_gb", unit: unitSeconds,
			target: atMost(0.5, unitSeconds, 8)},
	}...)
	for _, p := range importedPackages {
		name := "import-" + p.short
		rows = append(rows,
			&row{name: name, what: "cold import " + p.name + ", local (floor: disk without .pyc)", spec: name, metric: "seconds",
				unit: unitSeconds, target: timesFloor(1.15, name)},
			&row{name: name + "-warm", what: "the same in a second child (floor: disk with .pyc)", spec: name,
				metric: "warm_seconds", floor: "pyc_seconds", unit: unitSeconds},
			&row{name: name + "-requests", what: "GET_MODULE requests of the cold one", spec: name, metric: "get_modules", unit: unitCount},
			&row{name: name + "-delayed", what: "the same at 100 ms round trip (floor: plus one)", spec: name + "-delayed",
				metric: "seconds", unit: unitSeconds, target: twoTrips(name)},
			&row{name: name + "-ssh", what: "the same over ssh to loopback (floor: disk with .pyc)", spec: name + "-ssh", metric: "seconds",
				floor: "pyc_seconds", unit: unitSeconds},
			&row{name: name + "-ssh-warm", what: "the same in a second child (floor: disk with .pyc)", spec: name + "-ssh",
				metric: "warm_seconds", floor: "pyc_seconds", unit: unitSeconds})
	}
	rows = append(rows,
		&row{name: "idle", what: "memory of the master per idle child", spec: "idle", metric: "bytes", unit: unitBytes,
			target: atMost(40_000, unitBytes, 0)},
		&row{name: "idle-fds", what: "descriptors of the master per idle child", spec: "idle", metric: "descriptors", unit: unitCount,
			target: atMost(2, unitCount, 0)})
	for _, v := range otherVersions {
		rows = append(rows,
			&row{name: "memory-" + v, what: "child's memory (RSS), " + v, spec: "memory-" + v, metric: "rss", unit: unitBytes},
			&row{name: "call-" + v, what: "call round trip, pinned, " + v, spec: "calls-" + v, metric: "seconds", unit: unitSeconds},
			&row{name: "argument-" + v, what: "64 MB argument, " + v, spec: "bulk-" + v, metric: "arg_rate", unit: unitRate, higher: true},
			&row{name: "result-" + v, what: "64 MB result, " + v, spec: "bulk-" + v, metric: "result_rate", unit: unitRate, higher: true})
	}
	rows = append(rows, bytecodeRows()...)
	rows = append(rows, stockRows()...)
	rows = append(rows, copyRows()...)
	return append(rows, codecRows()...)
}

func codecRows() []*row {
	var rows []*row
	for _, d := range pickled {
		for _, way := range []string{"loads", "dumps"} {
			name := "codec-" + way + "-" + d.name
			rows = append(rows, &row{name: name, what: way + " " + d.what, spec: "codec", metric: way + "_" + d.name,
				unit: unitSeconds, target: fasterThanC(name)})
		}
	}
	return rows
}
