"""What a function prints is on its way before its reply."""
from __future__ import absolute_import

import fcntl
import os
import select
import threading

import harness

core = harness.load()


class StdioTest(harness.TestCase):
    def stdio(self):
        """A Stdio of a pipe of its own, and that pipe's writing end."""
        rfd, wfd = os.pipe()
        fcntl.fcntl(rfd, fcntl.F_SETFL, fcntl.fcntl(rfd, fcntl.F_GETFL) | os.O_NONBLOCK)
        stdio = core.Stdio(False)
        stdio.rfd, stdio.lock, stdio.poller = rfd, threading.Lock(), select.poll()
        stdio.poller.register(rfd, select.POLLIN)
        return stdio, wfd

    def test_flush_waits_for_what_the_reader_has_taken(self):
        self.parent({})
        stdio, wfd = self.stdio()
        seen, taken = [], threading.Event()

        def post(msg):
            taken.set()
            # Time enough for a flush() that does not wait.
            taken.wait()
            threading.Event().wait(0.2)
            seen.append(msg.data.split(b'\0')[2])

        core.router.stream.post = post
        os.write(wfd, b'printed')
        reader = threading.Thread(target=stdio.on_readable)
        reader.start()
        self.assertTrue(taken.wait(harness.DEADLINE))
        stdio.flush()
        seen.append('reply')
        reader.join(harness.DEADLINE)
        self.assertEqual(seen, [b'printed', 'reply'])

    def test_flush_takes_all_that_a_pipe_holds(self):
        self.parent({})
        stdio, wfd = self.stdio()
        seen = []
        core.router.stream.post = lambda msg: seen.append(msg.data[len(b'stdio\00020\0'):])
        fcntl.fcntl(wfd, fcntl.F_SETFL, fcntl.fcntl(wfd, fcntl.F_GETFL) | os.O_NONBLOCK)
        size = 0
        try:
            while 1:
                size += os.write(wfd, b'x' * 4096)
        except (OSError, IOError):
            pass
        stdio.flush()
        self.assertEqual(len(b''.join(seen)), size)

    def test_what_was_posted_is_sent_first(self):
        self.parent({})
        rfd, wfd = os.pipe()
        stream = core.Stream(rfd, wfd)
        stream.wlock.acquire()
        stream.post(core.Message(0, handle=1000, data=b'first'))
        stream.wlock.release()
        self.assertTrue(stream.deferred)
        stream.send(core.Message(0, handle=1000, data=b'second'))
        data = os.read(rfd, 4096)
        self.assertTrue(0 < data.find(b'first') < data.find(b'second'))


if __name__ == '__main__':
    harness.main()
