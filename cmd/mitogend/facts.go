package main

import (
	"context"
	"encoding/json"

	"mitogend/daemon"
)

// facts are what facts.py can tell, in the order in which they are shown, each with its meaning.
var facts = []struct{ name, what string }{
	{"system", "Linux, Darwin ..."}, {"kernel", "its release"}, {"machine", "x86_64, aarch64 ..."}, {"hostname", ""},
	{"distribution", "debian, ubuntu, rhel, alpine ... (ID of os-release)"}, {"distribution_version", "12, 22.04 ..."},
	{"distribution_name", "as people read it"}, {"distribution_like", "a list of those that it comes from"},
	{"cpus", "how many are online"}, {"cpu", "the model"}, {"load", "of 1, 5 and 15 minutes"},
	{"memory", "in bytes"}, {"memory_available", "in bytes"}, {"swap", "in bytes"}, {"uptime", "in seconds"},
	{"disks", "a list of mount, device, filesystem, size and free (bytes; null for those of other machines and FUSE)"},
	{"addresses", "IP addresses by interface"},
	{"package_manager", "apt, dnf, apk ..."}, {"service_manager", "systemd, openrc, sysvinit, runit, s6, dinit; null for none of these"}, {"container", "docker, podman, lxc ...; null for none"},
	{"python", "the version that runs there"}, {"python_executable", ""}, {"pythons", "interpreters on the path"},
	{"user", "who one is there"}, {"uid", ""},
}

// factsFunction is the function that gives facts.
const factsFunction = "mitogen.facts:collect"

func isFact(name string) bool {
	for _, f := range facts {
		if f.name == name {
			return true
		}
	}
	return false
}

// askFacts gives the named facts of a target as a JSON object. No name means all.
func askFacts(ctx context.Context, j *job, names []string) (json.RawMessage, error) {
	var args []any
	if len(names) > 0 {
		list := make([]any, len(names))
		for i, name := range names {
			list[i] = name
		}
		args = []any{list}
	}
	v, err := j.child.CallWith(ctx, daemon.CallOptions{Convert: daemon.ConvertResult}, factsFunction, args...).Value()
	if err != nil {
		return nil, err
	}
	return resultJSON(v, j.python == 2)
}
