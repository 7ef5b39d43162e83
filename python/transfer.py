"""
The program of `mitogend put`, `get` and `sync` on a target: files go over its stdin and stdout, as package daemon/transfer describes.
sys.argv has "receive", the letters of options and the destination, or "send", the letters and what to send. The letter b is for digests by BLAKE2b;
else they are SHA-256.
"""
import errno
import fcntl
import hashlib
import os
import signal
import stat
import struct
import sys

PY3 = sys.version_info[0] == 3
BLOCK = 256 << 10
ENTRY = struct.Struct('!IqQiiHHHH')
HEAD = struct.Struct('!cI')
DIGEST = 32
NOFOLLOW = getattr(os, 'O_NOFOLLOW', 0)


BLAKE = 'b' in sys.argv[2]


def digest_of(data=b''):
    return hashlib.blake2b(data, digest_size=DIGEST) if BLAKE else hashlib.sha256(data)


class Wire(object):
    """Messages: a letter, a length and what belongs to it."""

    def __init__(self):
        self.source = os.fdopen(os.dup(0), 'rb', 1 << 20)
        self.fd = os.dup(1)
        self.out = []
        self.size = 0
        # What code below prints is no message.
        os.dup2(2, 1)

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
        write_all(self.fd, data)


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


def reason(e):
    return getattr(e, 'strerror', None) or str(e) or type(e).__name__


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
        self.rest = data[at:]


def time_of(st):
    """Its time in nanoseconds, of 2.x as exact as a float is."""
    return st.st_mtime_ns if PY3 else int(round(st.st_mtime * 1000000)) * 1000


def pack(path, st, link=b'', owner=True):
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
    mtime = time_of(st)
    size = st.st_size if stat.S_ISREG(st.st_mode) else 0
    return ENTRY.pack(
        st.st_mode, mtime, size, min(st.st_uid, 0x7fffffff), min(st.st_gid, 0x7fffffff), len(path), len(link), len(user), len(group)
    ) + path + link + user + group


SPECIAL = 'it is no file, directory or link'
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


