"""
Programs that `mitogend run` has started: each a process of its own, forked off an interpreter in which no user's
function ran (guard.py), and a context whose parent is this one. Here are its pipes and its end. It comes over the
importer as mitogen.program.
"""
from __future__ import absolute_import

import errno
import os
import struct

import _socket

import mitogen.core as core
import mitogen.guard
import mitogen.parent as parent
import mitogen.process as process
from mitogen.core import Message
from mitogen.guard import TELL
from mitogen.running import close

signal = core.signal

# Seconds that a program has to leave after SIGINT, and after SIGTERM.
GRACE = 2
KILL_AFTER = 1
# Of so much at once, more is likely to follow.
MUCH = core.CHUNK // 2

programs = {}


class Program(process.Process):
    """A process that runs a script, its three pipes, and where its output goes. Lives on the reader."""
    kill_after = KILL_AFTER

    def __init__(self, context_id, handle, stdin, pipes, credit):
        process.Process.__init__(self, None, reap=False)
        self.context_id = context_id
        self.handle = handle
        self.stdin = stdin
        self.pipes = pipes
        # Where standard input comes in.
        self.input = None
        # Pipes of its own, and to and from the parent, that had much.
        self.grown = set()
        # Bytes that the master still takes; without any the pipes are left alone.
        self.credit = credit
        # Set when it is stopped: nobody may take anything any more, and what is left in the pipes at the end is sent
        # all the same.
        self.stopped = False
        # Set once its pipes are read, and nobody else here has their other ends.
        self.up = False
        # Gets the error number with which it was not started, or 0.
        self.started = core.Latch()

    def start(self):
        self.up = True
        for fd in self.pipes:
            parent.nonblock(fd)
            parent.relay.read_from(fd, self.on_output)
        if self.status is not None:
            self.finish()

    def tell(self, tag, data=b''):
        parent.relay.upstream.post(Message(0, handle=self.handle, data=tag + data))

    def on_output(self, fd, _event):
        """Pass on what was printed; False at the end."""
        try:
            data = os.read(fd, min(core.CHUNK, self.credit) if self.credit > 0 else core.CHUNK)
        except (OSError, IOError) as e:
            return e.errno == errno.EINTR
        if not data:
            self.close_pipe(fd)
            return False
        if len(data) > MUCH:
            self.grow(fd)
            self.grow(core.router.stream.wfd)
        self.tell(self.pipes[fd], data)
        self.credit -= len(data)
        if self.credit <= 0:
            self.listen(False)
        return True

    def grow(self, fd):
        if fd not in self.grown:
            self.grown.add(fd)
            parent.grow_pipe(fd)

    def listen(self, on):
        for fd in self.pipes:
            parent.relay.read_from(fd, self.on_output, on)

    def close_pipe(self, fd):
        del self.pipes[fd]
        parent.relay.drop(fd)
        os.close(fd)

    def on_message(self, msg):
        """
        From the master: i and a chunk of standard input, nothing for its end; or a and how many bytes more are taken.
        """
        data = msg.data
        if core.PY3 and len(data) > core.CHUNK:
            # That spares a copy; on 2.x it could not be joined to others.
            data = memoryview(data)
        tag, data = msg.data[:1], data[1:]
        if msg.is_dead:
            return
        if tag == b'a':
            self.credit += int(data)
            if self.status is not None:
                self.finish()
            elif self.credit > 0:
                self.listen(True)
        elif self.stdin is not None and data:
            if len(data) > MUCH:
                self.grow(core.router.stream.rfd)
            self.stdin.put(data)
            self.stdin.when_room(self.acknowledge)
        elif self.stdin is not None:
            self.stdin.when_room(lambda: parent.relay.call_soon(self.close_stdin), 0)

    def acknowledge(self):
        self.tell(b'a')

    def close_stdin(self):
        if self.stdin is not None:
            parent.relay.drop(self.stdin.fd)
            self.stdin.close()
            os.close(self.stdin.fd)
            self.stdin = None

    def on_link_lost(self):
        """It has become another program, or has closed what it does not know; or it is to leave with this process."""
        if core.io.lost:
            self.signal(signal.SIGINT)
            process.ender.end(self)

    def ended(self, status):
        """The process has ended; -1 if nobody can tell how."""
        self.status = status
        # What it has left behind in its group.
        process.ender.end(self, 0)
        self.finish()

    def finish(self):
        """Send what is left in the pipes, as far as it is taken, and then how the program has ended."""
        if not self.up:
            # It has ended before we have heard that it was started; start() goes on.
            return
        for fd in list(self.pipes):
            while (self.credit > 0 or self.stopped) and self.on_output(fd, None):
                pass
            if self.credit <= 0 and not self.stopped and fd in self.pipes:
                return
            if fd in self.pipes:
                self.close_pipe(fd)
        self.close_stdin()
        self.remove()
        self.tell(b'x', b'%d' % self.status)

    def resume(self):
        """It was stopped, maybe after its end."""
        if self.status is not None and self.context_id in programs:
            self.finish()

    def remove(self):
        programs.pop(self.context_id, None)
        core.router.del_handler(self.input)


