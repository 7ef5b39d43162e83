"""
The child runtime: what runs on a target. It answers to the names `mitogen` and `mitogen.core`, since the pickles on the
wire name them and since code that was written for Mitogen's children imports its classes from there.

Importing this file does next to nothing; main() acts. One dialect for CPython 2.7 and 3.6 and later. A child is sent
only the lines of its generation: those below a comment `# Only 2.x.` or `# Only 3.x.` are for that one, up to
`# For both.`; the others are blank.

Threads. There is no I/O thread. Whoever waits (Latch.get) may take the reader role and read for everybody; other
waiters sleep on a lock of their own, and the role is handed on when its holder has what it waited for. While the main
thread runs user code, a ticker thread drains the stream every TICK seconds. Code that runs under the reader role
never blocks, never imports and runs no user code. Locks: Io.lock guards latches, sleepers and the role; Importer.lock
guards its two tables; Stream.wlock serialises writers. Order: Importer.lock, then Io.lock. wlock is never held while
another is taken.

Processes that user code forks off are the business of mitogen.forked, which is fetched before the first fork.
"""
# Only 2.x.
from __future__ import absolute_import
# For both.
import sys
import os
import errno
import itertools
import select
import time
import zlib
from _struct import Struct

PY3 = sys.version_info[0] == 3
if PY3:
    # Only 3.x.
    import _functools
    import _signal as signal
    import _thread
    # Since 3.12 _pickle imports functools, most of its time, to have one class of _functools.
    fresh = 'functools' not in sys.modules
    if fresh:
        sys.modules['functools'] = _functools
    import _pickle as pickle
    if fresh:
        del sys.modules['functools']
    from io import BytesIO, FileIO
    # glibc's malloc learns from it: it maps no memory for blocks of less, and keeps up to twice as much that is free.
    # Programs are forked off with that.
    bytes(4 << 20)
    import _imp
    from _frozen_importlib import ModuleSpec, _find_spec
    import _frozen_importlib_external as frozen
    RLock = _thread.RLock
    text_type = str
    # For both.
    pass
else:
    # Only 2.x.
    import imp
    import marshal
    import signal
    import thread as _thread
    import cPickle as pickle
    from cStringIO import StringIO as BytesIO
    RLock = _thread.allocate_lock
    text_type = unicode
    # As bytes() for 3.x, without writing to it.
    try:
        os.read(-1, 4 << 20)
    except OSError:
        pass
    # For both.
    pass

GET_MODULE = 100
CALL_FUNCTION = 101
FORWARD_LOG = 102
DEL_ROUTE = 104
SHUTDOWN = 106
LOAD_MODULE = 107
LOAD_CODE = 989
IS_DEAD = 999

MGC = 0x4d49
PKL = 0x4d4a
BIN = 0x4d4b
HEADER = Struct('>HLLLLLL')
HEADER_LEN = HEADER.size

# Only 3.x.
clock = time.monotonic
# Only 2.x.
clock = time.time
# For both.
# One os.read; below malloc's mmap threshold.
CHUNK = 65000

# The one Io, Router and Importer of this process, set by main(). A forked child replaces them.
io = router = importer = None
# Modules of the standard library, and what of ours watches them once they are imported.
WATCHED = {
    # Only 3.x.
    'multiprocessing.util': 'mitogen.forked', 'concurrent.interpreters': 'mitogen.forked',
    # For both.
    'logging': 'mitogen.resources', 'pkg_resources': 'mitogen.projects'}


class Error(Exception):
    """Base of what this module raises."""

    def __init__(self, fmt=None, *args):
        if args:
            fmt %= args
        if isinstance(fmt, bytes):
            fmt = fmt.decode('utf-8', 'replace')
        Exception.__init__(self, fmt)


class LatchError(Error):
    """The latch was closed while, or before, somebody waited for it."""


class TimeoutError(Error):
    """The time given passed without a message."""


class Blob(bytes):
    """Bytes that are bytes in both generations and show no content in a repr."""

    def __repr__(self):
        return '[blob: %d bytes]' % len(self)

    def __reduce__(self):
        return Blob, (bytes(self),)


class Kwargs(dict):
    """Keyword arguments whose names are of the type that this Python's calls take."""

    def __init__(self, dct):
        for k, v in dct.items():
            # Only 3.x.
            if isinstance(k, bytes):
                k = k.decode()
            # Only 2.x.
            if not PY3 and isinstance(k, text_type):
                k = k.encode()
            # For both.
            self[k] = v

    def __reduce__(self):
        return Kwargs, (dict(self),)


def has_parent_authority(msg, _stream=None):
    """Policy: the message acts for this context or one of its parents."""
    return msg.auth_id == router.context_id or msg.auth_id in router.parent_ids


def rest_of(self, name):
    """`__getattr__` of a class: what it lacks is in the module `rest`, which is fetched when first used."""
    if name[0] == '_' or io.lost:
        raise AttributeError(name)
    try:
        __import__(self.rest)
    except ImportError:
        raise AttributeError(name)
    return getattr(sys.modules[self.rest], name).__get__(self)


