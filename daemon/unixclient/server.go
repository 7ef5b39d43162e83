package unixclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/daemon/socket"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

// Options of a Server. The zero value is good.
type Options struct {
	// Runtime is for the children of a client whose own Mitogen cannot be found; nil for none.
	Runtime *daemon.Runtime
	// Logger may be nil.
	Logger *slog.Logger
	// ModuleTimeout is how long a client may take to answer a request for a module or for a resource; 0 means 10 seconds.
	ModuleTimeout time.Duration
	// MaxConnects bounds the connects of one client that are under way; 0 means 256.
	MaxConnects int
	// MaxClients is how many there may be at once; 0 means 4096.
	MaxClients int
	// MaxMisses bounds the names that the children behind one connection may ask a client for in vain; 0 means 5000.
	// Mitogen answers each name once, so the answers are kept. All children of the client share the table, and none
	// may fill it.
	MaxMisses int
}

// handshakeTime is how long a client gets to send its process id.
const handshakeTime = 10 * time.Second

// Server answers stock clients. It is safe for concurrent use.
type Server struct {
	// Constant after New.
	d   *daemon.Daemon
	opt Options
	log *zap.Logger // it writes to opt.Logger

	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	clients map[pyproto.ContextID]*client
	owners  map[pyproto.ContextID]*client // of children that were connected for them
	closed  bool

	count    atomic.Int64 // of clients, those that have not said who they are included
	runtimes runtimes
	wg       sync.WaitGroup
}

// New makes a server and sets the daemon's handlers. Call it before the daemon's first Connect, and once for a daemon.
func New(d *daemon.Daemon, opt Options) *Server {
	if opt.ModuleTimeout <= 0 {
		opt.ModuleTimeout = 10 * time.Second
	}
	if opt.MaxConnects <= 0 {
		opt.MaxConnects = 256
	}
	if opt.MaxClients <= 0 {
		opt.MaxClients = 4096
	}
	if opt.MaxMisses <= 0 {
		opt.MaxMisses = 5000
	}
	s := &Server{d: d, opt: opt, log: slogzap.Zap(opt.Logger), clients: map[pyproto.ContextID]*client{}, owners: map[pyproto.ContextID]*client{}}
	d.Handle(pyproto.CallFunction, s.onCall)
	d.Handle(pyproto.LoadModuleHandle, s.onLoadModule)
	d.Handle(pyproto.LoadResource, s.onLoadResource)
	d.Handle(pyproto.CallService, s.onService)
	return s
}

// Serve is New and Server.Serve.
func Serve(ctx context.Context, ln net.Listener, d *daemon.Daemon, opt Options) error {
	return New(d, opt).Serve(ctx, ln)
}

// Serve accepts clients until ctx ends or the listener fails, and closes the listener. The clients are gone when it
// returns; at the end of ctx the error is nil.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer s.closeAll()
	defer cancel()
	return socket.Serve(ctx, ln, slogzap.Slog(s.log), func(conn net.Conn) {
		s.wg.Go(func() { s.accept(ctx, conn) })
	})
}

func (s *Server) closeAll() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.clients {
		if c.isUp() { // otherwise accept closes it, whose context has ended
			c.peer.Close()
		}
	}
	s.mu.Unlock()
}

// accept serves one client until it is gone.
func (s *Server) accept(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	pid, err := s.take(conn)
	if err != nil {
		s.log.Warn("refused a client", zap.Int("pid", pid), zap.Error(err))
		return
	}
	defer s.count.Add(-1)
	file, err := handshake(ctx, conn)
	if err != nil {
		s.log.Warn("a client has not said who it is", zap.Int("pid", pid), zap.Error(err))
		return
	}
	_ = conn.Close() // the stream has the file alone
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newClient(ctx, s, pid)
	peer, err := s.d.Attach(file, "unix_client."+strconv.Itoa(pid), func(id pyproto.ContextID) error {
		return s.register(c, id, file)
	})
	if err != nil {
		s.log.Warn("a client was not taken", zap.Int("pid", pid), zap.Error(err))
		s.forget(c)
		return
	}
	c.attached(peer)
	stop := context.AfterFunc(ctx, peer.Close)
	log := s.log.With(zap.Int("pid", pid), zap.Uint32("context", uint32(c.id)))
	log.Debug("a client has come")
	<-peer.Done()
	stop()
	err = peer.Err()
	if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) {
		log.Debug("a client has gone", zap.Error(err))
	} else { // it does not speak the protocol
		log.Warn("disconnected a client", zap.Error(err))
	}
	s.forget(c)
	cancel()
	c.end()
}

// register makes the client known, then tells it who it is: what it sends next must find it.
func (s *Server) register(c *client, id pyproto.ContextID, file *os.File) error {
	c.id = id
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.clients[id] = c
	}
	s.mu.Unlock()
	if closed {
		return daemon.ErrShutdown
	}
	hello := binary.BigEndian.AppendUint32(nil, uint32(id))
	hello = binary.BigEndian.AppendUint32(hello, 0) // our context id
	hello = binary.BigEndian.AppendUint32(hello, uint32(os.Getpid()))
	_, err := file.Write(hello)
	return err
}

func (s *Server) forget(c *client) {
	s.mu.Lock()
	delete(s.clients, c.id)
	s.mu.Unlock()
}

// own records whose child it is; nil if it is nobody's any more.
func (s *Server) own(id pyproto.ContextID, c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		delete(s.owners, id)
	} else {
		s.owners[id] = c
	}
}

func (s *Server) client(id pyproto.ContextID) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[id]
}

// others are all clients but one.
func (s *Server) others(c *client) (list []*client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.clients {
		if o != c {
			list = append(list, o)
		}
	}
	return list
}

// take counts a client, and gives its process. There are at most MaxClients, and the process must be this user's.
func (s *Server) take(conn net.Conn) (pid int, err error) {
	peer, err := socket.PeerOf(conn)
	if err == nil {
		err = peer.Allowed()
	}
	if err != nil {
		return peer.PID, fmt.Errorf("unixclient: %w", err)
	}
	if n := s.count.Add(1); n > int64(s.opt.MaxClients) {
		s.count.Add(-1)
		return peer.PID, fmt.Errorf("unixclient: there are %d clients already", n-1)
	}
	return peer.PID, nil
}

// handshake reads the client's process id, and gives the connection as a file. The id is not used: the kernel tells
// it.
func handshake(ctx context.Context, conn net.Conn) (*os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(handshakeTime))
	var b [4]byte
	for n := 0; n < len(b); {
		k, err := conn.Read(b[n:])
		if ctx.Err() != nil {
			return nil, context.Cause(ctx) // it is what has ended the read
		}
		if err != nil {
			return nil, err
		}
		n += k
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(handshakeTime)
	for pause := time.Duration(0); ; socket.Pause(ctx, &pause) {
		fd := -1
		cerr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3) })
		if err = errors.Join(cerr, err); err == nil {
			return os.NewFile(uintptr(fd), "unix client"), nil
		}
		// While there are no descriptors, the client waits.
		if !socket.IsShortage(err) || ctx.Err() != nil || time.Now().After(end) {
			return nil, err
		}
	}
}
