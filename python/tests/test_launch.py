# -*- coding: utf-8 -*-
"""The launcher: programs that stand in for ssh, sudo and interpreters, on every stdio layout."""
from __future__ import absolute_import

import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time

import harness
from test_parent import ParentTest as Base, descriptors

core = harness.load()
LAYOUTS = u'socketpair', u'pipes', u'pty', u'hybrid', u'hybrid-pipes'

# An interpreter that takes the handshake, and lives until its stream ends. It says what it was given.
CHILD = r'''
import os, sys
def line():
    out = b''
    while out[-1:] != b'\n':
        c = os.read(0, 1)
        if not c:
            os._exit(7)
        out += c
    return out
def read(n):
    out = b''
    while len(out) < n:
        out += os.read(0, n - len(out))
    return out
os.write(1, BANNER)
os.write(1, b'MITO000 %x\n' % sys.hexversion)
import zlib
source, config = zlib.decompress(read(int(line()))).split(b'\0')
assert config == b"{u'context_id': 9}", config
assert b'class Dispatcher' in source
os.write(1, b'MITO001\nMITO0')
os.write(1, b'02\n' + FRAME)
while os.read(0, 1000):
    pass
'''


class LaunchTest(Base):
    replies = 0

    def launch(self, argv, prompts=(), stdio=u'socketpair', timeout=30.0, **more):
        """Run a plan; the report, and the attempt."""
        import mitogen.launch
        handle = mitogen.launch.serve()
        plan = dict({u'argv': argv, u'env': {u'EXTRA': u'1'}, u'stdio': stdio, u'input': u'', u'prompts': list(prompts),
                     u'timeout': timeout, u'settle_time': 0.04}, **more)
        self.replies += 1
        self.master.send(handle, b'9\0' + core.dumps((u'name', plan, u"{u'context_id': 9}", False), 2),
                         reply_to=8000 + self.replies)
        return core.loads(self.wait_for(8000 + self.replies)[0][1])

    def end(self):
        """End what was launched, and wait for its last word."""
        import mitogen.launch
        self.replies += 1
        self.master.send(mitogen.launch.serve(), b'9', reply_to=8000 + self.replies)
        self.wait_for(8000 + self.replies)

    def script(self, text):
        fd, path = tempfile.mkstemp()
        os.write(fd, text.encode('utf-8'))
        os.close(fd)
        os.chmod(path, stat.S_IRWXU)
        self.addCleanup(os.unlink, path)
        return path if isinstance(path, core.text_type) else path.decode('utf-8')

    def python(self, text, **names):
        for name, value in names.items():
            text = text.replace(name, repr(value))
        return [core.text_type(sys.executable), u'-c', core.text_type(text)]

    def prompt(self, pattern, **fields):
        return dict({u'name': u'password', u'pattern': pattern, u'answer': u'', u'known': True, u'repeat': False,
                     u'settle': False, u'missing': u'', u'refused': u'', u'hint': u''}, **fields)

    def attached(self, **kwargs):
        relay = self.relay(**kwargs)
        import mitogen.launch
        mitogen.launch.leaf()
        return relay

    def child(self, banner=b''):
        frame = core.HEADER.pack(core.MGC, 0, 9, 9, 7000, 0, 5) + b'frame'
        return self.python(CHILD, BANNER=banner, FRAME=frame)

    def test_layouts(self):
        relay = self.attached()
        before = None
        for n, stdio in enumerate(LAYOUTS + LAYOUTS):
            report = self.launch(self.child(b'Welcome!\nMITO000\nMITO002\nno newline '), stdio=stdio)
            self.assertEqual(report, {u'ok': True, u'hexversion': sys.hexversion})
            # What came behind the last marker was not lost.
            self.assertEqual(self.wait_for(7000, n + 1)[n][1], b'frame')
            self.assertEqual(sorted(relay.children), [9])
            self.end()
            self.assertEqual(relay.children, {})
            if stdio == LAYOUTS[-1]:
                before = before or descriptors()
        self.assertEqual(descriptors(), before)

    def test_route_before_reply(self):
        self.attached()
        import mitogen.launch
        self.launch(self.child())
        handles = [(h[4], d) for h, d in self.master.other]
        reply = [h for h, _ in handles].index(8000 + self.replies)
        self.assertLess(handles.index((103, b'9')), reply)
        self.end()
        handle = mitogen.launch.serve()
        self.assertEqual(handle, mitogen.launch.serve())

    def test_failures(self):
        relay = self.attached()
        sh = lambda text: [u'/bin/sh', u'-c', text]
        before = None
        for argv, want in (
                ([u'/no/such/program'], {u'step': u'program', u'status': None}),
                ([u'/etc'], {u'step': u'program', u'status': None}),
                (sh(u'exit 3'), {u'step': u'connect', u'status': 3 << 8, u'output': []}),
                (sh(u'kill -9 $$'), {u'step': u'connect', u'status': 9}),
                (sh(u'echo one; echo two >&2; printf three; exit 1'), {u'step': u'connect', u'output': [u'one', u'two', u'three']}),
                (sh(u'echo MITOERR tried python3=127'), {u'step': u'interpreter', u'output': [u'MITOERR tried python3=127']}),
                (sh(u'echo MITO000 30b00f0; exit 1'), {u'step': u'first stage', u'status': 1 << 8}),
                (sh(u'echo MITO000 30b00f0; echo MITO001; exit 1'), {u'step': u'runtime'}),
                (sh(u'echo $EXTRA; exit 1'), {u'output': [u'1']}),
                # It ends, but leaves a process that holds the stream.
                (sh(u'sleep 5 & exit 4'), {u'step': u'connect', u'status': 4 << 8}),
                (sh(u'while :; do echo garbage garbage garbage garbage garbage garbage garbage garbage; done'),
                 {u'step': u'connect', u'reason': u'it printed more than a mebibyte that is no handshake'})):
            for stdio in LAYOUTS:
                report = self.launch(argv, stdio=stdio)
                self.assertEqual(report[u'ok'], False)
                want = dict(want)
                output = want.get(u'output')
                if output:
                    # Two streams have no common order.
                    self.assertEqual(sorted(report[u'output']), sorted(want.pop(u'output')))
                self.assertEqual(dict((k, report[k]) for k in want), want, (argv, stdio))
        self.assertEqual(relay.children, {})
        import mitogen.process
        harness.eventually('nothing is left', lambda: not mitogen.process.ender.alive)

    def test_slow_end(self):
        """Its streams have ended, and the system has not yet ended all of it."""
        harness.needs('ctypes')
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'slow_end.py')
        self.attached()
        for stdio in u'pipes', u'pty':
            report = self.launch([sys.executable, program], stdio=stdio)
            self.assertEqual((report[u'step'], report[u'status']), (u'connect', 3 << 8), stdio)
        import mitogen.process
        self.assertFalse(mitogen.process.exiting(os.getpid()))
        self.assertFalse(mitogen.process.exiting(0))
        harness.eventually('nothing is left', lambda: not mitogen.process.ender.alive)

    def test_timeout(self):
        self.attached()
        report = self.launch([u'/bin/sh', u'-c', u'echo waiting; trap "" TERM; sleep 60'], timeout=3.0)
        self.assertEqual((report[u'timed_out'], report[u'step'], report[u'output']), (True, u'connect', [u'waiting']))
        import mitogen.process
        harness.eventually('it is gone', lambda: not mitogen.process.ender.alive)

    def test_cancel(self):
        self.attached()
        import mitogen.launch
        import mitogen.process
        handle = mitogen.launch.serve()
        plan = {u'argv': [u'/bin/sleep', u'60'], u'env': {}, u'stdio': u'pipes', u'input': u'', u'prompts': [],
                u'timeout': 60.0, u'settle_time': 0.04}
        self.master.send(handle, b'9\0' + core.dumps((u'name', plan, u'{}', False), 2), reply_to=6000)
        harness.eventually('it runs', lambda: mitogen.process.ender.alive)
        self.master.send(handle, b'9')
        self.assertTrue(core.loads(self.wait_for(6000)[0][1])[u'cancelled'])
        harness.eventually('it is gone', lambda: not mitogen.process.ender.alive)

    def test_end_while_starting(self):
        """The process ends while a program is being started: that is ended too, and no other is started."""
        relay = self.attached()
        import mitogen.launch
        import mitogen.process
        begun, go = threading.Event(), threading.Event()

        def spawn(*args):
            begun.set()
            go.wait(harness.DEADLINE)
            return real(*args)
        real, mitogen.launch.spawn = mitogen.launch.spawn, spawn
        self.addCleanup(setattr, mitogen.launch, 'spawn', real)
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        handle = mitogen.launch.serve()
        plan = {u'argv': [u'/bin/sleep', u'60'], u'env': {}, u'stdio': u'pty', u'input': u'', u'prompts': [],
                u'timeout': 60.0, u'settle_time': 0.04}
        self.master.send(handle, b'9\0' + core.dumps((u'name', plan, u'{}', False), 2), reply_to=6000)
        begun.wait(harness.DEADLINE)
        started = []
        mitogen.process.Process.__init__, init = lambda self, pid: (started.append(pid), init(self, pid))[1], mitogen.process.Process.__init__
        self.addCleanup(setattr, mitogen.process.Process, '__init__', init)
        timer = threading.Timer(0.1, go.set)
        timer.start()
        relay.start_time = harness.DEADLINE
        relay.leave()
        self.assertEqual(len(started), 1)
        self.assertFalse(mitogen.process.living(started[0]))
        timer.join()
        self.master.send(handle, b'10\0' + core.dumps((u'name', plan, u'{}', False), 2), reply_to=6001)
        self.assertTrue('this process ends' in core.loads(self.wait_for(6001)[0][1])[u'reason'])

    def test_killed_late(self):
        """On a busy machine the thread that kills comes late, and what it kills ends late: it is reaped all the same."""
        self.attached()
        import mitogen.process as module

        def started():
            process = module.Process(os.fork())
            if not process.pid:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.setsid()
                while 1:
                    time.sleep(1)
            harness.eventually('it leads a group', lambda: process.signal(0))
            process.term_at = 0
            return process
        process = started()
        self.assertFalse(process.step(0))
        # Long after it was due.
        for now in 1000, 1000 + module.GIVE_UP - 1:
            self.assertFalse(process.step(now) and process.status is None)
        harness.eventually('it is reaped', lambda: process.step(1000 + module.GIVE_UP - 1))
        self.assertEqual(process.status, signal.SIGKILL)
        # The kernel holds it.
        ender, held = module.Ender(), started()
        signals, held.signal = held.signal, lambda signum: True
        ender.leaving.add(held)
        for now in 0, 1000, 1000 + module.GIVE_UP:
            module.parent.clock, clock = lambda: now, module.parent.clock
            try:
                ender.pass_over()
            finally:
                module.parent.clock = clock
        self.assertFalse(ender.leaving)
        self.assertTrue(held.status is None)
        signals(signal.SIGKILL)
        ender.leaving = set()
        harness.eventually('it is reaped later', lambda: ender.pass_over() or held.status == signal.SIGKILL)
        self.assertFalse(ender.held)

    def test_detached(self):
        """What has detached stays, up to a bound, and is reaped."""
        self.attached()
        import mitogen.process as module

        class Link(object):
            detached = True

        def started():
            pid = os.fork()
            if not pid:
                os.setsid()
                while 1:
                    time.sleep(1)
            process = module.Process(pid)
            harness.eventually('it leads a group', lambda: process.signal(0))
            ender.alive.add(process)
            return process
        most, module.MAX_DETACHED = module.MAX_DETACHED, 2
        self.addCleanup(setattr, module, 'MAX_DETACHED', most)
        ender, gone = module.Ender(), []
        list_ = [started() for _ in range(3)]
        for process in list_:
            ender.end_of(Link, process, lambda: gone.append(1))
        harness.eventually('the third has ended', lambda: list_[2].status is not None and len(gone) == 3)
        self.assertEqual([process.poll() for process in list_[:2]], [None, None])
        self.assertFalse(ender.alive - set(list_[2:]))
        list_[0].signal(signal.SIGKILL)
        harness.eventually('it is dead', lambda: not module.living(list_[0].pid))
        self.assertTrue(list_[0].status is None)
        another = started()
        ender.end_of(Link, another)
        self.assertEqual(list_[0].status, signal.SIGKILL)
        self.assertEqual(another.poll(), None)
        self.assertEqual(ender.detached, [list_[1], another])
        for process in ender.detached:
            process.signal(signal.SIGKILL)
            harness.eventually('it is reaped', lambda: process.poll() is not None)

    def test_last_words(self):
        """What a program printed before its end is told, even if nobody had time to read it before."""
        self.attached()
        import mitogen.launch

        def spawn(*args):
            popen = real(*args)
            popen.wait()
            return popen
        real, mitogen.launch.spawn = mitogen.launch.spawn, spawn
        self.addCleanup(setattr, mitogen.launch, 'spawn', real)
        self.addCleanup(setattr, mitogen.launch, 'LINGER', mitogen.launch.LINGER)
        mitogen.launch.LINGER = 0
        for stdio in LAYOUTS:
            report = self.launch([u'/bin/sh', u'-c', u'echo first >&2; echo second >&2; exit 255'], stdio=stdio)
            self.assertEqual(report[u'output'], [u'first', u'second'], stdio)

    def test_parallel(self):
        """Launches do not wait for one another."""
        self.attached()
        import mitogen.launch
        handle = mitogen.launch.serve()
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path)
        for i in range(8):
            # Each ends when all are there.
            plan = {u'argv': self.python(u'''
import os, time
mark = %r + '/%d'
os.mkdir(mark)
while len(os.listdir(%r)) < 8: time.sleep(0.01)
''' % (path, i, path)), u'env': {}, u'stdio': u'pipes', u'input': u'', u'prompts': [], u'timeout': 60.0, u'settle_time': 0.04}
            self.master.send(handle, b'%d\0' % (20 + i) + core.dumps((u'name', plan, u'{}', False), 2), reply_to=6000)
        replies = self.wait_for(6000, 8)
        self.assertEqual([core.loads(d)[u'status'] for _, d in replies], [0] * 8)

    # Questions.

    ASK = u'''#!/bin/sh
exec 3<>/dev/tty
printf '%s' >&3
read answer <&3
if [ "$answer" = 'p4ss w\u00f6rd' ]; then shift $((%d)); exec "$@"; fi
echo "no: $answer" >&3
printf '%s' >&3
read answer <&3
exit 1
'''

    def ask(self, question, prompts, stdio=u'hybrid'):
        return self.launch([self.script(self.ASK % (question, 0, question))] + self.child(), prompts, stdio=stdio)

    def test_questions(self):
        self.attached()
        right, wrong = core.Secret(u'p4ss w\u00f6rd'), core.Secret(u'wr0ng')
        question = u'[sudo] password for root: '
        for stdio in u'pty', u'hybrid', u'hybrid-pipes':
            report = self.ask(question, [self.prompt(u'password[^:]*: *$', answer=right)], stdio)
            self.assertEqual(report[u'ok'], True, report)
            self.end()
            report = self.ask(question, [self.prompt(u'password[^:]*: *$', answer=wrong)], stdio)
            self.assertEqual((report[u'ok'], report[u'answered'], report[u'step']), (False, True, u'connect'))
            # The last line is the question that came again; the master finds the reason in it, and masks what was
            # echoed.
            self.assertEqual(report[u'output'][-1], question.strip())
            self.assertEqual(report[u'output'][-2], u'no: wr0ng')
            report = self.ask(question, [self.prompt(u'password[^:]*: *$', known=False)], stdio)
            self.assertEqual((report[u'ok'], report[u'answered'], report[u'output']), (False, False, [question.strip()]))

    def test_answer_of_bytes(self):
        """What is no UTF-8 arrives as it is."""
        self.attached()
        script = self.script(self.ASK.replace(u'p4ss w\u00f6rd', u"'\"$(printf 'p\\344ss w\\303\\266')\"'") % (u'Password: ', 0, u'Password: '))
        answer = core.Secret(u'p\udce4ss w\u00f6')
        report = self.launch([script] + self.child(), [self.prompt(u'Password: *$', answer=answer)], stdio=u'hybrid')
        self.assertEqual(report[u'ok'], True, report)

    def test_settled_question(self):
        """A pattern that a banner could match is answered when nothing follows."""
        self.attached()
        prompts = [self.prompt(u'(?i)password[^:\uff1a]*[:\uff1a] *$', answer=core.Secret(u'p4ss w\u00f6rd'), settle=True)]
        for question in u'Your password:\\nis old\\nPassword\uff1a', u'\\033[1mPassword\\033[0m\u00a0: ':
            report = self.ask(question, prompts)
            self.assertEqual(report[u'ok'], True, report)
            self.end()

    def test_no_terminal(self):
        self.attached()
        report = self.launch([u'/bin/sh', u'-c', u'printf "password: " >&2; sleep 60'], [self.prompt(u'password: *$')], stdio=u'pipes')
        self.assertTrue(u'no terminal' in report[u'reason'], report)

    def test_secrets_stay_secret(self):
        """No exception of the launcher shows what the plan holds."""
        self.attached()
        prompts = [self.prompt(u'(', answer=core.Secret(u's3cret'))]
        report = self.launch([u'/bin/sh', u'-c', u'printf "x " >/dev/tty; sleep 9'], prompts, stdio=u'hybrid')
        self.assertEqual(report[u'ok'], False)
        self.assertTrue(report[u'reason'], report)
        self.assertFalse('s3cret' in repr(report))
        self.assertFalse([d for _, d in self.master.other if b's3cret' in d])

    def test_printed_later(self):
        """What the program prints once the child is there goes to the log, as the child's."""
        self.attached()
        argv = self.child()
        argv[-1] = argv[-1].replace(u'while os.read', u'os.read(0, 1000)\nos.write(2, b"a warning\\nand half")\nwhile os.read')
        self.launch(argv)
        # What it prints before it is connected belongs to the report.
        self.master.send(7000, b'now', dst=9)
        self.wait_for(core.FORWARD_LOG)
        self.end()
        logs = self.wait_for(core.FORWARD_LOG, 1)
        self.assertEqual((logs[0][0][2], logs[0][1]), (9, b'stdio\x0020\0a warning\n'))

    def test_normalise(self):
        self.attached()
        import mitogen.launch
        for data, want in (
                (b'plain', u'plain'), (b'\x1b[1;31mred\x1b[0m', u'red'), (b'a\tb\r', u'a b'), (b'\xc2\xa0:', u' :'),
                (b'\x1b]0;title\x07x', u'x'), (b'\x1b]0;title\x1b\\x', u'x'), (b'\xff', u'\ufffd'), (b'\x07\x00bell', u'bell'),
                (b'\xe3\x80\x80wide', u' wide'), (b'\x1b', u''), (b'\x1b[', u''), (b'\xc2\x85', u' '), (b'\x1c', u''),
                (u'Contrase\u00f1a\uff1a'.encode('utf-8'), u'Contrase\u00f1a\uff1a')):
            self.assertEqual(mitogen.launch.normalise(data), want)


for name in dir(Base):
    if name.startswith('test_'):
        # They have run in their own file.
        setattr(LaunchTest, name, None)
del Base

if __name__ == '__main__':
    harness.main()
