"""Of the program of `put` and `sync` on a target: processes beside it that write small files."""
import fcntl
import io
import select

# Small files that this process writes itself, before it gets helpers; how many it gets at most; and bytes that wait
# here for one of them.
ALONE = 500
HELPERS = 4
QUEUE = 1 << 20
KILLED = 'a process that wrote files was killed'


class Helpers(object):
    """
    Processes that write small files, which take mostly the file system's time. A directory is locked while a file is
    made in it. So all files of a directory go to one of them.
    """

    def __init__(self, receiver):
        self.receiver = receiver
        self.alone = ALONE
        self.all = []
        self.directory = self.helper = None

    def take(self, tag, data):
        """Have one of them write a small file; False where there are none."""
        if self.alone:
            self.alone -= 1
            if not self.alone:
                self.start()
        if not self.all:
            return False
        directory = data[ENTRY.size:ENTRY.size + ENTRY.unpack_from(data)[5]].rpartition(b'/')[0]
        if directory != self.directory or self.helper.size > QUEUE:
            self.directory, self.helper = directory, min(self.all, key=Helper.waiting)
        while self.helper.size > QUEUE:
            select.select([], [helper.fd for helper in self.all], [])
            self.helper = min(self.all, key=Helper.waiting)
        self.helper.put(tag, data)
        return True

    def start(self):
        try:
            many = len(os.sched_getaffinity(0))
        except (AttributeError, EnvironmentError):
            many = os.sysconf('SC_NPROCESSORS_ONLN')
        if self.receiver.owner:
            import grp
            import pwd
        try:
            while 1 < many > len(self.all) < HELPERS:
                self.all.append(Helper(self.receiver, self.all))
        except EnvironmentError:
            # There may be no more.
            pass

    def end(self):
        """Wait until all is written, and tell what was."""
        for helper in self.all:
            helper.last()
        for helper in self.all:
            whole = False
            with io.open(helper.back, 'rb') as answers:
                wire = Wire(answers)
                while not whole:
                    try:
                        tag, data = wire.read()
                    except EOFError:
                        raise EnvironmentError(KILLED)
                    whole = tag == b'T'
                    if whole:
                        count, size = struct.unpack('!QQ', data)
                        self.receiver.count += count
                        self.receiver.bytes += size
                    else:
                        self.receiver.wire.write(tag, data)
            os.waitpid(helper.pid, 0)


class Helper(object):
    def __init__(self, receiver, others):
        down, self.fd = os.pipe()
        self.back, up = os.pipe()
        # Written, and to be.
        self.data, self.queue, self.size = b'', [], 0
        self.pid = fork()
        if not self.pid:
            for fd in [self.fd, self.back] + [fd for other in others for fd in (other.fd, other.back)]:
                os.close(fd)
            serve(receiver, down, up)
        os.close(down)
        os.close(up)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_NONBLOCK)
        try:
            # F_SETPIPE_SZ, of Linux.
            fcntl.fcntl(self.fd, 1031, QUEUE)
        except EnvironmentError:
            pass

    def put(self, tag, data):
        self.queue += (HEAD.pack(tag, len(data)), data)
        self.size += HEAD.size + len(data)
        if len(self.queue) >= 100:
            self.waiting()

    def waiting(self):
        """The bytes that it has not taken."""
        try:
            while self.size:
                if not self.data:
                    self.data, self.queue = memoryview(b''.join(self.queue)), []
                n = os.write(self.fd, self.data)
                self.data = self.data[n:]
                self.size -= n
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EINTR):
                raise EnvironmentError(KILLED)
        return self.size

    def last(self):
        self.put(b'q', b'')
        while self.waiting():
            select.select([], [self.fd], [])
        os.close(self.fd)


def serve(receiver, down, up):
    """A helper's life. Its errors are told at the end, as many as anybody wants to know."""
    status = 1
    try:
        source, answers = Wire(io.open(down, 'rb', 1 << 16)), Wire(None, up)
        receiver.wire, receiver.count, receiver.bytes, receiver.helpers = Faults(), 0, 0, None
        receiver.name_temporaries()
        while 1:
            tag, data = source.read()
            if tag == b'q':
                break
            receiver.act(receiver.small, tag, data)
        for fault in receiver.wire.all:
            answers.write(*fault)
        answers.write(b'T', struct.pack('!QQ', receiver.count, receiver.bytes))
        answers.flush()
        status = 0
    finally:
        os._exit(status)


class Faults(object):
    def __init__(self):
        self.all = []

    def write(self, tag, data):
        if len(self.all) < 1000:
            self.all.append((tag, data))


def fork():
    try:
        import mitogen.running
        return mitogen.running.fork()
    except ImportError:
        return os.fork()
