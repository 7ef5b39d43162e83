"""Times CPython's own pickle on the values of the Go benchmarks.

    bench.py DIR        writes the pickles (protocol 2) to DIR
    bench.py            prints "name loads_ns dumps_ns size" for each
"""
import pickle
import random
import sys
import time
import types
import zlib

# The classes have to be found under the names that are on the wire.
mitogen = types.ModuleType('mitogen')
core = mitogen.core = types.ModuleType('mitogen.core')
sys.modules['mitogen'], sys.modules['mitogen.core'] = mitogen, core


class Blob(bytes):
    def __reduce__(self):
        return Blob, (bytes(self),)


class Kwargs(dict):
    def __reduce__(self):
        return Kwargs, (dict(self),)


for cls in Blob, Kwargs:
    cls.__module__ = 'mitogen.core'
    cls.__qualname__ = cls.__name__
    setattr(core, cls.__name__, cls)


def mixed():
    """About 8,700 values of all kinds, as an inventory has them."""
    out = []
    for i in range(290):
        out.append({
            u'id': i, u'name': u'host%d.example.org' % i, u'memory': i * 1234567890, u'load': i / 7.0,
            u'up': i % 7 != 0, u'error': None, u'tags': [u'web', u'tag%d' % (i % 10), u'x' * (i % 20)],
            u'owner': (u'user%d' % (i % 5), 1000 + i), u'address': (10, 0, i // 256, i % 256),
            u'key': b'key-%d' % i, u'note': u'caf\xe9 %d' % i,
        })
    return out


def values():
    rnd = random.Random(1)
    source = bytes(bytearray(rnd.randrange(256) for _ in range(20000)))
    return [
        ('call', (None, 'mod', None, 'fn', (1, 'x'), Kwargs({}))),
        ('module', ('django.db.models.base', None, '/usr/lib/python3/dist-packages/django/db/models/base.py',
                    Blob(source), ['django.db.models.%d' % i for i in range(20)])),
        ('mixed', mixed()),
        ('bytes', bytes(bytearray(rnd.randrange(256) for _ in range(1 << 20)))),
    ]



def clock(fn, *args, **kwargs):
    """The best of several runs, in nanoseconds of CPU time for one call."""
    n, best = 1, None
    while True:
        t = time.process_time()
        for _ in range(n):
            fn(*args, **kwargs)
        took = time.process_time() - t
        if took > 0.05:
            break
        n *= 2
    for _ in range(7):
        t = time.process_time()
        for _ in range(n):
            fn(*args, **kwargs)
        took = (time.process_time() - t) / n
        best = took if best is None else min(best, took)
    return best * 1e9


def main():
    for name, value in values():
        data = pickle.dumps(value, 2)
        if len(sys.argv) > 1:
            with open('%s/%s.pickle' % (sys.argv[1], name), 'wb') as f:
                f.write(data)
            continue
        loads = clock(pickle.loads, data, encoding='bytes')
        dumps = clock(pickle.dumps, value, 2)
        print(name, int(loads), int(dumps), len(data))


if __name__ == '__main__':
    main()
