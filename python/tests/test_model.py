"""
A randomised scheduler for the importer's protocol. Threads that import, children that ask, the parent's answers,
modules sent ahead and a lost connection are actors; one runs at a time, and at every lock, every wait and every line
of the code concerned a seeded choice says who is next. So a run is one interleaving, which its seed repeats.

What must hold in all of them: no module is asked for twice; none is sent twice on one stream; every request ends,
though the connection is lost; nobody blocks or sends while holding a lock. Mutants, each of which breaks one line of
this, must be caught.

MITOGEND_MODEL_RUNS is the number of runs, MITOGEND_MODEL_SEED that of the first.
"""
from __future__ import absolute_import

import os
import random
import sys
import threading

import harness

core = harness.load()

RUNS = int(os.environ.get('MITOGEND_MODEL_RUNS', 60))
SEED = int(os.environ.get('MITOGEND_MODEL_SEED', 1))
MUTANT_RUNS = 3000
STEPS = 20000

# The modules that exist; a package has its children.
TREE = {'p': ['a', 'b', 'sub.'], 'p.a': None, 'p.b': None, 'p.sub': ['c'], 'p.sub.c': None, 'q': None, 'r': [], 's': None}
NAMES = sorted(TREE) + ['absent', 'absent2', 'p.absent', 'q.absent']
# Functions whose every line is a point where another actor may go on.
TRACED = frozenset('join request hopeless on_load_module fail_all wait get put close wake hand_on on_get_module send_module '
                   'push_module on_forward_module on_stream_lost'.split())

allocate = core._thread.allocate_lock
Thread = threading.Thread
real = dict((name, core.__dict__[name]) for name in ('RLock', '_thread', 'os'))


class Violation(Exception):
    pass


class Abandoned(BaseException):
    """Ends the actors of a run that is over."""


class Actor(object):
    def __init__(self, scheduler, name, fn):
        self.scheduler, self.name, self.fn = scheduler, name, fn
        self.go = allocate()
        self.go.acquire()
        self.condition = None
        self.doing = 'start'
        self.done = False
        self.held = []
        self.thread = Thread(target=self.run)
        self.thread.daemon = True
        self.thread.start()

    def run(self):
        self.go.acquire()
        self.scheduler.current = self
        try:
            if not self.scheduler.over:
                sys.settrace(self.trace)
                self.fn()
        except Abandoned:
            pass
        except BaseException as e:
            self.scheduler.fail('%s: %s: %s' % (self.name, type(e).__name__, e))
        finally:
            sys.settrace(None)
            self.done = True
            self.scheduler.back.release()

    def trace(self, frame, _event, _arg):
        if frame.f_code.co_name in TRACED and frame.f_code.co_filename.startswith(('/master:mitogen/core', 'parent.py')):
            return self.line
        return None

    def line(self, _frame, event, _arg):
        if event == 'line' and self.scheduler.random.random() < self.scheduler.fineness:
            self.scheduler.pause('line')
        return self.line


class Scheduler(object):
    """Runs one actor at a time."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.fineness = self.random.choice((0, 0.1, 0.5))
        self.actors = []
        self.back = allocate()
        self.back.acquire()
        self.current = None
        self.over = False
        self.violation = None

    def spawn(self, name, fn):
        self.actors.append(Actor(self, name, fn))

    def fail(self, text):
        if self.violation is None:
            self.violation = text

    def pause(self, doing, condition=None):
        """Let others run, and go on when the condition holds."""
        if self.over:
            raise Abandoned
        me = self.current
        me.doing, me.condition = doing, condition
        self.back.release()
        me.go.acquire()
        self.current = me
        if self.over:
            raise Abandoned

    def block(self, doing, condition=None):
        """Do what may block, while no lock is held."""
        if self.current.held:
            self.fail('%s: %s while it holds %s' % (self.current.name, doing, self.current.held))
        self.pause(doing, condition)

    def step(self, actor):
        self.current = actor
        actor.go.release()
        self.back.acquire()

    def run(self):
        steps = 0
        while self.violation is None:
            left = [a for a in self.actors if not a.done]
            ready = [a for a in left if a.condition is None or a.condition()]
            if not left:
                break
            steps += 1
            if not ready or steps > STEPS:
                self.fail('%s: %s' % ('nobody can go on' if not ready else 'no end', ', '.join(
                    '%s at %s' % (a.name, a.doing) for a in left)))
                break
            self.step(self.random.choice(ready))
        self.over = True
        for actor in self.actors:
            while not actor.done:
                self.step(actor)
            actor.thread.join(harness.DEADLINE)
        if self.violation:
            raise Violation(self.violation)


class Lock(object):
    """In place of Io.lock and Importer.lock. Is reentrant on 3.x, as what it stands for."""

    def __init__(self, scheduler, name):
        self.scheduler, self.name = scheduler, name
        self.owner = None
        self.depth = 0

    def __enter__(self):
        me = self.scheduler.current
        if not (self.owner is me and core.PY3):
            self.scheduler.pause('lock ' + self.name, lambda: self.owner is None)
            self.owner = me
        self.depth += 1
        me.held.append(self.name)

    def __exit__(self, *_):
        self.depth -= 1
        self.scheduler.current.held.remove(self.name)
        if not self.depth:
            self.owner = None


class Sleeper(object):
    """In place of the lock on which a waiter sleeps."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.locked = False

    def acquire(self, *_):
        if self.locked:
            self.scheduler.block('sleep', lambda: not self.locked)
        self.locked = True

    def release(self):
        if not self.locked:
            raise Violation('released twice')
        self.locked = False


