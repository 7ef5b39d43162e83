"""Child A sends to child B through their master. Works on what answers to the name mitogen.core in the child."""

import mitogen.core

import bench_child

_receivers = {}


@mitogen.core.takes_router
def receiver(key, router):
    """Makes a receiver in this child, kept under key; gives the sender for it."""
    recv = _receivers[key] = mitogen.core.Receiver(router=router)
    return recv.to_sender()


def drain(key, count):
    """Reads count messages; gives their bytes."""
    recv = _receivers[key]
    total = 0
    for _ in range(count):
        total += len(recv.get().unpickle())
    return total


def pump(sender, size, count):
    """Sends count messages of size bytes, and gives the peak of this process' memory in kB."""
    data = mitogen.core.Blob(bench_child.blob(size))
    for _ in range(count):
        sender.send(data)
    return bench_child.status_kb('VmHWM')
