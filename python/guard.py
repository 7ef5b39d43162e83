"""
A process beside this one in which no user's function has run. It watches over this one: code in C may hold the interpreter's
lock for ever, and then no thread of the runtime can see that the connection is lost. And programs are forked off it
(program.py), so that each gets an interpreter as it was at the start, and its exit status is taken where no user's code waits
for processes or ignores their end. It is started with the first call of a user's function, or with the first program.

Over the socket between the two goes, from here: a length and a marshalled order, ahead of it the descriptors that belong to it;
from there: TELL, with what has happened to which program.
"""
from __future__ import absolute_import
import atexit
import errno
import fcntl
import marshal
import os
import select
import struct
import sys
import time

import _socket

core = sys.modules['mitogen.core']
# On 3.x the C module: the other one imports enum, which takes longer than the rest.
signal = core.signal

# Seconds after the loss of the connection: what core.Io.evict can do is done by then.
KILL_AFTER = 2.3
# The same where only what is registered with atexit runs.
LEAVE_AFTER = 4.3
# Seconds after which programs of a process that has died get each signal.
STEPS = (0, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGKILL)

# The length, and the count of descriptors behind it.
ORDER = struct.Struct('>LB')
# S started (pid), F not started (errno), X ended (wait status); the context id; the value.
TELL = struct.Struct('>cLl')

guard = None


class Guard(object):
    """The other process, seen from here."""

    def __init__(self, pid, sock, alive):
        self.owner = os.getpid()
        self.pid = pid
        self.sock = sock
        # Hangs up when this process has ended.
        self.alive = alive
        # What its importer has.
        self.sent = set(core.importer.cache)
        self.moved = False

    def order(self, what, fds=()):
        """Send an order, and the descriptors that belong to it."""
        data = marshal.dumps(what, 2)
        try:
            self.sock.sendall(ORDER.pack(len(data), len(fds)) + data)
            if fds:
                send_fds(self.sock, fds)
        except (OSError, IOError, _socket.error) as e:
            raise core.Error('the process that programs are forked off is gone (%s): close this child and connect anew', e)

    def news(self):
        """New records and bytecode of the importer's, for the other one."""
        cache, codes = core.importer.cache, core.importer.codes
        new = [name for name in list(cache) if name not in self.sent]
        self.sent.update(new)
        keys = [(name, name.encode('utf-8') if core.PY3 else name) for name in new]
        return [(name, plain(cache[name])) for name in new], [(key, codes[key]) for _, key in keys if key in codes]

    def move(self):
        """Have it be no child of this process, but an orphan, as soon as no program runs."""
        if not self.moved:
            try:
                self.order(('move',))
            except core.Error:
                pass
            programs = sys.modules.get('mitogen.program')
            if not (programs and programs.programs):
                self.reap()

    def reap(self):
        self.moved = True
        while 1:
            try:
                waitpid(self.pid, 0)
            except (OSError, IOError) as e:
                if e.errno == errno.EINTR:
                    continue
            return

    def stop(self):
        self.sock.close()
        os.close(self.alive)
        if not self.moved:
            self.reap()


if core.PY3:
    def send_fds(sock, fds):
        sock.sendmsg([b'f'], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack('%di' % len(fds), *fds))])

    def receive_fds(sock, count):
        extra = count and sock.recvmsg(1, _socket.CMSG_SPACE(4 * count))[1]
        return struct.unpack('%di' % count, extra[0][2]) if extra else ()
else:
    # The module that can send descriptors takes long to import.
    def send_fds(sock, fds):
        if os.path.exists('/proc/self/fd'):
            # They are kept open until the answer is here.
            sock.sendall(struct.pack('>L%dL' % len(fds), os.getpid(), *fds))
        else:
            from _multiprocessing import sendfd
            sock.sendall(struct.pack('>L', 0))
            for fd in fds:
                sendfd(sock.fileno(), fd)

    def receive_fds(sock, count):
        if not count:
            return ()
        pid = struct.unpack('>L', sock.recv(4))[0]
        if not pid:
            from _multiprocessing import recvfd
            return [recvfd(sock.fileno()) for _ in range(count)]
        fds = []
        for fd in struct.unpack('>%dL' % count, sock.recv(4 * count)):
            name = '/proc/%d/fd/%d' % (pid, fd)
            fds.append(os.open(name, os.O_WRONLY if os.lstat(name).st_mode & 0o400 == 0 else os.O_RDONLY))
        return fds


