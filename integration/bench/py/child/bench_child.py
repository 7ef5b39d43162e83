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


def sink(channel):
    """Writes what comes to nowhere, and gives its size."""
    size = 0
    with open('/dev/null', 'wb') as fp:
        for data in channel:
            fp.write(data)
            size += len(data)
    return size
