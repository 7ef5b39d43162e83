"""
Modules for many processes at once: workers of one pool import the same, each for itself. It comes over the importer
as mitogen.sharing once a second process asks for a module that another one has been sent. From then on a thread of
its own answers all of them, so that the reader does not wait for the compiler. A module goes as bytecode, which is
made once, and with it goes what came here after it, since that is likely to be asked for next. One that Python warns
of goes as it is: the warning, or what the filters make of it, is for the process that imports it.

The thread ends with the last of the processes; the bytecode is kept for others.
"""
from __future__ import absolute_import

import marshal
import os
import warnings
import zlib

import mitogen.core as core
import mitogen.forked as forked
from mitogen.core import _thread

# Bytes, compressed, of modules that go with one that was asked for, and how many names are looked at for them.
AHEAD = 65536
LOOK = 500
# Bytes of modules, with their bytecode, that are kept.
MOST = 32 << 20

# What goes out for a module, by its name, and the bytes of all.
made = {}
size = 0
# The names in the importer's cache, as they came, and the place of each.
order = []
places = {}
# Each thread that compiles here, with its process: a forked one has a copy of this.
compiling = set()


def answer(peer, name):
    names = peer.needs(name)
    if type(core.importer.cache.get(name)) is tuple:
        place = find(name)
        total = 0
        for other in order[place + 1:place + 1 + LOOK]:
            record = core.importer.cache.get(other)
            if type(record) is tuple and other not in peer.sent and other[:8] != 'mitogen.':
                total += len(record[3])
                if total > AHEAD:
                    break
                names += peer.needs(other)
    peer.put(b''.join(map(told, names)))


def find(name):
    names = list(core.importer.cache)
    if names != order:
        order[:] = names
        places.clear()
        places.update(zip(names, range(len(names))))
    return places.get(name, len(order))


def told(name):
    """What goes out for a module."""
    global size
    data = made.get(name)
    if data is None:
        data = forked.frames(name, bytecode(name))
        if size + len(data) < MOST and type(core.importer.cache.get(name)) is tuple:
            size += len(data)
            made[name] = data
    return data


def bytecode(name):
    """The module's as zlib, after the magic number; None if there can be none."""
    me = os.getpid(), _thread.get_ident()
    compiling.add(me)
    try:
        return core.importer.codes.get(name.encode()) or core.frozen.MAGIC_NUMBER + zlib.compress(marshal.dumps(
            compile(core.importer.get_bytes(name), core.importer.get_filename(name), 'exec', 0, 1)), 0)
    except Exception:
        # It is not served, or whoever imports it will be told.
        return None
    finally:
        compiling.discard(me)


def show(warning, real=warnings._showwarnmsg):
    """In place of what the compiler calls to show a warning."""
    if (os.getpid(), _thread.get_ident()) in compiling:
        raise core.Error('a warning')
    real(warning)


warnings._showwarnmsg = show
