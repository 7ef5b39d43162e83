"""
Ends processes that this one has started: each leads a process group, and nothing of the group is left. It comes over
the importer as mitogen.process.
"""
from __future__ import absolute_import

import errno
import os
import time

import _socket

import mitogen.core as core
import mitogen.parent as parent
import mitogen.running as running
from mitogen.core import _thread

signal = core.signal

# Seconds between SIGTERM and SIGKILL, and after SIGKILL until a process that the kernel holds is given up: on a busy
# machine, one that was killed has been seen to live for three.
KILL_AFTER = 0.3
GIVE_UP = 10
# Seconds between two looks, the first and the longest: the kernel tells nobody that a process group has become empty.
POLL = 0.002
SLOW_POLL = 0.02
# Processes that have detached and still run. What one more has started is ended like any other.
MAX_DETACHED = 100
# Seconds from SIGTERM to the first look at what processes there are, which takes long where there are many.
LOOK = 0.05


def patience():
    """
    Seconds that a process gets to leave after it has lost its connection. It is less deep in a tree: when all lose it
    at the same moment, a parent must still be there to end its children. The guard ends the topmost after 2.3.
    """
    return max(0.3, 1.7 - 0.2 * len(core.router.parent_ids))


def pair():
    """Two connected sockets, as descriptors that no program inherits."""
    fds = []
    try:
        for end in _socket.socketpair():
            fds.append(os.dup(end.fileno()))
            core.cloexec(fds[-1])
            end.close()
    except BaseException:
        running.close(*fds)
        raise
    return fds


def pipe():
    """os.pipe(), closed on exec."""
    fds = os.pipe()
    for fd in fds:
        core.cloexec(fd)
    return fds


def exiting(pid):
    """Tell whether Linux is ending a process, whose descriptors it closes first: PF_EXITING of its sched.h."""
    try:
        with open('/proc/%d/stat' % pid, 'rb') as f:
            # Behind the name, which may have any characters: state ppid pgrp session tty_nr tpgid flags.
            return bool(int(f.read().rpartition(b')')[2].split()[6]) & 4)
    except (OSError, IOError, ValueError, IndexError):
        return False


class Process(object):
    """A child process, the leader of a group. With reap=False somebody else sets `status`, its wait status."""
    kill_after = KILL_AFTER

    def __init__(self, pid, reap=True):
        self.pid = pid
        self.reap = reap
        self.status = None
        self.on_gone = None
        self.term_at = self.kill_at = self.killed_at = None
        # When to look next whether those that are left are dead, and nobody reaps them.
        self.look_at = 0

    def poll(self):
        """The wait status, or None while it runs; 0 if somebody else has taken it."""
        while self.status is None and self.reap:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except (OSError, IOError) as e:
                if e.errno == errno.EINTR:
                    continue
                self.status = 0
                break
            if not pid:
                break
            self.status = status
        return self.status

    def signal(self, signum):
        """Signal the group; False if there is none, or none that we may signal."""
        try:
            os.killpg(self.pid, signum)
            return True
        except (OSError, IOError):
            return False

    def step(self, now):
        """Do what is due to end it; True when nothing of it is left."""
        if self.poll() is not None:
            if not self.signal(0):
                return True
            # What its leader has left behind.
            self.term_at = min(self.term_at, now)
        if self.kill_at is None and now >= self.term_at:
            self.signal(signal.SIGTERM)
            self.kill_at = now + self.kill_after
            self.look_at = now + LOOK
            return False
        if self.kill_at is None:
            return False
        if self.status is not None and now >= self.look_at:
            # The first process of a container may reap seldom, or never.
            if not living(self.pid):
                return True
            self.look_at = now + max(LOOK, now - self.kill_at + self.kill_after)
        if now >= self.kill_at:
            self.signal(signal.SIGKILL)
            if self.killed_at is None:
                # Not when it was due: this thread may have been late.
                self.killed_at = now
            elif now >= self.killed_at + GIVE_UP:
                core.log(u'process %d does not end after SIGKILL' % self.pid, 40)
                return True
        return False


def living(group):
    """Whether a process of the group is not dead; True where the system does not tell."""
    try:
        names = [name for name in os.listdir('/proc') if name.isdigit()]
    except OSError:
        return True
    for name in names:
        try:
            with open('/proc/%s/stat' % name, 'rb') as f:
                words = f.read().rpartition(b')')[2].split()
        except (OSError, IOError):
            continue
        if len(words) > 2 and words[2] == b'%d' % group and words[0] not in (b'Z', b'X'):
            return True
    return not names


class Ender(object):
    """Ends processes, on a thread of its own while there are any."""

    def __init__(self):
        self.lock = _thread.allocate_lock()
        # All processes that have to end before this one does, and those that have to leave now.
        self.alive = set()
        self.leaving = set()
        # Those that were given up, and are still to be reaped.
        self.held = []
        # Those that have detached. They are reaped when one more does.
        self.detached = []
        self.running = False

    def end(self, process, wait=None, on_gone=None):
        """The process has `wait` seconds to leave. on_gone() is called, on the ender's thread, when it is gone."""
        with self.lock:
            due = parent.clock() + (patience() if wait is None else wait)
            process.term_at = due if process.term_at is None else min(due, process.term_at)
            if on_gone:
                process.on_gone = on_gone
            self.leaving.add(process)
            start = not self.running
            self.running = True
        if start:
            try:
                running.start_thread(self.run)
            except Exception as e:
                # No memory for a thread. This is the reader, as a rule, which must go on, and not wait. The next call
                # tries again.
                self.running = False
                core.log(u'process %d is killed: %s' % (process.pid or 0, e), 40)
                process.signal(signal.SIGKILL)

    def end_of(self, link, process, on_gone=None):
        """The process's connection has ended."""
        with self.lock:
            self.detached = [other for other in self.detached if other.poll() is None]
            stays = link.detached and len(self.detached) < MAX_DETACHED
            if stays:
                self.detached.append(process)
                self.alive.discard(process)
        if not stays:
            self.end(process, None, on_gone)
            return
        if on_gone:
            on_gone()

    def run(self):
        pause = POLL
        while 1:
            self.pass_over()
            with self.lock:
                if not self.leaving:
                    self.running = False
                    return
            time.sleep(pause)
            pause = min(1.3 * pause, SLOW_POLL)

    def pass_over(self):
        self.held = [process for process in self.held if process.poll() is None]
        for process in list(self.leaving):
            if process.step(parent.clock()):
                if process.reap and process.poll() is None:
                    self.held.append(process)
                with self.lock:
                    gone = process in self.leaving
                    self.leaving.discard(process)
                    self.alive.discard(process)
                if gone and process.on_gone:
                    process.on_gone()

    def at_end(self, final):
        """For Relay.at_end: whether anything is left; with final=True, on the main thread, it is to leave."""
        if final:
            for process in list(self.alive):
                if process.term_at is None:
                    process.term_at = parent.clock() + patience()
                    self.leaving.add(process)
            # Where the interpreter ends, no thread can be counted on.
            self.pass_over()
        return bool(self.alive)


ender = None


def leaf():
    """In a process that was forked off: it has started nothing."""
    global ender
    ender = None


def start():
    """Make this process a parent that ends what it has started; gives the Relay and the Ender. Not on the reader."""
    global ender
    relay = parent.attach()
    with parent.attaching:
        if ender is None:
            ender = Ender()
            relay.at_end.append(ender.at_end)
    return relay, ender
