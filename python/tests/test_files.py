"""Served files as code on the target sees them: by their paths, as resources, and as projects."""
from __future__ import absolute_import

import errno
import io
import os
import pickle
import socket
import sys
import unittest

import harness

core = harness.load()
MODULES = {'served': '', 'served.sub': '', 'served.sub.mod': 'x = 1\n'}
DATA = {'a.txt': b'text', 'deep/b.tar.gz': b'archive', 'deep/c.txt': b'more'}
BASE = '/master:/srv/served'


def answer(parent, header, data):
    """What the master says of MODULES and DATA."""
    question = [str(q) for q in core.loads(data)]
    parent.questions.append(question)
    if question[0] == 'list':
        inside = question[2] and question[2] + '/'
        names = dict(DATA, **{'__init__.py': b'', 'sub/__init__.py': b'', 'sub/mod.py': b'x = 1\n'})
        found = {}
        for name in names:
            if name.startswith(inside):
                head, deeper, _ = name[len(inside):].partition('/')
                found[head] = (parent.text(head), deeper != '', 0 if deeper else len(names[name]))
        parent.send(header[5], b'\x80\x02' + harness.encode(tuple(found[n] for n in sorted(found))) + b'.')
    elif question[0] == 'read':
        parent.send(header[5], DATA[question[2]], enc=core.BIN)
    else:
        told = tuple(parent.text(t) for t in ('ours', '1.0', '/srv/ours-1.0.dist-info')) + ((), False)
        parent.send(header[5], b'\x80\x02' + harness.encode((told,) if question[0] == 'installed' else told) + b'.')


