"""Reads pickles that Go wrote, as a peer does, and compares them with the values of golden.py.

    read.py FILE        lines of a name and a pickle in hex; prints what differs
"""
import binascii
import struct
import sys

import golden
from golden import core, long_int, text

if golden.REAL:
    # The way that a message takes.
    class Router(core.Router):
        def __init__(self):
            pass

        def context_by_id(self, context_id, via_id=None, create=True, name=None):
            return core.Context(self, context_id, name=name)

    def unpickle(data):
        message = core.Message(data=data)
        message.router = Router()
        return message.unpickle(throw=False)

    LOADERS = [unpickle]
elif golden.PY2:
    import cPickle
    import pickle
    LOADERS = [cPickle.loads, pickle.loads]
else:
    import pickle
    LOADERS = [lambda b: pickle.loads(b, encoding='bytes'), lambda b: pickle._loads(b, encoding='bytes')]


def kind(v):
    # 2.x has two types of integers, and which one a number has is no matter.
    return int if type(v) is long_int else type(v)


def same(a, b):
    if kind(a) is not kind(b):
        return False
    if isinstance(a, float):
        return struct.pack('>d', a) == struct.pack('>d', b) or (a != a and b != b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(k in b and same(v, b[k]) for k, v in a.items())
    if isinstance(a, core.CallError):
        return same(a.args, b.args)
    if isinstance(a, core.Context):
        return same((a.context_id, a.name), (b.context_id, b.name))
    if isinstance(a, core.Sender):
        return same((a.context, a.dst_handle), (b.context, b.dst_handle))
    return a == b


def main():
    want = dict(list(golden.values()) + list(golden.large()))
    bad = 0
    for line in open(sys.argv[1]):
        name, data = line.split()
        for loads in LOADERS:
            try:
                got = loads(binascii.unhexlify(data))
            except Exception as e:
                got = e
            if not same(got, want[name]):
                bad += 1
                print('%s: got %.200r, want %.200r' % (name, got, want[name]))
    print('%d differ' % bad)
    sys.exit(bool(bad))


if __name__ == '__main__':
    main()
