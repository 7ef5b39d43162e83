"""
Starts a child behind this process: runs a plan of the master's (package bootstrap has the methods and tells what the
parts of a plan mean), answers the questions that the program asks, and pumps the handshake. It comes over the
importer as mitogen.launch.

serve() gives a handle. A message to it is a context id in decimal, a NUL, and the pickle of (name, plan, config
literal, unidirectional). The answer, once the child is there or has failed, is a dict for the master's Plan.Explain.
A message with the id alone ends that child, at whatever point it is; the answer comes when nothing of it is left.
Each launch has a thread of its own.
"""
from __future__ import absolute_import

import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
import unicodedata
import zlib

import mitogen.core as core
import mitogen.parent as parent
import mitogen.process as process
import mitogen.running as running
from mitogen.core import Message

# What was printed: lines that are kept, their length, and the length of an unfinished one.
KEPT_LINES = 40
KEPT_CHARS = 400
MAX_LINE = 8192
# How much of it is searched for a question. The search must not take longer than a program takes to print it.
MAX_QUESTION = 1200
# Bytes that are no handshake.
MAX_BANNER = 1 << 20
# Seconds of listening to a program that has ended: what it wrote last is still on the way.
LINGER = 0.3
# Seconds for the status of one that the system is still ending.
MAX_LINGER = 5
# As the master has it: an answer for a target without Python comes in parts.
PART = 1048576
# What the target's sh asks for then, in this order.
QUESTIONS = b'MITONOPY tried', b'MITOSIZE ', b'MITOSEND '
# Seconds after which somebody looks whether the program has ended.
LOOK = 0.1

ESCAPES = re.compile(u'\x1b(?:\\[[^\x40-\x7e]*[\x40-\x7e]?|\\][^\x07\x1b]*(?:\x07|\x1b\\\\|\x1b|$)|.|$)', re.DOTALL)

# What is being launched and what is connected, by context id.
attempts = {}
hops = {}
handle = None


def normalise(data):
    """
    Printed bytes as text for patterns and messages: without escape sequences and control characters, spaces plain.
    """
    text = ESCAPES.sub(u'', data.decode('utf-8', 'replace'))
    return u''.join([c if c > u' ' and c < u'\x7f' else clean(c) for c in text])


def clean(c):
    if u'\x1c' <= c <= u'\x1f' or c == u'\r':
        return u''
    if c.isspace():
        return u' '
    return u'' if unicodedata.category(c) == 'Cc' else c


class Lines(object):
    """The unfinished line of one stream."""

    def __init__(self):
        self.rest = b''

    def feed(self, data):
        """The lines, as bytes without their ends, that data completes."""
        lines = (self.rest + data).split(b'\n')
        self.rest = lines.pop()[-MAX_LINE:]
        return [line[:-1] if line.endswith(b'\r') else line for line in lines]


class Failed(Exception):
    """The attempt is over. The text, if any, is the reason; otherwise what was printed tells it."""

    def __init__(self, step, reason=None, timed_out=False, no_terminal=False):
        Exception.__init__(self, reason)
        self.step = step
        self.reason = reason
        self.timed_out = timed_out
        self.no_terminal = no_terminal


class Child(process.Process):
    """
    A program that was started, and its descriptors on our side: data to read and to write, and stderr or a terminal.
    """

    def __init__(self, plan):
        with parent.relay.spawning:
            parent.relay.may_start()
            theirs, self.rfd, self.wfd, self.efd, self.tty = layout(plan[u'stdio'])
            try:
                # It must not be collected, which would reap the process.
                self.popen = running.fork(spawn, plan, theirs, self.tty)
            except BaseException:
                self.close()
                raise
            finally:
                for fd in set(theirs):
                    os.close(fd)
            process.Process.__init__(self, self.popen.pid)
            # Before the lock is released: who waits for it ends all that is there.
            process.ender.alive.add(self)
        for fd in set((self.rfd, self.wfd, self.efd)) - set((None,)):
            parent.nonblock(fd)

    def poll(self):
        status = process.Process.poll(self)
        if status is not None:
            self.popen.returncode = status
        return status

    def close_data(self):
        for fd in set((self.rfd, self.wfd)) - set((None, self.efd)):
            os.close(fd)
        self.rfd = self.wfd = None

    def close_errors(self):
        if self.efd is not None:
            os.close(self.efd)
            self.efd = None

    def close(self):
        self.close_data()
        self.close_errors()


