"""
The program of `mitogend put`, `get` and `sync` on a target: files go over its stdin and stdout, as package
daemon/transfer describes. Here is what both directions have in common; behind it comes transfer_send.py, or
transfer_helpers.py and transfer_receive.py. sys.argv has the letters of options, and the destination, or of each
source what it is called and its path. The letter b is for digests by BLAKE2b; else they are SHA-256.
"""
import errno
import hashlib
import os
import signal
import stat
import struct
import sys

PY3 = sys.version_info[0] == 3
BLOCK = 252 << 10
ENTRY = struct.Struct('!IqQIIHHHH')
HEAD = struct.Struct('!cI')
DIGEST = 32
# Of extended attributes: how much of a file's goes over the wire, and what stands where it is not told.
MAX_XATTRS = 64 << 10
UNTOLD = 0xffffffff
XATTR = struct.Struct('!HI')


BLAKE = 'b' in sys.argv[1]
XATTRS = 'x' in sys.argv[1]


def digest_of(data=b''):
    return hashlib.blake2b(data, digest_size=DIGEST) if BLAKE else hashlib.sha256(data)


class Wire(object):
    """Messages: a letter, a length and what belongs to it."""

    def __init__(self, source, fd=None):
        self.source = source
        self.fd = fd
        self.out = []
        self.size = 0

    def read(self):
        head = self.take(HEAD.size)
        tag, size = HEAD.unpack(head)
        if size > 4 * BLOCK:
            raise EOFError('a message of %d bytes' % size)
        return tag, self.take(size)

    def take(self, size):
        data = self.source.read(size)
        if len(data) != size:
            raise EOFError('the connection is lost')
        return data

    def write(self, tag, data=b''):
        self.out += (HEAD.pack(tag, len(data)), data)
        self.size += len(data) + HEAD.size
        if self.size >= BLOCK:
            self.flush()

    def flush(self):
        data = b''.join(self.out)
        self.out, self.size = [], 0
        try:
            write_all(self.fd, data)
        except EnvironmentError:
            # It is no fault of the file that is at hand.
            raise EOFError('the connection is lost')


def write_all(fd, data):
    view = memoryview(data)
    while len(view):
        try:
            view = view[os.write(fd, view):]
        except OSError as e:
            if e.errno != errno.EINTR:
                raise


def text(path):
    return path.decode('utf-8', 'replace') if PY3 else path


def fault(path, e):
    """What is told of an error: the path as it is, and why."""
    why = getattr(e, 'strerror', None) or str(e) or type(e).__name__
    return path + b': ' + (why.encode('utf-8', 'replace') if PY3 else why)


class Entry(object):
    """What is known of a file, as it goes over the wire."""

    def __init__(self, data):
        lengths = ENTRY.unpack_from(data)
        self.mode, self.mtime, self.size, self.uid, self.gid = lengths[:5]
        at, parts = ENTRY.size, []
        for length in lengths[5:]:
            parts.append(data[at:at + length])
            at += length
        self.path, self.link, self.user, self.group = parts
        self.xattrs = None
        if XATTRS:
            size, = struct.unpack_from('!I', data, at)
            at += 4
            if size != UNTOLD:
                self.xattrs = {}
                end = at + size
                while at < end:
                    name, value = XATTR.unpack_from(data, at)
                    at += XATTR.size
                    self.xattrs[data[at:at + name]] = data[at + name:at + name + value]
                    at += name + value
        self.rest = data[at:]


def read_xattrs(path, take, **follow):
    """
    The extended attributes of a path or descriptor whose names take() accepts; none where the file system has none.
    """
    out = {}
    try:
        names = os.listxattr(path, **follow)
    except OSError as e:
        if e.errno in (errno.ENOTSUP, errno.ENOSYS):
            return out
        raise
    for name in map(os.fsencode, names):
        if take(name):
            try:
                out[name] = os.getxattr(path, name, **follow)
            except OSError as e:
                # It was removed meanwhile.
                if e.errno != errno.ENODATA:
                    raise
    return out


def pack_xattrs(xattrs):
    data = b''.join(XATTR.pack(len(name), len(xattrs[name])) + name + xattrs[name] for name in sorted(xattrs))
    if len(data) > MAX_XATTRS:
        raise ValueError('it has more than 64 KiB of extended attributes')
    return struct.pack('!I', len(data)) + data


def of_user(name):
    """What a file's owner gives it. Others are not taken from a target, since they give a file rights."""
    return name.startswith(b'user.')


def time_of(st):
    """Its time in nanoseconds; on 2.x as exact as a float is."""
    return st.st_mtime_ns if PY3 else int(round(st.st_mtime * 1000000)) * 1000


def pack(path, st, link, owner, size):
    user = group = b''
    if owner:
        import grp
        import pwd
        try:
            user = pwd.getpwuid(st.st_uid).pw_name.encode('utf-8') if PY3 else pwd.getpwuid(st.st_uid).pw_name
        except KeyError:
            pass
        try:
            group = grp.getgrgid(st.st_gid).gr_name.encode('utf-8') if PY3 else grp.getgrgid(st.st_gid).gr_name
        except KeyError:
            pass
    return ENTRY.pack(
        st.st_mode, time_of(st), size, st.st_uid, st.st_gid, len(path), len(link), len(user), len(group)
    ) + path + link + user + group


SPECIAL = 'it is no file, directory or link'
UNLINKED = 'the file that it is another name of was not copied'
NOFOLLOW = getattr(os, 'O_NOFOLLOW', 0)
DIRECTORY = getattr(os, 'O_DIRECTORY', 0)
NONBLOCK = getattr(os, 'O_NONBLOCK', 0)
ZEROS = b'\0' * BLOCK
ZERO_DIGEST = digest_of(ZEROS).digest()


def read_block(fd, size):
    """That many bytes, or fewer at the end of the file."""
    data = os.read(fd, size)
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def blocks_of(fd, size):
    """The digests of a file's blocks."""
    os.lseek(fd, 0, 0)
    out = []
    while len(out) * BLOCK < size:
        data = read_block(fd, BLOCK)
        if not data:
            break
        out.append(digest_of(data).digest())
    return out


def same_file(a, b):
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def main(work):
    """Call work(wire, arguments); arguments are what follows the letters."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    arguments = [os.fsencode(argument) for argument in sys.argv[2:]] if PY3 else sys.argv[2:]
    try:
        if XATTRS and not hasattr(os, 'setxattr'):
            raise EnvironmentError('this Python has no functions for extended attributes')
        wire = Wire(os.fdopen(os.dup(0), 'rb', 1 << 20), os.dup(1))
        # What code below prints is no message.
        os.dup2(2, 1)
        work(wire, arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except (EOFError, EnvironmentError) as e:
        sys.stderr.write('%s\n' % e)
        sys.exit(1)
