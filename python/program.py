"""
Runs a script as __main__ in a process that is forked off this one. It comes over the importer as mitogen.program.
"""
from __future__ import absolute_import

import atexit
import errno
import os
import signal
import sys

import mitogen
import mitogen.core as core
import mitogen.parent as parent
import mitogen.process as process
from mitogen.core import Message, _thread

# Bytes of a program's output that may be on the way.
WINDOW = 1 << 20
# Seconds that a program has to leave after SIGTERM.
GRACE = 2

programs = {}


class Program(process.Process):
    """A process that runs a script, its three pipes, and where its output goes. Lives on the reader."""

    def __init__(self, pid, context_id, handle, stdin, pipes):
        process.Process.__init__(self, pid, reap=False)
        self.context_id = context_id
        self.handle = handle
        self.stdin = stdin
        self.pipes = pipes
        # Where standard input comes in.
        self.input = None
        # Bytes sent to the master and not yet acknowledged; beyond WINDOW the pipes are left alone.
        self.unread = 0

    def start(self):
        for fd in self.pipes:
            parent.nonblock(fd)
            parent.relay.read_from(fd, self.on_output)

    def tell(self, tag, data=b''):
        parent.relay.upstream.post(Message(0, handle=self.handle, data=tag + data))

    def on_output(self, fd, _event):
        """Pass on what was printed; False at the end."""
        try:
            data = os.read(fd, core.CHUNK)
        except (OSError, IOError) as e:
            return e.errno == errno.EINTR
        if not data:
            self.close_pipe(fd)
            return False
        self.tell(self.pipes[fd], data)
        self.unread += len(data)
        if self.unread > WINDOW:
            self.listen(False)
        return True

    def listen(self, on):
        for fd in self.pipes:
            parent.relay.read_from(fd, self.on_output, on)

    def close_pipe(self, fd):
        del self.pipes[fd]
        parent.relay.drop(fd)
        os.close(fd)

    def on_message(self, msg):
        """From the master: i and a chunk of standard input, nothing for its end; or a and the count of bytes taken."""
        tag, data = msg.data[:1], msg.data[1:]
        if msg.is_dead:
            return
        if tag == b'a':
            self.unread -= int(data)
            if self.unread <= WINDOW:
                self.listen(True)
        elif self.stdin is not None and data:
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

    def wait(self):
        """On a thread of its own: the process has ended."""
        status = 0
        while 1:
            try:
                status = os.waitpid(self.pid, 0)[1]
            except (OSError, IOError) as e:
                if e.errno == errno.EINTR:
                    continue
            break
        self.status = status
        # What it has left behind in its group.
        process.ender.end(self, 0)
        parent.relay.call_soon(self.ended)

    def ended(self):
        for fd in list(self.pipes):
            while self.on_output(fd, None):
                pass
            if fd in self.pipes:
                self.close_pipe(fd)
        self.close_stdin()
        programs.pop(self.context_id, None)
        core.router.del_handler(self.input)
        self.tell(b'x', b'%d' % self.status)


def own():
    """Descriptors that no other program may keep open: a program would never see the end of its input."""
    return [fd for program in list(programs.values())
            for fd in list(program.pipes) + [program.stdin.fd if program.stdin else None] if fd is not None]


def close(*fds):
    for fd in fds:
        try:
            os.close(fd)
        except (OSError, IOError):
            pass


def run(context_id, name, handle, path, source, argv, with_stdin):
    """
    Fork a process off that runs a script as __main__. Its output goes to the master's handle, tagged o or e, and last of
    all x with its wait status. Gives the handle for standard input.
    """
    relay, ender = process.start()
    config = dict(core.config, context_id=context_id, name=name,
                  parent_ids=[core.router.context_id] + list(core.config['parent_ids']))
    core.stdio.flush()
    if own not in relay.owners:
        relay.owners.append(own)
    with relay.spawning:
        opened = []
        try:
            ours, theirs = stream = process.pair()
            opened += stream
            (out_r, out_w), (err_r, err_w) = pipes = process.pipe(), process.pipe()
            opened += pipes[0] + pipes[1]
            in_r, in_w = process.pipe() if with_stdin else (os.open('/dev/null', os.O_RDONLY), None)
            opened += [in_r] if in_w is None else [in_r, in_w]
            pid = core.fork()
        except (OSError, IOError):
            close(*opened)
            raise
        if not pid:
            def become():
                os.setsid()
                # A number of another program's may have been closed, and be one of ours by now.
                close(*(relay.own().union(opened) - set((theirs, in_r, out_w, err_w))))
                for fd, to in (in_r, 0), (out_w, 1), (err_w, 2):
                    os.dup2(fd, to)
                    os.close(fd)
                become_program(config, theirs, path, source, argv)
            raise core.Unwind(become)
        close(theirs, in_r, out_w, err_w)
        link = parent.Link(ours, ours, context_id)
        relay.call_soon(relay.add_child, link)
    program = programs[context_id] = Program(
        pid, context_id, handle, parent.Writer(in_w) if with_stdin else None, {out_r: b'o', err_r: b'e'})
    ender.alive.add(program)
    # Otherwise the program has become another one, or has closed what it does not know.
    link.on_end = lambda: core.io.lost and ender.end(program)
    program.input = core.router.add_handler(program.on_message, policy=core.has_parent_authority)
    relay.call_soon(program.start)
    _thread.start_new_thread(program.wait, ())
    return program.input