def layout(stdio):
    """
    The child's three descriptors; ours to read, to write and for stderr or the terminal; and whether that is a
    terminal.
    """
    opened = []
    try:
        if stdio == u'pty':
            master, slave = terminal()
            return (slave, slave, slave), master, master, None, True
        if stdio in (u'socketpair', u'hybrid'):
            rfd, out = process.pair()
            wfd, inp = rfd, out
            opened += [rfd, out]
        else:
            inp, wfd = process.pipe()
            opened += [inp, wfd]
            rfd, out = process.pipe()
            opened += [rfd, out]
        if stdio.startswith(u'hybrid'):
            efd, err = terminal()
        else:
            efd, err = process.pipe()
        return (inp, out, err), rfd, wfd, efd, stdio.startswith(u'hybrid')
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise


def terminal():
    """A terminal in raw mode without echo: the master's and the slave's descriptor."""
    try:
        fds = os.openpty()
    except (OSError, IOError) as e:
        raise Failed(u'program', u'%s' % (e.strerror or e,), no_terminal=True)
    try:
        for fd in fds:
            core.cloexec(fd)
        tty.setraw(fds[1], termios.TCSANOW)
        # Some programs refuse or wrap at a terminal of 0 x 0.
        fcntl.ioctl(fds[1], termios.TIOCSWINSZ, struct.pack('HHHH', 24, 132, 0, 0))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def spawn(plan, fds, on_tty):
    """Start the program as leader of a session of its own. With a terminal that is the controlling one."""
    def encode(text):
        return text if isinstance(text, bytes) else text.encode('utf-8')
    env = dict(os.environb if core.PY3 else os.environ)
    env.pop(encode('PYTHONINSPECT'), None)
    env.update((encode(k), encode(v)) for k, v in plan[u'env'].items())
    more = {}
    if core.PY3:
        more['start_new_session'] = True
    return subprocess.Popen([encode(a) for a in plan[u'argv']], stdin=fds[0], stdout=fds[1], stderr=fds[2],
                            env=env, close_fds=core.PY3, preexec_fn=lambda: prepare(on_tty), **more)


def prepare(on_tty):
    """In the new process, before it becomes the program."""
    running.unmask()
    if not core.PY3:
        os.setsid()
        for signum in signal.SIGPIPE, signal.SIGXFSZ:
            signal.signal(signum, signal.SIG_DFL)
        # Popen's own way calls close() for every number up to the limit, which may be a thousand million.
        try:
            fds = [int(fd) for fd in os.listdir('/proc/self/fd')]
        except OSError:
            fds = range(4096)
        for fd in fds:
            if fd > 2:
                try:
                    core.cloexec(fd)
                except (OSError, IOError):
                    pass
    if on_tty:
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)


