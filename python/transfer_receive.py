"""The program of `put` and `sync` on a target, behind transfer.py and transfer_helpers.py: files come."""
import binascii
import fcntl

DIFFERS = 'it came damaged, or was changed while it was read'
# What no name may have between its slashes.
BAD = frozenset((b'', b'.', b'..'))
COPIED = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
# What the name of an unfinished file begins with, and what it ends with if the next transfer goes on with it.
HIDDEN, PART = b'.mitogend-', b'.part'


class Receiver(object):
    def __init__(self, wire, options, dest):
        self.wire = wire
        self.options = options
        self.sync, self.owner, self.dry = 's' in options, 'o' in options, 'n' in options
        if dest[:1] == b'~':
            dest = os.path.expanduser(dest)
        # N: it is a name, whatever is there.
        self.into = not self.sync and 'N' not in options and ('i' in options or dest.endswith(b'/') or os.path.isdir(dest))
        self.top = dest.rstrip(b'/') or b'/'
        if self.sync and os.path.isdir(self.top) and os.path.islink(self.top):
            self.top = os.path.realpath(self.top)
        self.check(dest)
        # Of those that are to be there, directories, with the names in each.
        self.seen = {self.top: set()}
        # Directories that get their attributes at the end, and those that a link leads to, which get none.
        self.dirs, self.led = [], set()
        self.answers, self.count, self.bytes = [], 0, 0
        self.names = {}
        self.whole = False
        # Of hard links: paths of files that are not in place.
        self.failed = set()
        self.name_temporaries()
        # It was told that a file system has no extended attributes.
        self.without = False
        # No helpers with hard links, whose target must be there, nor with attributes: that there are none is told
        # once.
        self.helpers = Helpers(self) if 'h' not in options and not XATTRS else None
        # Of sync with hard links: files that are to come.
        self.differ = set()
        # Directories that are to be there by several names, by device and inode; and modes that were changed.
        self.paths, self.opened = {}, []
        self.umask = os.umask(0o77)

    def check(self, dest):
        """Refuse what can be no destination."""
        try:
            st = os.stat(self.top)
        except OSError:
            return
        if not stat.S_ISREG(st.st_mode) and not stat.S_ISDIR(st.st_mode):
            raise EnvironmentError('%s: %s' % (text(dest), SPECIAL))
        if 'D' in self.options and same_file(st, os.stat('/')):
            raise EnvironmentError('%s: all of the target cannot be the destination of sync' % text(dest))

    def place(self, path):
        parts = path.split(b'/')
        if BAD.intersection(parts):
            raise ValueError('a bad name: %r' % path)
        if not self.into:
            parts = parts[1:]
        return os.path.join(self.top, *parts) if parts else self.top

    def fail(self, path, e, tag=b'e'):
        self.wire.write(tag, fault(path, e))
        if tag == b'x':
            self.wire.flush()

    def run(self):
        actions = {b'd': self.directory, b'l': self.symlink, b'h': self.hard_link, b'f': self.small,
                   b'F': self.large, b'Q': self.question}
        while 1:
            tag, data = self.wire.read()
            if tag == b'q':
                break
            if tag == b'f' and self.helpers and self.helpers.take(tag, data):
                continue
            if tag == b'P':
                self.answer()
                if 'D' in self.options:
                    self.delete()
                self.wire.write(b'p')
                self.wire.flush()
                continue
            self.act(actions[tag], tag, data)
        if self.helpers:
            self.helpers.end()
        for path, entry, st in reversed(self.dirs):
            try:
                fd = self.open_directory(path, entry, st)
                try:
                    self.finish(path, entry, fd)
                finally:
                    os.close(fd)
            except Exception as e:
                self.fail(path, e)
        self.wire.write(b'T', struct.pack('!QQ', self.count, self.bytes))
        self.wire.flush()

    def act(self, action, tag, data):
        entry = Entry(data)
        path = entry.path
        try:
            path = self.place(path)
            action(entry, path)
        except EOFError:
            raise
        except Exception as e:
            self.fail(path, e, b'x' if tag == b'F' else b'e')
            if tag == b'Q':
                self.reply(b'=')
            elif 'h' in self.options:
                self.failed.add(entry.path)

    def placed(self, entry):
        self.count += 1
        if stat.S_ISREG(entry.mode) and not entry.link:
            self.bytes += entry.size

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

    def finish(self, path, entry, fd):
        """Give an open file its owner, mode and time. Something else may be there by its name."""
        if self.owner:
            os.fchown(fd, *self.ids(entry))
        if entry.xattrs is not None:
            self.set_xattrs(path, entry, fd)
        os.fchmod(fd, entry.mode & 0o7777)
        if PY3:
            os.utime(fd, ns=(entry.mtime, entry.mtime))
            return
        # It cuts off what is less than a microsecond.
        when = entry.mtime // 1000 / 1e6 + 4e-7
        try:
            os.utime('/proc/self/fd/%d' % fd, (when, when))
        except OSError:
            if same_file(os.lstat(path), os.fstat(fd)):
                os.utime(path, (when, when))

    def open(self, path, st):
        """Open what lstat() has found there."""
        fd = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK)
        if same_file(os.fstat(fd), st):
            return fd
        os.close(fd)
        raise EnvironmentError('something else has taken its place')

    def open_directory(self, path, entry, st):
        """Open one that was seen long ago: some file systems have given it another number since."""
        fd = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK | DIRECTORY)
        now = os.fstat(fd)
        # By another name it may have its owner by now.
        if stat.S_ISDIR(now.st_mode) and (now.st_uid == st.st_uid or self.owner and now.st_uid == self.ids(entry)[0]):
            return fd
        os.close(fd)
        raise EnvironmentError('something else has taken its place')

    def taken(self, name):
        """As rsync -X: user.* by an ordinary user, all but system.* by root."""
        return of_user(name) or os.geteuid() == 0 and not name.startswith(b'system.')

    def other_xattrs(self, path, entry):
        """Names to remove, and pairs to set, of a path or a descriptor."""
        if entry.xattrs is None:
            return [], []
        want = dict((name, value) for name, value in entry.xattrs.items() if self.taken(name))
        had = read_xattrs(path, lambda name: of_user(name) or name in want)
        remove = [name for name in had if name not in want]
        return remove, sorted(item for item in want.items() if had.get(item[0]) != item[1])

    def set_xattrs(self, path, entry, fd):
        try:
            self.try_set_xattrs(path, entry, fd)
        except OSError as e:
            if e.errno != errno.EACCES:
                raise
            # Who may not write to a file may not set them.
            os.fchmod(fd, entry.mode & 0o7777 | 0o600)
            self.try_set_xattrs(path, entry, fd)

    def try_set_xattrs(self, path, entry, fd):
        remove, put = self.other_xattrs(fd, entry)
        for name in remove:
            os.removexattr(fd, name)
        for name, value in put:
            try:
                os.setxattr(fd, name, value)
            except OSError as e:
                if name.startswith(b'security.') and e.errno in (errno.EPERM, errno.ENOTSUP):
                    continue
                if e.errno != errno.ENOTSUP:
                    raise
                if not self.without:
                    self.fail(path, ValueError('the file system has no such extended attributes: they are left out, here and of further files'))
                self.without = True

    def parent(self, path):
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            os.umask(self.umask)
            try:
                os.makedirs(parent)
            except OSError:
                # A helper has made it.
                if not os.path.isdir(parent):
                    raise
            finally:
                os.umask(0o77)

    def directory(self, entry, path):
        led = os.path.dirname(path) in self.led
        if not os.path.isdir(path):
            if self.sync and path != self.top and os.path.lexists(path):
                os.unlink(path)
            self.parent(path)
            os.mkdir(path, 0o700)
            led = False
        st = os.lstat(path)
        if led or stat.S_ISLNK(st.st_mode):
            # Who has made the link may not be allowed to change what it leads to.
            self.led.add(path)
            return
        if st.st_uid == os.geteuid() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            os.chmod(path, entry.mode & 0o7777 | 0o700)
        self.dirs.append((path, entry, st))

    def symlink(self, entry, path):
        try:
            if os.readlink(path) == entry.link:
                self.own_link(path, entry)
                self.placed(entry)
                return
        except OSError:
            pass
        self.parent(path)
        tmp = self.temporary(path)
        os.symlink(entry.link, tmp)
        try:
            self.own_link(tmp, entry)
            if PY3 and os.utime in os.supports_follow_symlinks:
                os.utime(tmp, ns=(entry.mtime, entry.mtime), follow_symlinks=False)
            self.rename(tmp, path)
        except BaseException:
            drop(tmp)
            raise
        self.placed(entry)

    def own_link(self, path, entry):
        if self.owner:
            os.lchown(path, *self.ids(entry))

    def hard_link(self, entry, path):
        first = self.place(entry.link)
        if entry.link in self.failed:
            raise ValueError(UNLINKED)
        if not stat.S_ISREG(os.lstat(first).st_mode):
            raise ValueError('the target of its hard link is no file')
        if not linked(first, path):
            tmp = self.temporary(path)
            os.link(first, tmp)
            try:
                self.rename(tmp, path)
            except BaseException:
                drop(tmp)
                raise
        self.placed(entry)

    def name_temporaries(self):
        """Nobody is to guess their names. Those of processes that were killed, or of another machine, are others."""
        self.mine, self.temporaries = HIDDEN + binascii.hexlify(os.urandom(6)), 0

    def temporary(self, path):
        self.temporaries += 1
        directory, slash, _name = path.rpartition(b'/')
        return directory + slash + self.mine + ('-%d' % self.temporaries).encode('ascii')

    def rename(self, tmp, path):
        try:
            os.rename(tmp, path)
        except OSError:
            self.free(path)
            os.rename(tmp, path)

    def free(self, path):
        """A directory gives way to something else only where what is not at the source is deleted."""
        if is_dir(path):
            if 'D' not in self.options or path == self.top:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.remove(path, tell=False)

    def small(self, entry, path):
        want, data = entry.rest[:DIGEST], entry.rest[DIGEST:]
        if digest_of(data).digest() != want or len(data) != entry.size:
            raise ValueError(DIFFERS)
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
                n = os.write(fd, data)
                if n < len(data):
                    write_all(fd, data[n:])
                self.finish(tmp, entry, fd)
            finally:
                os.close(fd)
            self.rename(tmp, path)
        except BaseException:
            drop(tmp)
            raise
        self.placed(entry)

    def part(self, path):
        """
        What has come of a file so far, to go on with. Nobody else may have made it. It is locked while somebody
        writes to it.
        """
        directory, name = os.path.split(path)
        self.parent(path)
        tmp = os.path.join(directory, part_of(name))
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
        # A reason why nothing is to come, or an error: then blocks that are still on their way belong to nothing.
        tag, basis, stays = b'x', None, tmp.endswith(PART)
        try:
            old = blocks_of(fd, had)
            if self.sync and not had:
                basis = self.basis(path)
                if basis is not None:
                    old = blocks_of(basis, os.fstat(basis).st_size)
            old = b''.join(old)
            for at in range(0, len(old), BLOCK):
                self.wire.write(b'n', old[at:at + BLOCK])
            self.wire.write(b'N')
            self.wire.flush()
            tag = b'e'
            whole = self.blocks(entry, fd, had, basis, old)
            if whole:
                self.finish(tmp, entry, fd)
                if not same_file(os.lstat(tmp), os.fstat(fd)):
                    raise ValueError(DIFFERS)
                os.rename(tmp, path)
                self.placed(entry)
            else:
                self.failed.add(entry.path)
                stays = stays and whole is False
        except EOFError:
            # The next transfer goes on with what has come.
            raise
        except Exception as e:
            self.fail(path, e, tag)
            self.failed.add(entry.path)
            stays = False
        finally:
            os.close(fd)
            if basis is not None:
                os.close(basis)
            if not stays:
                # Nobody would find it, if it is there still.
                drop(tmp)

    def basis(self, path):
        """What is there, open, if there is a file."""
        try:
            fd = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)

    def blocks(self, entry, fd, had, basis, old):
        """
        Take a file's blocks. True if it is whole, False if not all have come, None if it was another one meanwhile;
        an error is kept until all have come.
        """
        at, root, error = 0, digest_of(), None
        os.lseek(fd, 0, 0)
        while 1:
            tag, data = self.wire.read()
            if tag == b'X':
                # Its source cannot be read. What has come may be gone on with, but of one that never stays the same
                # there would be a second file for good.
                return False if at < entry.size else None
            if tag == b'E':
                if error:
                    raise error
                if at < entry.size or data != root.digest():
                    raise ValueError(DIFFERS)
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
                            # Where nothing is written there are zeros.
                            if digest != (ZERO_DIGEST if size == BLOCK else digest_of(ZEROS[:size]).digest()):
                                write_all(fd, data)
                        root.update(digest)
                    at += size
            except Exception as e:
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
        """Is it there as it should be?"""
        try:
            st = os.lstat(path)
        except OSError:
            st = None
        if path == self.top:
            # What lies in a directory is not in the way of a file: that is an error.
            self.whole = stat.S_ISDIR(entry.mode)
        elif 'D' in self.options:
            directory, name = os.path.split(path)
            self.seen.setdefault(directory, set()).add(name)
            # Nothing is known of what is below a name that the source has for a socket or the like.
            if stat.S_IFMT(entry.mode) in COPIED and (stat.S_ISDIR(entry.mode) or st and stat.S_ISDIR(st.st_mode)):
                self.seen.setdefault(path, set())
        same = self.same(entry, path, st)
        if not same and 'h' in self.options:
            self.differ.add(entry.path)
        self.reply(b'=' if same else b'n')

    def same(self, entry, path, st):
        kind = stat.S_IFMT(entry.mode)
        if kind not in COPIED:
            # It is asked about so that nothing with its name is deleted.
            return True
        if not st or stat.S_IFMT(st.st_mode) != kind:
            return False
        owned = not self.owner or self.ids(entry) == (st.st_uid, st.st_gid)
        if stat.S_ISLNK(st.st_mode):
            return owned and os.readlink(path) == entry.link
        if stat.S_ISDIR(st.st_mode):
            return self.dry and st.st_mode == entry.mode
        if entry.link:
            return entry.link not in self.differ and linked(self.place(entry.link), path)
        if st.st_size != entry.size:
            return False
        mtime = time_of(st)
        timely = abs(mtime - entry.mtime) < 2000 or mtime % 1000000000 == 0 and mtime // 1000000000 == entry.mtime // 1000000000
        check = 'c' in self.options
        if not check and not timely:
            return False
        other = not self.dry and (st.st_mode != entry.mode or not timely or not owned or any(self.other_xattrs(path, entry)))
        if not check and not other:
            return True
        try:
            fd = self.open(path, st)
        except EnvironmentError:
            # What is sent takes its place.
            return False
        try:
            if check and digest_of(b''.join(blocks_of(fd, st.st_size))).digest() != entry.rest:
                return False
            if other:
                self.finish(path, entry, fd)
        finally:
            os.close(fd)
        return True

    def delete(self):
        """What was not asked for is not there any more at the source."""
        todo = [self.top] if self.whole else []
        self.same_directories()
        while todo:
            directory = todo.pop()
            want = self.seen.get(directory)
            if want is None or not is_dir(directory):
                continue
            paths = [path for path in self.paths.get(identity(directory), ()) if is_dir(path)]
            paths = set(paths + [directory])
            below = [os.path.join(path, name) for path in paths for name in self.seen.pop(path, ())]
            try:
                names = set(self.allowed(os.listdir, directory, directory))
            except EnvironmentError as e:
                self.fail(directory, e)
                continue
            more = names - want
            if more:
                more -= alike(directory, want - names, more)
                more -= set(name for name in more if identity(os.path.join(directory, name)) in self.paths)
            for name in sorted(more):
                path = os.path.join(directory, name)
                if not name.startswith(HIDDEN):
                    self.remove(path)
                elif name.endswith(PART) and not self.dry and name not in map(part_of, want):
                    drop_part(path)
            todo += [path for path in sorted(below, reverse=True) if path in self.seen]
        self.close_again()

    def same_directories(self):
        """
        Of directories that are to be there by several names, since case is ignored or a link leads to one: what is
        wanted of one is wanted of all.
        """
        paths = {}
        for path in self.seen:
            try:
                st = os.stat(path)
            except OSError:
                continue
            if stat.S_ISDIR(st.st_mode):
                paths.setdefault((st.st_dev, st.st_ino), []).append(path)
        self.paths = dict((key, sorted(some)) for key, some in paths.items() if len(some) > 1 or os.path.islink(some[0]))
        for some in self.paths.values():
            want = set().union(*[self.seen[path] for path in some])
            self.seen.update((path, want) for path in some)

    def remove(self, top, tell=True):
        """Remove a file, or a directory with what is in it. What cannot be removed is told, and the rest goes."""
        try:
            self.remove_all(top, tell)
        finally:
            self.close_again()

    def remove_all(self, top, tell):
        todo, failed = [(top, False)], False
        while todo:
            path, empty = todo.pop()
            if not empty and self.paths and identity(path) in self.paths:
                # A link leads to it by which something is wanted in it.
                failed = True
                continue
            try:
                if not empty and is_dir(path):
                    names = self.allowed(os.listdir, path, path)
                    todo.append((path, True))
                    todo += [(os.path.join(path, name), False) for name in sorted(names, reverse=True)]
                    continue
                if not self.dry:
                    self.allowed(os.rmdir if empty else os.unlink, path, os.path.dirname(path))
            except EnvironmentError as e:
                # One that something is left in is not told of.
                if not (failed and e.errno in (errno.ENOTEMPTY, errno.EEXIST)):
                    self.fail(path, e)
                failed = True
                continue
            if tell:
                self.wire.write(b'r', path)

    def allowed(self, action, path, directory):
        """Do it even if nobody may write to the directory, which gets its mode back if it stays."""
        try:
            return action(path)
        except OSError as e:
            if e.errno != errno.EACCES or self.dry or not is_dir(directory):
                raise
        mode = stat.S_IMODE(os.lstat(directory).st_mode)
        os.chmod(directory, mode | 0o700)
        self.opened.append((directory, mode))
        return action(path)

    def close_again(self):
        """Give directories their modes that allowed() has changed."""
        while self.opened:
            directory, mode = self.opened.pop()
            try:
                os.chmod(directory, mode)
            except OSError:
                # It is gone.
                pass


def drop(path):
    try:
        os.unlink(path)
    except OSError:
        pass


def part_of(name):
    """The name of what has come so far of a large file."""
    return HIDDEN + hashlib.sha256(name).hexdigest()[:16].encode('ascii') + PART


def drop_part(path):
    """Remove a part, unless somebody writes to it."""
    try:
        fd = os.open(path, os.O_RDWR | NOFOLLOW | NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except EnvironmentError:
        pass
    finally:
        os.close(fd)


def is_dir(path):
    """Whether it is a directory, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def alike(directory, missing, names):
    """
    Which of the names are those of files that are wanted by another one: where case is ignored, or where characters
    have several forms, a file is there by a name that is not listed.
    """
    wanted = set(identity(os.path.join(directory, name)) for name in missing) - set([None])
    return set(name for name in names if identity(os.path.join(directory, name)) in wanted) if wanted else set()


def identity(path):
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def linked(path, other):
    """Whether both are one file."""
    try:
        a, b = os.lstat(path), os.lstat(other)
    except OSError:
        return False
    return same_file(a, b)


main(lambda wire, arguments: Receiver(wire, sys.argv[1], arguments[0]).run())
