"""
Processes that user code forks off this one, workers that multiprocessing starts, and sub-interpreters. It comes over
the importer as mitogen.forked before the first of them is made.

The context, here the parent, has a door: a pair of connected sockets, one end of which every such process inherits. A
process that needs something makes a pair of its own and sends one end through the door. So its way to the parent does
not depend on who forked it, when, and how. A process that needs nothing costs nothing. It is no context: what it asks
goes to others as from its parent, and nobody can send to it unasked. Its way carries frames like any stream:

    GET_MODULE is answered from what the parent has, which asks for each name once, whoever wants it;
    FORWARD_LOG, and any other message, goes on, with a handle of the parent's for the reply.

A forked process goes on with the objects that it has copied: io, router and importer are emptied, and a Way is the
router's stream. A worker or sub-interpreter gets the core and its config over its way (see BOOT), and keeps the
stream of a leaf.

Threads. In the parent, the reader serves: the door and each Peer are descriptors that it polls, and it never blocks
on them. While user code runs that has forked, a helper thread reads at once what the ticker would read later. It ends
with the call. Locks: `lock` guards the making of descriptors against a fork that would inherit them, from before a
fork until after it; the reader only tries it. Relay.spawning is taken before. Peer.lock guards what waits to be
written.

If the parent is gone, what a forked process asks is refused, and the process goes on. If a forked process is gone,
its Peer is dropped. A side that does not read is not read either, once LIMIT bytes wait for it.
"""
from __future__ import absolute_import

import errno
import fcntl
import os
import select
import struct
import sys
import zlib
from _collections import deque

import mitogen.core as core
import mitogen.running as running
from mitogen.core import HEADER, HEADER_LEN, IS_DEAD, Latch, Message, _thread
from mitogen.running import close

if core.PY3:
    import _socket as socket
else:
    import socket

# Bytes that may wait for one peer before it is read no more.
LIMIT = 4 << 20
ADD_ROUTE = 103
FORWARD_MODULE = 108
DETACHING = 109
FLOW = 990
CONNECT = 991
# What a peer may not send for its parent: it is no context.
CONTEXTS_ONLY = frozenset((ADD_ROUTE, core.DEL_ROUTE, FORWARD_MODULE, DETACHING, FLOW, CONNECT))
# Rounds of reading at the end of a call. A way holds less.
ROUNDS = 64

lock = core.RLock()
# Locks that are taken until the fork under way is done.
held = []
# The two ends of the door: the parent's (None in any other process), and everybody's.
inner = outer = None
# What tells the door from a file that user code has opened by its number.
doorplate = None
# By descriptor.
peers = {}
# Peers that wait until a stream has room, and latches of calls that wait until all peers are read.
paused = []
drains = []
# Names of modules that peers were sent. Then, once one is asked for again, the queue that mitogen.sharing answers,
# and the lock that it waits for.
given = set()
queue = turn = None


def open_door():
    """Make the door, if there is none. The lock is held."""
    global inner, outer, doorplate
    if outer is None and not core.io.lost:
        if not core.PY3:
            # Has sendfd() and recvfd(), which the reader must not be the first to import.
            global _multiprocessing
            import _multiprocessing
        inner, outer = pair()
        doorplate = running.same(outer)
        core.io.remark(inner)
        core.io.add(inner, accept)
        core.io.pump = lambda timeout, io=core.io: pump(io, timeout)
        # For the end of the connection, which no message tells.
        core.router.add_handler(lambda msg: lose(), policy=lambda msg, stream: False)
        # A poll() that is under way does not know of it.
        os.write(core.io.wake_w, b'x')


def pair():
    """Two connected sockets, as descriptors that no program inherits. process.py has this, too, and much more."""
    ends = socket.socketpair()
    if core.PY3:
        for end in ends:
            # A program may have set a default timeout.
            end.setblocking(True)
        return [end.detach() for end in ends]
    fds = [os.dup(end.fileno()) for end in ends]
    for fd in fds:
        core.cloexec(fd)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    return fds


def door(fd, method, *args):
    """Call a method of a socket that is kept as its number."""
    end = socket.socket(fileno=fd)
    try:
        end.setblocking(True)
        return getattr(end, method)(*args)
    finally:
        end.detach()


def relay():
    parent = sys.modules.get('mitogen.parent')
    return parent and parent.relay


