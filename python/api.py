"""
Contexts, senders and receivers: what code in a child uses to talk with other contexts. It comes over the importer as
mitogen.api when one of its names, which are attributes of mitogen.core, is first used.
"""
from __future__ import absolute_import

import os
import re
import sys
import traceback
from _struct import Struct, error as StructError

import mitogen.core as core
from mitogen.core import CALL_FUNCTION, IS_DEAD, SHUTDOWN
from mitogen.core import Error, Kwargs, Latch, LatchError, Message
from mitogen.core import text_type

DETACHING = 109
CALL_SERVICE = 110

# Contexts that are remembered.
MAX_CONTEXTS = 10000

string_types = (bytes, text_type)
integer_types = (int,) if core.PY3 else (int, long)


class ChannelError(Error):
    """The other end is gone or closed the channel; the text is its reason."""
    __module__ = 'mitogen.core'
    remote_msg = 'Channel closed by remote end.'
    local_msg = 'Channel closed by local end.'


def text_of(exc):
    """What an exception says; it may fail at that, too."""
    for make in text_type, str, repr:
        try:
            message = make(exc)
            return message if isinstance(message, text_type) else message.decode('utf-8', 'replace')
        except Exception as e:
            failed = type(e).__name__
    return u'(its text cannot be had, since %s is raised for it)' % failed


def notes_of(exc):
    """What was added to an exception (3.11)."""
    try:
        return u''.join(u'%s\n' % note for note in getattr(exc, '__notes__', ()))
    except Exception:
        return u''


def whole(exc, deep=0):
    """An exception as Python would print it, with the members of a group."""
    text = u'%s.%s: %s\n' % (kind_of(exc) + (text_of(exc),))
    tb = getattr(exc, '__traceback__', None)
    text = (u'Traceback (most recent call last):\n' + printed(tb) if tb else u'') + text + notes_of(exc)
    return text + members(exc, deep)


def members(exc, deep=0):
    """The members of an exception group (3.11), indented."""
    text = u''
    found = getattr(exc, 'exceptions', None)
    if type(found) is tuple and deep < 5 and isinstance(exc, BaseException):
        for number, member in enumerate(found[:15]):
            if isinstance(member, BaseException):
                text += u'Member %d:\n' % (number + 1)
                text += u''.join(u'  %s\n' % line for line in whole(member, deep + 1).splitlines())
        if len(found) > 15:
            text += u'and %d more\n' % (len(found) - 15)
    return text


def kind_of(exc):
    """The module and name of its class. In 2.x, type() does not tell it for an old-style object."""
    kind = getattr(exc, '__class__', type(exc))
    return getattr(kind, '__module__', '?'), getattr(kind, '__name__', '?')


def printed(tb):
    # On 2.x the importer's frames are among them.
    text = ''.join(traceback.format_list([entry for entry in traceback.extract_tb(tb) if entry[0] != core.__file__]))
    return text if isinstance(text, text_type) else text.decode('utf-8', 'replace')


def explain(exc):
    """The text of an exception in a CallError: under 10,000 characters."""
    tb = sys.exc_info()[2]
    while tb and tb.tb_frame.f_code.co_filename == core.__file__:
        tb = tb.tb_next
    head = u'%s.%s: %s' % (kind_of(exc) + (text_of(exc),))
    rest = notes_of(exc) + printed(tb) + members(exc)
    cause = exc
    for _ in range(5):
        cause = getattr(cause, '__cause__', None) or (
            None if getattr(cause, '__suppress_context__', 1) else getattr(cause, '__context__', None))
        if not isinstance(cause, BaseException):
            break
        rest += u'Caused by: ' + whole(cause)
    if len(head) > 4000:
        head = head[:2000] + ' ... ' + head[-1900:]
    if len(rest) > 5900:
        rest = rest[:1900] + '\n  ...\n' + rest[-3900:]
    return head + '\n' + rest


