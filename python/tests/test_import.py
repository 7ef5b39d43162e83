# -*- coding: utf-8 -*-
"""What a module that came from the parent looks like to the code that imports it: PEP 302 and PEP 451."""
from __future__ import absolute_import

import codecs
import importlib
import inspect
import linecache
import os
import shutil
import sys
import tempfile
import threading
import traceback
import unittest

import harness

core = harness.load()
PY3 = core.PY3
if PY3:
    import importlib.util
    from importlib import reload


def packages(*names):
    """What 2.x asks for in addition: it imports packages one by one, and does not say for which module."""
    return [] if PY3 else list(names)


class ImportTest(harness.TestCase):
    def test_attributes(self):
        parent = self.parent({'served': 'a = 1', 'served.sub': 'import sys\nname = __name__'})
        import served.sub
        self.assertEqual(served.a, 1)
        self.assertEqual(served.sub.name, 'served.sub')
        self.assertEqual(served.__file__, '/master:/srv/served/__init__.py')
        self.assertEqual(served.__path__, ['/master:/srv/served'])
        self.assertEqual(served.__package__, 'served')
        self.assertEqual(served.sub.__package__, 'served')
        self.assertEqual(served.sub.__file__, '/master:/srv/served/sub.py')
        self.assertIs(served.sub.__loader__, core.importer)
        self.assertFalse(hasattr(served.sub, '__path__'))
        self.assertEqual(parent.asked, packages('served') + ['served.sub'])
        if PY3:
            self.assertEqual(served.sub.__spec__.origin, served.sub.__file__)
            self.assertEqual(served.sub.__spec__.parent, 'served')
            self.assertEqual(served.__spec__.submodule_search_locations, served.__path__)
            self.assertIs(served.__spec__.loader, core.importer)
            self.assertTrue(served.__spec__.has_location)

    @unittest.skipUnless(PY3, "2.x has one lock for all imports")
    def test_finders_stay_while_others_search(self):
        self.parent({})
        logging = sys.modules.pop('logging', None)
        try:
            search = iter(sys.meta_path)
            self.assertIs(type(next(search)), core.Portion)
            expected = sys.meta_path[1:]
            importlib.import_module('logging')
            self.assertEqual(list(search), expected)
        finally:
            if logging:
                sys.modules['logging'] = logging

    @unittest.skipUnless(PY3, "2.x has one lock for all imports")
    def test_packages_do_not_wait_for_each_other(self):
        # 3.15 locks the whole chain of a dotted name while a nested module loads (gh-83065).
        parent = self.parent({'late': '', 'late.deep': '', 'late.deep.one': '', 'late.deep.two': '', 'soon': '',
                              'soon.deep': '', 'soon.deep.one': ''}, held=['late.deep.one'])
        names = ['late.deep.one', 'late.deep.two', 'soon.deep.one']
        threads = [threading.Thread(target=importlib.import_module, args=(name,)) for name in names]
        threads[0].start()
        harness.eventually('the first waits', lambda: 'late.deep.one' in parent.waiting)
        threads[2].start()
        threads[2].join(harness.DEADLINE)
        self.assertIn('soon.deep.one', sys.modules)
        self.assertTrue(threads[0].is_alive())
        # A neighbour of the awaited module may wait for it, but no longer.
        threads[1].start()
        parent.release()
        for t in threads:
            t.join(harness.DEADLINE)
        for name in names:
            self.assertIn(name, sys.modules)

    def test_loader(self):
        self.parent({'served': '', 'served.sub': 'x = 1\n'})
        import served.sub
        loader = served.__loader__
        self.assertEqual(loader.get_source('served.sub'), 'x = 1\n')
        self.assertEqual(loader.get_filename('served.sub'), served.sub.__file__)
        self.assertEqual(loader.get_code('served.sub').co_filename, served.sub.__file__)
        self.assertTrue(loader.is_package('served'))
        self.assertFalse(loader.is_package('served.sub'))
        self.assertRaises(ImportError, loader.get_source, 'served.absent')
        self.assertFalse(hasattr(loader, '__wrapped__'))

    def test_spec_without_import(self):
        parent = self.parent({'served': '', 'served.sub': ''})
        if PY3:
            from importlib.util import find_spec
            self.assertEqual(find_spec('served.sub').origin, '/master:/srv/served/sub.py')
            self.assertIsNone(find_spec('served.absent'))
        else:
            import pkgutil
            self.assertIs(pkgutil.find_loader('served'), core.importer)
        self.assertEqual(parent.asked, ['served.sub'] if PY3 else ['served'])

    def test_source_is_found(self):
        self.parent({'served': '"""Doc."""\n\ndef f():\n    return 1\n\n\nclass C(object):\n    x = 2\n'})
        import served
        self.assertEqual(inspect.getsource(served.f), 'def f():\n    return 1\n')
        self.assertEqual(inspect.getsource(served.C), 'class C(object):\n    x = 2\n')
        self.assertEqual(inspect.getsource(served).splitlines()[0], '"""Doc."""')
        self.assertEqual(inspect.getfile(served.f), '/master:/srv/served.py')
        self.assertEqual(linecache.getline(served.__file__, 4, served.__dict__), '    return 1\n')

    def test_traceback_has_source(self):
        self.parent({'served': 'def f():\n    raise ValueError("no")  # the line\n'})
        import served
        try:
            served.f()
        except ValueError:
            text = traceback.format_exc()
        self.assertIn('File "/master:/srv/served.py", line 2, in f', text)
        self.assertIn('# the line', text)

    def test_reload(self):
        parent = self.parent({'served': 'count = globals().get("count", 0) + 1'})
        import served
        self.assertEqual(reload(served).count, 2)
        self.assertIs(sys.modules['served'], served)
        self.assertEqual(parent.asked, ['served'])

    def test_reload_that_fails_keeps_the_module(self):
        self.parent({'served': 'import sys\nif hasattr(sys, "served_fails"): raise ValueError\nx = 1'})
        import served
        sys.served_fails = True
        self.addCleanup(delattr, sys, 'served_fails')
        self.assertRaises(ValueError, reload, served)
        self.assertIs(sys.modules['served'], served)

    def test_replaces_itself(self):
        self.parent({'served': 'import sys\nclass Other(object): x = 3\nsys.modules[__name__] = Other()'})
        import served
        self.assertEqual(served.x, 3)

    def test_none_in_sys_modules(self):
        parent = self.parent({'served': '', 'served.sub': ''})
        sys.modules['served'] = None
        with self.assertRaises(ImportError):
            import served
        del sys.modules['served']
        import served.sub
        self.assertEqual(parent.asked, packages('served') + ['served.sub'])

    def test_failure_is_retried(self):
        parent = self.parent({'served': 'import sys\nif not hasattr(sys, "served_ok"): raise ValueError("not yet")\nx = 1'})
        with self.assertRaisesRegex(ValueError, 'not yet'):
            import served
        self.assertNotIn('served', sys.modules)
        sys.served_ok = True
        self.addCleanup(delattr, sys, 'served_ok')
        import served
        self.assertEqual(served.x, 1)
        self.assertEqual(parent.asked, ['served'])

    def test_negative_answer_is_remembered_until_caches_are_invalid(self):
        parent = self.parent({})
        for _ in range(3):
            with self.assertRaises(ImportError):
                import served
        self.assertEqual(parent.asked, ['served'])
        parent.modules['served'] = 'x = 1'
        if PY3:
            importlib.invalidate_caches()
        else:
            core.importer.invalidate_caches()
        import served
        self.assertEqual(served.x, 1)
        self.assertEqual(parent.asked, ['served', 'served'])

    def test_reason(self):
        self.parent({}, reasons={'served': 'denied by the policy'})
        with self.assertRaisesRegex(ImportError, r'No module named served \(mitogend: denied by the policy\)'):
            import served

    def test_connection_lost(self):
        parent = self.parent({'served': ''}, held=['served'])

        def body(number):
            if number == 9:
                harness.eventually('asked', lambda: parent.asked)
                parent.disconnect()
            else:
                with self.assertRaisesRegex(ImportError, 'connection is lost'):
                    core.importer.record('served')
        harness.in_threads(10, body)
        with self.assertRaisesRegex(ImportError, 'connection is lost'):
            import served
        self.assertEqual(parent.asked, ['served'])
        # Nothing more can be fetched.
        self.assertFalse(hasattr(core.importer, 'get_data'))


