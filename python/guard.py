"""
A process that watches over this one: code in C may hold the interpreter's lock for ever, and then no thread of the runtime can
see that the connection is lost. The master starts it with the first call of a user's function.
"""
from __future__ import absolute_import
import atexit
import os
import select
import sys

core = sys.modules['mitogen.core']
# On 3.x the C module: the other one imports enum, which takes longer than the rest.
signal = core.signal

# Seconds after the loss of the connection: what core.Io.evict can do is done by then.
KILL_AFTER = 2.3

guard = None
# Hangs up for the watcher when this process ends.
alive = None


def start():
    """Fork off the watcher, once. It ends with this process."""
    global guard, alive
    if guard is not None:
        return
    r, alive = os.pipe()
    core.cloexec(r)
    core.cloexec(alive)
    me = os.getpid()
    pid = core.fork()
    if not pid:
        try:
            watch(me, r)
        finally:
            os._exit(0)
    os.close(r)
    guard = me, pid
    atexit.register(stop)
    # User code that waits for any child must not meet this one.
    for name in 'wait', 'wait3', 'waitpid', 'wait4', 'waitid':
        if hasattr(os, name):
            setattr(os, name, alone(getattr(os, name), name))


def stop():
    """End the watcher; not from a process that was forked off."""
    global guard
    if guard and guard[0] == os.getpid():
        pid = guard[1]
        guard = None
        os.kill(pid, signal.SIGKILL)
        waitpid(pid, 0)


def leaf():
    """In a process that was forked off: nobody watches over it."""
    global guard
    if guard:
        guard = None
        os.close(alive)


waitpid = os.waitpid


def alone(real, name):
    def wait(*args, **kwargs):
        # P_ALL of waitid is 0.
        if name in ('wait', 'wait3') or not args or args[0] <= 0:
            stop()
        return real(*args, **kwargs)
    wait.__doc__ = real.__doc__
    wait.__name__ = name
    return wait


def watch(me, alive):
    """In the watcher. `alive` hangs up when the process has ended."""
    for signum in signal.SIGHUP, signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, signal.SIG_IGN)
    # Keep nothing else open: others wait for the end of what this process has.
    os.dup2(alive, 1)
    os.dup2(core.router.stream.rfd, 0)
    os.closerange(2, 4096)
    poller = select.poll()
    poller.register(0, 0)
    poller.register(1, 0)
    if any(fd == 1 for fd, _ in poller.poll()):
        return
    poller.unregister(0)
    if not poller.poll(int(1000 * KILL_AFTER)) and os.getppid() == me:
        send = os.killpg if os.getpgrp() == me else os.kill
        send(me, signal.SIGKILL)
