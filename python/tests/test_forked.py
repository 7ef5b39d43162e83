"""
Processes that are forked off a context: each has a way of its own to the parent's reader. MITOGEND_LONG=1 for a
thousand forks, and 64 processes that import the same 200 modules at once.
"""
from __future__ import absolute_import

import os
import select
import signal
import subprocess
import sys
import threading
import time
import unittest
import warnings

import harness

try:
    import faulthandler
    faulthandler.register(signal.SIGUSR1)
except ImportError:
    faulthandler = None

core = harness.load()
DETACHING = 109
LONG = bool(os.environ.get('MITOGEND_LONG'))


def descriptors():
    return set(os.listdir('/proc/self/fd'))


def outcome(fn):
    try:
        return str(fn())
    except BaseException as e:
        return '%s: %s' % (type(e).__name__, e)


def forked_in_c(fn):
    """
    What fn returns or raises in a process that a library has forked off. Python's own locks are then as another
    thread had them. So such a process may hang, and is tried again.
    """
    ctypes = harness.needs('ctypes')
    for _ in range(5):
        r, w = os.pipe()
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            try:
                os.write(w, outcome(fn).encode('utf-8'))
            finally:
                os._exit(0)
        os.close(w)
        done = select.select([r], [], [], 10)[0]
        if not done:
            os.kill(pid, signal.SIGKILL)
        data = os.read(r, 65536)
        os.close(r)
        os.waitpid(pid, 0)
        if done:
            return data.decode('utf-8')
    raise AssertionError('each of five such processes hangs')


def tell_stacks(pid):
    """Where a process that hangs is, and where all threads of this one are."""
    forks = sys.modules.get('mitogen.forked')
    sys.stderr.write('reader %r in poll() %r, handlers %r, helper %r, peers %r, door %r, queue %r, asked %r, '
                     'to be sent %r\n' % (
        core.io.reading, core.io.polling, sorted(core.io.handlers), core.io.helper,
        forks and [vars(peer) for peer in list(forks.peers.values())], forks and forks.inner, forks and forks.queue,
        list(core.importer.inflight), core.router.stream.deferred))
    for name in 'wchan', 'syscall', 'stack', 'status':
        try:
            with open('/proc/%d/%s' % (pid, name)) as fp:
                sys.stderr.write('%s: %s\n' % (name, fp.read()))
        except (IOError, OSError):
            pass
    if faulthandler:
        sys.stderr.flush()
        for one in pid, os.getpid():
            os.kill(one, signal.SIGUSR1)
            time.sleep(1)


class Forked(object):
    """A process that is forked off and runs fn; result() is what fn returned, or what it raised."""

    def __init__(self, fn):
        self.r, w = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.r)
                os.write(w, outcome(fn).encode('utf-8'))
            finally:
                os._exit(0)
        os.close(w)

    def result(self):
        parts = []
        waits = 0
        while 1:
            if not select.select([self.r], [], [], 1)[0]:
                # A machine that stood still, or whose clock was set, has cost one of these.
                waits += 1
                if waits < harness.DEADLINE:
                    continue
                tell_stacks(self.pid)
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError('a forked process hangs')
            data = os.read(self.r, 65536)
            if not data:
                break
            parts.append(data)
        os.close(self.r)
        os.waitpid(self.pid, 0)
        return b''.join(parts).decode('utf-8')


def forked(fn):
    return Forked(fn).result()


def before_exec(fn):
    """
    The same in a process that subprocess forks: on 3.x not by os.fork(), on 2.x past our hooks.
    """
    r, w = os.pipe()
    subprocess.Popen(['/bin/true'], preexec_fn=lambda: os.write(w, outcome(fn).encode('utf-8'))).wait()
    os.close(w)
    data = os.read(r, 65536)
    os.close(r)
    return data.decode('utf-8')


def load(name):
    __import__(name)
    return sys.modules[name].VALUE