class Message(object):
    """One message: the header's fields, and `data`, the payload."""
    __slots__ = ('dst_id', 'src_id', 'auth_id', 'handle', 'reply_to', 'data', 'enc', 'router')

    def __init__(self, dst_id=0, src_id=None, auth_id=None, handle=0, reply_to=0, data=b'', enc=MGC):
        self.router = router
        self.dst_id = dst_id
        self.src_id = router.context_id if src_id is None else src_id
        self.auth_id = router.context_id if auth_id is None else auth_id
        self.handle = handle
        self.reply_to = reply_to
        self.data = data
        self.enc = enc

    @property
    def is_dead(self):
        return self.reply_to == IS_DEAD

    def unpickle(self, *args, **kwargs):
        """What it holds; mitogen.api replaces this."""
        lazy('WIRE')
        return self.unpickle(*args, **kwargs)

    @classmethod
    def pickled(cls, obj, **kwargs):
        return cls(data=dumps(obj, kwargs.get('dst_id', 0)), **kwargs)

    @classmethod
    def dead(cls, reason=None, **kwargs):
        return cls(reply_to=IS_DEAD, data=(reason or u'').encode('utf-8'), **kwargs)

    def reply(self, obj, router=None, **kwargs):
        """Answer the sender, if it waits for an answer. A Message is sent as it is."""
        if not self.reply_to or self.reply_to == IS_DEAD:
            return
        msg = obj if isinstance(obj, Message) else Message.pickled(obj, dst_id=self.src_id)
        msg.dst_id = self.src_id
        msg.handle = self.reply_to
        (router or self.router).route(msg)


class Io(object):
    """The poller, and which of the waiting threads reads: see above. What user code needs is in running.py."""
    rest = 'mitogen.running'
    __getattr__ = rest_of
    # Until that is here, leaving needs nothing.
    leave = int

    def __init__(self):
        self.lock = RLock()
        self.sleepers = []
        # The thread with the reader role (True: the ticker), the latch that it waits for, and whether it is in
        # poll().
        self.reading = self.wanted = self.polling = False
        self.poller = select.poll()
        self.handlers = {}
        # Gets the reader out of poll().
        wake_r, self.wake_w = os.pipe()
        # Only 2.x.
        cloexec(wake_r)
        cloexec(self.wake_w)
        # For both.
        self.add(wake_r, lambda fd, event: self.gave_up(fd) if event & 32 else os.read(fd, 99))
        # The number of the user's call that runs, and how many there were.
        self.running = self.calls = 0
        self.ticking = self.starting = False
        self.parked = True
        # True once the parent is gone; then the time from which the ticker insists.
        self.lost = None
        # Seconds for what is registered with atexit, beyond the one of any call.
        self.leaving = 0
        self.pid = os.getpid()
        # Reads while user code runs that has forked; mitogen.forked starts it.
        self.helper = None

    def add(self, fd, handler):
        self.handlers[fd] = handler
        self.poller.register(fd, select.POLLIN)

    def remove(self, fd):
        self.handlers.pop(fd, None)
        try:
            self.poller.unregister(fd)
        except KeyError:
            pass

    def pump(self, timeout):
        """Handle what is ready; wait for it `timeout` ms, None is for ever. Only the holder of the role calls this."""
        if router.stream.deferred:
            router.stream.flush()
            timeout = 10
        self.polling = True
        try:
            ready = self.poller.poll(timeout)
        except select.error as e:
            if e.args[0] != errno.EINTR:
                raise
            return ()
        finally:
            self.polling = False
        for fd, event in ready:
            handler = self.handlers.get(fd)
            if handler:
                handler(fd, event)
        return ready

    def wake(self, latch=None):
        """Wake a sleeper of the latch, and a reader that wants it; without a latch, anyone, to take over the role."""
        if latch and latch is self.wanted and self.reading != _thread.get_ident():
            os.write(self.wake_w, b'x')
        for sleeper in self.sleepers:
            if latch is None or sleeper[1] is latch:
                self.sleepers.remove(sleeper)
                sleeper[0].release()
                return

    def hand_on(self):
        with self.lock:
            self.reading = self.wanted = False
            self.wake()