class Attempt(object):
    """One launch, on a thread of its own."""

    def __init__(self, msg, context_id, request):
        self.msg = msg
        self.context_id = context_id
        self.request = request
        self.cancelled = False
        self.child = None
        self.step = u'program'
        self.hexversion = 0
        # Until an interpreter answers, questions may come.
        self.asking = True
        self.given = set()
        self.answered = False
        self.secrets = []
        self.printed = []
        self.noise = 0
        self.data = Lines()
        self.errors = Lines()
        self.quiet_at = self.ended_at = None
        self.questions = []

    def run(self):
        try:
            # Not on the reader: what is unpickled may have to be imported first.
            self.name, self.plan, self.config, self.unidirectional = core.loads(self.request)
            if self.plan.get(u'supply'):
                self.questions = list(QUESTIONS)
            del self.request
            self.start()
            self.handshake()
        except Failed as e:
            self.fail(e)
        except Exception as e:
            # Without a traceback: it is no place for what the plan holds.
            self.fail(Failed(self.step, u'%s: %s' % (type(e).__name__, e)))
        else:
            parent.relay.call_soon(self.connected)

    def start(self):
        try:
            self.child = Child(self.plan)
        except (OSError, IOError, subprocess.SubprocessError if core.PY3 else OSError) as e:
            raise Failed(u'program', u'%s: %s' % (self.plan[u'argv'][0], getattr(e, 'strerror', None) or e))
        self.step = u'connect'
        self.deadline = parent.clock() + self.plan[u'timeout']
        self.write(self.child.wfd, self.plan[u'input'].encode('utf-8'))

    def write(self, fd, data):
        """Write within the time; False if nobody reads any more, which the reader will notice."""
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        while data:
            try:
                data = data[os.write(fd, data):]
            except (OSError, IOError) as e:
                if e.errno in (errno.EPIPE, errno.EIO, errno.ECONNRESET):
                    return False
                if e.errno not in (errno.EAGAIN, errno.EINTR):
                    raise
                self.check()
                poller.poll(1000 * LOOK)
        return True

    def check(self):
        """Raise when it is over; otherwise give the seconds to wait."""
        now = parent.clock()
        if self.cancelled or core.io.lost:
            raise Failed(self.step, u'the launch was cancelled')
        if self.ended_at is None and self.child.poll() is not None:
            self.ended_at = now + LINGER
        if self.ended_at is not None and now >= self.ended_at:
            self.last_words()
            raise Failed(self.step)
        if now >= self.deadline:
            raise Failed(self.step, timed_out=True)
        due = self.deadline, self.ended_at, self.quiet_at
        return min([LOOK] + [max(0, at - now) for at in due if at is not None])

    def handshake(self):
        """Read until MITO002."""
        child = self.child
        poller = select.poll()
        for fd in child.rfd, child.efd:
            if fd is not None:
                poller.register(fd, select.POLLIN)
        while self.step != u'ready':
            wait = self.check()
            ready = [fd for fd, _ in self.ready(poller, wait)]
            asks_on = child.rfd if child.efd is None else child.efd
            if child.efd in ready and self.read_errors() == b'':
                poller.unregister(child.efd)
            if child.rfd in ready:
                self.read_data()
            if asks_on in ready:
                self.quiet_at = None
                self.ask(False)
            elif self.quiet_at is not None and parent.clock() >= self.quiet_at:
                self.quiet_at = None
                self.ask(True)

    def ready(self, poller, seconds):
        try:
            return poller.poll(int(1000 * seconds) + 1)
        except select.error as e:
            if e.args[0] != errno.EINTR:
                raise
            return []

    def read_data(self):
        # After MITO000, frames may follow at any byte. Before it nothing can.
        data = read(self.child.rfd, 1 if self.hexversion else 4096)
        if data is None:
            return
        if not data:
            # How it ended, and what it printed on stderr, say more than the end itself.
            self.await_exit()
            if self.child.efd is not None:
                self.last_words()
            raise Failed(self.step)
        for line in self.data.feed(data):
            self.on_line(line)
        if self.noise > MAX_BANNER:
            raise Failed(self.step, u'it printed more than a mebibyte that is no handshake')
        return data

    def await_exit(self):
        """Wait for the status of a program whose streams have ended; longer while the system is still ending it."""
        start = parent.clock()
        while self.child.poll() is None and not self.cancelled and not core.io.lost:
            waited = parent.clock() - start
            if waited > MAX_LINGER or waited > LINGER and not process.exiting(self.child.pid):
                break
            time.sleep(0.01)

    def last_words(self):
        """Take what is left of the output of a program that has ended: there may have been no time to read it."""
        take = self.read_data if self.child.efd is None else self.read_errors
        while self.noise <= MAX_BANNER and self.step != u'ready' and take():
            pass

    def read_errors(self):
        """Take what was printed on stderr, as read() gives it."""
        data = read(self.child.efd, 4096)
        if data:
            self.noise += len(data)
            for line in self.errors.feed(data):
                self.keep(line)
        return data

    def on_line(self, line):
        """A line of the data stream: the marker that comes next, or something that was printed."""
        if line.startswith(b'MITOERR '):
            self.keep(line)
            raise Failed(u'interpreter')
        if self.step in (u'connect', u'sending Python'):
            mark = self.questions[0] if self.questions else None
            if mark and mark in line:
                del self.questions[0]
                self.asking = False
                self.step = u'sending Python'
                self.supply(normalise(line[line.rindex(mark):]))
                return
            found = re.search(b'MITO000 ([0-9a-f]{7,8})(?: [0-9a-f]{4})?$', line)
            if found:
                self.hexversion = int(found.group(1), 16)
                self.asking = False
                self.step = u'first stage'
                foreign = self.plan.get(u'foreign')
                if foreign and self.hexversion >= foreign[u'too_new']:
                    raise Failed(u'interpreter', foreign[u'reason'])
                self.write(self.child.wfd, foreign[u'preamble'] if foreign else preamble(self.hexversion, self.config))
                return
        elif self.step == u'first stage' and line == b'MITO001':
            self.step = u'runtime'
            return
        elif self.step == u'runtime' and line == b'MITO002':
            self.step = u'ready'
            return
        self.noise += len(line) + 1
        self.keep(line)

    def supply(self, question):
        """Write what the master has for a target that has no Python."""
        import mitogen.resources as resources
        at = 0
        while True:
            try:
                data = resources.ask(u'python', u'%d' % self.context_id, question, u'%d' % at)
            except resources.Refused as e:
                raise Failed(u'interpreter', u'%s' % e)
            at += len(data)
            self.deadline = parent.clock() + self.plan[u'timeout']
            if not self.write(self.child.wfd, data) or len(data) < PART:
                return

    def keep(self, line):
        text = normalise(line).strip()
        if text:
            self.printed.append(text if len(text) <= KEPT_CHARS else text[:KEPT_CHARS] + u'...')
            del self.printed[:-KEPT_LINES]

    def ask(self, settled):
        """Answer the unfinished line, if it is a question."""
        lines = self.data if self.child.efd is None else self.errors
        text = normalise(lines.rest[-MAX_QUESTION:])
        if not self.asking or not text.strip():
            return
        for prompt in self.plan[u'prompts']:
            if not re.search(prompt[u'pattern'], text, re.UNICODE):
                continue
            if prompt[u'settle'] and not settled:
                self.quiet_at = parent.clock() + self.plan[u'settle_time']
                return
            self.keep(lines.rest)
            lines.rest = b''
            if not prompt[u'known'] or prompt[u'name'] in self.given and not prompt[u'repeat']:
                # The master finds the reason in the question, which is the last line.
                raise Failed(u'connect')
            if not self.child.tty:
                raise Failed(u'connect', u'it asks for the %s, and has no terminal to be answered on' % prompt[u'name'])
            self.given.add(prompt[u'name'])
            answer = unescaped(prompt[u'answer'])
            password = prompt[u'name'] == u'password'
            if password:
                self.secrets.append(normalise(answer))
            fd = self.child.wfd if self.child.efd is None else self.child.efd
            self.answered = self.write(fd, answer + b'\n') and password or self.answered
            return

    def fail(self, e):
        """End the program and report."""
        result = {u'ok': False, u'step': e.step, u'timed_out': e.timed_out, u'answered': self.answered,
                  u'status': None, u'reason': e.reason or u'', u'cancelled': self.cancelled, u'no_terminal': e.no_terminal,
                  u'open': u'', u'dialing': u''}
        child = self.child
        if child:
            if e.timed_out and e.step == u'connect':
                result[u'dialing'] = dialing(child.pid)
            self.keep(self.data.rest)
            self.keep(self.errors.rest)
            result[u'open'] = normalise((self.data if child.efd is None else self.errors).rest[-MAX_QUESTION:]).strip()
            status = child.poll()
            if status is not None:
                result[u'status'] = status
            child.close_data()
            process.ender.end(child, 0, child.close)
        attempts.pop(self.context_id, None)
        result[u'output'] = list(self.printed)
        self.msg.reply(result)

    def connected(self):
        """On the reader: the child joins the tree. The master hears of its route before it hears of the launch."""
        attempts.pop(self.context_id, None)
        hop = hops[self.context_id] = Hop(self)
        parent.relay.add_child(hop.link)
        hop.start()
        # It came too late.
        if self.cancelled:
            hop.link.on_lost()
        result = {u'ok': True, u'hexversion': self.hexversion}
        self.msg.reply(Message.pickled(result, dst_id=self.msg.src_id))


