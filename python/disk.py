"""
What files.py uses in place of the disk: functions that open and look at served files, by normalised paths. Each has
the name, the arguments and the errors of the function that it replaces. In Python 2 it matters whether IOError or
OSError is raised.
"""
from __future__ import absolute_import
import errno
import io
import os
import time
import zlib
from stat import S_IFDIR, S_IFREG

import mitogen.core as core
import mitogen.resources as resources
from mitogen.resources import Resource, place, portion

# The root of each package, and of each of its further directories; it keeps for a while what the directories contain.
roots = {}
# The time of all that is served: it does not change while this process sees it.
MTIME = int(time.time())


def find(path):
    """The Resource at a path; None if no package that was received has the path."""
    record, rest = place(core.importer, path)
    if record:
        key = record[0], portion(core.importer, record, rest, path)
        root = roots.get(key) or roots.setdefault(key, Resource(key[0], directory=key[1]))
        return root.joinpath(rest) if rest else root


def missing(path, why, error=OSError):
    """In 2.x it matters which of the two is raised."""
    above = find(os.path.dirname(path))
    if above and above.kind() is False:
        return wrong(path, errno.ENOTDIR, error)
    return error(errno.ENOENT, 'No such file or directory (mitogend: %s)' % why, path)


def refuse(path, *_args, **_kwargs):
    """For functions that need the file itself."""
    raise missing(path, here(path))


def here(path):
    """What to do so that a file is on this machine."""
    record = place(core.importer, path)[0]
    package = record[0].partition('.')[0] if record else 'PACKAGE'
    return 'it is no file of this machine; --unpack %s lays down the files of %s here' % (package, package)


def wrong(path, number, error=OSError):
    """It exists, and is of the other kind."""
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


def open_file(path, mode='r', buffering=-1, encoding=None, errors=None, newline=None, *_rest, **_opener):
    if set(mode) & set('wax+'):
        raise missing(path, 'it cannot be written: ' + here(path), IOError)
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
    return open_file(path, 'rb')


def kind(path):
    """Whether it is a directory, and its size; ENOENT if there is none."""
    resources.learn(core.importer)
    if path in resources.files:
        return False, len(core.importer.get_bytes(resources.files[path]))
    if path in resources.objects:
        return False, resources.objects[path].size
    if path in resources.homes:
        return True, 0
    found = find(path)
    is_dir = found.kind() if found else None
    if is_dir is None:
        if path in resources.files or path in resources.homes:
            # It was learnt just now.
            return kind(path)
        raise missing(path, 'not in a package that is served')
    return is_dir, 0 if is_dir else found.parent.sizes.get(found.name, 0)


def stat(path, *_args, **_kwargs):
    """Modes and times are those that copies should have; the inode tells one path from another."""
    is_dir, size = kind(path)
    mode = S_IFDIR | 0o755 if is_dir else S_IFREG | 0o644
    inode = zlib.crc32(path.encode('utf-8', 'replace') if core.PY3 else path) & 0xffffffff
    return os.stat_result((mode, inode, 0, 1, 0, 0, size, MTIME, MTIME, MTIME),
                          dict.fromkeys(('st_atime_ns', 'st_mtime_ns', 'st_ctime_ns'), MTIME * 10 ** 9))


lstat = stat


def access(path, mode, **_kwargs):
    try:
        kind(path)
    except EnvironmentError:
        return False
    return not mode & os.W_OK


def listxattr(path, **_kwargs):
    """For copies: shutil accepts only some errors."""
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
        return stat(self.path)

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


class scandir(object):
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


def open_text(path, mode='r', buffering=-1, encoding=None, errors=None, newline=None, *_rest):
    """io.open of 2.x."""
    return open_file(path, mode, buffering, encoding or 'utf-8', errors, newline)