class News(object):
    """What the other process tells of programs. On the reader."""

    def __init__(self, guard):
        self.fd = guard.sock.fileno()
        self.alive = guard.alive
        self.data = b''

    def on_readable(self, _fd, _event):
        try:
            data = os.read(self.fd, 4096)
        except (OSError, IOError) as e:
            if e.errno in (errno.EAGAIN, errno.EINTR):
                return
            data = b''
        if not data:
            parent.relay.drop(self.fd)
            for program in list(programs.values()):
                if program.pid is None:
                    program.started.put(errno.ESRCH)
                else:
                    program.ended(-1)
            return
        self.data += data
        while len(self.data) >= TELL.size:
            kind, context_id, value = TELL.unpack_from(self.data)
            self.data = self.data[TELL.size:]
            program = programs.get(context_id)
            if program is None:
                continue
            if kind == b'X':
                program.ended(value)
            elif kind == b'F':
                program.started.put(value)
            else:
                program.pid = value
                process.ender.alive.add(program)
                program.started.put(0)


news = None


def own():
    """Descriptors that no other program may keep open: a program would never see the end of its input."""
    fds = [news.fd, news.alive] if news else []
    for program in list(programs.values()):
        fds += list(program.pipes) + ([program.stdin.fd] if program.stdin else [])
    return fds


def fresh(guard):
    """New records and bytecode of the importer's, for the other process."""
    cache, codes = core.importer.cache, core.importer.codes
    new = [name for name in list(cache) if name not in guard.sent]
    guard.sent.update(new)
    keys = [(name, name.encode('utf-8') if core.PY3 else name) for name in new]
    return [(name, plain(cache[name])) for name in new], [(key, codes[key]) for _, key in keys if key in codes]


def plain(record):
    """A record as marshal takes it."""
    return record if type(record) is not tuple else record[:3] + (bytes(record[3]),) + record[4:]


if core.PY3:
    def send_fds(sock, fds):
        sock.sendmsg([b'f'], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack('%di' % len(fds), *fds))])
else:
    # The module that can send descriptors takes long to import.
    def send_fds(sock, fds):
        if os.path.exists('/proc/self/fd'):
            # They are kept open until the answer is here.
            mitogen.guard.send(sock, struct.pack('>L%dL' % len(fds), os.getpid(), *fds))
        else:
            from _multiprocessing import sendfd
            mitogen.guard.send(sock, struct.pack('>L', 0))
            for fd in fds:
                sendfd(sock.fileno(), fd)


def leaf():
    """In a process that was forked off: it runs none."""
    programs.clear()


def run(context_id, name, handle, spec, with_stdin, credit):
    """
    Start a program. Its output goes to the master's handle, tagged o or e, as much as `credit` at first, and last of
    all x with its wait status. Gives the handle for standard input.
    """
    global news
    # The other process asks for nothing.
    core.importer.record('mitogen.script')
    core.importer.record('mitogen.forker')
    guard = mitogen.guard.start()
    relay, ender = process.start()
    if news is None:
        news = News(guard)
        relay.owners.append(own)
        relay.call_soon(relay.read_from, news.fd, news.on_readable)
    spec['config'] = dict(core.config, context_id=context_id, name=name, host_vars=spec.pop('secrets', None),
                          parent_ids=[core.router.context_id] + list(core.config['parent_ids']))
    pipes = []
    with relay.spawning:
        try:
            for _ in range(4 + bool(with_stdin)):
                pipes.append(process.pipe())
            if not with_stdin:
                pipes.append((os.open(os.devnull, os.O_RDONLY), None))
            (down_r, down_w), (up_r, up_w), (out_r, out_w), (err_r, err_w), (in_r, in_w) = pipes
            program = programs[context_id] = Program(
                context_id, handle, parent.Writer(in_w) if with_stdin else None, {out_r: b'o', err_r: b'e'}, credit)
            records, codes = fresh(guard)
            guard.order(('fork', context_id, spec, records, codes), (down_r, up_w, in_r, out_w, err_w))
            failed = program.started.get()
            if failed:
                raise OSError(failed, os.strerror(failed))
        except BaseException:
            close(*[fd for ends in pipes for fd in ends if fd is not None])
            programs.pop(context_id, None)
            raise
        close(down_r, up_w, in_r, out_w, err_w)
        link = parent.Link(up_r, down_w, context_id)
        link.on_end = program.on_link_lost
        program.input = core.router.add_handler(program.on_message, policy=core.has_parent_authority)
        relay.call_soon(relay.add_child, link)
        relay.call_soon(program.start)
    return program.input


def stop(context_id, signum):
    """
    End a program: by SIGINT or SIGTERM to its group, by SIGTERM if it is there GRACE seconds later, and then by
    SIGKILL.
    """
    program = programs.get(context_id)
    if program:
        program.stopped = True
        program.signal(signum)
        process.ender.end(program, GRACE)
        parent.relay.call_soon(program.resume)