class FilesTest(harness.TestCase):
    def setUp(self):
        # What mitogen.files replaces.
        kept = [(os, dict(vars(os))), (io, dict(vars(io))), (sys.modules[object.__module__], {'open': open})]
        portion = dict(vars(core.Portion))
        self.addCleanup(self.restore, kept, portion, core.PY3 and core.frozen.FileLoader.get_data)
        self.master = self.parent(MODULES, handlers={harness.GET_RESOURCE: answer})
        self.master.questions = []
        # Of the test before; `from mitogen import disk` would take it.
        vars(sys.modules['mitogen']).pop('disk', None)
        import mitogen.resources
        self.resources = mitogen.resources

    def restore(self, kept, portion, get_data):
        for module, names in kept:
            vars(module).update(names)
        for name in '__init__', 'find_spec', 'find_module', 'invalidate_caches':
            if name in portion:
                setattr(core.Portion, name, portion[name])
            elif name in vars(core.Portion):
                delattr(core.Portion, name)
        if get_data:
            core.frozen.FileLoader.get_data = get_data
        core.WATCHED.pop('subprocess', None)

    def test_functions_can_be_pickled(self):
        import mitogen.files
        functions = [os.listdir, os.stat, os.remove, os.access, os.rename, os.scandir if core.PY3 else os.lstat, open, io.open]
        for function in functions:
            self.assertIsInstance(function, mitogen.files.Served)
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                self.assertIs(pickle.loads(pickle.dumps(function, protocol)), function)

    def test_functions_that_wait_can_be_pickled(self):
        import mitogen.guard
        os.waitpid = mitogen.guard.alone(os.waitpid, 'waitpid')
        self.assertIs(pickle.loads(pickle.dumps(os.waitpid)), os.waitpid)

    def test_a_record_is_looked_at_once(self):
        import mitogen.files
        import served.sub.mod
        calls = []
        top = self.resources.top
        self.resources.top = lambda record: calls.append(record[0]) or top(record)
        for _ in range(50):
            self.assertEqual(os.stat(BASE + '/a.txt').st_size, 4)
            self.assertEqual(os.stat(BASE + '/sub/mod.py').st_size, 6)
            self.assertTrue(os.path.isdir(BASE + '/sub') and os.path.isdir(BASE) and os.path.isdir('/master:/srv'))
            self.assertFalse(os.path.exists(BASE + '/absent') or os.path.exists('/master:/srv/absent.py'))
        self.assertEqual(sorted(set(calls)), sorted(calls))

    def test_a_module_that_comes_in_place_of_a_reason(self):
        import mitogen.files
        import served
        core.importer.cache['late'] = ''
        self.assertFalse(os.path.exists('/master:/srv/late.py'))
        self.assertTrue(os.path.exists(BASE))
        del core.importer.cache['late']
        self.master.modules['late'] = 'y = 2\n'
        import late
        self.assertTrue(os.path.isfile(late.__file__))

    def test_files_in_other_directories_of_a_package(self):
        import mitogen.files
        plain = self.master.path
        elsewhere = {'pair.tool': '/srv2/pair/tool.py', 'pair.sub.mod': '/srv3/pair/sub/mod.py', 'pair.own': '/srv4/pair/own/__init__.py'}
        self.master.path = lambda name: elsewhere.get(name) or plain(name)
        self.master.modules.update(dict.fromkeys(('pair', 'pair.tool', 'pair.sub', 'pair.sub.mod', 'pair.own', 'pair.own.mod'), ''))
        import pair.tool
        import pair.sub.mod
        import pair.own.mod
        for path in (os.path.dirname(pair.tool.__file__), os.path.dirname(pair.sub.mod.__file__),
                     '/master:/srv3/pair', '/master:/srv4/pair', os.path.dirname(pair.own.__file__)):
            with open(path + '/a.txt') as f:
                self.assertEqual(f.read(), 'text')
            self.assertEqual(os.stat(path + '/deep/c.txt').st_size, 4)
            self.assertTrue(os.path.isdir(path) and os.path.isfile(path + '/a.txt') and not os.path.exists(path + '/absent'))
            self.assertIn('a.txt', os.listdir(path))
        packages = [q[1] for q in self.master.questions if q[0] == 'read']
        self.assertEqual(packages, ['pair', 'pair.sub', 'pair', 'pair', 'pair.own'])
        # Where a package has several, the master is told which: another one may have another file of that name.
        self.assertEqual([q[3:] for q in self.master.questions if q[0] == 'read'],
                         [['/srv2/pair'], ['/srv3/pair/sub'], ['/srv3/pair'], ['/srv4/pair'], []])
        self.assertEqual(sorted(set((q[1],) + tuple(q[3:]) for q in self.master.questions if q[0] == 'list')), [
            ('pair', '/srv2/pair'), ('pair', '/srv3/pair'), ('pair', '/srv4/pair'), ('pair.own',), ('pair.sub', '/srv3/pair/sub')])
        found = sys.modules['mitogen.disk'].find('/master:/srv2/pair/deep/c.txt')
        self.assertEqual((str(found), found.read_bytes()), ('/master:/srv2/pair/deep/c.txt', b'more'))
        list(core.importer.list_modules('/master:/srv2/pair', ''))
        self.assertIn(['list', 'pair', '', '/srv2/pair'], self.master.questions)
        with open(pair.__path__[0] + '/a.txt'):
            self.assertEqual(self.master.questions[-1], ['read', 'pair', 'a.txt'])

    def test_directories_are_looked_at_anew(self):
        import mitogen.files
        import served
        for name in 'new.txt', 'deep/new.txt', 'later.txt':
            self.addCleanup(DATA.pop, name, None)
        real = core.clock
        self.addCleanup(setattr, core, 'clock', real)
        now = [1000]
        core.clock = lambda: now[0]

        def seen():
            listed = sorted(name for _, _, names in os.walk(BASE) for name in names if name[-4:] == '.txt')
            self.assertEqual([os.path.isfile(BASE + '/' + name) for name in ('new.txt', 'deep/new.txt', 'later.txt')],
                             [listed.count('new.txt') > 0, listed.count('new.txt') > 1, 'later.txt' in listed])
            return listed
        self.assertEqual(seen(), ['a.txt', 'c.txt'])
        DATA.update({'new.txt': b'new', 'deep/new.txt': b'new'})
        # All of one call, and of a moment, is asked for once.
        del self.master.questions[:]
        self.assertEqual(seen(), ['a.txt', 'c.txt'])
        self.assertEqual(self.master.questions, [])
        core.io.calls += 1
        self.assertEqual(seen(), ['a.txt', 'c.txt', 'new.txt', 'new.txt'])
        DATA['later.txt'] = b'later'
        now[0] += 2
        self.assertEqual(seen(), ['a.txt', 'c.txt', 'later.txt', 'new.txt', 'new.txt'])
        DATA['later.txt'] = b'it is longer'
        del DATA['new.txt'], DATA['deep/new.txt']
        now[0] += 2
        self.assertEqual(os.stat(BASE + '/later.txt').st_size, 12)
        self.assertEqual(seen(), ['a.txt', 'c.txt', 'later.txt'])
        # What is known stays so without a connection.
        self.master.disconnect()
        harness.eventually('lost', lambda: core.io.lost or core.router.stream.on_readable())
        now[0] += 2
        self.assertEqual(seen(), ['a.txt', 'c.txt', 'later.txt'])

    def test_extension_modules_and_namespaces(self):
        import mitogen.files
        import shutil
        import tempfile
        plain = self.master.path
        self.master.path = lambda name: '/srv/served/ext.so' if name == 'served.ext' else plain(name)
        self.master.modules['served.ext'] = 'stub = 1\n'
        self.addCleanup(DATA.pop, 'ext.so', None)
        DATA['ext.so'] = b'\x7fELF'
        import served.ext
        path = served.ext.__file__
        self.assertEqual((os.path.isfile(path), os.path.isdir(path), os.stat(path).st_size), (True, False, 4))
        with open(path, 'rb') as f:
            self.assertEqual(f.read(), b'\x7fELF')
        self.assertEqual(core.importer.get_data(path), b'\x7fELF')
        self.assertIsNone(core.importer.get_source('served.ext'))
        self.assertIn('ext.so', [name for _, _, names in os.walk(BASE) for name in names])
        self.assertNotIn('ext.so', [name for _, names, _ in os.walk(BASE) for name in names])
        if core.PY3:
            self.master.modules['space'] = None
            import space
            for directory in space.__path__:
                self.assertTrue(os.path.isdir(directory))
                with self.assertRaises(EnvironmentError) as caught:
                    open(directory)
                self.assertEqual(caught.exception.errno, errno.EISDIR)

    @unittest.skipUnless(core.PY3, '2.x has no such function')
    def test_module_in_a_directory_of_a_path(self):
        import mitogen.files
        import importlib
        import served
        sys.path.append(BASE + '/deep')
        self.addCleanup(sys.path.remove, BASE + '/deep')
        self.addCleanup(DATA.pop, 'deep/added.py', None)
        with self.assertRaises(ImportError):
            import added
        DATA['deep/added.py'] = b'x = 1\n'
        core.importer.cache.pop('added')
        importlib.invalidate_caches()
        import added
        self.addCleanup(sys.modules.pop, 'added')
        self.assertEqual((added.x, added.__file__), (1, BASE + '/deep/added.py'))

    @unittest.skipIf(sys.version_info < (3, 9), 'before importlib.resources.files')
    def test_resources(self):
        from importlib.resources import files
        import served
        path = str(files('served') / 'a.txt')
        with open(path) as f:
            self.assertEqual(f.read(), 'text')
        # In 3.9 the first of them is a zipfile.Path.
        root = files('served')
        self.assertEqual(str(root), BASE)
        self.assertEqual(str(root / 'deep' / 'c.txt'), BASE + '/deep/c.txt')
        with open(str(root / 'a.txt')) as f:
            self.assertEqual(f.read(), 'text')
        archive = root.joinpath('deep/b.tar.gz')
        self.assertEqual((archive.suffix, archive.suffixes, archive.stem), ('.gz', ['.tar', '.gz'], 'b.tar'))
        self.assertEqual(((root / 'deep').suffix, (root / 'deep').stem, (root / '.rc').suffix), ('', 'deep', ''))
        for found, want in (
                (root.glob('*.txt'), ['a.txt']), (root.glob('deep/*'), ['deep/b.tar.gz', 'deep/c.txt']),
                (root.rglob('*.txt'), ['a.txt', 'deep/c.txt']), (root.glob('**/**/c.*'), ['deep/c.txt']), (root.glob('*/absent'), [])):
            self.assertEqual([entry.relative_to(root) for entry in found], want)
        self.assertTrue(archive.match('*.gz') and not archive.match('*.txt') and not archive.is_symlink())
        self.assertRaises(ValueError, root.glob, '')

    @unittest.skipIf(sys.version_info < (3, 8), 'before importlib.metadata')
    def test_projects_of_a_path(self):
        from importlib.metadata import distributions

        def names(**context):
            return [str(d.project.name) for d in distributions(**context) if hasattr(d, 'project')]
        self.assertEqual(names(), ['ours'])
        self.assertEqual(names(path=sys.path), ['ours'])
        self.assertEqual(names(name='ours'), ['ours'])
        for path, want in ((['/nonexistent'], []), ([], []), (['/master:/srv/other'], []), (['/master:/srv'], ['ours'])):
            self.assertEqual(names(path=path), want)
            self.assertEqual(names(path=path, name='ours'), want)

    @unittest.skipIf(sys.version_info < (3, 8), 'before importlib.metadata')
    def test_projects_without_entry_points_are_not_asked_for(self):
        from importlib.metadata import distributions, entry_points
        del self.master.questions[:]
        entry_points()
        self.assertEqual(self.master.questions, [['installed']])
        # Another file is, once; the project may be gone.
        self.master.handlers[harness.GET_RESOURCE] = refuse
        self.assertRaises(StopIteration, next, iter(d for d in distributions() if hasattr(d, 'project')))
        self.master.handlers[harness.GET_RESOURCE] = answer
        ours = [d for d in distributions() if hasattr(d, 'project')][0]
        self.master.handlers[harness.GET_RESOURCE] = refuse
        self.assertIsNone(ours.read_text('entry_points.txt'))
        del self.master.questions[:]
        self.assertEqual([ours.read_text('METADATA'), ours.read_text('RECORD'), ours.files], [None] * 3)
        self.assertEqual(self.master.questions, [['metadata', 'ours']])


