"""A child with children of its own: routes, modules passed down, full queues. The children are sockets of the test."""
from __future__ import absolute_import

import errno
import fcntl
import gc
import os
import select
import socket
import sys
import threading
import time
import tty
import unittest

import harness

core = harness.load()
ADD_ROUTE = 103
FLOW = 990
ALLOW = 987


def refuse(parent, header, data):
    """The parent answers what has no handle."""
    parent.send(header[5], b'invalid handle', reply_to=core.IS_DEAD)


def frame(dst, src, auth, handle, data=b'', reply_to=0, enc=None):
    return core.HEADER.pack(enc or core.MGC, dst, src, auth, handle, reply_to, len(data)) + data


class Pipes(object):
    """Our ends of two pipes, or of a terminal, with the methods of a socket that are used here."""

    def __init__(self, rfd, wfd):
        self.rfd, self.wfd = rfd, wfd

    def poll(self, fd, event):
        poller = select.poll()
        poller.register(fd, event)
        if not poller.poll(1000 * harness.DEADLINE):
            raise socket.timeout('timed out')

    def sendall(self, data):
        while data:
            self.poll(self.wfd, select.POLLOUT)
            data = data[os.write(self.wfd, data[:512]):]

    def recv(self, n):
        self.poll(self.rfd, select.POLLIN)
        try:
            return os.read(self.rfd, n)
        except OSError:
            # A terminal that was hung up.
            return b''

    def close(self):
        for fd in set((self.rfd, self.wfd)):
            os.close(fd)
        self.rfd = self.wfd = None


def connection(kind):
    """The peer's end; and the descriptors of ours, to read and to write."""
    if kind == 'pipe':
        (rfd, theirs), (ours, wfd) = os.pipe(), os.pipe()
        return Pipes(ours, theirs), rfd, wfd
    if kind == 'pty':
        master, slave = os.openpty()
        tty.setraw(slave)
        return Pipes(slave, slave), master, master
    ours, other = socket.socketpair()
    ours.settimeout(harness.DEADLINE)
    fd = os.dup(other.fileno())
    other.close()
    return ours, fd, fd


class Peer(object):
    """A child at the other end of a socketpair, of pipes or of a terminal."""

    def __init__(self, relay, context_id, kind='socketpair'):
        import mitogen.parent
        self.context_id = context_id
        self.socket, rfd, wfd = connection(kind)
        self.link = mitogen.parent.Link(rfd, wfd, context_id)
        relay.call_soon(relay.add_child, self.link)

    def frame(self, dst, handle, data=b'', src=None, auth=None, **kwargs):
        src = self.context_id if src is None else src
        return frame(dst, src, src if auth is None else auth, handle, data, **kwargs)

    def send(self, *args, **kwargs):
        self.socket.sendall(self.frame(*args, **kwargs))

    def read(self, n):
        parts = []
        while n:
            data = self.socket.recv(min(n, 1 << 20))
            if not data:
                raise EOFError
            parts.append(data)
            n -= len(data)
        return b''.join(parts)

    def receive(self):
        """The next frame: its header and its payload."""
        header = core.HEADER.unpack(self.read(core.HEADER_LEN))
        return header, self.read(header[6])


def descriptors():
    # Less that of the directory itself.
    return set(fd for fd in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + fd))


