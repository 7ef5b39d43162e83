package unixclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/pyproto"
)

// onCall is the daemon's handler for CALL_FUNCTION of context 0. Only clients may call, and only _proxy_connect.
func (s *Server) onCall(in *daemon.Incoming) {
	c := s.client(in.Src)
	if c == nil || in.Auth != 0 || in.IsDead() {
		in.Refuse("invalid handle")
		return
	}
	call, err := pyproto.ParseCall(in.Payload)
	if err != nil {
		_ = in.Reply(&pyproto.CallError{Text: "mitogen.core.StreamError: " + err.Error() + "\n"})
		return
	}
	if call.Module == "mitogend" && call.Function == "own_services" {
		c.ownServices.Store(true)
		_ = in.Reply(nil)
		return
	}
	if call.Module != "mitogen.parent" || call.Class != "" || call.Function != "_proxy_connect" {
		_ = in.Reply(&pyproto.CallError{Text: fmt.Sprintf(
			"mitogen.core.StreamError: the daemon runs no code of its clients; %s.%s has to be called in a child\n",
			call.Module, call.Function)})
		return
	}
	select {
	case c.slot <- struct{}{}:
	default:
		c.reply(in, pyproto.Context{}, fmt.Errorf("%d connects are under way", cap(c.slot)), nil)
		return
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer func() { <-c.slot }()
		c.connect(in, call)
	}()
}

// connect answers one _proxy_connect.
func (c *client) connect(in *daemon.Incoming, call *pyproto.Call) {
	<-c.up
	q, err := parseConnect(call)
	if err != nil {
		_ = in.Reply(&pyproto.CallError{Text: err.Error() + "\n"})
		return
	}
	child, err := c.start(q)
	var unknown *bootstrap.Error
	if errors.As(err, &unknown) && unknown.Step == bootstrap.StepOptions &&
		strings.Contains(unknown.Reason, "takes no argument") {
		// Mitogen raises what its class's constructor does.
		_ = in.Reply(&pyproto.CallError{Text: "builtins.TypeError: " + unknown.Reason + "\n"})
		return
	}
	if err != nil {
		c.s.log.Info("a client's connect has failed", zap.Int("pid", c.pid), zap.String("method", q.method), zap.Error(err))
		c.reply(in, pyproto.Context{}, err, q)
		return
	}
	if !c.add(child) {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		_ = child.Close(ctx)
		return
	}
	c.reply(in, pyproto.Context{ID: child.ID(), Name: q.contextName(child.PID())}, nil, q)
}

// watch forgets a child that is gone.
func (c *client) watch(child *daemon.Child) {
	select {
	case <-child.Done():
		c.mu.Lock()
		delete(c.children, child.ID())
		c.mu.Unlock()
		c.s.own(child.ID(), nil)
		c.modules.forget(child.ID())
		c.resources.forget(child)
	case <-c.ctx.Done():
	}
}

// reply says what came of a connect, as Mitogen's own function does.
func (c *client) reply(in *daemon.Incoming, made pyproto.Context, err error, q *request) {
	answer := map[string]any{"id": nil, "name": nil, "msg": nil}
	if err == nil {
		answer["id"], answer["name"] = int64(made.ID), made.Name
	} else {
		host, _ := os.Hostname()
		answer["msg"] = "error occurred on host " + host + ": " + message(err, q)
	}
	_ = in.Reply(answer)
}

// request is a _proxy_connect.
type request struct {
	name, method string
	args         map[string]any
}

// parseConnect reads the call. The error is worded as the exception that Mitogen raises there.
func parseConnect(call *pyproto.Call) (*request, error) {
	q := &request{args: map[string]any{}}
	var ok bool
	for i, key := range []string{"name", "method_name", "kwargs"} {
		v, given := call.Kwargs.Get(key)
		if !given && i < len(call.Args) {
			v, given = call.Args[i], true
		}
		if !given {
			return nil, fmt.Errorf(
				"builtins.TypeError: _proxy_connect() missing 1 required positional argument: '%s'", key)
		}
		switch key {
		case "name":
			if q.name, ok = pyproto.Text(v); !ok && v != nil {
				return nil, errors.New("builtins.TypeError: name= has to be text")
			}
		case "method_name":
			if q.method, ok = pyproto.Text(v); !ok {
				return nil, errors.New("builtins.TypeError: method_name= has to be text")
			}
		case "kwargs":
			if err := q.setArgs(v); err != nil {
				return nil, err
			}
		}
	}
	if !known(q.method) {
		return nil, fmt.Errorf("builtins.ModuleNotFoundError: No module named 'mitogen.%s'", q.method)
	}
	return q, nil
}