class SourceTest(harness.TestCase):
    """Source as it is on the disk, in any encoding and with any ends of lines."""

    def check(self, data, value):
        self.parent({'served': data})
        import served
        self.assertEqual(served.x, value)
        return served

    def test_utf8(self):
        self.check(u'# -*- coding: utf-8 -*-\nx = u"é€"\n'.encode('utf-8'), u'\xe9\u20ac')

    def test_latin1(self):
        served = self.check(u'# vim: set fileencoding=latin-1 :\nx = u"é"\n'.encode('latin-1'), u'\xe9')
        source = served.__loader__.get_source('served')
        self.assertIn(u'é', source if PY3 else source.decode('latin-1'))

    def test_cp1251_in_the_second_line(self):
        self.check(u'#!/usr/bin/python\n# coding: cp1251\nx = u"Ж"\n'.encode('cp1251'), u'\u0416')

    def test_bom(self):
        self.check(codecs.BOM_UTF8 + u'x = u"é"\n'.encode('utf-8'), u'\xe9')

    def test_ends_of_lines(self):
        for end in '\r\n', '\r', '\n':
            served = self.check('def f():\n    return 1\n\nx = """a\nb"""'.replace('\n', end), 'a\nb')
            self.assertEqual(inspect.getsource(served.f), 'def f():\n    return 1\n')
            linecache.clearcache()
            del sys.modules['served']

    def test_no_newline_at_the_end(self):
        self.check('x = 1\nif x:\n    x = 2\n    # end', 2)

    def test_empty(self):
        self.parent({'served': ''})
        import served
        self.assertEqual(served.__name__, 'served')

    def test_no_flags_are_inherited(self):
        # core.py has from __future__ import absolute_import.
        parent = self.parent({'served': '', 'served.mod': 'import other\nx = other.x', 'served.other': 'x = 1',
                              'other': 'x = 2'})
        import served.mod
        self.assertEqual(served.mod.x, 2 if PY3 else 1)
        self.assertIn('served.mod', parent.asked[:2])

    def test_syntax_error(self):
        self.parent({'served': 'x = 1\ny = = 2\n'})
        with self.assertRaises(SyntaxError) as caught:
            import served
        self.assertEqual(caught.exception.filename, '/master:/srv/served.py')
        self.assertEqual(caught.exception.lineno, 2)
        self.assertEqual((caught.exception.text or '').strip(), 'y = = 2')
        self.assertNotIn('served', sys.modules)

    def test_bad_encoding(self):
        self.parent({'served': b'# coding: no-such-codec\nx = 1\n'})
        with self.assertRaises(SyntaxError):
            import served

    def test_null_bytes(self):
        self.parent({'served': b'x = 1\0\n'})
        with self.assertRaises((SyntaxError, ValueError, TypeError)):
            import served
        self.assertNotIn('served', sys.modules)