class StreamError(Error):
    """A connection could not be made."""


class CallError(Error):
    """The function called raised: `module.Class: message`, then the traceback."""

    def __init__(self, fmt=None, *args):
        if fmt is not None and not isinstance(fmt, string_types):
            fmt = explain(fmt)
        Error.__init__(self, fmt, *args)

    def __reduce__(self):
        return _unpickle_call_error, (self.args[0],)


def _unpickle_call_error(s):
    if not (isinstance(s, (text_type, bytes)) and len(s) < 10000):
        raise TypeError('cannot unpickle CallError: bad input')
    return CallError(s)


class Secret(text_type):
    """Text that a repr, and so a log, does not show."""

    def __repr__(self):
        return '[secret]'

    def __reduce__(self):
        return Secret, (text_type(self),)


def _unpickle_secret(text):
    # Anything else would become text, whose length may be exponential in the pickle's.
    if not isinstance(text, string_types):
        raise TypeError('cannot unpickle Secret: bad input')
    return Secret(text)


def unpickle(msg, throw=True, throw_dead=True):
    """The value that a message holds. Raises ChannelError for a dead message, and a CallError that was sent."""
    if throw_dead and msg.reply_to == IS_DEAD:
        raise ChannelError(msg.data or ChannelError.remote_msg)
    if msg.enc == core.BIN:
        return msg.data
    if not core.has_parent_authority(msg):
        check(msg.data)
    obj = core.loads(msg.data)
    if throw and type(obj) is CallError:
        raise obj
    return obj


Message.unpickle = unpickle

# Opcodes of pickles by the length of what follows: it is fixed, or a count in that format says it.
FIXED = re.compile(
    b'(?s)(?:[().01NRaestu\x85-\x89\\]}]|[Khq\x80].|M..|[Jj]....|r..\0\0|G.{8}|I-?[0-9]{1,20}\n|c[^\n]{1,40}\n[^\n]{1,40}\n){1,999}')
LONG = Struct('<L')
COUNTED = {b'U': '<B', b'C': '<B', b'\x8a': '<B', b'X': '<l', b'T': '<l', b'B': '<l', b'\x8b': '<l'}
# The same one by one, with any number; without tuples; without what comes from the memo.
EACH = re.compile(FIXED.pattern.replace(b'{1,999}', b'').replace(b'r..\0\0', b'r....'))
SOME = EACH.pattern + b'{1,9999}'
PLAIN = re.compile(SOME.replace(b'stu\x85-\x89', b'su\x88\x89'))
FRESH = re.compile(SOME.replace(b'[Khq', b'[Kq').replace(b'[Jj]', b'J'))
SOME = re.compile(SOME)
# What comes from the memo; and what is put there behind an opcode that may leave a tuple. Nothing for all others.
GOT = re.compile(b'(?s)(h.|j....)|' + EACH.pattern[4:])
PUT = re.compile(b'(?s)(?:[t\x85-\x8701(]|[hq].|[jr]....)(?=(q.|r....))|' + EACH.pattern[4:])


def check(data):
    """
    Refuse a pickle that no pickler writes in protocol 2 or 3 for what may be sent. Python's own reader needs 16
    gigabytes for ten bytes that set memo number 10 ** 9, and minutes for a million decimal digits; and it sets
    attributes of our classes.
    """
    pos = 0
    end = len(data)
    # All that are no text or the like, which become N.
    runs = []
    while pos < end:
        op = data[pos:pos + 1]
        try:
            if op in COUNTED:
                count = Struct(COUNTED[op])
                size = count.unpack_from(data, pos + 1)[0]
                if size >= 0:
                    pos += 1 + count.size + size
                    runs.append(b'N')
                    continue
            found = FIXED.match(data, pos)
            if found:
                pos = found.end()
                runs.append(found.group())
                continue
            # The memo's numbers are given in turn.
            if op == b'r' and LONG.unpack_from(data, pos + 1)[0] < end // 4:
                runs.append(data[pos:pos + 5])
                pos += 5
                continue
        except StructError:
            pass
        raise Error('this pickle was not written by a pickler: %r at %d', op, pos)
    code = b''.join(runs)
    if not only(PLAIN, code) and not only(FRESH, code) and again(code):
        weigh(code, 16 * end + 100000)


