"""
Extension modules, loaded from memory: nothing is written to this machine's disk. On the machine where they lie, they
are loaded from there. It comes over the importer as mitogen.extension with the first of them; the source that is
served for an extension module calls load().

C's loader takes two files with one path for the same library, and never forgets what it has loaded. But numbers of
descriptors are used again. So each file gets a path of its own.
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

# As the master has it; and how many parts are asked for before the first has come.
PART = 1048576
AHEAD = 3
MFD_CLOEXEC = 1
# Since Linux 6.3; before that EINVAL.
MFD_EXEC = 16
# Numbers of the system call, for before Python 3.8 and C libraries that lack it.
MEMFD_CREATE = {'x86_64': 319, 'aarch64': 279, 'riscv64': 279, 'i686': 356, 'arm': 385, 'ppc64le': 360, 's390x': 350}

# What the loader sets on a module.
FACE = '__file__', '__loader__', '__package__', '__path__', '__spec__'

# Names of the libraries that were loaded from here.
loaded = set()
lock = _thread.allocate_lock()
paths = 0


def load(name, choices):
    """
    Be that module. Each choice is the file's name, size and token, the machine and bits that it is for, its C library
    and the version that it needs, names of other libraries that must be here, and (name, size, token, spare, version
    of the C library) of those that are there. A spare library is sent to a child that lacks it.
    """
    choice = pick(name, choices)
    problem = misfit(*choice[3:8])
    if problem:
        refuse(name, '%s %s' % (choice[0], problem))
    try:
        for lib, size, token, spare, version in choice[8]:
            if lib not in loaded and not (spare and lacks(lib) is None):
                problem = older(version)
                if problem:
                    refuse(name, '%s %s' % (lib, problem))
                if not libc()[0]:
                    # musl's loader goes by paths, not by what a library calls itself.
                    refuse(name, '%s needs %s, and without glibc no library is found that is in memory' % (choice[0], lib))
                library(name, choice[0], lib, size, token)
        file = File(name, choice[0], u'', choice[1], choice[2])
        place = core.importer.get_filename(name)
        if os.path.basename(place) == choice[0]:
            resources.objects[place] = file
        with file as path:
            be(name, path)
    except (OSError, IOError, core.Error) as e:
        refuse(name, '%s: %s' % (choice[0], e))


def refuse(name, reason):
    error = ImportError('%s cannot be loaded (mitogend: %s)' % (name, reason))
    error.name = name
    raise error


def suffixes():
    if core.PY3:
        return core._imp.extension_suffixes()
    import imp
    return [suffix for suffix, _, kind in imp.get_suffixes() if kind == imp.C_EXTENSION]


def pick(name, choices):
    """The one that Python would take."""
    for suffix in suffixes():
        for choice in choices:
            if choice[0] in (name.rpartition('.')[2] + suffix, '__init__' + suffix):
                return choice
    refuse(name, '%s; Python %s here takes %s' % (
        ' and '.join(choice[0] for choice in choices), sys.version.split()[0], ', '.join(suffixes())))


def libc():
    """'glibc' and its version, or None twice."""
    try:
        # CS_GNU_LIBC_VERSION, whose name 2.x does not know.
        name, version = os.confstr(2).split()
        return name, version
    except (AttributeError, ValueError, OSError):
        return None, None


def here():
    """The machine that this program was built for, as uname names it."""
    machine = os.uname()[4]
    wide = struct.calcsize('P') == 8
    if machine in ('i386', 'i586') or machine == 'x86_64' and not wide:
        return 'i686'
    if machine == 'aarch64' and not wide or machine[:5] == 'armv8':
        return 'armv7l'
    return machine


def musl():
    """
    musl's version, if this process runs on musl. Its loader says it: that is the library itself, by one name or the
    other.
    """
    try:
        with open('/proc/self/maps') as f:
            loaders = re.findall(r'/\S*(?:ld-musl-\S*|/libc\.so)$', f.read(), re.M)
        if loaders:
            import subprocess
            loader = subprocess.Popen(loaders[:1], stderr=subprocess.PIPE)
            found = re.search(r'musl.*\s+Version ([0-9.]+)', loader.communicate()[1].decode('ascii', 'replace'))
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
    """Why a file for such a machine cannot be loaded here, before any of it is fetched; None if it can."""
    own = here()
    if own[:3] == 'arm':
        own = 'arm'
    size = struct.calcsize('P') * 8
    if machine != own or bits != size:
        return 'is for %s with %d bits; the target is %s with %d' % (machine, bits, own, size)
    name, _ = libc()
    if wanted == 'glibc' and not name:
        return 'is built for glibc, and the target has another C library'
    if wanted == 'musl' and name:
        return 'is built for musl, and the target has glibc'
    reason = older(version)
    if reason:
        return reason
    for lib in wants:
        reason = lacks(lib)
        if reason:
            return 'needs %s, which the target lacks (%s); --libs sends it from the machine that serves' % (lib, reason)


def older(version):
    """Why what needs that version of glibc cannot be loaded here; None if it can."""
    have = libc()[1]
    if version and have and numbers(version) > numbers(have):
        return 'needs GLIBC_%s, the target has %s' % (version, have)


def lacks(lib):
    """Why a library cannot be loaded here; None if it can be, and is, or if that cannot be told in advance."""
    try:
        import ctypes
        ctypes.CDLL(lib)
    except OSError as e:
        return str(e)
    except ImportError:
        # A minimal Python may lack ctypes; then the loader tells.
        pass


def numbers(version):
    return [int(part) for part in version.split('.') if part.isdigit()]


def library(name, file, lib, size, token):
    """Load a library that others need by that name: they find it, since it is loaded."""
    try:
        import ctypes
    except ImportError as e:
        raise core.Error('%s is loaded by ctypes: %s', lib, e)
    with File(name, file, lib, size, token) as path:
        ctypes.CDLL(path)
    loaded.add(lib)


def be(name, path):
    """Load the file, and put it in place of the module whose source called load()."""
    # On 2.x, the file's init function fills the module that is there.
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


class File(object):
    """
    Gives the path of a file with the content of one of the master's. On the machine where that lies it is the same
    file, elsewhere one in memory.
    """

    def __init__(self, name, file, lib, size, token):
        self.question = core.text_type(name), core.text_type(file), core.text_type(lib), core.text_type(token)
        self.size = size
        self.unlink = None

    def __enter__(self):
        parts = self.parts()
        place, data = next(parts)
        if place:
            path = self.find(place)
            if path:
                return path
            parts = self.parts(u'bytes')
            _, data = next(parts)
        self.fd, path = self.open()
        try:
            self.write(data)
            for _, data in parts:
                self.write(data)
        except BaseException:
            self.__exit__()
            raise
        return path

    def __exit__(self, *_exc):
        os.close(self.fd)
        if self.unlink:
            os.unlink(self.unlink)

    def read(self):
        """What it contains, as get_data() gives it."""
        whole = bytearray()
        try:
            for _, data in self.parts(u'bytes'):
                whole += data
        except core.Error as e:
            raise resources.missing(self.question[1], str(e))
        return bytes(whole)

    def parts(self, *how):
        """Pairs: where the file lies, if the master says only that; otherwise bytes of it."""
        waiting = []
        at = done = 0
        while done < self.size:
            while at < self.size and len(waiting) < AHEAD:
                waiting.append(resources.put(u'part', *(self.question + (u'%d' % at,) + how)))
                at += PART
            data = resources.take(waiting.pop(0))
            if data[:1] == b'p':
                # The answers to what was asked for meanwhile say the same.
                yield bytes(data[1:]), None
                return
            data = zlib.decompress(data[1:]) if data[:1] == b'z' else memoryview(data)[1:]
            done += len(data)
            if len(data) != min(PART, self.size - done + len(data)):
                raise core.Error('%d bytes came where %d were expected', done, self.size)
            yield None, data

    def write(self, data):
        while data:
            data = data[os.write(self.fd, data):]

    def find(self, place):
        """The path of the file that lies there, if it is the one that the master has, and may be run. Only on 3.x."""
        try:
            # What is there may be anything.
            fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return
        try:
            if state(fd) == self.question[3] and not os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
                path = link(fd)
                if path:
                    self.fd, fd = fd, None
                    return path
        except (OSError, AttributeError):
            pass
        finally:
            if fd is not None:
                os.close(fd)

    def open(self):
        reasons = []
        try:
            fd = memfd()
            path = link(fd)
            if path:
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


def link(fd):
    """A path of a descriptor's file that no other file had in this process; None if there is none."""
    global paths
    with lock:
        paths += 1
    path = '/proc/self/' + './' * (paths % 1500) + 'fd/%d' % fd
    return path if os.path.exists(path) else None


def state(fd):
    """As the master's token has it."""
    status = os.fstat(fd)
    return '%x.%x.%x.%x' % (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


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