class AskTest(harness.TestCase):
    """Which names are asked for."""

    def fails(self, *names):
        for name in names:
            with self.assertRaises(ImportError):
                __import__(name)

    def test_absent_in_a_package(self):
        parent = self.parent({'served': '', 'served.sub': ''})
        import served.sub
        self.fails('served.absent', 'served.absent.deeper', 'served.sub.deeper')
        self.assertEqual(parent.asked, packages('served') + ['served.sub'])

    def test_absent_below_what_is_not_known_yet(self):
        parent = self.parent({'served': '', 'served.sub': ''})
        self.fails('served.absent.deeper', 'served.absent', 'absent.deep.deeper')
        import served.sub
        self.assertEqual(sorted(set(parent.asked)), sorted(parent.asked))
        self.assertEqual(len(parent.asked), 5 if PY3 else 3)

    def test_marked_packages_are_packages(self):
        parent = self.parent({'served': '', 'served.sub': '', 'served.sub.deep': 'x = 1'})
        import served.sub.deep
        self.assertEqual(served.sub.deep.x, 1)
        self.assertEqual(parent.asked, packages('served', 'served.sub') + ['served.sub.deep'])

    def test_other_generation(self):
        parent = self.parent({})
        self.fails(*(['__builtin__', 'thread', 'StringIO', 'urllib2', 'ConfigParser', 'msvcrt'] if PY3 else
                     ['builtins', '_thread', 'winreg', 'msvcrt']))
        self.assertEqual(parent.asked, [])

    def test_parts_of_the_library_that_a_build_lacks(self):
        parent = self.parent({})
        self.assertEqual([core.importer.request(name) for name in ('_hashlib', '_uuid', '_bz2', '_lzma')], [''] * 4)
        self.assertEqual(parent.asked, [])

    def test_standard_library(self):
        parent = self.parent({'colorsys': 'x = "not this one"'})
        self.fails('json.absent')
        import colorsys
        self.assertFalse(hasattr(colorsys, 'x'))
        self.assertEqual(parent.asked, [])

    @unittest.skipIf(PY3, 'imports are absolute')
    def test_implicit_relative(self):
        parent = self.parent({'served': 'import os, json, colorsys, served.sub', 'served.sub': 'import os.path, string'})
        import served
        self.assertTrue(served.os.path is os.path)
        self.assertEqual(parent.asked, packages('served') + ['served.sub'])

    def test_preloaded(self):
        parent = self.parent({'served': 'import served.a, other', 'served.a': 'x = 1', 'other': ''})
        for name in 'served', 'served.a', 'other':
            parent.answer(name)
        harness.eventually('preloaded', lambda: core.importer.cache.get('other') or core.router.stream.on_readable())
        import served
        self.assertEqual(served.a.x, 1)
        self.assertEqual(parent.asked, [])

    def sent(self, parent, name):
        parent.answer(name)
        harness.eventually('sent', lambda: core.importer.cache.get(name) or core.router.stream.on_readable())

    def test_module_that_came_into_a_package_later(self):
        parent = self.parent({'served': ''}, packages=['served', 'served.late'])
        import served
        self.fails('served.late', 'served.late.deep')
        parent.modules.update({'served.late': '', 'served.late.deep': 'x = 1'})
        self.sent(parent, 'served.late')
        self.sent(parent, 'served.late.deep')
        import served.late.deep
        self.assertEqual(served.late.deep.x, 1)
        self.fails('served.absent')
        self.assertEqual(parent.asked, ['served'])

    def test_packages_after_invalidate_caches(self):
        parent = self.parent({'served': '', 'served.sub': ''}, packages=['served', 'served.sub'])
        import served.sub
        self.fails('served.late', 'served.sub.late')
        parent.modules.update({'served.late': 'x = 1', 'served.sub.late': 'x = 2'})
        del parent.asked[:]
        core.importer.invalidate_caches()
        import served.late
        import served.sub.late
        self.assertEqual((served.late.x, served.sub.late.x), (1, 2))
        self.fails('served.absent', 'served.absent')
        self.assertEqual(parent.asked, ['served.late', 'served.sub.late', 'served.absent'])

    def test_lazy_names_of_others(self):
        # As six does it: modules in a module, from a finder that comes after ours.
        parent = self.parent({'served': '', 'served.six': 'import sys\nm = type(sys)("m")\nm.__path__ = []\n'
                              'sys.modules[__name__ + ".moves"] = m\n'})
        import served.six
        self.fails('served.six.moves.urllib')
        self.assertEqual(parent.asked, packages('served') + ['served.six'])
        del sys.modules['served.six.moves']


