"""The programs of put, get and sync on a target: processes that write small files, and what must not be done."""
from __future__ import absolute_import, print_function

import fcntl
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
BLOCK = 252 << 10
# With and without --owner, which only root can give.
OWNERS = 2 if os.geteuid() == 0 else 1
# Two processors, however many there are.
PROGRAM = """import os
os.sched_getaffinity = lambda pid: (0, 1)
"""


def source(*names):
    out = []
    for name in names:
        with open(os.path.join(HERE, name)) as f:
            out.append(f.read())
    return '\n'.join(out)


SENDER = source('transfer.py', 'transfer_send.py')
PROGRAM += source('transfer.py', 'transfer_helpers.py', 'transfer_receive.py')


def message(tag, data=b''):
    return struct.pack('!cI', tag, len(data)) + data


def entry(path, mode, size=0, link=b'', uid=0):
    return struct.pack('!IqQIIHHHH', mode, 10 ** 18, size, uid, 0, len(path), len(link), 0, 0) + path + link


def small_file(path, data, mode=0o100644, uid=0):
    return message(b'f', entry(path, mode, len(data), uid=uid) + hashlib.sha256(data).digest() + data)


def small(i):
    return small_file(('top/d%d/f%d' % (i // 100, i)).encode('ascii'), b'x' * i, 0o100640)


class ReceiverTest(harness.TestCase):
    def setUp(self):
        self.dir = os.path.realpath(tempfile.mkdtemp())
        self.errors = tempfile.TemporaryFile()
        self.program = None

    def tearDown(self):
        if self.program:
            self.stop()
        self.errors.close()
        shutil.rmtree(self.dir)

    def stop(self):
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()
        self.program.stdin.close()
        self.program.stdout.close()

    def start(self, arguments, before='', program=PROGRAM):
        self.program = subprocess.Popen([sys.executable, '-c', before + program] + arguments, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, cwd=self.dir)

    def send(self, data):
        self.program.stdin.write(data)
        self.program.stdin.flush()

    def ended(self):
        self.program.stdin.close()
        out = self.program.stdout.read()
        self.program.wait()
        return out, self.said()

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode('utf-8')

    def exchange(self, messages, status=0):
        try:
            self.send(b''.join(messages))
            self.program.stdin.close()
        except (IOError, OSError):
            # It has refused them.
            pass
        out = self.program.stdout.read()
        self.program.wait()
        self.assertEqual(self.program.returncode, status, self.said())
        self.stop()
        answers = []
        while out:
            tag, size = struct.unpack_from('!cI', out)
            answers.append((tag.decode('ascii'), out[5:5 + size]))
            out = out[5 + size:]
        return answers


class HelpersTest(ReceiverTest):
    def setUp(self):
        super(HelpersTest, self).setUp()
        self.start(['-', self.dir])
        self.send(message(b'd', entry(b'top', 0o40755)))
        for i in range(FILES // 100):
            self.send(message(b'd', entry(('top/d%d' % i).encode('ascii'), 0o40755)))

    def helpers(self):
        with open('/proc/%d/task/%d/children' % (self.program.pid, self.program.pid)) as f:
            return [int(pid) for pid in f.read().split()]

    def files(self):
        return [os.path.join(directory, name) for directory, _dirs, names in os.walk(self.dir) for name in names]

    def start_helpers(self, count):
        """Send so many files, and have helpers for them."""
        for i in range(count):
            self.send(small(i))
        harness.eventually('there are helpers', self.helpers)

    def test_all_are_written(self):
        self.start_helpers(1000)
        for i in range(1000, FILES):
            self.send(small(i))
        self.send(message(b'q'))
        out, errors = self.ended()
        self.assertEqual((self.program.returncode, errors, out), (0, '', message(b'T', struct.pack('!QQ', FILES, FILES * (FILES - 1) // 2))))
        self.assertEqual(len(self.files()), FILES)

    def test_one_is_killed(self):
        self.start_helpers(1000)
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
        self.start_helpers(1000)
        helpers = self.helpers()
        _out, errors = self.ended()
        self.assertEqual((self.program.returncode, errors), (1, 'the connection is lost\n'))
        harness.eventually('no helpers are left', lambda: not [pid for pid in helpers if os.path.exists('/proc/%d' % pid)])
        self.assertEqual([path for path in self.files() if '.mitogend-' in path], [])



class AnswersTest(ReceiverTest):
    """What it makes of a few messages."""

    def talk(self, letters, dest, messages, before='', status=0):
        """All answers to them, as pairs of a letter and what belongs to it."""
        self.start([letters, dest], before)
        return self.exchange(messages, status)

    def write(self, *names):
        for name in names:
            path = os.path.join(self.dir, name)
            if not os.path.isdir(os.path.dirname(path)):
                os.makedirs(os.path.dirname(path))
            with open(path, 'w') as f:
                f.write('old')
            os.utime(path, (10 ** 9, 10 ** 9))

    def tree(self):
        """Paths of all files, and of directories in which nothing is."""
        out = []
        for directory, dirs, names in os.walk(self.dir):
            names += [name for name in dirs if os.path.islink(os.path.join(directory, name))]
            out += [os.path.join(directory, name) for name in names]
            if not dirs and not names:
                out.append(directory)
        return sorted(os.path.relpath(path, self.dir) for path in out)

    def sync(self, dest, asked, sent=(), letters='-sD', **more):
        """Ask for a directory and what is in it, as pairs of path and mode, and send some of it."""
        messages = [message(b'Q', entry(path, mode, 3 if mode >> 12 == 8 else 0)) for path, mode in asked]
        return self.talk(letters, dest, messages + [message(b'P')] + list(sent) + [message(b'q')], **more)

    def test_slashes_of_the_destination(self):
        for dest in 'www', 'www/', 'www//', 'www///', './www//', os.path.join(self.dir, 'www//'), 'a//../www/.//', 'link//':
            self.write('www/kept', 'www/more', 'a/x')
            if not os.path.lexists(os.path.join(self.dir, 'link')):
                os.symlink('www', os.path.join(self.dir, 'link'))
            answers = self.sync(dest, [(b'top', 0o40755), (b'top/kept', 0o100644)])
            self.assertEqual([a for a in answers if a[0] == 'A'], [('A', b'n=')], dest)
            self.assertEqual(len([a for a in answers if a[0] == 'r']), 1, dest)
            self.assertEqual(self.tree(), ['a/x', 'link', 'www/kept'], dest)
            os.unlink(os.path.join(self.dir, 'link'))

    def test_all_of_the_target(self):
        # What is to be refused would delete everything; so it can delete nothing.
        before = 'import os\ndef no(*args): raise SystemExit(99)\nos.unlink = os.rmdir = os.remove = no\n'
        os.symlink('/', os.path.join(self.dir, 'root'))
        for dest in '/', '//', '/..', '/etc/..', 'root', 'root/', '/proc/self/root', '.', '~', '~/':
            environ = 'import os\nos.environ["HOME"] = "/"\n' + ('os.chdir("/")\n' if dest == '.' else '')
            self.errors.truncate(0)
            self.errors.seek(0)
            self.sync(dest, [(b'top', 0o40755)], before=environ + before, status=1)
            self.assertIn('all of the target cannot be the destination', self.said())

    def test_no_file_there(self):
        os.mkfifo(os.path.join(self.dir, 'fifo'))
        os.symlink('fifo', os.path.join(self.dir, 'link'))
        for dest in 'fifo', 'link', '/dev/null':
            for letters in '-', '-s':
                # It can rename nothing, since this may be root.
                self.talk(letters, dest, [small_file(b'top', b'x'), message(b'q')], status=1,
                          before='import os\ndef no(*args): raise SystemExit(99)\nos.rename = no\n')
                self.assertIn('it is no file, directory or link', self.said())
                self.errors.truncate(0)
                self.errors.seek(0)

    def test_names_that_are_folded(self):
        # Where case is ignored, a name that is looked up need not be listed.
        before = """import os
lower, lstat, listdir, isdir = (lambda path: path.replace(b'docs', b'Docs')), os.lstat, os.listdir, os.path.isdir
def fold(function):
    return lambda path, *args, **kw: function(path.replace(b'/docs', b'/Docs') if isinstance(path, bytes) else path, *args, **kw)
for name in 'stat', 'lstat', 'listdir', 'unlink', 'rmdir', 'open', 'mkdir', 'access', 'chmod':
    setattr(os, name, fold(getattr(os, name)))
os.path.isdir, os.path.lexists = fold(os.path.isdir), fold(os.path.lexists)
"""
        self.write('www/Docs/x', 'www/Docs/old', 'www/more/x', 'www/b')
        os.link(os.path.join(self.dir, 'www/b'), os.path.join(self.dir, 'www/c'))
        asked = [(b'top', 0o40755), (b'top/b', 0o100644), (b'top/docs', 0o40755), (b'top/docs/x', 0o100644)]
        answers = self.sync('www', asked, [message(b'd', entry(b'top', 0o40755)), message(b'd', entry(b'top/docs', 0o40755))], before=before)
        self.assertEqual([a for a in answers if a[0] == 'A'], [('A', b'n=n=')])
        self.assertEqual(self.tree(), ['www/Docs/x', 'www/b'], answers)
        # Both at the source.
        for first, second in ('Docs', 'docs'), ('docs', 'Docs'):
            self.write('www/Docs/x', 'www/Docs/sub/y', 'www/Docs/sub/old', 'www/Docs/z', 'www/Docs/old')
            asked = [('top', 0o40755), ('top/b', 0o100644), ('top/' + first, 0o40755), ('top/%s/x' % first, 0o100644),
                     ('top/' + second, 0o40755), ('top/%s/z' % second, 0o100644), ('top/%s/sub' % second, 0o40755),
                     ('top/%s/sub/y' % second, 0o100644)]
            answers = self.sync('www', [(path.encode('ascii'), mode) for path, mode in asked], before=before)
            self.assertEqual(self.tree(), ['www/Docs/sub/y', 'www/Docs/x', 'www/Docs/z', 'www/b'], answers)

    def test_links_to_what_is_deleted(self):
        # Directories of the source that are one here, which is at the source, or is not.
        for more in [(b'top/real', 0o40755), (b'top/real/x', 0o100644)], []:
            self.write('www/real/x', 'www/real/y', 'www/other/far/z', 'www/other/old')
            for name, to in ('link', 'real'), ('near', 'other/far'):
                if not more and name == 'link':
                    os.unlink(os.path.join(self.dir, 'www/link'))
                if not os.path.lexists(os.path.join(self.dir, 'www', name)):
                    os.symlink(to, os.path.join(self.dir, 'www', name))
            asked = [(b'top', 0o40755), (b'top/link', 0o40755), (b'top/link/y', 0o100644), (b'top/near', 0o40755), (b'top/near/z', 0o100644)]
            answers = self.sync('www', asked + more)
            self.assertEqual([a for a in answers if a[0] == 'e'], [])
            self.assertEqual(self.tree(), ['www/link', 'www/near', 'www/other/far/z', 'www/real/x', 'www/real/y'], more)

    def test_directories_that_stay(self):
        # Their modes stay as well, where something in them cannot be removed.
        before = """import errno, os
unlink, listdir = os.unlink, os.listdir
def may(path, bits):
    if os.stat(path).st_mode & bits != bits:
        raise OSError(errno.EACCES, 'Permission denied')
def remove(path):
    may(os.path.dirname(path), 0o300)
    if path.endswith(b'kept'):
        raise OSError(errno.EIO, 'bad disk')
    unlink(path)
def names(path):
    may(path, 0o500)
    return listdir(path)
os.unlink, os.listdir = remove, names
"""
        self.write('www/a/kept', 'www/a/gone', 'www/b/kept', 'www/z')
        modes = {'www': 0o555, 'www/a': 0o2555, 'www/b': 0o111}
        for name, mode in modes.items():
            os.chmod(os.path.join(self.dir, name), mode)
        answers = self.sync('www', [(b'top', 0o40755)], before=before)
        self.assertEqual(''.join(tag for tag, _data in answers), 'AreerpT', answers)
        for name, mode in modes.items():
            path = os.path.join(self.dir, name)
            self.assertEqual(os.stat(path).st_mode & 0o7777, mode, name)
            os.chmod(path, 0o755)
        self.assertEqual(self.tree(), ['www/a/kept', 'www/b/kept'])

    def test_directories_with_other_numbers(self):
        # Some file systems give a directory a new inode number when it is looked up again.
        before = """import os
def number(function):
    def call(*args, **kw):
        more = function(*args, **kw)
        class Result(object):
            def __getattr__(self, name):
                return getattr(more, name)
        result = Result()
        number.last += 1
        result.st_ino = number.last
        return result
    return call
number.last = 10
os.fstat = number(os.fstat)
"""
        messages = [message(b'd', entry(b'top', 0o40711)), message(b'd', entry(b'top/a', 0o40701)), message(b'q')]
        self.assertEqual(self.talk('-', 'www', messages, before=before), [('T', struct.pack('!QQ', 0, 0))])
        self.assertEqual(os.stat(os.path.join(self.dir, 'www/a')).st_mode & 0o777, 0o701)
        before = """import os
mkdir = os.mkdir
def swap(path, *args):
    if os.path.isdir(b'www/a') and not os.path.islink(b'www/a'):
        os.rename(b'www/a', b'www/b')
        os.symlink(b'b', b'www/a')
    return mkdir(path, *args)
os.mkdir = swap
"""
        messages[2:2] = [message(b'd', entry(b'top/c', 0o40755))]
        answers = self.talk('-s', 'www', messages, before=before)
        self.assertEqual([tag for tag, _data in answers], ['e', 'T'])

    def test_a_file_that_never_stays_the_same(self):
        # Nothing is left of one that came whole, and was another one then.
        data = b'x' * BLOCK
        start = [message(b'F', entry(b'top', 0o100644, 2 * BLOCK)), message(b'B', data)]
        part = '.mitogend-%s.part' % hashlib.sha256(b'x').hexdigest()[:16]
        self.talk('-', 'x', start + [message(b'X'), message(b'q')])
        self.assertEqual(self.tree(), [part])
        self.talk('-', 'x', start + [message(b'B', data), message(b'X'), message(b'q')])
        self.assertEqual(os.listdir(self.dir), [])

    def test_deletes_what_it_can(self):
        # In a directory that it cannot list, and beside a file that it cannot remove.
        before = """import errno, os
listdir, unlink = os.listdir, os.unlink
def fail(path):
    raise OSError(errno.EIO, 'bad disk')
os.listdir = lambda path: fail(path) if path.endswith(b'unlisted') else listdir(path)
os.unlink = lambda path: fail(path) if path.endswith(b'kept') else unlink(path)
"""
        self.write('www/a/b/kept', 'www/a/b/gone', 'www/a/z', 'www/unlisted/x', 'www/z')
        answers = self.sync('www', [(b'top', 0o40755), (b'top/unlisted', 0o40755)], before=before)
        self.assertEqual(self.tree(), ['www/a/b/kept', 'www/unlisted/x'])
        top = b'www/'
        self.assertEqual(sorted(data for tag, data in answers if tag == 'r'), [top + b'a/b/gone', top + b'a/z', top + b'z'])
        self.assertEqual(sorted(data for tag, data in answers if tag == 'e'), [top + b'a/b/kept: bad disk', top + b'unlisted: bad disk'])

    def test_what_is_left_of_files(self):
        part = '.mitogend-%s.part'
        names = [part % hashlib.sha256(name).hexdigest()[:16] for name in (b'wanted', b'gone', b'locked')]
        self.write('www/x', 'www/other/.mitogend-1-2', *['www/' + name for name in names])
        with open(os.path.join(self.dir, 'www', names[2])) as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            self.sync('www', [(b'top', 0o40755), (b'top/wanted', 0o100644)])
            self.assertEqual(self.tree(), sorted('www/' + name for name in (names[0], names[2])))

    def test_what_another_process_has_left(self):
        # One with the same number, in another container or on another machine.
        before = 'import os\nos.getpid = lambda: 1\n'
        self.write('www/.mitogend-1-1', 'www/.mitogend-1-2')
        answers = self.talk('-', 'www', [small_file(b'top/x', b'x'), message(b'q')], before=before)
        self.assertEqual(answers, [('T', struct.pack('!QQ', 1, 1))])

    def test_sockets_at_the_source(self):
        self.write('www/socket', 'www/more')
        self.sync('www', [(b'top', 0o40755), (b'top/socket', 0o140755)])
        self.assertEqual(self.tree(), ['www/socket'])
        # Where a directory has its name, what is in it is nobody's to delete.
        self.write('www/fifo/x/y')
        self.sync('www', [(b'top', 0o40755), (b'top/socket', 0o140755), (b'top/fifo', 0o10755)])
        self.assertEqual(self.tree(), ['www/fifo/x/y', 'www/socket'])

    def test_a_deep_tree(self):
        deep = self.dir + '/www'
        os.mkdir(deep)
        here = os.getcwd()
        try:
            os.chdir(deep)
            for _ in range(1500):
                os.mkdir('d')
                os.chdir('d')
        finally:
            os.chdir(here)
        self.sync('www', [(b'top', 0o40755)])
        self.assertEqual(self.tree(), ['www'])

    def test_links_to_directories(self):
        # Files go there, and what they lie in is not changed.
        for name in 'www/far/below', 'else/where/below':
            os.makedirs(os.path.join(self.dir, name))
        shutil.rmtree(os.path.join(self.dir, 'www/far'))
        os.symlink('../else/where', os.path.join(self.dir, 'www/far'))
        for name in 'else/where', 'else/where/below':
            os.chmod(os.path.join(self.dir, name), 0o711)
        messages = [message(b'd', entry(path, 0o40755)) for path in (b'top', b'top/far', b'top/far/below', b'top/far/new')]
        messages += [small_file(b'top/far/x', b'x'), small_file(b'top/far/below/x', b'x'), message(b'q')]
        for letters in ('-s', '-so')[:OWNERS]:
            self.assertEqual(self.talk(letters, 'www', messages), [('T', struct.pack('!QQ', 2, 2))])
            for name, mode in ('else/where', 0o711), ('else/where/below', 0o711), ('else/where/new', 0o755), ('www', 0o755):
                st = os.stat(os.path.join(self.dir, name))
                self.assertEqual(st.st_mode & 0o777, mode, name)
                self.assertEqual(st.st_mtime == 10 ** 9, mode == 0o755, name)

    def test_a_name_that_is_taken(self):
        # Somebody replaces a file by a link before it has its owner, mode and times.
        self.write('victim')
        os.chmod(os.path.join(self.dir, 'victim'), 0o600)
        before = """import os
def plant(name, function):
    def first(*args, **kw):
        for each in os.listdir(b'.'):
            if each.startswith(b'.mitogend-') and not os.path.islink(each):
                os.unlink(each)
                os.symlink(b'victim', each)
        return function(*args, **kw)
    setattr(os, name, first)
for name in 'chown', 'fchown', 'chmod', 'fchmod', 'utime':
    plant(name, getattr(os, name))
"""
        data = b'x' * (300 << 10)
        blocks = [hashlib.sha256(data[at:at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
        uid = 1 if os.geteuid() == 0 else os.geteuid()
        large = [message(b'F', entry(b'top', 0o100666, len(data), uid=uid)), message(b'B', data[:BLOCK]), message(b'B', data[BLOCK:]),
                 message(b'E', hashlib.sha256(b''.join(blocks)).digest())]
        for messages in [small_file(b'top', b'x', 0o100666, uid)], large:
            for letters in ('-', '-o')[:OWNERS]:
                self.talk(letters, 'www', messages + [message(b'q')], before=before)
                st = os.stat(os.path.join(self.dir, 'victim'))
                self.assertEqual((st.st_mode & 0o777, st.st_mtime, st.st_uid), (0o600, 10 ** 9, os.geteuid()))
                for name in os.listdir(self.dir):
                    if name != 'victim':
                        os.unlink(os.path.join(self.dir, name))

    def test_a_file_that_becomes_a_link(self):
        # Between a look at it and the change of its mode.
        self.write('victim', 'www/x')
        os.chmod(os.path.join(self.dir, 'victim'), 0o600)
        before = """import os
lstat = os.lstat
def look(path, *args, **kw):
    st = lstat(path, *args, **kw)
    if path == b'www/x' and not os.path.exists(b'www/x2'):
        os.rename(path, path + b'2')
        os.symlink(b'../victim', path)
    return st
os.lstat = look
"""
        answers = self.sync('www', [(b'top', 0o40755), (b'top/x', 0o100755)], letters='-s', before=before)
        self.assertEqual(answers[0], ('A', b'nn'))
        self.assertEqual(os.stat(os.path.join(self.dir, 'victim')).st_mode & 0o777, 0o600)

    def test_holes(self):
        zeros = hashlib.sha256(b'\0' * BLOCK).digest()
        with open(os.path.join(self.dir, 'x'), 'wb') as f:
            f.truncate(40 * BLOCK)
        sent = [message(b'F', entry(b'top', 0o100644, 40 * BLOCK)), message(b'K', struct.pack('!Q', 40)),
                message(b'E', hashlib.sha256(zeros * 40).digest())]
        answers = self.talk('-s', 'x', sent + [message(b'q')])
        self.assertEqual(answers[-1], ('T', struct.pack('!QQ', 1, 40 * BLOCK)))
        st = os.stat(os.path.join(self.dir, 'x'))
        self.assertEqual(st.st_size, 40 * BLOCK)
        self.assertLess(st.st_blocks * 512, BLOCK)

    def test_one_odd_file(self):
        # More than system calls take is an error of this file.
        def odd(tag, path, uid, mtime, more=b''):
            return message(tag, struct.pack('!IqQIIHHHH', 0o100644, mtime, 0, uid, 0, len(path), 0, 0, 0) + path + more)
        empty = hashlib.sha256(b'').digest()
        before = """import os
def utime(path, *args, **kw):
    times = kw.get('ns') or args[0]
    if max(times) > 4 * 10 ** 18 or 4 * 10 ** 9 < max(times) < 10 ** 10:
        raise OverflowError('timestamp out of range for platform time_t')
os.utime = utime
"""
        answers = self.talk('-', 'www', [odd(b'f', b'top/x', 0, 5 * 10 ** 18, empty), odd(b'f', b'top/y', 0, 10 ** 18, empty), message(b'q')], before=before)
        self.assertEqual(answers, [('e', b'www/x: timestamp out of range for platform time_t'), ('T', struct.pack('!QQ', 1, 0))])
        if os.geteuid() == 0:
            self.talk('-o', 'own', [odd(b'f', b'top', 0xfffffffd, 10 ** 18, empty), message(b'q')])
            self.assertEqual(os.stat(os.path.join(self.dir, 'own')).st_uid, 0xfffffffd)

    def test_links_of_a_file_that_failed(self):
        self.write('www/b')
        os.mkdir(os.path.join(self.dir, 'www/a'))
        hard = entry(b'top/c', 0o100644, 0, b'top/a')
        answers = self.talk('-sh', 'www', [small_file(b'top/a', b'new'), message(b'h', hard), message(b'q')])
        said = b'www/c: the file that it is another name of was not copied'
        self.assertEqual(answers, [('e', b'www/a: Is a directory'), ('e', said), ('T', struct.pack('!QQ', 0, 0))])

    def test_links_that_are_there(self):
        self.write('www/x')
        os.symlink('x', os.path.join(self.dir, 'www/link'))
        messages = [message(b'l', entry(b'top/link', 0o120777, 0, b'x')), message(b'q')]
        self.assertEqual(self.talk('-s', 'www', messages), [('T', struct.pack('!QQ', 1, 0))])
        if os.geteuid() == 0:
            os.lchown(os.path.join(self.dir, 'www/link'), 1, 1)
            question = message(b'Q', entry(b'top/link', 0o120777, 0, b'x'))
            answers = self.talk('-so', 'www', [message(b'Q', entry(b'top', 0o40755)), question, message(b'P')] + messages)
            self.assertEqual(answers[0], ('A', b'nn'))
            self.assertEqual(os.lstat(os.path.join(self.dir, 'www/link')).st_uid, 0)

    def test_names_that_are_not_text(self):
        os.mkdir(os.path.join(self.dir, 'www'))
        os.makedirs(os.path.join(self.dir.encode('utf-8'), b'www', b'caf\xe9'))
        answers = self.talk('-s', 'www', [small_file(b'top/caf\xe9', b'x'), message(b'q')])
        self.assertEqual(answers[0], ('e', b'www/caf\xe9: Is a directory'))

    def test_the_connection_breaks_while_digests_are_offered(self):
        part = '.mitogend-%s.part' % hashlib.sha256(b'x').hexdigest()[:16]
        with open(os.path.join(self.dir, part), 'wb') as f:
            f.write(b'x' * 10 * BLOCK)
        before = """import os
write = os.write
def broken(fd, data):
    raise OSError(32, 'Broken pipe')
os.write = broken
"""
        self.talk('-', 'x', [message(b'F', entry(b'top', 0o100644, 20 * BLOCK))], before=before, status=1)
        self.assertEqual(self.tree(), [part])

    def test_a_name_and_no_directory(self):
        os.mkdir(os.path.join(self.dir, 'there'))
        answers = self.talk('-N', 'there', [small_file(b'stdin', b'x'), message(b'q')])
        self.assertEqual(answers[0], ('e', b'there: Is a directory'))
        self.assertEqual(self.tree(), ['there'])

    def test_homes(self):
        before = 'import pwd\nclass bob(object):\n    pw_dir = %r\npwd.getpwnam = lambda name: bob if name == "bob" else {}[name]\n' % self.dir
        self.talk('-', '~bob/x', [small_file(b'top', b'x'), message(b'q')], before=before)
        self.assertEqual(self.tree(), ['x'])

    def test_directories_nobody_may_write_to(self):
        if os.geteuid() == 0:
            # What is started may be somebody else.
            os.chown(self.dir, 1234, 1234)
            before = 'import binascii, fcntl, hashlib, io, os, select, signal, stat, struct\nu"".encode("ascii")\nos.setgid(1234)\nos.setuid(1234)\n'
        else:
            before = ''
        self.write('www/a/old', 'www/b/c/old', 'www/a/kept')
        for directory, _dirs, names in os.walk(os.path.join(self.dir, 'www'), topdown=False):
            for path in [os.path.join(directory, name) for name in names] + [directory]:
                os.chmod(path, 0o644 if path != directory else 0o111 if path.endswith('c') else 0o555)
                if os.geteuid() == 0:
                    os.chown(path, 1234, 1234)
        asked = [(b'top', 0o40555), (b'top/a', 0o40555), (b'top/a/kept', 0o100644)]
        sent = [message(b'd', entry(b'top', 0o40555)), message(b'd', entry(b'top/a', 0o40555)), small_file(b'top/a/new', b'x')]
        answers = self.sync('www', asked, sent, before=before)
        self.assertEqual([a for a in answers if a[0] in 'eT'], [('T', struct.pack('!QQ', 1, 1))])
        self.assertEqual(self.tree(), ['www/a/kept', 'www/a/new'])
        for name in 'www', 'www/a':
            self.assertEqual(os.stat(os.path.join(self.dir, name)).st_mode & 0o777, 0o555)
            os.chmod(os.path.join(self.dir, name), 0o755)


class SenderTest(ReceiverTest):
    """The program that files come from."""

    def ask(self, letters, path, messages=(), before=''):
        self.start([letters, 'top', path], before, SENDER)
        return self.exchange(messages)

    def test_a_file_that_changes(self):
        path = os.path.join(self.dir, 'x')
        before = """import os
read = os.read
def change(fd, size):
    data = read(fd, size)
    if data:
        with open('x', 'r+b') as f:
            %s
    return data
os.read = change
"""
        for size in 10, BLOCK:
            for change, text in (("f.seek(0, 2); f.write(b'more')", None), ('f.truncate(1)', 'it was changed while it was read'),
                                 ("os.utime('x', (5, 5))", 'it was changed while it was read')):
                with open(path, 'wb') as f:
                    f.write(b'x' * size)
                answers = self.ask('-', 'x', [message(b'N')], before % change)
                want = 'fq' if size == 10 else 'FBEq'
                if text:
                    want = 'eq' if size == 10 else 'FBXeq'
                    self.assertIn(('e', b'x: ' + text.encode('ascii')), answers)
                self.assertEqual(''.join(tag for tag, _data in answers), want, (size, change))

    def test_a_file_that_becomes_a_link(self):
        os.mkdir(os.path.join(self.dir, 'top'))
        for name in 'secret', 'top/x':
            with open(os.path.join(self.dir, name), 'w') as f:
                f.write(name)
        before = """import os
opened = os.open
def plant(path, *args):
    os.unlink(path)
    os.symlink('../secret', path)
    return opened(path, *args)
os.open = plant
"""
        answers = self.ask('-', 'top', before=before)
        self.assertEqual(''.join(tag for tag, _data in answers), 'deq', answers)

    def test_attributes_of_a_file_that_is_replaced(self):
        if sys.version_info[0] == 2:
            return
        os.mkdir(os.path.join(self.dir, 'top'))
        before = """import os
opened = os.open
def swap(*args):
    os.rename('top/x', 'top/y')
    open('top/x', 'w').close()
    os.chmod('top/x', 0o600)
    os.setxattr('top/x', 'user.late', b'')
def plant(path, *args):
    swap() if %d else None
    fd = opened(path, *args)
    None if %d else swap()
    return fd
os.open = plant
"""
        for letters in '-x', '-xsc':
            for early, mode in (1, 0o600), (0, 0o640):
                path = os.path.join(self.dir, 'top/x')
                with open(path, 'w'):
                    os.chmod(path, 0o640)
                try:
                    os.setxattr(path, 'user.early', b'')
                except OSError:
                    return
                answers = self.ask(letters, 'top', [message(b'A', b'==') + message(b'p')], before % (early, early))
                tag, data = answers[1]
                self.assertEqual(struct.unpack_from('!I', data)[0] & 0o777, mode, letters)
                self.assertEqual((b'user.early' in data, b'user.late' in data), (not early, bool(early)), letters)
                for name in 'top/x', 'top/y':
                    os.unlink(os.path.join(self.dir, name))

    def test_empty_files(self):
        # They take no memory of a block.
        before = """import os
read = os.read
def few(fd, size):
    assert size <= 4096, size
    return read(fd, size)
os.read = few
"""
        open(os.path.join(self.dir, 'x'), 'w').close()
        answers = self.ask('-', 'x', before=before)
        self.assertEqual(''.join(tag for tag, _data in answers), 'fq', answers)

    def test_what_is_asked_about(self):
        os.mkdir(os.path.join(self.dir, 'top'))
        os.mkfifo(os.path.join(self.dir, 'top/fifo'))
        answers = self.ask('-sD', 'top', [message(b'A', b'==') + message(b'p')])
        self.assertEqual(''.join(tag for tag, _data in answers), 'QQPq')
        answers = self.ask('-sD', 'top', [message(b'A', b'=n') + message(b'p')])
        self.assertEqual(answers[3], ('e', b'top/fifo: it is no file, directory or link'))

    def test_owners(self):
        path = os.path.join(self.dir, 'x')
        with open(path, 'w'):
            uid = 0xfffffffd if os.geteuid() == 0 else os.geteuid()
            os.chown(path, uid, -1)
        answers = self.ask('-o', 'x')
        self.assertEqual(struct.unpack_from('!IqQII', answers[0][1])[3], uid)


if __name__ == '__main__':
    harness.main()
