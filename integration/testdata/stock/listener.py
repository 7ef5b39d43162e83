# A listener of the program, as Ansible has one: other processes call the program's children through it, and make more.
import os
import subprocess
import sys

import mitogen.core
import mitogen.parent
import mitogen.utils


def double(x):
    return 2 * x


def ids(router):
    """Context ids are also allocated on the thread that receives messages, and more of them than the daemon allocates at once."""
    done = mitogen.core.Latch()

    def some():
        done.put([router.id_allocator.allocate() for _ in range(400)])
    seen = set()
    for _ in range(6):
        router.broker.defer(some)
        seen.update(done.get(timeout=30))
        router.id_allocator.allocate()
        seen.update(router.id_allocator.allocate() for _ in range(100))
    return len(seen)


def client(path, child_id):
    import mitogen.unix
    router, parent = mitogen.unix.connect(path)
    child = mitogen.parent.Context(router, int(child_id))
    sys.stdout.write('%s %s\n' % (child.call(os.getpid) > 1, child.call(double, 21)))
    router.broker.shutdown()
    router.broker.join()


def main(router):
    import mitogen.unix
    child = router.local()
    listener = mitogen.unix.Listener.build_stream(router)
    print(ids(router))
    sys.stdout.flush()
    for _ in range(3):
        subprocess.check_call([sys.executable, __file__, listener.protocol.path, str(child.context_id)])
    waiting = [subprocess.Popen([sys.executable, __file__, listener.protocol.path, str(child.context_id)]) for _ in range(3)]
    print([p.wait() for p in waiting])
    print(child.call(double, 1))


if __name__ == '__main__':
    if len(sys.argv) > 2:
        client(*sys.argv[1:])
    else:
        mitogen.utils.run_with_router(main)
