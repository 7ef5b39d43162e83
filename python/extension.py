"""
Extension modules, loaded from memory: nothing is written to this machine's disk. It comes over the importer as mitogen.extension
with the first of them; what is served as the source of an extension module calls load().

The loader of C takes two files of one path for the same library, and keeps what it has loaded for ever, while numbers of descriptors
come again. So each file has a path of its own.
"""
from __future__ import absolute_import

import os
import re
import struct
import sys
import zlib

import mitogen.core as core
import mitogen.resources as resources
from mitogen.core import _thread

# As the master has it; and parts that are asked for before the first has come.
PART = 1048576
AHEAD = 3
MFD_CLOEXEC = 1
# Since Linux 6.3; before that EINVAL.
MFD_EXEC = 16
# Numbers of the system call, for before Python 3.8 and C libraries that lack it.
MEMFD_CREATE = {'x86_64': 319, 'aarch64': 279, 'riscv64': 279, 'i686': 356, 'arm': 385, 'ppc64le': 360, 's390x': 350}

# What a module has of its loader.
FACE = '__file__', '__loader__', '__package__', '__path__', '__spec__'

# Names of libraries from here that are loaded.
loaded = set()
lock = _thread.allocate_lock()
paths = 0


def load(name, choices):
    """
    Be that module. Each choice is the file's name, size and token, the machine and bits that it is for, its C library and the
    version that it needs, names of other libraries that must be here, and (name, size, token, spare) of those that are there.
    What is spare is sent to who lacks it.
    """
    choice = pick(name, choices)
    problem = misfit(*choice[3:8])
    if problem:
        refuse(name, '%s %s' % (choice[0], problem))
    try:
        for lib, size, token, spare in choice[8]:
            if lib not in loaded and not (spare and lacks(lib) is None):
                library(name, choice[0], lib, size, token)
        with Memory(name, choice[0], u'', choice[1], choice[2]) as path:
            be(name, path)
    except (OSError, IOError, core.Error) as e:
        refuse(name, '%s: %s' % (choice[0], e))


def refuse(name, reason):
    error = ImportError('%s can not be loaded (mitogend: %s)' % (name, reason))
    error.name = name
    raise error


def suffixes():
    if core.PY3:
        return core._imp.extension_suffixes()
    import imp
    return [suffix for suffix, _, kind in imp.get_suffixes() if kind == imp.C_EXTENSION]


def pick(name, choices):
    """That which Python would take."""
    for suffix in suffixes():
        for choice in choices:
            if choice[0] in (name.rpartition('.')[2] + suffix, '__init__' + suffix):
                return choice
    refuse(name, '%s; Python %s here takes %s' % (
        ' and '.join(choice[0] for choice in choices), sys.version.split()[0], ', '.join(suffixes())))


def libc():
    """glibc and its version, else None twice."""
    try:
        # CS_GNU_LIBC_VERSION, whose name 2.x does not know.
        name, version = os.confstr(2).split()
        return name, version
    except (AttributeError, ValueError, OSError):
        return None, None


def here():
    """The machine that programs like this one are for, as uname has it."""
    machine = os.uname()[4]
    wide = struct.calcsize('P') == 8
    if machine in ('i386', 'i586') or machine == 'x86_64' and not wide:
        return 'i686'
    if machine == 'aarch64' and not wide or machine[:5] == 'armv8':
        return 'armv7l'
    return machine


def musl():
    """Its version, if this is its: the loader says it."""
    try:
        with open('/proc/self/maps') as f:
            loaders = re.findall(r'/\S*ld-musl-\S*', f.read())
        if loaders:
            import subprocess
            loader = subprocess.Popen(loaders[:1], stderr=subprocess.PIPE)
            found = re.search(r'Version ([0-9.]+)', loader.communicate()[1].decode('ascii', 'replace'))
            return found and found.group(1)
    except (OSError, IOError):
        # There is no /proc, or the loader is no program here.
        pass


def about():
    """What wheels are chosen by: the tag of the ABI, the machine, the C library and its version."""
    flags = getattr(sys, 'abiflags', None)
    if flags is None:
        flags = 'd' * hasattr(sys, 'gettotalrefcount') + 'm' + 'u' * (sys.maxunicode > 65535)
    name, version = libc()
    if not name:
        name, version = 'musl', musl()
    if not version:
        name = version = ''
    return [core.text_type(said) for said in ('cp%d%d%s' % (sys.version_info[:2] + (flags,)), here(), name, version)]


