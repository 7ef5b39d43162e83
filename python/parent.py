"""
What only a child with children of its own needs: streams to them, routes, and the forwarding of modules. It comes
over the importer as mitogen.parent.

attach() turns a leaf into a parent, once. From then on one thread is always there to read (a waiter whose latch never
closes takes the reader role when nobody else does), and what is written goes through a Writer, a queue in front of a
non-blocking descriptor, so that the reader never waits for anybody.

May this peer say this now? A frame from below is dropped unless its source and its authority are behind its stream.
RULES says, for each fixed handle, who may send to it and about whom. A stream may announce only contexts that were
given to it. ALLOW says which: the master sends it behind the message that tells a context below its new numbers, and
each parent on the way reads it.

A full queue. The frame that fills it is taken; then its sender is stopped until half of the queue is gone: a child
that sends for itself is not read, and a stream that carries somebody else's frames is told by a FLOW message, since
what it carries for others must go on. FLOW goes from neighbour to neighbour towards the sender. A peer that takes
nothing for STALL seconds, or whose FLOW is that old, gets no more frames until it does; their senders get dead
messages. Dead messages stop nobody: otherwise a peer that asks and does not take the answers would stop those who
have to answer. Dead messages, what this process itself has to say, and small frames from the parent count against
MAX_UNREAD. Beyond it, the stream that does not read is ended; what siblings send it is dropped instead.

From above all has to arrive, since what is given in parts may have no hole. So FLOW from further down says until when
the parent is to wait, however old it is; a child that has taken nothing for STALL seconds, and is sent by a parent
what no dead message can answer, is ended; and the parent itself is waited for without a limit.

Locks: Relay.spawning is taken before any other. Writer.lock guards a queue; Io.lock may be taken under it. Everything
else of a Relay belongs to the reader; other threads hand it work by call_soon().
"""
from __future__ import absolute_import

import atexit
import errno
import fcntl
import os
import select
import struct
import sys
import time
from _collections import deque

import mitogen.core as core
import mitogen.running as running
from mitogen.core import HEADER, HEADER_LEN, Message, _thread

# On 3.x the C modules: signal and threading take longer to import than all that a program needs of the runtime.
signal = core.signal
Lock = _thread.allocate_lock
if core.PY3:
    RLock = core.RLock
else:
    from threading import RLock

ADD_ROUTE = 103
FORWARD_MODULE = 108
# Stock children ask their parent, ours the master.
GET_RESOURCE = 112
DETACHING = 109
# Ours alone: `id:1` asks a neighbour to send nothing to that context, `id:0` ends that. Other runtimes refuse the
# handle, which does no harm.
FLOW = 990
# Ours alone, from the master: `first:end`, the contexts that may be announced from where it is sent.
ALLOW = 987
# Ours alone, from the master: what several contexts behind a parent are sent, as SHARE and data. Without data, it is
# what the parent keeps of that number.
SHARED = 988
SHARE = struct.Struct('!QII')
# Handles on which a context, or a parent on the way to it, acts by the sender's authority. An answer there would come
# with that of whoever answers.
RESERVED = frozenset(list(range(99, 120)) + list(range(980, 999)))
# Bytes of that which are kept.
MAX_SHARED = 32 << 20

# Bytes that may wait for one peer.
LIMIT = 4 << 20
# Bytes of answers that may come on top of a full queue, each counted with FRAME_WEIGHT; then the stream is ended. A
# frame from the parent counts less, FRAME_COST: many may have been on the way when it was told to stop.
MAX_UNREAD = 16 << 20
FRAME_COST = 100
# What each frame adds to the bytes that wait: many small ones take longer to handle than their bytes say, and the
# last one waits for all of them.
FRAME_WEIGHT = 2000
# Bytes, besides one message, that a stream may bring after it was told to stop; then it is not read.
OVERFULL = 32 << 20
# Larger answers stop their sender when the queue is full.
SMALL = 4096
# Seconds after which nobody waits for a peer whose queue is full, unless it has taken PROGRESS bytes.
STALL = 60
PROGRESS = 1 << 16
# What a pipe holds once it was full, or had much.
LARGE_PIPE = 256 << 10
# Largest read of a frame that is on its way; a large frame is kept and passed on in such parts.
PART = 1 << 18
# How many names a child may ask for in all (no import needs more), and the bytes of one; how many names without a
# module are kept here.
MAX_ASKED = 10000
MAX_NAME = 1024
MAX_REFUSED = 20000
# Contexts that may be behind one stream.
MAX_ROUTES = 10000
# Contexts that one stream is told to send nothing to; beyond that it is not read.
MAX_TOLD = 1000
# A part of a large frame that is smaller than this grows by what comes next.
MIN_PART = 4096
# Contexts that one stream is remembered to have sent to.
MAX_TALKED = 1 << 16
# Descriptors that poll() gets: each of them takes time in every call. Further ones are in a Crowd.
FEW = 16

clock = core.clock
relay = None


def read_id(data):
    """The context id of `id` or `id:more`. int() takes time for many digits, and takes blanks and signs."""
    digits = data[:20].split(b':')[0]
    if not digits.isdigit() or int(digits) >> 32:
        raise ValueError('%r is no context' % digits)
    return int(digits)


def nonblock(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)


def grow_pipe(fd):
    """
    Make a pipe hold more, so that both ends are woken less often. False where it does not: it is no pipe, or large, or
    the user's limit is reached.
    """
    try:
        # F_GETPIPE_SZ, so that none becomes smaller, and F_SETPIPE_SZ, of Linux.
        return sys.platform.startswith('linux') and fcntl.fcntl(fd, 1032) < LARGE_PIPE and fcntl.fcntl(fd, 1031, LARGE_PIPE) > 0
    except EnvironmentError:
        return False