class ThreadModule(object):
    """In place of core._thread."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def allocate_lock(self):
        return Sleeper(self.scheduler)

    def get_ident(self):
        # None has no number 0.
        return self.scheduler.actors.index(self.scheduler.current) + 1


class System(object):
    """In place of core.os."""

    def __init__(self, io):
        self.io = io

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, fd, data):
        if fd != self.io.wake_w:
            raise Violation('writes to %r' % (fd,))
        self.io.woken = True
        return len(data)


class Io(core.Io):
    """The poller is a list of events."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.lock = Lock(scheduler, 'Io.lock')
        self.sleepers = []
        self.reading = self.wanted = self.polling = False
        self.handlers = {}
        self.wake_w = -1
        self.lost = None
        self.pid = os.getpid()
        self.woken = False
        self.events = []

    def add(self, fd, handler):
        pass

    def remove(self, fd):
        pass

    def pump(self, timeout):
        if self.reading != core._thread.get_ident():
            raise Violation('polls without the role')
        self.scheduler.block('poll', lambda: self.events or self.woken)
        self.woken = False
        if self.events:
            event = self.events.pop(0)
            event()


class Stream(object):
    """The connection with the parent."""
    remote_id = 0
    deferred = ()

    def __init__(self, run):
        self.run = run

    def send(self, msg):
        self.run.scheduler.block('send')
        self.post(msg)

    def post(self, msg):
        if self.run.scheduler.current.held:
            raise Violation('sends while it holds %s' % self.run.scheduler.current.held)
        name = msg.data.decode()
        if msg.handle != core.GET_MODULE:
            raise Violation('unexpected message %r' % msg)
        if name in self.run.asked:
            raise Violation('%s is asked for twice' % name)
        self.run.asked.append(name)
        self.run.requests.append(name)


class Child(object):
    """The stream of a child of ours, and what the child has."""

    def __init__(self, run, remote_id):
        self.run = run
        self.remote_id = remote_id
        self.modules = set()
        self.asked = set()
        self.known = set()
        self.requests = self.repeats = 0
        self.got = {}
        self.wanted = []

    def answer(self, name):
        self.run.relay.send_module(self, name)

    def again(self, name):
        raise Violation('no question is cut off')

    def post(self, msg):
        if self.run.scheduler.current.held:
            raise Violation('answers a child while it holds %s' % self.run.scheduler.current.held)
        if msg.handle == parent().FORWARD_MODULE:
            return
        name, present, _, source, _ = core.loads(msg.data)
        name = str(name)
        package = name.rpartition('.')[0]
        if name in self.got:
            raise Violation('%s is sent twice to child %d' % (name, self.remote_id))
        if package and source is not None and name not in self.wanted and self.got.get(package) is None \
                and package not in self.wanted:
            raise Violation('%s is sent to child %d before its package' % (name, self.remote_id))
        self.got[name] = source is not None


