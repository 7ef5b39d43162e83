"""
A child that lies: what it sends, and what must hold for the others. Each lie is told over a socketpair, pipes and a
terminal.
"""
from __future__ import absolute_import

import errno
import os
import select
import socket
import threading
import time

import harness
from test_parent import ADD_ROUTE, ALLOW, FLOW, ParentTest as Base, frame

core = harness.load()
LIAR, HONEST, OTHER, BELOW, BESIDE = 2, 3, 4, 20, 40
FORWARD_MODULE = 108
DETACHING = 109
REPLY = 5
MODULE = b'\x80\x02' + harness.encode((u'evil', None, u'evil.py', core.Blob(b'x'), ())) + b'.'
CALL = core.dumps((None, u'os', None, u'getpid', (), {}), 2)

# Each lie: what it says, the handle, the payload and further fields of the header. All go to the parent, and are
# refused.
LIES = (
    [('that it leads to %r' % n, ADD_ROUTE, n, {}) for n in (
        # Ids of nobody, of itself, of others, of a client; and what is no number.
        b'50', b'50:name', b'2', b'0', b'1', b'3', b'40', b'19', b'1073741825', b'4294967295', b'4294967296', b'-1', b' 50', b'+50',
        b'5_0', b'', b'x', b'\xff', b'9' * 1000000, b':' * 1000000)] +
    [('that %r is gone' % n, core.DEL_ROUTE, n, {}) for n in (b'3', b'2', b'0', b'1', b'40', b'77', b'', b'9' * 1000000)] +
    [('that %r takes nothing' % n, FLOW, n + b':1', {}) for n in (b'3', b'2', b'0', b'1', b'40', b'77', b'x', b'9' * 1000000)] +
    [('an order: %d' % handle, handle, data, {}) for handle, data in (
        (core.SHUTDOWN, b''), (core.CALL_FUNCTION, CALL), (core.LOAD_MODULE, MODULE), (core.LOAD_CODE, b'evil\0x'),
        (FORWARD_MODULE, b'3\0evil'), (ALLOW, b'50:60'))] +
    [('in the name of one that is behind it: %d' % handle, handle, data, {'src': BELOW}) for handle, data in (
        (core.GET_MODULE, b'os'), (ADD_ROUTE, b'21'), (core.DEL_ROUTE, b'20'), (FLOW, b'20:1'), (DETACHING, b''))] +
    [('in the name of %d, by authority of %d' % (src, auth), core.SHUTDOWN, b'', {'src': src, 'auth': auth}) for src, auth in (
        (0, 0), (1, 1), (2, 0), (2, 1), (0, 2), (3, 3), (2, 3), (50, 50), (2, 50), (4294967295, 2), (40, 40))] +
    [('an answer to handle %d of the runtime' % reply, 54321, b'', {'reply': reply}) for reply in (99, 100, 107, 112, 987, 988, 990)] +
    [('a dead message: %d' % handle, handle, b'20', {'dead': True}) for handle in (
        core.GET_MODULE, ADD_ROUTE, core.DEL_ROUTE, FLOW, DETACHING, core.SHUTDOWN)])


