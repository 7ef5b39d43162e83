"""Values that are not plain, as results and as arguments."""
from __future__ import absolute_import, print_function

import collections
import datetime
import decimal
import os
import sys
import time
import unittest
import uuid

import harness

core = harness.load()


class Pair(collections.namedtuple('Pair', 'left right')):
    pass


class Text(type(u'')):
    pass


class Number(int):
    pass


class Odd(object):
    pass


def numbers():
    yield 1
    yield set((2, 3))


def broken():
    yield 1
    raise ValueError('no more')


class ConvertTest(harness.TestCase):
    def setUp(self):
        self.master = self.parent({})
        import mitogen.convert
        import mitogen.plain
        self.convert, self.plain = mitogen.convert, mitogen.plain

    def call(self, function, *args, **kwargs):
        how = kwargs.pop('how', 'p')
        setattr(sys.modules['__main__'], 'function', function)
        return self.plain.call(how, '__main__', None, 'function', kwargs, list(args))

    def shown(self, value):
        out = self.call(lambda: value)
        self.assertTrue(self.plain.is_plain(out), out)
        return out

    def test_plain_values_are_not_touched(self):
        for value in (None, 1, u'x', b'x', 1.5, [1, (2, {u'a': [None]})], 1 << 80):
            self.assertIs(self.shown(value), value)
        loop = []
        loop.append(loop)
        self.assertIs(self.shown(loop), loop)

    def test_values(self):
        when = datetime.datetime(2026, 1, 2, 3, 4, 5)
        for value, want in (
                (when, u'2026-01-02T03:04:05'), (when.date(), u'2026-01-02'), (when.time(), u'03:04:05'),
                (datetime.timedelta(minutes=1.5), 90.0), (set((3, 1, 2)), [1, 2, 3]), (frozenset((u'b', u'a')), [u'a', u'b']),
                (set((1, u'a')), [1, u'a']), (Pair(1, set((2,))), {'left': 1, 'right': [2]}),
                (decimal.Decimal('1.10'), u'1.10'), (uuid.UUID(int=1), u'00000000-0000-0000-0000-000000000001'),
                (collections.OrderedDict([(u'a', when.date())]), {u'a': u'2026-01-02'}),
                (collections.defaultdict(list, {1: [set()]}), {1: [[]]}), (collections.Counter('aab'), {'a': 2, 'b': 1}),
                (collections.deque([1, 2]), [1, 2]), (bytearray(b'x'), b'x'), (memoryview(b'x'), b'x'), (1 + 2j, {'real': 1.0, 'imag': 2.0}),
                (ValueError(u'no'), {'type': ValueError.__module__ + '.ValueError', 'message': u'no'}), (Text(u'x'), u'x'), (Number(3), 3),
                ([Number(3), (Text(u'y'),)], [3, (u'y',)]), ({when.date(): 1}, {u'2026-01-02': 1}), ({1: 2}.keys(), [1]),
                ({frozenset((1,)): 2}, {(1,): 2}), (map(Number, [1]), [1]), (numbers(), [1, [2, 3]])):
            self.assertEqual(self.shown(value), want)
        self.assertEqual(self.shown(time.gmtime(0))['tm_year'], 1970)
        self.assertEqual(self.shown(os.stat('/'))['st_mode'], os.stat('/').st_mode)
        self.assertEqual(self.shown(os.environ)['PATH'], os.environ['PATH'])

    @unittest.skipIf(sys.version_info < (3, 7), 'before dataclasses')
    def test_newer_values(self):
        import dataclasses
        import enum
        import fractions
        import ipaddress
        import pathlib
        import subprocess
        import types

        kind = dataclasses.make_dataclass('Kind', [('when', datetime.date), ('inner', object)])
        for value, want in (
                (kind(datetime.date(2026, 1, 2), kind(None, 1)), {'when': '2026-01-02', 'inner': {'when': None, 'inner': 1}}),
                (enum.Enum('E', 'a b').b, 2), (enum.IntEnum('E', 'a b').b, 2), (fractions.Fraction(1, 3), '1/3'),
                (ipaddress.ip_address('::1'), '::1'), (ipaddress.ip_network('10.0.0.0/8'), '10.0.0.0/8'), (pathlib.Path('/x'), '/x'),
                (pathlib.PureWindowsPath('x'), 'x'), (types.SimpleNamespace(a={1}), {'a': [1]}),
                (types.MappingProxyType({1: {2}}), {1: [2]}), (datetime.timezone.utc, 'UTC'), (range(3), [0, 1, 2]),
                (subprocess.CompletedProcess(['x'], 0, b'o', None), {'args': ['x'], 'returncode': 0, 'stdout': b'o', 'stderr': None}),
                (datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), '2026-01-02T00:00:00+00:00')):
            self.assertEqual(self.shown(value), want)
            self.assertIs(type(self.shown(value)), type(want))

    @unittest.skipIf(sys.version_info < (3, 6), 'before async generators')
    def test_asynchronous(self):
        names = {}
        exec('async def one():\n    return {1}\nasync def some():\n    yield 1\n    yield {2}\n', names)
        self.assertEqual(self.call(names['one']), [1])
        self.assertEqual(self.call(names['some']), [1, [2]])
        self.assertEqual(self.call(names['one'], how='r'), '{1}')

    def in_lines(self, text, name='some'):
        """The number of a generator of that name in the text."""
        names = {}
        exec(text, names)
        return self.call(names[name], how='pl')[u'$lines']

    @unittest.skipIf(sys.version_info < (3, 7), 'before context variables')
    def test_asynchronous_generators_keep_their_context(self):
        number = self.in_lines("""
import contextvars, decimal
var = contextvars.ContextVar('var')
async def some():
    var.set('set before')
    with decimal.localcontext() as context:
        context.prec = 3
        yield 1
        yield str(decimal.Decimal(1) / 3)
    yield var.get()
""")
        for want in 1, '0.333', 'set before':
            self.assertEqual(self.plain.more(number, 0), [[want], True])
        self.assertEqual(self.plain.more(number, 0), [[], False])

    @unittest.skipIf(sys.version_info < (3, 11), 'before asyncio.timeout')
    def test_asynchronous_generators_have_limits_of_time(self):
        for limit in 'asyncio.timeout(0.01)', 'asyncio.timeout_at(0)':
            number = self.in_lines("""
import asyncio
async def some():
    async with %s:
        yield 1
        await asyncio.sleep(30)
""" % limit)
            self.assertEqual(self.plain.more(number, 0), [[1], True])
            self.assertRaises(TimeoutError, self.plain.more, number, 0)

    @unittest.skipIf(sys.version_info < (3, 11), 'before asyncio.TaskGroup')
    def test_a_task_that_fails_while_a_value_is_out(self):
        number = self.in_lines("""
import asyncio
async def fail():
    raise KeyError('this one')
async def some():
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        yield 1
        yield 2
        await asyncio.sleep(30)
""")
        self.assertEqual(self.plain.more(number, 0), [[1], True])
        self.assertEqual(self.plain.more(number, 0), [[2], True])
        with self.assertRaises(BaseException) as caught:
            self.plain.more(number, 0)
        self.assertIsInstance(caught.exception.exceptions[0], KeyError)

    @unittest.skipIf(sys.version_info < (3, 6), 'before async generators')
    def test_tasks_of_asynchronous_generators_are_cancelled(self):
        text = """
import asyncio
told = []
async def beside():
    try:
        await asyncio.sleep(30)
    finally:
        told.append('cancelled')
async def inner():
    try:
        yield 1
    finally:
        told.append('closed')
async def some():
    loop = asyncio.get_event_loop()
    task = loop.create_task(beside())
    await asyncio.sleep(0)
    try:
        async for value in inner():
            yield value
            yield value
    finally:
        await asyncio.sleep(0)
        told.append('left')
"""
        for early in False, True:
            names = {}
            exec(text, names)
            number = self.call(names['some'], how='pl')[u'$lines']
            self.assertEqual(self.plain.more(number, 0), [[1], True])
            if early:
                self.plain.end(number)
            else:
                self.assertEqual(self.plain.more(number, 1000), [[1], False])
            self.assertEqual(sorted(names['told']), ['cancelled', 'closed', 'left'])

    @unittest.skipIf(sys.version_info < (3, 6), 'before async generators')
    def test_asynchronous_generators_that_fail(self):
        text = 'async def some():\n    yield 1\n    raise %s\n'
        number = self.in_lines(text % 'ValueError("no more")')
        self.assertEqual(self.plain.more(number, 0), [[1], True])
        self.assertRaises(ValueError, self.plain.more, number, 0)
        number = self.in_lines(text % 'KeyboardInterrupt')
        self.assertEqual(self.plain.more(number, 0), [[1], True])
        self.assertRaises(KeyboardInterrupt, self.plain.more, number, 0)
        self.assertEqual(self.plain.OPEN, {})

    @unittest.skipIf(sys.version_info < (3, 7), 'before current_task()')
    def test_a_cancelled_generator_that_nobody_wants(self):
        number = self.in_lines('import asyncio\n'
                               'async def some():\n'
                               '    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)\n'
                               '    yield 1\n'
                               '    yield 2\n')
        self.assertEqual(self.plain.more(number, 0), [[1], True])
        self.plain.end(number)
        self.assertEqual(self.plain.OPEN, {})

    def test_one_that_fails_for_the_sake_of_another(self):
        """What is given up since there are too many fails, and the new one is none the worse."""
        def fails():
            try:
                yield 1
                yield 2
            finally:
                raise ValueError('not yours')
        old, self.plain.MAX_OPEN = self.plain.MAX_OPEN, 1
        self.addCleanup(setattr, self.plain, 'MAX_OPEN', old)
        import mitogen.convert
        first = mitogen.convert.result(fails(), 'pl')[u'$lines']
        self.assertEqual(self.plain.more(first, 0), [[1], True])
        second = mitogen.convert.result(iter([5]), 'pl')[u'$lines']
        self.assertEqual(list(self.plain.OPEN), [second])
        self.plain.end(second)

    def test_keys(self):
        pair = Pair(1, frozenset((2,)))
        for value, want in (
                (collections.Counter([Pair(1, 2)]), {(1, 2): 1}), ({(1, frozenset()): 2}, {(1, ()): 2}),
                ({frozenset((pair,)): 3}, {((1, (2,)),): 3}), ({(1, (u'a', None)): 4}, {(1, (u'a', None)): 4})):
            self.assertEqual(self.shown(value), want)
            args = {u'$dict': [[list(map(self.listed, key)), item] for key, item in want.items()]}
            self.assertEqual(self.call(lambda x: [x], args, how='a'), [want])

    def listed(self, value):
        return list(map(self.listed, value)) if isinstance(value, tuple) else value

    @unittest.skipIf(sys.version_info < (3, 7), 'before dataclasses')
    def test_keys_that_are_objects(self):
        import dataclasses
        kind = dataclasses.make_dataclass('Kind', [('x', int)], frozen=True)
        with self.assertRaisesRegex(self.convert.NotPlain, 'a dict with a key of type .*Kind'):
            self.shown({kind(1): 1})

    def test_sets_of_text_are_in_order(self):
        for items in ([u'a', u"it's", u'web', u'web #1'], [b'a', b"it's", b'web'], [-1, 2, 10, 1 << 70], [0.5, 2, 10]):
            self.assertEqual(self.shown(set(items)), items)

    @unittest.skipIf(sys.version_info < (3, 8), 'before cached_property')
    def test_properties_are_not_run(self):
        import functools
        import platform

        class Lazy(collections.namedtuple('Lazy', 'a')):
            @functools.cached_property
            def b(self):
                raise AssertionError('it was run')
        self.assertEqual(self.shown(Lazy(1)), {'a': 1})
        self.assertEqual(self.shown(platform.uname())['processor'], platform.uname().processor)

    def test_numbers_of_generators(self):
        first = self.call(numbers, how='pl')[u'$lines']
        self.plain.end(first)
        second = self.call(numbers, how='pl')[u'$lines']
        self.assertNotEqual(first, second)
        self.assertRaises(core.Error, self.plain.more, first, 0)
        self.plain.end(first)
        self.assertEqual(self.plain.more(second, 0), [[1], True])
        self.plain.end(second)

    def test_what_has_no_plain_form(self):
        for value, text in ((Odd(), '__main__.Odd'), ({u'a': [Odd()]}, '__main__.Odd'), (Odd, 'type'), (sys, 'module')):
            with self.assertRaises(self.convert.NotPlain) as caught:
                self.shown(value)
            self.assertIn(text, str(caught.exception))
        around = [set()]
        around.append(around)
        with self.assertRaises(self.convert.NotPlain):
            self.shown(around)
        with self.assertRaises(self.convert.NotPlain):
            self.shown({datetime.date(2026, 1, 2): 1, u'2026-01-02': 2})
        self.convert.MAX_VALUES = 10
        import itertools
        with self.assertRaises(self.convert.NotPlain):
            self.shown(itertools.count())
        self.assertIn('Odd object', self.call(Odd, how='r'))

    def test_lines(self):
        number = self.call(numbers, how='pl')[u'$lines']
        self.assertEqual(self.plain.more(number, 0), [[1], True])
        values, more = self.plain.more(number, 1000)
        self.assertEqual((values, more), ([[2, 3]], False))
        self.assertEqual(self.plain.OPEN, {})
        number = self.call(broken, how='pl')[u'$lines']
        self.assertEqual(self.plain.more(number, 0), [[1], True])
        self.assertRaises(ValueError, self.plain.more, number, 0)
        self.assertEqual(self.plain.OPEN, {})
        number = self.call(broken, how='pl')[u'$lines']
        self.assertEqual(self.plain.more(number, 1000), [[1], True])
        self.assertRaises(ValueError, self.plain.more, number, 1000)
        first = self.call(numbers, how='pl')[u'$lines']
        for _ in range(self.plain.MAX_OPEN):
            number = self.call(numbers, how='pl')[u'$lines']
        self.assertRaises(core.Error, self.plain.more, first, 0)
        self.assertEqual(len(self.plain.OPEN), self.plain.MAX_OPEN)
        self.plain.end(number)
        self.plain.end(number)
        self.plain.OPEN.clear()

    def test_arguments(self):
        for value, want in (
                ({u'$set': [1, [2]]}, set((1, (2,)))), ({u'$datetime': u'2026-01-02T03:04:05'}, datetime.datetime(2026, 1, 2, 3, 4, 5)),
                ({u'$date': u'2026-01-02'}, datetime.date(2026, 1, 2)), ({u'$timedelta': 90}, datetime.timedelta(seconds=90)),
                ({u'$time': u'03:04'}, datetime.time(3, 4)), ({u'$decimal': u'1.5'}, decimal.Decimal('1.5')), ({u'$tuple': [{u'$set': []}]}, (set(),)),
                ({u'$dict': [[u'$set', 1]]}, {u'$set': 1}), ({u'$dict': [[[1], {u'$set': [1]}]]}, {(1,): set((1,))}), ({u'$mine': 1}, {u'$mine': 1}),
                ({u'a': [{u'$complex': [1, 2]}], u'b': 1}, {u'a': [1 + 2j], u'b': 1})):
            got = self.call(lambda x: [x], value, how='a')[0]
            self.assertEqual(got, want)
            self.assertIs(type(got), type(want))
        when = self.call(lambda x: x, {u'$datetime': u'2026-01-02T03:04:05.5-01:30'}, how='a')
        self.assertEqual(when.utcoffset(), datetime.timedelta(minutes=-90))
        self.assertEqual(when.microsecond, 500000)
        self.assertEqual(self.call(lambda x: x, how='a', x={u'$set': [1]}), set((1,)))
        for wrong in ({u'$datetime': u'now'}, {u'$set': 1}, {u'$uuid': u'x'}, {u'$decimal': u'x'}, {u'$complex': [1, 2, 3]}):
            self.assertRaises(ValueError, self.call, lambda x: x, wrong, how='a')


if __name__ == '__main__':
    harness.main()
