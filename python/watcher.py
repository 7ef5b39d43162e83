"""
The process beside this one (guard.py), as seen from itself: it watches, and programs are forked off it. It comes over the importer
as mitogen.watcher, ahead of the fork after which it is imported.
"""
from __future__ import absolute_import
import errno
import fcntl
import marshal
import os
import select
import struct
import sys
import time

import _socket

import mitogen.core as core
import mitogen.running as running
from mitogen.guard import ORDER, TELL, born, close

# On 3.x the C module: the other one imports enum, which takes longer than the rest.
signal = core.signal

# Seconds after the loss of the connection: what running.evict can do is done by then.
KILL_AFTER = 2.3
# The same where only what is registered with atexit runs.
LEAVE_AFTER = 4.3
# Seconds after which programs of a process that has died get each signal.
STEPS = (0, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGKILL)


if core.PY3:
    def receive_fds(sock, count):
        extra = count and sock.recvmsg(1, _socket.CMSG_SPACE(4 * count))[1]
        return struct.unpack('%di' % count, extra[0][2]) if extra else ()
else:
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
            pid = running.fork()
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
            if running.fork():
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
