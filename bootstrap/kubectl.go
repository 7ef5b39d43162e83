package bootstrap

import (
	"errors"
	"strings"
)

var kubectlMethod = &Method{
	Name: "kubectl",
	Spec: "POD, or KIND/NAME",
	Doc:  "a container of a Kubernetes pod by kubectl exec",
	Args: []Arg{
		{"pod", Text, "the pod, or KIND/NAME, of which kubectl takes the first pod"},
		{"container", Text, "the container in the pod (default: the pod's default one)"},
		{"namespace", Text, "the pod's namespace (default: the current one)"},
		{"kube_context", Text, "the context in kubeconfig (default: the current one)"},
		{"kubectl_path", Text, "the program (default kubectl)"},
		{"kubectl_args", Words, "further options, before the pod"},
	},
	spec: func(spec string, opts map[string]any) error {
		if strings.HasPrefix(spec, "-") {
			return errors.New("the pod begins with a dash")
		}
		if spec != "" {
			opts["pod"] = spec
		}
		return nil
	},
	plan: func(o *options, b Boot) (*Plan, error) {
		pod, in := o.need("pod", "pod"), o.interpreter()
		argv := []string{o.textOr("kubectl_path", "kubectl")}
		if b.Mitogen {
			// kubectl gives no terminal where it has none.
			argv = append(append(argv, o.words("kubectl_args")...), "exec", "-it", pod, "--")
			return containerPlan("kubectl "+pod, argv, in, b, kubectlFailures), nil
		}
		argv = append(argv, "exec", "--stdin")
		for _, x := range [][2]string{{"kube_context", "--context="}, {"namespace", "--namespace="}, {"container", "--container="}} {
			if v := o.word(x[0]); v != "" {
				argv = append(argv, x[1]+v)
			}
		}
		argv = append(append(argv, o.words("kubectl_args")...), pod, "--")
		return containerPlan("kubectl "+pod, argv, in, b, kubectlFailures), nil
	},
}

var kubectlFailures = []Failure{
	{Pattern: `(?i)pods? "?[^ ]*"? not found|error from server \(NotFound\)`, Reason: "there is no such pod", Hint: "kubectl get pods; is the namespace right?"},
	{Pattern: `(?i)container .* (is not valid for pod|not found in pod)|a container name must be specified`, Hint: "name one of the pod's containers: container=NAME"},
	{Pattern: `(?i)container not found|cannot exec (in|into) .* (not running|completed)|current phase is (succeeded|failed)|does not have a host assigned`, Reason: "the pod's container is not running", Hint: "kubectl describe pod"},
	{Pattern: `(?i)connection to the server .* (was refused|has timed out)|unable to connect to the server|no such host`, Reason: "the cluster does not answer", Hint: "kubectl cluster-info"},
	{Pattern: `(?i)you must be logged in|unauthorized|forbidden|credentials`, Reason: "the cluster does not allow it", Hint: "kubectl auth can-i create pods/exec"},
	{Pattern: `(?i)context .* does not exist|no configuration has been provided|current-context is not set|error loading config`, Reason: "kubectl has no usable configuration", Hint: "check KUBECONFIG and kube_context"},
	{Pattern: `(?i)unable to upgrade connection|error dialing backend`, Hint: "the cluster's kubelet refuses exec: look at the node"},
}