func (q *request) setArgs(v any) error {
	switch kw := v.(type) {
	case pyproto.Kwargs:
		for _, a := range kw {
			q.args[a.Name] = value(a.Value)
		}
	case *pyproto.Dict:
		for k, x := range kw.All() {
			name, ok := pyproto.Text(k)
			if !ok {
				return errors.New("builtins.TypeError: keywords must be strings")
			}
			q.args[name] = value(x)
		}
	default:
		return errors.New("builtins.TypeError: kwargs= has to be a dict")
	}
	return nil
}

// value turns what a client sends into what package bootstrap takes.
func value(v any) any {
	switch x := v.(type) {
	case pyproto.Secret:
		return bootstrap.Secret(x)
	case []byte:
		return string(x)
	case pyproto.Blob:
		return string(x)
	case pyproto.Tuple:
		return value([]any(x))
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = value(x[i])
		}
		return out
	}
	return v
}

// known tells whether there is a method of that name. Processes of a client are not forked here: fork is a fresh
// interpreter.
func known(method string) bool {
	if method == "fork" {
		return true
	}
	for _, m := range bootstrap.Methods() {
		if m.Name == method {
			return true
		}
	}
	return false
}

// start connects the child.
func (c *client) start(q *request) (*daemon.Child, error) {
	runtime, python, err := c.runtime()
	if err != nil {
		return nil, err
	}
	method := q.method
	if method == "fork" {
		method = "local"
	}
	args := map[string]any{}
	for k, v := range q.args {
		if v != nil {
			args[k] = v
		}
	}
	if p, ok := args["password"].(string); ok {
		args["password"] = bootstrap.Secret(p)
	}
	guessed := false
	if args["python_path"] == nil && args["python"] == nil && len(python) > 0 {
		guessed = !sameMachine(method)
		args["python_path"] = defaultPython(method, python)
	}
	level, _ := args["log_level"].(int64)
	delete(args, "log_level")
	overrides, blocks := names(args, "mitogend_overrides"), names(args, "mitogend_blocks")
	dir, env, err := surroundings(args)
	if err != nil {
		return nil, err
	}
	name := q.name
	if name == "" {
		name = q.contextName(0)
	}
	opt := daemon.ConnectOptions{
		Name: name, Runtime: runtime, LogTo: c.id, Miss: c.modules.want, MissResource: c.resources.want,
		StockLevel: int(level), StockOverrides: overrides, StockBlocks: blocks, AsMitogen: true, Dir: dir, Env: env,
	}
	child, err := c.s.d.ConnectArgs(c.ctx, method, args, opt)
	var failed *bootstrap.Error
	if guessed && errors.As(err, &failed) && failed.NoPython {
		// The interpreter that Mitogen names is not there. Another may be.
		delete(args, "python_path")
		if other, e := c.s.d.ConnectArgs(c.ctx, method, args, opt); e == nil {
			return other, nil
		}
	}
	return child, err
}

// names takes a list of text out of args.
func names(args map[string]any, key string) (list []string) {
	values, _ := args[key].([]any)
	delete(args, key)
	for _, v := range values {
		if s, ok := v.(string); ok {
			list = append(list, s)
		}
	}
	return list
}

// surroundings takes the working directory and the environment out of args. A program under `mitogend master` sends
// its own, as they are at that time.
func surroundings(args map[string]any) (dir string, env []string, err error) {
	dir, _ = args["mitogend_dir"].(string)
	list, _ := args["mitogend_env"].([]any)
	delete(args, "mitogend_dir")
	delete(args, "mitogend_env")
	for _, v := range list {
		s, _ := v.(string)
		if strings.Index(s, "=") < 1 || strings.Contains(s, "\x00") {
			return "", nil, errors.New("unixclient: an environment variable of the program cannot be passed on")
		}
		env = append(env, s)
	}
	return dir, env, nil
}