def only(pattern, code):
    """Are there no others?"""
    pos = 0
    while pos < len(code):
        found = pattern.match(code, pos)
        if not found:
            return False
        pos = found.end()
    return True


def number(op):
    return ord(op[1:]) if len(op) == 2 else LONG.unpack(op[1:])[0]


def pieces(code):
    """Whole opcodes with their arguments, some at a time."""
    pos = 0
    while pos < len(code):
        found = SOME.match(code, pos)
        pos = found.end()
        yield found.group()


def again(code):
    """Does a tuple come from the memo?"""
    got = set()
    put = set()
    for piece in pieces(code):
        got.update(GOT.findall(piece))
        put.update(PUT.findall(piece))
        if piece[:1] in b'qr':
            # Behind the piece before.
            put.add(EACH.match(piece).group())
    return not set([number(op) for op in got if op]).isdisjoint([number(op) for op in put if op])


def weigh(code, limit):
    """
    Refuse keys that take long: a tuple of a tuple of a tuple, each named twice, is hashed in full. A key counts what is
    in it, as often as it is there.
    """
    stack = []
    marks = []
    memo = {}
    total = 0
    try:
        for op in (op for piece in pieces(code) for op in EACH.findall(piece)):
            kind = op[:1]
            if kind in b'qr':
                memo[number(op)] = stack[-1]
            elif kind in b'hj':
                stack.append(memo[number(op)])
            elif kind == b'(':
                marks.append(len(stack))
            elif kind in b'tue1':
                start = marks.pop()
                size = 1 + sum(stack[start:])
                if kind == b'u':
                    total += sum(stack[start::2])
                del stack[start:]
                if kind == b't':
                    stack.append(size)
            elif kind in b'\x85\x86\x87':
                start = len(stack) + 0x84 - ord(kind)
                stack[start:] = [1 + sum(stack[start:])]
            elif kind == b's':
                total += stack[-2]
                del stack[-2:]
            elif kind == b'0' and marks and marks[-1] == len(stack):
                marks.pop()
            elif kind in b'0a':
                stack.pop()
            elif kind == b'R':
                # A tuple is none of what a pickle may name.
                stack[-2:] = [1]
            elif kind not in b'\x80.':
                stack.append(1)
            if total > limit:
                raise Error('keys of this pickle take too long: it was not written by a pickler')
            if stack and stack[-1] > limit:
                # Whoever makes a key of it is refused; and no number here becomes long.
                stack[-1] = limit + 1
    except (LookupError, ValueError):
        raise Error('this pickle was not written by a pickler: a value is missing')


class ExternalContext(object):
    """What a function that takes_econtext gets: the parts of this process."""
    config = property(lambda self: dict(core.config, max_message_size=core.router.max_message_size))
    context_id = property(lambda self: core.router.context_id)
    router = property(lambda self: core.router)
    importer = property(lambda self: core.importer)
    dispatcher = property(lambda self: core.dispatcher)
    stream = property(lambda self: core.router.stream)
    master = property(lambda self: core.router.context_by_id(0, u'master'))
    parent = property(lambda self: core.router.context_by_id(core.router.parent_ids[0], u'parent'))

    def detach(self):
        """
        Outlive the connection, which ends here. The caller loses the call that detaches, its output goes to
        /dev/null, and children end. The process ends when that function has returned and only daemon threads are
        left. ChannelError if the parent cannot let it go.
        """
        if core.io.lost:
            return
        done = core.Latch()
        # Not on the reader: without free descriptors, this function is to fail.
        null = os.open('/dev/null', os.O_RDWR)

        def let_go(msg):
            """On the reader."""
            if not msg.is_dead:
                core.io.evict = int
                stream = core.router.stream
                stream.on_lost()
                for fd in set((stream.rfd, stream.wfd, 1, 2)):
                    os.dup2(null, fd)
            os.close(null)
            done.put(msg)
        core.stdio.flush()
        guard = sys.modules.get('mitogen.guard')
        if guard:
            guard.stop()
        if core._thread.get_ident() == core.main_thread:
            # For a terminal that hangs up.
            core.signal.signal(core.signal.SIGHUP, core.signal.SIG_IGN)
        core.router.route(core.Message(core.router.parent_ids[0], handle=DETACHING, reply_to=core.router.add_handler(
            let_go, persist=False, policy=core.has_parent_authority)))
        done.get().unpickle()