class Receiver(object):
    def __init__(self, wire, options, dest):
        self.wire = wire
        self.options = options
        self.sync, self.owner, self.dry = 's' in options, 'o' in options, 'n' in options
        if dest[:2] == b'~/' or dest == b'~':
            dest = os.path.expanduser(dest)
        self.into = not self.sync and ('i' in options or dest.endswith(b'/') or os.path.isdir(dest))
        self.dest = dest
        self.top = dest.rstrip(b'/') or b'/'
        self.dirs, self.seen, self.answers, self.count, self.temporaries = [], set(), [], 0, 0
        self.names = {}
        self.whole = False
        # Of sync with hard links: files that are to come.
        self.differ = set()
        self.umask = os.umask(0o77)

    def place(self, path):
        parts = path.split(b'/')
        if any(part in (b'', b'.', b'..') for part in parts):
            raise ValueError('a bad name: %r' % path)
        if not self.into:
            parts = parts[1:]
        return os.path.join(self.dest, *parts) if parts else self.top

    def fail(self, path, e, tag=b'e'):
        message = '%s: %s' % (text(path), reason(e))
        self.wire.write(tag, message.encode('utf-8', 'replace') if PY3 else message)
        if tag == b'x':
            self.wire.flush()

    def run(self):
        actions = {b'd': self.directory, b'l': self.symlink, b'h': self.hard_link, b'f': self.small, b'F': self.large, b'Q': self.question}
        while 1:
            tag, data = self.wire.read()
            if tag == b'q':
                break
            if tag == b'P':
                self.answer()
                if 'D' in self.options:
                    self.delete()
                self.wire.write(b'p')
                self.wire.flush()
                continue
            entry = Entry(data)
            path = entry.path
            try:
                path = self.place(entry.path)
                actions[tag](entry, path)
            except (EnvironmentError, ValueError) as e:
                self.fail(path, e, b'x' if tag == b'F' else b'e')
                if tag == b'Q':
                    self.reply(b'=')
        for path, entry in reversed(self.dirs):
            try:
                self.finish(path, entry)
            except EnvironmentError as e:
                self.fail(path, e)
        self.wire.write(b'T', struct.pack('!Q', self.count))
        self.wire.flush()

    def ids(self, entry):
        """Owner and group, by the names that they have where they come from, if there are such names here."""
        key = entry.user, entry.uid, entry.group, entry.gid
        if key not in self.names:
            import grp
            import pwd
            uid, gid = entry.uid, entry.gid
            try:
                uid = pwd.getpwnam(text(entry.user)).pw_uid
            except KeyError:
                pass
            try:
                gid = grp.getgrnam(text(entry.group)).gr_gid
            except KeyError:
                pass
            self.names[key] = uid, gid
        return self.names[key]

    def finish(self, path, entry, fd=None):
        """Give it its owner, mode and time."""
        if self.owner:
            os.chown(path, *self.ids(entry))
        if fd is None:
            os.chmod(path, entry.mode & 0o7777)
        else:
            os.fchmod(fd, entry.mode & 0o7777)
        self.set_time(path, entry, fd)

    def set_time(self, path, entry, fd=None):
        if PY3:
            os.utime(path if fd is None else fd, ns=(entry.mtime, entry.mtime))
        else:
            # It cuts off what is less than a microsecond.
            when = entry.mtime // 1000 / 1e6 + 4e-7
            os.utime(path, (when, when))

    def parent(self, path):
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            os.umask(self.umask)
            try:
                os.makedirs(parent)
            finally:
                os.umask(0o77)

    def directory(self, entry, path):
        if self.sync and path != self.top and not os.path.isdir(path) and os.path.lexists(path):
            os.unlink(path)
        if not os.path.isdir(path):
            self.parent(path)
            os.mkdir(path, 0o700)
        elif not os.access(path, os.W_OK):
            os.chmod(path, entry.mode & 0o7777 | 0o700)
        self.dirs.append((path, entry))

    def symlink(self, entry, path):
        try:
            if os.readlink(path) == entry.link:
                return
        except OSError:
            pass
        self.parent(path)
        tmp = self.temporary(path)
        os.symlink(entry.link, tmp)
        try:
            if self.owner:
                os.lchown(tmp, *self.ids(entry))
            if PY3 and os.utime in os.supports_follow_symlinks:
                os.utime(tmp, ns=(entry.mtime, entry.mtime), follow_symlinks=False)
            self.rename(tmp, path)
        except EnvironmentError:
            os.unlink(tmp)
            raise
        self.count += 1

    def hard_link(self, entry, path):
        first = self.place(entry.link)
        if not stat.S_ISREG(os.lstat(first).st_mode):
            raise ValueError('what it is a hard link to is no file')
        if not linked(first, path):
            tmp = self.temporary(path)
            os.link(first, tmp)
            try:
                self.rename(tmp, path)
            except EnvironmentError:
                os.unlink(tmp)
                raise
        self.count += 1

    def temporary(self, path):
        self.temporaries += 1
        return os.path.join(os.path.dirname(path), ('.mitogend-%d-%d' % (os.getpid(), self.temporaries)).encode('ascii'))

    def rename(self, tmp, path):
        try:
            os.rename(tmp, path)
        except OSError:
            self.free(path)
            os.rename(tmp, path)

    def free(self, path):
        """A directory gives way to something else only where what is not at the source is deleted."""
        try:
            is_dir = stat.S_ISDIR(os.lstat(path).st_mode)
        except OSError:
            return
        if is_dir:
            if 'D' not in self.options or path == self.top:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            remove_tree(path, lambda _path: None)

    def small(self, entry, path):
        want, data = entry.rest[:DIGEST], entry.rest[DIGEST:]
        if digest_of(data).digest() != want or len(data) != entry.size:
            raise ValueError('what has come is not what was sent, or it was changed while it was read')
        tmp = self.temporary(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
        try:
            fd = os.open(tmp, flags, 0o600)
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise
            self.parent(path)
            fd = os.open(tmp, flags, 0o600)
        try:
            try:
                write_all(fd, data)
                self.finish(tmp, entry, fd)
            finally:
                os.close(fd)
            self.rename(tmp, path)
        except BaseException:
            os.unlink(tmp)
            raise
        self.count += 1

    def part(self, path):
        """What has come of a file so far, to be gone on with; nobody else may have made it. Locked, while somebody writes to it."""
        directory, name = os.path.split(path)
        self.parent(path)
        tmp = os.path.join(directory, b'.mitogend-' + hashlib.sha256(name).hexdigest()[:16].encode('ascii') + b'.part')
        for _ in range(3):
            try:
                fd = os.open(tmp, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o600)
            except OSError as e:
                if e.errno not in (errno.ELOOP, errno.EMLINK, errno.EACCES):
                    raise
                os.unlink(tmp)
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except EnvironmentError:
                os.close(fd)
                break
            st, there = os.fstat(fd), None
            try:
                there = os.lstat(tmp)
            except OSError:
                pass
            if there and (st.st_dev, st.st_ino) == (there.st_dev, there.st_ino):
                if stat.S_ISREG(st.st_mode) and st.st_uid == os.geteuid() and st.st_nlink == 1:
                    os.fchmod(fd, 0o600)
                    return fd, tmp, st.st_size
                os.unlink(tmp)
            os.close(fd)
        tmp = self.temporary(path)
        return os.open(tmp, os.O_RDWR | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600), tmp, 0

    def large(self, entry, path):
        self.free(path)
        fd, tmp, had = self.part(path)
        basis = None
        try:
            try:
                old = blocks_of(fd, had)
                if self.sync and not had:
                    try:
                        basis = os.open(path, os.O_RDONLY | NOFOLLOW)
                        if stat.S_ISREG(os.fstat(basis).st_mode):
                            old = blocks_of(basis, os.fstat(basis).st_size)
                    except OSError:
                        pass
                old = b''.join(old)
                for at in range(0, len(old), BLOCK):
                    self.wire.write(b'n', old[at:at + BLOCK])
                self.wire.write(b'N')
                self.wire.flush()
            except EnvironmentError as e:
                self.fail(path, e, b'x')
                return
            if self.blocks(entry, path, fd, had, basis, old):
                self.finish(tmp, entry, fd)
                os.rename(tmp, path)
                self.count += 1
                tmp = None
        except EnvironmentError as e:
            # Blocks of it that are still on their way belong to nothing.
            self.fail(path, e)
            os.unlink(tmp)
        except ValueError as e:
            self.fail(path, e)
            os.unlink(tmp)
        finally:
            os.close(fd)
            if basis is not None:
                os.close(basis)

    def blocks(self, entry, path, fd, had, basis, old):
        """Take a file's blocks. True if it is whole; an error is kept until all have come."""
        at, root, error = 0, digest_of(), None
        os.lseek(fd, 0, 0)
        while 1:
            tag, data = self.wire.read()
            if tag == b'X':
                # Its source can not be read. What has come may be gone on with.
                return False
            if tag == b'E':
                if error:
                    raise error
                if at < entry.size or data != root.digest():
                    raise ValueError('what has come is not what was sent, or it was changed while it was read')
                os.ftruncate(fd, entry.size)
                return True
            if error:
                continue
            try:
                if tag == b'B':
                    root.update(digest_of(data).digest())
                    os.lseek(fd, at, 0)
                    write_all(fd, data)
                    at += len(data)
                    continue
                for _ in range(struct.unpack('!Q', data)[0]):
                    size = min(BLOCK, entry.size - at)
                    if size <= 0:
                        raise ValueError('more has come than there is')
                    if tag == b'Z':
                        root.update(ZERO_DIGEST if size == BLOCK else digest_of(ZEROS[:size]).digest())
                        if at < had:
                            os.lseek(fd, at, 0)
                            write_all(fd, ZEROS[:size])
                    else:
                        number = at // BLOCK * DIGEST
                        digest = old[number:number + DIGEST]
                        if basis is not None:
                            os.lseek(basis, at, 0)
                            os.lseek(fd, at, 0)
                            data = read_block(basis, size)
                            # Others may write to it meanwhile.
                            digest = digest_of(data).digest()
                            write_all(fd, data)
                        root.update(digest)
                    at += size
            except (EnvironmentError, ValueError) as e:
                error = e

    def reply(self, answer):
        self.answers.append(answer)
        if len(self.answers) >= 10000:
            self.answer()

    def answer(self):
        self.wire.write(b'A', b''.join(self.answers))
        self.wire.flush()
        self.answers = []

    def question(self, entry, path):
        """Is it there as it is to be?"""
        self.seen.add(path)
        if path == self.top:
            # What lies in a directory is not in the way of a file: that is an error.
            self.whole = stat.S_ISDIR(entry.mode)
        same = self.same(entry, path)
        if not same and 'h' in self.options:
            self.differ.add(entry.path)
        self.reply(b'=' if same else b'n')

    def same(self, entry, path):
        try:
            st = os.lstat(path)
        except OSError:
            return False
        if stat.S_IFMT(st.st_mode) != stat.S_IFMT(entry.mode):
            return False
        if stat.S_ISLNK(st.st_mode):
            return os.readlink(path) == entry.link
        if stat.S_ISDIR(st.st_mode):
            return self.dry and st.st_mode == entry.mode
        if entry.link:
            return entry.link not in self.differ and linked(self.place(entry.link), path)
        if st.st_size != entry.size:
            return False
        mtime = time_of(st)
        timely = abs(mtime - entry.mtime) < 2000 or mtime % 1000000000 == 0 and mtime // 1000000000 == entry.mtime // 1000000000
        if 'c' in self.options:
            with open(path, 'rb') as fp:
                root = digest_of(b''.join(blocks_of(fp.fileno(), st.st_size)))
            if root.digest() != entry.rest:
                return False
        elif not timely:
            return False
        if not self.dry and (st.st_mode != entry.mode or not timely or self.owner and self.ids(entry) != (st.st_uid, st.st_gid)):
            self.finish(path, entry)
        return True

    def delete(self):
        """What was not asked for is not there any more at the source."""
        top = self.top
        if not self.whole or not os.path.isdir(top) or os.path.islink(top):
            return
        for directory, dirs, files in os.walk(top):
            for name in sorted(dirs + files):
                path = os.path.join(directory, name)
                if path in self.seen or name.startswith(b'.mitogend-'):
                    continue
                try:
                    if name in dirs:
                        dirs.remove(name)
                    if os.path.isdir(path) and not os.path.islink(path):
                        remove_tree(path, self.deleted, self.dry)
                    else:
                        self.deleted(path)
                        if not self.dry:
                            os.unlink(path)
                except EnvironmentError as e:
                    self.fail(path, e)

    def deleted(self, path):
        self.wire.write(b'r', path)


def linked(path, other):
    """Whether both are one file."""
    try:
        a, b = os.lstat(path), os.lstat(other)
    except OSError:
        return False
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def remove_tree(top, tell, dry=False):
    for directory, dirs, files in os.walk(top, topdown=False):
        for name in files + [name for name in dirs if os.path.islink(os.path.join(directory, name))]:
            tell(os.path.join(directory, name))
            if not dry:
                os.unlink(os.path.join(directory, name))
        tell(directory)
        if not dry:
            os.rmdir(directory)


class Sender(object):
    def __init__(self, wire, options):
        self.wire = wire
        self.owner = 'o' in options
        self.sync, self.checksum = 's' in options, 'c' in options
        # Of sync: what was asked about, what it is called there, and what it is a hard link to.
        self.asked = []
        # Names of files that have more than one, by device and inode.
        self.links = {} if 'h' in options else None

    def fail(self, path, e):
        message = '%s: %s' % (text(path), reason(e))
        self.wire.write(b'e', message.encode('utf-8', 'replace') if PY3 else message)

    def run(self, sources):
        for source in sources:
            if source[:1] == b'~':
                source = os.path.expanduser(source)
            name = os.path.basename(os.path.abspath(source)) or b'root'
            try:
                # What is named may be a link, what lies below is one.
                self.walk(source, name, os.stat(source))
            except (EnvironmentError, ValueError) as e:
                self.fail(source, e)
        if self.sync:
            self.wire.write(b'P')
            self.wire.flush()
            self.differing()
        self.wire.write(b'q')
        self.wire.flush()

    def differing(self):
        """Send what the other side says is another one there."""
        answers, tag = [], None
        while tag != b'p':
            tag, data = self.wire.read()
            answers.append(data)
        answers = b''.join(answers)
        if len(answers) != len(self.asked):
            raise EOFError('the other side answers something else')
        for i, (path, name, link) in enumerate(self.asked):
            if answers[i:i + 1] != b'=':
                try:
                    self.send(path, name, os.lstat(path) if b'/' in name else os.stat(path), link)
                except (EnvironmentError, ValueError) as e:
                    self.fail(path, e)

    def walk(self, path, name, st):
        directory = stat.S_ISDIR(st.st_mode)
        names = sorted(os.listdir(path)) if directory else ()
        link = b''
        if self.links is not None and stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
            first = self.links.setdefault((st.st_dev, st.st_ino), name)
            link = first if first != name else link
        if self.sync:
            self.ask(path, name, st, link)
        else:
            self.send(path, name, st, link)
        for each in names:
            below = os.path.join(path, each)
            try:
                self.walk(below, name + b'/' + each, os.lstat(below))
            except (EnvironmentError, ValueError) as e:
                self.fail(below, e)

    def ask(self, path, name, st, link):
        """Is it there as it is here?"""
        digest = b''
        if stat.S_ISLNK(st.st_mode):
            link = os.readlink(path)
        elif stat.S_ISREG(st.st_mode) and self.checksum and not link:
            fd = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
            try:
                digest = digest_of(b''.join(blocks_of(fd, st.st_size))).digest()
            finally:
                os.close(fd)
        elif not stat.S_ISREG(st.st_mode) and not stat.S_ISDIR(st.st_mode):
            raise ValueError(SPECIAL)
        self.wire.write(b'Q', pack(name, st, link, owner=self.owner) + digest)
        self.asked.append((path, name, link))

    def send(self, path, name, st, link):
        mode = st.st_mode
        if stat.S_ISDIR(mode):
            self.wire.write(b'd', pack(name, st, owner=self.owner))
        elif stat.S_ISLNK(mode):
            self.wire.write(b'l', pack(name, st, os.readlink(path), owner=self.owner))
        elif stat.S_ISREG(mode) and link:
            self.wire.write(b'h', pack(name, st, link, owner=self.owner))
        elif stat.S_ISREG(mode):
            fd = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
            try:
                self.file(path, fd, name, os.fstat(fd))
            finally:
                os.close(fd)
        else:
            raise ValueError(SPECIAL)

    def file(self, path, fd, name, st):
        if st.st_size < BLOCK:
            data = read_block(fd, st.st_size)
            if len(data) < st.st_size:
                raise ValueError('it has become shorter while it was read')
            self.wire.write(b'f', pack(name, st, owner=self.owner) + digest_of(data).digest() + data)
            return
        self.wire.write(b'F', pack(name, st, owner=self.owner))
        self.wire.flush()
        old = []
        while 1:
            tag, data = self.wire.read()
            if tag == b'x':
                return
            old += [data[at:at + DIGEST] for at in range(0, len(data), DIGEST)]
            if tag == b'N':
                break
        try:
            self.blocks(fd, st.st_size, old)
        except (EnvironmentError, ValueError) as e:
            self.wire.write(b'X')
            self.fail(path, e)

    def blocks(self, fd, size, old):
        root, at, data_at, run, count = digest_of(), 0, 0, None, 0
        while at < size:
            length = min(BLOCK, size - at)
            if at + length > data_at:
                data_at = self.next_data(fd, max(at, data_at), size)
            tag, data = b'Z', None
            if at + length > data_at:
                os.lseek(fd, at, 0)
                data = read_block(fd, length)
                if len(data) < length:
                    raise ValueError('it has become shorter while it was read')
                if data != (ZEROS if length == BLOCK else ZEROS[:length]):
                    tag = b'B'
            digest = digest_of(data).digest() if tag == b'B' else ZERO_DIGEST if length == BLOCK else digest_of(ZEROS[:length]).digest()
            root.update(digest)
            number = at // BLOCK
            if number < len(old) and old[number] == digest:
                tag = b'K'
            if run and run != tag:
                self.wire.write(run, struct.pack('!Q', count))
                run, count = None, 0
            if tag == b'B':
                self.wire.write(b'B', data)
            else:
                run, count = tag, count + 1
            at += length
        if run:
            self.wire.write(run, struct.pack('!Q', count))
        self.wire.write(b'E', root.digest())

    def next_data(self, fd, at, size):
        """Where the next data begin, past a hole."""
        try:
            # SEEK_DATA, of Linux.
            return os.lseek(fd, at, 3) if sys.platform.startswith('linux') else at
        except OSError as e:
            return size if e.errno == errno.ENXIO else at


def main():
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    arguments = [os.fsencode(argument) for argument in sys.argv[1:]] if PY3 else sys.argv[1:]
    kind, options = sys.argv[1:3]
    wire = Wire()
    if kind == 'send':
        Sender(wire, options).run(arguments[2:])
    else:
        Receiver(wire, options, arguments[2]).run()


try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
except (EOFError, EnvironmentError) as e:
    sys.stderr.write('%s\n' % e)
    sys.exit(1)