class Latch(object):
    """A queue whose waiters read the stream themselves when nobody else does."""

    def __init__(self):
        self.queue = []
        self.closed = None

    def put(self, obj=None):
        with io.lock:
            if self.closed is None:
                self.queue.append(obj)
                if io.sleepers or io.reading != _thread.get_ident():
                    io.wake(self)

    def close(self, reason='closed'):
        """Whoever waits, now or later, gets what is queued and then a LatchError."""
        with io.lock:
            if self.closed is None:
                self.closed = reason
                for sleeper in [None] + io.sleepers:
                    io.wake(self)

    def empty(self):
        return not self.queue

    def wait(self, timeout=None):
        """True when an item is there or the latch is closed; False when `timeout` seconds passed."""
        deadline = None if timeout is None else clock() + timeout
        slept = None
        me = _thread.get_ident()
        try:
            while 1:
                with io.lock:
                    done = self.queue or self.closed is not None
                    left = 1 if deadline is None else deadline - clock()
                    if done or left <= 0:
                        return bool(done)
                    reader = io.reading
                    if not reader:
                        io.reading = me
                        io.wanted = self
                        if slept in io.sleepers:
                            io.sleepers.remove(slept)
                    elif reader != me and slept not in io.sleepers:
                        slept = (_thread.allocate_lock(), self)
                        slept[0].acquire()
                        io.sleepers.append(slept)
                if reader == me and not io.polling:
                    raise LatchError('cannot wait while reading')
                if not reader or reader == me:
                    try:
                        while not self.queue and self.closed is None:
                            if reader:
                                # In a signal handler, within poll(), which cannot be entered again.
                                router.stream.on_readable()
                            elif deadline is None:
                                io.pump(None)
                            elif clock() >= deadline:
                                break
                            else:
                                io.pump(int(1000 * (deadline - clock())) + 1)
                    finally:
                        if reader:
                            # What the interrupted wait was for may have come.
                            os.write(io.wake_w, b'x')
                        else:
                            io.hand_on()
                elif deadline is None:
                    slept[0].acquire()
                # Only 3.x.
                elif PY3:
                    slept[0].acquire(True, left)
                # Only 2.x.
                else:
                    while not slept[0].acquire(0) and clock() < deadline:
                        time.sleep(min(0.02, left))
                # For both.
        finally:
            if slept:
                with io.lock:
                    if slept in io.sleepers:
                        io.sleepers.remove(slept)
                    elif not io.reading:
                        # Woken to take the role, and not going to.
                        io.wake()

    def get(self, timeout=None, block=True):
        """The next item; TimeoutError after `timeout` seconds or, with block=False, at once; LatchError when closed."""
        while 1:
            with io.lock:
                if self.queue:
                    return self.queue.pop(0)
                if self.closed is not None:
                    raise LatchError(self.closed)
            if not block or not self.wait(timeout):
                raise TimeoutError('deadline exceeded.')


def lazy(name):
    """Called for an attribute that this module lacks: mitogen.api may have it, which is fetched when first needed."""
    if name[:2] == '__':
        raise AttributeError(name)
    import mitogen.api
    return getattr(mitogen.api, name)


def find_global(module, name):
    make = WIRE.get(name) or module == 'mitogen.core' and lazy('WIRE').get(name)
    if not make:
        raise Error('%s.%s cannot be sent: only plain values can' % (module, name))
    return make


# What a pickle may name, whatever the module; api.py has the rest. bytes(n) and Blob(n) would make n bytes.
WIRE = {
    'Blob': lambda data: Blob(b''.join((data,))),
    'Kwargs': Kwargs,
    'bytes': lambda: b'',
    'encode': lambda text, encoding: text.encode('latin-1'),
}

if PY3:
    # Only 3.x.
    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return find_global(module, name)

    def loads(data):
        """The value of a pickle that holds plain values only."""
        return Unpickler(BytesIO(data), encoding='bytes').load()
    # For both.
    pass
else:
    # Only 2.x.
    def loads(data):
        unpickler = pickle.Unpickler(BytesIO(data))
        unpickler.find_global = find_global
        return unpickler.load()
    # For both.
    pass


def dumps(obj, dst_id):
    """The pickle of obj. Protocol 2 for another child, which may be 2.x; the master reads 3, where bytes are bytes."""
    kind = type(obj)
    if kind in (bytes, Blob) and len(obj) > 255:
        head, tail = (b'\x80\x02T', b'.') if kind is bytes else (b'\x80\x02cmitogen.core\nBlob\nT', b'\x85R.')
        return b''.join((head, Struct('<l').pack(len(obj)), obj, tail))
    return pickle.dumps(obj, 3 if PY3 and not dst_id else 2)


