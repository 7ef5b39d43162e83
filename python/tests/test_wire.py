"""What comes in: pickles from contexts that are no parents, and what ends a wait."""
from __future__ import absolute_import

import pickle
import struct
import time

import harness
from test_parent import frame

core = harness.load()
MANY = 50000000


class WireTest(harness.TestCase):
    def setUp(self):
        self.master = self.parent({})
        import mitogen.api
        self.api = mitogen.api

    def message(self, data, auth=7):
        return core.Message(1, 7, auth, 1000, 0, data)

    def test_amplifiers(self):
        """
        A short pickle that costs much is refused, whoever sends it; before Python reads it, if no parent sends it.
        """
        text = lambda s: b'X' + struct.pack('<L', len(s)) + s
        for name, body in (
                ('bytes', b'c__builtin__\nbytes\nJ' + struct.pack('<l', MANY) + b'\x85R.'),
                ('bytes of Python 3', b'cbuiltins\nbytes\nJ' + struct.pack('<l', MANY) + b'\x85R.'),
                ('Blob', b'cmitogen.core\nBlob\nJ' + struct.pack('<l', MANY) + b'\x85R.'),
                ('a value as text', b'cmitogen.core\nSecret\n]](h\x00h\x00e\x85R.'),
                ('a format', b'cmitogen.core\nCallError\n' + text(b'%50000000d') + b'K\x01\x86R.'),
                ('encode', b'c_codecs\nencode\nK\x01' + text(b'latin1') + b'\x86R.'),
                ('a method', b'cmitogen.core\nReceiver\n)R.'),
                ('os', b'cos\nsystem\n' + text(b'true') + b'\x85R.')):
            started = time.time()
            for read in (lambda: core.loads(b'\x80\x02' + body), lambda: self.message(b'\x80\x02' + body).unpickle()):
                with self.assertRaises(Exception):
                    read()
                    raise AssertionError(name)
            self.assertLess(time.time() - started, 5, name)
        for name, body in (
                ('a far memo', b'Nr\xff\xff\xff\x3f.'),
                ('a far memo in a large message', b'Nr\x00\x00\x00\x08.' + b'N' * 1000000),
                ('a memo in digits', b'Np1073741823\n.'),
                ('an int of many digits', b'I' + b'9' * 1000000 + b'\n.'),
                ('a long of many digits', b'L' + b'9' * 1000000 + b'L\n.'),
                ('a float of many digits', b'F' + b'9' * 1000000 + b'\n.'),
                ('attributes of a class', b'cmitogen.core\nKwargs\n(N}' + text(b'items') + b'K\x01st' + b'b.'),
                ('an object without its constructor', b'cmitogen.core\nKwargs\n)\x81.'),
                ('a count below 0', b'T\xff\xff\xff\xff.'),
                ('nothing that is known', b'\xfe.'),
                ('half of it', b'J\x01')):
            started = time.time()
            with self.assertRaises(core.Error) as caught:
                self.message(b'\x80\x02' + body).unpickle()
            self.assertTrue('pickler' in str(caught.exception), name)
            self.assertTrue(len(str(caught.exception)) < 200)
            self.assertLess(time.time() - started, 5, name)

    def test_keys_that_take_long(self):
        """Tuples that have tuples twice, as a key: Python hashes it in full, holding the GIL. Refused before that."""
        pair = lambda n: b''.join([b'h%ch%c\x86q%c' % (i, i, i + 1) for i in range(n)])
        many = lambda n: b''.join([b'(h\0h\0tq\0' for _ in range(n)])
        chain = lambda n: b''.join([b'q%cq%ch%ch%c\x86' % (i, i + 1, i, i + 1) for i in range(0, 2 * n, 2)])
        for name, body in (
                ('a pair of pairs', b'}(Nq\0' + pair(60) + b'Nu.'),
                ('one item', b'}Nq\0' + pair(60) + b'Ns.'),
                ('one number of the memo', b'}Nq\0' + many(60) + b'Ns.'),
                ('put twice', b'}N\x85' + chain(60) + b'Ns.'),
                ('put behind a mark', b'}N\x85(q\x01h\x01t0q\x02' + b''.join([b'(q\x02h\x02h\x02t' for _ in range(60)]) + b'Ns.'),
                ('found below what goes', b'}Nq\0' + b''.join([b'h\0h\0\x86N0q\0' for _ in range(60)]) + b'Ns.'),
                ('long numbers', b'}Nq\0' + b''.join([b'j\0\0\0\0j\0\0\0\0\x86r\0\0\0\0' for _ in range(60)]) + b'Ns.'),
                ('between texts', b'}Nq\0' + b''.join([b'h\0h\0X\1\0\0\0x\x87q\0' for _ in range(60)]) + b'Ns.'),
                ('one long key, often', b'}(' + b'N' * 100000 + b'tq\0' + b'0}(' + b'h\0N' * 100 + b'u.')):
            with self.assertRaises(core.Error) as caught:
                self.api.check(b'\x80\x02' + body)
            self.assertTrue('pickler' in str(caught.exception), name)
        # What is no key costs nothing; nor does what a program sends.
        shared = ((1, 2),) * 2
        deep = ()
        for _ in range(30):
            deep = (deep, deep)
        for value in {shared: 1, (shared, shared): 2, (): 3}, [{shared: i} for i in range(1000)], (deep, [deep]):
            data = pickle.dumps(value, 2)
            self.api.check(data)
        self.assertEqual(self.message(pickle.dumps({shared: 1}, 2)).unpickle(), {shared: 1})

    def test_honest_pickles(self):
        """What picklers write is read."""
        deep = []
        for _ in range(100):
            deep = [deep, (deep,), {1: deep}]
            deep = deep[0]
        same = [1, 2]
        values = [
            None, True, False, 0, 1, -1, 255, 256, 65535, 65536, -2 ** 31, 2 ** 31, 2 ** 40, -2 ** 63, 2 ** 64, 2 ** 3000, -2 ** 3000, 1.5,
            float('inf'), u'', u'text', u'\u20ac' * 300, b'', b'bytes', b'\x00\xff' * 40000, [], (), {}, (1,), (1, 2), (1, 2, 3),
            (1, 2, 3, 4), [same, same], {u'k': [1, {2: (3,)}]}, deep, [[u'%d' % i, (i, 1.0 * i)] for i in range(100000)],
            dict((u'key %d' % i, i) for i in range(70000)), [(u'a', b'b')] * 1000]
        recursive = []
        recursive.append((recursive,))
        for value in values:
            for protocol in 2, 3 if core.PY3 else 2:
                self.assertEqual(self.message(pickle.dumps(value, protocol)).unpickle(), value)
            self.assertEqual(self.message(core.dumps(value, 2)).unpickle(), value)
        for value in values + [recursive]:
            self.api.check(pickle.dumps(value, 2))
        blob, secret = core.Blob(b'x' * 1000), self.api.Secret(u's\xe9cret')
        for value in core.Blob(b''), blob, core.Blob(b'\xff'), secret, core.Kwargs({u'a': 1}):
            got = self.message(core.dumps(value, 2)).unpickle()
            self.assertEqual((type(got), got), (type(value), value))
        context = core.router.context_by_id(5, u'name')
        got = self.message(core.dumps([context, self.api.Sender(context, 1234)], 2)).unpickle()
        self.assertTrue(got[0] is context and got[1].context is context)
        error = self.message(core.dumps(self.api.CallError(u'x.Y: why'), 2))
        self.assertEqual(error.unpickle(throw=False).args, (u'x.Y: why',))
        with self.assertRaises(self.api.CallError):
            error.unpickle()
        # Parents are trusted with what Python's own pickler of any protocol writes.
        self.assertEqual(self.message(pickle.dumps(2 ** 3000, 0), auth=0).unpickle(), 2 ** 3000)

    def test_contexts_have_a_bound(self):
        context = core.router.context_by_id(5, u'name')
        data = core.dumps([context], 2).replace(b'K\x05', b'J%s')
        for i in range(2 * self.api.MAX_CONTEXTS):
            got = self.message(data.replace(b'%s', struct.pack('<l', i + 1000))).unpickle()
            self.assertEqual(got[0].context_id, i + 1000)
        self.assertTrue(len(core.router.contexts) <= self.api.MAX_CONTEXTS)
        self.assertEqual(core.router.context_by_id(5), context)

    def test_dead_messages(self):
        """In a leaf: from the respondent and from parents."""
        got = []
        for src, auth, ends in (9, 9, True), (8, 8, False), (9, 8, True), (0, 0, True), (8, 0, True):
            del got[:]
            handle = core.router.add_handler(got.append, persist=False, respondent=core.router.context_by_id(9))
            self.master.socket.sendall(frame(1, src, auth, handle, b'no', reply_to=core.IS_DEAD))
            latch = core.Latch()
            self.master.send(core.router.add_handler(latch.put, persist=False), b'')
            latch.get(harness.DEADLINE)
            self.assertEqual([m.data for m in got], [b'no'] if ends else [], (src, auth))


if __name__ == '__main__':
    harness.main()
