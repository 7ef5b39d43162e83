"""Processes that write small files beside the program of put."""
from __future__ import absolute_import, print_function

import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

import harness

harness.load()

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = 2000
# Two processors, however many there are.
PROGRAM = """import os
os.sched_getaffinity = lambda pid: (0, 1)
for name in 'transfer.py', 'transfer_receive.py':
    with open(os.path.join(%r, name)) as f:
        exec(compile(f.read(), name, 'exec'))
""" % HERE


def message(tag, data=b''):
    return struct.pack('!cI', tag, len(data)) + data


def entry(path, mode, size=0):
    return struct.pack('!IqQiiHHHH', mode, 10 ** 18, size, 0, 0, len(path), 0, 0, 0) + path


def small(i):
    data = b'x' * i
    path = ('top/d%d/f%d' % (i // 100, i)).encode('ascii')
    return message(b'f', entry(path, 0o100640, i) + hashlib.sha256(data).digest() + data)


class TransferTest(harness.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.errors = tempfile.TemporaryFile()
        self.program = subprocess.Popen([sys.executable, '-c', PROGRAM, '-', self.dir], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors)
        self.send(message(b'd', entry(b'top', 0o40755)))
        for i in range(FILES // 100):
            self.send(message(b'd', entry(('top/d%d' % i).encode('ascii'), 0o40755)))

    def tearDown(self):
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()
        self.program.stdin.close()
        self.program.stdout.close()
        self.errors.close()
        shutil.rmtree(self.dir)

    def send(self, data):
        self.program.stdin.write(data)
        self.program.stdin.flush()

    def helpers(self):
        with open('/proc/%d/task/%d/children' % (self.program.pid, self.program.pid)) as f:
            return [int(pid) for pid in f.read().split()]

    def files(self):
        return [os.path.join(directory, name) for directory, _dirs, names in os.walk(self.dir) for name in names]

    def start(self, count):
        """Send so many files, and have helpers for them."""
        for i in range(count):
            self.send(small(i))
        harness.eventually('there are helpers', self.helpers)

    def ended(self):
        self.program.stdin.close()
        out = self.program.stdout.read()
        self.program.wait()
        return out, self.said()

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode('utf-8')

    def test_all_are_written(self):
        self.start(1000)
        for i in range(1000, FILES):
            self.send(small(i))
        self.send(message(b'q'))
        out, errors = self.ended()
        self.assertEqual((self.program.returncode, errors, out), (0, '', message(b'T', struct.pack('!Q', FILES))))
        self.assertEqual(len(self.files()), FILES)

    def test_one_is_killed(self):
        self.start(1000)
        os.kill(self.helpers()[0], signal.SIGKILL)
        try:
            for i in range(1000, FILES):
                self.send(small(i))
            self.send(message(b'q'))
        except (IOError, OSError):
            # It has noticed already.
            pass
        try:
            _out, errors = self.ended()
        except (IOError, OSError):
            self.program.wait()
            errors = self.said()
        self.assertEqual((self.program.returncode, errors), (1, 'a process that wrote files was killed\n'))
        for path in self.files():
            name = os.path.basename(path)
            if not name.startswith('.mitogend-'):
                self.assertEqual(os.path.getsize(path), int(name[1:]), path)

    def test_the_connection_is_lost(self):
        self.start(1000)
        helpers = self.helpers()
        _out, errors = self.ended()
        self.assertEqual((self.program.returncode, errors), (1, 'the connection is lost\n'))
        harness.eventually('no helpers are left', lambda: not [pid for pid in helpers if os.path.exists('/proc/%d' % pid)])
        self.assertEqual([path for path in self.files() if '.mitogend-' in path], [])


if __name__ == '__main__':
    harness.main()