def read(fd, size):
    """What has come: None if nothing has yet, no bytes at the end."""
    try:
        return os.read(fd, size)
    except (OSError, IOError) as e:
        if e.errno in (errno.EAGAIN, errno.EINTR):
            return None
        return b''


def dialing(group):
    """The HOST:PORT that has not answered the connect of a process of the group, or nothing."""
    for name in os.listdir('/proc') if os.path.isdir('/proc') else ():
        try:
            with open('/proc/%d/stat' % int(name), 'rb') as f:
                if int(f.read().rpartition(b')')[2].split()[2]) != group:
                    continue
            own = set(os.readlink('/proc/%s/fd/%s' % (name, fd)) for fd in os.listdir('/proc/%s/fd' % name))
            for table, family in ('tcp', socket.AF_INET), ('tcp6', socket.AF_INET6):
                with open('/proc/%s/net/%s' % (name, table)) as f:
                    for words in [line.split() for line in f]:
                        if words[3] == '02' and 'socket:[%s]' % words[9] in own:
                            host, port = words[2].split(':')
                            packed = b''.join([struct.pack('=I', int(host[i:i + 8], 16)) for i in range(0, len(host), 8)])
                            return u'%s:%d' % (socket.inet_ntop(family, packed), int(port, 16))
        except (ValueError, IndexError, EnvironmentError):
            # It has ended, is another user's, or the system has no such files.
            continue
    return u''


