package importer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"deps.dev/util/pypi"
	"deps.dev/util/semver"
	"go.uber.org/zap"
)

// Directories of wheels. A child gets of each project the newest version that fits it, as pip would install there; the wheels that were
// chosen are entries of the path, behind those of Options.Path. A child is asked what it is only where that counts; see Importer.Asks.

// A wheel is a file of a wheelhouse whose name is one. It does not change.
type wheel struct {
	path    string
	project string // normal
	version *semver.Version
	build   pypi.WheelBuildTag
	tags    []pypi.PEP425Tag
}

func (w *wheel) name() string { return filepath.Base(w.path) }

func parseWheel(file string) (*wheel, error) {
	info, err := pypi.ParseWheelName(filepath.Base(file))
	if err != nil {
		return nil, errors.New("its name is no wheel's (PROJECT-VERSION-PYTHON-ABI-PLATFORM.whl)")
	}
	v, err := semver.PyPI.Parse(info.Version)
	if err != nil {
		return nil, fmt.Errorf("its name has no version: %.40q", info.Version)
	}
	return &wheel{file, normalName(info.Name), v, info.BuildTag, info.Platforms}, nil
}

// fit gives the best of the wheel's tags.
func (w *wheel) fit(p Platform) (how fit, rank int) {
	for _, t := range w.tags {
		if h, r := p.fit(t); h > how || h == how && r > rank {
			how, rank = h, r
		}
	}
	return how, rank
}

// choice has the wheels that one platform gets. It does not change.
type choice struct {
	// What it was made of.
	lists    []*listing
	keys     []fileKey // of constraint files
	archives map[string]*archive

	wheels []*archive          // by project
	others map[string][]string // by the path of one of them, for a platform that stands for all: what some children get in its place
	// open: which they are depends on more than the child's version.
	open bool
	// misfits has, by the name of a module, why there is no wheel of it.
	misfits map[string]string
	err     error // of a constraint file
}

// maxChoices bounds finder.choices; when it is reached the cache starts anew.
const maxChoices = 1000

// choice chooses for a platform, from the cache while nothing has changed.
func (s *search) choice(p Platform) *choice {
	f := s.im.finder
	var lists []*listing
	dirs := s.im.wheelDirs(p)
	for _, dir := range dirs {
		lists = append(lists, s.list(location{dir: dir}))
	}
	var keys []fileKey
	for _, file := range s.im.opt.Constraints {
		key, _ := statFile(file) // what fails is said when it is read
		keys = append(keys, key)
	}
	f.mu.Lock()
	c := f.choices[p]
	f.mu.Unlock()
	if c != nil && slices.Equal(c.lists, lists) && slices.Equal(c.keys, keys) && s.unchanged(c.archives) {
		return c
	}
	c = &choice{lists: lists, keys: keys, archives: map[string]*archive{}, others: map[string][]string{}, misfits: map[string]string{}}
	s.choose(c, p, dirs)
	f.mu.Lock()
	if len(f.choices) >= maxChoices {
		clear(f.choices)
	}
	f.choices[p] = c
	f.mu.Unlock()
	return c
}

// unchanged tells whether these are still what is there; nil for what cannot be read.
func (s *search) unchanged(archives map[string]*archive) bool {
	for file, was := range archives {
		if now, _ := s.im.finder.archive(file); now != was {
			return false
		}
	}
	return true
}

func (s *search) choose(c *choice, p Platform, dirs []string) {
	limits, err := readConstraints(s.im.opt.Constraints)
	if err != nil {
		c.err = err
		s.im.log.Warn("no wheel is served", zap.Error(err))
		return
	}
	projects := s.wheels(c.lists, dirs)
	for _, project := range slices.Sorted(maps.Keys(projects)) {
		s.chooseWheel(c, p, projects[project], limits[project])
	}
}

// wheels lists the wheelhouses by project.
func (s *search) wheels(lists []*listing, dirs []string) map[string][]*wheel {
	out := map[string][]*wheel{}
	for i, l := range lists {
		if l == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(l.types)) {
			if !strings.HasSuffix(name, ".whl") || l.types[name].IsDir() {
				continue
			}
			file := filepath.Join(dirs[i], name)
			w, err := parseWheel(file)
			if err != nil {
				s.im.passOver(file, err)
				continue
			}
			out[w.project] = append(out[w.project], w)
		}
	}
	return out
}

