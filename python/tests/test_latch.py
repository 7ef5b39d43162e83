"""Who waits and who reads; nobody waits for ever."""
from __future__ import absolute_import

import os
import select
import signal
import sys
import threading
import time
import unittest

import harness

core = harness.load()


class LatchTest(harness.TestCase):
    def setUp(self):
        self.master = self.parent({'served': 'x = 1'})

    def waiting(self, count):
        """Wait until that many threads wait; one of them reads."""
        harness.eventually('%d wait' % count, lambda: len(core.io.sleepers) + bool(core.io.polling) == count)

    def test_put_wakes_the_reader(self):
        latch = core.Latch()
        got = []

        def body(number):
            if number:
                got.append(latch.get(harness.DEADLINE))
            else:
                self.waiting(1)
                latch.put('item')
        harness.in_threads(2, body)
        self.assertEqual(got, ['item'])

    def test_put_wakes_a_sleeper_while_another_reads(self):
        other, latch = core.Latch(), core.Latch()
        got = []

        def body(number):
            if number == 1:
                other.get(harness.DEADLINE)
            elif number == 2:
                harness.eventually('reader', lambda: core.io.polling)
                got.append(latch.get(harness.DEADLINE))
            else:
                self.waiting(2)
                latch.put('item')
                harness.eventually('got', lambda: got)
                other.put(None)
        harness.in_threads(3, body)
        self.assertEqual(got, ['item'])

    def test_close_wakes_everybody(self):
        latch = core.Latch()
        closed = []

        def body(number):
            if number:
                try:
                    latch.get(harness.DEADLINE)
                except core.LatchError:
                    closed.append(number)
            else:
                self.waiting(5)
                latch.close()
        harness.in_threads(6, body)
        self.assertEqual(len(closed), 5)

    def test_each_item_goes_to_one_waiter(self):
        latch = core.Latch()
        got = []

        def body(number):
            if number < 8:
                for _ in range(50):
                    got.append(latch.get(harness.DEADLINE))
            else:
                for i in range(200):
                    latch.put((number, i))
        harness.in_threads(10, body)
        self.assertEqual(len(got), 400)
        self.assertEqual(len(set(got)), 400)
        self.assertFalse(core.io.sleepers or core.io.reading)

    def test_timeouts_leave_nothing_behind(self):
        latches = [core.Latch() for _ in range(3)]

        def body(number):
            for i in range(10):
                latch = latches[(number + i) % 3]
                try:
                    latch.get(0.001 * ((number + i) % 4))
                except core.TimeoutError:
                    pass
        harness.in_threads(6, body)
        self.assertFalse(core.io.sleepers or core.io.reading)

    def test_role_goes_on_when_its_holder_is_done(self):
        # Modules arrive for the waiters that are left, whoever read until then.
        self.master.held.add('*')
        done = []

        def body(number):
            core.importer.request('absent%d' % number)
            done.append(number)
        threads = [threading.Thread(target=body, args=(n,)) for n in range(5)]
        for t in threads:
            t.start()
        harness.eventually('all asked', lambda: len(self.master.waiting) == 5)
        for name in list(self.master.waiting):
            before = len(done)
            self.master.release(name)
            harness.eventually('one more', lambda: len(done) == before + 1)
        for t in threads:
            t.join(harness.DEADLINE)

    @unittest.skipIf(sys.version_info[0] == 2, 'on 2.x nothing interrupts a thread that waits for a lock')
    def test_interrupted_sleeper_is_forgotten(self):
        # Otherwise the next item would wake a thread that no longer waits.
        other, latch = core.Latch(), core.Latch()
        reader = threading.Thread(target=other.wait)
        reader.start()
        self.waiting(1)
        self.alarm(lambda: core.io.sleepers, KeyboardInterrupt)
        with self.assertRaises(KeyboardInterrupt):
            latch.get(harness.DEADLINE)
        self.assertFalse(core.io.sleepers)
        latch.put('item')
        self.assertEqual(latch.get(harness.DEADLINE), 'item')
        other.put()
        reader.join(harness.DEADLINE)
        self.assertFalse(reader.is_alive())

    def test_interrupted_reader_gives_the_role_back(self):
        latch = core.Latch()
        self.alarm(lambda: core.io.polling, KeyboardInterrupt)
        with self.assertRaises(KeyboardInterrupt):
            latch.get(harness.DEADLINE)
        self.assertFalse(core.io.reading)
        import served
        self.assertEqual(served.x, 1)

    def alarm(self, condition, do):
        """Have a signal interrupt the main thread once condition() holds: raises `do`, or calls it."""
        ran = []

        def handler(_signum, _frame):
            if ran:
                return
            ran.append(1)
            if isinstance(do, type):
                raise do
            do()
        old = signal.signal(signal.SIGUSR1, handler)
        self.addCleanup(signal.signal, signal.SIGUSR1, old)

        def body():
            harness.eventually('interruptible', condition)
            time.sleep(0.01)
            # One that comes just before a system call is handled after it.
            until = time.time() + harness.DEADLINE
            while not ran and time.time() < until:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.05)
        thread = threading.Thread(target=body)
        thread.start()
        self.addCleanup(thread.join, harness.DEADLINE)

    def test_signal_handler_imports_while_its_thread_reads(self):
        self.master.held.add('late')
        self.master.modules['late'] = 'x = 2'
        seen = []

        def imports():
            import served
            seen.append(served.x)
            self.master.release('late')
        self.alarm(lambda: core.io.polling, imports)
        import late
        self.assertEqual((seen, late.x), ([1], 2))
        self.assertEqual(self.master.asked, ['late', 'served'])
        self.assertFalse(core.io.sleepers or core.io.reading)

    def test_signal_handler_gets_what_its_thread_waits_for(self):
        # The interrupted wait must notice, although nothing more comes.
        self.master.held.add('late')
        self.master.modules['late'] = 'x = 2'

        def imports():
            self.master.release('late')
            core.importer.request('late')
        self.alarm(lambda: core.io.polling, imports)
        import late
        self.assertEqual(late.x, 2)
        self.assertEqual(self.master.asked, ['late'])

    def test_handler_within_a_message_may_not_wait(self):
        # Here it would wait for ever: the reader is below it on the stack.
        errors = []

        def handler(_msg):
            try:
                core.Latch().get(1)
            except core.LatchError as e:
                errors.append(str(e))
        core.router.add_handler(handler, 2000)
        self.master.send(2000, b'')
        harness.eventually('handled', lambda: errors or core.Latch().wait(0.01))
        self.assertIn('cannot wait', errors[0])

    def test_request_that_was_not_sent_is_sent_by_the_next(self):
        send = core.router.stream.send

        def fails(msg):
            core.router.stream.send = send
            raise KeyboardInterrupt
        core.router.stream.send = fails
        with self.assertRaises(KeyboardInterrupt):
            import served
        import served
        self.assertEqual(served.x, 1)
        self.assertEqual(self.master.asked, ['served'])


if __name__ == '__main__':
    harness.main()