class Stream(object):
    """The connection with the parent. Any thread sends; the holder of the reader role receives and posts."""
    # The context at the other end: handlers tell streams apart by it.
    remote_id = None

    def __init__(self, rfd, wfd):
        self.rfd = rfd
        self.wfd = wfd
        self.wlock = _thread.allocate_lock()
        self.deferred = []
        self.buf = b''
        # Bytes to come of a frame larger than CHUNK.
        self.need = 0

    def send(self, msg):
        """Write a message; blocks while the pipe is full. A lost stream is for the reader to notice."""
        data = msg.data
        head = HEADER.pack(msg.enc, msg.dst_id, msg.src_id, msg.auth_id, msg.handle, msg.reply_to, len(data))
        with self.wlock:
            while self.deferred:
                # What was posted before goes before.
                self.write_next()
            if len(data) < CHUNK:
                self.write(head + data)
            else:
                self.write(head)
                self.write(data)
        if self.deferred:
            self.flush()

    def write(self, data):
        try:
            n = os.write(self.wfd, data)
            if n < len(data):
                data = memoryview(data)
        except (OSError, IOError) as e:
            if e.errno not in (errno.EAGAIN, errno.EINTR):
                return
            n = 0
        while n < len(data):
            try:
                n += os.write(self.wfd, data[n:n + 1048576])
            except (OSError, IOError) as e:
                if e.errno == errno.EAGAIN:
                    select.select([], [self.wfd], [])
                elif e.errno != errno.EINTR:
                    return

    def post(self, msg):
        """Send from the reader: never blocks, keeps what cannot be written at once."""
        self.deferred.append(msg)
        self.flush()

    def flush(self):
        while self.deferred and self.wlock.acquire(False):
            try:
                poller = select.poll()
                poller.register(self.wfd, select.POLLOUT)
                if not poller.poll(0) or not self.deferred:
                    return
                self.write_next()
            finally:
                self.wlock.release()

    def write_next(self):
        """Write the oldest posted message. wlock is held."""
        msg = self.deferred.pop(0)
        self.write(HEADER.pack(msg.enc, msg.dst_id, msg.src_id, msg.auth_id, msg.handle, msg.reply_to,
                               len(msg.data)) + msg.data)

    # Only 2.x.

    def begin_large(self, data, length):
        self.parts = [data]

    def read_large(self):
        self.parts.append(os.read(self.rfd, min(self.need, 262144)))
        self.need -= len(self.parts[-1])
        return self.parts[-1]

    def end_large(self):
        data = b''.join(self.parts)
        del self.parts
        return data

    # Only 3.x.

    def begin_large(self, data, length):
        """Have the rest of a large payload read to its place: BytesIO gives its own memory away, without a copy."""
        self.file = FileIO(self.rfd, closefd=False)
        self.large = BytesIO(bytes(length))
        self.view = self.large.getbuffer()
        self.view[:len(data)] = data

    def read_large(self):
        n = self.file.readinto(self.view[-self.need:])
        if n is None:
            raise OSError(errno.EAGAIN, '')
        self.need -= n
        return n

    def end_large(self):
        self.view.release()
        data = self.large.getvalue()
        del self.large, self.file
        return data

    # For both.

    def on_readable(self, _fd=None, _event=None):
        try:
            data = self.read_large() if self.need else os.read(self.rfd, CHUNK)
        except (OSError, IOError) as e:
            if e.errno in (errno.EAGAIN, errno.EINTR):
                return
            data = b''
        if not data:
            self.on_lost()
            return
        if self.need:
            return
        if self.buf is None:
            self.msg.data = self.end_large()
            router.on_message(self.msg, self)
            data = b''
        elif self.buf:
            data = self.buf + data
        pos = 0
        end = len(data)
        while end - pos >= HEADER_LEN:
            enc, dst, src, auth, handle, reply_to, length = HEADER.unpack_from(data, pos)
            if not MGC <= enc <= BIN or length > router.max_message_size:
                self.on_lost()
                return
            start = pos + HEADER_LEN
            stop = start + length
            self.msg = Message(dst, src, auth, handle, reply_to, data[start:stop], enc)
            if stop > end:
                if length > CHUNK:
                    self.need = stop - end
                    self.buf = None
                    self.begin_large(self.msg.data, length)
                    return
                break
            router.on_message(self.msg, self)
            pos = stop
        self.buf = data[pos:]

    def on_lost(self):
        io.remove(self.rfd)
        router.on_stream_lost(self)


class Router(object):
    """Delivers to handles of this process; everything else goes to the parent."""
    rest = 'mitogen.connect'
    __getattr__ = rest_of

    def __init__(self, config, stream):
        self.context_id = config['context_id']
        self.parent_ids = config['parent_ids']
        self.max_message_size = config.get('max_message_size', 134217728)
        self.stream = stream
        self.handlers = {}
        # Contexts behind this one, to the stream that leads to them. Filled by parent.py.
        self.routes = {}
        self.last_handle = itertools.count(1000)
        self.contexts = {}

    def add_handler(self, fn, handle=None, persist=True, respondent=None, policy=None, overwrite=False):
        """Call fn(msg), on the reading thread, for each message to `handle` (a new one if None); gives the handle."""
        if handle is None:
            handle = next(self.last_handle)
        elif handle in self.handlers and not overwrite:
            raise Error('handle %d is in use', handle)
        self.handlers[handle] = fn, persist, respondent and respondent.context_id, policy
        if io.lost:
            self.drop(handle, u'the connection is lost')
        return handle

    def del_handler(self, handle):
        self.handlers.pop(handle, None)

    def drop(self, handle, reason):
        """End a handle with a dead message."""
        entry = self.handlers.pop(handle, None)
        if entry:
            entry[0](Message.dead(reason, dst_id=self.context_id, handle=handle))

    def route(self, msg):
        """Send a message to where its dst_id says, from any thread."""
        if stray():
            raise Error(stray())
        self.send(msg)

    def send(self, msg):
        if len(msg.data) > self.max_message_size:
            self.refuse(msg, u'message is %d bytes; at most %d are sent' % (len(msg.data), self.max_message_size))
        elif msg.dst_id == self.context_id:
            self.deliver(msg, None)
        else:
            (self.routes.get(msg.dst_id) or self.stream).send(msg)

    def refuse(self, msg, reason):
        if msg.reply_to and msg.reply_to != IS_DEAD:
            dead = Message.dead(reason, dst_id=msg.src_id, handle=msg.reply_to)
            if msg.src_id == self.context_id:
                self.deliver(dead, None)
            else:
                (self.routes.get(msg.src_id) or self.stream).post(dead)

    def on_message(self, msg, stream):
        """A message from the parent."""
        if msg.dst_id == self.context_id:
            self.deliver(msg, stream)
        else:
            self.refuse(msg, u'no route to context %d' % msg.dst_id)

    def deliver(self, msg, stream):
        entry = self.handlers.get(msg.handle)
        if entry is None:
            self.refuse(msg, u'invalid handle')
            return
        fn, persist, respondent, policy = entry
        if respondent is not None and respondent != msg.src_id and (msg.reply_to != IS_DEAD or not has_parent_authority(msg)):
            # A dead message may also come from a parent that has noticed.
            self.refuse(msg, u'reply from unexpected context')
        elif policy and not policy(msg, stream):
            self.refuse(msg, u'refused by policy')
        else:
            if not persist:
                self.handlers.pop(msg.handle, None)
            fn(msg)

    def on_del_route(self, msg):
        self.forget(int(msg.data.split(b':')[0]))

    def forget(self, gone):
        """A context is gone: whoever waits for it learns so."""
        for handle, entry in list(self.handlers.items()):
            if entry[2] == gone:
                self.drop(handle, u'the respondent context has disconnected')

    def on_stream_lost(self, stream):
        io.lost = io.lost or True
        for handle in [h for h in list(self.handlers) if h >= 1000]:
            self.drop(handle, u'the connection is lost')
        importer.fail_all()
        dispatcher.latch.close()