def refuse(parent, header, data):
    parent.questions.append([str(q) for q in core.loads(data)])
    parent.send(header[5], b'it is gone', reply_to=core.IS_DEAD)


def descriptors():
    return set(os.listdir('/proc/self/fd'))


class LeakTest(harness.TestCase):
    """What cannot be started leaves no descriptors."""

    def setUp(self):
        self.parent({})
        import mitogen.guard
        import mitogen.running
        import mitogen.unpack
        import mitogen.watcher
        self.unpack, self.guard, self.running = mitogen.unpack, mitogen.guard, mitogen.running

    def fails(self, owner, name, error, call, *args):
        def fail(*_args):
            raise error
        before, real = descriptors(), getattr(owner, name)
        setattr(owner, name, fail)
        try:
            self.assertRaises(type(error), call, *args)
        finally:
            setattr(owner, name, real)
        self.assertEqual(descriptors(), before)

    def test_unpacking(self):
        import shutil
        import tempfile
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path, True)
        self.fails(self.running, 'fork', OSError(errno.EAGAIN, 'none left'), self.unpack.watch, path)
        self.fails(self.unpack.os, 'pipe', OSError(errno.EMFILE, 'none left'), self.unpack.watch, path)
        self.assertEqual(self.unpack.kept, [])

    def test_guard(self):
        for error in OSError(errno.EMFILE, 'none left'), socket.error(errno.EMFILE, 'none left'):
            self.fails(self.guard._socket, 'socketpair', error, self.guard.start)
        self.assertIsNone(self.guard.guard)


if __name__ == '__main__':
    harness.main()