class ParentTest(harness.TestCase):
    def relay(self, modules=(), **kwargs):
        handlers = kwargs.pop('handlers', {})
        handlers[0] = refuse
        self.master = self.parent(dict(modules), handlers=handlers, **kwargs)
        import mitogen.parent
        import mitogen.process
        mitogen.parent.relay = mitogen.process.ender = None
        self.parent_module = mitogen.parent
        relay = mitogen.parent.attach()
        self.assertIs(mitogen.parent.attach(), relay)
        self.addCleanup(self.stop, relay)
        return relay

    def test_lost_while_attaching(self):
        """The connection is lost while a process becomes fit to have children: nobody waits for ever."""
        self.master = self.parent({}, handlers={0: lambda parent, header, data: parent.socket.shutdown(socket.SHUT_RDWR)})
        import mitogen.parent
        import mitogen.process
        mitogen.parent.relay = mitogen.process.ender = None
        done = []

        def attach():
            try:
                done.append(mitogen.parent.attach())
            except core.Error as e:
                done.append(e)
        thread = threading.Thread(target=attach)
        thread.daemon = True
        thread.start()
        thread.join(harness.DEADLINE)
        self.assertTrue(done)
        self.assertTrue(core.io.lost)
        if mitogen.parent.relay:
            self.stop(mitogen.parent.relay)

    def test_only_a_parent_begins(self):
        """What a sibling sends while a process becomes fit to have children is not taken for the parent's answer."""
        told = []

        def answer(parent, header, data):
            parent.socket.sendall(core.HEADER.pack(core.MGC, 1, 7, 7, header[5], 4242, 0))
            refuse(parent, header, data)
        self.master = self.parent({}, handlers={0: answer, 4242: lambda parent, header, data: told.append(data)})
        import mitogen.parent
        import mitogen.process
        mitogen.parent.relay = mitogen.process.ender = None
        relay = mitogen.parent.attach()
        self.addCleanup(self.stop, relay)
        harness.eventually('the sibling is told', lambda: told)
        self.assertEqual(told, [b'refused by policy'])

    def stop(self, relay):
        """End its thread: there is one Io at a time."""
        relay.forever.close()
        relay.call_soon(int)
        harness.eventually('nobody reads', lambda: not core.io.reading)

    def give(self, peer, first, end=None):
        """The master gives numbers to a child, or somebody behind it, which can announce them from then on."""
        self.master.send(ALLOW, b'%d:%d' % (first, end or first + 1), dst=peer.context_id)
        harness.eventually('they are given', lambda: peer.link.may_announce(first))

    def announce(self, peer, context_id):
        self.give(peer, context_id)
        peer.send(1, ADD_ROUTE, b'%d' % context_id)
        harness.eventually('it is announced', lambda: context_id in core.router.routes)

    def peer(self, relay, context_id, kind='socketpair'):
        peer = Peer(relay, context_id, kind)
        self.addCleanup(peer.socket.close)
        harness.eventually('the child is there', lambda: context_id in relay.children)
        return peer

    def peers(self, relay, *ids):
        return [self.peer(relay, i) for i in ids]

    def arrived(self, handle):
        """What has come to the master for that handle."""
        return [(h, d) for h, d in list(self.master.other) if h[4] == handle]

    def wait_for(self, handle, count=1):
        harness.eventually('%d messages for %d' % (count, handle), lambda: len(self.arrived(handle)) >= count)
        return self.arrived(handle)

    def test_modules(self):
        relay = self.relay({'pkg': '', 'pkg.a': 'x = 1', 'pkg.b': ''}, related={'pkg.a': ['pkg.b']})
        for peer in self.peers(relay, 2, 3):
            for name in b'pkg', b'pkg.a', b'nothing':
                peer.send(1, core.GET_MODULE, name)
            got = []
            while len(got) < 3:
                header, data = peer.receive()
                self.assertEqual(header[1:5], (peer.context_id, 1, 1, core.LOAD_MODULE))
                got.append(core.loads(data))
            self.assertEqual([r[0] for r in got], ['pkg', 'pkg.a', 'nothing'])
            self.assertEqual(got[2][3], None)
        self.assertEqual(sorted(self.master.asked), ['nothing', 'pkg', 'pkg.a'])

    def test_one_request_for_all(self):
        """Threads here and children wait for the same answer."""
        relay = self.relay({'late': 'x = 1'}, held=['late'])
        peers = self.peers(relay, 2, 3)
        for peer in peers + peers:
            peer.send(1, core.GET_MODULE, b'late')
        local = []
        thread = threading.Thread(target=lambda: local.append(core.importer.request('late')))
        thread.start()
        harness.eventually('all wait', lambda: len(self.master.waiting) and all(p.link.requests == 2 for p in peers))
        self.master.release()
        thread.join(harness.DEADLINE)
        self.assertEqual(local[0][0], 'late')
        for peer in peers:
            self.assertEqual(core.loads(peer.receive()[1])[0], 'late')
            # The next that comes is not the same again.
            peer.send(peer.context_id + 1000, 1, reply_to=7)
        self.assertEqual(self.master.asked, ['late'])
        self.assertEqual([p.link.repeats for p in peers], [1, 1])

    def test_pieces(self):
        """Frames that come in pieces, of all sizes, in both directions."""
        relay = self.relay()
        a, b = self.peers(relay, 2, 3)
        payloads = [b'', b'x', b'y' * 65000, b'z' * 65001, os.urandom(3000000), b'end']
        data = b''.join(frame(3, 2, 2, 2000 + i, p) for i, p in enumerate(payloads))

        def send():
            pos = 0
            for size in [1] * 100 + [27, 25, 26, 70000]:
                a.socket.sendall(data[pos:pos + size])
                pos += size
            a.socket.sendall(data[pos:])
        thread = threading.Thread(target=send)
        thread.start()
        for i, payload in enumerate(payloads):
            header, got = b.receive()
            self.assertEqual(header, (core.MGC, 3, 2, 2, 2000 + i, 0, len(payload)))
            self.assertTrue(got == payload)
        thread.join(harness.DEADLINE)
        for payload in payloads:
            self.master.send(9, payload, dst=2)
            self.assertTrue(a.receive()[1] == payload)

    def test_takeover(self):
        """Messages under way, in both directions, while the stream becomes a parent's."""
        got = []
        self.master = self.parent({}, handlers={0: refuse, 3000: lambda p, h, d: got.append(d)})
        lock = threading.Lock()
        send_one = self.master.send

        def send_alone(*args, **kwargs):
            with lock:
                send_one(*args, **kwargs)
        self.master.send = send_alone
        core.router.add_handler(lambda msg: got.append((msg.handle, len(msg.data))), 4000)
        stop = []

        def send(n):
            i = 0
            while not stop:
                i += 1
                core.router.stream.send(core.Message(0, handle=3000, data=b'%d:%d:' % (n, i) + b'x' * (i % 7 * 20000)))
        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        feeder = threading.Thread(target=lambda: [self.master.send(4000, b'y' * (i * 50000)) for i in range(30)])
        feeder.start()
        import mitogen.parent
        mitogen.parent.relay = None
        self.addCleanup(self.stop, mitogen.parent.attach())
        sizes = lambda: [g for g in list(got) if type(g) is tuple]
        harness.eventually('all is here', lambda: len(sizes()) == 30)
        before = len(got)
        harness.eventually('and goes on', lambda: len(got) > before + 100)
        stop.append(1)
        for t in threads + [feeder]:
            t.join(harness.DEADLINE)
        self.assertEqual(sizes(), [(4000, i * 50000) for i in range(30)])
        last = {}
        for data in [g for g in got if type(g) is not tuple]:
            n, i, rest = data.split(b':')
            self.assertEqual(int(i), last.get(n, 0) + 1)
            self.assertEqual(len(rest), int(i) % 7 * 20000)
            last[n] = int(i)
        self.assertEqual(len(last), 4)

    def test_bad_frames(self):
        """What a child sends wrongly harms nobody else."""
        relay = self.relay(max_message_size=100000)
        a, b, c = self.peers(relay, 2, 3, 4)
        # Too large: refused, the stream goes on.
        a.send(3, 2000, b'x' * 100001, reply_to=77)
        header, data = a.receive()
        self.assertEqual((header[4], header[5]), (77, core.IS_DEAD))
        self.assertTrue(b'at most 100000' in data, data)
        # Payloads that are none.
        for handle in ADD_ROUTE, core.DEL_ROUTE, FLOW, core.GET_MODULE:
            for payload in b'', b'x', b'\xff\x00', b'-1', b'99999999999999999999':
                a.send(1, handle, payload)
        # False sources.
        for src, auth in (3, 3), (2, 3), (2, 0), (0, 0), (1, 1), (2, 1), (55, 55):
            a.send(3, 2001, b'forged', src=src, auth=auth)
        # No frame.
        c.socket.sendall(b'HTTP/1.0 400 Bad Request\r\n\r\n')
        with self.assertRaises(EOFError):
            while 1:
                c.receive()
        a.send(3, 2002, b'good')
        while 1:
            header, data = b.receive()
            if header[4] == 2002:
                break
            self.assertEqual(header[4], core.DEL_ROUTE)
        self.assertEqual(data, b'good')
        self.assertEqual(sorted(relay.children), [2, 3])
        self.assertEqual(self.wait_for(core.DEL_ROUTE)[-1][1], b'4')

    def test_routes(self):
        relay = self.relay()
        a, b = self.peers(relay, 2, 3)
        self.give(a, 20)
        a.send(1, ADD_ROUTE, b'20:name')
        self.assertEqual([d for _, d in self.wait_for(ADD_ROUTE, 3)], [b'2', b'3', b'20:name'])
        b.send(20, 2000, b'to the deep')
        self.assertEqual(a.receive()[0][1:5], (20, 3, 3, 2000))
        a.send(3, 2000, b'from the deep', src=20)
        self.assertEqual(b.receive()[0][1:5], (3, 20, 20, 2000))
        # Nobody can claim an id that is taken or above us, nor end another's.
        b.send(1, ADD_ROUTE, b'20')
        b.send(1, ADD_ROUTE, b'0')
        b.send(1, ADD_ROUTE, b'1')
        b.send(1, core.DEL_ROUTE, b'20')
        b.send(20, 2001)
        self.assertEqual(a.receive()[0][4], 2001)
        self.assertEqual(len(self.arrived(ADD_ROUTE)), 3)
        # Only those who have sent to it learn that it is gone.
        got = []
        waiter = core.router.add_handler(got.append, persist=False, respondent=core.router.context_by_id(20))
        a.send(1, core.DEL_ROUTE, b'20')
        self.assertEqual(b.receive(), ((core.MGC, 3, 1, 1, core.DEL_ROUTE, 0, 2), b'20'))
        self.assertEqual(self.wait_for(core.DEL_ROUTE)[0][1], b'20')
        harness.eventually('the handle has ended', lambda: got and got[0].is_dead and waiter not in core.router.handlers)
        b.send(20, 2002, reply_to=5)
        # Unknown here: the master decides.
        self.assertEqual(self.wait_for(2002)[0][0][1], 20)
        a.socket.close()
        self.assertEqual([d for _, d in self.wait_for(core.DEL_ROUTE, 2)], [b'20', b'2'])
        harness.eventually('nothing is left', lambda: sorted(core.router.routes) == [3])

    def test_unidirectional(self):
        relay = self.relay()
        a, b = self.peers(relay, 2, 3)
        a.link.unidirectional = True
        a.send(0, 2000, b'up')
        self.wait_for(2000)
        a.send(3, 2000, reply_to=5)
        self.assertTrue(b'parents only' in a.receive()[1])
        b.send(2, 2000, reply_to=5)
        self.assertTrue(b'parents only' in b.receive()[1])
        a.send(40, 2000, reply_to=5)
        self.assertTrue(b'parents only' in a.receive()[1])
        self.master.send(2000, b'down', dst=2)
        self.assertEqual(a.receive()[1], b'down')

    def fill(self, relay, link, send):
        """Call send() until the queue of that link is full."""
        harness.eventually('it is full', lambda: link.writer.full or send())

    def test_full_queue(self):
        relay = self.relay()
        slow, a, b = self.peers(relay, 2, 3, 4)
        payload = b'x' * 100000
        sent = []
        go = threading.Event()

        def flood():
            for i in range(100):
                a.send(2, 2000 + i, payload)
                sent.append(i)
            go.set()
        thread = threading.Thread(target=flood)
        thread.start()
        harness.eventually('the sender is not read', lambda: a.link.rfd in relay.held)
        self.assertFalse(go.is_set())
        self.assertLess(slow.link.writer.size, self.parent_module.LIMIT + 200000)
        # Everybody else goes on, and so does what this process itself has to say.
        for i in range(20):
            b.send(4, 3000 + i) or self.master.send(3000 + i, b'', dst=4)
            self.assertEqual(b.receive()[0][4], 3000 + i)
            b.send(0, 2000, b'still here')
        self.wait_for(2000, 20)
        # The master, which carries for others, is told.
        self.master.send(5000, b'one more', dst=2)
        self.assertEqual(self.wait_for(FLOW)[0][1], b'2:1')
        # As is a child that does.
        self.announce(b, 40)
        b.send(2, 5001, b'from below', src=40)
        self.assertEqual(b.receive(), ((core.MGC, 4, 1, 1, FLOW, 0, 3), b'2:1'))
        # A thread here waits.
        mine = threading.Thread(target=lambda: core.router.route(core.Message(2, handle=5002)))
        mine.start()
        harness.eventually('it waits', lambda: relay.waiting)
        handles = []
        while len(handles) < 103:
            handles.append(slow.receive()[0][4])
        thread.join(harness.DEADLINE)
        mine.join(harness.DEADLINE)
        self.assertEqual([h for h in handles if h < 3000], [2000 + i for i in range(100)])
        self.assertEqual(sorted(h for h in handles if h > 3000), [5000, 5001, 5002])
        self.assertEqual([d for _, d in self.wait_for(FLOW, 2)], [b'2:1', b'2:0'])
        self.assertEqual(b.receive()[1], b'2:0')
        self.assertEqual((relay.held, relay.told, relay.waiting), ({}, {}, []))
        harness.eventually('nobody counts', lambda: relay.patrolling is None)

    def test_flow_from_above(self):
        """A context somewhere else wants nothing: only who sends to it is stopped."""
        relay = self.relay()
        a, b = self.peers(relay, 2, 3)
        self.master.send(FLOW, b'77:1')
        harness.eventually('told', lambda: 77 in relay.stopped)
        a.send(77, 1999, b'an answer, which stops nobody', reply_to=core.IS_DEAD)
        a.send(77, 2000, b'taken, and the last'.ljust(10000))
        self.wait_for(2000)
        harness.eventually('the sender is not read', lambda: a.link.rfd in relay.held)
        self.wait_for(1999)
        a.send(77, 2001, b'not read')
        b.send(0, 2002)
        self.wait_for(2002)
        self.assertEqual(self.arrived(2001), [])
        # Only the neighbour that leads there has a say.
        b.send(1, FLOW, b'77:0')
        b.send(0, 2003)
        self.wait_for(2003)
        self.assertTrue(77 in relay.stopped)
        self.master.send(FLOW, b'77:0')
        self.wait_for(2001)
        # The end of the context ends it, too.
        self.master.send(FLOW, b'78:1')
        harness.eventually('told', lambda: 78 in relay.stopped)
        a.send(78, 2004, b'x' * 10000)
        harness.eventually('the sender is not read', lambda: a.link.rfd in relay.held)
        self.master.send(core.DEL_ROUTE, b'78')
        harness.eventually('it is read', lambda: not relay.held)

    def test_stalled_peer(self):
        relay = self.relay()
        self.parent_module.STALL = 1
        self.addCleanup(setattr, self.parent_module, 'STALL', 60)
        slow, a = self.peers(relay, 2, 3)
        a.socket.setblocking(False)
        data = frame(2, 3, 3, 2000, b'x' * 100000, reply_to=9)
        rest = b''
        reasons = []
        deadline = time.time() + harness.DEADLINE
        while not reasons and time.time() < deadline:
            try:
                rest = rest or data
                rest = rest[a.socket.send(rest):]
            except (OSError, socket.error) as e:
                if e.errno not in (errno.EAGAIN, errno.EWOULDBLOCK):
                    raise
            try:
                got = a.socket.recv(4096)
                reasons.append(got[core.HEADER_LEN:])
            except (OSError, socket.error):
                time.sleep(0.001)
        self.assertTrue(reasons and b'reads nothing' in reasons[0], reasons)
        # It is given another chance once it reads.
        slow.socket.setblocking(False)

        def drained():
            try:
                slow.socket.recv(1 << 20)
            except (OSError, socket.error):
                pass
            return not slow.link.writer.size
        harness.eventually('it has read all', drained)
        self.assertFalse(slow.link.writer.stalled)

    def test_stalled_from_above(self):
        """
        What the master gives a peer has no hole: one that reads nothing for long is refused calls, and is ended by all
        else.
        """
        relay = self.relay()
        a, b = self.peers(relay, 2, 3)
        self.announce(b, 30)
        self.parent_module.LIMIT = 1 << 16
        self.addCleanup(setattr, self.parent_module, 'LIMIT', 4 << 20)
        self.master.send(2000, b'x' * (1 << 20), dst=2)
        # It takes no more: what is written before that would count as progress.
        harness.eventually('it is full', lambda: a.link.writer.full and a.link.writer.armed)
        a.link.writer.idle = self.parent_module.STALL
        self.master.send(2001, b'', dst=2, reply_to=1234)
        header, data = self.wait_for(1234)[0]
        self.assertEqual((header[2], header[5], b'reads nothing' in data), (2, core.IS_DEAD, True))
        self.assertTrue(2 in relay.children)
        # Beside it: a parent that says of one behind it that it takes nothing knows better what becomes of it.
        b.send(1, FLOW, b'30:1')
        harness.eventually('told', lambda: 30 in relay.stopped)
        relay.stopped[30] = 1
        for reply_to in 0, 1235, core.IS_DEAD:
            self.master.send(2002, b'i', dst=30, reply_to=reply_to)
            self.assertEqual(b.receive()[0][4:6], (2002, reply_to))
        relay.stopped[30] = self.parent_module.clock() + 60
        self.master.send(2002, b'i', dst=30)
        self.assertEqual(b.receive()[0][4], 2002)
        flow = lambda: [d for _, d in self.arrived(FLOW) if d[:3] == b'30:']
        harness.eventually('the master is told', lambda: flow() == [b'30:1'])
        # However old that is, the master is not told to go on.
        relay.stopped[30] = 1
        relay.call_soon(relay.check)
        self.ask(b, 3000)
        self.assertEqual(flow(), [b'30:1'])
        b.send(1, FLOW, b'30:0')
        harness.eventually('it goes on', lambda: flow() == [b'30:1', b'30:0'])
        self.master.send(2003, b'i', dst=2)
        harness.eventually('it is ended', lambda: 2 not in relay.children)
        self.wait_for(core.DEL_ROUTE)
        self.assertTrue([1 for _, d in self.arrived(core.FORWARD_LOG) if b'context 2: it reads nothing' in d])
        self.ask(b, 3001)

    def test_parents_above_are_waited_for(self):
        """The parent says that its own parent takes nothing: what is for that one waits, and is not dropped."""
        relay = self.relay(parent_ids=[9, 0])
        self.parent_module.STALL = 0
        self.addCleanup(setattr, self.parent_module, 'STALL', 60)
        a, = self.peers(relay, 2)
        self.master.socket.sendall(frame(1, 9, 9, FLOW, b'0:1'))
        harness.eventually('told', lambda: 0 in relay.stopped)
        a.send(0, 2000, b'x' * 10000)
        self.wait_for(2000)
        harness.eventually('the sender is not read', lambda: a.link.rfd in relay.held)
        a.send(0, 2001, b'x' * 10000)
        self.master.socket.sendall(frame(1, 9, 9, FLOW, b'0:0'))
        self.wait_for(2001)

    def test_parent_is_waited_for(self):
        """A parent that reads nothing for longer than any peer may misses nothing."""
        relay = self.relay()
        self.parent_module.STALL = 1
        self.addCleanup(setattr, self.parent_module, 'STALL', 60)
        a, b = self.peers(relay, 2, 3)
        go = threading.Event()
        self.master.handlers[1999] = lambda *_: go.wait(harness.DEADLINE)
        a.send(0, 1999)
        thread = threading.Thread(target=lambda: [a.send(0, 2000, b'x' * 100000) for _ in range(100)])
        thread.start()
        harness.eventually('the sender is not read', lambda: a.link.rfd in relay.held)
        mine = threading.Thread(target=lambda: core.router.route(core.Message(0, handle=2001)))
        mine.start()
        harness.eventually('it waits', lambda: relay.waiting)
        seconds = []
        inspect = relay.inspect
        relay.inspect = lambda: seconds.append(inspect())
        harness.eventually('time passes', lambda: len(seconds) > 3)
        go.set()
        thread.join(harness.DEADLINE)
        mine.join(harness.DEADLINE)
        self.assertEqual(len(self.wait_for(2000, 100)), 100)
        self.wait_for(2001)

    def test_out_of_memory(self):
        """
        Without memory for what the parent sends, or for its own work, it ends: something would be missed. A child cannot
        end it so.
        """
        relay = self.relay()
        a, b = self.peers(relay, 2, 3)
        running = self.parent_module.running
        ends = []
        self.addCleanup(setattr, running, 'out_of_memory', running.out_of_memory)
        running.out_of_memory = lambda: ends.append(threading.current_thread())
        on_frame = relay.on_frame

        def short(head, parts, link):
            if head[4] == 4000:
                raise MemoryError
            on_frame(head, parts, link)
        relay.on_frame = short
        a.send(0, 4000)
        a.send(0, 4001)
        self.wait_for(4001)
        self.assertEqual(ends, [])
        self.master.send(4000, b'', dst=2)
        harness.eventually('it ends', lambda: len(ends) == 1)

        def job():
            raise MemoryError
        relay.call_soon(job)
        harness.eventually('it ends', lambda: len(ends) == 2)
        self.ask(b, 3001)

    def test_parent_lost(self):
        """All levels of the tree learn of it at once, and descriptors are closed."""
        relay = self.relay()
        before = descriptors()
        a, b = self.peers(relay, 2, 3)
        self.master.disconnect()
        for peer in a, b:
            with self.assertRaises(EOFError):
                while 1:
                    peer.receive()
            peer.socket.close()
        self.assertEqual(relay.children, {})
        harness.eventually('it has ended', lambda: core.io.lost)
        harness.eventually('nothing is open', lambda: descriptors() <= before)

    def ask(self, peer, handle):
        """A message from the master, and one to it."""
        self.master.send(handle, b'down', dst=peer.context_id)
        header, data = peer.receive()
        self.assertEqual((header[4], data), (handle, b'down'))
        peer.send(0, handle, b'up')
        self.wait_for(handle)

    def crowd(self):
        """More children than poll() gets descriptors."""
        relay = self.relay()
        peers = self.peers(relay, *range(2, 42))
        for peer in peers:
            self.ask(peer, 3000 + peer.context_id)
        return relay, peers

    @unittest.skipUnless(hasattr(select, 'epoll'), 'there is no epoll')
    def test_crowd(self):
        """All are read from, and poll() does not get slower for each of them."""
        relay, peers = self.crowd()
        self.assertLessEqual(len(core.io.handlers), self.parent_module.FEW + 1)
        self.assertEqual(len(set(core.io.handlers) | set(relay.crowd.masks)), len(peers) + 4)
        # Its queue is full, and then not.
        slow = peers[-1]
        payload = b'x' * (relay.upstream.writer.size + (2 << 20))
        self.master.send(3000, payload, dst=slow.context_id)
        harness.eventually('it waits to be written', lambda: relay.crowd.masks[slow.link.wfd] & select.POLLOUT)
        self.assertTrue(slow.receive()[1] == payload)
        harness.eventually('it does not', lambda: not relay.crowd.masks[slow.link.wfd] & select.POLLOUT)
        slow.socket.close()
        harness.eventually('it is gone', lambda: slow.context_id not in relay.children)
        self.assertEqual(self.wait_for(core.DEL_ROUTE)[-1][1], b'%d' % slow.context_id)
        self.ask(peers[20], 5000)

    def test_no_epoll(self):
        real = select.epoll

        def epoll():
            raise OSError(errno.EMFILE, 'too many of them')
        select.epoll = epoll
        self.addCleanup(setattr, select, 'epoll', real)
        relay, peers = self.crowd()
        # Nor is there such a thing.
        del select.epoll
        peers += self.peers(relay, *range(50, 60))
        self.assertEqual(relay.crowd.masks, {})
        for peer in peers:
            self.ask(peer, 4000 + peer.context_id)
        peers[-1].socket.close()
        harness.eventually('it is gone', lambda: peers[-1].context_id not in relay.children)

    @unittest.skipUnless(hasattr(select, 'epoll'), 'there is no epoll')
    def test_closed_behind_our_back(self):
        """User code closes a descriptor that a process it has forked off has as well; then the set itself."""
        relay, peers = self.crowd()
        victim = peers[30]
        copy = os.dup(victim.link.rfd)
        self.addCleanup(os.close, copy)
        first, left = relay.crowd.epoll, len(relay.crowd.masks) - 1
        os.close(victim.link.rfd)
        victim.send(0, 4000, b'nobody reads it')
        harness.eventually('it is gone', lambda: victim.context_id not in relay.children)
        harness.eventually('a new set has the others', lambda: relay.crowd.epoll not in (None, first) and len(relay.crowd.masks) == left)
        rounds = []
        ready = relay.crowd.on_readable
        core.io.handlers[relay.crowd.epoll.fileno()] = lambda *args: rounds.append(ready(*args))
        for peer in peers[:5] + peers[-5:]:
            self.ask(peer, 6000 + peer.context_id)
        self.assertLessEqual(len(rounds), 2 * 10, 'events come for a descriptor that nobody has any more')
        os.close(relay.crowd.epoll.fileno())
        for peer in peers[:5] + peers[-5:]:
            self.ask(peer, 7000 + peer.context_id)

    @unittest.skipUnless(hasattr(select, 'epoll'), 'there is no epoll')
    def test_forked_off(self):
        """What is forked off closes the set, and takes nothing from it."""
        relay, peers = self.crowd()
        fd = relay.crowd.epoll.fileno()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                self.parent_module.leaf()
                other = fcntl.fcntl(os.open(os.devnull, os.O_RDONLY), fcntl.F_DUPFD, fd)
                del relay
                gc.collect()
                os.fstat(other)
                status = 0 if other == fd else 2
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        for peer in peers:
            self.ask(peer, 8000 + peer.context_id)

    def test_fork_that_fails(self):
        relay = self.relay()
        import mitogen.program
        real = os.fork
        before = descriptors()

        def fork():
            raise OSError(errno.EAGAIN, 'no more processes')
        os.fork = fork
        try:
            with self.assertRaises(OSError):
                mitogen.program.run(9, u'x', 1, {}, True, 1 << 20)
        finally:
            os.fork = real
        self.assertEqual(descriptors() - before, set())
        self.assertEqual(mitogen.program.programs, {})
        with relay.spawning:
            pass

    @unittest.skipUnless(sys.platform.startswith('linux'), 'pipes have the size that they have')
    def test_pipes_with_much(self):
        """The pipes to and from the parent, and of a program, hold more once much comes through them."""
        self.relay()
        import mitogen.program
        pipes = [os.pipe() for _ in range(4)]
        for fd in sum(pipes, ()):
            self.addCleanup(os.close, fd)
        (rfd, _), (_, wfd), (out_r, out_w), (_, in_w) = pipes
        large = self.parent_module.LARGE_PIPE

        def sizes():
            # F_GETPIPE_SZ.
            return [fcntl.fcntl(fd, 1032) for fd in (rfd, wfd, out_r)]
        stream = core.router.stream
        self.addCleanup(setattr, core.router, 'stream', stream)
        core.router.stream = core.Stream(rfd, wfd)
        program = mitogen.program.Program(9, 1, self.parent_module.Writer(in_w), {out_r: b'o'}, 1 << 20)
        small = sizes()
        program.on_message(core.Message(0, data=b'i' + b'x' * 100))
        os.write(out_w, b'x' * 100)
        self.assertTrue(program.on_output(out_r, None))
        self.assertEqual(sizes(), small)
        program.on_message(core.Message(0, data=b'i' + b'x' * (core.CHUNK - 100)))
        self.assertEqual(sizes(), [large] + small[1:])
        # One that is larger stays so.
        fcntl.fcntl(wfd, 1031, 2 * large)
        os.write(out_w, b'x' * (core.CHUNK - 100))
        self.assertTrue(program.on_output(out_r, None))
        self.assertEqual(sizes(), [large, 2 * large, large])


if __name__ == '__main__':
    harness.main()
