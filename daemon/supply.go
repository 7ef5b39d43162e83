package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"mitogend/bootstrap"
	"mitogend/bootstrap/builds"
	"mitogend/pyproto"
)

// PythonFrom has Python be sent to targets that have none. Keys of the target (python_from, python_dir, keep_python)
// win over it.
type PythonFrom struct {
	// Builds are directories and tar files on this machine; see package builds. If there are none, nothing is sent.
	Builds []string
	// Dir is an absolute path on the target to unpack in; empty means a directory in memory.
	Dir string
	// Keep leaves it there for the next child.
	Keep bool
}

// args sets the keys that the target does not.
func (p PythonFrom) args(args map[string]any) {
	if len(p.Builds) > 0 && args["python_from"] == nil {
		args["python_from"] = p.Builds
	}
	if p.Dir != "" && args["python_dir"] == nil {
		args["python_dir"] = p.Dir
	}
	if p.Keep && args["keep_python"] == nil {
		args["keep_python"] = true
	}
}

// supplies has the sets of builds that were opened, by their places.
type supplies struct {
	// mu protects m. Nothing is locked under it.
	mu sync.Mutex
	m  map[string]*builds.Set
}

// maxSets bounds supplies.m. At the bound the table is emptied.
const maxSets = 100

func (s *supplies) open(places []string) (*builds.Set, error) {
	key := fmt.Sprintf("%q", places)
	s.mu.Lock()
	set := s.m[key]
	s.mu.Unlock()
	if set != nil {
		return set, nil
	}
	set, err := builds.Open(places)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || len(s.m) >= maxSets {
		s.m = map[string]*builds.Set{}
	}
	if other := s.m[key]; other != nil {
		return other, nil
	}
	s.m[key] = set
	return set, nil
}

// supply is what can be sent to a target without Python; nil for nothing.
func (d *Daemon) supply(s step) (*bootstrap.Supply, error) {
	places, dir, keep, err := bootstrap.SupplyOptions(s.args)
	if err == nil && len(places) == 0 {
		return nil, nil
	}
	var set *builds.Set
	if err == nil {
		if set, err = d.supplies.open(places); err != nil {
			err = fmt.Errorf("python_from: %w", err)
		}
	}
	if err != nil {
		return nil, &bootstrap.Error{Label: s.hop.Method, Step: bootstrap.StepOptions, Reason: err.Error(), Err: err}
	}
	return &bootstrap.Supply{Dir: dir, Keep: keep, Offers: once(set)}, nil
}

// once looks for builds when it is first called. A target asks three times, and gets what it was offered.
func once(set *builds.Set) func(context.Context) ([]bootstrap.Offer, error) {
	var mu sync.Mutex // held while they are looked for
	var found []bootstrap.Offer
	return func(ctx context.Context) (_ []bootstrap.Offer, err error) {
		mu.Lock()
		defer mu.Unlock()
		if found == nil {
			found, err = offers(ctx, set)
		}
		return found, err
	}
}

// runsOn are further names in uname for machines that run programs of these.
var runsOn = map[string][]string{
	"i686": {"i386", "i486", "i586", "x86_64"},
	"arm":  {"armv6l", "armv7l", "armv8l", "aarch64"},
}

func offers(ctx context.Context, set *builds.Set) ([]bootstrap.Offer, error) {
	list, err := set.List(ctx)
	if err != nil {
		return nil, err
	}
	// Wider ones come first, for machines that run both.
	slices.SortStableFunc(list, func(a, b *builds.Build) int { return b.Bits - a.Bits })
	out := make([]bootstrap.Offer, len(list))
	for i, b := range list {
		out[i] = bootstrap.Offer{
			Machines: append([]string{b.Machine}, runsOn[b.Machine]...), Loader: b.Loader, Glibc: b.Glibc, Hash: b.Hash, Python: b.Python,
			Foreign: b.Foreign, Size: b.Size, Label: b.String(),
			Pack: func(ctx context.Context, form string) ([]byte, error) { return set.Pack(ctx, b, form) },
		}
	}
	return out, nil
}

// supplying is what a hop may ask for while it launches a child behind it: the answers to the child's questions, each
// once and from its beginning to its end.
type supplying struct {
	supply *bootstrap.Supply
	renew  func() // gives the launch its time anew

	// mu is held while a question is answered; others wait.
	mu       sync.Mutex
	asked    int // the number of questions so far
	question string
	rest     []byte // of the answer
	at       int    // where in the answer rest begins
}

var errNoSupply = errors.New("no Python is sent to it")

// supplyPart is how many bytes of an answer go out at once, as in launch.py.
const supplyPart = 1 << 20

// part answers a launcher. args are the id of the child that it launches, the target's question, and where in the
// answer to begin.
func (c *Child) part(args []string) (any, error) {
	id, err := strconv.ParseUint(args[0], 10, 32)
	offset, err2 := strconv.Atoi(args[2])
	s, ok := c.supplying.load(pyproto.ContextID(id))
	if err != nil || err2 != nil || !ok {
		return nil, errNoSupply
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset == 0 && bootstrap.IsQuestion(args[1], s.asked) {
		s.asked++
		s.renew()
		s.question, s.at = strings.Clone(args[1]), 0
		if s.rest, err = s.supply.Answer(c.d.ctx, args[1]); err != nil {
			return nil, fmt.Errorf("no usable Python there, and none could be sent: %w", err)
		}
	} else if s.question != args[1] || s.at != offset || offset == 0 {
		return nil, fmt.Errorf("that is not what a target asks for now")
	}
	part := s.rest[:min(supplyPart, len(s.rest))]
	if s.rest, s.at = s.rest[len(part):], s.at+len(part); len(part) < supplyPart {
		s.question, s.rest = "", nil // the last one
	}
	s.renew()
	return part, nil
}
