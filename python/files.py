"""
Paths of what is served, as places: functions that open and look at files read what the master has, within the policy, and
directories in a path find modules, whatever these are called. It comes over the importer ahead of the first module that mentions
__file__, __path__ or sys.modules. A path that begins otherwise costs nothing but a call: Python's own function is asked first, and only
where that finds nothing is it looked at.
"""
from __future__ import absolute_import
import errno
import io
import os
import stat
import sys
import time
import zlib

import mitogen.core as core

PREFIX = core.Importer.prefix
# The root of each package, which keeps what its directories have.
roots = {}
# Of all that is served: it does not change while this process sees it.
MTIME = int(time.time())


class Served(object):
    """A function of Python's, or ours where it fails for a path of what is served. Like Python's own, it is no method of a class."""

    def __init__(self, plain, ours):
        self.plain, self.ours = plain, ours
        self.__name__, self.__doc__, self.__module__ = plain.__name__, plain.__doc__, plain.__module__
        # shutil, for one, takes another way, which is less safe, where the function is not among these.
        for able in 'supports_dir_fd', 'supports_fd', 'supports_follow_symlinks', 'supports_effective_ids':
            if plain in getattr(os, able, ()):
                getattr(os, able).add(self)

    def __reduce__(self):
        return self.__name__

    def __call__(self, *args, **kwargs):
        try:
            return self.plain(*args, **kwargs)
        except EnvironmentError as e:
            path = e.filename
            if e.errno != errno.ENOENT or not path_text(path).startswith(PREFIX):
                raise
        for name in 'file', 'path':
            kwargs.pop(name, None)
        try:
            return self.ours(os.path.normpath(path_text(path)), *args[1:], **kwargs)
        except EnvironmentError as e:
            error = e
        # As one function of Python's: with no frames below, and no exception before it.
        if core.PY3:
            error = error.with_traceback(None)
            error.__context__, error.__suppress_context__ = None, True
        raise error


class Told(Served):
    """The same of a function that raises nothing, and says no."""

    def __call__(self, path, *args, **kwargs):
        return self.plain(path, *args, **kwargs) or (
            path_text(path).startswith(PREFIX) and self.ours(os.path.normpath(path_text(path)), *args, **kwargs))


def path_text(path):
    return path.decode('utf-8', 'replace') if core.PY3 and isinstance(path, bytes) else str(path)


def find(path):
    """The Resource at a path; None if no package that was received has the path."""
    from mitogen.resources import Resource, place
    record, rest = place(core.importer, path)
    if record:
        root = roots.get(record[0]) or roots.setdefault(record[0], Resource(record[0]))
        return root.joinpath(rest) if rest else root


def missing(path, why, error=OSError):
    """In 2.x it matters which of the two is raised."""
    above = find(os.path.dirname(path))
    if above and above.kind() is False:
        return wrong(path, errno.ENOTDIR, error)
    return error(errno.ENOENT, 'No such file or directory (mitogend: %s)' % why, path)


def wrong(path, number, error=OSError):
    """It is there, and of the other kind."""
    return error(number, os.strerror(number), path)


def read(path):
    try:
        return core.importer.get_data(path)
    except EnvironmentError as e:
        why = e.strerror
    try:
        is_dir = kind(path)[0]
    except EnvironmentError:
        is_dir = False
    raise wrong(path, errno.EISDIR, IOError) if is_dir else missing(path, why, IOError)


class Content(io.BytesIO):
    """What a file has, in place of the file."""
    name = None
    mode = 'rb'


def open_served(path, mode='r', buffering=-1, encoding=None, errors=None, newline=None, *_rest, **_opener):
    if set(mode) & set('wax+'):
        raise missing(path, 'files of what is served are not on this machine, and cannot be written', IOError)
    data = read(path)
    if 'U' in mode:
        data = data.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    data = Content(data)
    data.name = path
    if not core.PY3 and not encoding:
        data.mode = mode
        return data
    if 'b' in mode:
        return io.BufferedReader(data) if buffering else data
    text = io.TextIOWrapper(io.BufferedReader(data), encoding, errors, newline)
    text.mode = mode
    return text


def open_code(path):
    return open_served(path, 'rb')


def kind(path):
    """Whether it is a directory, and its size; ENOENT if there is none."""
    from mitogen.resources import top
    for record in list(core.importer.cache.values()):
        if type(record) is tuple:
            if PREFIX + record[2] == path:
                if path.endswith('.py'):
                    return False, len(core.importer.get_bytes(record[0]))
                return True, 0
            if top(record) == path:
                return True, 0
    found = find(path)
    is_dir = found.kind() if found else None
    if is_dir is None:
        raise missing(path, 'not in a package that is served')
    return is_dir, 0 if is_dir else found.parent.sizes[found.name]


def stat_served(path, *_args, **_kwargs):
    """Modes and times are those that copies should have; the inode tells one path from another."""
    is_dir, size = kind(path)
    mode = stat.S_IFDIR | 0o755 if is_dir else stat.S_IFREG | 0o644
    inode = zlib.crc32(path.encode('utf-8', 'replace') if core.PY3 else path) & 0xffffffff
    return os.stat_result((mode, inode, 0, 1, 0, 0, size, MTIME, MTIME, MTIME),
                          dict.fromkeys(('st_atime_ns', 'st_mtime_ns', 'st_ctime_ns'), MTIME * 10 ** 9))


