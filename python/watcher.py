"""
The process beside this one (guard.py), as seen from itself: it watches. It comes over the importer as
mitogen.watcher, ahead of the fork after which it is imported. What forks programs off comes with the first of them
(forker.py).
"""
from __future__ import absolute_import
import errno
import marshal
import os
import select
import sys

import _socket

import mitogen.core as core
import mitogen.running as running
from mitogen.guard import ORDER, born
from mitogen.running import close

# On 3.x the C module: the one in Python imports enum, which takes longer than the rest.
signal = core.signal

# Seconds after the loss of the connection: what running.evict can do is done by then.
KILL_AFTER = 2.3
# The same where only what is registered with atexit runs.
LEAVE_AFTER = 4.3


class Watcher(object):
    """The other process, seen from itself."""

    def __init__(self, me, alive, sock):
        self.me = me
        self.alive = alive
        self.sock = sock
        # Of forker.py, once there was a program.
        self.forker = None
        self.kill_after = KILL_AFTER
        # Whether it becomes an orphan when no program runs.
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
            try:
                # It outlives a kill of that process's group: it ends the programs then.
                os.setpgid(0, 0)
            except OSError:
                pass
            for signum, _ in self.handlers:
                signal.signal(signum, signal.SIG_IGN)
            self.close_theirs()
            if 'mitogen.forker' in core.importer.cache:
                # While the other one does something else.
                import mitogen.forker
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
            parent.relay.crowd.close()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        close(*(fds | set((null,))) - set((None, self.alive, self.sock.fileno(), self.stream, 0, 1, 2)))

    def watch(self):
        """
        Returns when there is nothing to watch any more. In a process that is to be a program, gives what makes it
        one.
        """
        self.poller = poller = select.poll()
        control = self.sock.fileno()
        # Only whether they hang up.
        poller.register(self.stream, 0)
        poller.register(self.alive, 0)
        poller.register(control, select.POLLIN)
        lost = None
        while 1:
            try:
                ready = dict(poller.poll(None if lost is None else 50))
            except select.error as e:
                if e.args[0] != errno.EINTR:
                    raise
                ready = {}
            if self.forker:
                self.forker.collect(ready)
            if control in ready:
                try:
                    be = self.obey(*self.receive())
                except (EOFError, OSError, IOError, _socket.error):
                    break
                if be:
                    return be
            if self.moving and not (self.forker and self.forker.programs):
                self.moving = False
                if running.fork():
                    os._exit(0)
            if self.alive in ready:
                break
            if self.stream in ready:
                poller.unregister(self.stream)
                lost = core.clock()
            if lost is not None and core.clock() - lost > self.kill_after:
                self.kill()
        if self.forker:
            self.forker.end()

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
        """An order, and the count of descriptors that come behind it."""
        size, count = ORDER.unpack(self.read(ORDER.size))
        return marshal.loads(self.read(size)), count

    def obey(self, order, count):
        """Do what was ordered. In a process that is to be a program, give what makes it one."""
        if order[0] == 'leave':
            self.kill_after = LEAVE_AFTER
        elif order[0] == 'move':
            self.moving = True
        else:
            _, context_id, spec, records, codes = order
            core.importer.cache.update(records)
            core.importer.codes.update(codes)
            if self.forker is None:
                from mitogen.forker import Forker
                self.forker = Forker(self)
            return self.forker.fork(context_id, spec, count)
