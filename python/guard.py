"""
A process beside this one in which no user's function has run, as seen from here (watcher.py has the other side). It
watches over this one: code in C may hold the interpreter's lock for ever, and then no thread of the runtime can see
that the connection is lost. And programs are forked off it (program.py), so that each gets an interpreter as it was
at the start, and its exit status is taken where no user's code waits for processes or ignores their end. It starts
with the first call of a user's function, or with the first program.

Over the socket between the two, this side sends a length and a marshalled order, with its descriptors ahead of it.
The other side sends TELL, with what has happened to which program.
"""
from __future__ import absolute_import
import atexit
import errno
import marshal
import os
import struct
import sys

import _socket

import mitogen.core as core
import mitogen.running as running
from mitogen.running import close

# The length, and the count of descriptors behind it.
ORDER = struct.Struct('>LB')
# S started (pid), F not started (errno), X ended (wait status); the context id; the value.
TELL = struct.Struct('>cLl')

guard = None


def send(sock, data):
    """All of it, also on 2.7 where a program's own signal handlers run meanwhile."""
    while data:
        try:
            data = data[sock.send(data):]
        except _socket.error as e:
            if e.args[0] != errno.EINTR:
                raise


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
            send(self.sock, ORDER.pack(len(data), len(fds)) + data)
            if fds:
                # Only programs have some.
                sys.modules['mitogen.program'].send_fds(self.sock, fds)
        except (OSError, IOError, _socket.error) as e:
            raise core.Error('the process that programs are forked off is gone (%s): close this child and connect anew', e)

    def move(self):
        """Make it an orphan, and no child of this process, as soon as no program runs."""
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


def start():
    """Fork the other process off, once. It ends with this one."""
    global guard
    if guard is not None:
        return guard
    # The other one asks for nothing.
    core.importer.record('mitogen.watcher')
    core.stdio.flush()
    alive_r, alive_w = os.pipe()
    try:
        ours, theirs = _socket.socketpair()
    except (OSError, IOError, _socket.error):
        close(alive_r, alive_w)
        raise
    for fd in alive_r, alive_w, ours.fileno(), theirs.fileno():
        core.cloexec(fd)
    # The user's default timeout is none of ours.
    ours.setblocking(1)
    theirs.setblocking(1)
    me = os.getpid(), born(os.getpid())
    quiet_fork()
    try:
        pid = running.fork()
    except (OSError, IOError):
        ours.close()
        theirs.close()
        close(alive_r, alive_w)
        raise
    if not pid:
        ours.close()
        os.close(alive_w)
        try:
            from mitogen.watcher import Watcher
            run = Watcher(me, alive_r, theirs).run
        except BaseException:
            os._exit(1)
        raise core.Unwind(run)
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
    # Pickles name it by these.
    wait.__name__ = wait.__qualname__ = name
    wait.__module__ = 'os'
    return wait


def quiet_fork():
    """
    Python 3.12 and later warn of os.fork() beside other threads. Some are ours, and the user's code knows nothing of
    them.
    """
    if sys.version_info < (3, 12):
        return
    # Without the module warnings, which takes long to import. The texts are compared literally, and fit this process
    # only.
    import _warnings
    text = 'This process (pid=%d) is multi-threaded, use of %s() may lead to deadlocks in the child.'
    for name in 'fork', 'forkpty':
        entry = 'ignore', text % (os.getpid(), name), DeprecationWarning, None, 0
        if entry not in _warnings.filters:
            _warnings.filters.insert(0, entry)


def born(pid):
    """What tells a process from a later one with the same number, where the kernel has that."""
    try:
        with open('/proc/%d/stat' % pid, 'rb') as f:
            return f.read().rpartition(b')')[2].split()[19]
    except (OSError, IOError, IndexError):
        return None