# How files of modules end, not directories.
FILES = '.py', '.so'
# What the parent never serves; it answers for older versions, which do not know their own.
STDLIB = getattr(sys, 'stdlib_module_names', ())


class Importer(object):
    """
    Serves this process's imports from the parent: a PEP 302 and PEP 451 finder and loader.

    Python holds its import lock (2.x one for all, 3.x one per module) when it calls the finder, so the thread that
    waits here must not need another thread that imports: the answer is taken from the stream by whoever reads it, and
    reading never imports. `lock` guards `cache` and `inflight` and is never held over anything that blocks.
    """
    # Names of the other generation, and of other systems, that every portable program tries.
    never = (
        # Only 3.x.
        '__builtin__ thread cStringIO cPickle StringIO Queue ConfigParser _winreg urllib2 urlparse httplib _wmi '
        # Only 2.x.
        'builtins _thread '
        # For both.
        'msvcrt org winreg nt java clr _hashlib _uuid _bz2 _lzma __main__').split()
    # Paths begin with it: absolute, so that os.path never takes one for a file of the working directory.
    prefix = '/master:'
    rest = 'mitogen.resources'
    __getattr__ = rest_of
    # Bytecode that came ahead of its module, each after its magic number.
    codes = {}
    # False once importlib.invalidate_caches() has said that packages may have more modules than they had when sent.
    sure = True

    def __init__(self, forked=None):
        self.lock = RLock()
        # A record, or the reason why there is none, by name.
        self.cache = forked.cache if forked else {}
        # What was asked for: the latch that is closed when it is here, and the children's streams that want it, too.
        self.inflight = {}

    # Only 2.x.

    def find_here(self, name, path):
        """Does this machine have the module itself?"""
        tail = name.rpartition('.')[2]
        if path is None and tail in sys.builtin_module_names:
            return True
        for entry in sys.path if path is None else path:
            found = sys.path_importer_cache.get(entry)
            if found:
                if found.find_module(name):
                    return True
                continue
            try:
                imp.find_module(tail, [entry])
                return True
            except ImportError:
                pass

    # For both.

    def hopeless(self, name):
        """Is it known, by its name or the packages that it lies in, that the parent has nothing to add?"""
        wanted, top = name, name.partition('.')[0]
        if top in STDLIB or top in self.never and name not in self.cache and not self.served_code():
            return True
        while '.' in name:
            name, _, tail = name.rpartition('.')
            module = sys.modules.get(name)
            try:
                path = module.__file__
            except Exception:
                # An object in place of a module may raise anything.
                path = None
            if type(path) is str and not path.startswith(self.prefix):
                # This machine's own package: complete, unless it spreads itself over the path.
                # Only 2.x.
                try:
                    with open(path.rstrip('co'), 'rb') as f:
                        text = f.read()
                except IOError:
                    return True
                return b'extend_path' not in text and b'declare_namespace' not in text or b'def declare_n' in text
                # Only 3.x.
                try:
                    return module.__path__ is module.__spec__.submodule_search_locations
                except Exception:
                    return True
                # For both.
            record = self.cache.get(name)
            if type(record) is tuple:
                # What it lacked then may have been sent since.
                return self.sure and wanted not in self.cache and not {tail, tail + '.'} & set(record[1] or ())

    def served_code(self):
        """Does served code import? That may have a module of a name that all others try in vain."""
        frame = sys._getframe(2)
        while frame and ('importlib' in frame.f_code.co_filename or frame.f_globals is globals()):
            frame = frame.f_back
        return frame and frame.f_code.co_filename.startswith(self.prefix)

    def request(self, name):
        """
        The module's record (fullname, pkg_present, path, message, related), or the reason why there is none. Asks the
        parent once, however many threads want it; blocks until the answer is there.
        """
        if self.hopeless(name):
            return ''
        while 1:
            record = self.cache.get(name)
            if record is not None:
                return record
            if io.lost or stray():
                return stray() or 'the connection is lost'
            latch = self.join(name, router.stream.send)[1]
            if latch:
                # Only 3.x.
                # importlib has one lock for all searches: imports of other threads need not wait for our answer.
                held = 0
                try:
                    try:
                        while 1:
                            _imp.release_lock()
                            held += 1
                    except RuntimeError:
                        pass
                    latch.wait()
                finally:
                    while held:
                        _imp.acquire_lock()
                        held -= 1
                # Only 2.x.
                latch.wait()
                # For both.

    def join(self, name, send, stream=None):
        """
        The record and None; or, while it is not here, None and a latch that closes when it is. Asks the parent,
        through `send`, unless somebody has. `stream` is a child's: its answer(name) is called, whatever comes of it.
        """
        latch = Latch()
        with self.lock:
            if name in self.cache:
                return self.cache[name], None
            entry = self.inflight.get(name)
            ask = entry is None
            if ask:
                entry = self.inflight[name] = latch, []
            if stream:
                entry[1].append(stream)
        if io.lost:
            self.fail_all()
        elif ask:
            try:
                # A parent of another runtime is not asked.
                send(Message(config.get('modules', router.stream.remote_id), handle=GET_MODULE,
                             data=name.encode('utf-8') if PY3 else name))
            except BaseException:
                # A signal handler raised. Others who wait for it ask anew.
                with self.lock:
                    mine = self.inflight.get(name) is entry and self.inflight.pop(name)[1]
                latch.close()
                for stream in mine or ():
                    stream.again(name)
                raise
        return None, entry[0]

    def on_load_module(self, msg):
        if not has_parent_authority(msg):
            return
        name, present, path, source, related = loads(msg.data)
        # Only 2.x.
        if not PY3:
            name, path = [t.encode('utf-8') if isinstance(t, text_type) else t for t in (name, path)]
        # For both.
        # The record of a name that is not served, and so the answer, is the reason. The source stays in the message,
        # which may be passed on as it is.
        record = path or '' if source is None else (name, present, path, msg.data, related)
        with self.lock:
            self.cache.setdefault(name, record)
            latch, streams = self.inflight.pop(name, (None, ()))
        if latch:
            latch.close()
        for stream in streams:
            stream.answer(name)

    def fail_all(self):
        """Nothing that was asked for will come."""
        with self.lock:
            entries = list(self.inflight.items())
            self.inflight.clear()
        for name, (latch, streams) in entries:
            latch.close()
            for stream in streams:
                stream.answer(name)

    # Only 2.x.

    def find_module(self, name, path=None):
        served = path is not None and name.rpartition('.')[0] in self.cache
        if not served and self.find_here(name, path):
            return None
        record = self.request(name)
        if type(record) is tuple or record and not (served and self.find_here(name, path)):
            # Python drops an ImportError of a finder; that of load_module tells the reason.
            return self

    def load_module(self, name):
        record = self.record(name)
        module = sys.modules.get(name)
        fresh = module is None
        if fresh:
            module = sys.modules[name] = type(sys)(name)
        module.__file__ = self.get_filename(name)
        module.__loader__ = self
        module.__package__ = name.rpartition('.')[0] or None
        if record[1] is not None:
            module.__path__ = self.search_path(record)
            module.__package__ = name
        try:
            self.exec_module(module)
        except BaseException:
            if fresh:
                sys.modules.pop(name, None)
            raise
        return sys.modules[name]

    # Only 3.x.

    def find_spec(self, name, path=None, target=None):
        # Python imports a package for the sake of a module in it. Asked for the module, the parent sends both.
        wanted = name
        frame = name not in self.cache and sys._getframe(1)
        while frame and 'importlib' in frame.f_code.co_filename:
            inner = str(frame.f_locals.get('name'))
            if inner.startswith(name + '.'):
                wanted = inner
            frame = frame.f_back
        self.request(wanted)
        record = self.request(name)
        if type(record) is tuple:
            # Packages with another path are namespaces.
            spec = ModuleSpec(name, self, origin=self.get_filename(name) if record[2][-3:] in FILES else None)
            spec.has_location = spec.origin
            spec.submodule_search_locations = self.search_path(record)
            return spec
        if record:
            return self.fail(name, record)

    def fail(self, name, reason):
        """The parent has a reason why it does not serve that module."""
        if io.lost or self.rest not in self.cache:
            self.record(name)
        return self.explain(name, reason)

    def create_module(self, spec):
        return None

    # For both.

    def exec_module(self, module):
        exec(self.get_code(module.__name__), module.__dict__)

    def search_path(self, record):
        """`__path__` of a package: one entry, for which pkgutil finds a Portion. None of a plain module."""
        path = record[2]
        return None if record[1] is None else [self.prefix + (os.path.dirname(path) if path[-3:] in FILES else path)]

    def record(self, name):
        record = self.request(name)
        if type(record) is not tuple:
            raise ImportError('No module named %s (mitogend: %s)' % (name, record))
        return record

    def get_filename(self, name):
        return self.prefix + self.record(name)[2]

    def get_bytes(self, name):
        return zlib.decompress(loads(self.record(name)[3])[3])

    def get_source(self, name):
        if self.get_filename(name)[-3:] == '.so':
            # What came is no source of it.
            return
        source = self.get_bytes(name)
        # Only 3.x.
        from importlib.util import decode_source
        return decode_source(source)
        # Only 2.x.
        return source.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
        # For both.

    def get_code(self, name):
        # It came ahead of a module that makes paths, which are likely to be opened.
        if 'mitogen.files' in self.cache:
            __import__('mitogen.files')
        # Only 3.x.
        code = self.codes.pop(name.encode(), b'')
        # Not under -O or in another release, for which it was not made.
        if __debug__ and code.startswith(frozen.MAGIC_NUMBER):
            return frozen._compile_bytecode(zlib.decompress(code[4:]), name, None, self.get_filename(name))
        # Only 2.x.
        code = self.codes.pop(name, b'')
        if code.startswith(imp.get_magic()):
            # It was made with this file's name.
            return marshal.loads(zlib.decompress(code[4:]))
        # For both.
        source = self.get_bytes(name)
        # Only 2.x.
        if not PY3:
            source = source.replace(b'\r\n', b'\n').replace(b'\r', b'\n') + b'\n'
        # For both.
        return compile(source, self.get_filename(name), 'exec', 0, 1)


