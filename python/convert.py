"""
Makes plain values of other values, and in arguments the other way round. It comes over the importer as
mitogen.convert. Nothing is imported for a result: a type is known by the names of its class and of its base classes.
"""
from __future__ import absolute_import

import itertools
import sys

import mitogen.core as core
import mitogen.plain as plain
from mitogen.core import PY3

# The most values of a generator whose values are not taken one by one.
MAX_VALUES = 1000000
TEXT = type(u'')
# Numbers of generators, never the same twice: who asks for more of one that was ended must not meet another.
numbers = itertools.count(1)


class NotPlain(core.Error):
    """A value of a type that has no plain form."""


def type_name(kind):
    return '%s.%s' % (kind.__module__, getattr(kind, '__qualname__', kind.__name__))


def ordered(items):
    """The items of a set in an order that does not change from one process to the next."""
    try:
        kinds = set(map(type, items))
        if kinds in (set((TEXT,)), set((bytes,))) or kinds <= set((int, float, type(1 << 99))):
            return sorted(items)
    except TypeError:
        pass
    return sorted(items, key=lambda item: (type(item).__name__, repr(item)))


def field_names(value):
    """The names of a namedtuple's or a structseq's fields, or None."""
    kind = type(value)
    names = getattr(kind, '_fields', None)
    if type(names) is tuple and all(isinstance(name, str) for name in names):
        # The processor of platform.uname() is a property; others' properties may do anything.
        return list(names) + ['processor'] * (type_name(kind) == 'platform.uname_result' and 'processor' not in names)
    if type(getattr(kind, 'n_sequence_fields', None)) is int:
        names = [name for name in vars(kind) if type(vars(kind)[name]).__name__ == 'member_descriptor']
        return names if sys.version_info >= (3, 7) else sorted(names)


def from_tuple(value, walk):
    names = field_names(value)
    if names is None:
        return tuple(walk(item, '[%d]' % at) for at, item in enumerate(value))
    return dict((name, walk(getattr(value, name), '.' + name)) for name in names)


def from_items(value, walk):
    return [walk(item, '[%d]' % at) for at, item in enumerate(value)]


def from_set(value, walk):
    return [walk(item, '{}') for item in ordered(value)]


def from_mapping(value, walk):
    out = {}
    for key in value:
        plain_key = from_key(key, walk)
        if plain_key in out:
            raise NotPlain('a dict in which two keys are the same as plain values, %r' % (plain_key,))
        out[plain_key] = walk(value[key], '.%s' % (key,) if type(key) is str else '[%r]' % (key,))
    return out


def from_key(key, walk):
    """Tuples, with names or without, and sets are tuples: a key can be no dict or list."""
    if isinstance(key, (tuple, frozenset)):
        return tuple([from_key(item, walk) for item in (ordered(key) if isinstance(key, frozenset) else key)])
    out = walk(key, '{key}')
    if type(out) in (list, tuple):
        out = tuple([from_key(item, walk) for item in out])
    if type(out) is dict:
        raise NotPlain('a dict with a key of type %s' % type_name(type(key)))
    return out


def from_exception(value, walk):
    text = value.args[0] if len(value.args) == 1 and type(value.args[0]) is TEXT else str(value)
    return {'type': type_name(type(value)), 'message': text}


def from_attributes(*names):
    return lambda value, walk: dict((name, walk(getattr(value, name), '.' + name)) for name in names)


def from_dataclass(value, walk):
    return dict((name, walk(getattr(value, name), '.' + name)) for name, field in type(value).__dataclass_fields__.items()
                if getattr(getattr(field, '_field_type', None), 'name', '_FIELD') == '_FIELD')


def from_path(value, walk):
    return walk(value.__fspath__(), '')


def text_of(value, walk):
    text = str(value)
    return text if isinstance(text, TEXT) else text.decode('utf-8')


def as_base(base):
    """A method of the base class that gives an exact object of it."""
    if base in (TEXT, bytes):
        return lambda value, walk: base.__getitem__(value, slice(None))
    return lambda value, walk: base.__pos__(value)


