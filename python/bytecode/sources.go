package bytecode

import (
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/crypto/blake2b"
)

// Sources are kept in the directory beside the code, as they are sent: a new process need not compress them again.

// saving is a source that waits to be kept.
type saving struct {
	k    key
	size int
	zip  func() []byte
}

func sourceKey(hash [32]byte) key {
	return blake2b.Sum256(fmt.Appendf(nil, "%ssource %x", mark, hash))
}

// Source gives a source, by its hash, as zlib; nil if it was not kept.
func (s *Store) Source(hash [32]byte) []byte {
	if s.opt.Dir == nil {
		return nil
	}
	zip, _ := s.opt.Dir.get(sourceKey(hash))
	return zip
}

// KeepSource keeps a source of that size, in the background. zip gives it as zlib; it is called by another goroutine,
// later. What there is no room for is not kept.
func (s *Store) KeepSource(hash [32]byte, size int, zip func() []byte) {
	if s.opt.Dir == nil || size > maxSource {
		return
	}
	k := sourceKey(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.pending[k] || len(s.saving) >= maxQueue || s.waiting+int64(size) > maxWaiting {
		return
	}
	s.pending[k] = true
	s.waiting += int64(size)
	s.saving = append(s.saving, saving{k, size, zip})
	if !s.saves {
		s.saves = true
		s.wg.Add(1)
		go s.save()
	}
}

// save keeps the sources that wait.
func (s *Store) save() {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		if s.ctx.Err() != nil {
			for _, j := range s.saving {
				s.waiting -= int64(j.size)
				s.forget(j.k)
			}
			s.saving = nil
		}
		if len(s.saving) == 0 {
			s.saving, s.saves = nil, false
			s.mu.Unlock()
			return
		}
		j := s.saving[0]
		s.saving[0] = saving{} // which holds the source
		s.saving = s.saving[1:]
		s.waiting -= int64(j.size)
		s.mu.Unlock()
		// Another process may have kept it. What is broken is written anew.
		if _, ok := s.opt.Dir.get(j.k); !ok {
			if err := s.opt.Dir.put(j.k, j.zip()); err != nil {
				s.log.Debug("a source is not kept for the next time", zap.Error(err))
			}
		}
		s.mu.Lock()
		s.forget(j.k)
		s.mu.Unlock()
	}
}
