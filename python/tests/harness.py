"""
For tests of the child runtime: loads it as the first stage does, and plays its parent at the other end of a socketpair.

    core = harness.load()
    class SomeTest(harness.TestCase):
        def test(self):
            parent = self.parent({'pkg': '', 'pkg.mod': 'x = 1'})
            import pkg.mod
            # 2.x asks for packages one by one.
            self.assertEqual(parent.asked[-1], 'pkg.mod')
"""
from __future__ import absolute_import

import linecache
import os
import socket
import struct
import sys
import threading
import time
import unittest
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
# Where mitogen/core.py and the rest are; the plain files are next to this directory.
RUNTIME = os.environ.get('MITOGEND_RUNTIME')
GET_RESOURCE = 112
# Seconds after which a test that waits has failed.
DEADLINE = 60


def source(part):
    """The text of a part of the runtime: core, api, parent ..."""
    path = os.path.join(RUNTIME, 'mitogen', part + '.py') if RUNTIME else os.path.join(HERE, '..', part + '.py')
    with open(path, 'rb') as fp:
        return fp.read()


class Module(type(sys)):
    def __getattr__(self, name):
        return self.lazy(name)


def load():
    """mitogen.core, which is to be set up by a Parent."""
    if 'mitogen.core' in sys.modules:
        return sys.modules['mitogen.core']
    package = sys.modules['mitogen'] = type(sys)('mitogen')
    core = sys.modules['mitogen.core'] = Module('mitogen.core')
    exec(compile(source('core'), '/master:mitogen/core.py', 'exec', 0, 1), core.__dict__)
    core.__file__ = '/master:mitogen/core.py'
    core.core_source = source('core')
    package.__dict__.update(core=core, __path__=[], is_master=False, main=core.main_decorator, __version__=(0, 3, 3))
    return core