TABLE = {
    'collections.deque': from_items, 'array.array': from_items, 'list': from_items, 'tuple': from_tuple, 'dict': from_mapping,
    'set': from_set, 'frozenset': from_set, 'range': from_items, 'xrange': from_items,
    'dict_keys': from_items, 'dict_values': from_items, 'dict_items': from_items, 'odict_keys': from_items,
    'mappingproxy': from_mapping, 'dictproxy': from_mapping,
    'bytearray': lambda value, walk: bytes(value), 'memoryview': lambda value, walk: value.tobytes(),
    'buffer': lambda value, walk: str(value),
    'complex': from_attributes('real', 'imag'),
    'BaseException': from_exception,
    'datetime.datetime': lambda value, walk: TEXT(value.isoformat()),
    'datetime.date': lambda value, walk: TEXT(value.isoformat()),
    'datetime.time': lambda value, walk: TEXT(value.isoformat()),
    'datetime.timedelta': lambda value, walk: value.total_seconds(), 'datetime.tzinfo': text_of,
    'decimal.Decimal': text_of, 'fractions.Fraction': text_of, 'uuid.UUID': text_of,
    'enum.Enum': lambda value, walk: walk(value.value, ''),
    'types.SimpleNamespace': lambda value, walk: walk(vars(value), ''),
    'argparse.Namespace': lambda value, walk: walk(vars(value), ''),
    'optparse.Values': lambda value, walk: walk(vars(value), ''),
    'pathlib.PurePath': from_path, 'pathlib._local.PurePath': from_path,
    'os.DirEntry': from_path, 'posix.DirEntry': from_path,
    'subprocess.CompletedProcess': from_attributes('args', 'returncode', 'stdout', 'stderr'),
    'ipaddress.IPv4Address': text_of, 'ipaddress.IPv6Address': text_of,
    'ipaddress.IPv4Network': text_of, 'ipaddress.IPv6Network': text_of,
    'numpy.generic': lambda value, walk: walk(value.item(), ''),
    'numpy.ndarray': lambda value, walk: walk(value.tolist(), ''),
    'collections.abc.Mapping': from_mapping, '_abcoll.Mapping': from_mapping, 'UserDict.UserDict': from_mapping,
    'collections.UserList': from_items, 'collections.UserString': text_of,
    'collections.abc.Set': from_set, '_abcoll.Set': from_set,
}
BUILTINS = ('builtins', '__builtin__', 'exceptions')
for base in plain.SCALARS - set((type(None), bool)):
    TABLE[base.__name__] = as_base(base)


def entry(value):
    """The function that makes a value plain, or None."""
    kind = type(value)
    if hasattr(kind, '__dataclass_fields__'):
        return from_dataclass
    if type(getattr(kind, 'n_sequence_fields', None)) is int:
        # In 2.x it is no tuple.
        return from_tuple
    for base in bases(value.__class__) if kind.__name__ == 'instance' else getattr(kind, '__mro__', ()):
        name = base.__name__ if base.__module__ in BUILTINS else '%s.%s' % (base.__module__, base.__name__)
        found = TABLE.get(name)
        if found:
            return found


def bases(kind):
    """An old-style class of 2.x and its base classes."""
    found = [kind]
    for base in kind.__bases__:
        found.extend(bases(base))
    return found


def convert(value):
    """The plain value for it. An object that stands in several places stays one object."""
    memo, keep = {}, []

    def walk(value, at):
        kind = type(value)
        if kind in plain.SCALARS or kind.__module__ in ('mitogen.core', 'mitogen.api'):
            return value
        number = id(value)
        if number in memo:
            if memo[number] is memo:
                raise NotPlain('%s that holds itself' % type_name(kind))
            return memo[number]
        memo[number] = memo
        keep.append(value)
        path.append(at)
        make = entry(value)
        if make is None and iterates(value):
            make = from_iterator
        if make is None:
            kind = getattr(value, '__class__', kind) if kind.__name__ == 'instance' else kind
            where = ''.join(path)
            raise NotPlain('a value of type %s%s' % (type_name(kind), where and ' (at %s)' % where))
        memo[number] = out = make(value, walk)
        path.pop()
        return out
    path = []
    return walk(value, '')


