# Remote calls, errors, call chains, Select, grandchildren, forks, connects that fail.
import sys

import mitogen
import mitogen.core
import mitogen.parent
import mitogen.select

import stockhelper


def double(x):
    return x * 2


def helper():
    return stockhelper.VALUE


def fail(x):
    raise KeyError(x)


@mitogen.main()
def main(router):
    c = router.local()
    print(c, sys.argv[1:])
    named = router.local(name='two')
    print(named, named.call(double, 21), named.call(helper))
    try:
        c.call(fail, 'gone')
    except mitogen.core.CallError as e:
        print(e)
    with mitogen.parent.CallChain(c, pipelined=True) as chain:
        chain.call_no_reply(fail, 'first')
        try:
            chain.call(double, 1)
        except mitogen.core.CallError as e:
            print(str(e).splitlines()[0])
    grandchild = router.local(via=named)
    print(grandchild.call(double, 5))
    fork = router.fork()
    print(fork.call(double, 4))
    print(router.fork(via=named).call(double, 6))
    calls = [x.call_async(double, i) for i, x in enumerate((c, named, grandchild, fork))]
    print(sorted(m.unpickle() for m in mitogen.select.Select(calls)))
    grandchild.shutdown(wait=True)
    try:
        grandchild.call(double, 1)
    except mitogen.core.ChannelError:
        print('gone')
    try:
        router.local(python_path='/nonexistent/python')
    except mitogen.core.StreamError as e:
        print(type(e).__name__, e)
    try:
        router.local(nonsense=1)
    except TypeError as e:
        print(e)
    try:
        router.sudo(sudo_path='/bin/false')
    except mitogen.core.StreamError as e:
        print(type(e).__name__, e)
