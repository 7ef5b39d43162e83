"""
What a child needs beside the user's code: the ticker, which reads the stream while that runs, the end of a process
whose connection is lost, threads of the runtime's own, and forks. It comes over the importer as mitogen.running
before the first function of a user's is called, or with the first program, and adds to the class core.Io.
"""
from __future__ import absolute_import
import atexit
import os
import sys
import time

import mitogen.core as core
from mitogen.core import Io, _thread

# The module that core has, on 3.x that in C: the other one imports enum, which takes longer than the rest.
signal = core.signal

# Seconds between two looks of the ticker at the stream: the least, and the most when nothing comes.
TICK = 0.01
SLOW_TICK = 0.1
# Ticks without a call after which the ticker parks.
PARK_TICKS = 50
# Seconds for the interpreter's own end.
END_TIME = 5

# Threads that fork for the runtime itself.
apart = set()
# What is put in place of functions that fork, by name.
FORKS = {}

if core.PY3:
    ALL_SIGNALS = getattr(signal, 'valid_signals', lambda: set(range(1, signal.NSIG)) - set((32, 33)))()
    # As it was at the start: no user's code has run.
    MASK = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    # Python leaves importlib's frames out of the traceback of a module that fails, and knows them by their file and
    # what they call.
    import _frozen_importlib
    from _frozen_importlib_external import _LoaderBasics
    core.Importer.exec_module = _LoaderBasics.exec_module
    core._imp._fix_co_filename(core.Importer.get_code.__code__, core._find_spec.__code__.co_filename)
    core.compile = core._functools.partial(_frozen_importlib._call_with_frames_removed, compile)

    def find_spec(importer, name, path=None, target=None, find=core.Importer.find_spec):
        """
        Where Python would say that there is no such module, say also where we looked, and how to ask. Finders behind
        this one go first.
        """
        spec = find(importer, name, path, target)
        # '' is the answer that there is none; None: that was known by the package.
        reason, package = importer.cache.get(name), importer.cache.get(name.rpartition('.')[0])
        if spec or reason or reason is None and type(package) is not tuple or core.io.lost:
            return spec
        frame, called = sys._getframe(1), ''
        while frame and 'importlib' in frame.f_code.co_filename and called != '_find_and_load':
            called, frame = frame.f_code.co_name, frame.f_back
        others = sys.meta_path[sys.meta_path.index(importer) + 1:] if importer in sys.meta_path else ()
        if called != '_find_and_load' or not all(hasattr(finder, 'find_spec') for finder in others):
            return None
        for finder in others:
            spec = finder.find_spec(name, path, target)
            if spec:
                return spec
        if type(package) is tuple:
            where = 'not in %s' % importer.search_path(package)[0]
        else:
            where = 'neither here nor in ' + core.config.get('path', 'any place')
        raise ModuleNotFoundError(
            'No module named %r (mitogend: %s; ask there: mitogend modules %s)' % (name, where, name), name=name)
    core._imp._fix_co_filename(find_spec.__code__, core._find_spec.__code__.co_filename)
    core.Importer.find_spec = find_spec


def start_thread(fn, *args):
    """Start a thread of the runtime, which takes no signals: they are for the user's threads."""
    old = core.PY3 and signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    try:
        _thread.start_new_thread(thread, (fn,) + args)
    finally:
        if core.PY3:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)


def thread(fn, *args):
    try:
        fn(*args)
    except MemoryError:
        out_of_memory()
    except:
        # 2.x clears sys.path, and then the globals of modules, when it ends, while threads still run. And user code
        # that closes all descriptors closes ours.
        if sys and sys.path is not None and not closed():
            raise


def out_of_memory():
    """The runtime has dropped what it did, and others would wait for it for ever: end this process instead."""
    try:
        core.log(u'out of memory: this process ends', 40)
    finally:
        os._exit(1)


def closed():
    """
    Was the exception raised because user code has closed a descriptor of the runtime's? It may have opened another by
    its number.
    """
    # 9 is EBADF.
    return getattr(sys.exc_info()[1], 'errno', 0) == 9 and (same(core.io.wake_w) is None or changed(core.io))


def close(*fds):
    for fd in fds:
        try:
            os.close(fd)
        except (OSError, IOError):
            pass


def unmask():
    """
    In a process that was forked off by a thread of the runtime: take the signals that the process took at its start.
    """
    if core.PY3:
        signal.pthread_sigmask(signal.SIG_SETMASK, MASK)


def begin_call(io):
    """
    A function of a user's is going to run. Dispatcher.call does this itself: one more function call would cost as
    much as the rest.
    """
    io.running = io.calls = io.calls + 1
    if io.parked:
        io.start_ticker()


def start_ticker(io):
    """Have the ticker look at the stream, until long after the last call."""
    if io.ticking:
        if io.parked:
            io.parked = False
            io.park.release()
        return
    io.ticking = io.starting = True
    io.park = _thread.allocate_lock()
    io.park.acquire()
    io.parked = False
    try:
        start_thread(io.ticker)
    except BaseException:
        # There can be no thread (any more), or a signal came first.
        io.ticking = io.starting = False
        io.parked = True
        raise


def ticker(io):
    io.starting = False
    io.tick()