def leaf():
    """In a process that was forked off: it runs none."""
    programs.clear()


def become_program(config, fd, path, source, argv):
    """In the process forked off: be the program. Python ends by itself afterwards, with all that it does at exit."""
    parent.leaf()
    core.setup(config, fd, fd, take_stdio=False)
    core.plug(core, mitogen)
    own_logging()
    allow_fork()
    core.io.begin_call()
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    if not isinstance(path, str):
        path = path.encode('utf-8')
    sys.argv[:] = [path] + [a if isinstance(a, str) else a.encode('utf-8') for a in argv]
    fresh_stdio()
    main = sys.modules['__main__'] = type(sys)('__main__')
    main.__dict__.update(__file__=path, __builtins__=__builtins__, __loader__=Script(path, bytes(source)))
    try:
        code = main.__loader__.get_code('__main__')
        exec(code, main.__dict__)
    except SystemExit:
        raise
    except BaseException:
        kind, value, tb = sys.exc_info()
        while tb and tb.tb_frame.f_code.co_filename == become_program.__code__.co_filename:
            tb = tb.tb_next
        if core.io.lost:
            os._exit(1)
        if sys.excepthook is sys.__excepthook__:
            # Before 3.13 that one looks for source lines on the disk only.
            import traceback
            if tb and not core.PY3:
                sys.stderr.write('Traceback (most recent call last):\n')
                traceback.print_tb(tb)
                tb = None
            if not core.PY3:
                sys.excepthook(kind, value, tb)
            else:
                traceback.print_exception(kind, value.with_traceback(tb), tb)
        else:
            sys.excepthook(kind, value.with_traceback(tb) if core.PY3 else value, tb)
        del tb
        sys.exit(130 if isinstance(value, KeyboardInterrupt) else 1)
    sys.exit(0)


def own_logging():
    """Logging as in any program: what it logs goes where it says, and not to the master."""
    core.WATCHED.pop('logging', None)
    logging = sys.modules.get('logging')
    if logging:
        for handler in logging.root.handlers[:]:
            if getattr(handler.emit, '__module__', None) == core.__name__:
                logging.root.removeHandler(handler)
                logging.root.setLevel(logging.WARNING)


def allow_fork():
    """Python 3.12 and later warn of os.fork() beside other threads. There is one of ours, of which the script knows nothing."""
    if sys.version_info < (3, 12):
        return
    # Without the module warnings, which takes time to import. The texts are compared as they are, and fit this process only.
    import _warnings
    text = 'This process (pid=%d) is multi-threaded, use of %s() may lead to deadlocks in the child.'
    for name in 'fork', 'forkpty':
        _warnings.filters.insert(0, ('ignore', text % (os.getpid(), name), DeprecationWarning, None, 0))


class Script(object):
    """The loader of __main__, for tracebacks and inspect."""

    def __init__(self, path, source):
        self.path = path
        self.source = source

    def get_source(self, _name=None):
        if not core.PY3:
            return self.source
        from importlib.util import decode_source
        return decode_source(self.source)

    def get_filename(self, _name=None):
        return self.path

    def is_package(self, _name=None):
        return False

    def get_code(self, _name=None):
        source = self.source
        if not core.PY3:
            source = source.replace(b'\r\n', b'\n') + b'\n'
        return compile(source, self.path, 'exec', 0, 1)


def fresh_stdio():
    """Standard output by lines, so that what a program prints is seen while it runs."""
    if core.PY3:
        import io
        for name, fd, mode in ('stdout', 1, 'w'), ('stdin', 0, 'r'):
            old = getattr(sys, name)
            if old is not None:
                new = io.open(fd, mode, encoding=old.encoding, errors=old.errors, closefd=False,
                              **({} if mode == 'r' else {'buffering': 1}))
                setattr(sys, name, new)
                setattr(sys, '__%s__' % name, new)
    else:
        sys.stdin = sys.__stdin__ = os.fdopen(0, 'r')
        sys.stdout = sys.__stdout__ = os.fdopen(1, 'w', 1)


def stop(context_id):
    """End a program: SIGTERM to its group, and SIGKILL if it is there GRACE seconds later."""
    program = programs.get(context_id)
    if program:
        program.signal(signal.SIGTERM)
        process.ender.end(program, GRACE)