# Around a fork.

def before():
    global held
    if _thread.get_ident() not in running.apart:
        locks = [relay().spawning] if relay() else []
        locks.append(lock)
        for one in locks:
            one.acquire()
        held = locks
        try:
            open_door()
        except (OSError, IOError):
            # No descriptors: the process will be told that it has no way.
            pass


def after_in_parent():
    global held
    if _thread.get_ident() not in running.apart:
        help_out()
        locks, held = held, []
        for one in reversed(locks):
            one.release()


def after_in_child():
    """Keep nothing of the parent's, and be ready to ask it."""
    if _thread.get_ident() not in running.apart:
        fds = descriptors() - set(core.io.changed())
        leave_parent()
        close(*fds)
        for name in 'pump', 'evict':
            core.io.__dict__.pop(name, None)
        core.io.__init__()
        core.importer.__init__(core.importer)
        router = core.router
        router.stream = Way()
        router.__dict__.pop('on_stream_lost', None)
        router.routes.clear()
        kept = core.LOAD_MODULE, core.LOAD_CODE
        router.handlers = dict((h, router.handlers[h]) for h in kept if h in router.handlers)
        core.stdio.rfd = None
        core.io.mark()
        if core.PY3:
            forget_imports()


def descriptors():
    """The runtime's descriptors, without the end of the door that everybody has."""
    io, stream = core.io, core.router.stream
    fds = set(io.handlers) | set(peers) | set((io.wake_w, stream.rfd, stream.wfd))
    if core.stdio.rfd is not None:
        fds.add(core.stdio.rfd)
    if inner is not None:
        fds.add(inner)
    if relay():
        fds |= relay().own()
    return fds


def leave_parent():
    """In a process that was forked off: this is no parent, and nothing of the old one ends with it."""
    global lock, held, inner, queue
    lock = core.RLock()
    held = []
    inner = queue = None
    peers.clear()
    given.clear()
    del paused[:], drains[:]
    for name in 'parent', 'guard', 'unpack':
        if 'mitogen.' + name in sys.modules:
            sys.modules['mitogen.' + name].leaf()


def begin_context():
    """In a process that was forked off to be another context: it will have a door of its own."""
    global outer
    fds = (set(peers) | set((inner, outer))) - set((None,))
    for peer in list(peers.values()):
        # Its number will be somebody else's. A thread that is not here may hold its lock.
        peer.fd = None
    for fd in fds:
        core.io.remove(fd)
    close(*fds)
    leave_parent()
    outer = None


def forget_imports():
    """Threads that do not exist here hold the locks of modules that they were importing. These are not complete."""
    import _frozen_importlib as bootstrap
    me = _thread.get_ident()
    for name, ref in list(bootstrap._module_locks.items()):
        owner = getattr(ref(), 'owner', None)
        if owner not in (None, me):
            del bootstrap._module_locks[name]
            module = sys.modules.get(name)
            if getattr(getattr(module, '__spec__', None), '_initializing', False):
                del sys.modules[name]


# The forked process.