class Writer(object):
    """The queue in front of a descriptor. Any thread puts; whoever finds the descriptor writable writes."""

    def __init__(self, fd, on_error=None):
        self.fd = fd
        # Called on the reader when the descriptor is broken.
        self.on_error = on_error
        self.lock = RLock()
        self.queue = deque()
        # Bytes of the first part that are written.
        self.offset = 0
        self.size = 0
        # Frames, and their bytes, since the queue was empty.
        self.count = self.total = 0
        self.written = 0
        # Bytes written since `idle` was last reset.
        self.taken = 0
        # The reader is to call flush() when the descriptor is writable.
        self.armed = False
        self.closed = False
        # It was full before; since then a pipe has more room.
        self.grown = False
        # What to call when no more than so many bytes wait.
        self.on_room = []
        # Seconds, counted by Relay.inspect, without progress while the queue is full.
        self.idle = 0
        nonblock(fd)

    @property
    def weight(self):
        """
        Bytes that wait, and FRAME_WEIGHT for each frame; how many frames these are is taken from the average size.
        """
        size = self.size
        return size and size + size * self.count // (self.total or size) * FRAME_WEIGHT

    @property
    def full(self):
        return self.idle < STALL and self.weight > LIMIT

    @property
    def stalled(self):
        return self.idle >= STALL and self.weight > LIMIT

    def put(self, *parts):
        """Queue bytes, all of them or none, and write what can be written; never blocks."""
        with self.lock:
            if self.closed:
                return
            self.count += 1
            for part in parts:
                if part:
                    self.queue.append(part)
                    self.size += len(part)
                    self.total += len(part)
            if not self.armed:
                self.flush()

    def when_room(self, fn, limit=None):
        """Call fn, on any thread, when no more than `limit` bytes, or half of LIMIT, wait; that may be at once."""
        limit = LIMIT // 2 if limit is None else limit
        with self.lock:
            if not self.closed and self.weight > limit:
                self.on_room.append((limit, fn))
                return
        fn()

    def flush(self):
        """Write until the descriptor takes no more. The lock is held."""
        queue = self.queue
        while queue:
            part = queue[0]
            if len(queue) > 1 and len(part) < 8192 and not self.offset:
                part = self.join()
            try:
                n = os.write(self.fd, memoryview(part)[self.offset:self.offset + (1 << 20)])
            except (OSError, IOError) as e:
                if e.errno == errno.EINTR:
                    continue
                if e.errno != errno.EAGAIN:
                    self.close()
                    if self.on_error:
                        relay.call_soon(self.on_error)
                    return
                if not self.grown:
                    self.grown = True
                    if grow_pipe(self.fd):
                        continue
                break
            self.size -= n
            self.written += n
            self.offset += n
            self.taken += n
            if self.taken > PROGRESS:
                self.idle = self.taken = 0
            if self.offset == len(part):
                queue.popleft()
                self.offset = 0
        if not queue:
            self.count = self.total = 0
        if self.on_room:
            self.tell_room()
        if bool(queue) != self.armed:
            self.armed = bool(queue)
            relay.call_soon(relay.rearm, self)

    def join(self):
        """Make one part of the small ones that come first."""
        parts = []
        size = 0
        while self.queue and size < core.CHUNK:
            parts.append(self.queue.popleft())
            size += len(parts[-1])
        self.queue.appendleft(b''.join(parts))
        return self.queue[0]

    def tell_room(self):
        weight = self.weight
        waiting, self.on_room = self.on_room, []
        self.on_room = [entry for entry in waiting if weight > entry[0]]
        for limit, fn in waiting:
            if weight <= limit:
                fn()

    def close(self):
        """Drop what waits, and all that comes."""
        with self.lock:
            self.closed = True
            self.queue.clear()
            self.size = self.offset = 0
            if self.armed:
                self.armed = False
                relay.call_soon(relay.rearm, self)
            self.tell_room()


class Pieces(object):
    """What SHARED has brought over a stream, the latest: both of its ends keep the same."""

    def __init__(self):
        self.all = {}
        self.order = deque()
        self.size = 0

    def add(self, number, size, data=None):
        self.all[number] = data
        self.order.append((number, size))
        self.size += size
        while self.size > MAX_SHARED:
            number, size = self.order.popleft()
            # One that came twice is gone already.
            self.all.pop(number, None)
            self.size -= size


