package unixclient

import (
	"mitogend/daemon"
	"mitogend/daemon/service"
	"mitogend/pyproto"
)

// onService is the daemon's handler for CALL_SERVICE at context 0. Children of a program under `mitogend master` get
// the program's own services; all others get the daemon's.
func (s *Server) onService(in *daemon.Incoming) {
	if in.IsDead() {
		return
	}
	owner := s.ownerOf(in.Src)
	if owner != nil && owner.ownServices.Load() && in.Src != owner.id {
		owner.peer.PassOn(in, !service.Silent(in))
		return
	}
	if owner == nil {
		in.Refuse("invalid handle")
		return
	}
	owner.files.Call(in)
}

// ownerOf gives the client itself, or the one that a child belongs to, also behind others; nil if there is none.
func (s *Server) ownerOf(id pyproto.ContextID) *client {
	head := s.d.Stream(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[head]; c != nil {
		return c
	}
	return s.owners[head]
}
