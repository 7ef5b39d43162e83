"""
Compiles source for children of this Python, and runs none of it. The daemon starts this with `-I -S` (2.x: `-E -s
-S`) and sets its limits. On descriptor 1 it says first what it is: `MITOCODE`, its pid, its magic number in hex and
the file of its library; or why it is of no use. Then it answers each request on descriptor 0, in order, until that
ends.

A request is HEAD (its number, the size of the file's name, the size of the source), the name and the source. An
answer is ANSWER (the number, a checksum of name and source, the milliseconds of processor time so far, the size of
the rest) and the marshalled code as zlib. It is empty for what cannot be compiled, and for what the compiler warns
of: the child is to say that.
"""
import marshal
import os
import struct
import sys
import warnings
import zlib

HEAD = struct.Struct('>LLL')
ANSWER = struct.Struct('>LLLL')


def read(n):
    data = b''
    while len(data) < n:
        chunk = os.read(0, min(n - len(data), 1 << 20))
        if not chunk:
            os._exit(0)
        data += chunk
    return data


def write(data):
    while data:
        data = data[os.write(1, data):]


def magic():
    if sys.version_info[0] == 2:
        import imp
        return imp.get_magic()
    return sys.modules['_frozen_importlib_external'].MAGIC_NUMBER


def hello():
    if not __debug__ or hasattr(sys, 'gettotalrefcount') or 't' in getattr(sys, 'abiflags', ''):
        return 'MITOCODE a special build\n'
    number = bytearray(magic())
    return 'MITOCODE %d %x %s\n' % (os.getpid(), number[0] + number[1] * 256, os.path.abspath(os.__file__))


def code(name, source):
    try:
        if sys.version_info[0] == 2:
            # As the 2.x importer does it.
            source = source.replace(b'\r\n', b'\n').replace(b'\r', b'\n') + b'\n'
        else:
            name = name.decode('utf-8', 'surrogateescape')
        return zlib.compress(marshal.dumps(compile(source, name, 'exec', 0, 1)))
    except Exception:
        return b''


def main():
    warnings.simplefilter('error')
    text = hello()
    write(text if isinstance(text, bytes) else text.encode('utf-8', 'surrogateescape'))
    while 1:
        number, name, source = HEAD.unpack(read(HEAD.size))
        name, source = read(name), read(source)
        answer = code(name, source)
        spent = os.times()
        check = zlib.crc32(source, zlib.crc32(name)) & 0xffffffff
        write(ANSWER.pack(number, check, int(1000 * (spent[0] + spent[1])), len(answer)) + answer)


main()
