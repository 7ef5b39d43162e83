"""What a child says of itself; wheels are chosen by that."""
from __future__ import absolute_import, print_function

import io
import os
import re
import shutil
import struct
import sys
import tempfile

import harness

core = harness.load()


class AboutTest(harness.TestCase):
    def setUp(self):
        self.master = self.parent({})
        import mitogen.extension
        self.extension = mitogen.extension

    def replace(self, **attributes):
        for name, value in attributes.items():
            old = self.extension.__dict__.get(name)
            if old is None:
                self.addCleanup(delattr, self.extension, name)
            else:
                self.addCleanup(setattr, self.extension, name, old)
            setattr(self.extension, name, value)

    def test_here(self):
        said = self.extension.about()
        self.assertEqual([type(text) for text in said], [type(u'')] * 4)
        abi, machine, libc, version = said
        self.assertTrue(re.match('cp%d%d[dmut]*$' % sys.version_info[:2], abi), abi)
        self.assertEqual(sys.version_info[:2] < (3, 8), 'm' in abi, abi)
        self.assertEqual(machine, os.uname()[4] if sys.maxsize > 1 << 32 else machine)
        self.assertEqual(libc, u'glibc')
        self.assertTrue(re.match(r'\d+\.\d+$', version), version)

    def test_32_bits(self):
        for name, wide, want in (('x86_64', 0, 'i686'), ('x86_64', 1, 'x86_64'), ('i586', 0, 'i686'), ('aarch64', 0, 'armv7l'), ('aarch64', 1, 'aarch64'),
                                 ('armv8l', 0, 'armv7l'), ('armv7l', 0, 'armv7l'), ('armv6l', 0, 'armv6l'), ('riscv64', 1, 'riscv64')):
            self.replace(os=Named(os, uname=lambda: ('Linux', '', '', '', name)), struct=Named(os, calcsize=lambda _: 8 if wide else 4))
            self.assertEqual(self.extension.here(), want)

    def musl(self, script, name='ld-musl-x86_64.so.1'):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        loader = os.path.join(directory, name)
        with open(loader, 'w') as f:
            f.write(script)
        os.chmod(loader, 0o700)
        maps = u'7f00-7f01 r-xp 00000000 00:01 7  %s\n7f01-7f02 rw-p 00000000 00:01 7  %s\n' % (loader, loader)
        self.replace(libc=lambda: (None, None), open=lambda _path: io.StringIO(maps))
        return self.extension.about()[2:]

    def test_musl(self):
        says = '#!/bin/sh\nprintf "%s libc (x86_64)\\nVersion 1.2.4\\nUsage: ld.so\\n" >&2\nexit 1\n'
        for name in 'ld-musl-x86_64.so.1', 'libc.so':
            self.assertEqual(self.musl(says % 'musl', name), [u'musl', u'1.2.4'])
        self.assertEqual(self.musl(says % 'other', 'libc.so'), [u'', u''])

    def test_libraries_that_say_nothing(self):
        self.assertEqual(self.musl('#!/bin/sh\nexit 1\n'), [u'', u''])
        self.assertEqual(self.musl('#!/no/such/program\n'), [u'', u''])
        self.replace(open=lambda _path: io.StringIO(u''))
        self.assertEqual(self.extension.about()[2:], [u'', u''])

        def closed(_path):
            raise IOError('there is no /proc')
        self.replace(open=closed)
        self.assertEqual(self.extension.about()[2:], [u'', u''])


class FileTest(harness.TestCase):
    """The file of an extension module that lies in no package."""

    def answer(self, parent, header, data):
        question = core.loads(data)
        self.questions.append([str(part) for part in question])
        parent.send(header[5], b'r' + self.data, enc=core.BIN)

    def test_file(self):
        self.questions, self.data = [], b'\x7fELF'
        parent = self.parent({'served': 'import mitogen.extension\n'}, handlers={harness.GET_RESOURCE: self.answer})
        import mitogen.extension as extension
        import mitogen.resources as resources
        from mitogen import disk
        name = 'served' + extension.suffixes()[0]
        parent.path = lambda _: '/srv/' + name
        import served
        self.assertEqual(served.__file__, '/master:/srv/' + name)
        contents = []
        extension.be = lambda _name, path: contents.append(open(path, 'rb').read())
        size = struct.calcsize('P') * 8
        extension.load('served', [(name, 4, 'token', extension.here(), size, '', '', (), ())])
        self.assertEqual(disk.kind(served.__file__), (False, 4))
        self.assertEqual(core.importer.get_data(served.__file__), self.data)
        self.assertEqual(contents, [self.data])
        self.assertEqual(self.questions[-1], ['part', 'served', name, '', 'token', '0', 'bytes'])
        self.data = b''
        self.assertRaises(EnvironmentError, core.importer.get_data, served.__file__)


class Named(object):
    """A module in which some functions are replaced."""

    def __init__(self, module, **functions):
        self.__dict__.update(module.__dict__)
        self.__dict__.update(functions)


if __name__ == '__main__':
    harness.main()
