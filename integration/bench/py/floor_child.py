"""The far end of the floor: raw reads and writes on a socket at descriptor 0, no library at all."""

import io
import os
import struct
import sys

stdin = io.open(0, 'rb', buffering=0)


def read_exactly(n, into=None):
    view = memoryview(into if into is not None else bytearray(n))
    at = 0
    while at < n:
        got = stdin.readinto(view[at:n])
        if not got:
            sys.exit(0)
        at += got
    return view


def write_all(data):
    view = memoryview(data)
    while len(view):
        view = view[os.write(0, view):]


def echo():
    while True:
        data = os.read(0, 65536)
        if not data:
            return
        os.write(0, data)


def sink():
    """Reads a length and that many bytes, and answers with one byte."""
    buf = None
    while True:
        (n,) = struct.unpack('>Q', read_exactly(8).tobytes())
        if buf is None or len(buf) < n:
            buf = bytearray(n)
        read_exactly(n, buf)
        os.write(0, b'x')


def source():
    """Reads a length and sends that many bytes."""
    data = b''
    while True:
        (n,) = struct.unpack('>Q', read_exactly(8).tobytes())
        if len(data) != n:
            data = bytes(bytearray(n))
        write_all(data)


def importer():
    """Reads a module's name a line, imports it, and answers with the seconds."""
    import importlib
    import time
    for name in iter(sys.stdin.readline, ''):
        t = time.perf_counter()
        importlib.import_module(name.strip())
        os.write(0, ('%.9f\n' % (time.perf_counter() - t)).encode())


globals()[sys.argv[1]]()
