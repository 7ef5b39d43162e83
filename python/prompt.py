"""
The program of `mitogend repl` on several targets: it runs what is typed elsewhere. sys.argv has what command.py has,
whose text is COMMAND, without a command.

On stdin come messages: a letter, the length of what follows in four bytes, and that, in UTF-8: n, the mark, first of
all; m, is there more to come of this text?; s, run it; c, what may follow this word?; i, interrupt what runs. Each of
m, s and c is answered on stdout by a NUL, the mark, the length of the answer in eight hex digits, a newline and the
answer: 1 or 0; nothing; words, one a line. Once s is done, a NUL and so on go to stderr, too: all that comes before
is what was printed. The end of stdin ends it.
"""
import code
import codeop
import os
import signal
import struct
import sys
import threading
import warnings


class Prompt(object):

    def __init__(self):
        # What is typed is the prompt's, and no program that is started here reads it.
        self.fd = os.dup(0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.mark = self.read()[1]
        self.orders = []
        self.lock = threading.Lock()  # guards the following two
        self.running = False
        self.waited_r, self.waited_w = os.pipe()
        self.main = threading.current_thread().ident
        self.console = console = {}  # held: what it holds is what runs here
        exec(CONSOLE, console)
        self.space = console['begin']()
        self.python = code.InteractiveInterpreter(self.space)
        self.words = None

    def read(self):
        """One message; None at the end."""
        head = self.some(5)
        if len(head) < 5:
            return None
        kind, size = struct.unpack('>cL', head)
        body = self.some(size)
        return (kind, body) if len(body) == size else None

    def some(self, size):
        data = b''
        while len(data) < size:
            more = os.read(self.fd, min(size - len(data), 65536))
            if not more:
                break
            data += more
        return data

    def listen(self):
        """On a thread of its own: an order that interrupts another one cannot wait for it."""
        while True:
            message = self.read()
            if message and message[0] == b'i':
                with self.lock:
                    if self.running:
                        self.interrupt()
                continue
            self.orders.append(message)
            os.write(self.waited_w, b'x')
            if not message:
                return

    def interrupt(self):
        if hasattr(signal, 'pthread_kill'):
            signal.pthread_kill(self.main, signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    def run(self):
        thread = threading.Thread(target=self.listen)
        thread.daemon = True
        thread.start()
        while True:
            try:
                # No lock of Python's: 2.x cannot be interrupted while it waits for one.
                if not os.read(self.waited_r, 1):
                    return
            except (KeyboardInterrupt, OSError):
                continue
            message = self.orders.pop(0)
            if not message:
                return
            kind, text = message[0], message[1].decode('utf-8', 'replace')
            if kind == b's':
                self.execute(text)
                self.answer(1)
                self.answer(2)
            elif kind == b'm':
                self.answer(1, b'1' if self.more(text) else b'0')
            elif kind == b'c':
                self.answer(1, '\n'.join(self.complete(text)).encode('utf-8'))

    def answer(self, fd, data=b''):
        data = b'\0' + self.mark + ('%08x\n' % len(data)).encode() + data
        while data:
            data = data[os.write(fd, data):]

    def more(self, text):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                return codeop.compile_command(text, '<console>', 'single') is None
        except (SyntaxError, OverflowError, ValueError):
            return False

    def execute(self, text):
        try:
            with self.lock:
                self.running = True
            try:
                if self.python.runsource(text, '<console>', 'single'):
                    sys.stderr.write('  File "<console>"\nSyntaxError: for this Python there is more to come\n')
            finally:
                with self.lock:
                    self.running = False
        except KeyboardInterrupt:
            # It came when all was done.
            pass
        for stream in sys.stdout, sys.stderr:
            try:
                stream.flush()
            except Exception:
                pass

    def complete(self, word):
        try:
            if self.words is None:
                import rlcompleter
                self.words = rlcompleter.Completer(self.space)
            out = []
            while len(out) < 200:
                found = self.words.complete(word, len(out))
                if found is None:
                    break
                out.append(found)
            return out
        except Exception:
            return []


exec(COMMAND, {'__name__': 'command'})
signal.signal(signal.SIGINT, signal.default_int_handler)
Prompt().run()