// chooseWheel takes the best wheel of a project: the newest version, of that the best tag, of these the newest build.
func (s *search) chooseWheel(c *choice, p Platform, all []*wheel, limits []*semver.Constraint) {
	kept := slices.DeleteFunc(slices.Clone(all), func(w *wheel) bool { return !allowed(w.version, limits) })
	kept = withoutPrereleases(kept, limits)
	order := func(a, b *wheel) int {
		_, m := a.fit(p)
		_, n := b.fit(p)
		return cmp.Or(b.version.Compare(a.version), n-m, b.build.Num-a.build.Num, strings.Compare(b.build.Tag, a.build.Tag))
	}
	slices.SortStableFunc(kept, order)
	var faults []string
	for i, w := range kept {
		how, _ := w.fit(p)
		if how == fitsNot {
			continue
		}
		arc, err := s.im.finder.archive(w.path)
		c.archives[w.path] = arc
		if err == nil {
			err = s.wheelFault(arc, w)
		}
		if err != nil {
			s.im.passOver(w.path, err)
			faults = append(faults, w.name()+" "+why(err))
			continue
		}
		if need := requiresPython(arc, w.project); need != "" && !allowsPython(need, p.Version) {
			continue
		}
		if how == fitsSome {
			c.open = true
			continue
		}
		c.wheels = append(c.wheels, arc)
		if p.any {
			c.others[w.path] = others(kept[i:], p)
		}
		return
	}
	s.misfit(c, p, all, kept, faults)
}

// others names what children of one version may get in place of the first: up to that which fits all of them.
func others(wheels []*wheel, p Platform) (names []string) {
	for i, w := range wheels {
		if how, _ := w.fit(p); how == fitsNot {
			continue
		}
		if i > 0 {
			names = append(names, w.name())
		}
		if how, _ := w.fit(Platform{Version: p.Version}); how == fits {
			break
		}
	}
	return names
}

// misfit notes why a project's modules are not there.
func (s *search) misfit(c *choice, p Platform, all, kept []*wheel, faults []string) {
	reason := fmt.Sprintf("no wheel of %s fits this child (%s)", all[0].project, p)
	switch {
	case len(faults) > 0:
		reason = "a wheel cannot be used: " + faults[0]
	case len(kept) == 0:
		reason = fmt.Sprintf("no wheel of %s is of a version that the constraints allow", all[0].project)
		kept = all
	}
	var names []string
	for _, w := range kept[:min(len(kept), 5)] {
		names = append(names, w.name())
	}
	if n := len(kept) - len(names); n > 0 {
		names = append(names, fmt.Sprintf("%d more", n))
	}
	if len(faults) == 0 {
		reason += ": there is " + strings.Join(names, ", ")
	}
	modules := []string{strings.ReplaceAll(all[0].project, "-", "_")}
	for _, w := range kept[:min(len(kept), 5)] {
		arc, err := s.im.finder.archive(w.path)
		if c.archives[w.path] = arc; err == nil {
			modules = append(modules, s.directory(location{arc: arc})...)
			modules = append(modules, slices.Collect(maps.Keys(arc.dirs[""].compiled))...)
		}
	}
	for _, name := range modules {
		c.misfits[strings.TrimSuffix(name, ".")] = reason
	}
}

// passOver warns of a file, once.
func (im *Importer) passOver(file string, err error) {
	f, text := im.finder, why(err)
	f.mu.Lock()
	known := f.passed[file] == text
	if len(f.passed) >= maxListings {
		clear(f.passed)
	}
	f.passed[file] = text
	f.mu.Unlock()
	if !known {
		im.log.Warn("a wheel is passed over", zap.String("file", file), zap.String("reason", text))
	}
}

// wheelFault says why a file is not to be used as the wheel that its name says it is.
func (s *search) wheelFault(arc *archive, w *wheel) error {
	if arc.odd != "" {
		return fmt.Errorf("has a file of the name %.100q, which leads elsewhere", arc.odd)
	}
	info := distInfo(arc, w.project)
	for _, file := range []string{"METADATA", "WHEEL", "RECORD"} {
		if info == "" || arc.files[info+"/"+file] == nil {
			return fmt.Errorf("is no wheel of %s: it has no %s in its .dist-info", w.project, file)
		}
	}
	data, err := arc.read(info+"/WHEEL", maxMetadata)
	if err != nil {
		return err
	}
	// The platform may be another: some projects rename what they have built.
	var said []string
	for _, text := range header(data, "tag") {
		parts := strings.Split(text, "-")
		if len(parts) != 3 {
			continue
		}
		said = append(said, text)
		for _, t := range w.tags {
			if slices.Contains(strings.Split(parts[0], "."), t.Python) && slices.Contains(strings.Split(parts[1], "."), t.ABI) {
				return nil
			}
		}
	}
	if len(said) == 0 {
		return nil
	}
	return fmt.Errorf("is not what its name says: its WHEEL file says %.60s", said[0])
}

