package importer

import "context"

// Programs that load all modules of a package one after another (lexers, plugins, layers of a protocol) do it by names that no scan of
// their source finds. Once a child has asked for the third module of a package, each answer is followed by modules of that package
// that it has not asked for: 4, then 8, 16 and so on, with what they import.
const (
	// siblingsFrom is how many modules of a package are asked for before others go ahead.
	siblingsFrom = 3
	// maxSiblingBytes bounds what goes ahead of one question, and maxAheadBytes what does on one stream.
	maxSiblingBytes = 256 << 10
	maxAheadBytes   = 4 << 20
)

// sendSiblings follows the answer for name with modules of the same package.
func (r *Responder) sendSiblings(ctx context.Context, s *search, name string) error {
	parent, _ := parentName(name)
	if parent == "" || r.opt.Miss != nil {
		return nil
	}
	r.asked[parent]++
	n := r.asked[parent]
	if n < siblingsFrom || r.ahead >= maxAheadBytes {
		return nil
	}
	present, _, _ := s.children(s.find(parent))
	left := 1 << min(n-1, 16)
	begin := r.ahead
	for _, leaf := range present {
		sibling := parent + "." + leaf
		if r.sent[sibling] != nil || leaf == "__main__" || leaf == "test" || leaf == "tests" || s.find(sibling).kind == KindNamespace {
			continue
		}
		names := r.unsent(s.closure(sibling), false)
		for _, rel := range names {
			if err := r.preload(ctx, s, rel, name, false); err != nil {
				return err
			}
			if r.sent[rel] != nil {
				r.ahead += r.sent[rel].bytes
			}
		}
		if left--; left == 0 || r.ahead-begin >= maxSiblingBytes || r.ahead >= maxAheadBytes {
			break
		}
	}
	return nil
}