class Run(object):
    """One world, and the actors in it."""

    def __init__(self, seed, mutant=None):
        self.seed = seed
        s = self.scheduler = Scheduler(seed)
        self.random = s.random
        self.asked = []
        self.requests = []
        self.sent = []
        self.refused = set()
        self.busy = 0
        core.__dict__.update(RLock=lambda: Lock(s, 'Importer.lock'), _thread=ThreadModule(s))
        self.io = core.io = Io(s)
        core.os = System(self.io)
        self.upstream = Stream(self)
        core.router = core.Router({'context_id': 1, 'parent_ids': [0]}, self.upstream)
        core.config = {}
        self.importer = core.importer = core.Importer()
        core.dispatcher = type(sys)('dispatcher')
        core.dispatcher.latch = core.Latch()
        self.children = [Child(self, n + 2) for n in range(self.random.choice((0, 0, 1, 2)))]
        self.relay = object.__new__(parent().Relay)
        self.relay.refused = 0
        self.relay.__dict__.update(importer=self.importer, upstream=self.upstream, router=core.router,
                                   children=dict((c.remote_id, c) for c in self.children))
        core.router.routes.update(self.relay.children)
        if mutant:
            mutant(self)
        # In a parent, and in a leaf between two calls, somebody reads in any case.
        if self.children or self.random.random() < 0.5:
            s.spawn('main', self.main)
        for n in range(self.random.randint(1, 4)):
            self.actor('thread%d' % n, self.thread, self.names(4))
        if self.random.random() < 0.5:
            latch = core.Latch()
            self.actor('getter', self.getter, latch)
            self.actor('putter', self.putter, latch)
        for child in self.children:
            self.actor('child%d' % child.remote_id, self.child, child, self.names(5))
        s.spawn('parent', self.parent)

    def names(self, most):
        return [self.random.choice(NAMES) for _ in range(self.random.randint(1, most))]

    def actor(self, name, fn, *args):
        self.busy += 1

        def body():
            fn(*args)
            self.busy -= 1
        self.scheduler.spawn(name, body)

    # Actors.

    def main(self):
        core.dispatcher.latch.wait()

    def thread(self, names):
        for name in names:
            self.scheduler.pause('between imports')
            record = self.importer.request(name)
            if self.io.lost and type(record) is not tuple:
                continue
            if (type(record) is tuple) != (name in TREE):
                raise Violation('%s gives %r' % (name, record))

    def getter(self, latch):
        # An item for every thread that waits, as from a Receiver, whoever reads at that time.
        for _ in range(3):
            latch.get()

    def putter(self, latch):
        for _ in range(3):
            self.scheduler.pause('between items')
            latch.put()

    def child(self, child, names):
        for name in names:
            self.scheduler.pause('between imports')
            # A child knows what it has been told.
            if name in child.got or name in child.wanted:
                continue
            child.wanted.append(name)
            msg = core.Message(dst_id=1, src_id=child.remote_id, handle=core.GET_MODULE, data=name.encode())
            self.io.events.append(lambda msg=msg: self.relay.on_get_module(msg))
            if self.random.random() < 0.5:
                self.scheduler.pause('child waits', lambda: name in child.got or self.io.lost)
        self.scheduler.pause('child waits', lambda: self.io.lost or all(n in child.got for n in child.wanted))
        for name in child.wanted:
            if not self.io.lost and child.got[name] != (name in TREE):
                raise Violation('child %d got a false answer for %s' % (child.remote_id, name))

    def parent(self):
        """Answers in order, sends ahead what it likes, and goes away at the end or before."""
        last = self.random.choice((None, None, None, self.random.randint(0, 12)))
        count = 0
        while self.busy and (last is None or count < last):
            self.scheduler.pause('parent idle', lambda: self.requests or not self.busy or self.random.random() < 0.2)
            count += 1
            what = self.random.random()
            if what < 0.3:
                self.load(self.random.choice(sorted(TREE)))
            elif what < 0.4 and self.sent and self.children:
                self.forward(self.random.choice(self.sent), self.random.choice(self.children))
            elif self.requests:
                name = self.requests.pop(0)
                if name in TREE:
                    self.load(name, asked=True)
                elif name not in self.refused:
                    self.refused.add(name)
                    self.deliver(name, None)
        self.io.events.append(lambda: core.router.on_stream_lost(self.upstream))

    def load(self, name, asked=False):
        """Send a module once, after its package unless it was asked for."""
        package = name.rpartition('.')[0]
        if name in self.sent:
            return
        if package and package not in self.sent and not asked:
            return
        self.sent.append(name)
        self.deliver(name, TREE[name])

    def deliver(self, name, present):
        text = core.text_type
        if name in TREE:
            related = [r for r in self.random.sample(sorted(TREE), 2) if r in self.sent]
            value = (text(name), present and [text(n) for n in present], text('/' + name + '.py'), core.Blob(b'x'),
                     tuple(text(r) for r in related))
            if present is not None:
                value = value[:1] + ([text(n) for n in present],) + value[2:]
        else:
            value = (text(name), None, None, None, ())
        msg = core.Message(1, src_id=0, auth_id=0, handle=core.LOAD_MODULE,
                           data=b'\x80\x02' + harness.encode(value) + b'.')
        self.io.events.append(lambda: self.importer.on_load_module(msg))

    def forward(self, name, child):
        data = ('%d\0%s' % (child.remote_id, name)).encode()
        msg = core.Message(1, src_id=0, auth_id=0, handle=parent().FORWARD_MODULE, data=data)
        self.io.events.append(lambda: self.relay.on_forward_module(msg))

    def check(self):
        try:
            self.scheduler.run()
            for what, left in (('requests', self.importer.inflight), ('sleepers', self.io.sleepers),
                               ('a reader', self.io.reading)):
                if left and not self.io.events:
                    raise Violation('%s left behind: %r' % (what, left))
        except Violation as e:
            raise Violation('seed %d: %s' % (self.seed, e))
        finally:
            core.__dict__.update(real)