def tick(io):
    """Read while the main thread runs user code and nobody else waits."""
    seen = idle = 0
    pause = TICK
    while 1:
        if io.parked:
            io.park.acquire()
            idle = 0
            pause = TICK
        time.sleep(pause)
        if io.lost:
            io.evict()
        with io.lock:
            run, seen = io.running == seen and seen, io.running
            idle = 0 if seen else idle + 1
            if idle > PARK_TICKS:
                io.parked = True
                continue
            take = run and not io.reading
            if take:
                io.reading = True
        pause = min(pause * 1.2, SLOW_TICK)
        if take:
            try:
                while io.pump(0):
                    pause = TICK
            finally:
                io.hand_on()


def evict(io):
    """
    The stream is lost while user code runs: interrupt it, a second later end the process by SIGTERM, and after one
    more by SIGKILL, with its group if it leads one.
    """
    if io.lost is True:
        io.lost = core.clock()
        if io.leaving:
            return
        try:
            # Comes out of a system call of the main thread, too.
            signal.pthread_kill(core.main_thread, signal.SIGINT)
        except AttributeError:
            os.kill(os.getpid(), signal.SIGINT)
    elif core.clock() - io.lost > io.leaving + 2:
        send = os.killpg if os.getpgrp() == os.getpid() else os.kill
        send(os.getpid(), signal.SIGKILL)
    elif core.clock() - io.lost > io.leaving + 1:
        os.kill(os.getpid(), signal.SIGTERM)


def leave(io):
    """The main thread is on its way out of the process: what is registered with atexit has three seconds."""
    io.leaving = 2
    guard = sys.modules.get('mitogen.guard')
    if guard:
        guard.leave()
    end = core.clock() + 1
    while io.starting and core.clock() < end:
        # A thread that starts while the interpreter ends may crash it. In a process that was forked just then it
        # never starts.
        time.sleep(0.001)


def at_end():
    """
    What is registered with atexit has run. What is left may hang: an object's __del__, a lock of a thread that the
    interpreter has ended, and 3.9 (3.10 before 3.10.8) itself, whose main thread may wait for such a thread (CPython's
    issue 96387). The ticker is no more, so the kernel ends the process.
    """
    if core.io.leaving and core.io.pid == os.getpid():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if core.PY3:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        signal.alarm(END_TIME)


# The first that is registered is the last that runs.
atexit.register(at_end)

for method in begin_call, start_ticker, ticker, tick, evict, leave:
    setattr(Io, method.__name__, method)


def fork(real=None, *args):
    """Fork a process that the runtime itself looks after, by os.fork() or what calls it."""
    me = _thread.get_ident()
    apart.add(me)
    try:
        return (real or os.fork)(*args)
    finally:
        apart.discard(me)


def before_fork():
    """User code forks: fetch mitogen.forked, which goes on with it."""
    if _thread.get_ident() not in apart:
        try:
            import mitogen.forked
        except ImportError:
            # The connection is lost.
            return
        mitogen.forked.before()


def first(name):
    """Put in place of os.fork() what fetches mitogen.forked; that goes on with it."""
    def fork():
        try:
            if not core.PY3:
                frame = sys._getframe(1)
                if frame.f_globals['__name__'] == 'subprocess' and not frame.f_locals.get('preexec_fn'):
                    return real()
            if _thread.get_ident() not in apart:
                __import__('mitogen.forked')
        except ImportError:
            # The connection is lost.
            pass
        return fork.real()
    FORKS[name] = fork
    fork.real = real = getattr(os, name)
    setattr(os, name, fork)


def watch(subprocess):
    """subprocess was imported, on 3.6: the preexec_fn that it calls between fork and exec may import."""
    real = subprocess._posixsubprocess.fork_exec

    def fork_exec(*args):
        if callable(args[-1]) and _thread.get_ident() not in apart:
            try:
                import mitogen.forked
                mitogen.forked.prepare()
            except (ImportError, OSError):
                # The connection is lost, or there are no descriptors.
                pass
        return real(*args)
    subprocess._posixsubprocess.fork_exec = fork_exec
    if 'mitogen.files' in sys.modules:
        sys.modules['mitogen.files'].watch(subprocess)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=before_fork)
else:
    first('fork')
    first('forkpty')
    if core.PY3 and 'subprocess' in sys.modules:
        watch(sys.modules['subprocess'])
    elif core.PY3:
        core.WATCHED['subprocess'] = __name__

if sys.version_info[:2] == (3, 13):
    try:
        os.getcwd()
    except OSError:
        # A directory that was deleted: an attribute that a module lacks is a SystemError there on 3.13.0, started by
        # -c.
        os.chdir('/')


# A program may close what it does not know, and open files of its own by the same numbers.

def mark(io):
    """Remember what the descriptors of the runtime's are, in a program or what is forked off."""
    core.stray = stray
    fds = set(io.handlers) | set((io.wake_w, core.router.stream.wfd))
    io.marks = dict((fd, same(fd)) for fd in fds)


def remark(io, fd):
    """Remember one more."""
    if 'marks' in io.__dict__:
        io.marks[fd] = same(fd)


def changed(io):
    """Descriptors that are the runtime's no more."""
    return [fd for fd, old in list(io.__dict__.get('marks', {}).items()) if same(fd) != old]


def same(fd):
    try:
        stat = os.fstat(fd)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def stray(real=core.stray):
    return real() or changed(core.io) and 'the program has closed the connection'


def gave_up(io, fd):
    """The reader finds a descriptor closed."""
    io.remove(fd)
    core.router.stream.on_lost()


for method in mark, remark, changed, gave_up:
    setattr(Io, method.__name__, method)
# Nothing is missing any more, and __getattr__ makes every attribute of the class slower.
del Io.__getattr__