class LocalTest(harness.TestCase):
    """Modules of this machine and of the parent side by side."""

    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        sys.path.insert(0, self.directory)
        self.addCleanup(sys.path.remove, self.directory)
        self.before = set(sys.modules)
        self.addCleanup(self.forget)

    def forget(self):
        for name in set(sys.modules) - self.before:
            if name.startswith(('here', 'served')):
                del sys.modules[name]

    def write(self, name, text=''):
        path = os.path.join(self.directory, name)
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        with open(path, 'w') as f:
            f.write(text)
        if PY3:
            importlib.invalidate_caches()

    def test_local_first(self):
        parent = self.parent({'here': 'x = "parent"', 'here2': 'x = "parent"'})
        self.write('here.py', 'x = "local"')
        self.write('here2/__init__.py', 'x = "local"')
        import here
        import here2
        self.assertEqual((here.x, here2.x), ('local', 'local'))
        self.assertEqual(parent.asked, [])

    def test_local_package_is_complete(self):
        parent = self.parent({'here': '', 'here.absent': 'x = 1'})
        self.write('here/__init__.py')
        self.write('here/sub.py')
        import here.sub
        with self.assertRaises(ImportError):
            import here.absent
        # Not even when it was sent ahead.
        parent.answer('here.absent')
        harness.eventually('sent', lambda: 'here.absent' in core.importer.cache or core.router.stream.on_readable())
        with self.assertRaises(ImportError):
            import here.absent
        self.assertEqual(parent.asked, [])

    def test_package_that_extends_its_path(self):
        for i, line in enumerate(('from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n',
                                  '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n')):
            name = 'here%d' % i
            parent = self.parent({name: line, name + '.far': 'x = 1'})
            self.write(name + '/__init__.py', line)
            self.write(name + '/near.py', 'x = 2')
            near = importlib.import_module(name + '.near')
            far = importlib.import_module(name + '.far')
            self.assertEqual((near.x, far.x), (2, 1))
            # 2.x looks there for pkgutil first.
            self.assertEqual([n for n in parent.asked if n != name + '.pkgutil'], [name + '.far'])

    def test_served_package_that_extends_its_path(self):
        # The local portion has no __init__.py, so that it is not found first.
        self.parent({'served': 'from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n',
                     'served.far': 'x = 1'})
        self.write('served/near.py', 'x = 2')
        if not PY3:
            # 2.x wants one, and finds it.
            self.write('served/__init__.py', 'from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n')
        import served.far
        import served.near
        self.assertEqual((served.far.x, served.near.x), (1, 2))

    @unittest.skipUnless(PY3, '2.x has no namespace packages')
    def test_namespace_with_portions_on_both_sides(self):
        parent = self.parent({'served': None, 'served.far': 'x = 1', 'served.deep': None, 'served.deep.er': 'x = 3'})
        self.write('served/near.py', 'x = 2')
        self.write('served/deep/near.py', 'x = 4')
        import served.far
        import served.near
        import served.deep.er
        import served.deep.near
        self.assertEqual((served.far.x, served.near.x, served.deep.er.x, served.deep.near.x), (1, 2, 3, 4))
        self.assertEqual(parent.asked, ['served.far', 'served.deep.er'])

    @unittest.skipUnless(PY3, '2.x has no namespace packages')
    def test_namespace(self):
        parent = self.parent({'served': None, 'served.far': 'x = 1'})
        import served
        self.assertIsNone(getattr(served, '__file__', None))
        self.assertIsNone(served.__spec__.origin)
        self.assertEqual(list(served.__path__), ['/master:/srv/served'])
        self.assertIn('served', repr(served))
        import served.far
        self.assertEqual(served.far.x, 1)
        self.assertEqual(parent.asked, ['served', 'served.far'])

    def prefer_here(self):
        for name in 'find_here', 'fail':
            if hasattr(core.Importer, name):
                self.addCleanup(setattr, core.Importer, name, core.Importer.__dict__[name])
        self.addCleanup(setattr, core, 'STDLIB', core.STDLIB)
        import mitogen.resources
        mitogen.resources.prefer_here()

    def test_prefer_here_what_is_refused(self):
        parent = self.parent({'here': 'x = "parent"', 'here_pkg': ''}, reasons={
            'here2': 'denied', 'here3': 'denied', 'here_pkg.sub': 'denied'}, packages=['here_pkg'])
        parent.children = lambda name: ['sub']
        for name in 'here', 'here2':
            self.write(name + '.py', 'x = "local"')
        self.prefer_here()
        import here
        import here2
        self.assertEqual((here.x, here2.x), ('parent', 'local'))
        for name in 'here3', 'here_pkg.sub':
            with self.assertRaisesRegex(ImportError, 'denied'):
                __import__(name)
        with self.assertRaisesRegex(ImportError, 'denied'):
            from here_pkg import sub
        if PY3:
            self.assertIsNone(importlib.util.find_spec('here3'))

    @unittest.skipUnless(PY3, '2.x goes on to other finders before it loads')
    def test_finders_behind_ours_have_what_is_refused(self):
        class Behind(object):
            def find_spec(self, name, path=None, target=None):
                if name in ('here', 'served.sub'):
                    return importlib.util.spec_from_file_location(name, os.path.join(there, 'here.py'))
        there = os.path.join(self.directory, 'there')
        self.write('there/here.py', 'x = "behind"')
        reasons = dict.fromkeys(('here', 'here2', 'served.sub'), 'denied')
        for prefer in False, True:
            self.parent({'served': ''}, packages=['served'], reasons=reasons).children = lambda name: ['sub']
            import mitogen.resources
            if prefer:
                self.prefer_here()
            sys.meta_path.append(Behind())
            import here
            import served.sub
            self.assertEqual((here.x, served.sub.x), ('behind', 'behind'))
            with self.assertRaisesRegex(ImportError, 'denied'):
                import here2
            for name in 'here', 'served.sub', 'served':
                del sys.modules[name]

    def test_prefer_here_without_a_connection(self):
        parent = self.parent({})
        self.write('here.py', 'x = "local"')
        self.prefer_here()
        parent.disconnect()
        harness.eventually('lost', lambda: core.io.lost or core.router.stream.on_readable())
        import here
        self.assertEqual(here.x, 'local')
        with self.assertRaisesRegex(ImportError, 'connection is lost'):
            import here2

    def test_refused_in_a_package_that_is_on_both_sides(self):
        extend = 'from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n'
        parent = self.parent({'here': extend}, packages=['here'], reasons={'here.near': 'denied', 'here.far': 'denied'})
        parent.children = lambda name: ['near', 'far']
        self.prefer_here()
        self.write('here/__init__.py', extend)
        self.write('here/near.py', 'x = 2')
        import here.near
        self.assertEqual(here.near.x, 2)
        with self.assertRaisesRegex(ImportError, 'denied'):
            import here.far

    def test_zip_on_the_path(self):
        import zipfile
        path = os.path.join(self.directory, 'some.zip')
        with zipfile.ZipFile(path, 'w') as z:
            z.writestr('here.py', 'x = "zip"')
        sys.path.insert(0, path)
        self.addCleanup(sys.path.remove, path)
        # So Python knows of it, as of every entry that it was started with.
        with self.assertRaises(ImportError):
            import absent_everywhere  # noqa
        parent = self.parent({'here': 'x = "parent"'})
        import here
        self.assertEqual(here.x, 'zip')
        self.assertEqual(parent.asked, [])


