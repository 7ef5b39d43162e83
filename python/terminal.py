"""
The program of `mitogend exec -t` and `mitogend repl`: it gives a command, or Python, a terminal, and stands between
that and its own stdin and stdout. sys.argv has rows and columns, what to call this Python, and then what command.py
has, whose text is COMMAND; without a command it is Python, for which CONSOLE is the text of console.py. SCRIPT, if it
is not None, is what runs before the prompt: its name, its file, its source or None for a module, and its arguments,
all of them in base64.

On stdin come messages: a letter, the length of what follows in four bytes, and that: d, what is typed; w, rows and
columns in two bytes each. The end of stdin is a terminal that has hung up.
"""
import errno
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time

# How many bytes may wait for a command that does not read.
MAX_WAITING = 64 * 1024
# How long a command gets to leave when its terminal is gone.
HANGUP_TIME = 2
# Seconds between two looks whether the command has ended, at most.
LOOK = 0.1
# When it has, others may print for ever: how many bytes are shown then, more than a terminal holds, and for how many
# seconds, unless more than so many bytes wait.
LAST_BYTES, LAST_TIME, LITTLE = 128 * 1024, 1, 2048
# Erasing takes a whole character: IUTF8 of Linux and macOS, which termios does not name.
IUTF8 = 0o40000


def main():
    rows, columns, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    master, slave = os.openpty()
    resize(master, rows, columns)
    mode = termios.tcgetattr(slave)
    mode[0] |= IUTF8
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    pid = os.fork()
    if not pid:
        os.close(master)
        own_terminal(slave)
        sys.argv[1:] = sys.argv[4:]
        exec(COMMAND, {'__name__': 'command'})
        python(where)
    os.close(slave)
    # Nobody else has it: when this process ends it closes, and whoever has the terminal is hung up on.
    os._exit(shell_status(Relay(pid, master).run()))


def own_terminal(slave):
    """Make it the controlling terminal of a new session, and 0, 1 and 2."""
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)
    for name in 'SIGINT', 'SIGQUIT', 'SIGTSTP', 'SIGHUP', 'SIGTERM':
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def python(where):
    """Python's own prompt, as its console has it, with imports from the other side."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    import code
    held = {}  # as long as this function runs: what it holds is what this program runs in
    exec(CONSOLE, held)
    space = held['begin']()
    try:
        import readline
        import rlcompleter
        readline.set_completer(rlcompleter.Completer(space).complete)
        readline.parse_and_bind('tab: complete')
    except ImportError:
        pass
    sys.ps1, sys.ps2 = '%s>>> ' % where, '%s... ' % where
    banner = 'Python %s on %s. exit() or Ctrl-D ends it.' % (sys.version.split()[0], sys.platform)
    console = code.InteractiveConsole(space)
    if SCRIPT:
        first(console, space)
        banner = ''
    if sys.version_info >= (3, 6):
        console.interact(banner, exitmsg='')
    else:
        console.interact(banner)
    sys.stdout.flush()
    os._exit(0)


def first(console, space):
    """Run SCRIPT as python -i does: whatever ends it is shown, and its names stay."""
    from binascii import a2b_base64
    import linecache
    native = (lambda text: os.fsdecode(a2b_base64(text))) if sys.version_info[0] == 3 else a2b_base64
    path, name = native(SCRIPT[0]), native(SCRIPT[1])
    sys.argv[:] = [path] + [native(argument) for argument in SCRIPT[3]]
    try:
        if SCRIPT[2] is None:
            sys.argv[0] = '-m'
            from runpy import _run_module_as_main
            _run_module_as_main(path)
        else:
            if sys.version_info < (3, 9):
                name = path
            source = a2b_base64(SCRIPT[2])
            space['__file__'] = name
            # No file on this disk has them.
            linecache.cache[name] = len(source), None, source.decode('utf-8', 'replace').splitlines(True), name
            exec(compile(source.replace(b'\r\n', b'\n') + b'\n', name, 'exec', 0, 1), space)
    except BaseException:
        console.showtraceback()
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except (AttributeError, EnvironmentError, ValueError):
            pass


def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


def shell_status(status):
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


class Relay(object):
    """Carries what is typed to the terminal, and what is shown from it, until the process is gone."""

    def __init__(self, pid, master):
        self.pid = pid
        self.master = master
        self.came = b''  # of a message that is not whole
        self.waiting = b''  # for the terminal
        self.shown = 0
        fcntl.fcntl(master, fcntl.F_SETFL, fcntl.fcntl(master, fcntl.F_GETFL) | os.O_NONBLOCK)

    def run(self):
        # Somebody has the terminal. A command may let go of it, and run on.
        typing = held = True
        pause, looked = 0.001, 0
        while True:
            reads = ([self.master] if held else []) + ([0] if typing and len(self.waiting) < MAX_WAITING else [])
            try:
                # A command that has left others at the terminal is noticed later.
                ready, room, _ = select.select(reads, [self.master] if self.waiting and held else [], [],
                                               LOOK if held else pause)
            except (OSError, select.error) as e:
                if e.args[0] != errno.EINTR:
                    raise
                continue
            if 0 in ready:
                data = os.read(0, 65536)
                typing = bool(data)
                if not data:
                    return self.hang_up()
                self.take(data)
            if room:
                self.type()
            if self.master in ready and not self.show():
                held = False
            if not held:
                pause = min(2 * pause, LOOK)
            now = time.time()
            if not ready or not held or not 0 <= now - looked < LOOK:
                looked = now
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.last_words()
                    return status

    def take(self, data):
        self.came += data
        while len(self.came) >= 5:
            kind, size = struct.unpack('>cL', self.came[:5])
            if len(self.came) < 5 + size:
                return
            body, self.came = self.came[5:5 + size], self.came[5 + size:]
            if kind == b'd':
                self.waiting += body
                self.type()
            elif kind == b'w':
                resize(self.master, *struct.unpack('>HH', body))

    def type(self):
        try:
            self.waiting = self.waiting[os.write(self.master, self.waiting):]
        except OSError as e:
            if e.errno == errno.EIO:
                self.waiting = b''
            elif e.errno not in (errno.EAGAIN, errno.EINTR):
                raise

    def show(self):
        """False once nobody has the terminal any more."""
        try:
            data = os.read(self.master, 65536)
        except OSError as e:
            return e.errno in (errno.EAGAIN, errno.EINTR)
        if not data:
            return False
        self.shown += len(data)
        while data:
            data = data[os.write(1, data):]
        return True

    def last_words(self):
        """Show what the command has printed."""
        end, before = time.time() + LAST_TIME, self.shown
        while self.shown - before < LAST_BYTES:
            at = self.shown
            try:
                if not select.select([self.master], [], [], LOOK)[0] or not self.show():
                    return
            except (OSError, select.error) as e:
                if e.args[0] != errno.EINTR:
                    raise
            if time.time() > end and self.shown - at < LITTLE:
                return

    def hang_up(self):
        os.close(self.master)
        end = time.time() + HANGUP_TIME
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            if time.time() > end:
                os.kill(self.pid, signal.SIGKILL)
                return os.waitpid(self.pid, 0)[1]
            time.sleep(0.02)


main()
