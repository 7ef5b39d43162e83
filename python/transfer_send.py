"""The program of `get` and `sync --pull` on a target, behind transfer.py: files go."""
SHORTER = 'it has become shorter while it was read'


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

    def fail(self, path, e):
        message = '%s: %s' % (text(path), reason(e))
        self.wire.write(b'e', message.encode('utf-8', 'replace') if PY3 else message)

    def run(self, arguments):
        # What each is called is for the other side to say.
        for name, source in zip(arguments[::2], arguments[1::2]):
            if source[:1] == b'~':
                source = os.path.expanduser(source)
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

    def entry(self, path, name, st, link=b''):
        """
        What is told of a file. A directory whose extended attributes cannot be read goes without, and that is told
        once.
        """
        told = b''
        if XATTRS:
            told = struct.pack('!I', UNTOLD)
            if not link and not stat.S_ISLNK(st.st_mode) and path not in self.unread:
                try:
                    told = pack_xattrs(read_xattrs(path, of_user))
                except (EnvironmentError, ValueError) as e:
                    if not stat.S_ISDIR(st.st_mode):
                        raise
                    self.unread.add(path)
                    self.fail(path, e)
        return pack(name, st, link, owner=self.owner) + told

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
        self.wire.write(b'Q', self.entry(path, name, st, link) + digest)
        self.asked.append((path, name, link))

    def send(self, path, name, st, link):
        mode = st.st_mode
        if stat.S_ISDIR(mode):
            self.wire.write(b'd', self.entry(path, name, st))
        elif stat.S_ISLNK(mode):
            self.wire.write(b'l', self.entry(path, name, st, os.readlink(path)))
        elif stat.S_ISREG(mode) and link:
            self.wire.write(b'h', self.entry(path, name, st, link))
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
                raise ValueError(SHORTER)
            self.wire.write(b'f', self.entry(path, name, st) + digest_of(data).digest() + data)
            return
        self.wire.write(b'F', self.entry(path, name, st))
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
        self.wire.write(b'E', root.digest())

    def next_data(self, fd, at, size):
        """Where the next data begin, past a hole."""
        try:
            # SEEK_DATA, of Linux.
            return os.lseek(fd, at, 3) if sys.platform.startswith('linux') else at
        except OSError as e:
            return size if e.errno == errno.ENXIO else at


main(lambda wire, arguments: Sender(wire, sys.argv[1]).run(arguments))