def iterates(value):
    """Does it give values once, as generators, map() and zip() do? Files do not count."""
    kind = type(value)
    gives = hasattr(kind, '__next__') or not PY3 and hasattr(kind, 'next')
    return gives and hasattr(kind, '__iter__') and not hasattr(kind, 'fileno')


def from_iterator(value, walk):
    out = []
    for item in value:
        if len(out) >= MAX_VALUES:
            getattr(value, 'close', int)()
            raise NotPlain('%s that gives more than %d values' % (type_name(type(value)), MAX_VALUES))
        out.append(walk(item, '[%d]' % len(out)))
    return out


def awaited(value):
    """The result of a coroutine, by an event loop of its own."""
    import asyncio

    async_run = getattr(asyncio, 'run', None)
    if async_run and type(value).__name__ == 'coroutine':
        return async_run(value)
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(value)
    finally:
        leave(loop)


def leave(loop, whole=True):
    """End an event loop as asyncio.run() does; if nobody waits for the rest, without threads that are still at work."""
    import asyncio

    try:
        all_tasks = getattr(asyncio, 'all_tasks', None) or asyncio.Task.all_tasks
        left = [task for task in all_tasks(loop) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        for task in left:
            if not task.cancelled() and task.exception():
                loop.call_exception_handler({
                    'message': 'unhandled exception while an event loop ends', 'exception': task.exception(), 'task': task})
        loop.run_until_complete(loop.shutdown_asyncgens())
        if whole and hasattr(loop, 'shutdown_default_executor'):
            loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


# The task that takes all values of an asynchronous generator: what that has around a yield, a limit of time or a
# context variable, belongs to a task. What cancels the task while it waits for us would meet the generator in a loop
# of a user's own, where it waits next.
TAKER = '''
async def take(values, give, ended):
    try:
        while 1:
            try:
                value = await type(values).__anext__(values)
            except StopAsyncIteration:
                return
            try:
                await give(value)
            except CancelledError:
                if ended:
                    return
                task = current_task()
                getattr(task, 'uncancel', int)()
                task.cancel()
            if ended:
                return
    finally:
        if hasattr(values, 'aclose'):
            await values.aclose()
'''


def taker(asyncio):
    names = {'CancelledError': asyncio.CancelledError,
             'current_task': getattr(asyncio, 'current_task', None) or asyncio.Task.current_task}
    exec(compile(TAKER, core.__file__, 'exec', 0, 1), names)
    return names['take']


def async_values(value):
    """The values of an asynchronous generator."""
    import asyncio

    def give(item):
        given.append(item)
        wanted.append(loop.create_future())
        loop.stop()
        return wanted[-1]

    def go_on():
        future = wanted.pop()
        if not future.done():
            future.set_result(None)

    loop = asyncio.new_event_loop()
    # The value that comes next; what the task waits for meanwhile; whether no more are taken.
    given, wanted, ended = [], [], []
    whole = False
    try:
        task = loop.create_task(taker(asyncio)(value, give, ended))
        task.add_done_callback(lambda _task: ended or loop.stop())
        try:
            while 1:
                loop.run_forever()
                if given:
                    yield given.pop()
                    go_on()
                elif task.done():
                    whole = True
                    task.result()
                    return
                else:
                    raise RuntimeError('Event loop stopped before Future completed.')
        finally:
            ended.append(True)
            if wanted:
                go_on()
                loop.run_until_complete(task)
            elif task.done() and not task.cancelled():
                # It was raised already.
                task.exception()
    finally:
        leave(loop, whole)


def converted(values):
    for value in values:
        yield convert(value)


def result(value, how):
    """The result of a call; see plain.call."""
    kind = type(value)
    if hasattr(kind, '__await__') or kind.__name__ == 'coroutine':
        value = awaited(value)
    if 'r' in how:
        text = repr(value)
        return text if isinstance(text, TEXT) else text.decode('utf-8', 'replace')
    if hasattr(type(value), '__anext__'):
        value = async_values(value)
    if 'l' in how and iterates(value) and not entry(value):
        number = next(numbers)
        if len(plain.OPEN) >= plain.MAX_OPEN:
            try:
                plain.end(min(plain.OPEN))
            except (KeyboardInterrupt, SystemExit):
                raise
            except:
                # It is another caller's.
                pass
        plain.OPEN[number] = converted(value)
        return {u'$lines': number}
    return convert(value)


def parse_datetime(text):
    from datetime import datetime, timedelta, tzinfo

    class Zone(tzinfo):
        """A fixed distance from UTC, for 2.x and for 3.6."""
        def __init__(self, offset):
            self.offset = offset

        def utcoffset(self, _when):
            return self.offset

        def dst(self, _when):
            return timedelta(0)

        def tzname(self, _when):
            return None

    import re

    match = re.match(r'(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?)?(?:([Zz])|([+-])(\d\d):?(\d\d))?$', text)
    if not match:
        raise ValueError('$datetime: %r is not as 2026-01-31T12:00:00Z' % text)
    day, clock, fraction, utc, sign, hours, minutes = match.groups()
    clock = clock or '00:00'
    when = datetime.strptime('%s %s' % (day, clock), '%Y-%m-%d ' + ('%H:%M:%S' if len(clock) > 5 else '%H:%M'))
    when = when.replace(microsecond=int((fraction or '0')[:6].ljust(6, '0')))
    if not utc and not sign:
        return when
    offset = timedelta(0) if utc else timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == '-' else 1)
    try:
        from datetime import timezone
        return when.replace(tzinfo=timezone(offset))
    except ImportError:
        return when.replace(tzinfo=Zone(offset))