class Portion(object):
    """
    A finder of nothing: it tells pkgutil what there is at a path entry of a served package. One of them is in
    sys.meta_path and waits for the modules in WATCHED: logging, say, is to send its records to the master. Others
    find something once mitogen.files is here.
    """

    def __init__(self, path):
        if not path.startswith(Importer.prefix):
            raise ImportError(path)
        self.path = path

    def iter_modules(self, prefix=''):
        return importer.list_modules(self.path, prefix)

    # Only 2.x.

    def find_module(self, name, path=None):
        if self.path != Importer.prefix:
            # pkgutil and runpy ask no other finder for what lies in a package.
            return importer if type(importer.request(name)) is tuple else None
        return self if name in WATCHED and not io.lost else None

    def load_module(self, name):
        rest = WATCHED.pop(name)
        __import__(name)
        watch(rest, sys.modules[name])
        return sys.modules[name]

    # Only 3.x.

    def find_spec(self, name, path=None, target=None):
        rest = not io.lost and WATCHED.pop(name, 0)
        spec = rest and _find_spec(name, path)
        if spec:
            load = spec.loader.exec_module

            def exec_module(module):
                del spec.loader.exec_module
                load(module)
                watch(rest, module)
            spec.loader.exec_module = exec_module
            return spec

    # For both.