def parent():
    """mitogen.parent, without a parent to fetch it from."""
    for part in 'running', 'parent':
        name = 'mitogen.' + part
        if name not in sys.modules:
            module = sys.modules[name] = type(sys)(name)
            exec(compile(harness.source(part), part + '.py', 'exec', 0, 1), module.__dict__)
            setattr(sys.modules['mitogen'], part, module)
    return sys.modules[name]


# Each breaks one thing in the world of a run.

def asks_twice(run):
    join = run.importer.join

    def broken(name, *args):
        run.importer.inflight.pop(name, None)
        return join(name, *args)
    run.importer.join = broken


def looks_without_the_lock(run):
    # The answer may come between the look at the cache and that at what was asked for.
    join = run.importer.join

    class Cache(dict):
        def __contains__(self, name):
            found = dict.__contains__(self, name)
            run.scheduler.pause('unlocked')
            return found

    class Unlocked(Lock):
        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass
    run.importer.cache = Cache()
    run.importer.lock = Unlocked(run.scheduler, 'none')
    run.importer.join = join


def drops_the_event(run):
    load = run.importer.on_load_module

    def broken(msg):
        for name in list(run.importer.inflight):
            run.importer.inflight[name] = core.Latch(), run.importer.inflight[name][1]
        load(msg)
    run.importer.on_load_module = broken


def forgets_the_children(run):
    load = run.importer.on_load_module

    def broken(msg):
        for _, streams in run.importer.inflight.values():
            del streams[:]
        load(msg)
    run.importer.on_load_module = broken


def sends_twice(run):
    push = run.relay.push_module

    def broken(link, *args):
        link.modules.clear()
        push(link, *args)
    run.relay.push_module = broken


def leaves_waiters_when_lost(run):
    run.importer.fail_all = lambda: None


def asks_with_the_lock(run):
    join = run.importer.join

    def broken(*args):
        with run.importer.lock:
            return join(*args)
    run.importer.join = broken


def keeps_the_role(run):
    def broken():
        with run.io.lock:
            run.io.reading = run.io.wanted = False
    run.io.hand_on = broken


def wakes_nobody(run):
    wake = run.io.wake
    run.io.wake = lambda latch=None: None if latch else wake()


def leaves_the_reader_asleep(run):
    core.os.write = lambda fd, data: len(data)


MUTANTS = (asks_twice, looks_without_the_lock, drops_the_event, forgets_the_children, sends_twice, leaves_waiters_when_lost,
           asks_with_the_lock, keeps_the_role, wakes_nobody, leaves_the_reader_asleep)


class ModelTest(harness.TestCase):
    def setUp(self):
        saved = dict((name, core.__dict__.get(name)) for name in ('io', 'router', 'importer', 'dispatcher'))
        self.addCleanup(core.__dict__.update, saved)

    def test_every_interleaving(self):
        for seed in range(SEED, SEED + RUNS):
            Run(seed).check()
        print('note: %d interleavings from seed %d' % (RUNS, SEED))

    def test_runs_repeat(self):
        logs = []
        for _ in range(2):
            run = Run(SEED)
            run.check()
            logs.append((run.asked, run.sent, [sorted(c.got) for c in run.children]))
        self.assertEqual(logs[0], logs[1])

    def test_mutants_are_caught(self):
        for mutant in MUTANTS:
            for seed in range(SEED, SEED + MUTANT_RUNS):
                try:
                    Run(seed, mutant).check()
                except Violation as e:
                    print('note: %s after %d runs: %s' % (mutant.__name__, seed - SEED + 1, str(e)[:150]))
                    break
            else:
                self.fail('%s is not caught in %d runs' % (mutant.__name__, MUTANT_RUNS))


if __name__ == '__main__':
    harness.main()