def access(path, mode, **_kwargs):
    try:
        kind(path)
    except EnvironmentError:
        return False
    return not mode & os.W_OK


def listxattr(path, **_kwargs):
    """Of copies: shutil takes only some errors for an answer."""
    kind(path)
    return []


def readlink(path, **_kwargs):
    kind(path)
    raise wrong(path, errno.EINVAL)


def listdir(path='.'):
    found = find(path)
    if found and found.kind() is False:
        raise wrong(path, errno.ENOTDIR)
    if not found or not found.kind():
        raise missing(path, 'no directory of a package that is served')
    return sorted(found.entries())


class Entry(object):
    """os.DirEntry."""

    def __init__(self, directory, name):
        self.name, self.path = name, os.path.join(directory, name)

    def __repr__(self):
        return '<DirEntry %r>' % (self.name,)

    def __fspath__(self):
        return self.path

    def stat(self, follow_symlinks=True):
        return stat_served(self.path)

    def inode(self):
        return self.stat().st_ino

    def is_dir(self, follow_symlinks=True):
        return kind(self.path)[0]

    def is_file(self, follow_symlinks=True):
        return not kind(self.path)[0]

    def is_symlink(self):
        return False

    def is_junction(self):
        return False


class Scan(object):
    def __init__(self, path):
        self.entries = iter([Entry(path, name) for name in listdir(path)])

    def __iter__(self):
        return self.entries

    def __next__(self):
        return next(self.entries)

    def __enter__(self):
        return self

    def __exit__(self, *_args):
        self.close()

    def close(self):
        pass


# Directories as entries of a path.

def begin_portion(portion, path):
    # Files are no entries of a path: runpy asks.
    if not path.startswith(PREFIX) or path.endswith('.py'):
        raise ImportError(path)
    portion.path = os.path.normpath(path)


def is_of(portion, name):
    """Is this the directory of the package that the module lies in, by its name?"""
    record = core.importer.cache.get(name.rpartition('.')[0])
    return type(record) is tuple and core.importer.search_path(record) == [portion.path]


find_watched = core.Portion.find_spec if core.PY3 else core.Portion.find_module


def find_spec(portion, name, path=None, target=None):
    if portion.path == PREFIX:
        return find_watched(portion, name, path, target)
    if not is_of(portion, name):
        return core.importer.find_at(name, portion)
    frame = sys._getframe(1)
    while frame and 'importlib' in frame.f_code.co_filename:
        if frame.f_code.co_name == '_find_spec':
            # An import goes on to the importer.
            return None
        frame = frame.f_back
    return core.importer.find_spec(name)


def find_module(portion, name, path=None):
    if portion.path == PREFIX:
        return find_watched(portion, name, path)
    if is_of(portion, name):
        return core.importer if core.importer.request(name) else None
    return core.importer.find_at(name, portion)


def install():
    core.Portion.__init__ = begin_portion
    if core.PY3:
        core.Portion.find_spec = find_spec
    else:
        core.Portion.find_module = find_module
    try:
        import builtins
    except ImportError:
        import __builtin__ as builtins
    builtins.open = Served(builtins.open, open_served)
    io.open = builtins.open if core.PY3 else Served(io.open, open_text)
    if hasattr(io, 'open_code'):
        io.open_code = Served(io.open_code, open_code)
    os.stat, os.lstat = Served(os.stat, stat_served), Served(os.lstat, stat_served)
    if core.PY3:
        core.frozen.FileLoader.get_data = get_data
        if 'tokenize' in sys.modules:
            # For linecache.
            sys.modules['tokenize']._builtin_open = io.open
    os.listdir = Served(os.listdir, listdir)
    os.access = Told(os.access, access)
    os.readlink = Served(os.readlink, readlink)
    for name, ours in ('scandir', Scan), ('listxattr', listxattr):
        if hasattr(os, name):
            setattr(os, name, Served(getattr(os, name), ours))
    # Before 3.11 pathlib keeps functions of its own.
    accessor = getattr(sys.modules.get('pathlib'), '_NormalAccessor', None)
    for ours in io.open, os.stat, os.lstat, os.listdir, getattr(os, 'scandir', None):
        for name, kept in list(vars(accessor).items()) if accessor and ours else ():
            if ours.plain in (kept, getattr(kept, '__func__', None)):
                setattr(accessor, name, ours)


plain = core.PY3 and core.frozen.FileLoader.get_data


def get_data(loader, path):
    """Of Python's loaders of files."""
    return core.importer.get_data(path) if str(path).startswith(PREFIX) else plain(loader, path)


def open_text(path, mode='r', buffering=-1, encoding=None, errors=None, newline=None, *_rest):
    """io.open of 2.x."""
    return open_served(path, mode, buffering, encoding or 'utf-8', errors, newline)


install()