def connect(kind):
    """A descriptor of a new way to the parent; OSError if nobody is behind the door."""
    if outer is None or running.same(outer) != doorplate:
        raise OSError(errno.ENOTCONN, 'no door')
    ours, theirs = pair()
    try:
        if core.PY3:
            door(outer, 'sendmsg', [kind], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', theirs))])
        else:
            _multiprocessing.sendfd(outer, theirs)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return ours


class Way(core.Stream):
    """The stream of a forked process, which is opened when it is first written to."""

    def __init__(self):
        core.Stream.__init__(self, -1, -1)
        self.remote_id = core.router.context_id

    def write(self, data):
        if self.wfd < 0 and not core.io.lost:
            self.open()
        core.Stream.write(self, data)

    def open(self):
        try:
            with lock:
                self.rfd = self.wfd = connect(b'f')
        except (OSError, IOError):
            core.router.on_stream_lost(self)
            return
        core.io.add(self.rfd, self.on_readable)
        core.io.mark()
        # A poll() that is under way does not know of it.
        os.write(core.io.wake_w, b'x')

    def post(self, msg):
        self.send(msg)


def report(kind, value, tb):
    """What Python prints of an exception that ends a program, without the frame of Dispatcher.call."""
    import traceback
    tb = tb and tb.tb_next
    if core.PY3:
        value = value.with_traceback(tb)
    if sys.excepthook is sys.__excepthook__ and getattr(sys, 'stderr', None):
        # The hook of Python's own looks for source on the disk only.
        traceback.print_exception(kind, value, tb)
    else:
        sys.excepthook(kind, value, tb)


# The parent.

def help_out():
    """Have somebody read while user code runs. The lock is held."""
    io = core.io
    if io.running and io.helper is None and inner is not None:
        io.helper = Helper()
        if not relay():
            try:
                running.start_thread(io.helper.wait)
            except Exception:
                # No memory for a thread: forked processes are read when this process itself waits for something.
                io.helper = None


class Helper(Latch):
    """Has the reader role while user code runs."""

    def rest(self):
        """The call is over: read what was sent for it, and give the role back."""
        core.io.helper = None
        self.close()
        latch = Latch()
        drains.append([ROUNDS, latch])
        os.write(core.io.wake_w, b'x')
        latch.wait()


def pump(io, timeout):
    """In place of Io.pump()."""
    for peer in paused[:]:
        peer.go_on()
    if drains:
        timeout = 0
    elif paused and (timeout is None or timeout > 10):
        timeout = 10
    stream = core.router.stream
    full = bool(stream.deferred) and stream.wfd != stream.rfd
    if full:
        # Ends the wait. It has no handler.
        io.poller.register(stream.wfd, select.POLLOUT)
    try:
        ready = core.Io.pump(io, timeout)
    finally:
        if full:
            io.poller.unregister(stream.wfd)
    for drain in drains[:]:
        drain[0] -= 1
        if not (ready or paused) or not drain[0]:
            drains.remove(drain)
            drain[1].close()
    return ready


def lose():
    """The connection is lost, or detach() gave it up: forked processes learn it here."""
    for peer in list(peers.values()):
        peer.close()


def accept(_fd, _event):
    """Somebody has sent an end of its way through the door."""
    if not lock.acquire(False):
        # A fork is under way, and will be over.
        return
    try:
        if core.PY3:
            kind, control, _, _ = door(inner, 'recvmsg', 1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            fds = [fd for _, _, data in control for fd in struct.unpack('%di' % (len(data) // 4), data)]
        else:
            kind, fds = b'f', [_multiprocessing.recvfd(inner)]
        close(*fds[1:])
        for fd in fds[:1]:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
            if core.io.lost:
                close(fd)
            else:
                peers[fd] = Peer(fd, kind)
                core.io.remark(fd)
        help_out()
    except (OSError, IOError):
        # Too many descriptors: the other end sees that nobody has this one.
        pass
    finally:
        lock.release()


class Peer(object):
    """A process with a way to this one. All of it belongs to the reader, except what waits to be written."""

    def __init__(self, fd, kind):
        self.fd = fd
        self.lock = core.RLock()
        # To be written: parts, their bytes, and how many of the first are written.
        self.out = []
        self.size = 0
        self.offset = 0
        # The parts of an unfinished frame, and its size.
        self.parts = []
        self.count = 0
        self.need = HEADER_LEN
        # Must something be done before this peer is read again?
        self.waits = None
        # Questions that wait for mitogen.sharing.
        self.questions = 0
        # Handles of ours that the peer's replies come to.
        self.handles = set()
        # Modules that were sent. A process that was not forked off has none of ours.
        self.sent = set()
        self.empty = kind != b'f'
        self.arm()
        if kind != b'f':
            self.put(boot())

    def arm(self):
        """Poll for what is wanted."""
        mask = select.POLLOUT if self.out else 0
        if not self.waits and self.size <= LIMIT:
            mask |= select.POLLIN
        if mask:
            core.io.handlers[self.fd] = self.on_event
            core.io.poller.register(self.fd, mask)
        else:
            core.io.remove(self.fd)

    def put(self, data):
        with self.lock:
            if self.fd is not None:
                self.out.append(data)
                self.size += len(data)
                self.flush()

    def post(self, msg):
        self.put(frame(msg))

    def flush(self):
        """Write what the socket takes. The lock is held."""
        armed = bool(self.out)
        while self.out:
            part = self.out[0]
            try:
                n = os.write(self.fd, memoryview(part)[self.offset:])
            except (OSError, IOError) as e:
                if e.errno == errno.EINTR:
                    continue
                if e.errno != errno.EAGAIN:
                    # It is gone; what it sent before is still to be read.
                    del self.out[:]
                    self.size = self.offset = 0
                break
            self.size -= n
            self.offset += n
            if self.offset == len(part):
                del self.out[0]
                self.offset = 0
        if armed:
            self.arm()

    def on_event(self, _fd, event):
        if core.io.reading is True and lock.acquire(False):
            # The ticker comes too seldom.
            help_out()
            lock.release()
        if event & select.POLLOUT:
            with self.lock:
                self.flush()
            self.parse()
        if event & ~select.POLLOUT and not self.waits:
            self.read()

    def read(self):
        try:
            data = os.read(self.fd, core.CHUNK)
        except (OSError, IOError) as e:
            if e.errno in (errno.EAGAIN, errno.EINTR):
                return
            data = b''
        if not data:
            self.close()
            return
        self.parts.append(data)
        self.count += len(data)
        self.parse()

    def parse(self):
        """Take what has come, while the answers, and what is passed on, are taken as well."""
        while self.count >= self.need and self.fd is not None and not self.waits and self.size <= LIMIT:
            data = b''.join(self.parts)
            head = HEADER.unpack_from(data)
            size = HEADER_LEN + head[6]
            if not core.MGC <= head[0] <= core.BIN or head[6] > core.router.max_message_size:
                self.close()
                return
            self.need = size
            if len(data) >= size:
                self.take(head, data[HEADER_LEN:size])
                self.need = HEADER_LEN
                data = data[size:]
            self.parts = [data]
            self.count = len(data)

    def take(self, head, data):
        enc, dst, _, _, handle, reply_to, _ = head
        router = core.router
        if handle == core.GET_MODULE:
            self.again(data.decode('utf-8', 'replace') if core.PY3 else data)
            return
        msg = Message(dst, None, None, handle, reply_to, data, enc)
        if reply_to and reply_to != IS_DEAD:
            # Its handles are none of ours.
            def on_reply(reply):
                self.handles.discard(msg.reply_to)
                self.post(Message(reply.dst_id, reply.src_id, reply.auth_id, reply_to, reply.reply_to, reply.data,
                                  reply.enc))
            msg.reply_to = next(router.last_handle)
            self.handles.add(msg.reply_to)
            router.handlers[msg.reply_to] = on_reply, False, dst, None
            if core.io.lost:
                router.drop(msg.reply_to, u'the connection is lost')
        if dst == router.context_id or handle in CONTEXTS_ONLY:
            router.refuse(msg, u'a process that was forked off is no context')
            return
        stream = router.routes.get(dst) or router.stream
        stream.post(msg)
        if busy(stream):
            self.pause(lambda: busy(stream))

    def pause(self, waits):
        if not self.waits and self.fd is not None:
            self.waits = waits
            paused.append(self)
            self.arm()

    def go_on(self):
        if not self.waits():
            self.waits = None
            paused.remove(self)
            self.arm()
            self.parse()

    def again(self, name):
        """It asks for a module; or a signal has cut off another thread's question, which this peer shared."""
        if core.importer.join(name, core.router.stream.post, self)[1] is None:
            self.answer(name)

    def answer(self, name):
        """Send a module that it has asked for, or the reason why there is none."""
        if queue is None and name in given and core.PY3 and __debug__:
            share_out()
        if queue is None:
            given.add(name)
            self.send(name)
        else:
            with self.lock:
                self.questions += 1
            self.pause(lambda: self.questions)
            queue.append((self, name))
            wake(turn)

    def send(self, name):
        for name in self.needs(name):
            self.put(frames(name, core.PY3 and core.importer.codes.get(name.encode())))

    def needs(self, name):
        """
        The modules that it is sent when it asks for one. A process that has nothing of ours first gets what the
        module will import. All first get what opens files by their paths.
        """
        names = []
        record = core.importer.cache.get(name)
        if type(record) is tuple:
            for other in [name.rpartition('.')[0]] + list(record[4] or ()):
                other = other if isinstance(other, str) else other.encode('utf-8')
                wanted = (self.empty or other == 'mitogen.files') and other not in self.sent
                if wanted and type(core.importer.cache.get(other)) is tuple:
                    self.sent.add(other)
                    names += self.needs(other)
        self.sent.add(name)
        return names + [name]

    def close(self):
        with self.lock:
            fd, self.fd = self.fd, None
            del self.out[:]
        if fd is not None:
            peers.pop(fd, None)
            if queue is not None and not peers:
                stop_sharing()
            core.io.__dict__.get('marks', {}).pop(fd, None)
            if self in paused:
                paused.remove(self)
            core.io.remove(fd)
            os.close(fd)
        for handle in self.handles:
            core.router.del_handler(handle)


def frame(msg):
    return HEADER.pack(msg.enc, msg.dst_id, msg.src_id, msg.auth_id, msg.handle, msg.reply_to, len(msg.data)) + msg.data


def frames(name, code):
    """
    What a process gets of a module: its bytecode, if there is some, and its record, or the reason why there is none.
    """
    record = core.importer.cache.get(name)
    data = record[3] if type(record) is tuple else core.dumps((name, None, record, None, ()), 1)
    head = b''
    if code:
        head = frame(Message(core.router.context_id, handle=core.LOAD_CODE, data=name.encode('utf-8') + b'\0' + code))
    return head + frame(Message(core.router.context_id, handle=core.LOAD_MODULE, data=data))


def share_out():
    """Have mitogen.sharing answer from now on."""
    global queue, turn
    queue = deque()
    turn = _thread.allocate_lock()
    turn.acquire()
    try:
        running.start_thread(share, queue, turn)
    except Exception:
        # No memory for a thread.
        queue = None


def share(queue, turn):
    """
    Answer those in the queue, until it holds None, in a thread of its own, since the reader must not import. Whoever
    puts something in the queue releases `turn`.
    """
    try:
        from mitogen.sharing import answer
    except ImportError:
        # The parent refuses it, or is lost: what is here goes as it is.
        answer = Peer.send
    while 1:
        turn.acquire()
        while queue:
            wanted = queue.popleft()
            if wanted is None:
                return
            peer, name = wanted
            try:
                answer(peer, name)
            except Exception:
                # No memory for more than the module itself.
                peer.put(frames(name, None))
            with peer.lock:
                peer.questions -= 1
            # The reader goes on with that peer, and polls for what waits to be written.
            os.write(core.io.wake_w, b'x')


def stop_sharing():
    global queue
    queue.append(None)
    wake(turn)
    queue = None


def wake(turn):
    if turn.locked():
        turn.release()


def busy(stream):
    """Does something still wait to be written to it?"""
    return not core.io.lost and bool(stream.deferred or getattr(stream, 'writer', None) and stream.writer.full)


# Workers that multiprocessing starts, and sub-interpreters: 3.x alone has them.

# What they run before anything else, given the number of the door. It reads what boot() gives. Without a parent it
# does nothing.
BOOT = '\n'.join((
    'def f(door):',
    ' import _socket as s, os, sys, zlib',
    ' a, b = s.socketpair()',
    ' d = s.socket(fileno=door)',
    ' try:',
    '  d.sendmsg([b"s"], [(s.SOL_SOCKET, s.SCM_RIGHTS, b.fileno().to_bytes(4, sys.byteorder))])',
    ' finally:',
    '  d.detach()',
    ' b.close()',
    ' fd = a.detach()',
    ' def read(n):',
    '  data = b""',
    '  while len(data) < n:',
    '   more = os.read(fd, n - len(data))',
    '   if not more:',
    '    raise EOFError',
    '   data += more',
    '  return data',
    ' size = b""',
    ' while size[-1:] != b"\\n":',
    '  size += read(1)',
    ' source, config = zlib.decompress(read(int(size))).split(b"\\0", 1)',
    ' class Module(type(sys)):',
    '  def __getattr__(self, name):',
    '   return self.lazy(name)',
    ' sys.modules["mitogen"] = type(sys)("mitogen")',
    ' core = sys.modules["mitogen.core"] = Module("mitogen.core")',
    ' exec(compile(source, "/master:mitogen/core.py", "exec", 0, 1), core.__dict__)',
    ' core.begin(eval(config), source, fd, fd, False)',
    ' import mitogen.forked',
    ' mitogen.forked.adopt(door)',
    'try:',
    ' f(%d)',
    'except (OSError, EOFError):',
    ' pass',
    'del f',
    ''))

booted = None, None


def boot():
    """What a worker reads first: a line with the size, then the core and its config."""
    global booted
    finders = [getattr(finder, '__name__', finder) for finder in sys.meta_path]
    config = dict(core.config, logs='logging' not in core.WATCHED,
                  here='PathFinder' in finders[finders.index(core.importer):])
    loader = getattr(sys.modules.get('__main__'), '__loader__', None)
    if type(loader).__module__ == 'mitogen.script':
        config['script'] = loader.source
    for finder in list(sys.path_importer_cache.values()):
        if type(finder).__module__ == 'mitogen.script':
            names = ' '.join(name + '.' * package for name, package in sorted(finder.names.items()))
            config['dir'] = finder.path, names.encode('utf-8'), finder.disk
    text = repr(config)
    if booted[0] != text:
        packed = zlib.compress(core.core_source + b'\0' + text.encode('utf-8'), 6)
        booted = text, b'%d\n' % len(packed) + packed
    return booted[1]


def adopt(door):
    """Be what BOOT has made: no context, with the parent behind that door."""
    global outer, doorplate
    outer = door
    doorplate = running.same(door)
    core.dispatcher.pid = None
    if not core.config['logs']:
        core.WATCHED.pop('logging', None)
    elif 'logging' in sys.modules:
        core.watch(core.WATCHED.pop('logging'), sys.modules['logging'])
    if core.config['here']:
        import mitogen.resources
        mitogen.resources.prefer_here()
    fcntl.fcntl(door, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    if in_subinterpreter():
        # Its descriptors are the process's.
        import atexit
        atexit.register(lambda: close(*descriptors()))
        return
    if 'dir' in core.config:
        import mitogen.script
        mitogen.script.served_from(*core.config.pop('dir'))
    script = core.config.pop('script', None)
    if script is not None:
        import multiprocessing.spawn as spawn
        spawn._fixup_main_from_path = lambda path: run_main(spawn, path, script)


def in_subinterpreter():
    try:
        import _interpreters
    except ImportError:
        return False
    return _interpreters.get_current() != _interpreters.get_main()


def run_main(spawn, path, source):
    """In place of multiprocessing's own function, which wants the script on the disk: make it __mp_main__."""
    old = sys.modules['__main__']
    if getattr(old, '__file__', None) == path:
        # It was forked off a process that has it.
        return
    spawn.old_main_modules.append(old)
    main = sys.modules['__mp_main__'] = type(sys)('__mp_main__')
    main.__dict__.update(__file__=path, __loader__=Source(source))
    exec(compile(source, path, 'exec', 0, 1), main.__dict__)
    sys.modules['__main__'] = main


class Source(object):
    """The loader of __mp_main__, for tracebacks."""

    def __init__(self, source):
        self.source = source

    def get_source(self, _name=None):
        from importlib.util import decode_source
        return decode_source(self.source)


def watch(module):
    """multiprocessing.util and concurrent.interpreters have been imported."""
    if module.__name__ == 'multiprocessing.util':
        module.spawnv_passfds = passing_door(module.spawnv_passfds)
    else:
        interpreters = module._interpreters
        interpreters.create = with_importer(interpreters.create, getattr(interpreters, 'exec'))


def prepare():
    """
    Called before a worker or sub-interpreter is made, which is no copy of this process; the number of the door, or
    None.
    """
    with lock:
        open_door()
        help_out()
    return outer


def passing_door(real):
    def spawnv_passfds(path, args, passfds):
        args = list(args)
        at = args.index('-c') + 1 if '-c' in args else 0
        if at and 'tracker import main' not in args[at] and prepare() is not None:
            args[at] = BOOT % outer + args[at]
            passfds = list(passfds) + [outer]
        return real(path, args, passfds)
    return spawnv_passfds


def with_importer(real, run):
    def create(*args, **kwargs):
        number = real(*args, **kwargs)
        if prepare() is not None:
            run(number, BOOT % outer)
        return number
    return create


# The hooks. Before 3.7 they are around os.fork(), and a fork in C is found out by the process's id.

def hooked(real):
    def fork():
        before()
        pid = -1
        try:
            pid = real()
        finally:
            # forkpty() gives the id as the first of two values.
            if 0 in (pid if type(pid) is tuple else (pid,))[:1]:
                after_in_child()
            else:
                after_in_parent()
        return pid
    return fork


for stub in running.FORKS.values():
    stub.real = hooked(stub.real)
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_parent=after_in_parent, after_in_child=after_in_child)
