"""Writes pickles of the values that peers send, by the interpreter that runs it.

    golden.py FILE

Adds to FILE, which has a line for each different pickle: name, protocol and pickler ("c" is the accelerator, "py" the
module in Python), zlib in base64, and the versions that write it. To make the file anew, remove it and run this script under each
interpreter.

The pickles name mitogen.core, so small stand-ins with Mitogen's __reduce__ methods are put there. With GOLDEN_REAL set,
the classes are those of a real Mitogen on PYTHONPATH.
"""
import base64
import os
import sys
import types
import zlib

try:
    import cPickle as pickle
    picklers = [('c', pickle.dumps)]
    import pickle as py_pickle
    picklers.append(('py', py_pickle.dumps))
except ImportError:
    import pickle
    picklers = [('c', pickle.dumps), ('py', pickle._dumps)]

PY2 = sys.version_info[0] == 2
if PY2:
    text = unicode
    long_int = long
else:
    text = str
    long_int = int


def stand_in():
    mitogen, core = types.ModuleType('mitogen'), types.ModuleType('mitogen.core')
    mitogen.core = core
    sys.modules['mitogen'], sys.modules['mitogen.core'] = mitogen, core

    class Blob(bytes):
        def __reduce__(self):
            return Blob, (bytes(self),)

    class Secret(text):
        def __reduce__(self):
            return Secret, (text(self),)

    class Kwargs(dict):
        def __reduce__(self):
            return Kwargs, (dict(self),)

    def _unpickle_call_error(s):
        return CallError(s)

    class CallError(Exception):
        def __reduce__(self):
            return _unpickle_call_error, (self.args[0],)

    def _unpickle_context(context_id, name):
        return Context(None, context_id, name)

    class Context(object):
        def __init__(self, router, context_id, name=None):
            self.context_id, self.name = context_id, name

        def __reduce__(self):
            return _unpickle_context, (self.context_id, self.name)

    def _unpickle_sender(context_id, dst_handle):
        return Sender(Context(None, context_id), dst_handle)

    class Sender(object):
        def __init__(self, context, dst_handle):
            self.context, self.dst_handle = context, dst_handle

        def __reduce__(self):
            return _unpickle_sender, (self.context.context_id, self.dst_handle)

    for obj in (Blob, Secret, Kwargs, CallError, Context, Sender, _unpickle_call_error, _unpickle_context,
                _unpickle_sender):
        obj.__module__ = 'mitogen.core'
        obj.__qualname__ = obj.__name__
        setattr(core, obj.__name__, obj)
    return core


REAL = bool(os.environ.get('GOLDEN_REAL'))
if REAL:
    import mitogen.core as core
else:
    core = stand_in()


def values():
    shared = [1, u'x']
    word = u'shared'
    yield 'none', None
    yield 'bools', [True, False]
    yield 'ints', [0, 1, 255, 256, 65535, 65536, -1, -256, 2147483647, -2147483648, 2147483648, -2147483649,
                   9223372036854775807, -9223372036854775808]
    yield 'longs', [long_int(7), 1 << 63, -(1 << 63) - 1, 1 << 64, 1 << 2039, -(1 << 2039), (1 << 3000) + 5]
    yield 'floats', [0.0, -0.0, 1.5, -1e300, 5e-324, float('inf'), float('-inf')]
    yield 'nan', float('nan')
    yield 'text', [u'', u'abc', u'caf\xe9', u'\u20ac', u'\U0001f600', u'a\\b\n\'"\t\x00', u'\\u0041', u'x' * 300,
                   u'\xe9' * 600]
    yield 'surrogate', u'a\udc80b'
    yield 'bytes', [b'', b'abc', b'\x00\xff\\\'"\n\r\t', bytes(bytearray(range(256))), b'y' * 300, b'\xe9' * 600]
    yield 'lists', [[], [1], [1, [2, [3, []]]]]
    yield 'long_list', list(range(1100))
    yield 'tuples', [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),))]
    yield 'dicts', [{}, {u'a': 1}, {1: u'x', (1, u'y'): [2], None: {}}]
    yield 'long_dict', dict((i, u'v%d' % i) for i in range(1100))
    yield 'shared', [shared, shared, (shared,), word, word, {word: word}]
    yield 'rows', [{u'id': i, u'name': u'n%d' % i, u'raw': b'\xff%d' % i} for i in range(5)]
    yield 'blob', core.Blob(b'abc\xff')
    yield 'empty_blob', core.Blob(b'')
    yield 'secret', core.Secret(u'pa\xdf')
    yield 'kwargs', core.Kwargs({u'a': 1})
    yield 'byte_kwargs', core.Kwargs({'a': 1})
    yield 'empty_kwargs', core.Kwargs({})
    yield 'call_error', core.CallError(u'builtins.ValueError: x')
    yield 'context', core.Context(None, 3, u'web')
    yield 'nameless_context', core.Context(None, 4)
    yield 'sender', core.Sender(core.Context(None, 3), 1000)
    yield 'call', (None, u'mod', None, u'fn', (1, u'x'), core.Kwargs({u'k': b'v'}))
    yield 'module', (u'a.b', [u'c', u'd'], u'/x/a/b/__init__.py', core.Blob(b'x\x9c\xff'), [u'a.c'])
    yield 'set', set([1])
    yield 'complex', 1j
    yield 'exception', ValueError(u'x')
    yield 'function', len


def recursive():
    a = []
    a.append(a)
    yield 'recursive_list', a
    d = {}
    d[u'd'] = d
    yield 'recursive_dict', d
    t = ([],)
    t[0].append(t)
    yield 'recursive_tuple', t


def large():
    # More than one frame; only protocol 4 and up has them.
    yield 'frames', [u'z' * 30000, b'z' * 70000, u'z' * 30000, u'end']


def cases():
    for gen, first in (values(), 0), (recursive(), 0), (large(), 4):
        for name, value in gen:
            for kind, dumps in picklers:
                for protocol in range(first, pickle.HIGHEST_PROTOCOL + 1):
                    try:
                        data = dumps(value, protocol)
                    except (TypeError, ValueError, AttributeError, pickle.PicklingError):
                        continue
                    yield '%s %d%s' % (name, protocol, kind), data


def main():
    path, version = sys.argv[1], '%d.%d' % sys.version_info[:2]
    known, order = {}, []
    try:
        for line in open(path):
            name, kind, packed, versions = line.split()
            case = '%s %s' % (name, kind), zlib.decompress(base64.b64decode(packed))
            known[case] = versions.split(',')
            order.append(case)
    except IOError:
        pass
    for case in cases():
        if case not in known:
            known[case] = []
            order.append(case)
        known[case].append(version)
    with open(path, 'w') as f:
        for case in order:
            packed = base64.b64encode(zlib.compress(case[1], 9)).decode('ascii')
            f.write('%s %s %s\n' % (case[0], packed, ','.join(known[case])))


if __name__ == '__main__':
    main()
