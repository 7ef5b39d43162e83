package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// do handles one job. An error is the sink's or the context's.
func (r *Responder) do(ctx context.Context, j *job) error {
	switch {
	case j.forget != 0:
		if had := r.forwarded[j.forget]; had != nil {
			delete(r.forwarded, j.forget)
			r.im.log.Debug("forgot what was forwarded", zap.Uint32("context", j.forget), zap.Int("modules", len(had)))
		}
		return nil
	case j.lists != nil:
		r.likely.learn(j.lists)
		return nil
	case j.asked:
		// No longer pending: the child may have asked again after the answer.
		name := j.names[0]
		r.mu.Lock()
		delete(r.pending, name)
		r.pendingBytes -= len(name)
		r.mu.Unlock()
		return r.answer(ctx, name)
	}
	return r.push(ctx, j)
}

// partSize is the source that is found, packed and sent before the next of a push is looked at.
const partSize = 128 << 10

// push sends the closure of the names. What goes along with all modules follows its first part.
func (r *Responder) push(ctx context.Context, j *job) error {
	s := r.search(j.platform)
	send := func(part []string) error {
		part = r.unsent(part, j.target != 0)
		defer compressAhead(s.units(part))()
		for _, name := range part {
			if err := r.preload(ctx, s, name, "", j.target != 0); err != nil {
				return err
			}
			if j.target != 0 {
				if err := r.forward(name, j.target); err != nil {
					return err
				}
			}
		}
		return nil
	}
	begun := false
	return s.closureInParts(partSize, func(part []string) error {
		if err := send(part); err != nil || begun {
			return err
		}
		begun = true
		if err := send(s.closure(r.opt.With...)); err != nil {
			return err
		}
		if j.early {
			j.finish(nil)
		}
		return nil
	}, j.names...)
}

func (r *Responder) search(p Platform) *search {
	s := r.im.searchFor(p.Version, p)
	s.main, s.mark, s.withPaths, s.stock = r.opt.Main, r.opt.MarkPackages, r.opt.WithPaths, r.opt.Stock
	s.kept = r.opt.Kept
	if s.v == r.opt.Version {
		s.ahead = r.opt.Ahead
	}
	return s
}

// unsent leaves out what the child was sent. What is forwarded goes on in any case.
func (r *Responder) unsent(names []string, forward bool) []string {
	if forward {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool { return r.sent[name] != nil })
}

// answer sends what was asked for, behind what it needs; or says that there is no such module.
func (r *Responder) answer(ctx context.Context, name string) error {
	start := time.Now()
	if was := r.sent[name]; was != nil && (!was.asked || was.resent >= maxResend) {
		was.asked = true
		r.observe(Event{Name: name, What: Duplicate})
		return nil
	}
	s, rec, err := r.lookUp(ctx, name)
	var none *NotFoundError
	if errors.As(err, &none) {
		if r.opt.Miss != nil && nameFault(name) == "" && r.im.refuses(&r.im.opt.Policy, name) == "" &&
			r.im.refuses(&r.opt.Policy, name) == "" && r.opt.Miss(name) {
			return nil
		}
		return r.refuse(none, Refused, "", start)
	}
	if err != nil {
		return err
	}
	took := time.Since(start)
	was := r.sent[name]
	if was != nil {
		was.resent++
	} else {
		names := r.unsent(s.closure(name), false)
		defer compressAhead(s.units(names))()
		for _, rel := range names {
			if rel == name {
				continue
			}
			if err := r.preload(ctx, s, rel, name, false); err != nil {
				return err
			}
		}
		if err := r.foretell(ctx, s, name); err != nil {
			return err
		}
		was = &sentModule{bytes: len(rec)}
	}
	first := r.sent[name] == nil
	r.observe(Event{Name: name, What: Answered, Bytes: len(rec), Took: took, Mark: r.mark(s, name), Platform: s.platform})
	if err := r.send(s, rec, name); err != nil {
		return err
	}
	was.asked = true
	put(&r.sent, name, was)
	if r.refused[name] {
		delete(r.refused, name)
		r.refusedBytes -= len(name)
	}
	for _, with := range r.unsent(s.closure(r.opt.With...), false) {
		if err := r.preload(ctx, s, with, name, false); err != nil {
			return err
		}
	}
	if !first {
		return nil
	}
	return r.sendAhead(ctx, s, name)
}

// send sends a record, and ahead of it the module's bytecode if that is wanted and there is some.
func (r *Responder) send(s *search, rec []byte, name string) error {
	if u := s.find(name).unit; u != nil {
		r.likely.learn(u.src.lists)
		if r.opt.Keep != nil && u.keepable() {
			if source, ok := s.uncompiled(name); ok {
				r.opt.Keep(source)
			}
		}
	}
	if r.opt.Code != nil && s.v == r.opt.Version {
		var magic, code []byte
		if !r.opt.Far {
			magic, code = s.bytecode(name)
		}
		if code == nil && r.opt.Compiled != nil {
			if u, ok := s.uncompiled(name); ok {
				magic, code = r.opt.Compiled(u)
			}
		}
		if len(code) > 0 {
			if err := r.opt.Code(name, magic, code); err != nil {
				return err
			}
		}
	}
	return r.sink.LoadModule(rec, name)
}

