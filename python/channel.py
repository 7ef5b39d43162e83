"""
A channel: values both ways between a function in this process and whoever called it, with flow control. It comes over
the importer as mitogen.channel.

A message on the wire is a tag and what belongs to it: m and a pickle; a and the count of bytes that were taken from
the channel; e for "nothing more comes"; h and the handle that the other side is to send to. From the master, a BIN
frame is a value that is bytes, without a tag; a parent may have pickled it for a child that takes nothing else. In
each direction, at most a window of bytes is on the way, or one larger message. Each message counts COST more.
"""
from __future__ import absolute_import

import threading

import mitogen.core as core
from mitogen.core import ChannelError, LatchError, Message

# What a message counts in addition to its bytes.
COST = 64


class Channel(object):
    """
    What a function gets as its first argument. Iterate over it for what comes; it ends when the other side says so.
    """

    def __init__(self, router, peer, window):
        self.router = router
        self.peer = peer
        self.window = window
        self.items = core.Latch()
        self.room = core.Latch()
        self.unread = 0
        self.lock = threading.Lock()
        self.handle = router.add_handler(self.on_message, policy=core.has_parent_authority)
        self.post(b'h%d' % self.handle)

    def post(self, data):
        self.router.route(Message(0, handle=self.peer, data=data))

    def on_message(self, msg):
        """On the reading thread."""
        tag = msg.data[:1]
        if msg.is_dead:
            self.items.close()
            self.room.close()
        elif msg.enc == core.BIN or tag in (b'm', b'\x80'):
            self.items.put(msg)
        elif tag == b'a':
            self.room.put(int(msg.data[1:]))
        elif tag == b'e':
            self.items.close()

    def send(self, value):
        """Send one value; wait until the window has room for it. ChannelError once the other side is gone."""
        data = core.dumps(value, 0)
        size = len(data) + COST
        with self.lock:
            try:
                while self.unread and self.unread + size > self.window:
                    self.unread -= self.room.get()
            except LatchError:
                raise ChannelError(ChannelError.remote_msg)
            if self.room.closed is not None:
                raise ChannelError(ChannelError.remote_msg)
            self.unread += size
            self.post(b'm' + data)

    def recv(self, timeout=None):
        """The next value. ChannelError when nothing more comes, TimeoutError after `timeout` seconds."""
        try:
            msg = self.items.get(timeout)
        except LatchError:
            raise ChannelError(ChannelError.remote_msg)
        data = msg.data
        if msg.enc == core.BIN:
            value, size = data, len(data)
        elif data[:1] == b'm':
            value, size = core.loads(data[1:]), len(data) - 1
        else:
            value = core.loads(data)
            size = len(value)
        self.post(b'a%d' % (size + COST))
        return value

    def __iter__(self):
        while 1:
            try:
                value = self.recv()
            except ChannelError:
                return
            yield value

    def close(self):
        """Tell the other side that nothing more comes. The function's end does so as well."""
        self.post(b'e')


@core.takes_router
def serve(handle, window, module, klass, function, kwargs, args, router):
    """
    Call a function with a channel ahead of its arguments. The other end is the master's handle, and takes window
    bytes.
    """
    if module[:8] != 'mitogen.':
        core.io.begin_call()
    fn = core.dispatcher.find(module, klass, function)
    channel = Channel(router, handle, window)
    try:
        return fn(channel, *args, **kwargs)
    finally:
        router.del_handler(channel.handle)
