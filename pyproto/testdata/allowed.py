"""Reads pickles in hex, one a line, with the names that package pyproto knows and no others, and answers each with a line: what
CPython makes of it, or "refused". Protocol 2 of Python 3 is read as the daemon does, with bytes for what 2.x wrote.
"""
import binascii
import io
import pickle
import resource
import struct
import sys

DEEP = 60
SIZE = 20000


class Made(object):
    def __init__(self, name, args):
        self.name = name
        self.args = args

    def __hash__(self):
        return hash((self.name, self.args))

    def __eq__(self, other):
        return isinstance(other, Made) and (self.name, self.args) == (other.name, other.args)


class Refused(Exception):
    pass


def maker(name, check):
    def make(*args):
        if not check(*args):
            raise Refused(name)
        return Made(name, args)
    return make


def number(n):
    return type(n) is int and 0 <= n < 1 << 32


def encode(text, codec):
    if type(text) is not str or codec not in ('latin1', 'latin-1', 'iso-8859-1'):
        raise Refused('encode')
    return text.encode('latin1')


def no_bytes(*args):
    if args:
        raise Refused('bytes')
    return b''


NAMES = {
    ('mitogen.core', 'Blob'): maker('Blob', lambda b: type(b) is bytes),
    ('mitogen.core', 'Secret'): maker('Secret', lambda s: type(s) is str),
    ('mitogen.core', '_unpickle_sender'): maker('Sender', lambda c, h: number(c) and number(h) and h > 0),
    ('_codecs', 'encode'): encode,
    ('__builtin__', 'bytes'): no_bytes,
    ('builtins', 'bytes'): no_bytes,
}


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return NAMES[module, name]
        except KeyError:
            raise Refused(name)

    def persistent_load(self, pid):
        raise Refused(pid)


class Show(object):
    """Writes a value so that each has one text; what is very deep or large is not compared."""
    def __init__(self):
        self.left = SIZE

    def show(self, v, depth=0):
        self.left -= 1
        if self.left < 0 or depth > DEEP:
            raise OverflowError
        t = type(v)
        if v is None or t is bool:
            return str(v)
        if t is int:
            return 'i%x' % v
        if t is float:
            return 'nan' if v != v else 'f' + binascii.hexlify(struct.pack('>d', v)).decode()
        if t is str:
            return 'u' + binascii.hexlify(v.encode('utf-8', 'surrogatepass')).decode()
        if t in (bytes, bytearray):
            return 'b' + binascii.hexlify(bytes(v)).decode()
        if t in (list, tuple):
            return '[('[t is tuple] + ','.join([self.show(x, depth + 1) for x in v]) + '])'[t is tuple]
        if t is dict:
            return '{' + ','.join([self.show(k, depth + 1) + ':' + self.show(x, depth + 1) for k, x in v.items()]) + '}'
        if t is Made:
            return v.name + self.show(v.args, depth + 1)
        raise Refused(t)


def main():
    # The memo is as long as its highest number, which four bytes can make 2**32.
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    for line in sys.stdin:
        stream = io.BytesIO(binascii.unhexlify(line.strip()))
        try:
            value = Reader(stream, encoding='bytes').load()
            if stream.read(1):
                raise Refused('rest')
            out = Show().show(value)
        except (OverflowError, RecursionError, MemoryError):
            out = 'large'
        except Exception:
            out = 'refused'
        sys.stdout.write(out + '\n')
        sys.stdout.flush()


if __name__ == '__main__':
    main()
