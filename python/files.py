"""
Makes places of the paths of what is served. Functions that open and look at files read what the master has, within
the policy; directories in a path find modules, whatever their names. It comes over the importer ahead of the first
module that mentions __file__, __path__ and the like. Any other path costs only one more call: Python's own function
is asked first, and the path is looked at only where that finds nothing. The rest is in mitogen.disk and
mitogen.finders.
"""
from __future__ import absolute_import
import errno
import io
import os
import sys

import mitogen.core as core

PREFIX = core.Importer.prefix
# Functions that read what the master has; and those that cannot, and say what to do.
READING = 'stat lstat listdir access readlink scandir listxattr'
OTHERS = ('open chdir mkdir rmdir remove unlink rename replace link symlink chmod chown utime truncate statvfs getxattr '
          'posix_spawn posix_spawnp')


class Served(object):
    """
    A function of Python's, or mitogen.disk's where that fails for a path of what is served. Like Python's own, it
    does not become a method in a class.
    """

    def __init__(self, plain, ours, module=None):
        self.plain, self.ours = plain, ours
        # Pickles name it by the module that has it; Python's own may say posix.
        self.__name__, self.__doc__, self.__module__ = plain.__name__, plain.__doc__, module or plain.__module__
        # shutil, for one, takes a less safe way where the function is not in these sets.
        for able in 'supports_dir_fd', 'supports_fd', 'supports_follow_symlinks', 'supports_effective_ids':
            if plain in getattr(os, able, ()):
                getattr(os, able).add(self)

    def __reduce__(self):
        return self.__name__

    def __call__(self, *args, **kwargs):
        try:
            return self.plain(*args, **kwargs)
        except EnvironmentError as e:
            path = text(e.filename)
            if e.errno != errno.ENOENT or not path.startswith(PREFIX):
                raise
            error = e
        for name in 'file', 'path':
            kwargs.pop(name, None)
        try:
            found = self.find(path, *args[1:], **kwargs)
            if type(found) is list and args and type(args[0]) is (bytes if core.PY3 else core.text_type):
                # Names are of the path's type.
                found = [name.encode('utf-8') if core.PY3 else name.decode('utf-8') for name in found]
            return found
        except EnvironmentError as e:
            error = e
        except ImportError:
            # The connection is lost.
            pass
        # It looks like one function of Python's: no frames below it, and no earlier exception.
        if core.PY3:
            error = error.with_traceback(None)
            error.__context__, error.__suppress_context__ = None, True
        raise error

    def find(self, path, *args, **kwargs):
        from mitogen import disk
        return getattr(disk, self.ours)(os.path.normpath(path), *args, **kwargs)


class Told(Served):
    """The same for a function that raises nothing, and says no."""

    def __call__(self, path, *args, **kwargs):
        if self.plain(path, *args, **kwargs):
            return True
        try:
            return text(path).startswith(PREFIX) and self.find(text(path), *args, **kwargs)
        except ImportError:
            return False


def text(path):
    """The path that a name, a number or anything else means, as a str."""
    if isinstance(path, str):
        return path
    if isinstance(path, bytes):
        return path.decode('utf-8', 'surrogateescape')
    return path.encode('utf-8') if isinstance(path, core.text_type) else str(path)


# Directories as entries of a path.

def begin_portion(portion, path):
    # Files are no entries of a path; runpy asks for them.
    if not path.startswith(PREFIX) or path.endswith('.py'):
        raise ImportError(path)
    portion.path = os.path.normpath(path)


def is_of(portion, name):
    """Is this the directory of the package that the module lies in, by its name?"""
    record = core.importer.cache.get(name.rpartition('.')[0])
    return type(record) is tuple and core.importer.search_path(record) == [portion.path]


def find_at(name, portion):
    from mitogen import finders
    return finders.find_at(core.importer, name, portion)


def forget(portion):
    """importlib.invalidate_caches(): what the directory contains is asked for again."""
    vars(portion).pop('names', None)


find_watched = core.Portion.find_spec if core.PY3 else core.Portion.find_module


def find_spec(portion, name, path=None, target=None):
    if portion.path == PREFIX:
        return find_watched(portion, name, path, target)
    if not is_of(portion, name):
        return find_at(name, portion)
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
        return core.importer if type(core.importer.request(name)) is tuple else None
    return find_at(name, portion)


def install():
    core.Portion.__init__ = begin_portion
    if core.PY3:
        core.Portion.find_spec = find_spec
        core.Portion.invalidate_caches = forget
    else:
        core.Portion.find_module = find_module
    try:
        import builtins
    except ImportError:
        import __builtin__ as builtins
    builtins.open = Served(builtins.open, 'open_file', 'io' if core.PY3 else None)
    io.open = builtins.open if core.PY3 else Served(io.open, 'open_text', 'io')
    if hasattr(io, 'open_code'):
        io.open_code = Served(io.open_code, 'open_code', 'io')
    for names, ours in (READING, None), (OTHERS, 'refuse'):
        for name in names.split():
            if hasattr(os, name):
                setattr(os, name, (Told if name == 'access' else Served)(getattr(os, name), ours or name, 'os'))
    if 'subprocess' in sys.modules:
        watch(sys.modules['subprocess'])
    else:
        core.WATCHED.setdefault('subprocess', __name__)
    if core.PY3:
        core.frozen.FileLoader.get_data = get_data
        if 'tokenize' in sys.modules:
            # For linecache.
            sys.modules['tokenize']._builtin_open = io.open
    # Before 3.11 pathlib keeps functions of its own.
    accessor = getattr(sys.modules.get('pathlib'), '_NormalAccessor', None)
    for name, kept in list(vars(accessor).items()) if accessor else ():
        kept = getattr(kept, '__func__', kept)
        ours = getattr(io if kept is io.open.plain else os, getattr(kept, '__name__', ''), None)
        if isinstance(ours, Served) and ours.plain is kept:
            setattr(accessor, name, ours)


def watch(subprocess):
    """subprocess was imported: no program can be started from such a path, or in it."""
    execute = Served(subprocess.Popen._execute_child, 'refuse')

    def execute_child(popen, args, *rest):
        if (not core.PY3 and not isinstance(args, (str, core.text_type)) and list(args)[:1]
                and text(args[0]).startswith(PREFIX)):
            # Its own error does not tell the path.
            return execute.find(text(args[0]))
        return execute(popen, args, *rest)
    subprocess.Popen._execute_child = execute_child


plain = core.PY3 and core.frozen.FileLoader.get_data


def get_data(loader, path):
    """In place of the method of Python's loaders of files."""
    return core.importer.get_data(path) if str(path).startswith(PREFIX) else plain(loader, path)


install()
