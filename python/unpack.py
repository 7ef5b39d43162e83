"""
Packages that are unpacked: their files are laid down in memory here, in a directory of this process's own, for code
that no interception reaches. It comes over the importer as mitogen.unpack with the first of them; what is served as
the source of such a package calls load(). From then on Python's own finders load what lies in it.

A helper, a shell where there is one, removes the directory once this process has ended, however it ends: it waits for
the end of a pipe whose other end is here. It and this process hold a lock on the directory; if nobody holds it any
more, because the helper was ended as well, the next process that unpacks something removes it.
"""
from __future__ import absolute_import

import atexit
import fcntl
import os
import stat
import sys
import zlib

import mitogen.core as core
import mitogen.guard as guard
import mitogen.resources as resources
import mitogen.running as running

# Bytes of files, and the number of files, that are asked for at once; and how many such requests go out before the
# first answer.
PART = 1048576
FILES = 400
AHEAD = 3
NAME = 'mitogend-unpacked-'

# Both write a byte when they are there.
SHELL = ('trap "" HUP INT TERM; echo; exec >&2; read x; '
         'while kill -0 "$1" 2>/dev/null; do sleep 1; done; chmod -R u+rwx "$2" 2>/dev/null; rm -rf "$2"')
PYTHON = '''
import sys
sys.path[:] = filter(None, sys.path)
import os, shutil, signal, sys, time
for n in signal.SIGHUP, signal.SIGINT, signal.SIGTERM:
    signal.signal(n, signal.SIG_IGN)
os.write(1, b'x')
os.dup2(2, 1)
os.read(0, 1)
try:
    while 1:
        os.kill(int(sys.argv[1]), 0)
        time.sleep(1)
except EnvironmentError:
    shutil.rmtree(sys.argv[2], True)
'''

# Of this process: its id, the directory, and the descriptors that are kept.
owner = directory = None
kept = []
lock = core._thread.allocate_lock()


def load(name):
    """Be that module, from files that are here."""
    try:
        files = listing(name)
        with lock:
            home = prepare(sum(size for _, size, _ in files))
            fill(name, files, os.path.join(home, *name.split('.')[:-1]))
    except (OSError, IOError, core.Error) as e:
        error = ImportError('%s cannot be unpacked (mitogend: %s)' % (name, e))
        error.name = name
        raise error
    be(name, os.path.join(home, *name.split('.')))


def listing(name):
    """The name and the size of each file, and whether it is executable."""
    text = zlib.decompress(resources.ask(u'tree', core.text_type(name))).split(b'\0')[:-1]
    names = [n.decode('utf-8', 'surrogateescape') if core.PY3 else n for n in text[::3]]
    return list(zip(names, map(int, text[1::3]), map(int, text[2::3])))


# The directory.

def prepare(size):
    """The directory of this process, with room for so many bytes."""
    global owner, directory
    if owner != os.getpid() or not os.path.isdir(directory):
        # What was forked off has the files of the process before it, and those of its own apart.
        directory = make(size)
        owner = os.getpid()
    else:
        lacking = room(directory, size)
        if lacking:
            raise core.Error('%s', lacking)
    return directory


def places():
    """Where it may lie: in memory, else where temporary files do."""
    yield '/dev/shm'
    for name in 'XDG_RUNTIME_DIR', 'TMPDIR':
        if os.environ.get(name, '').startswith('/'):
            yield os.environ[name]
    yield '/tmp'
    yield '/var/tmp'


def room(place, size):
    """Why there is none for so many bytes; a file takes whole pages."""
    free = os.statvfs(place)
    free = free.f_bavail * free.f_frsize
    if size * 1.1 + 1048576 > free:
        return '%s has %d bytes free, and %d are needed' % (place, free, size * 1.1 + 1048576)


def make(size):
    reasons = []
    for place in places():
        try:
            lacking = room(place, size)
            if lacking:
                reasons.append(lacking)
                continue
            sweep(place)
            path = '%s/%s%d-%s' % (place, NAME, os.getpid(), ''.join('%02x' % c for c in bytearray(os.urandom(8))))
            os.mkdir(path, 0o700)
        except (OSError, IOError) as e:
            reasons.append('%s: %s' % (place, e.strerror))
            continue
        try:
            watch(path)
        except BaseException:
            remove(path)
            raise
        return path
    raise core.Error('there is no room for it: %s', '; '.join(reasons))


def held(path):
    """A descriptor that holds the lock on a directory; None if somebody else does."""
    fd = os.open(path, os.O_RDONLY)
    core.cloexec(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, IOError):
        os.close(fd)
        return None
    return fd


def sweep(place):
    """Remove what processes of this user have left whose helper was ended before it could."""
    for name in os.listdir(place):
        path = os.path.join(place, name)
        try:
            # One that is being made is not locked yet, and empty.
            if name.startswith(NAME) and os.lstat(path).st_uid == os.geteuid() and os.listdir(path):
                fd = held(path)
                if fd is not None:
                    remove(path)
                    os.close(fd)
        except (OSError, IOError):
            pass


