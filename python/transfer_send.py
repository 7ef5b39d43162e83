"""The program of `get` and `sync --pull` on a target, behind transfer.py: files go."""
SHORTER = 'it has become shorter while it was read'
CHANGED = 'it was changed while it was read'
ENDLESS = 'it does not say how large it is, and has more than 252 KiB'
# What is read of a file that says that it is empty, before all that there may be.
FEW = 4 << 10


class Sender(object):
    def __init__(self, wire, options):
        self.wire = wire
        self.owner = 'o' in options
        self.sync, self.checksum = 's' in options, 'c' in options
        # For sync: what was asked about, its name there, and what it is a hard link to.
        self.asked = []
        # Names of files that have more than one, by device and inode.
        self.links = {} if 'h' in options else None
        # Paths whose extended attributes cannot be read.
        self.unread = set()
        # Names of files that were not sent, to which others may be links.
        self.failed = set()

    def fail(self, path, e, name=None):
        self.wire.write(b'e', fault(path, e))
        if self.links and name:
            self.failed.add(name)

    def run(self, arguments):
        # What each is called is for the other side to say.
        for name, source in zip(arguments[::2], arguments[1::2]):
            if source[:1] == b'~':
                source = os.path.expanduser(source)
            self.walk(source, name)
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
                    self.send(path, name, self.stat(path, name), link)
                except EOFError:
                    raise
                except Exception as e:
                    self.fail(path, e, name)

    def stat(self, path, name):
        """What is named may be a link, what lies below is one."""
        return os.lstat(path) if b'/' in name else os.stat(path)

    def walk(self, path, name):
        # A tree may be deeper than calls may be.
        todo = [(path, name)]
        while todo:
            path, name = todo.pop()
            try:
                st = self.stat(path, name)
                names = os.listdir(path) if stat.S_ISDIR(st.st_mode) else ()
                self.one(path, name, st)
                todo += [(os.path.join(path, each), name + b'/' + each) for each in sorted(names, reverse=True)]
            except EOFError:
                raise
            except Exception as e:
                self.fail(path, e, name)

    def one(self, path, name, st):
        link = b''
        if self.links is not None and stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
            first = self.links.setdefault((st.st_dev, st.st_ino), name)
            link = first if first != name else link
        if self.sync:
            self.ask(path, name, st, link)
        else:
            self.send(path, name, st, link)

    def entry(self, path, name, st, link=b'', size=0, fd=None):
        """
        What is told of a file. A directory whose extended attributes cannot be read goes without, and that is told
        once. Those of a file that is open are by its descriptor: another may have taken its name.
        """
        told = b''
        if XATTRS:
            told = struct.pack('!I', UNTOLD)
            if not link and not stat.S_ISLNK(st.st_mode) and path not in self.unread:
                try:
                    if fd is None:
                        told = pack_xattrs(read_xattrs(path, of_user, follow_symlinks=b'/' not in name))
                    else:
                        told = pack_xattrs(read_xattrs(fd, of_user))
                except (EnvironmentError, ValueError) as e:
                    if not stat.S_ISDIR(st.st_mode):
                        raise
                    self.unread.add(path)
                    self.fail(path, e)
        return pack(name, st, link, self.owner, size) + told

    def ask(self, path, name, st, link):
        """Is it there as it is here?"""
        if stat.S_ISREG(st.st_mode) and self.checksum and not link:
            fd = self.open(path, name)
            try:
                st = os.fstat(fd)
                if not stat.S_ISREG(st.st_mode):
                    raise ValueError(SPECIAL)
                digest = digest_of(b''.join(blocks_of(fd, st.st_size))).digest()
                asked = self.entry(path, name, st, size=st.st_size, fd=fd) + digest
            finally:
                os.close(fd)
        else:
            to = os.readlink(path) if stat.S_ISLNK(st.st_mode) else link
            # What is none of these is asked about as well, so that it is known to be here. To send it is an error.
            asked = self.entry(path, name, st, to, st.st_size if stat.S_ISREG(st.st_mode) else 0)
        self.wire.write(b'Q', asked)
        self.asked.append((path, name, link))

    def open(self, path, name):
        """A file may have become a link or a FIFO."""
        return os.open(path, os.O_RDONLY | NONBLOCK | (NOFOLLOW if b'/' in name else 0))

    def send(self, path, name, st, link):
        mode = st.st_mode
        if stat.S_ISDIR(mode):
            self.wire.write(b'd', self.entry(path, name, st))
        elif stat.S_ISLNK(mode):
            self.wire.write(b'l', self.entry(path, name, st, os.readlink(path)))
        elif stat.S_ISREG(mode) and link:
            if link in self.failed:
                raise ValueError(UNLINKED)
            self.wire.write(b'h', self.entry(path, name, st, link, st.st_size))
        elif stat.S_ISREG(mode):
            fd = self.open(path, name)
            try:
                self.file(path, fd, name, os.fstat(fd))
            finally:
                os.close(fd)
        else:
            raise ValueError(SPECIAL)

    def file(self, path, fd, name, st):
        if not stat.S_ISREG(st.st_mode):
            raise ValueError(SPECIAL)
        if st.st_size < BLOCK:
            # What the kernel makes may have a size of nothing, or of a page. What comes is its content.
            data = read_block(fd, st.st_size or FEW)
            if data and not st.st_size:
                data += read_block(fd, BLOCK - len(data))
            if len(data) == BLOCK:
                raise ValueError(ENDLESS)
            unchanged(fd, st)
            self.wire.write(b'f', self.entry(path, name, st, size=len(data), fd=fd) + digest_of(data).digest() + data)
            return
        self.wire.write(b'F', self.entry(path, name, st, size=st.st_size, fd=fd))
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
            self.blocks(fd, st, old)
        except EOFError:
            raise
        except Exception as e:
            self.wire.write(b'X')
            self.fail(path, e, name)

    def blocks(self, fd, st, old):
        size = st.st_size
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
                    raise ValueError(SHORTER)
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
        unchanged(fd, st)
        self.wire.write(b'E', root.digest())

    def next_data(self, fd, at, size):
        """Where the next data begin, past a hole."""
        try:
            # SEEK_DATA, of Linux.
            return os.lseek(fd, at, 3) if sys.platform.startswith('linux') else at
        except OSError as e:
            return size if e.errno == errno.ENXIO else at


def unchanged(fd, st):
    """Fail if an open file is not what it was. If it has only grown, what was read is how it began."""
    now = os.fstat(fd)
    if now.st_size < st.st_size or now.st_size == st.st_size and time_of(now) != time_of(st):
        raise ValueError(CHANGED)


main(lambda wire, arguments: Sender(wire, sys.argv[1]).run(arguments))