class ForkedTest(harness.TestCase):
    def parent(self, modules, fetched=True, **kwargs):
        parent = harness.TestCase.parent(self, modules, **kwargs)
        # A user's function runs.
        core.io.running = core.io.calls = core.io.calls + 1
        core.io.start_ticker()
        # What the ticker does to user code when the connection is lost.
        core.io.evict = int

        def over():
            core.io.running = 0
            if core.io.helper:
                core.io.helper.rest()
        self.addCleanup(over)
        if fetched:
            self.assertEqual(forked(lambda: 1), '1')
        return parent

    def test_1_without_the_module(self):
        """
        Another way than os.fork(), before this runtime knows that there are forks: refused, and nobody else is
        harmed.
        """
        parent = self.parent({'late': 'VALUE = 1', 'other': 'VALUE = 2'}, fetched=False)
        if 'mitogen.forked' not in sys.modules:
            self.assertIn('not forked by os.fork()', forked_in_c(lambda: load('late')))
            self.assertEqual(parent.asked, [])
        self.assertEqual(load('other'), 2)

    def test_import(self):
        parent = self.parent({'late': 'VALUE = 1', 'pkg': '', 'pkg.mod': 'VALUE = 2'})
        self.assertEqual(forked(lambda: load('late')), '1')
        self.assertEqual(forked(lambda: load('late')), '1')
        self.assertEqual(forked(lambda: load('pkg.mod')), '2')
        self.assertIn('No module named', forked(lambda: load('absent')))
        self.assertIn('No module named', forked(lambda: load('absent')))
        self.assertEqual(load('late') + load('pkg.mod'), 3)
        for name in 'late', 'pkg.mod', 'absent':
            self.assertEqual(parent.asked.count(name), 1, parent.asked)

    def test_siblings_cut_nobody_off(self):
        """What other contexts send to any handle ends no way of a forked process; the end of the connection does."""
        parent = self.parent({'early': 'VALUE = 1', 'late': 'VALUE = 2'})
        go_r, go_w = os.pipe()

        def fn():
            load('early')
            os.write(ready_w, b'x')
            os.read(go_r, 1)
            return load('late')
        ready_r, ready_w = os.pipe()
        process = Forked(fn)
        os.read(ready_r, 1)
        latch = core.Latch()
        last = core.router.add_handler(latch.put)
        for handle in range(1000, last):
            parent.socket.sendall(core.HEADER.pack(core.MGC, 1, 7, 7, handle, 0, 0))
        parent.send(last, b'')
        latch.get()
        os.write(go_w, b'x')
        self.assertEqual(process.result(), '2')
        for fd in go_r, go_w, ready_r, ready_w:
            os.close(fd)
        forks = sys.modules['mitogen.forked']
        peers = list(forks.peers.values())
        forks.peers[-1] = peer = type('Peer', (), {'close': lambda self: forks.peers.pop(-1)})()
        core.router.on_stream_lost(core.router.stream)
        self.assertFalse(peer in forks.peers.values(), peers)

    def test_another_way_to_fork(self):
        parent = self.parent({'late': 'VALUE = 1', 'later': 'VALUE = 2'})
        self.assertEqual(before_exec(lambda: load('late')), '1')
        # Forked off one that has its own way.
        self.assertEqual(forked(lambda: '%d %s' % (load('late'), before_exec(lambda: load('later')))), '1 2')
        self.assertEqual(parent.asked.count('later'), 1)

    def test_four_levels(self):
        self.parent(dict(('level%d' % n, 'VALUE = %d' % n) for n in range(4)))

        def level(n):
            return str(load('level%d' % n)) + (forked(lambda: level(n + 1)) if n < 3 else '')
        self.assertEqual(forked(lambda: level(0)), '0123')

    def test_daemon(self):
        """The process that forked it has ended."""
        self.parent({'late': 'VALUE = 1'})
        r, w = os.pipe()
        go_r, go_w = os.pipe()

        pid = os.fork()
        if not pid:
            try:
                if not os.fork():
                    os.setsid()
                    os.close(go_w)
                    os.read(go_r, 1)
                    os.write(w, outcome(lambda: load('late')).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        for fd in go_w, w:
            os.close(fd)
        self.assertTrue(select.select([r], [], [], harness.DEADLINE)[0], 'the daemon hangs')
        self.assertEqual(os.read(r, 100), b'1')
        for fd in r, go_r:
            os.close(fd)

    def test_while_a_thread_imports(self):
        """
        The thread holds a module's lock, which nobody releases in the forked process, and the module is half
        imported.
        """
        if not core.PY3:
            self.skipTest('2.x forks when nobody imports')
        parent = self.parent({'half': 'import hook\nhook.reached.set()\nhook.go.wait()\nVALUE = 7'})
        hook = sys.modules['hook'] = type(sys)('hook')
        self.addCleanup(sys.modules.pop, 'hook')
        hook.reached, hook.go = threading.Event(), threading.Event()
        thread = threading.Thread(target=load, args=('half',))
        thread.start()
        self.assertTrue(hook.reached.wait(harness.DEADLINE))

        def anew():
            hook.go = threading.Event()
            hook.go.set()
            return load('half')
        self.assertEqual(forked(anew), '7')
        hook.go.set()
        thread.join(harness.DEADLINE)
        self.assertEqual((load('half'), parent.asked.count('half')), (7, 1))

    def test_in_a_thread(self):
        self.parent({'late': 'VALUE = 1', 'later': 'VALUE = 2'})
        results = []
        harness.in_threads(4, lambda n: results.append(forked(lambda: load(('late', 'later')[n % 2]))))
        self.assertEqual(sorted(results), ['1', '1', '2', '2'])

    def test_logs_and_questions(self):
        """Large messages of several processes at once stay whole, and a reply reaches the process that asked."""
        def answer(parent, head, data):
            parent.send(head[5], b'\x80\x02' + harness.encode(core.loads(data)[1]) + b'.')
        parent = self.parent({}, handlers={112: answer})

        def work(n):
            for _ in range(5):
                core.log(u'%d' % n * 100000)
            import mitogen.resources
            return mitogen.resources.ask(u'read', u'%d' % n)
        processes = [Forked(lambda: work(n)) for n in range(4)]
        self.assertEqual([p.result() for p in processes], ['0', '1', '2', '3'])
        core.io.helper.rest()
        harness.eventually('all is there', lambda: len(parent.other) == 20)
        self.assertEqual(sorted(data for _, data in parent.other), sorted(
            b'mitogen\x0020\0' + (b'%d' % n) * 100000 for n in list(range(4)) * 5))
        self.assertEqual([h for h in core.router.handlers.values() if h[0].__name__ == 'on_reply'], [])

    def test_is_no_context(self):
        self.parent({})

        def ask():
            reply = core.Latch()
            handle = core.router.add_handler(reply.put, persist=False)
            core.router.route(core.Message(0, handle=DETACHING, reply_to=handle))
            return reply.get().data.decode()
        self.assertIn('is no context', forked(ask))

        def attach():
            import mitogen.parent
            mitogen.parent.attach()
        self.assertIn('has no children', forked(attach))

    def test_garbage(self):
        self.parent({'late': 'VALUE = 1'})

        def send():
            stream = core.router.stream
            stream.write(b'x' * 100000)
            while select.select([stream.rfd], [], [], harness.DEADLINE)[0]:
                # The parent has closed it.
                return repr(stream_end(stream.rfd))

        def stream_end(fd):
            try:
                return os.read(fd, 1)
            except (OSError, IOError):
                return b''
        self.assertEqual(forked(send), repr(b''))
        self.assertEqual(forked(lambda: load('late')), '1')

    def test_reads_nothing(self):
        """What waits for a process that does not read is bounded, and others are served."""
        self.parent({'late': 'VALUE = 1', 'large': 'VALUE = 1\n# ' + os.urandom(300000).hex()
                     if core.PY3 else 'VALUE = 1\n# ' + os.urandom(300000).encode('hex')})
        load('large')
        forks = sys.modules['mitogen.forked']
        r, w = os.pipe()

        def flood():
            for _ in range(200):
                core.router.stream.send(core.Message(0, handle=core.GET_MODULE, data=b'large'))
            os.read(r, 1)
        process = Forked(flood)
        harness.eventually('it is read no more', lambda: any(p.size > forks.LIMIT for p in list(forks.peers.values())))
        self.assertEqual(forked(lambda: load('late')), '1')
        self.assertTrue(all(p.size < 3 * forks.LIMIT for p in list(forks.peers.values())))
        os.kill(process.pid, signal.SIGKILL)
        process.result()
        for fd in r, w:
            os.close(fd)
        harness.eventually('it is forgotten', lambda: not forks.peers)

    def test_what_others_imported(self):
        """The second process that asks for a module gets bytecode, and what the first one went on with."""
        names = ['m%d' % n for n in range(20)]
        parent = self.parent(dict((name, 'VALUE = "%s"' % name) for name in names))

        def imports():
            asked = []
            real = core.Stream.send

            def send(stream, msg):
                if msg.handle == core.GET_MODULE:
                    asked.append(msg.data)
                real(stream, msg)
            core.Stream.send = send
            ready = [len(core.importer.codes) for name in names if load(name) != name or name == names[-1]]
            return len(asked), ready
        r, w = os.pipe()
        others = [Forked(lambda: (os.read(r, 1), imports())[1]) for _ in range(3)]
        self.assertEqual(forked(imports), '(20, [0])')
        # The first module has no bytecode yet when the next process asks.
        for _ in others:
            os.write(w, b'x')
        self.assertEqual([other.result() for other in others], ['(1, [0])' if core.PY3 else '(20, [0])'] * 3)
        for fd in r, w:
            os.close(fd)
        if core.PY3:
            import mitogen.sharing
            self.assertEqual([name for name in names if name not in mitogen.sharing.made], [])
            code = mitogen.sharing.bytecode('m7')
            self.assertTrue(code.startswith(core.frozen.MAGIC_NUMBER) and code in mitogen.sharing.made['m7'])
        forks = sys.modules['mitogen.forked']
        harness.eventually('nobody waits for a process that has gone', lambda: not forks.peers and forks.queue is None)
        self.assertEqual([name for name in names if parent.asked.count(name) != 1], [])
        # The process itself reports a module that cannot be compiled.
        self.assertIn('broken', forked(lambda: load('broken')))

    def test_sharing_is_refused(self):
        """Processes get their modules all the same, as they are."""
        if not core.PY3:
            raise unittest.SkipTest('nothing is shared')
        kept = sys.modules.pop('mitogen.sharing', None)

        def again():
            if kept:
                sys.modules['mitogen.sharing'] = kept
        self.addCleanup(again)
        parent = self.parent({'m': 'VALUE = 1'})
        real = parent.record
        parent.record = lambda name: (name, None, u'refused', None, ()) if name == 'mitogen.sharing' else real(name)
        for name in 'm', 'mitogen.sharing':
            core.importer.cache.pop(name, None)
        r, w = os.pipe()
        others = [Forked(lambda: (os.read(r, 1), load('m'))[1]) for _ in range(3)]
        self.assertEqual(forked(lambda: load('m')), '1')
        for _ in others:
            os.write(w, b'x')
        self.assertEqual([other.result() for other in others], ['1'] * 3)
        for fd in r, w:
            os.close(fd)
        self.assertEqual(parent.asked_runtime.count('mitogen.sharing'), 1)
        self.assertFalse('mitogen.sharing' in sys.modules)
        harness.eventually('nobody waits', lambda: sys.modules['mitogen.forked'].queue is None)

    def test_warnings(self):
        """
        Each process that imports a module shows what Python warns of in it. The parent does not.
        """
        source = "VALUE = '\\d'\n"
        self.parent({'warned': source})

        def count(fn, *args):
            with warnings.catch_warnings(record=True) as shown:
                warnings.simplefilter('always')
                fn(*args)
            return len(shown)
        want = count(compile, source, 'warned', 'exec')
        r, w = os.pipe()
        others = [Forked(lambda: (os.read(r, 1), count(__import__, 'warned'))[1]) for _ in range(3)]
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter('always')
            for _ in others:
                os.write(w, b'x')
            self.assertEqual([int(other.result()) for other in others], [want] * 3)
        self.assertEqual([str(one.message) for one in shown if issubclass(one.category, (SyntaxWarning, DeprecationWarning))], [])
        for fd in r, w:
            os.close(fd)

    def test_parent_lost(self):
        parent = self.parent({'late': 'VALUE = 1'}, held=['late'])
        waits = Forked(lambda: load('late'))
        harness.eventually('it asks', lambda: parent.waiting)
        r, w = os.pipe()
        later = Forked(lambda: (os.read(r, 1), load('late')))
        parent.disconnect()
        harness.eventually('it is lost', lambda: core.io.lost)
        os.write(w, b'x')
        for process in waits, later:
            self.assertIn('late', process.result())
        for fd in r, w:
            os.close(fd)

    def test_keeps_nothing_open(self):
        """The end of the parent's stream, or of its output, does not wait for forked processes."""
        self.parent({})

        def check():
            mine = set(os.readlink('/proc/self/fd/' + fd) for fd in descriptors() if os.path.exists('/proc/self/fd/' + fd))
            return mine & theirs
        fds = [core.router.stream.rfd, core.io.wake_w] + [sys.modules['mitogen.forked'].inner]
        theirs = set(os.readlink('/proc/self/fd/%d' % fd) for fd in fds)
        self.assertEqual(forked(check), str(set()))

    def test_many_forks(self):
        """The same descriptors and threads before and after, and no name asked twice."""
        count = 1000 if LONG else 12
        parent = self.parent(dict(('m%d' % n, 'VALUE = %d' % n) for n in range(10)))
        self.assertEqual(forked(lambda: load('m0')), '0')
        forks = sys.modules['mitogen.forked']
        harness.eventually('it is forgotten', lambda: not forks.peers)
        # A process is forgotten before its descriptor is closed, by another thread, which each of these lets run.
        before = min([descriptors() for _ in range(200)], key=len)
        threads = len(os.listdir('/proc/self/task'))
        for n in range(count):
            self.assertEqual(forked(lambda: load('m%d' % (n % 10))), str(n % 10))
        harness.eventually('all are forgotten', lambda: not forks.peers)
        harness.eventually('the descriptors are as before', lambda: descriptors() == before)
        harness.eventually('the threads are as before', lambda: len(os.listdir('/proc/self/task')) == threads)
        self.assertEqual(sorted(parent.asked), sorted('m%d' % n for n in range(10)))

    def test_many_at_once(self):
        """Each name goes over the link once."""
        processes, modules = (64, 200) if LONG else (6, 30)
        names = ['n%d' % n for n in range(modules)]
        parent = self.parent(dict((name, 'VALUE = 1') for name in names))
        r, w = os.pipe()

        def work(start):
            os.read(r, 1)
            return sum(load(name) for name in names[start:] + names[:start])
        all_of_them = [Forked(lambda: work(n * modules // processes)) for n in range(processes)]
        os.write(w, b'x' * processes)
        self.assertEqual([p.result() for p in all_of_them], [str(modules)] * processes)
        self.assertEqual(sorted(parent.asked), sorted(names))
        for fd in r, w:
            os.close(fd)


if __name__ == '__main__':
    harness.main()
