package bootstrap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var dockerMethod = &Method{
	Name: "docker",
	Spec: "CONTAINER",
	Doc:  "a running container by docker exec, or a new one of an image by docker run",
	Args: []Arg{
		{"container", Text, "name or id of a running container"},
		{"image", Text, "in place of container: an image, of which a container is made and removed afterwards"},
		{"username", Text, "user (and group, USER:GROUP) in the container (default: the image's)"},
		{"docker_path", Text, "the program (default docker)"},
	},
	spec: containerSpec,
	plan: planDocker,
}

var podmanMethod = &Method{
	Name: "podman",
	Spec: "CONTAINER",
	Doc:  "a running container by podman exec",
	Args: []Arg{
		{"container", Text, "name or id of a running container"},
		{"username", Text, "user in the container (default: the image's)"},
		{"podman_path", Text, "the program (default podman)"},
	},
	spec: containerSpec,
	plan: func(o *options, b Boot) (*Plan, error) {
		name, in := o.need("container", "container"), o.interpreter()
		argv := []string{o.textOr("podman_path", "podman"), "exec"}
		if user := o.word("username"); user != "" {
			argv = append(argv, "--user="+user)
		}
		return containerPlan("podman "+name, append(argv, "--interactive", "--", name), in, b, engineFailures), nil
	},
}

var buildahMethod = &Method{
	Name: "buildah",
	Spec: "CONTAINER",
	Doc:  "a working container by buildah run",
	Args: []Arg{
		{"container", Text, "name or id of a working container"},
		{"username", Text, "user in the container (default: the image's)"},
		{"buildah_path", Text, "the program (default buildah)"},
	},
	spec: containerSpec,
	plan: func(o *options, b Boot) (*Plan, error) {
		name, in := o.need("container", "container"), o.interpreter()
		argv := []string{o.textOr("buildah_path", "buildah"), "run"}
		if user := o.word("username"); user != "" {
			argv = append(argv, "--user="+user)
		}
		return containerPlan("buildah "+name, append(argv, "--", name), in, b, engineFailures), nil
	},
}

// containerSpec reads the name of a container.
func containerSpec(spec string, opts map[string]any) error {
	if strings.HasPrefix(spec, "-") {
		return fmt.Errorf("the container %q begins with a dash", spec)
	}
	if spec != "" {
		opts["container"] = spec
	}
	return nil
}

func planDocker(o *options, b Boot) (*Plan, error) {
	name, image := o.word("container"), o.word("image")
	in := o.interpreter()
	argv := []string{o.textOr("docker_path", "docker")}
	label := "docker " + name
	switch {
	case (name == "") == (image == ""):
		return nil, errors.New("exactly one of container and image must be given")
	case image != "":
		argv = append(argv, "run", "--interactive")
		name, label = image, "docker image "+image
	default:
		argv = append(argv, "exec", "--interactive")
	}
	if user := o.word("username"); user != "" {
		argv = append(argv, "--user="+user)
	}
	if image != "" {
		argv = append(argv, "--rm")
	}
	return containerPlan(label, append(argv, name), in, b, engineFailures), nil
}

// containerPlan is what the programs have in common that run a command inside of something: they ask nothing, and need no
// terminal. Mitogen merges their stderr into the data; kept apart, a warning of theirs cannot get between two frames.
func containerPlan(label string, argv []string, in interpreter, b Boot, failures []Failure) *Plan {
	return &Plan{
		Label:    label,
		Argv:     append(argv, in.argv(b, false)...),
		Stdio:    Socketpair,
		Failures: slices.Concat(failures, in.failures()),
		Hint:     byHand(argv, "true"),
	}
}

// engineFailures are the messages of docker, podman and buildah.
var engineFailures = []Failure{
	{Pattern: `(?i)no such container|no container with (name|id)|container not known|no such working container`, Reason: "there is no such container", Hint: "docker ps -a, podman ps -a or buildah containers shows which there are"},
	{Pattern: `(?i)is not running|container state improper|only create exec sessions on running|has already been stopped`, Reason: "the container is stopped", Hint: "start it"},
	{Pattern: `(?i)is paused`, Reason: "the container is paused", Hint: "unpause it"},
	{Pattern: `(?i)is restarting`, Reason: "the container restarts again and again", Hint: "look at its log"},
	{Pattern: `(?i)cannot connect to the docker daemon|cannot connect to podman|is the docker daemon running`, Reason: "the container engine does not answer", Hint: "is it running, and is DOCKER_HOST right?"},
	{Pattern: `(?i)permission denied while trying to connect|dial unix .*: permission denied`, Reason: "this user may not talk to the container engine", Hint: "add the user to the group docker, or go through sudo first: sudo:+docker:NAME"},
	{Pattern: `(?i)unable to find user|no matching entries in passwd|unknown user`, Reason: "there is no such user in the container", Hint: "check username"},
	{Pattern: `(?i)pull access denied|manifest unknown|no such image|repository .*not found|failed to resolve reference|Error response from daemon: Get "?http`, Reason: "the image is not here and cannot be had", Hint: "docker images shows which there are"},
}