def preamble(hexversion, config):
    """What the first stage reads: a line with the size, then the core, which is our own if it fits, and its config."""
    source = core.core_source
    if hexversion >> 24 != sys.version_info[0]:
        if core.PY3:
            from mitogen.core2 import SOURCE as source
        else:
            from mitogen.core3 import SOURCE as source
    packed = zlib.compress(source + b'\0' + config.encode('utf-8'), 9)
    return b'%d\n' % len(packed) + packed


def unescaped(text):
    """The bytes of a text, in which those that are no UTF-8 are lone surrogates."""
    if core.PY3:
        return text.encode('utf-8', 'surrogateescape')
    return re.sub(b'\xed([\xb2\xb3])([\x80-\xbf])', lambda found: chr((ord(found.group(1)) & 3) << 6 | ord(found.group(2)) & 63),
                  text.encode('utf-8'))


class Hop(object):
    """
    A child that is connected: what its program still prints goes to the master's log, as the child's. On the reader.
    """

    def __init__(self, attempt):
        child = self.child = attempt.child
        self.context_id = attempt.context_id
        self.secrets = attempt.secrets
        self.lines = attempt.errors
        self.link = parent.Link(child.rfd, child.wfd, self.context_id, self.on_end)
        self.link.unidirectional = attempt.unidirectional
        foreign = attempt.plan.get(u'foreign')
        self.link.foreign = bool(foreign)
        self.link.old = bool(foreign and foreign[u'old'])
        self.on_gone = []

    def start(self):
        if self.child.efd is not None and not self.link.lost:
            parent.relay.read_from(self.child.efd, self.on_printed)

    def on_printed(self, fd, _event):
        relay = parent.relay
        data = read(fd, 4096)
        if data is None:
            return
        for line in self.lines.feed(data) if data else [self.lines.rest]:
            text = normalise(line)
            for secret in self.secrets:
                text = text.replace(secret, u'******')
            if text:
                relay.upstream.post(Message(0, self.context_id, self.context_id, core.FORWARD_LOG,
                                            data=b'stdio\x0020\0' + text.encode('utf-8', 'replace') + b'\n'))
        if not data:
            relay.drop(fd)
            # With a terminal, this may only mean that the child has let go of stderr. Closing it would hang up on the
            # session.
            if not self.child.tty:
                self.child.close_errors()
        elif relay.blocked(0, relay.upstream):
            relay.hold(fd, 0)

    def on_end(self):
        """The stream has ended, and is closed."""
        child = self.child
        child.rfd = child.wfd = None
        if child.efd is not None:
            parent.relay.drop(child.efd)
        process.ender.end_of(self.link, child, self.gone)

    def gone(self):
        self.child.close()
        hops.pop(self.context_id, None)
        parent.relay.call_soon(self.tell)

    def tell(self):
        for msg in self.on_gone:
            msg.reply(Message.pickled(None, dst_id=msg.src_id))
        self.on_gone = None

    def end(self, msg):
        """On the reader: somebody wants the child to be gone."""
        if self.on_gone is None:
            msg.reply(Message.pickled(None, dst_id=msg.src_id))
        else:
            self.on_gone.append(msg)
            self.link.on_lost()


def on_message(msg):
    """A request from the master, on the reader."""
    if msg.is_dead:
        return
    context_id, launch, request = msg.data.partition(b'\0')
    context_id = int(context_id)
    if launch:
        attempt = attempts[context_id] = Attempt(msg, context_id, request)
        running.start_thread(attempt.run)
    elif context_id in hops:
        hops[context_id].end(msg)
    else:
        if context_id in attempts:
            attempts[context_id].cancelled = True
        msg.reply(Message.pickled(None, dst_id=msg.src_id))


def serve():
    """The handle that launches children of this process."""
    global handle
    relay, ender = process.start()
    if handle is None:
        relay.owners.append(lambda: [fd for child in ender.alive if type(child) is Child
                                     for fd in (child.rfd, child.wfd, child.efd) if fd is not None])
        handle = core.router.add_handler(on_message, policy=core.has_parent_authority)
    return handle


def leaf():
    """In a process that was forked off: it has started nothing."""
    global handle
    handle = None
    attempts.clear()
    hops.clear()
