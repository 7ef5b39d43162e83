"""What the children run. One dialect for 2.7 and 3.6+."""

import os

_blobs = {}


def nothing():
    return None


def size(data):
    return len(data)


def blob(n):
    """n bytes, half of them above 127; made once."""
    data = _blobs.get(n)
    if data is None:
        data = _blobs[n] = (os.urandom(65536) * (n // 65536 + 1))[:n]
    return data


def prepare(n):
    blob(n)


def status_kb(key):
    with open('/proc/self/status') as fp:
        for line in fp:
            if line.startswith(key + ':'):
                return int(line.split()[1])


def import_name(name):
    __import__(name)


_sink = []


def open_sink():
    _sink[:] = [open('/dev/null', 'wb'), 0]


def write_sink(data):
    _sink[0].write(data)
    _sink[1] += len(data)


def close_sink():
    _sink[0].close()
    return _sink[1]