// distInfo finds a project's .dist-info.
func distInfo(arc *archive, project string) string {
	for name, mode := range arc.dirs[""].types {
		base, ok := strings.CutSuffix(name, ".dist-info")
		base, _, _ = strings.Cut(base, "-")
		if ok && mode&fs.ModeDir != 0 && normalName(base) == project {
			return name
		}
	}
	return ""
}

// header gives the values of a field in the head of a file such as METADATA; key has small letters.
func header(data []byte, key string) (values []string) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() && strings.TrimSpace(lines.Text()) != "" {
		if name, text, _ := strings.Cut(lines.Text(), ":"); strings.ToLower(name) == key {
			values = append(values, strings.TrimSpace(text))
		}
	}
	return values
}

func requiresPython(arc *archive, project string) string {
	data, err := arc.read(distInfo(arc, project)+"/METADATA", maxMetadata)
	if err != nil {
		return ""
	}
	return strings.Join(header(data, "requires-python"), ",")
}

// allowsPython judges by the latest release that a version could have: which one a child is, is not known here. What cannot be read
// allows all.
func allowsPython(need string, v Version) bool {
	c, err := semver.PyPI.ParseConstraint(need)
	if err != nil || !v.Known() {
		return true
	}
	return c.Match(fmt.Sprintf("%d.%d.99", v.Major, v.Minor))
}

// Asks tells whether a child of version v has to be asked for its platform before it is served; see For.
func (im *Importer) Asks(v Version) bool {
	if !im.opt.Requirements.Empty() {
		return true
	}
	return len(im.opt.Wheels) > 0 && im.search(Version{}).choice(Platform{Version: v}).open
}

// Prepare fetches what such a child needs, and gives the platform that it is served for from then on: it goes on with this, whatever is
// fetched later for others of its kind. Call it before the child is served anything.
func (im *Importer) Prepare(ctx context.Context, p Platform) (Platform, error) {
	if im.opt.Requirements.Empty() || im.opt.Fetch == nil {
		return p, nil
	}
	if need := im.opt.Requirements.Python; !allowsPython(need, p.Version) {
		return p, fmt.Errorf("importer: the script needs Python %s, and this child is %s", need, p.Version)
	}
	dir, err := im.opt.Fetch(ctx, im.opt.Requirements, p)
	if err != nil {
		return p, fmt.Errorf("importer: requirements for %s: %w", p, err)
	}
	im.views.mu.Lock()
	defer im.views.mu.Unlock()
	if !im.views.prepared[p] && len(im.views.prepared) >= maxChoices {
		return p, fmt.Errorf("importer: requirements are for at most %d kinds of children, and %s is one more", maxChoices, p)
	}
	im.views.prepared[p] = true
	p.fetched = dir
	return p, nil
}

// wheelDirs are the directories of wheels for such a child.
func (im *Importer) wheelDirs(p Platform) []string {
	if p.fetched != "" {
		return append(slices.Clip(im.opt.Wheels), p.fetched)
	}
	return im.opt.Wheels
}

// For gives the importer for children of one platform. It is the same for all that ask, and shares what was read.
func (im *Importer) For(p Platform) *Importer {
	if len(im.opt.Wheels) == 0 && im.opt.Requirements.Empty() || im.platform == p {
		return im
	}
	views := im.views
	views.mu.Lock()
	defer views.mu.Unlock()
	view := views.by[p]
	if view == nil {
		other := *im
		other.platform = p
		view = &other
		if len(views.by) < maxChoices {
			views.by[p] = view
		}
	}
	return view
}

// addWheels adds those that were chosen to the path.
func (s *search) addWheels(p Platform) {
	if len(s.im.wheelDirs(p)) == 0 {
		return
	}
	s.chosen = s.choice(p)
	for _, arc := range s.chosen.wheels {
		s.roots = append(s.roots, location{arc: arc})
	}
	if p.fetched != "" {
		s.addRoot(filepath.Join(p.fetched, Site))
	}
}

// wheelReason says why no wheel has a module, or "".
func (s *search) wheelReason(name string) string {
	switch {
	case s.chosen == nil:
		return ""
	case s.chosen.err != nil:
		return s.chosen.err.Error()
	}
	return s.chosen.misfits[name]
}

// wheelsOf gives the wheel that a file lies in, and the wheels that other children get in its place.
func (s *search) wheelsOf(loc location) (file string, others []string) {
	if s.chosen == nil || loc.arc == nil || !slices.Contains(s.chosen.wheels, loc.arc) {
		return "", nil
	}
	return loc.arc.path, s.chosen.others[loc.arc.path]
}
