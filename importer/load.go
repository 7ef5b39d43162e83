package importer

import (
	"errors"
	"fmt"
)

// unit gives the source of what was found. An error is the reason why it cannot be served after all, and is kept in sp.
func (s *search) unit(sp *spec) (*unit, error) {
	if sp.why == "" && sp.unit == nil {
		u, err := s.load(sp)
		if err != nil {
			if s.ctx.Err() != nil {
				return nil, s.ctx.Err()
			}
			sp.why = err.Error()
		}
		sp.unit = u
	}
	if sp.why != "" {
		return nil, &NotFoundError{sp.name, sp.why, sp.absent}
	}
	return sp.unit, nil
}

func (s *search) load(sp *spec) (*unit, error) {
	u, err := s.packedUnit(sp)
	if err != nil || s.unpackTop(sp.name) != sp.name {
		return u, err
	}
	return s.unpackStub(sp, u)
}

// packedUnit gives a package's own source, even where something else is served in its place.
func (s *search) packedUnit(sp *spec) (*unit, error) {
	if sp.packed != nil {
		return sp.packed, nil
	}
	u, err := s.loadPacked(sp)
	sp.packed = u
	return u, err
}

func (s *search) loadPacked(sp *spec) (*unit, error) {
	switch sp.kind {
	case KindNamespace:
		return s.im.empty, nil
	case KindVirtual:
		return s.im.opt.Virtual[sp.name].unit(), nil
	case KindMain:
		return s.loadMain()
	case KindExtension:
		stub, err := s.stub(sp)
		if err != nil {
			return nil, err
		}
		return newUnit(stub), nil
	}
	limit := s.im.opt.MaxSource
	for try := 1; ; try++ {
		u, err := s.im.cache.get(s.ctx, sp.file, sp.key, func() ([]byte, fileKey, error) {
			if arc := sp.file.arc; arc != nil {
				data, err := arc.read(sp.file.dir, limit)
				return data, sp.key, err
			}
			return readFile(sp.file.dir, limit)
		})
		if err == nil {
			return u, nil
		}
		if !errors.Is(err, errStale) || try == maxTries || !s.reopen(sp) {
			return nil, fmt.Errorf("%s: %s", sp.file, why(err))
		}
	}
}

// reopen turns to what an archive has become since the module was found in it.
func (s *search) reopen(sp *spec) bool {
	arc, err := s.im.finder.archive(sp.file.arc.path)
	if err != nil || arc.files[sp.file.dir] == nil {
		return false
	}
	sp.file.arc = arc
	sp.key = arc.fileKey(sp.file.dir)
	return true
}

// loadMain reads the script. Unless the child runs it, it is cut.
func (s *search) loadMain() (*unit, error) {
	src := s.main.Source
	if src == nil {
		var err error
		if src, _, err = readFile(s.main.Path, s.im.opt.MaxSource); err != nil {
			return nil, fmt.Errorf("%s: %s", s.main.Path, why(err))
		}
	}
	if !s.main.Run {
		var ok bool
		if src, ok = CutMain(src); !ok {
			return nil, fmt.Errorf("%s has no guard if __name__ == '__main__', so importing it would run it", s.main.Path)
		}
	}
	return newUnit(src), nil
}

// CutMain gives the part of a script that is before its guard if __name__ == '__main__', and that is safe to import. A script
// that calls mitogen.main() guards itself and is not cut. It is not ok when the script has no guard.
func CutMain(script []byte) (cut []byte, ok bool) {
	src := scanSource(script)
	switch {
	case src.mainGuard >= 0:
		return script[:src.mainGuard], true
	case src.mitogenMain:
		return script, true
	}
	return nil, false
}

// units gives the sources of a closure's modules, and tells them who may have kept them as zlib.
func (s *search) units(names []string) []*unit {
	var out []*unit
	for _, name := range names {
		if u := s.find(name).unit; u != nil {
			s.tellKept(name)
			out = append(out, u)
		}
	}
	return out
}

// tellKept tells a module's source, which is loaded, who may have kept it as zlib.
func (s *search) tellKept(name string) {
	u, kept, ahead := s.find(name).unit, s.kept, s.ahead
	if kept == nil || u == nil || u.ready.Load() {
		return
	}
	if source, ok := s.uncompiled(name); ok {
		u.keptBy(func() []byte {
			if ahead != nil {
				ahead(source)
			}
			return kept(source)
		})
	}
}
