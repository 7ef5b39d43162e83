"""
Calls whose results are made plain values, which the runtime's pickles may hold. It comes over the importer as
mitogen.plain, for calls that ask for it. mitogen.convert comes with it for results that need it, and for arguments.
"""
from __future__ import absolute_import

import sys

import mitogen.core as core

SCALARS = set((type(None), bool, int, float, bytes, type(u''), type(1 << 99)))
# Generators whose values a caller takes one after another: number -> an iterator of plain values. The oldest ends
# when there are too many.
OPEN = {}
MAX_OPEN = 32


def is_plain(value):
    """Is it plain already, with all that is in it? An object of the runtime's own is sent as it is."""
    todo, seen = [value], set()
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind in SCALARS or kind.__module__ in ('mitogen.core', 'mitogen.api'):
            continue
        if kind not in (list, tuple, dict):
            return False
        if id(value) in seen:
            continue
        seen.add(id(value))
        for items in (value.keys(), value.values()) if kind is dict else (value,):
            if not SCALARS.issuperset(map(type, items)):
                todo.extend(item for item in items if type(item) not in SCALARS)
    return True


def call(how, module, klass, function, kwargs, args):
    """
    Call a function. `how` has letters: a, arguments are read by convert.read; p, its result is made plain; r, its
    repr() is the result; l, the result of what gives values one after another is {'$lines': number}, and more(number)
    gives them.
    """
    if module[:8] != 'mitogen.':
        core.io.begin_call()
    fn = core.dispatcher.find(module, klass, function)
    if 'a' in how:
        import mitogen.convert
        args = [mitogen.convert.read(arg) for arg in args]
        kwargs = dict((key, mitogen.convert.read(kwargs[key])) for key in kwargs)
    if getattr(fn, 'mitogen_takes_econtext', 0) is True:
        kwargs['econtext'] = core.lazy('ExternalContext')()
    if getattr(fn, 'mitogen_takes_router', 0) is True:
        kwargs['router'] = core.router
    result = fn(*args, **kwargs)
    if core.forked() or 'p' in how and is_plain(result):
        return result
    if 'p' in how or 'r' in how:
        import mitogen.convert
        return mitogen.convert.result(result, how)
    return result


def more(number, room):
    """
    Values that come within a tenth of a second: at least one, and about that many bytes at most; and whether more may
    come.
    """
    core.io.begin_call()
    values, size = [], 0
    end = core.clock() + 0.1
    it = OPEN.get(number)
    if it is None:
        raise core.Error('the generator was ended: too many are open')
    try:
        for value in it:
            values.append(value)
            size += len(core.dumps(value, 0))
            if size > room or core.clock() > end:
                return [values, True]
    except BaseException:
        del OPEN[number]
        if not values:
            raise
        # After what came before.
        OPEN[number] = failing(*sys.exc_info()[1:])
        return [values, True]
    del OPEN[number]
    return [values, False]


def failing(error, tb):
    """A generator that raises what another one has."""
    if core.PY3:
        raise error.with_traceback(tb)
    raise error
    yield


def end(number):
    """Nobody wants more of it."""
    it = OPEN.pop(number, None)
    if it is not None:
        it.close()


def unlisted(function):
    """Keep a function's frames out of tracebacks: those with core's file name are left out."""
    if core.PY3:
        core._imp._fix_co_filename(function.__code__, core.__file__)
    else:
        function.__code__ = renamed(function.__code__)
    return function


def renamed(code):
    return type(code)(
        code.co_argcount, code.co_nlocals, code.co_stacksize, code.co_flags, code.co_code,
        tuple(renamed(item) if type(item) is type(code) else item for item in code.co_consts), code.co_names,
        code.co_varnames, core.__file__, code.co_name, code.co_firstlineno, code.co_lnotab, code.co_freevars, code.co_cellvars)


for function in call, more, failing:
    unlisted(function)