class LiesTest(Base):
    def tree(self, kind='socketpair', **kwargs):
        """A parent with a liar that has a child, and two honest children, one of which has a child."""
        relay = self.relay(**kwargs)
        self.liar = self.peer(relay, LIAR, kind)
        self.honest, self.other = self.peers(relay, HONEST, OTHER)
        self.announce(self.liar, BELOW)
        self.announce(self.honest, BESIDE)
        self.count = 6000
        return relay

    def patch(self, **values):
        for name, value in values.items():
            self.addCleanup(setattr, self.parent_module, name, getattr(self.parent_module, name))
            setattr(self.parent_module, name, value)

    def holds(self, what):
        """The others are served."""
        self.count += 1
        self.honest.send(0, self.count, b'up')
        self.wait_for(self.count)
        self.honest.send(OTHER, self.count, b'across')
        self.assertEqual(self.other.receive()[0][1:5], (OTHER, HONEST, HONEST, self.count), what)
        self.other.send(BESIDE, self.count, b'deep')
        self.assertEqual(self.honest.receive()[0][1:5], (BESIDE, OTHER, OTHER, self.count), what)
        self.assertFalse(core.io.lost, what)

    def lies(self, kind):
        relay = self.tree(kind)
        before = dict(core.router.routes)
        told = lambda: [(h[4], d) for h, d in list(self.master.other) if h[4] not in (0, core.FORWARD_LOG) and h[4] < 1000]
        # What was announced has come to the master.
        self.holds('nothing yet')
        known = told()
        for what, handle, data, fields in LIES:
            reply = core.IS_DEAD if fields.get('dead') else fields.get('reply', REPLY)
            fields = dict((k, v) for k, v in fields.items() if k not in ('dead', 'reply'))
            self.liar.send(1, handle, data, reply_to=reply, **fields)
            if reply in self.parent_module.RESERVED:
                for dst in OTHER, 0, 50:
                    self.liar.send(dst, handle, data, reply_to=reply)
            # Messages are taken in turn.
            self.liar.send(OTHER, 7000, b'')
            self.assertEqual(self.other.receive()[0][4], 7000)
            self.holds(what)
            self.assertEqual(core.router.routes, before, what)
            self.assertEqual(told(), known, what)
            self.assertEqual((relay.stopped, relay.held, relay.told), ({}, {}, {}), what)
            self.assertFalse('evil' in core.importer.cache or relay.children[LIAR].detached, what)
        # The log says so, but not for each.
        logs = [d for _, d in self.arrived(core.FORWARD_LOG)]
        self.assertTrue(5 < len(logs) < 20, logs)
        self.assertTrue(max(map(len, logs)) < 500, logs)

    def test_socketpair(self):
        self.lies('socketpair')

    def test_pipe(self):
        self.lies('pipe')

    def test_pty(self):
        self.lies('pty')

    def test_honest_words(self):
        """What the liar may say: the same handles, for what is its own."""
        relay = self.tree()
        self.liar.send(1, FLOW, b'20:1')
        harness.eventually('it counts', lambda: BELOW in relay.stopped)
        self.liar.send(1, FLOW, b'20:0')
        harness.eventually('it ends', lambda: not relay.stopped)
        self.give(self.liar, 100, 200)
        for data in b'100', b'199:name':
            self.liar.send(1, ADD_ROUTE, data)
        harness.eventually('they are there', lambda: 199 in core.router.routes)
        self.liar.send(1, core.DEL_ROUTE, b'20')
        self.wait_for(core.DEL_ROUTE)
        self.assertEqual(sorted(core.router.routes), [LIAR, HONEST, OTHER, BESIDE, 100, 199])
        # The number was given once.
        self.liar.send(1, ADD_ROUTE, b'20')
        # The parent refuses what was passed on.
        self.master.send(core.DEL_ROUTE, b'100')
        harness.eventually('it is forgotten', lambda: 100 not in core.router.routes)
        self.liar.send(1, DETACHING, reply_to=REPLY)
        while self.liar.receive()[0][4] != REPLY:
            pass
        self.assertTrue(self.liar.link.detached)
        self.assertFalse(BELOW in core.router.routes)
        self.holds('all of that')

    def test_numbers_are_given_to_one_stream(self):
        """What the master has given to one child, another cannot announce first; nor does a child pass them around."""
        self.tree()
        self.give(self.honest, 60)
        self.liar.send(HONEST, ALLOW, b'61:62')
        self.liar.send(LIAR, ALLOW, b'61:62')
        for n in b'60', b'61':
            self.liar.send(1, ADD_ROUTE, n)
        self.liar.send(0, 7001)
        self.wait_for(7001)
        self.honest.send(1, ADD_ROUTE, b'60')
        harness.eventually('it is there', lambda: core.router.routes.get(60) is self.honest.link)
        self.honest.send(1, ADD_ROUTE, b'61')
        self.honest.send(0, 7002)
        self.wait_for(7002)
        self.assertFalse(61 in core.router.routes)
        # A child that is refused forgets it, too.
        got = []
        while len(got) < 2:
            header, data = self.liar.receive()
            if header[4] == core.DEL_ROUTE:
                got.append(data)
        self.assertEqual(got, [b'60', b'61'])

    def test_numbers_are_taken_back(self):
        """What the master has taken back cannot be announced, and is not kept; nobody else takes anything back."""
        self.tree()
        for n in range(60, 70):
            self.give(self.honest, n)
        self.liar.send(HONEST, ALLOW, b'60:60')
        self.honest.send(HONEST, ALLOW, b'60:60')
        self.liar.send(0, 7001)
        self.honest.send(0, 7002)
        self.wait_for(7001)
        self.wait_for(7002)
        for n in range(61, 70):
            self.master.send(ALLOW, b'%d:%d' % (n, n), dst=HONEST)
        harness.eventually('they are taken back', lambda: self.honest.link.allowed == set([60]))
        for n in 61, 60:
            self.honest.send(1, ADD_ROUTE, b'%d' % n)
        harness.eventually('the other is there', lambda: core.router.routes.get(60) is self.honest.link)
        self.assertFalse(61 in core.router.routes)

    def test_dead_messages(self):
        """The respondent ends a call; so do who leads to it, and a parent."""
        relay = self.tree()
        ended = []

        def wait_for(context_id):
            del ended[:]
            return core.router.add_handler(ended.append, persist=False, respondent=core.router.context_by_id(context_id))

        def dead(peer, handle, **fields):
            peer.send(1, handle, b'no', reply_to=core.IS_DEAD, **fields)
            self.count += 1
            peer.send(0, self.count)
            self.wait_for(self.count)
        for respondent in HONEST, BESIDE, 0, 99:
            handle = wait_for(respondent)
            dead(self.liar, handle)
            dead(self.liar, handle, src=BELOW)
            dead(self.other, handle)
            self.assertEqual(ended, [], respondent)
            core.router.del_handler(handle)
        for respondent, peer, fields in (
                (HONEST, self.honest, {}), (BESIDE, self.honest, {}), (BESIDE, self.honest, {'src': BESIDE}), (BELOW, self.liar, {})):
            handle = wait_for(respondent)
            dead(peer, handle, **fields)
            self.assertEqual([m.data for m in ended], [b'no'], (respondent, fields))
        handle = wait_for(HONEST)
        self.master.send(handle, b'from above', reply_to=core.IS_DEAD)
        harness.eventually('it has ended', lambda: ended)
        # What a parent refuses for one that is behind it comes in its name.
        self.liar.link.writer.idle = self.parent_module.STALL
        self.patch(LIMIT=-1)
        self.honest.send(BELOW, 7101, reply_to=REPLY)
        self.master.send(7102, b'', dst=BELOW, reply_to=1234)
        header, data = [(h, d) for h, d in self.wait_for(1234)][0]
        self.assertEqual((header[2], header[5]), (BELOW, core.IS_DEAD))
        self.assertTrue(b'reads nothing' in data, data)

    def test_flow_ends(self):
        """FLOW for what is behind the liar stops a sender for a time, and does not stop who answers."""
        relay = self.tree()
        self.patch(STALL=2)
        self.liar.send(1, FLOW, b'20:1')
        harness.eventually('it counts', lambda: BELOW in relay.stopped)
        # Answers to what the liar has asked.
        for _ in range(100):
            self.honest.send(BELOW, 7200, b'invalid handle', reply_to=core.IS_DEAD)
        self.holds('answers to whoever is stopped')
        self.honest.send(BELOW, 7201, b'x' * 100000)
        harness.eventually('it is held', lambda: self.honest.link.rfd in relay.held)
        self.honest.send(0, 7202)
        self.wait_for(7202)
        self.assertTrue(BELOW in relay.stopped)
        self.honest.send(BELOW, 7203, b'x' * 100000, reply_to=REPLY)
        header, data = self.honest.receive()
        self.assertEqual((header[4:6], b'reads nothing' in data), ((REPLY, core.IS_DEAD), True))
        self.holds('a stop without end')

    # What it can make us keep.

    def flood(self, what, peer, data, check=lambda: None):
        """
        Send that without end and read nothing, until the stream is ended; gives the highest value of what was
        checked.
        """
        most = 0
        peer.socket.setblocking(False)
        rest = b''
        deadline = time.time() + harness.DEADLINE
        while 1:
            if time.time() > deadline:
                raise AssertionError('it is not ended: %s' % what)
            most = max(most, check() or 0)
            try:
                rest = rest or data
                rest = rest[peer.socket.send(rest):]
            except (OSError, socket.error) as e:
                if e.errno in (errno.EPIPE, errno.ECONNRESET):
                    return most
                if e.errno not in (errno.EAGAIN, errno.EWOULDBLOCK):
                    raise
                select.select([], [peer.socket], [], 0.01)

    def test_unread_answers(self):
        """It asks and does not read the answers."""
        relay = self.tree(modules={'m': ''})
        limit, unread = 1 << 18, 1 << 20
        self.patch(LIMIT=limit, MAX_UNREAD=unread)
        self.master.handlers[7300] = lambda parent, header, data: parent.socket.sendall(
            frame(header[2], 0, 0, header[5], b'answer') * 1000)
        number = 100
        for what, ask in (
                ('refusals', lambda p: p.frame(1, 4999, reply_to=REPLY)),
                ('refusals by policy', lambda p: p.frame(1, core.SHUTDOWN, reply_to=REPLY)),
                ('no routes', lambda p: p.frame(p.context_id, 4999, reply_to=REPLY)),
                ('false numbers', lambda p: p.frame(1, ADD_ROUTE, b'55')),
                ('detaching', lambda p: p.frame(1, DETACHING, reply_to=REPLY)),
                ('names that nobody has', lambda p: p.frame(1, core.GET_MODULE, b'nothing')),
                ('long names', lambda p: p.frame(1, core.GET_MODULE, b'x' * 2000))):
            number += 1
            peer = self.peer(relay, number)
            most = self.flood(what, peer, ask(peer) * 200, lambda: peer.link.writer.size)
            self.assertTrue(most < limit + unread + (1 << 18), (what, most))
            harness.eventually('it is gone', lambda: number not in relay.children)
            self.assertEqual(peer.link.writer.size, 0)
            self.holds(what)
        # What the master answers passes through.
        peer = self.peer(relay, 99)
        try:
            for _ in range(40):
                peer.send(0, 7300, reply_to=REPLY)
        except EnvironmentError as e:
            # It may be gone before it has asked for all.
            self.assertTrue(e.errno in (errno.EPIPE, errno.ECONNRESET), e)
        harness.eventually('it is gone', lambda: 99 not in relay.children)
        self.holds('answers from above')
        self.assertTrue([1 for _, d in self.arrived(core.FORWARD_LOG) if b'does not read what it has asked for' in d])

    def test_unread_answers_of_others(self):
        """
        It asks a sibling, which has to answer, and does not read. It may be a sibling that sends what nobody asked for,
        so nobody is ended for it; what a parent sends has room beside it.
        """
        relay = self.tree()
        limit, unread = 1 << 18, 1 << 20
        self.patch(LIMIT=limit, MAX_UNREAD=unread)
        dead = self.honest.frame(LIAR, REPLY, b'refused by policy', reply_to=core.IS_DEAD)
        above = frame(LIAR, 77, 77, 2000, b'of a sibling somewhere else')
        for _ in range(50):
            # It is never held: sendall would time out.
            self.honest.socket.sendall(dead * 200)
            self.master.socket.sendall(above * 200)
        self.honest.send(OTHER, 7400)
        self.assertEqual(self.other.receive()[0][4], 7400)
        self.master.send(7401, b'', dst=OTHER)
        self.assertEqual(self.other.receive()[0][4], 7401)
        self.assertEqual((relay.held, LIAR in relay.children), ({}, True))
        self.assertTrue(self.liar.link.writer.size < limit + unread, self.liar.link.writer.size)
        # Who waits for an answer is told.
        self.master.socket.sendall(frame(LIAR, 77, 77, 2000, b'x' * 3000, reply_to=1235))
        header, data = self.wait_for(1235)[0]
        self.assertEqual((header[1], header[5]), (77, core.IS_DEAD))
        # Nor is it ended once it has read nothing for long.
        self.liar.link.writer.idle = self.parent_module.STALL
        self.master.socket.sendall(above + frame(LIAR, 77, 77, 2000, b'', reply_to=core.IS_DEAD))
        self.master.send(7402, b'', dst=LIAR, reply_to=1234)
        self.wait_for(1234)
        self.assertTrue(LIAR in relay.children)

    def test_stop_that_is_ignored(self):
        """It goes on to send for one behind it, to a parent that reads nothing for long."""
        relay = self.tree()
        limit = 1 << 18
        self.patch(LIMIT=limit, OVERFULL=8 * limit, STALL=1)
        core.router.max_message_size, size = 100000, core.router.max_message_size
        self.addCleanup(setattr, core.router, 'max_message_size', size)
        go = threading.Event()
        self.addCleanup(go.set)
        self.master.handlers[7450] = lambda *_: go.wait(harness.DEADLINE)
        self.liar.send(0, 7450)
        self.liar.socket.setblocking(False)
        data = self.liar.frame(0, 7451, b'x' * 100000, src=BELOW)
        rest = [data]

        def flood():
            try:
                for _ in range(1000):
                    rest[0] = rest[0][self.liar.socket.send(rest[0]):] or data
            except (OSError, socket.error):
                pass
            return self.liar.link.rfd in relay.held
        harness.eventually('it is not read', flood)
        self.assertTrue(relay.upstream.writer.size < 10 * limit, relay.upstream.writer.size)
        go.set()
        harness.eventually('it is read', lambda: not relay.held)

    def test_many_talked_to(self):
        """It sends to ever more contexts, whose end it would be told."""
        relay = self.tree()
        self.patch(MAX_TALKED=3)
        for n in range(100, 110):
            self.liar.send(n, 7500)
        self.wait_for(7500, 10)
        self.assertEqual(self.liar.link.talked, set((100, 101, 102)))
        self.master.send(core.DEL_ROUTE, b'109')
        self.master.send(core.DEL_ROUTE, b'101')
        header, data = self.liar.receive()
        self.assertEqual((header[4], data), (core.DEL_ROUTE, b'101'))
        self.assertEqual(self.liar.link.talked, set((100, 102)))
        self.holds('contexts that it has sent to')

    def test_honest_reader_is_kept(self):
        """More answers than the bound, to one that reads."""
        relay = self.tree()
        self.patch(LIMIT=1 << 16, MAX_UNREAD=1 << 18)
        for _ in range(200):
            self.honest.socket.sendall(self.honest.frame(1, 4999, reply_to=REPLY) * 100)
            for _ in range(100):
                self.assertEqual(self.honest.receive()[0][4], REPLY)
        self.assertTrue(HONEST in relay.children)

    def test_names(self):
        relay = self.tree()
        self.patch(MAX_ASKED=50, MAX_REFUSED=30)
        # Too long: answered, not passed on, not kept.
        self.liar.send(1, core.GET_MODULE, b'y' * 2000)
        self.assertEqual(core.loads(self.liar.receive()[1])[0], 'y' * 2000)
        self.assertFalse([n for n in self.master.asked if n.startswith('y')])
        # A module may have such a name; so this is answered as well, whatever Python the hop has.
        for name in b'caf\xc3\xa9', b'\xff':
            self.liar.send(1, core.GET_MODULE, name)
            self.assertEqual(core.loads(self.liar.receive()[1])[3], None)
        for i in range(46):
            self.liar.send(1, core.GET_MODULE, b'name%d' % i)
            self.liar.receive()
        self.assertTrue(len(core.importer.cache) < 30, core.importer.cache)
        self.assertTrue(LIAR in relay.children)
        for i in range(3):
            self.liar.send(1, core.GET_MODULE, b'more%d' % i)
        harness.eventually('it is ended', lambda: LIAR not in relay.children)
        self.holds('too many names')

    def test_routes_have_a_bound(self):
        relay = self.tree()
        self.patch(MAX_ROUTES=10)
        self.give(self.liar, 100, 200)
        for i in range(100, 130):
            self.liar.send(1, ADD_ROUTE, b'%d' % i)
        self.liar.send(0, 7500)
        self.wait_for(7500)
        self.assertEqual(len(self.liar.link.routes), 10)
        self.liar.socket.close()
        harness.eventually('all are gone', lambda: sorted(core.router.routes) == [HONEST, OTHER, BESIDE])
        self.assertEqual(relay.stopped, {})

    def test_half_frames(self):
        """A frame byte by byte is kept in few parts."""
        relay = self.tree()
        size = 100000
        whole = self.liar.frame(OTHER, 7600, b'z' * size)
        self.liar.socket.sendall(whole[:2000])
        for i in range(2000, 5000):
            self.liar.socket.sendall(whole[i:i + 1])
            harness.eventually('it is read', lambda: self.liar.link.need == len(whole) - i - 1 or not self.liar.link.need)
        self.assertTrue(len(self.liar.link.parts) < 4, len(self.liar.link.parts))
        self.liar.socket.sendall(whole[5000:])
        self.assertEqual(self.other.receive()[1], b'z' * size)
        self.holds('a slow frame')
        self.assertEqual(sorted(relay.children), [LIAR, HONEST, OTHER])

    def test_contexts_told_of(self):
        """While nothing can go up, it sends to ever more contexts in another's name."""
        relay = self.tree()
        self.patch(MAX_TOLD=20)
        for n in range(1000, 1100):
            self.master.send(FLOW, b'%d:1' % n)
        harness.eventually('all are stopped', lambda: len(relay.stopped) == 100)
        for n in range(1000, 1100):
            self.liar.socket.settimeout(0.2)
            try:
                self.liar.send(n, 7700, b'x' * 5000, src=BELOW)
            except (OSError, socket.timeout):
                break
        harness.eventually('it is not read', lambda: self.liar.link.rfd in relay.held)
        self.assertEqual(len(relay.told), 20)
        for n in range(1000, 1100):
            self.master.send(FLOW, b'%d:0' % n)
        harness.eventually('it is', lambda: not relay.held and not relay.told and not self.liar.link.told)

    # The importer.

    def test_question_cut_off(self):
        """A signal interrupts the thread whose question was a child's as well: the child is answered."""
        self.tree(modules={'late': ''})
        link = self.parent_module.relay.upstream
        self.addCleanup(setattr, link, 'send', link.send)

        def send(msg):
            del link.send
            self.liar.send(1, core.GET_MODULE, b'late')
            harness.eventually('the child waits', lambda: core.importer.inflight['late'][1])
            raise KeyboardInterrupt
        link.send = send
        with self.assertRaises(KeyboardInterrupt):
            core.importer.join('late', link.send)
        self.assertEqual(core.loads(self.liar.receive()[1])[0], 'late')
        self.assertEqual(core.importer.inflight, {})


for name in dir(Base):
    if name.startswith('test_'):
        # They have run in their own file.
        setattr(LiesTest, name, None)
del Base

if __name__ == '__main__':
    harness.main()