// mark is that of what was sent. A script, and what stock children get, are not what Look finds.
func (r *Responder) mark(s *search, name string) (mark [16]byte) {
	if sp := s.find(name); r.opt.Observe != nil && !s.stock && sp.unit != nil && sp.kind != KindMain {
		mark = s.markOf(sp, sp.unit)
	}
	return mark
}

// lookUp finds a module for the child, or else for a child below it.
func (r *Responder) lookUp(ctx context.Context, name string) (s *search, rec []byte, err error) {
	r.mu.Lock()
	platforms := r.kinds.list()
	r.mu.Unlock()
	var first error
	for _, p := range platforms {
		s := r.search(p)
		rec, err := s.record(ctx, name)
		if err == nil {
			if why := s.refuses(&r.opt.Policy, s.find(name)); why != "" {
				return nil, nil, &NotFoundError{Name: name, Reason: why}
			}
		}
		var none *NotFoundError
		if !errors.As(err, &none) {
			return s, rec, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// refuse tells the child that there is no such module.
func (r *Responder) refuse(none *NotFoundError, what What, by string, start time.Time) error {
	name, text := none.Name, ""
	if r.opt.Reasons && !none.Absent {
		text = none.Reason
	}
	rec, err := negative(name, text)
	if err != nil {
		return fmt.Errorf("importer: encoding the answer for %s: %w", shorten(name), err)
	}
	r.observe(Event{Name: name, What: what, Bytes: len(rec), Took: time.Since(start), Reason: none.Reason, For: by})
	if err := r.sink.LoadModule(rec, name); err != nil {
		return err
	}
	switch {
	case r.refused[name]:
	case len(name) > MaxName:
		r.reached("bytes of a module's name that is remembered", MaxName)
	case len(r.refused) >= maxRefused:
		r.reached("refused names that are remembered", maxRefused)
	case r.refusedBytes+len(name) > maxRefusedBytes:
		r.reached("bytes of refused names that are remembered", maxRefusedBytes)
	default:
		put(&r.refused, name, true)
		r.refusedBytes += len(name)
	}
	return nil
}

func (r *Responder) reached(bound string, limit int) {
	if r.opt.Reached != nil {
		r.opt.Reached(bound, limit)
	}
}

// foretell refuses ahead what a module will look for in vain, unless the child may have it itself, or a child below it can be served
// it.
func (r *Responder) foretell(ctx context.Context, s *search, name string) error {
	if r.opt.Miss != nil {
		return nil
	}
	vain := s.find(name).missed
	for _, rel := range s.find(name).related {
		if s.refuses(&r.opt.Policy, s.find(rel)) != "" {
			vain = append(vain[:len(vain):len(vain)], rel)
		}
	}
	for _, miss := range vain {
		if r.sent[miss] != nil || r.refused[miss] || r.local(miss) {
			continue
		}
		start := time.Now()
		_, _, err := r.lookUp(ctx, miss)
		var none *NotFoundError
		if !errors.As(err, &none) {
			if err != nil {
				return err
			}
			continue
		}
		if err := r.refuse(none, Foretold, name, start); err != nil {
			return err
		}
	}
	return nil
}

// preload sends a module that was not asked for, unless the child has it, may not have it, or lacks its package. asked is the
// module that will follow.
func (r *Responder) preload(ctx context.Context, s *search, name, asked string, always bool) error {
	if r.sent[name] != nil || r.refused[name] || !always && r.local(name) || s.refuses(&r.opt.Policy, s.find(name)) != "" {
		return nil
	}
	if parent, _ := parentName(name); parent != "" && parent != asked && r.sent[parent] == nil && !r.local(parent) && !r.im.packageIsThere(name, parent) {
		return nil
	}
	start := time.Now()
	rec, err := s.record(ctx, name)
	var none *NotFoundError
	if errors.As(err, &none) {
		r.im.log.Debug("not preloaded", zap.String("module", name), zap.String("reason", none.Reason))
		return nil
	}
	if err != nil {
		return err
	}
	took := time.Since(start)
	r.observe(Event{Name: name, What: Preloaded, Bytes: len(rec), Took: took, For: cmp.Or(s.by[name], asked), Mark: r.mark(s, name), Platform: s.platform})
	if err := r.send(s, rec, name); err != nil {
		return err
	}
	put(&r.sent, name, &sentModule{bytes: len(rec)})
	return r.foretell(ctx, s, name)
}

func (r *Responder) local(name string) bool {
	for _, prefix := range r.opt.Local {
		if within(name, prefix) {
			return true
		}
	}
	return false
}

// forward tells the child to pass on a module that it was sent. The payload is the context's id, a NUL and the name.
func (r *Responder) forward(name string, target uint32) error {
	if r.sent[name] == nil || r.forwarded[target][name] {
		return nil
	}
	payload := append(strconv.AppendUint(nil, uint64(target), 10), 0)
	payload = append(payload, name...)
	r.observe(Event{Name: name, What: Forwarded, Bytes: len(payload), Target: target})
	if err := r.sink.ForwardModule(payload, target, name); err != nil {
		return err
	}
	if r.forwarded[target] == nil {
		put(&r.forwarded, target, map[string]bool{})
	}
	r.forwarded[target][name] = true
	return nil
}

func (r *Responder) observe(e Event) {
	if r.opt.Observe != nil {
		r.opt.Observe(e)
	}
}