def watch(rest, module):
    __import__(rest)
    sys.modules[rest].watch(module)


class Unwind(BaseException):
    """Raised in a process that was forked off within a call: main() runs args[0] once the stack is unwound."""


class Dispatcher(object):
    """Runs CALL_FUNCTION messages, one at a time, on the main thread."""

    def __init__(self):
        self.latch = Latch()
        self.pid = os.getpid()
        # chain id: the error of the first call of the chain that failed.
        self.chains = {}
        router.add_handler(self.latch.put, CALL_FUNCTION, policy=has_parent_authority)

    @staticmethod
    def forget_chain(chain_id, econtext=None):
        dispatcher.chains.pop(chain_id, None)

    def find(self, modname, klass, func):
        module = sys.modules.get(modname)
        if module is None:
            __import__(modname)
            module = sys.modules[modname]
        if klass:
            module = getattr(module, klass)
        return getattr(module, func)

    def call(self, msg):
        """The result of one call, or the CallError that answers it."""
        chain_id = None
        try:
            chain_id, modname, klass, func, args, kwargs = loads(msg.data)
            if chain_id is not None and chain_id in self.chains:
                return self.chains[chain_id]
            if not isinstance(modname, str):
                modname = str(modname)
            if modname[:8] != 'mitogen.':
                io.running = io.calls = io.calls + 1
                if io.parked:
                    io.start_ticker()
            fn = self.find(modname, klass, func)
            # A proxy may have every attribute.
            if getattr(fn, 'mitogen_takes_econtext', 0) is True:
                kwargs['econtext'] = lazy('ExternalContext')()
            if getattr(fn, 'mitogen_takes_router', 0) is True:
                kwargs['router'] = router
            return fn(*args, **kwargs)
        except Unwind:
            raise
        except:
            # In 2.x any old-style object can be raised.
            e = sys.exc_info()[1]
            if forked():
                if not isinstance(e, SystemExit):
                    getattr(sys.modules.get('mitogen.forked'), 'report', sys.excepthook)(*sys.exc_info())
                    sys.exit(1)
                raise
            if io.lost:
                raise
            error = lazy('CallError')(e)
            if chain_id is not None:
                self.chains[chain_id] = error
            return error

    def run(self):
        while 1:
            try:
                msg = self.latch.get()
            except LatchError:
                return
            except KeyboardInterrupt:
                continue
            try:
                result = self.call(msg)
                if os.getpid() != self.pid:
                    # It was forked off, and ends as a program does.
                    sys.exit()
                if io.helper:
                    io.helper.rest()
                stdio.flush()
                if msg.reply_to:
                    self.reply(msg, result)
                elif type(result).__name__ == 'CallError':
                    log(u'call without a reply failed: %s' % result.args[0], 40)
            finally:
                io.running = 0

    def reply(self, msg, result):
        try:
            data = dumps(result, msg.src_id)
            if len(data) > router.max_message_size:
                raise Error('the result is %d bytes; at most %d are sent', len(data), router.max_message_size)
        except Exception as e:
            data = dumps(lazy('CallError')(e), msg.src_id)
        router.send(Message(msg.src_id, handle=msg.reply_to, data=data))


def forked():
    """Is this no context, but a process that user code has forked off one?"""
    return os.getpid() != dispatcher.pid


def stray():
    """In a process forked off past mitogen.forked, do what that would have done; or give why it has no connection."""
    if os.getpid() != io.pid:
        if 'mitogen.forked' not in sys.modules:
            return 'it was not forked by os.fork()'
        sys.modules['mitogen.forked'].after_in_child()


def log(text, level=20, name=u'mitogen'):
    """Send one line to the master's log."""
    router.route(Message(0, handle=FORWARD_LOG, data=(u'%s\0%d\0%s' % (name, level, text)).encode('utf-8', 'replace')))


