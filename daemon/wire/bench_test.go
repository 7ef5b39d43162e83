package wire

import (
	"fmt"
	"testing"

	"mitogend/pyproto"
)

// BenchmarkMessages is what a client and the daemon do for one request: both write a message, and both read one.
func BenchmarkMessages(b *testing.B) {
	var env, hosts []string
	for i := range 60 {
		env = append(env, fmt.Sprintf("VARIABLE_%d=some value of it, %d", i, i))
	}
	vars := map[int][]byte{}
	args := map[int][]string{}
	for i := range 200 {
		hosts = append(hosts, fmt.Sprintf("ssh:web%d+sudo:root", i))
		vars[i], args[i] = []byte(`{"known": {"a": 1}}`), []string{"--number", fmt.Sprint(i)}
	}
	dict := pyproto.NewDict(0)
	for i := range 40 {
		_ = dict.Set(fmt.Sprintf("key %d", i), pyproto.Tuple{int64(i), float64(i), "text", []any{nil, true}})
	}
	call := &Call{Function: "m:f", Exact: true}
	call.Args.V = []any{int64(1), "two", dict}
	connect := &Connect{}
	connect.Target.Target, connect.Env, connect.Python = "ssh:web1", env, []string{"python3", "python"}
	run := &RunMany{Run: Run{Path: "p.py", Script: make([]byte, 4000), Argv: hosts, Env: env}, TargetArgv: args, TargetHostVars: vars}
	items := &Items{Stream: 7}
	for i := range 100 {
		items.Items = append(items.Items, Item{Kind: ItemResult, Target: i, State: "ok", Seconds: 0.25, Value: &Value{V: dict}})
	}
	for _, row := range []struct {
		name           string
		params, result any
		gotp, gotr     func() any
	}{
		{"call", call, &Value{V: dict}, func() any { return &Call{} }, func() any { return &Value{} }},
		{"connect", connect, &Connected{}, func() any { return &Connect{} }, func() any { return &Connected{} }},
		{"run_many", run, items, func() any { return &RunMany{} }, func() any { return &Items{} }},
	} {
		b.Run(row.name, func(b *testing.B) {
			for b.Loop() {
				req, err := NewRequest(nil, 1, row.name, row.params)
				if err != nil {
					b.Fatal(err)
				}
				m, err := Parse(req)
				if err == nil {
					err = Unmarshal(m.Params, row.gotp())
				}
				if err != nil {
					b.Fatal(err)
				}
				resp, err := NewResponse(1, nil, row.result)
				if err != nil {
					b.Fatal(err)
				}
				if m, err = Parse(resp); err == nil {
					err = UnmarshalShared(m.Result, row.gotr())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