def named(module, name):
    """Import what is not in every Python when it is asked for."""
    def make(value):
        __import__(module)
        return getattr(sys.modules[module], name)(value)
    return make


def pairs(value):
    return dict((hashable(key), item) for key, item in value)


for function in convert, from_iterator, awaited, leave, async_values, converted, result:
    plain.unlisted(function)

READERS = {
    'datetime': parse_datetime, 'date': lambda text: parse_datetime(text).date(),
    'time': lambda text: parse_datetime('2000-01-01T' + text).timetz(),
    'timedelta': lambda seconds: __import__('datetime').timedelta(seconds=seconds),
    'decimal': named('decimal', 'Decimal'), 'fraction': named('fractions', 'Fraction'), 'uuid': named('uuid', 'UUID'),
    'path': named('pathlib', 'Path'), 'set': lambda items: set(map(hashable, items)),
    'frozenset': lambda items: frozenset(map(hashable, items)),
    'tuple': tuple, 'bytearray': bytearray, 'complex': lambda parts: complex(*parts), 'dict': pairs,
}


def hashable(item):
    return tuple(map(hashable, item)) if isinstance(item, (list, tuple)) else item


def read(value):
    """An argument, with {'$set': [...]} and the like replaced by what they stand for."""
    if type(value) is list:
        return [read(item) for item in value]
    if type(value) is tuple:
        return tuple(read(item) for item in value)
    if type(value) is not dict:
        return value
    out = dict((read(key), read(value[key])) for key in value)
    if len(out) == 1:
        (key, item), = out.items()
        if isinstance(key, (TEXT, str)) and key[:1] == '$' and key[1:] in READERS:
            try:
                return READERS[key[1:]](item)
            except ImportError as e:
                raise ValueError('%s: %s' % (key, e))
            except (TypeError, ArithmeticError):
                raise ValueError('%s: %r is no value for it' % (key, item))
    return out