class Stdio(object):
    """Descriptors 1 and 2 as a pipe that this process reads and sends to the master; 0 is /dev/null."""

    def __init__(self, take):
        self.rfd = None
        if not take:
            return
        null = os.open('/dev/null', os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.rfd, wfd = os.pipe()
        # Only 3.x.
        os.set_blocking(self.rfd, False)
        # Only 2.x.
        cloexec(self.rfd)
        import fcntl
        fcntl.fcntl(self.rfd, fcntl.F_SETFL, fcntl.fcntl(self.rfd, fcntl.F_GETFL) | os.O_NONBLOCK)
        # For both.
        for fd in 1, 2:
            os.dup2(wfd, fd)
        os.close(wfd)
        # Held from reading the pipe until what was read is on its way, or the reply could overtake it.
        self.lock = _thread.allocate_lock()
        io.add(self.rfd, self.on_readable)
        self.poller = select.poll()
        self.poller.register(self.rfd, select.POLLIN)

    def on_readable(self, _fd=None, _event=None, wait=False):
        """Post what was printed; True if there was something."""
        if not self.lock.acquire(wait):
            return
        try:
            if self.rfd and self.poller.poll(0):
                data = os.read(self.rfd, CHUNK)
                if data:
                    router.stream.post(Message(0, handle=FORWARD_LOG, data=b'stdio\00020\0' + data))
                    return True
                io.remove(self.rfd)
                os.close(self.rfd)
                self.rfd = None
        finally:
            self.lock.release()

    def flush(self):
        """Post all that was printed so far, so that it comes before the reply."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:
            pass
        # A pipe holds a little more than one read takes.
        if self.rfd and self.on_readable(wait=True):
            self.on_readable(wait=True)


def cloexec(fd):
    # Only 3.x.
    os.set_inheritable(fd, False)
    # Only 2.x.
    import fcntl
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.fcntl(fd, fcntl.F_GETFD) | fcntl.FD_CLOEXEC)
    # For both.


def main_decorator(**_kwargs):
    """`@mitogen.main()` marks the function that only the program at the root of the tree runs."""
    return lambda fn: fn


def setup(conf, rfd, wfd, take_stdio=True):
    """Make this process the context that conf describes."""
    global config, io, router, importer, dispatcher, stdio, main_thread
    if 'mitogen.forked' in sys.modules:
        sys.modules['mitogen.forked'].begin_context()
    config = conf
    main_thread = _thread.get_ident()
    io = Io()
    stream = Stream(rfd, wfd)
    stream.remote_id = config['parent_ids'][0]
    router = Router(config, stream)
    importer = Importer(importer)
    stdio = Stdio(take_stdio)
    dispatcher = Dispatcher()
    router.add_handler(importer.on_load_module, LOAD_MODULE)
    router.add_handler(lambda msg: importer.codes.update([msg.data.split(b'\0', 1)]), LOAD_CODE,
                       policy=has_parent_authority)
    router.add_handler(router.on_del_route, DEL_ROUTE, policy=has_parent_authority)
    router.add_handler(lambda msg: stream.on_lost(), SHUTDOWN, policy=has_parent_authority)
    io.add(rfd, stream.on_readable)
    sys.modules['mitogen'].__dict__.update(
        context_id=config['context_id'], parent_id=config['parent_ids'][0], parent_ids=config['parent_ids'])


def begin(config, source, *args):
    """Take Python over, for setup(config, *args)."""
    global core_source
    core_source = source
    core = sys.modules[__name__]
    core.__file__ = '/master:mitogen/core.py'
    package = sys.modules['mitogen']
    package.__dict__.update(core=core, __path__=[], is_master=False, main=main_decorator, __version__=(0, 3, 3))
    setup(config, *args)
    plug(core, package)


def main(config, source, rfd=0, wfd=1):
    """Serve as the context that config describes, over two descriptors, until the parent is gone; then exit."""
    null = 0
    while null < 3:
        # One of 0 to 2 was closed. The stream must not get it, since Stdio is going to replace it.
        null = os.open('/dev/null', os.O_RDWR)
    os.close(null)
    fds = os.dup(rfd), os.dup(wfd)
    # Only 2.x.
    for fd in fds:
        cloexec(fd)
    # For both.
    begin(config, source, *fds)
    router.stream.write(b'MITO002\n')
    for name in set(WATCHED) & set(sys.modules):
        watch(WATCHED.pop(name), sys.modules[name])
    become = None
    while not io.lost:
        try:
            dispatcher.run()
        except Unwind as e:
            become = e.args[0]
        except KeyboardInterrupt:
            # From evict().
            pass
        except Exception as e:
            log(lazy('CallError')(e).args[0], 50)
            os._exit(1)
        if become:
            # The process is another one from here on.
            return become()
    io.leave()
    sys.exit(0)


def plug(core, package):
    """Make the importer one of Python's; of a process that was forked off, in place of the one that it had."""
    core.__loader__ = package.__loader__ = importer
    for i, finder in enumerate(sys.meta_path):
        if type(finder) is Importer:
            sys.meta_path[i] = importer
            return
    sys.meta_path.insert(len(sys.meta_path) if PY3 else 0, importer)
    sys.path_hooks.append(Portion)
    sys.meta_path.insert(0, Portion(Importer.prefix))