class Link(object):
    """A stream of a parent: with its own parent, or with a child. Reading belongs to the reader; any thread sends."""
    # Messages that the leaf's stream would keep for later.
    deferred = ()

    def __init__(self, rfd, wfd, remote_id, on_end=None):
        self.rfd = rfd
        self.wfd = wfd
        self.remote_id = remote_id
        self.on_end = on_end
        self.writer = Writer(wfd, self.on_lost)
        self.buf = b''
        # A frame that comes in parts: its header, what came, or None if it is skipped, and the bytes still to come.
        self.head = self.parts = None
        self.need = 0
        # Contexts behind its peer, and what it may announce besides: single ids, and ranges of them.
        self.routes = set()
        self.allowed = set()
        self.ranges = []
        # Bytes of answers since its queue became full; and how often it has said what it may not say.
        self.unread = self.complaints = 0
        # Modules that were sent, those that are asked for and not answered, and all that were ever asked for; for
        # stats(), how often something was asked, and asked again.
        self.modules = set()
        self.asked = set()
        self.known = set()
        self.requests = self.repeats = 0
        # Contexts that were sent to from there; and whether it may exchange messages with parents only.
        self.talked = set()
        self.unidirectional = False
        # It runs another runtime, which the master itself serves; and that one takes pickles only (MGC).
        self.foreign = self.old = False
        # It outlives its connection.
        self.detached = False
        # What its peer keeps of SHARED, without the data.
        self.pieces = None
        # Somebody waits for room in the queue; and how many contexts it is told to send nothing to.
        self.watched = False
        self.told = 0
        self.lost = False

    def post(self, msg):
        """Queue a message; never blocks."""
        data = msg.data
        if not self.charge(len(data)):
            return
        head = HEADER.pack(msg.enc, msg.dst_id, msg.src_id, msg.auth_id, msg.handle, msg.reply_to, len(data))
        if len(data) < core.CHUNK:
            self.writer.put(head + data)
        else:
            self.writer.put(head, data)

    def charge(self, size, cost=None, ends=True):
        """
        Count what nobody is stopped for; False once it is too much for a peer that does not read. What its siblings send
        does not end it, and leaves half of the room to others.
        """
        if self.writer.weight <= LIMIT or self is relay.upstream:
            self.unread = 0
            return True
        unread = self.unread + size + (cost or FRAME_WEIGHT)
        if unread <= (MAX_UNREAD if ends else MAX_UNREAD // 2):
            self.unread = unread
            return True
        if ends:
            relay.expel(self, u'it does not read what it has asked for')
        return False

    def may_announce(self, context_id):
        return context_id in self.allowed or any([first <= context_id < end for first, end in self.ranges])

    def send(self, msg):
        """Queue a message; a thread other than the reader waits for room."""
        while relay.blocked(msg.dst_id, self) and not relay.reading_here():
            latch = core.Latch()
            relay.call_soon(relay.when_free, msg.dst_id, latch.close)
            latch.wait()
        if relay.stalled(msg.dst_id, self):
            core.router.refuse(msg, u'context %d reads nothing, and its queue is full' % msg.dst_id)
        else:
            self.post(msg)

    def answer(self, name):
        """Importer.join calls this, and again()."""
        relay.send_module(self, name)

    def again(self, name):
        relay.ask_again(self, name)

    def on_readable(self, _fd=None, _event=None):
        try:
            data = os.read(self.rfd, min(self.need, PART) if self.need else core.CHUNK)
        except (OSError, IOError) as e:
            if e.errno in (errno.EAGAIN, errno.EINTR):
                return
            data = b''
        if not data:
            self.on_lost()
        elif self.need:
            self.need -= len(data)
            if self.parts and len(self.parts[-1]) < MIN_PART:
                # Otherwise a peer that sends byte by byte would make us keep many times what it sends.
                self.parts[-1] += data
            elif self.parts is not None:
                self.parts.append(data)
            if not self.need:
                head, parts, self.parts = self.head, self.parts, None
                self.take(head, parts)
        else:
            self.parse(self.buf + data if self.buf else data)

    def parse(self, data):
        pos = 0
        end = len(data)
        while end - pos >= HEADER_LEN and not self.lost:
            head = HEADER.unpack_from(data, pos)
            length = head[6]
            stop = pos + HEADER_LEN + length
            if head[0] not in (core.MGC, core.PKL, core.BIN):
                relay.expel(self, u'something else wrote into it: %r' % data[pos:pos + 80])
                self.on_lost()
                return
            if stop > end and length > core.CHUNK:
                self.head = head
                self.need = stop - end
                self.parts = [data[pos:]] if length <= core.router.max_message_size else None
                pos = end
            if stop > end:
                break
            self.take(head, [data[pos:stop]] if length <= core.router.max_message_size else None)
            pos = stop
        self.buf = data[pos:]

    def take(self, head, parts):
        """A frame has come. Whatever is wrong with it harms nobody else."""
        try:
            if parts is None:
                relay.refuse(head, u'message is %d bytes; at most %d are sent' % (
                    head[6], core.router.max_message_size))
            else:
                relay.on_frame(head, parts, self)
        except Exception as e:
            if type(e) is MemoryError and self is relay.upstream:
                # What was not kept would be missed later. A child cannot end this process so.
                raise
            relay.complain(self, u'a message from context %d for handle %d: %r' % (head[2], head[4], e), 40)

    def on_lost(self):
        if not self.lost:
            self.lost = True
            relay.on_lost(self)


class Crowd(object):
    """
    Many descriptors in a set of epoll's, where there is epoll: idle ones take no time. The poller polls the set.
    Forked processes share the set, and have to close it. On the reader.
    """

    def __init__(self, on_event):
        self.on_event = on_event
        self.epoll = None
        # What each is polled for.
        self.masks = {}

    def watch(self, fd, mask):
        """Poll for it here; False if that cannot be."""
        try:
            if self.epoll is None:
                self.epoll = select.epoll()
                core.cloexec(self.epoll.fileno())
                core.io.add(self.epoll.fileno(), self.on_readable)
            if fd in self.masks:
                self.epoll.modify(fd, mask)
            else:
                self.epoll.register(fd, mask)
        except (AttributeError, OSError, IOError):
            # There is no epoll; or it does not take this kind, or no more descriptors.
            self.forget(fd)
            return False
        self.masks[fd] = mask
        return True

    def forget(self, fd):
        """Poll for it no more; it is still open. False if it is not polled for here."""
        if self.masks.pop(fd, None) is None:
            return False
        try:
            self.epoll.unregister(fd)
        except (OSError, IOError):
            # User code has closed it: it stays in the set for as long as it is open in another process.
            self.renew()
        return True

    def renew(self):
        """Begin with a new set."""
        masks = dict(self.masks)
        self.close()
        for fd, mask in masks.items():
            if not self.watch(fd, mask):
                core.io.handlers[fd] = self.on_event
                core.io.poller.register(fd, mask)

    def close(self):
        self.masks.clear()
        epoll, self.epoll = self.epoll, None
        if epoll is not None:
            core.io.remove(epoll.fileno())
            try:
                epoll.close()
            except (OSError, IOError):
                pass

    def on_readable(self, _fd, _event):
        try:
            ready = self.epoll.poll(0)
        except (OSError, IOError) as e:
            if e.errno != errno.EINTR:
                # User code has closed it.
                self.renew()
            return
        if any([fd not in self.masks for fd, _ in ready]):
            self.renew()
            return
        for fd, event in ready:
            if fd in self.masks:
                self.on_event(fd, event)


class Relay(object):
    """Routes between the parent and the children, and passes modules down."""

    def __init__(self):
        self.router = core.router
        self.importer = core.importer
        self.upstream = None
        self.children = {}
        # Held while descriptors are made and given to a process, so that no other process inherits them.
        self.spawning = Lock()
        self.ending = False
        # Seconds that the end of this process waits for a process that is being started.
        self.start_time = 2
        # For the poller: what to do for a descriptor; its Writer; what it is polled for.
        self.readers = {}
        self.writers = {}
        self.events = {}
        self.crowd = Crowd(self.on_event)
        # The thread that handles an event just now.
        self.reader = None
        self.jobs = deque()
        # What is not read until a context may be sent to; who else waits for that; and which neighbour has been told
        # of it, with the bytes that it has brought all the same.
        self.held = {}
        self.waiting = []
        self.told = {}
        # Contexts for which a neighbour wants no messages, with the time from which nobody waits for them.
        self.stopped = {}
        # What the parent has brought by SHARED.
        self.pieces = Pieces()
        # Names without a module that children have asked for.
        self.refused = 0
        # A token of the thread that counts seconds.
        self.patrolling = None
        # It is never closed: who waits for it reads when nobody else does.
        self.forever = core.Latch()
        # Called at the end, each to end what it has started.
        self.at_end = []
        # Each gives further descriptors of this process that nobody else may keep open.
        self.owners = []
        self.wake_r, self.wake_w = os.pipe()
        for fd in self.wake_r, self.wake_w:
            core.cloexec(fd)
            nonblock(fd)

    def start(self):
        """Take over from the leaf's stream. Runs on the reader, so that nobody else reads or posts."""
        old = self.router.stream
        with old.wlock:
            new = self.upstream = Link(old.rfd, old.wfd, old.remote_id)
            data = old.buf
            if old.need:
                # Within a large frame.
                data = bytes(old.view[:-old.need]) if core.PY3 else b''.join(old.parts)
                msg = old.msg
                data = HEADER.pack(msg.enc, msg.dst_id, msg.src_id, msg.auth_id, msg.handle, msg.reply_to,
                                   len(data) + old.need) + data
            for msg in old.deferred:
                new.post(msg)
            old.deferred = []
            # For threads that wait for wlock at this moment.
            old.write = Assembler(new.writer).write
            old.post = new.post
            self.router.stream = new
        self.router.on_stream_lost = self.on_parent_lost
        for handle, (fn, sender, about) in RULES.items():
            # The rest are the leaf's.
            fn = getattr(self, fn) if fn else self.router.handlers.get(handle, (None,))[0]
            if fn:
                self.router.add_handler(fn, handle, policy=self.policy(sender, about), overwrite=True)
        self.read_from(new.rfd, new.on_readable)
        if core.stdio.rfd is not None:
            self.read_from(core.stdio.rfd, self.on_stdio)
        core.io.evict = self.evict
        atexit.register(self.leave)
        new.parse(data)

    def own(self):
        """Descriptors of this process that nobody else may keep open."""
        fds = set(self.events) | set(self.writers) | set((self.wake_r, self.wake_w))
        for link in list(self.children.values()) + [self.upstream]:
            fds.update((link.rfd, link.wfd))
        for owner in self.owners:
            fds.update(owner())
        return fds

    def log(self, text, level=20):
        """As core.log, from the reader."""
        self.upstream.post(Message(0, handle=core.FORWARD_LOG,
                                   data=(u'mitogen\0%d\0%s' % (level, text)).encode('utf-8', 'replace')))

    def complain(self, link, text, level=30):
        """Log what a peer should not have said: ten times, and then whenever it is twice as often."""
        link.complaints += 1
        if link.complaints > 10:
            if link.complaints & link.complaints - 1:
                return
            text = u'%s (%d such messages came over this stream)' % (text[:300], link.complaints)
        self.log(text[:400], level)

    def expel(self, link, reason):
        """End the stream of a child, from any thread."""
        if link is not self.upstream and not link.writer.closed:
            # What waits for it is let go at once.
            link.writer.close()
            self.call_soon(self.log, u'ended the connection with context %d: %s' % (link.remote_id, reason), 40)
            self.call_soon(link.on_lost)

    # The end.

    def on_parent_lost(self, _stream):
        self.pieces = Pieces()
        self.read_from(self.upstream.rfd, self.upstream.on_readable, False)
        type(self.router).on_stream_lost(self.router, self.upstream)
        # At once, so that all levels of the tree learn of it at the same time.
        for link in list(self.children.values()):
            link.on_lost()
        self.check()

    def evict(self):
        """The parent is lost and user code runs. Only the first signal comes before our own children are gone."""
        if core.io.lost is True and not core.io.running:
            # The main thread is on its way out, and may be in leave().
            core.io.lost = clock()
        elif core.io.lost is True or not any([end(False) for end in self.at_end]):
            running.evict(core.io)

    def may_start(self):
        """Raise if this process is ending: nobody would end what it starts now. `spawning` is held."""
        if self.ending:
            raise core.Error('this process ends, and starts nothing')

    def leave(self):
        """The process ends: so does what it has started. On the main thread."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for link in list(self.children.values()):
            self.call_soon(link.on_lost)
        end = clock() + self.start_time
        # What is being started is there by then, and is ended with the others.
        taken = self.spawning.acquire(False)
        while not taken and clock() < end:
            time.sleep(0.003)
            taken = self.spawning.acquire(False)
        self.ending = True
        if taken:
            self.spawning.release()
        busy = self.at_end
        while busy:
            busy = [end for end in busy if end(True)]
            time.sleep(0.003)

    # The poller.

    def call_soon(self, fn, *args):
        """Run fn on the reader."""
        self.jobs.append((fn, args))
        try:
            os.write(self.wake_w, b'x')
        except (OSError, IOError):
            # Full: the reader will wake.
            pass

    def on_wake(self, _fd, _event):
        try:
            os.read(self.wake_r, 4096)
        except (OSError, IOError):
            pass
        self.reader = _thread.get_ident()
        try:
            while self.jobs:
                fn, args = self.jobs.popleft()
                try:
                    fn(*args)
                except MemoryError:
                    running.out_of_memory()
                except Exception as e:
                    # Without the reader nothing goes on.
                    self.log((u'%s: %r' % (fn.__name__, e))[:400], 40)
        finally:
            self.reader = None

    def reading_here(self):
        return self.reader == _thread.get_ident()

    def rearm(self, writer):
        """The writer wants, or no longer wants, to know when its descriptor is writable."""
        if not writer.closed:
            self.writers[writer.fd] = writer
        elif self.writers.get(writer.fd) is writer:
            del self.writers[writer.fd]
        else:
            # The descriptor is somebody else's by now.
            return
        self.poll_for(writer.fd)

    def read_from(self, fd, handler, on=True):
        """Start or stop to read from a descriptor."""
        self.readers[fd] = handler
        self.events[fd] = select.POLLIN if on else 0
        self.poll_for(fd)

    def poll_for(self, fd):
        writer = self.writers.get(fd)
        mask = self.events.get(fd, 0) | (select.POLLOUT if writer and writer.armed else 0)
        io = core.io
        if not mask:
            self.rest(fd)
        elif (fd in io.handlers or len(io.handlers) < FEW and fd not in self.crowd.masks
                or not self.crowd.watch(fd, mask)):
            io.handlers[fd] = self.on_event
            io.poller.register(fd, mask)

    def rest(self, fd):
        """Poll for it no more."""
        if not self.crowd.forget(fd):
            core.io.remove(fd)

    def on_event(self, fd, event):
        self.reader = _thread.get_ident()
        try:
            writer = self.writers.get(fd)
            if writer and writer.armed and event & ~select.POLLIN:
                with writer.lock:
                    writer.flush()
            if event & ~select.POLLOUT and self.events.get(fd):
                self.readers[fd](fd, event)
        except MemoryError:
            # On whatever thread reads.
            running.out_of_memory()
        finally:
            self.reader = None

    def drop(self, fd):
        """Forget a descriptor, which is then closed."""
        for table in self.events, self.readers, self.writers, self.held:
            table.pop(fd, None)
        self.rest(fd)

    # Full queues.

    def way(self, dst):
        return self.router.routes.get(dst) or self.upstream

    def blocked(self, dst, link):
        return not core.io.lost and (link.writer.full or self.stopped and self.stopped.get(dst, 0) > clock())

    def stalled(self, dst, link):
        return link.writer.stalled or self.stopped and 0 < self.stopped.get(dst, 0) < clock()

    def when_free(self, dst, fn):
        """Call fn once that context may be sent to."""
        self.waiting.append((dst, fn))
        self.check()

    def hold(self, fd, dst):
        """Read no more from fd until that context may be sent to."""
        if self.events.get(fd):
            self.read_from(fd, self.readers[fd], False)
            self.held[fd] = dst
            self.watch(dst)

    def stop(self, link, src, dst, answer, size):
        """The link has brought a message for a context that takes no more for now."""
        if link is not self.upstream and (src == link.remote_id or link.told >= MAX_TOLD):
            if not answer:
                self.hold(link.rfd, dst)
        elif (link, dst) not in self.told:
            link.told += 1
            self.told[link, dst] = 0
            link.post(Message(link.remote_id, handle=FLOW, data=b'%d:1' % dst))
            self.watch(dst)
        elif link is not self.upstream and not answer:
            # What was on its way, or it goes on all the same.
            self.told[link, dst] += size
            if self.told[link, dst] - size > OVERFULL + self.router.max_message_size:
                self.hold(link.rfd, dst)

    def watch(self, dst):
        """Somebody waits until that context may be sent to."""
        link = self.way(dst)
        if not link.watched:
            link.watched = True
            link.writer.when_room(lambda: self.call_soon(self.on_room, link))
        if not self.patrolling:
            self.patrolling = token = object()
            running.start_thread(self.patrol, token)

    def on_room(self, link):
        link.watched = False
        self.check()

    def check(self):
        """Let those go on who have nothing to wait for any more."""
        still = set()

        def free(dst):
            if self.blocked(dst, self.way(dst)):
                still.add(dst)
                return False
            return True
        for fd, dst in list(self.held.items()):
            if free(dst):
                del self.held[fd]
                self.read_from(fd, self.readers[fd])
        for link, dst in list(self.told):
            # For the parent, who is down there says it: beyond STALL it may have begun to read.
            if not (link is self.upstream and dst in self.stopped) and free(dst):
                link.told -= 1
                self.told.pop((link, dst), None)
                link.post(Message(link.remote_id, handle=FLOW, data=b'%d:0' % dst))
        waiting, self.waiting = self.waiting, []
        for dst, fn in waiting:
            if free(dst):
                fn()
            else:
                self.waiting.append((dst, fn))
        for dst in still:
            if self.way(dst).writer.full:
                self.watch(dst)

    def patrol(self, token):
        """On a thread of its own, while anybody waits."""
        while self.patrolling is token:
            time.sleep(1)
            self.call_soon(self.inspect)

    def inspect(self):
        # The parent is waited for however long it takes: nobody else could be given what is for it.
        for link in list(self.children.values()):
            if link.writer.weight > LIMIT:
                link.writer.idle += 1
        self.check()
        if not (self.held or self.told or self.waiting):
            self.patrolling = None

    def on_flow(self, msg):
        dst = read_id(msg.data)
        if msg.data.endswith(b':1'):
            # For a parent itself there is nobody else to give it to.
            above = msg.src_id == self.upstream.remote_id and dst in self.router.parent_ids
            self.stopped.setdefault(dst, float('inf') if above else clock() + STALL)
        elif self.stopped.pop(dst, None):
            self.check()

    def on_stdio(self, fd, event):
        core.stdio.on_readable(fd, event)
        if core.stdio.rfd is None:
            # It has closed the descriptor.
            self.drop(fd)
        elif self.blocked(0, self.upstream):
            self.hold(fd, 0)

    # Routing.

    def policy(self, sender, about):
        """The policy of a row of RULES, for Router.add_handler. `stream` is None for a message of our own."""
        def allows(msg, stream):
            if (msg.reply_to != core.IS_DEAD and sender(self, msg, stream)
                    and (about is None or about(self, read_id(msg.data), stream))):
                return True
            if stream is not None:
                self.complain(stream, u'refused a message from context %d for handle %d: %r' % (
                    msg.src_id, msg.handle, msg.data[:40]))
                if msg.handle == ADD_ROUTE and self.router.routes.get(read_id(msg.data)) is not stream:
                    # A parent below, which has passed it on, forgets it.
                    stream.post(Message(stream.remote_id, handle=core.DEL_ROUTE, data=b'%d' % read_id(msg.data)))
            return False
        return allows

    def child(self, msg, stream):
        """From an immediate child."""
        return stream is not None and self.children.get(msg.src_id) is stream

    def neighbour(self, msg, stream):
        """From an immediate child, or the parent."""
        return self.child(msg, stream) or stream is self.upstream and msg.src_id == stream.remote_id

    def above(self, msg, stream):
        """By authority of a parent, or our own."""
        return stream in (self.upstream, None) and core.has_parent_authority(msg)

    def given(self, context_id, link):
        """It was given to that stream, and is not there yet."""
        return context_id not in self.router.routes and link.may_announce(context_id) and len(link.routes) < MAX_ROUTES

    def behind(self, context_id, link):
        """It is reached over that stream, and is not its peer."""
        return context_id != link.remote_id and self.way(context_id) is link and context_id != self.router.context_id

    def behind_or_refused(self, context_id, link):
        """Also what we have announced ourselves, and the parent does not take."""
        return self.behind(context_id, link) or link is self.upstream and context_id not in self.children

    def add_child(self, link):
        """Take a child into the tree. On the reader."""
        self.children[link.remote_id] = self.router.routes[link.remote_id] = link
        self.upstream.post(Message(self.upstream.remote_id, handle=ADD_ROUTE, data=b'%d' % link.remote_id))
        self.read_from(link.rfd, link.on_readable)
        if core.io.lost:
            link.on_lost()

    def refuse(self, head, reason):
        _, dst, src, _, _, reply_to, _ = head
        if reply_to and reply_to != core.IS_DEAD:
            dead = Message.dead(reason, dst_id=src, handle=reply_to)
            if dst in self.router.routes:
                # Who waits cannot know that we lead there.
                dead.src_id = dst
            self.way(src).post(dead)

    def on_frame(self, head, parts, link):
        """A frame that came in. The first of its parts begins with the header."""
        enc, dst, src, auth, handle, reply_to, _ = head
        routes = self.router.routes
        below = link is not self.upstream
        if below and (routes.get(src) is not link or auth != src and routes.get(auth) is not link):
            self.complain(link, u'dropped a message with a false source: %d, by authority of %d, from below context %d' % (
                src, auth, link.remote_id))
            return
        if below and reply_to in RESERVED:
            self.complain(link, u'dropped a message from context %d, whose answer would go to handle %d' % (src, reply_to))
            return
        if dst == self.router.context_id and link.foreign and handle in (core.GET_MODULE, GET_RESOURCE):
            dst = 0
            parts = [HEADER.pack(enc, *((dst,) + head[2:])) + parts[0][HEADER_LEN:]] + parts[1:]
        if dst == self.router.context_id:
            data = parts[0][HEADER_LEN:] if len(parts) == 1 else b''.join(parts)[HEADER_LEN:]
            if below and reply_to == core.IS_DEAD and src == link.remote_id:
                # It leads to the respondent.
                respondent = self.router.handlers.get(handle, (0, 0, 0))[2]
                if routes.get(respondent) is link:
                    src = respondent
            self.router.deliver(Message(dst, src, auth, handle, reply_to, data, enc), link)
            return
        number = None
        # By authority of a parent: others may be somewhere above as well.
        orders = not below and auth in self.router.parent_ids
        if handle == SHARED and orders:
            head, parts, number = self.unshare(head, parts)
            handle, reply_to = head[4:6]
        out = routes.get(dst)
        if out is None and below:
            out = self.upstream
        if out is None or out is link:
            self.refuse(head, u'no route to context %d' % dst)
        elif link.unidirectional and dst not in self.router.parent_ids or \
                out.unidirectional and src not in self.router.parent_ids:
            self.refuse(head, u'context %d may not send to context %d: one of them talks to its parents only' % (
                src, dst))
        elif self.stalled(dst, out) if below else out.writer.stalled:
            self.refuse(head, u'context %d reads nothing, and its queue is full' % dst)
            if orders and reply_to in (0, core.IS_DEAD):
                # A part of what it is given, or what it waits for: nobody can be told that it does not get it.
                self.expel(out, u'it reads nothing')
        else:
            size = head[6]
            # From above FLOW counts however old it is, see check().
            full = self.blocked(dst, out) or not below and dst in self.stopped
            # Whoever asks and does not read may force it on its sender.
            answer = reply_to == core.IS_DEAD and size < SMALL
            if full and (answer or not below and size < SMALL) and not out.charge(
                    size, None if answer else FRAME_COST, orders):
                self.refuse(head, u'context %d reads nothing, and its queue is full' % dst)
                return
            if handle == ALLOW and orders:
                first, _, end = b''.join(parts)[HEADER_LEN:].partition(b':')
                self.allow(out, int(first), int(end))
                if dst == out.remote_id:
                    return
            if len(link.talked) < MAX_TALKED:
                link.talked.add(dst)
            if number is not None:
                parts = self.share(out, head, parts, number)
            if out.old and enc != core.MGC:
                data = b''.join(parts)[HEADER_LEN:]
                if enc == core.BIN:
                    data = core.dumps(core.Blob(data), 2)
                out.writer.put(HEADER.pack(core.MGC, dst, src, auth, handle, reply_to, len(data)) + data)
            else:
                out.writer.put(*parts)
            if full or self.blocked(dst, out):
                self.stop(link, src, dst, answer and (out is not self.upstream or not out.writer.full), size)

    def unshare(self, head, parts):
        """
        Keep the data of SHARED, or find it. The last parent on the way makes the frame of it; for another, the number
        stays with it.
        """
        body = b''.join(parts)[HEADER_LEN:]
        number, handle, last = SHARE.unpack_from(body)
        data = body[SHARE.size:]
        if data:
            self.pieces.add(number, len(data), data)
        elif number in self.pieces.all:
            data = self.pieces.all[number]
        else:
            # What its context gets would have a hole.
            self.upstream.on_lost()
            raise core.Error('piece %d is not here', number)
        if last == self.router.context_id:
            head = head[:4] + (handle, head[5], len(data))
            return head, [HEADER.pack(*head), data], None
        return head[:6] + (SHARE.size + len(data),), [body[:SHARE.size], data], number

    def share(self, out, head, parts, number):
        """The frame for the next parent, without the data that it keeps."""
        out.pieces = out.pieces or Pieces()
        note, data = parts
        if number in out.pieces.all:
            data = b''
        else:
            out.pieces.add(number, len(data))
        return [HEADER.pack(*(head[:6] + (len(note) + len(data),))) + note, data]

    def on_shared(self, _msg):
        """Nothing that was shared is wanted any more."""
        self.pieces = Pieces()
        for link in list(self.children.values()):
            if link.pieces:
                link.pieces = None
                link.post(Message(link.remote_id, handle=SHARED))

    def allow(self, link, first, end):
        """Contexts from first to end were given to somebody behind that stream; without any, first is taken back."""
        if end == first:
            link.allowed.discard(first)
        elif end == first + 1:
            link.allowed.add(first)
        else:
            link.ranges.append((first, end))

    def on_add_route(self, msg):
        link = self.children[msg.src_id]
        route_id = read_id(msg.data)
        link.allowed.discard(route_id)
        link.routes.add(route_id)
        self.router.routes[route_id] = link
        self.upstream.post(Message(self.upstream.remote_id, handle=ADD_ROUTE, data=msg.data[:200]))

    def on_del_route(self, msg):
        gone = read_id(msg.data)
        link = self.router.routes.get(gone)
        if msg.src_id == self.upstream.remote_id:
            if link:
                # Another route of that number is refused, there and here.
                link.routes.discard(gone)
                del self.router.routes[gone]
            self.tell(gone, self.upstream)
        else:
            self.lose([gone], link)

    def on_detaching(self, msg):
        self.children[msg.src_id].detached = True
        msg.reply(Message.pickled(None, dst_id=msg.src_id))

    def tell(self, gone, source):
        """This process and the children that have sent to a lost context learn of it."""
        self.router.forget(gone)
        for link in list(self.children.values()):
            if link is not source and gone in link.talked:
                link.talked.discard(gone)
                link.post(Message(link.remote_id, handle=core.DEL_ROUTE, data=b'%d' % gone))
        if self.stopped.pop(gone, None):
            self.check()

    def lose(self, ids, link):
        for gone in ids:
            self.router.routes.pop(gone, None)
            link.routes.discard(gone)
            self.upstream.post(Message(self.upstream.remote_id, handle=core.DEL_ROUTE, data=b'%d' % gone))
            self.tell(gone, link)

    def on_lost(self, link):
        """A stream has ended: everything behind it is gone."""
        if link is self.upstream:
            self.router.on_stream_lost(link)
            return
        if self.children.get(link.remote_id) is not link:
            return
        del self.children[link.remote_id]
        for fd in link.rfd, link.wfd:
            self.drop(fd)
        link.writer.close()
        self.told = dict((pair, size) for pair, size in self.told.items() if pair[0] is not link)
        self.lose([link.remote_id] + list(link.routes), link)
        for fd in set((link.rfd, link.wfd)):
            try:
                os.close(fd)
            except (OSError, IOError):
                # User code has closed it.
                pass
        self.check()
        if link.on_end:
            link.on_end()

    # Modules.

    def on_get_module(self, msg):
        """A child asks: answer from what is here, or ask the parent once for everybody. Never blocks."""
        link = self.children[msg.src_id]
        name = msg.data.decode('utf-8', 'replace')
        if len(msg.data) > MAX_NAME:
            self.refuse_module(link, name, u'its name is longer than %d bytes' % MAX_NAME)
            return
        if not isinstance(name, str):
            name = name.encode('utf-8')
        link.requests += 1
        link.repeats += name in link.known
        if name in link.asked:
            return
        if len(link.known) >= MAX_ASKED and name not in link.known:
            self.expel(link, u'it has asked for %d modules' % MAX_ASKED)
            return
        link.known.add(name)
        link.asked.add(name)
        self.ask(link, name)

    def ask(self, link, name):
        """Answer a child, or have it answered."""
        try:
            _, latch = self.importer.join(name, self.upstream.post, link)
        except Exception as e:
            link.asked.discard(name)
            self.refuse_module(link, name, u'%s' % type(e).__name__)
            raise
        if latch is None:
            self.send_module(link, name)

    def ask_again(self, link, name):
        """For the importer: a signal has cut off the question of another thread, which was this child's as well."""
        if not self.reading_here():
            self.call_soon(self.ask, link, name)

    def refuse_module(self, link, name, reason):
        text = name if isinstance(name, core.text_type) else name.decode('utf-8', 'replace')
        link.post(Message.pickled((text, None, reason, None, ()), dst_id=link.remote_id, handle=core.LOAD_MODULE))

    def send_module(self, link, name):
        """The answer to a request; related modules that are here go first."""
        link.asked.discard(name)
        record = self.importer.cache.get(name)
        if type(record) is not tuple:
            reason = record if record is None or isinstance(record, core.text_type) else record.decode('utf-8', 'replace')
            self.refuse_module(link, name, reason)
            self.refused += 1
            if self.refused >= MAX_REFUSED:
                # Asked for them again, we ask again.
                self.refused = 0
                with self.importer.lock:
                    for key in [k for k, v in self.importer.cache.items() if type(v) is not tuple]:
                        del self.importer.cache[key]
                # Its index goes by the number of records. The reader does not import it.
                if 'mitogen.resources' in sys.modules:
                    sys.modules['mitogen.resources'].counted = None
            return
        for related in record[4] or ():
            self.push_module(link, related if isinstance(related, str) else related.encode('utf-8'), name)
        self.push_module(link, name, name)

    def push_module(self, link, name, asked=None):
        record = self.importer.cache.get(name)
        if type(record) is not tuple or name in link.modules:
            return
        if 'mitogen.files' in (record[4] or ()):
            self.push_module(link, 'mitogen.files')
        package = name.rpartition('.')[0]
        if package and package not in link.modules and package not in ('mitogen', asked):
            self.push_module(link, package, asked)
            if package not in link.modules and name != asked:
                return
        link.modules.add(name)
        link.post(Message(link.remote_id, handle=core.LOAD_MODULE, data=record[3]))

    def on_forward_module(self, msg):
        """The parent has sent a module here, and pushes it towards a context below."""
        target, _, name = msg.data.partition(b'\0')
        if not isinstance(name, str):
            name = name.decode('utf-8')
        link = self.router.routes.get(int(target))
        if link is None:
            return
        self.push_module(link, name)
        if link.remote_id != int(target):
            link.post(Message(link.remote_id, handle=FORWARD_MODULE, data=msg.data))


# For each fixed handle: who handles it, who may send to it, and about whom. Dynamic handles have policies of their
# own; all that goes to context 0 (ALLOCATE_ID, CONNECT, GET_RESOURCE, FORWARD_LOG) is judged there.
RULES = {
    core.GET_MODULE: ('on_get_module', Relay.child, None),
    core.CALL_FUNCTION: (None, Relay.above, None),
    ADD_ROUTE: ('on_add_route', Relay.child, Relay.given),
    core.DEL_ROUTE: ('on_del_route', Relay.neighbour, Relay.behind_or_refused),
    core.SHUTDOWN: (None, Relay.above, None),
    core.LOAD_MODULE: (None, Relay.above, None),
    FORWARD_MODULE: ('on_forward_module', Relay.above, None),
    DETACHING: ('on_detaching', Relay.child, None),
    core.LOAD_CODE: (None, Relay.above, None),
    SHARED: ('on_shared', Relay.above, None),
    FLOW: ('on_flow', Relay.neighbour, Relay.behind),
}


class Assembler(object):
    """What the leaf's stream still writes, in pieces, becomes whole frames in the queue."""

    def __init__(self, writer):
        self.writer = writer
        self.data = b''

    def write(self, data):
        data = self.data + data
        if len(data) >= HEADER_LEN and len(data) == HEADER_LEN + HEADER.unpack_from(data)[6]:
            self.writer.put(data)
            data = b''
        self.data = data


attaching = Lock()


def leaf():
    """In a process that was forked off: this is no parent, and nothing of the old one ends with it."""
    global relay, attaching
    if relay is not None:
        if core.PY3:
            atexit.unregister(relay.leave)
        else:
            atexit._exithandlers[:] = [h for h in atexit._exithandlers if h[0] != relay.leave]
        relay.crowd.close()
    relay = None
    attaching = Lock()
    for name in 'guard', 'process', 'program', 'launch':
        if 'mitogen.' + name in sys.modules:
            sys.modules['mitogen.' + name].leaf()


def attach():
    """Make this process fit to have children; gives the Relay. Not on the reader."""
    global relay
    if core.forked():
        raise core.Error('a process that was forked off a context has no children of its own')
    with attaching:
        if relay is None:
            new = Relay()
            started = core.Latch()

            def start():
                global relay
                try:
                    # If the connection is lost, handlers get a dead message at once, and this process ends.
                    if not core.io.lost:
                        relay = new
                        new.start()
                finally:
                    started.close()

            def begin(_msg):
                new.jobs.append((start, ()))
                core.io.add(new.wake_r, new.on_wake)
                os.write(new.wake_w, b'x')
            # The parent answers a message that has no handle with a dead one. So begin() runs on the reading thread,
            # whichever that is and whatever it polls; start() runs when that thread is done with what it has read.
            handle = core.router.add_handler(begin, persist=False, policy=core.has_parent_authority)
            core.router.stream.send(Message(core.router.stream.remote_id, reply_to=handle))
            started.wait()
            if relay is None:
                raise core.Error('the connection is lost')
            running.start_thread(relay.forever.wait)
            # The ticker sees to the end of this process where no call comes.
            core.io.start_ticker()
    return relay


def upgrade_router(econtext):
    """Mitogen's name for attach(). The routers of this runtime need no upgrade."""
    attach()


def stats():
    """What this process does for its children: counts for each of them, by context id."""
    links = relay.children if relay else {}
    return dict((i, {u'requests': link.requests, u'repeats': link.repeats, u'modules': len(link.modules),
                     u'queued': link.writer.size, u'written': link.writer.written})
                for i, link in list(links.items()))
