# Users within users: sudo behind sudo, a local child and a fork there, and what they say about themselves.
import os
import pwd
import sys

import mitogen
import mitogen.core

import stockhelper


def who():
    return pwd.getpwuid(os.getuid()).pw_name


def report(receiver_name, sender):
    sender.send((receiver_name, who(), stockhelper.VALUE))
    sender.close()


def broken():
    return {}['no such key']


@mitogen.main()
def main(router):
    receiver = mitogen.core.Receiver(router)
    outer = router.sudo(username='nobody', python_path=sys.executable)
    root = router.local()
    inner = router.sudo(via=root, username='nobody', python_path=sys.executable)
    deep = router.local(via=inner)
    fork = router.fork(via=deep)
    for name, context in (('outer', outer), ('root', root), ('inner', inner), ('deep', deep), ('fork', fork)):
        print(name, context.call(who))
        context.call(report, name, receiver.to_sender())
        print(receiver.get().unpickle())
        try:
            receiver.get()
        except mitogen.core.ChannelError as e:
            print(e)
    try:
        fork.call(broken)
    except mitogen.core.CallError as e:
        print(e)
    inner.shutdown(wait=True)
    try:
        fork.call(who)
    except mitogen.core.ChannelError as e:
        print('gone with its parent')
    try:
        router.sudo(via=outer, username='root', password='wrong', python_path=sys.executable)
    except mitogen.core.StreamError as e:
        print(type(e).__name__)
