package bootstrap

import (
	"fmt"
	"slices"
	"strings"
)

var setnsMethod = &Method{
	Name: "setns",
	Spec: "KIND/CONTAINER",
	Doc:  "the namespaces of a running container, by nsenter and without its engine's exec; needs root",
	Args: []Arg{
		{"kind", Text, "docker, podman, lxc, lxd, incus or machinectl: who knows the container's first process"},
		{"container", Text, "its name"},
		{"username", Text, "user in the container (default root)"},
		{"docker_path", Text, "the program (default docker)"},
		{"podman_path", Text, "the program (default podman)"},
		{"lxc_path", Text, "LXD's client (default lxc)"},
		{"lxc_info_path", Text, "the program (default lxc-info)"},
		{"incus_path", Text, "the program (default incus)"},
		{"machinectl_path", Text, "the program (default machinectl)"},
		{"nsenter_path", Text, "the program, of util-linux (default nsenter)"},
	},
	spec: func(spec string, opts map[string]any) error {
		kind, name, ok := strings.Cut(spec, "/")
		if !ok || kind == "" || name == "" {
			return fmt.Errorf("%q is no KIND/CONTAINER", spec)
		}
		opts["kind"] = kind
		return containerSpec(name, opts)
	},
	plan: planSetns,
}

// leaderOf gives, by kind, the argument that names the program, its default, and the script that prints the number of the
// container's first process: $1 is the program, $2 the container.
var leaderOf = map[string][3]string{
	"docker":     {"docker_path", "docker", `"$1" inspect "--format={{.State.Pid}}" "$2"`},
	"podman":     {"podman_path", "podman", `"$1" inspect "--format={{.State.Pid}}" "$2"`},
	"lxc":        {"lxc_info_path", "lxc-info", `"$1" --name "$2" --pid --no-humanize`},
	"lxd":        {"lxc_path", "lxc", `"$1" info "$2" | sed -n "s/^ *[Pp][Ii][Dd]: *//p"`},
	"incus":      {"incus_path", "incus", `"$1" info "$2" | sed -n "s/^ *[Pp][Ii][Dd]: *//p"`},
	"machinectl": {"machinectl_path", "machinectl", `"$1" show --property=Leader "$2" | sed "s/^Leader=//"`},
}

// askedByMitogen has the scripts that differ where Mitogen asks.
var askedByMitogen = map[string]string{
	"lxc":        `"$1" -n "$2" | sed -n "s/^PID: *//p"`,
	"machinectl": `"$1" status "$2" | sed -n "s/^ *Leader: *\([0-9]*\).*/\1/p"`,
}

// setnsScript enters all namespaces of that process, its root and its working directory. Its user namespace is entered only when
// it is another one, since the kernel refuses one's own; the user's ids are from the container's own passwd.
const setnsScript = `p=$(%s) || exit 1
case $p in ""|0|*[!0-9]*) echo "setns: $2 is not running" >&2; exit 1;; esac
n=$3 u=$4; shift 4
set -- --target "$p" --mount --uts --ipc --net --pid --root --wd -- "$@"
[ "$(readlink /proc/self/ns/user)" = "$(readlink /proc/$p/ns/user)" ] || set -- --user "$@"
[ -z "$u" ] || {
	i=$("$n" --target "$p" --mount --root -- id -u "$u") && g=$("$n" --target "$p" --mount --root -- id -g "$u") || exit 1
	set -- --setuid "$i" --setgid "$g" "$@"
}
exec "$n" "$@"`

func planSetns(o *options, b Boot) (*Plan, error) {
	name, user, in := o.need("container", "container"), o.word("username"), o.interpreter()
	kind := o.text("kind")
	leader, ok := leaderOf[kind]
	if !ok {
		return nil, argErrorf("kind", "%q is none of %s", kind, strings.Join(sortedKeys(leaderOf), ", "))
	}
	if b.Mitogen && askedByMitogen[kind] != "" {
		leader[2] = askedByMitogen[kind]
	}
	argv := []string{"sh", "-c", fmt.Sprintf(setnsScript, leader[2]), "setns",
		o.textOr(leader[0], leader[1]), name, o.textOr("nsenter_path", "nsenter"), user}
	p := containerPlan("setns "+name, argv, in, b, slices.Concat(setnsFailures, engineFailures, lxcFailures))
	p.Hint = "nsenter --target PID --all, with the number of the container's first process, as root"
	return p, nil
}

var setnsFailures = []Failure{
	{Pattern: `setns: .* is not running|No machine .* known`, Reason: "there is no such container, or it is stopped", Hint: "start it"},
	{Pattern: `(?i)nsenter: .*(operation not permitted|permission denied)|reassociate to namespace`, Reason: "only root may enter a container's namespaces", Hint: "go through sudo first: sudo:+setns:KIND/NAME"},
	{Pattern: `(?i)nsenter: .*(unrecognized|invalid|unknown) option|nsenter: not found`, Reason: "nsenter is missing or is not util-linux's", Hint: "install util-linux there, or give nsenter_path"},
	{Pattern: `no such user`, Reason: "there is no such user in the container", Hint: "check username"},
}