def watch(path):
    """Have a helper remove the directory after this process."""
    fds = []
    try:
        # It is locked before there is anything in it.
        fds.append(held(path))
        fds.extend(os.pipe())
        fds.extend(os.pipe())
        fd, read, write, told, tell = fds
        for end in fds:
            core.cloexec(end)
        guard.quiet_fork()
        pid, shell = str(os.getpid()), os.access('/bin/sh', os.X_OK)
        args = ['/bin/sh', '-c', SHELL, 'mitogend', pid, path] if shell else [sys.executable, '-S', '-c', PYTHON, pid, path]
        child = running.fork()
        if not child:
            become(args, read, tell, fd)
        for end in read, tell:
            os.close(end)
            fds.remove(end)
        try:
            guard.waitpid(child, 0)
        except (OSError, IOError):
            # User code has waited for it.
            pass
        if not os.read(told, 1):
            raise core.Error('%s cannot be started, which would remove it', args[0])
        kept[:] = write, fd
        fds[:] = [told]
        atexit.register(leave)
    finally:
        running.close(*fds)


def become(args, read, tell, fd):
    """In a process that was forked off: be the helper, a child of nobody here, that holds nothing of theirs."""
    try:
        if running.fork():
            os._exit(0)
        os.setsid()
        os.chdir('/')
        null = os.open(os.devnull, os.O_RDWR)
        fds = []
        for old in read, tell, null, fd:
            # Out of the way of those that are made now. Programs inherit the new ones, on 2.x and on 3.x.
            while old < 4:
                old = os.dup(old)
            fds.append(old)
        for new, old in enumerate(fds):
            os.dup2(old, new)
        os.closerange(4, min(os.sysconf('SC_OPEN_MAX'), 65536))
        os.execv(args[0], args)
    finally:
        os._exit(1)


def leaf():
    """In a process that was forked off: the files go when the one before it ends."""
    running.close(*kept)
    del kept[:]


def leave():
    """This process ends as it should."""
    if owner == os.getpid():
        remove(directory)


def remove(path):
    """Remove a directory, whatever the program has done with its files."""
    import shutil

    def again(call, name, _error):
        try:
            os.chmod(os.path.dirname(name), stat.S_IRWXU)
            call(name)
        except (OSError, IOError):
            pass
    shutil.rmtree(path, onerror=again)


# What is in it.

def fill(name, files, home):
    """Write the files of a package below the directory that it lies in."""
    top = os.path.join(home, name.rpartition('.')[2])
    single = [n for n, _, _ in files] == [name.rpartition('.')[2] + '.py']
    root = home if single else top
    made = set()
    waiting = []
    try:
        for part in split(files):
            waiting.append((part, resources.put(u'files', core.text_type(name), *[native(n) for n, _, _ in part])))
            if len(waiting) == AHEAD:
                write(root, made, *waiting.pop(0))
        for part, latch in waiting:
            write(root, made, part, latch)
    except BaseException:
        # On a full disk others need the room.
        remove(top)
        raise


def native(name):
    return name if core.PY3 else name.decode('utf-8')


def split(files):
    part, size = [], 0
    for file in files:
        if part and (size + file[1] > PART or len(part) == FILES):
            yield part
            part, size = [], 0
        part.append(file)
        size += file[1]
    if part:
        yield part


def write(root, made, files, latch):
    data = resources.take(latch)
    data = zlib.decompress(data[1:]) if data[:1] == b'z' else memoryview(data)[1:]
    if len(data) != sum(size for _, size, _ in files):
        raise core.Error('it has changed while it was sent')
    at = 0
    for name, size, executable in files:
        path = os.path.join(root, name)
        above = os.path.dirname(path)
        if above not in made:
            make_directories(above)
            made.add(above)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700 if executable else 0o600)
        try:
            rest = memoryview(data)[at:at + size]
            while len(rest):
                rest = rest[os.write(fd, rest):]
        finally:
            os.close(fd)
        at += size


def make_directories(path):
    if not os.path.isdir(path):
        make_directories(os.path.dirname(path))
        os.mkdir(path, 0o700)


# The module.

def be(name, path):
    """
    Have the module that has called load() be what is at that path: a package's directory, or a file without its
    ending.
    """
    module = sys.modules[name]
    package = os.path.isdir(path)
    filename = path + ('/__init__.py' if package else '.py')
    module.__dict__.pop('mitogen', None)
    if package:
        module.__path__ = [path]
    if not core.PY3:
        module.__file__ = filename
        del module.__loader__
        if os.path.exists(filename):
            with open(filename, 'rb') as f:
                source = f.read().replace(b'\r\n', b'\n').replace(b'\r', b'\n')
            exec(compile(source + b'\n', filename, 'exec', 0, 1), module.__dict__)
        return
    if not os.path.exists(filename):
        # A namespace package.
        module.__spec__ = core.ModuleSpec(name, None, is_package=True)
        module.__spec__.submodule_search_locations = module.__path__
        return
    from importlib.util import spec_from_file_location
    spec = spec_from_file_location(name, filename, submodule_search_locations=[path] if package else None)
    module.__spec__, module.__loader__, module.__file__, module.__cached__ = spec, spec.loader, filename, spec.cached
    if package:
        module.__path__ = spec.submodule_search_locations
    # Other threads are to wait until it is whole.
    spec._initializing = True
    try:
        spec.loader.exec_module(module)
    finally:
        spec._initializing = False