// defaultPython is the command that Mitogen takes where none is named: the client's own interpreter, but for some
// methods whatever is called python.
func defaultPython(method string, own []string) []any {
	switch method {
	case "ssh", "lxd", "incus", "setns":
		return []any{"python"}
	}
	words := make([]any, len(own))
	for i, w := range own {
		words[i] = w
	}
	return words
}

func sameMachine(method string) bool {
	switch method {
	case "local", "sudo", "su", "doas":
		return true
	}
	return false
}

// contextName is the name that Mitogen gives the context.
func (q *request) contextName(pid int) string {
	arg := func(key, def string) string {
		if s, ok := pyproto.Text(q.args[key]); ok && s != "" {
			return s
		}
		return def
	}
	switch {
	case q.name != "":
		return q.name
	case arg("name", "") != "":
		return arg("name", "")
	}
	switch q.method {
	case "ssh":
		host := "ssh." + arg("hostname", "")
		if port := fmt.Sprint(q.args["port"]); q.args["port"] != nil && port != "22" {
			host += ":" + port
		}
		return host
	case "sudo", "su", "doas":
		return q.method + "." + arg("username", "root")
	case "docker":
		return "docker." + arg("container", arg("image", ""))
	case "kubectl":
		words := make([]string, 0, 4)
		if list, ok := q.args["kubectl_args"].([]any); ok {
			for _, w := range list {
				words = append(words, "'"+fmt.Sprint(w)+"'")
			}
		}
		return "kubectl." + arg("pod", "") + "[" + strings.Join(words, ", ") + "]"
	case "buildah", "podman", "jail", "lxc", "lxd", "incus", "setns":
		return q.method + "." + arg("container", "")
	}
	return q.method + "." + strconv.Itoa(pid)
}

// deniedWithPassword tells whether ssh has said that a password would do.
func deniedWithPassword(output []string) bool {
	return slices.ContainsFunc(output, func(line string) bool {
		line = strings.ToLower(line)
		return strings.Contains(line, "permission denied") && strings.Contains(line, "password")
	})
}

// message words a failure as Mitogen's own connection classes do, since programs compare with their texts.
func message(err error, q *request) string {
	var e *bootstrap.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	who := ""
	if q != nil {
		who = q.method
	}
	if who == "ssh" {
		who = "SSH"
	}
	reason := e.Reason
	unasked := strings.Contains(reason, "it gets none") // for a password that was given
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(reason, w) {
				return true
			}
		}
		return false
	}
	refused := has("refused the password", "password was refused") ||
		q != nil && q.method == "su" && has("let nobody in")
	wanted := has("asks for a password") || who == "SSH" && q.args["password"] == nil && deniedWithPassword(e.Output)
	switch {
	case e.TimedOut:
		return "Connection timed out."
	case e.Step == bootstrap.StepOptions, unasked:
		return reason
	case e.Step == bootstrap.StepProgram:
		if errors.Is(e.Err, exec.ErrNotFound) {
			program, _, _ := strings.Cut(reason, ":")
			reason = "[Errno 2] No such file or directory: '" + program + "'"
		}
		return "Child start failed: " + reason + ". Command was: " + e.Label
	case refused && who == "SSH":
		return "SSH password is incorrect"
	case refused:
		return who + " password is incorrect"
	case wanted && who == "SSH":
		return "SSH password was requested, but none specified"
	case wanted:
		return who + " password is required"
	case who == "SSH" && has("host key"):
		return "Host key checking is enabled, and SSH reported an unrecognized or mismatching host key."
	case who == "SSH" && has("ermission denied", "refused every", "no key"):
		return "SSH authentication is incorrect"
	case e.Step == bootstrap.StepStage && len(e.Output) == 0:
		return reason // it was refused from here: the interpreter is too new for this Mitogen, say
	}
	return "EOF on stream; last 100 lines received:\n" + strings.Join(e.Output, "\n")
}