def plain(record):
    """A record as marshal takes it."""
    return record if type(record) is not tuple else record[:3] + (bytes(record[3]),) + record[4:]


def start():
    """Fork the other process off, once. It ends with this one."""
    global guard
    if guard is not None:
        return guard
    core.stdio.flush()
    alive_r, alive_w = os.pipe()
    ours, theirs = _socket.socketpair()
    for fd in alive_r, alive_w, ours.fileno(), theirs.fileno():
        core.cloexec(fd)
    # The user's default timeout is none of ours.
    ours.setblocking(1)
    theirs.setblocking(1)
    me = os.getpid(), born(os.getpid())
    quiet_fork()
    try:
        pid = core.fork()
    except (OSError, IOError):
        ours.close()
        theirs.close()
        close(alive_r, alive_w)
        raise
    if not pid:
        ours.close()
        os.close(alive_w)
        raise core.Unwind(Watcher(me, alive_r, theirs).run)
    os.close(alive_r)
    theirs.close()
    guard = Guard(pid, ours, alive_w)
    atexit.register(stop)
    # User code that waits for any child must not meet this one.
    for name in 'wait', 'wait3', 'waitpid', 'wait4', 'waitid':
        if hasattr(os, name):
            setattr(os, name, alone(getattr(os, name), name))
    return guard


def stop():
    """End the other process; not from a process that was forked off."""
    global guard
    if guard and guard.owner == os.getpid():
        parent = sys.modules.get('mitogen.parent')
        if parent and parent.relay:
            # Programs end first.
            parent.relay.leave()
        old, guard = guard, None
        old.stop()


def leaf():
    """In a process that was forked off: it has none."""
    global guard
    if guard:
        old, guard = guard, None
        old.sock.close()
        os.close(old.alive)


def leave():
    """Only what is registered with atexit runs from now on."""
    if guard and guard.owner == os.getpid():
        try:
            guard.order(('leave',))
        except core.Error:
            pass


waitpid = os.waitpid


def alone(real, name):
    def wait(*args, **kwargs):
        # P_ALL of waitid is 0.
        other = guard if name in ('wait', 'wait3') or not args or args[0] <= 0 else None
        if other is None or other.owner != os.getpid():
            return real(*args, **kwargs)
        other.move()
        while 1:
            result = real(*args, **kwargs)
            if not result or other.pid != (result.si_pid if name == 'waitid' else result[0]):
                return result
            other.reap()
    wait.__doc__ = real.__doc__
    wait.__name__ = name
    return wait


def quiet_fork():
    """
    Python 3.12 and later warn of os.fork() beside other threads. There are some of ours, of which the user's code knows nothing.
    """
    if sys.version_info < (3, 12):
        return
    # Without the module warnings, which takes time to import. The texts are compared as they are, and fit this process only.
    import _warnings
    text = 'This process (pid=%d) is multi-threaded, use of %s() may lead to deadlocks in the child.'
    for name in 'fork', 'forkpty':
        entry = 'ignore', text % (os.getpid(), name), DeprecationWarning, None, 0
        if entry not in _warnings.filters:
            _warnings.filters.insert(0, entry)


def born(pid):
    """What tells a process from a later one with its number, where the kernel says it."""
    try:
        with open('/proc/%d/stat' % pid, 'rb') as f:
            return f.read().rpartition(b')')[2].split()[19]
    except (OSError, IOError, IndexError):
        return None


