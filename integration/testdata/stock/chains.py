# Call chains and Select over many children, with errors, losses and values that arrive in any order.
import os
import signal

import mitogen
import mitogen.core
import mitogen.parent
import mitogen.select


def step(x):
    return x + 1


def explode(x):
    raise RuntimeError('step %d' % x)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stream(sender, n):
    for i in range(n):
        sender.send(i)


@mitogen.main()
def main(router):
    contexts = [router.local() for _ in range(4)]
    # A chain that fails in its middle fails to its end, and does not affect another chain of the same context.
    with mitogen.parent.CallChain(contexts[0], pipelined=True) as chain, \
            mitogen.parent.CallChain(contexts[0], pipelined=True) as other:
        chain.call_no_reply(step, 1)
        chain.call_no_reply(explode, 2)
        pending = [chain.call_async(step, i) for i in range(3)]
        fine = [other.call_async(step, i) for i in range(3)]
        for receiver in pending:
            try:
                receiver.get().unpickle()
            except mitogen.core.CallError as e:
                print(str(e).splitlines()[0])
        print([receiver.get().unpickle() for receiver in fine])
        chain.reset()
        print(chain.call(step, 10))
    # Select over channels, nested Selects among them.
    channels = [mitogen.core.Receiver(router) for _ in contexts]
    for context, channel in zip(contexts, channels):
        context.call_async(stream, channel.to_sender(), 5)
    with mitogen.select.Select([mitogen.select.Select(channels[:2], oneshot=False), mitogen.select.Select(channels[2:], oneshot=False)],
                               oneshot=False) as select:
        got = [select.get().unpickle() for _ in range(20)]
    print(sorted(got))
    # One of them dies while all are asked.
    calls = [c.call_async(die if c is contexts[2] else step, *(() if c is contexts[2] else (1,))) for c in contexts]
    results = []
    for call in calls:
        try:
            results.append(call.get().unpickle())
        except mitogen.core.ChannelError:
            results.append('lost')
    print(results)
