package importer

import (
	"context"
	"slices"
	"strings"
	"unicode"
)

// Programs load modules (lexers, plugins, migrations, layers of a protocol) by names that no scan of their imports finds. A child's
// question tells what it will probably ask for next. That follows the answer, with what it imports:
//
//   - the rest of a list of names, as they stand in the text of a module that was sent: INSTALLED_APPS, builtin extensions;
//   - with a package, the modules in it that no import statement can name, as 0001_initial, since programs load all of those; and the
//     only module in it;
//   - once pkg.one.tail and pkg.two.tail were asked for, pkg.X.tail for each package X there that was sent, and for packages of one list
//     at once;
//   - from the second module of one package on, 4 others of it, then 8, 16 and so on.
const (
	// siblingsFrom is how many modules of a package are asked for before others go ahead, and patternsFrom how many of a pattern.
	siblingsFrom = 2
	patternsFrom = 2
	// maxSiblingBytes bounds what goes ahead of one question, and maxAheadBytes what does on one stream.
	maxSiblingBytes = 256 << 10
	maxAheadBytes   = 4 << 20
	// maxPatterns bounds what is remembered of a stream's questions.
	maxPatterns = 20_000
)

// ahead is what a Responder remembers to guess its child's next questions. Owned by Serve.
type ahead struct {
	asked    map[string]int // modules of a package that were asked for
	patterns map[string]int // packages and tails that were
	// lists has the lists that a name stands in; known are those that are in it.
	lists map[string][][]string
	known map[string]bool
	bytes int // of what went ahead
}

// learn takes note of the lists in what is sent.
func (a *ahead) learn(lists [][]string) {
	for _, list := range lists {
		key := strings.Join(list, ",")
		if a.known[key] || len(a.lists) > maxPatterns {
			continue
		}
		put(&a.known, key, true)
		for _, name := range list {
			put(&a.lists, name, append(a.lists[name], list))
			if parent, leaf := parentName(name); unicode.IsUpper(rune(leaf[0])) {
				put(&a.lists, parent, append(a.lists[parent], list))
			}
		}
	}
}

// LearnLists takes note of the lists in a script that the child runs, which is not sent as a module. It does not wait until that is done.
func (r *Responder) LearnLists(script []byte) {
	if lists := listedNames(script); len(lists) > 0 {
		_ = r.add(&job{lists: lists})
	}
}

// sendAhead follows the answer for name.
func (r *Responder) sendAhead(ctx context.Context, s *search, name string) error {
	parent, leaf := parentName(name)
	if r.opt.Miss != nil {
		return nil
	}
	begin := r.likely.bytes
	full := func() bool { return r.likely.bytes-begin >= maxSiblingBytes || r.likely.bytes >= maxAheadBytes }
	for _, next := range slices.Concat(r.listed(s, name), r.alike(s, name), s.inside(name)) {
		if full() {
			return nil
		}
		if err := r.sendLikely(ctx, s, next, name); err != nil {
			return err
		}
	}
	put(&r.likely.asked, parent, r.likely.asked[parent]+1)
	left := 0
	if n := r.likely.asked[parent]; parent != "" && n >= siblingsFrom {
		left = 1 << min(n, 16)
	}
	if left == 0 {
		return nil
	}
	present, _, _ := s.children(s.find(parent))
	for _, sibling := range present {
		if full() || left == 0 {
			return nil
		}
		if sibling == leaf || sibling == "__main__" || sibling == "test" || sibling == "tests" {
			continue
		}
		sibling = parent + "." + sibling
		if r.sent[sibling] != nil || s.find(sibling).kind == KindNamespace {
			continue
		}
		if err := r.sendLikely(ctx, s, sibling, name); err != nil {
			return err
		}
		left--
	}
	return nil
}

// sendLikely sends a module, with what it imports, because another one was asked for.
func (r *Responder) sendLikely(ctx context.Context, s *search, next, name string) error {
	if r.sent[next] != nil {
		return nil
	}
	for _, rel := range r.unsent(s.closure(next), false) {
		if err := r.preload(ctx, s, rel, name, false); err != nil {
			return err
		}
		if r.sent[rel] != nil {
			r.likely.bytes += r.sent[rel].bytes
		}
	}
	for _, inner := range s.inside(next) {
		if r.likely.bytes < maxAheadBytes {
			if err := r.sendLikely(ctx, s, inner, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// listed gives the modules that stand in a list with this one: by their own names, or by names of what is in them.
func (r *Responder) listed(s *search, name string) (out []string) {
	for _, list := range r.likely.lists[name] {
		for _, other := range list {
			if other = s.listedModule(other); other != name && s.served(other) && s.find(other).kind != KindNamespace {
				out = append(out, other)
			}
		}
	}
	return out
}

// listedModule gives the module that a name in a list means: itself, or the module of a class.
func (s *search) listedModule(name string) string {
	if parent, leaf := parentName(name); unicode.IsUpper(rune(leaf[0])) && !s.served(name) {
		return parent
	}
	return name
}

// inside gives the modules of a package that go with it: those whose names are no identifiers, and the only one.
func (s *search) inside(name string) (out []string) {
	sp := s.find(name)
	if sp.why != "" || sp.kind != KindPackage {
		return nil
	}
	present, _, _ := s.children(sp)
	for _, leaf := range present {
		if leaf[0] >= '0' && leaf[0] <= '9' || strings.Contains(leaf, "-") || len(present) == 1 && leaf != "__main__" {
			out = append(out, name+"."+leaf)
		}
	}
	return out
}

// alike gives pkg.X.tail for the packages X of pkg that were sent, if pkg.one.tail and pkg.two.tail were asked for; or one of them, and
// the packages stand in a list.
func (r *Responder) alike(s *search, name string) (out []string) {
	parts := strings.Split(name, ".")
	for i := 1; i < len(parts)-1; i++ {
		pkg, tail := strings.Join(parts[:i], "."), strings.Join(parts[i+1:], ".")
		key := pkg + "\x00" + tail
		if len(r.likely.patterns) < maxPatterns {
			put(&r.likely.patterns, key, r.likely.patterns[key]+1)
		}
		for _, list := range r.likely.lists[pkg+"."+parts[i]] {
			for _, x := range list {
				out = r.likelyOne(s, out, s.listedModule(x), tail)
			}
		}
		if r.likely.patterns[key] < patternsFrom {
			continue
		}
		_, packages, _ := s.children(s.find(pkg))
		for _, x := range packages {
			out = r.likelyOne(s, out, pkg+"."+x, tail)
		}
	}
	return out
}

// likelyOne adds a module of a package that was sent, if there is one.
func (r *Responder) likelyOne(s *search, out []string, pkg, tail string) []string {
	name := pkg + "." + tail
	if r.sent[pkg] != nil && r.sent[name] == nil && s.served(name) && s.find(name).kind != KindNamespace {
		return append(out, name)
	}
	return out
}
