# Senders and receivers between the program and its children, and between two children.
import mitogen
import mitogen.core


@mitogen.core.takes_router
def pong(sender, router):
    recv = mitogen.core.Receiver(router)
    sender.send(recv.to_sender())
    for msg in recv:
        sender.send(msg.unpickle() + 1)
    sender.close()


@mitogen.core.takes_router
def ping(sender, router):
    recv = mitogen.core.Receiver(router)
    sender.send(recv.to_sender())
    return [m.unpickle() for m in recv]


def feed(sender):
    for i in range(3):
        sender.send((i, u'text', b'bytes'))
    sender.close()


@mitogen.main()
def main(router):
    a = router.local()
    b = router.local()
    recv = mitogen.core.Receiver(router)
    done = a.call_async(pong, recv.to_sender())
    to = recv.get().unpickle()
    for i in range(3):
        to.send(i)
        print(recv.get().unpickle())
    to.close()
    print(done.get().unpickle())
    recv = mitogen.core.Receiver(router)
    result = b.call_async(ping, recv.to_sender())
    to = recv.get().unpickle()
    a.call(feed, to)
    print(result.get().unpickle())