class Context(object):
    """A process of the tree, known by its id."""
    name = None
    remote_name = None

    def __init__(self, router, context_id, name=None):
        self.router = router
        self.context_id = context_id
        if name:
            self.name = name if isinstance(name, text_type) else name.decode('utf-8')

    def __reduce__(self):
        return _unpickle_context, (self.context_id, None if self.name is None else text_type(self.name))

    def __repr__(self):
        return 'Context(%s, %r)' % (self.context_id, self.name)

    def __eq__(self, other):
        return isinstance(other, Context) and other.context_id == self.context_id

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return self.context_id

    def send(self, msg):
        """Send a Message to this context, whatever its dst_id says."""
        msg.dst_id = self.context_id
        self.router.route(msg)

    def send_async(self, msg, persist=False):
        """Send, and give the Receiver of the reply."""
        receiver = Receiver(self.router, persist=persist, respondent=self)
        msg.reply_to = receiver.handle
        self.send(msg)
        return receiver

    def send_await(self, msg, deadline=None):
        """Send, wait `deadline` seconds or for ever, and give the value of the reply."""
        return self.send_async(msg).get_data(deadline)

    def call_async(self, fn, *args, **kwargs):
        """Start fn in that context; a Receiver of its result."""
        return self.send_async(call_message(self, fn, args, kwargs))

    def call(self, fn, *args, **kwargs):
        """Run fn in that context and give its result."""
        return self.call_async(fn, *args, **kwargs).get_data()

    def call_no_reply(self, fn, *args, **kwargs):
        """Run fn in that context; a failure is logged there."""
        self.send(call_message(self, fn, args, kwargs))

    def call_service(self, service_name, method_name, **kwargs):
        """Call a method of a service that runs in that context."""
        if not isinstance(service_name, string_types):
            service_name = service_name.name()
        return self.call_service_async(service_name, method_name, **kwargs).get_data()

    def call_service_async(self, service_name, method_name, **kwargs):
        return self.send_async(Message.pickled(
            (text_type(service_name), text_type(method_name), Kwargs(kwargs)),
            dst_id=self.context_id, handle=CALL_SERVICE))

    def shutdown(self, wait=False):
        """Ask that process to leave."""
        self.send(Message(handle=SHUTDOWN))


def takes_econtext(func):
    """The function wants `econtext`, the ExternalContext of the process."""
    func.mitogen_takes_econtext = True
    return func


def takes_router(func):
    """The function wants `router`, the Router of the process."""
    func.mitogen_takes_router = True
    return func


def call_message(context, fn, args, kwargs, chain_id=None):
    """The CALL_FUNCTION message for a function, or a class's method, of a module."""
    klass = None
    owner = getattr(fn, '__self__', None)
    if isinstance(owner, type):
        klass = text_type(owner.__name__)
    return Message.pickled(
        (chain_id, text_type(fn.__module__), klass, text_type(fn.__name__), args, Kwargs(kwargs)),
        dst_id=context.context_id, handle=CALL_FUNCTION)