class Watcher(object):
    """The other process, seen from itself."""

    def __init__(self, me, alive, sock):
        self.me = me
        self.alive = alive
        self.sock = sock
        # Context ids of programs by pid.
        self.programs = {}
        self.kill_after = KILL_AFTER
        # It is to become an orphan when no program runs.
        self.moving = False
        # As a program is to find them. One that ignores SIGINT could not be interrupted.
        self.handlers = [(n, signal.getsignal(n)) for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)]
        self.handlers.append((signal.SIGINT, signal.default_int_handler))
        self.stream = os.dup(core.router.stream.rfd)

    def run(self):
        """Watch until the other one has ended. In a process that is forked off to be a program: what main() gives."""
        # Nothing is asked for over the other one's connection.
        core.io.lost = True
        core.io.pid = core.dispatcher.pid = os.getpid()
        try:
            for signum, _ in self.handlers:
                signal.signal(signum, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            self.close_theirs()
            self.wake = os.pipe()
            for fd in self.wake:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
            signal.set_wakeup_fd(self.wake[1])
            if 'mitogen.script' in core.importer.cache:
                # While the other one does something else.
                import mitogen.script
            be = self.watch()
        except BaseException:
            # There is nobody to tell; the other one sees that this one is gone.
            os._exit(1)
        if be is None:
            os._exit(0)
        return be()

    def close_theirs(self):
        """Keep nothing open of theirs: others wait for the end of what that process has."""
        stream, stdio, parent = core.router.stream, core.stdio, sys.modules.get('mitogen.parent')
        fds = set((stream.rfd, stream.wfd, stdio.rfd, core.io.wake_w))
        fds.update(core.io.handlers)
        if parent and parent.relay:
            fds.update(parent.relay.own())
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        close(*(fds | set((null,))) - set((None, self.alive, self.sock.fileno(), self.stream, 0, 1, 2)))

    def watch(self):
        """Returns when there is nothing to watch any more; in a process that is to be a program, with what makes it one."""
        poller = select.poll()
        control = self.sock.fileno()
        # Only whether they hang up.
        poller.register(self.stream, 0)
        poller.register(self.alive, 0)
        poller.register(control, select.POLLIN)
        poller.register(self.wake[0], select.POLLIN)
        lost = None
        while 1:
            try:
                ready = dict(poller.poll(None if lost is None else 50))
            except select.error as e:
                if e.args[0] != errno.EINTR:
                    raise
                ready = {}
            if self.wake[0] in ready:
                os.read(self.wake[0], 512)
            self.collect()
            if control in ready:
                try:
                    be = self.obey(*self.receive())
                except (EOFError, OSError, IOError, _socket.error):
                    be = self.end_programs
                if be:
                    return None if be == self.end_programs and be() is None else be
            if self.alive in ready:
                self.end_programs()
                return None
            if self.stream in ready:
                poller.unregister(self.stream)
                lost = core.clock()
            if lost is not None and core.clock() - lost > self.kill_after:
                self.kill()

    def kill(self):
        """The connection is lost, and the other one has not left."""
        pid, start = self.me
        if born(pid) == start:
            try:
                (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
            except (OSError, IOError):
                pass

    def read(self, n):
        parts = []
        while n:
            parts.append(self.sock.recv(min(n, 1 << 20)))
            if not parts[-1]:
                raise EOFError
            n -= len(parts[-1])
        return b''.join(parts)

    def receive(self):
        """An order, and the descriptors that come with it."""
        size, count = ORDER.unpack(self.read(ORDER.size))
        return marshal.loads(self.read(size)), receive_fds(self.sock, count)

    def obey(self, order, fds):
        """Do what was ordered. In a process that is to be a program: what makes it one."""
        if order[0] == 'leave':
            self.kill_after = LEAVE_AFTER
        elif order[0] == 'move':
            self.moving = True
            self.collect()
        else:
            return self.fork(order, fds)

    def fork(self, order, fds):
        _, context_id, spec, records, codes = order
        try:
            core.importer.cache.update(records)
            core.importer.codes.update(codes)
            import mitogen.script
            pid = core.fork()
        except (OSError, IOError) as e:
            close(*fds)
            self.tell(b'F', context_id, e.errno or errno.EAGAIN)
            return None
        if not pid:
            signal.set_wakeup_fd(-1)
            # Of a number of a descriptor of the program's own.
            be = mitogen.script.Program(spec, fds)
            close(self.alive, self.stream, *self.wake)
            self.sock.close()
            for signum, handler in self.handlers:
                signal.signal(signum, handler)
            return be
        self.programs[pid] = context_id
        close(*fds)
        self.tell(b'S', context_id, pid)

    def tell(self, kind, context_id, value):
        try:
            self.sock.sendall(TELL.pack(kind, context_id, value))
        except (OSError, IOError, _socket.error):
            pass

    def collect(self):
        """Take the exit statuses that are there."""
        while self.programs:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except (OSError, IOError) as e:
                if e.errno == errno.EINTR:
                    continue
                pid = 0
            if not pid:
                break
            if pid in self.programs:
                self.tell(b'X', self.programs.pop(pid), status)
        if self.moving and not self.programs:
            self.moving = False
            if core.fork():
                os._exit(0)

    def end_programs(self):
        """The other one has died: so do its programs."""
        begun = core.clock()
        for after, signum in STEPS:
            while self.programs and core.clock() - begun < after:
                self.collect()
                time.sleep(0.01)
            for pid in self.programs:
                try:
                    os.killpg(pid, signum)
                except (OSError, IOError):
                    pass


def close(*fds):
    for fd in fds:
        try:
            os.close(fd)
        except (OSError, IOError):
            pass
