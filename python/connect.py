"""
Children that code in this process makes for itself: what mitogen.core.Router lacks is looked up here, and called with
the router, as in `router.sudo(username='root').call(fn)`. It comes over the importer as mitogen.connect.

The methods are the master's. It is asked for a child by method and arguments, and has a launcher run the plan: that
of this process, or of the one behind it that `via` names. Errors are StreamError with the master's words. Only fork()
works by itself.
"""
from __future__ import absolute_import

import os
import sys

import mitogen
import mitogen.core as core
import mitogen.launch as launch
import mitogen.parent as parent
import mitogen.process as process
import mitogen.running as running
# They become methods of Router.
from mitogen.api import StreamError, context_by_id, myself
from mitogen.core import Latch, Message, text_type

# Ours alone, in context 0.
CONNECT = 991
ALLOCATE_ID = 105

METHODS = ('local ssh sudo su doas docker podman buildah kubectl lxc lxd incus jail setns machinectl').split()


def text(value):
    """A value as every part of the tree reads it. What is text in 2.x may be bytes here."""
    if isinstance(value, bytes):
        return value.decode('utf-8')
    if isinstance(value, (list, tuple)):
        return [text(v) for v in value]
    return value


def ask(router, **request):
    """The master's answer."""
    latch = Latch()
    handle = router.add_handler(latch.put, persist=False, policy=core.has_parent_authority)
    router.route(Message(0, handle=CONNECT, reply_to=handle, data=core.dumps(request, 0)))
    answer = latch.get().unpickle()
    if answer[u'error'] is not None:
        raise StreamError(text(answer[u'error']))
    return answer


def connect(router, method, name=None, via=None, **kwargs):
    """Start a child by that method; gives its Context. `via` is a Context of this process, or of one behind it."""
    if via is not None and not hasattr(via, 'context_id'):
        raise StreamError('via is a context, not %r' % (via,))
    answer = ask(
        router, method=text(method), name=name and text_type(text(name)), launcher=launch.serve(),
        via=router.context_id if via is None else via.context_id,
        args=dict((text_type(k), text(v)) for k, v in kwargs.items() if v is not None))
    return router.context_by_id(answer[u'id'], answer[u'name'])


def method_of(name):
    def method(router, **kwargs):
        return connect(router, name, **kwargs)
    method.__name__ = name
    method.__doc__ = 'A child by the method %s, with the arguments that Mitogen has for it.' % name
    return method


for method in METHODS:
    globals()[method] = method_of(method)


def allocate_id(router):
    """A context id that nobody else in the tree has."""
    latch = Latch()
    handle = router.add_handler(latch.put, persist=False, policy=core.has_parent_authority)
    router.route(Message(0, handle=ALLOCATE_ID, reply_to=handle))
    return latch.get().unpickle()[0]


def fork(router, name=None, on_fork=None, **kwargs):
    """
    A child that is a copy of this process, with everything that is imported here: its other threads are not there.
    on_fork() is called in it first of all.
    """
    if [k for k in kwargs if kwargs[k] is not None]:
        raise StreamError('fork() takes name and on_fork here, and not %s' % ', '.join(sorted(kwargs)))
    relay, ender = process.start()
    answer = ask(router, method=u'fork', name=name and text_type(text(name)), launcher=0, via=router.context_id,
                 args={})
    context_id = answer[u'id']
    with relay.spawning:
        ends = ()
        try:
            core.stdio.flush()
            relay.may_start()
            ends = process.pair()
            pid = running.fork()
        except (EnvironmentError, core.Error):
            running.close(*ends)
            ask(router, method=u'unfork', name=None, launcher=0, via=context_id, args={})
            raise
        ours, theirs = ends
        if not pid:
            serve(eval(answer[u'config'], {}), ours, theirs, on_fork)
        os.close(theirs)
        child = process.Process(pid)
        ender.alive.add(child)
        link = parent.Link(ours, ours, context_id, lambda: ender.end_of(link, child))
    added = Latch()
    relay.call_soon(lambda: (relay.add_child(link), added.close()))
    added.wait()
    return router.context_by_id(context_id, answer[u'name'])


def serve(config, ours, theirs, on_fork):
    """In the forked process: be its context, on top of the stack that called fork(), and end with it."""
    status = 1
    try:
        running.close(ours, *parent.relay.own())
        parent.leaf()
        os.setsid()
        if 'random' in sys.modules and sys.version_info < (3, 7):
            # 3.7 does this by itself. Before, both processes would draw the same numbers.
            sys.modules['random'].seed()
        if on_fork:
            on_fork()
        core.setup(config, theirs, theirs)
        core.plug(core, mitogen)
        while not core.io.lost:
            try:
                core.dispatcher.run()
            except core.Unwind as e:
                # A program. It ends this process.
                e.args[0]().run()
                sys.exit(0)
            except KeyboardInterrupt:
                # Io.evict() raises it.
                pass
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            if parent.relay:
                parent.relay.leave()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def __getattr__(name):
    raise AttributeError("mitogend's router has no %s(); it has add_handler, context_by_id, myself, route, allocate_id, "
                         'fork, %s' % (name, ', '.join(METHODS)))