def _unpickle_context(context_id, name, router=None):
    if not (isinstance(context_id, integer_types) and context_id >= 0 and (
            name is None or (isinstance(name, (text_type, bytes)) and len(name) < 100))):
        raise TypeError('cannot unpickle Context: bad input')
    router = router or core.router
    if len(router.contexts) >= MAX_CONTEXTS:
        # Others can send any number of contexts. Those in use live on, and equal new ones with their id.
        router.contexts.clear()
    return router.context_by_id(context_id, name)


def context_by_id(router, context_id, name=None, via_id=None, create=True):
    context = router.contexts.get(context_id)
    if context is None and create:
        context = router.contexts[context_id] = Context(router, context_id, name)
    return context


def myself(router):
    """The Context of this process."""
    return context_by_id(router, router.context_id)


core.Router.context_by_id = context_by_id
core.Router.myself = myself


class Sender(object):
    """Sends to a Receiver of another context; can itself be sent."""

    def __init__(self, context, dst_handle):
        self.context = context
        self.dst_handle = dst_handle

    def __repr__(self):
        return 'Sender(%r, %r)' % (self.context, self.dst_handle)

    def __reduce__(self):
        return _unpickle_sender, (self.context.context_id, self.dst_handle)

    def send(self, data):
        """Send one value."""
        self.context.send(Message.pickled(data, handle=self.dst_handle, dst_id=self.context.context_id))

    def close(self):
        """Tell the receiver that nothing more comes."""
        self.context.send(Message.dead(u'Channel closed by remote end.', handle=self.dst_handle))


def _unpickle_sender(context_id, dst_handle):
    if not (isinstance(context_id, integer_types) and context_id >= 0 and isinstance(dst_handle, integer_types)
            and dst_handle > 0 and not (99 <= dst_handle < 120 or 980 <= dst_handle < 1000)):
        # Those are the runtimes' own.
        raise TypeError('cannot unpickle Sender: bad input')
    return Sender(core.router.context_by_id(context_id), dst_handle)


class Receiver(object):
    """Messages that come for one handle. `notify`, if set, is called with the receiver, on the reading thread."""
    notify = None
    raise_channelerror = True

    def __init__(self, router, handle=None, persist=True, respondent=None, policy=None, overwrite=False):
        self.router = router
        self.latch = Latch()
        self.handle = router.add_handler(self._on_receive, handle, persist, respondent, policy, overwrite)

    def _on_receive(self, msg):
        self.latch.put(msg)
        if self.notify:
            self.notify(self)

    def to_sender(self):
        """A Sender for this receiver, to be sent to another context."""
        return Sender(self.router.myself(), self.handle)

    def empty(self):
        return not self.latch.queue

    def close(self):
        """Raise ChannelError in every thread that waits."""
        if self.handle:
            self.router.del_handler(self.handle)
            self.handle = None
        self.latch.close()

    def get(self, timeout=None, block=True, throw_dead=True):
        """The next Message; TimeoutError, or ChannelError when the other end or this one is closed."""
        try:
            msg = self.latch.get(timeout, block)
        except LatchError:
            raise ChannelError(ChannelError.local_msg)
        if throw_dead and msg.reply_to == IS_DEAD:
            raise ChannelError(msg.data or ChannelError.remote_msg)
        return msg

    def get_data(self, timeout=None):
        return self.get(timeout).unpickle()

    def __iter__(self):
        while 1:
            try:
                yield self.get()
            except ChannelError:
                return


# What a pickle may name in addition to core.WIRE.
WIRE = {'CallError': _unpickle_call_error, 'Secret': _unpickle_secret}
for value in _unpickle_call_error, _unpickle_context, _unpickle_sender:
    WIRE[value.__name__] = value

# As pickles, reprs and tracebacks name them.
for value in (CallError, Context, ExternalContext, Receiver, Secret, Sender, StreamError, _unpickle_call_error,
              _unpickle_context, _unpickle_sender, takes_econtext):
    value.__module__ = 'mitogen.core'