class PkgutilTest(harness.TestCase):
    def test_iter_modules(self):
        parent = self.parent({'served': '', 'served.sub': '', 'served.sub.deep': '', 'served.mod': ''})
        import pkgutil
        import served
        self.assertEqual([(name, is_pkg) for _, name, is_pkg in pkgutil.iter_modules(served.__path__, 'x.')],
                         [('x.mod', False), ('x.sub', True)])
        self.assertEqual([m[1] for m in pkgutil.walk_packages(served.__path__, 'served.')],
                         ['served.mod', 'served.sub', 'served.sub.deep'])
        # Only packages are imported for that.
        self.assertEqual(parent.asked, ['served', 'served.sub'])
        finder = pkgutil.get_importer(served.__path__[0])
        self.assertIs(pkgutil.get_importer(served.__path__[0]), finder)

    def test_paths_made_of_a_package_above(self):
        parent = self.parent({'served': '', 'served.sub': 'raise RuntimeError', 'served.sub.deep': '', 'served.sub.deep.mod': '', 'served.mod': ''})
        import pkgutil
        import served
        root = served.__path__[0]

        def listed(path):
            return [(name, is_pkg) for _, name, is_pkg in pkgutil.iter_modules([path])]
        self.assertEqual(listed(root + '/sub/deep'), [('mod', False)])
        self.assertEqual(listed(root + '/sub/'), [('deep', True)])
        self.assertEqual(listed(root + '//sub/../../served/sub'), [('deep', True)])
        for path in '/mod', '/absent', '/absent/deep', 'x/sub':
            self.assertEqual(listed(root + path), [])
        # What is not there is not asked for.
        self.assertEqual(parent.asked, ['served', 'served.sub', 'served.sub.deep'])

    def test_all_that_is_on_the_path(self):
        self.parent({'served': ''})
        import pkgutil
        self.assertIn('harness', [m[1] for m in pkgutil.iter_modules()])


class RuntimeTest(harness.TestCase):
    def test_what_the_runtime_lacks(self):
        self.parent({})
        with self.assertRaisesRegex(ImportError, 'not part of the runtime'):
            import mitogen.select
        with self.assertRaises(ImportError):
            from mitogen.core import Broker

    def test_is_one_of_the_finders(self):
        self.parent({})
        self.assertEqual(sum(type(f) is core.Importer for f in sys.meta_path), 1)
        core.plug(core, sys.modules['mitogen'])
        self.assertEqual(sum(type(f) is core.Importer for f in sys.meta_path), 1)


if __name__ == '__main__':
    harness.main()
