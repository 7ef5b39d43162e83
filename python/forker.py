"""
Forks programs off the process beside a child (watcher.py). It comes over the importer as mitogen.forker, with the
first program; a child that only calls functions does not need it.
"""
from __future__ import absolute_import
import errno
import fcntl
import os
import select
import struct
import time

import _socket

import mitogen.core as core
import mitogen.running as running
import mitogen.script
from mitogen.guard import TELL
from mitogen.running import close

signal = core.signal

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


class Forker(object):
    """Forks programs off this process, and has their exit statuses."""

    def __init__(self, watcher):
        self.watcher = watcher
        self.sock = watcher.sock
        # Context ids of programs by pid.
        self.programs = {}
        # Has poll() return when a program ends.
        self.wake = os.pipe()
        for fd in self.wake:
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # 2.7 would give up a read of the socket in the middle. poll() returns all the same.
        signal.siginterrupt(signal.SIGCHLD, False)
        signal.set_wakeup_fd(self.wake[1])
        watcher.poller.register(self.wake[0], select.POLLIN)

    def fork(self, context_id, spec, count):
        """Start a program. In its process, give what makes it one."""
        fds = receive_fds(self.sock, count)
        try:
            pid = running.fork()
        except (OSError, IOError) as e:
            close(*fds)
            self.tell(b'F', context_id, e.errno or errno.EAGAIN)
            return None
        if not pid:
            os.setsid()
            signal.set_wakeup_fd(-1)
            # The wakeup descriptor's number may become one of the program's own.
            be = mitogen.script.Program(spec, fds)
            close(self.watcher.alive, self.watcher.stream, *self.wake)
            self.sock.close()
            for signum, handler in self.watcher.handlers:
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

    def collect(self, ready=()):
        """Take the exit statuses that are there."""
        if self.wake[0] in ready:
            os.read(self.wake[0], 512)
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

    def end(self):
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