def misfit(machine, bits, wanted, version, wants):
    """Why a file for such a machine can not be loaded here, before any of it is fetched; None if it can."""
    own = here()
    if own[:3] == 'arm':
        own = 'arm'
    size = struct.calcsize('P') * 8
    if machine != own or bits != size:
        return 'is for %s with %d bits; this machine is %s with %d' % (machine, bits, own, size)
    name, have = libc()
    if wanted == 'glibc' and not name:
        return 'is built for glibc, and this machine has another C library'
    if wanted == 'musl' and name:
        return 'is built for musl, and this machine has glibc'
    if version and have and numbers(version) > numbers(have):
        return 'needs GLIBC_%s; this machine has %s' % (version, have)
    for lib in wants:
        reason = lacks(lib)
        if reason:
            return 'needs %s, which this machine lacks (%s); --libs sends it, where the other machine has it' % (lib, reason)


def lacks(lib):
    """Why a library can not be loaded here; None if it could, and is."""
    try:
        import ctypes
        ctypes.CDLL(lib)
    except (OSError, ImportError) as e:
        return str(e)


def numbers(version):
    return [int(part) for part in version.split('.') if part.isdigit()]


def library(name, file, lib, size, token):
    """Load what others need by that name: they find it, since it is there."""
    import ctypes
    with Memory(name, file, lib, size, token) as path:
        ctypes.CDLL(path)
    loaded.add(lib)


def be(name, path):
    """Load the file and have it in place of the module whose source has called load()."""
    # On 2.x the file's own start fills the module that is there.
    old = sys.modules[name].__dict__
    old.pop('mitogen', None)
    kept = [(attribute, old[attribute]) for attribute in FACE if attribute in old]
    if not core.PY3:
        import imp
        new = imp.load_dynamic(name, path)
    else:
        from importlib.machinery import ExtensionFileLoader
        new = core._imp.create_dynamic(core.ModuleSpec(name, ExtensionFileLoader(name, path), origin=path))
    for attribute, value in kept:
        try:
            setattr(new, attribute, value)
        except AttributeError:
            # It may be any object.
            pass
    sys.modules[name] = new
    if core.PY3:
        core._imp.exec_dynamic(new)


class Memory(object):
    """A file in memory, with the content of one of the master's: gives its path."""

    def __init__(self, name, file, lib, size, token):
        self.question = core.text_type(name), core.text_type(file), core.text_type(lib), core.text_type(token)
        self.size = size
        self.unlink = None

    def __enter__(self):
        self.fd, path = self.open()
        try:
            self.fill()
        except BaseException:
            self.__exit__()
            raise
        return path

    def __exit__(self, *_exc):
        os.close(self.fd)
        if self.unlink:
            os.unlink(self.unlink)

    def open(self):
        global paths
        reasons = []
        try:
            fd = memfd()
            with lock:
                paths += 1
            path = '/proc/self/' + './' * (paths % 1500) + 'fd/%d' % fd
            if os.path.exists(path):
                return fd, path
            os.close(fd)
            reasons.append('/proc is not there')
        except (OSError, AttributeError, ImportError) as e:
            reasons.append('memfd_create: %s' % e)
        try:
            path = '/dev/shm/mitogend-%d-%s.so' % (os.getpid(), ''.join('%02x' % c for c in bytearray(os.urandom(12))))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o700)
            core.cloexec(fd)
            self.unlink = path
            return fd, path
        except (OSError, IOError) as e:
            reasons.append('/dev/shm: %s' % e)
        raise core.Error('there is no memory to load it from (%s)', '; '.join(reasons))

    def fill(self):
        waiting = []
        at = done = 0
        while done < self.size:
            while at < self.size and len(waiting) < AHEAD:
                waiting.append(resources.put(u'part', *(self.question + (u'%d' % at,))))
                at += PART
            data = part(waiting.pop(0))
            done += len(data)
            if len(data) != min(PART, self.size - done + len(data)):
                raise core.Error('%d bytes came where %d were expected', done, self.size)
            while data:
                data = data[os.write(self.fd, data):]


def memfd():
    """A file without a name, that may be mapped as code."""
    for flags in MFD_CLOEXEC | MFD_EXEC, MFD_CLOEXEC:
        try:
            if hasattr(os, 'memfd_create'):
                return os.memfd_create('mitogend', flags)
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.syscall(MEMFD_CREATE.get(os.uname()[4], -1), b'mitogend', flags)
            if fd >= 0:
                return fd
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        except OSError as e:
            if e.errno != core.errno.EINVAL or flags == MFD_CLOEXEC:
                raise


def part(latch):
    data = resources.take(latch)
    return zlib.decompress(data[1:]) if data[:1] == b'z' else memoryview(data)[1:]
