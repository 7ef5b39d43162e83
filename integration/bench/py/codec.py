"""CPython's own pickle, by the C accelerator: writes the pickles that all read, and times loads and dumps.

    codec.py DIR    writes DIR/NAME.pickle for each value
    codec.py        a driver (see peer.py)
"""

import os
import pickle
import sys
import zlib

import peer

import mitogen.core
from mitogen.core import Blob, Kwargs


def module_record():
    """A LOAD_MODULE record of 20 kB, as a real package's larger module makes it."""
    import random
    source = b'\n'.join(b'def f%d(self, a, b=%d): return %d' % (i, i, random.Random(i).getrandbits(300)) for i in range(400))
    body = zlib.compress(source, 9)
    body = (body * (20000 // len(body) + 1))[:20000]
    related = tuple('package.sub%d.module%d' % (i % 7, i) for i in range(30))
    return (u'package.module', None, u'/usr/lib/python3/dist-packages/package/module.py', Blob(body), related)


def mixed():
    """8,700 values of all kinds, as an inventory or a set of facts has them."""
    hosts = []
    for i in range(311):
        hosts.append({
            u'name': u'host%03d.example.net' % i,
            u'address': (10, 0, i // 256, i % 256),
            u'up': i % 7 != 0,
            u'load': i / 7.0,
            u'memory': i * 1048576 * 1024,
            u'owner': None,
            u'tags': [u'tag%d' % (i % k) for k in range(1, 6)],
            u'key': b'key-%d' % i,
            u'note': u'caf\xe9 %d' % i,
        })
    return hosts


VALUES = [
    ('call', (u'chain-1', u'package.module', None, u'function', (1, u'two', b'three', 4.0, [5, 6], None),
              Kwargs({u'verbose': True, u'name': u'value'}))),
    ('module', module_record()),
    ('mixed', mixed()),
    ('bytes', (os.urandom(65536) * 16)[:1000000]),
]


def count(v):
    """How many values there are in a value."""
    if isinstance(v, dict):
        return 1 + sum(count(k) + count(w) for k, w in v.items())
    if isinstance(v, (list, tuple)):
        return 1 + sum(count(w) for w in v)
    return 1


def timed(f, arg):
    """Seconds for one f(arg), by as many rounds as fill 60 ms."""
    rounds, spent = 1, 0.0
    while True:
        t = peer.now()
        for _ in range(rounds):
            f(arg)
        spent = peer.now() - t
        if spent > 0.06:
            return spent / rounds
        rounds = max(rounds * 2, int(rounds * 0.08 / max(spent, 1e-9)))


def dumps(v):
    return pickle.dumps(v, protocol=2)


class Codec(peer.Experiment):
    def sample(self, n):
        metrics = {}
        for name, value in VALUES:
            data = dumps(value)
            metrics['dumps_' + name] = timed(dumps, value)
            metrics['loads_' + name] = timed(pickle.loads, data)
        return metrics


if __name__ == '__main__':
    if len(sys.argv) == 2:
        os.makedirs(sys.argv[1])
        for name, value in VALUES:
            with open(os.path.join(sys.argv[1], name + '.pickle'), 'wb') as fp:
                fp.write(dumps(value))
    else:
        peer.serve({'codec': Codec})
