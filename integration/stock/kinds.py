# What a Mitogen program expects of its children under every master: blocking stdio, files of its own packages. Run by try.sh.
import logging
import os
import sys

import mitogen
import mitogen.core
import mitogen.utils


def shout(fd):
    return os.write(fd, (b'x' * 1023 + b'\n') * 1024)


def resources():
    """A package's files here; None if this Mitogen has no resources."""
    import stockdata
    loader = stockdata.__spec__.loader
    if not hasattr(loader, 'get_resource_reader'):
        return None
    reader = loader.get_resource_reader('stockdata')
    found = [reader.open_resource('data.txt').read()]
    try:
        reader.open_resource('none.txt')
    except FileNotFoundError:
        found.append(None)
    return found


def main(router, **via):
    child = router.local(**via)
    below = router.local(via=child)
    for context in child, below:
        for fd in 1, 2:
            got = context.call(shout, fd)
            assert got == 1 << 20, got
    has = mitogen.__version__[:3] >= (0, 3, 37) and sys.version_info >= (3, 7)
    for context in (child, below) if has else ():
        got = context.call(resources)
        assert got == [b'data', None], got


if __name__ == '__main__':
    logging.disable(logging.CRITICAL)
    import stockdata
    if len(sys.argv) == 1:
        mitogen.utils.run_with_router(main)
    else:
        import mitogen.unix
        router, parent = mitogen.unix.connect(sys.argv[1])
        try:
            main(router, via=parent)
        finally:
            router.broker.shutdown()
            router.broker.join()