class Parent(object):
    """
    Context 0. `modules` maps names to source, text or bytes; None is a namespace package. A name is a package when
    there are names below it, or when it is in `packages`. Everything is answered at once, but for names in `held`,
    until release(). `handlers` maps other handles to functions of (parent, header, data).
    """

    def __init__(self, modules, packages=(), related=None, held=(), reasons=None, handlers=None, **config):
        self.core = load()
        self.modules = dict(modules)
        self.packages = set(packages)
        self.related = related or {}
        self.reasons = reasons or {}
        self.handlers = handlers or {}
        self.held = set(held)
        self.waiting = []
        # Names in the order in which they were asked for, those of the runtime itself apart.
        self.asked = []
        self.sent = set()
        self.asked_runtime = []
        self.other = []
        self.lock = threading.Lock()
        self.socket, child = socket.socketpair()
        self.fd = os.dup(child.fileno())
        child.close()
        self.saved = sys.meta_path[:], sys.path_hooks[:], dict(sys.path_importer_cache), set(sys.modules)
        self.core.importer = None
        settings = {'context_id': 1, 'parent_ids': [0], 'name': 'test'}
        settings.update(config)
        self.core.setup(settings, self.fd, self.fd, take_stdio=False)
        self.core.plug(self.core, sys.modules['mitogen'])
        self.io = self.core.io
        self.thread = threading.Thread(target=self.serve)
        self.thread.daemon = True
        self.thread.start()

    def close(self):
        """Leave no trace in this process."""
        # Its ticker may still look, and would interrupt the next test since the parent is lost while user code runs.
        self.io.running = 0
        self.io.leaving = 1 << 30
        self.disconnect()
        self.thread.join(DEADLINE)
        os.close(self.fd)
        sys.meta_path[:], sys.path_hooks[:] = self.saved[:2]
        sys.path_importer_cache.clear()
        sys.path_importer_cache.update(self.saved[2])
        linecache.clearcache()
        # What hooks os.fork(), and adds to Io, stays.
        for name in set(sys.modules) - self.saved[3] - set(['mitogen.forked', 'mitogen.running', 'mitogen.sharing']):
            module = sys.modules[name]
            loader = getattr(module, '__loader__', None)
            if type(loader) is self.core.Importer or module is None or name.partition('.')[0] in self.modules:
                del sys.modules[name]

    def disconnect(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except (OSError, socket.error):
            pass

    def read(self, n):
        parts = []
        while n:
            data = self.socket.recv(n)
            if not data:
                raise EOFError
            parts.append(data)
            n -= len(data)
        return b''.join(parts)

    def serve(self):
        try:
            while 1:
                header = self.core.HEADER.unpack(self.read(self.core.HEADER_LEN))
                self.on_message(header, self.read(header[6]))
        except (EOFError, OSError, socket.error):
            pass
        finally:
            self.socket.close()

    def on_message(self, header, data):
        handle = header[4]
        if handle == self.core.GET_MODULE:
            name = data.decode('utf-8') if self.core.PY3 else data
            if name.startswith('mitogen.'):
                self.asked_runtime.append(name)
                self.answer(name)
                return
            with self.lock:
                self.asked.append(name)
                if name in self.held or '*' in self.held:
                    self.waiting.append(name)
                    return
            self.answer(name)
        elif handle in self.handlers:
            self.handlers[handle](self, header, data)
        elif handle == GET_RESOURCE:
            self.send(header[5], b'no resources', reply_to=self.core.IS_DEAD)
        else:
            self.other.append((header, data))

    def send(self, handle, data, dst=1, reply_to=0, enc=None):
        core = self.core
        head = core.HEADER.pack(enc or core.MGC, dst, 0, 0, handle, reply_to, len(data))
        self.socket.sendall(head + data)

    def text(self, s):
        return s if isinstance(s, self.core.text_type) else s.decode('utf-8')

    def children(self, name):
        tails = set(n[len(name) + 1:].partition('.')[0] for n in self.modules if n.startswith(name + '.'))
        return sorted(t + '.' if self.is_package(name + '.' + t) else t for t in tails)

    def is_package(self, name):
        return name in self.packages or self.modules.get(name, '') is None or any(
            n.startswith(name + '.') for n in self.modules)

    def path(self, name):
        tail = name.replace('.', '/')
        if self.modules.get(name, '') is None:
            return '/srv/' + tail
        return '/srv/' + tail + ('/__init__.py' if self.is_package(name) else '.py')

    def record(self, name):
        text = self.text
        if name.startswith('mitogen.'):
            try:
                data = source(name[8:])
            except (IOError, OSError):
                return (text(name), None, text('not part of the runtime'), None, ())
            return (text(name), None, text(name.replace('.', '/') + '.py'), self.core.Blob(zlib.compress(data)), ())
        if name not in self.modules:
            reason = self.reasons.get(name)
            return (text(name), None, reason and text(reason), None, ())
        data = self.modules[name] or b''
        if isinstance(data, self.core.text_type):
            data = data.encode('utf-8')
        present = [text(c) for c in self.children(name)] if self.is_package(name) else None
        related = tuple(text(r) for r in self.related.get(name, ()))
        return (text(name), present, text(self.path(name)), self.core.Blob(zlib.compress(data)), related)

    def answer(self, name):
        """Send LOAD_MODULE, behind the packages that the module lies in, as far as they were not sent."""
        package = name.rpartition('.')[0]
        if name in self.modules and package in self.modules and package not in self.sent:
            self.answer(package)
        self.sent.add(name)
        self.send(self.core.LOAD_MODULE, b'\x80\x02' + encode(self.record(name)) + b'.')

    def release(self, *names):
        """Answer what is held, all of it without names, and hold these no more."""
        with self.lock:
            names = names or list(self.held)
            self.held.difference_update(names)
            waiting = [n for n in self.waiting if '*' in names or n in names]
            self.waiting = [n for n in self.waiting if n not in waiting]
        for name in waiting:
            self.answer(name)


def encode(value):
    """The opcodes of a value. On 2.7 the pickler imports, and the thread that waits for us may hold the import lock."""
    core = sys.modules['mitogen.core']
    if value is None:
        return b'N'
    if isinstance(value, core.Blob):
        return b'cmitogen.core\nBlob\n(T' + struct.pack('<l', len(value)) + bytes(value) + b'tR'
    if isinstance(value, bool):
        return b'\x88' if value else b'\x89'
    if isinstance(value, int):
        return b'J' + struct.pack('<i', value)
    if isinstance(value, (tuple, list)):
        body = b'(' + b''.join(encode(v) for v in value)
        return body + b't' if isinstance(value, tuple) else body + b'l'
    data = value.encode('utf-8')
    return b'X' + struct.pack('<l', len(data)) + data


def needs(name):
    """Import a module that an interpreter may lack: then the test is skipped, and in CI it fails."""
    try:
        return __import__(name)
    except ImportError:
        if os.environ.get('CI') == 'true':
            raise
        raise unittest.SkipTest('no %s' % name)


def eventually(what, condition):
    """Poll until condition() is true."""
    deadline = time.time() + DEADLINE
    while not condition():
        if time.time() > deadline:
            raise AssertionError('still not so: %s' % (what,))
        time.sleep(0.001)


def in_threads(count, fn):
    """Run fn(number) in that many threads at once; raise what the first that failed raised."""
    errors = []
    go = threading.Event()

    def body(number):
        go.wait()
        try:
            fn(number)
        except BaseException:
            errors.append(sys.exc_info())
    threads = [threading.Thread(target=body, args=(n,)) for n in range(count)]
    for t in threads:
        t.daemon = True
        t.start()
    go.set()
    deadline = time.time() + DEADLINE
    for t in threads:
        t.join(max(0, deadline - time.time()))
    alive = sum(t.is_alive() for t in threads)
    if errors:
        raise errors[0][1]
    if alive:
        raise AssertionError('%d of %d threads hang' % (alive, count))


class TestCase(unittest.TestCase):
    """A test whose parents are closed at its end."""

    def parent(self, modules, **kwargs):
        parent = Parent(modules, **kwargs)
        self.addCleanup(parent.close)
        return parent

    if not hasattr(unittest.TestCase, 'assertRaisesRegex'):
        assertRaisesRegex = unittest.TestCase.assertRaisesRegexp

    if not hasattr(unittest.TestCase, 'assertCountEqual'):
        assertCountEqual = unittest.TestCase.assertItemsEqual


def main():
    result = unittest.main(module='__main__', exit=False).result
    sys.stdout.flush()
    sys.stderr.flush()
    # Tickers of closed parents are left, and with such threads the end of 3.9 may hang: see running.at_end().
    os._exit(not result.wasSuccessful())
