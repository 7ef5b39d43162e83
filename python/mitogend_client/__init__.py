"""
Lets a program that was written for Mitogen's own master run under the daemon, unchanged.

install() waits until the program imports mitogen.master. From then on its first Router is a client of the daemon's
socket, named by $MITOGEND_SOCKET: what it connects without via= is started by the daemon, as children of the same
Mitogen, whose modules and log records come from and go to this process. 2.7 and 3.6 and later, any Mitogen from
0.2.10 that has what NEEDS and _attach() name.
"""
import logging
import os
import socket
import struct
import sys
import threading

_attached = []

# The names that are used of each of Mitogen's modules. Names that only some releases have are looked up where they
# are used.
NEEDS = {
    'mitogen.core': (
        'ALLOCATE_ID', 'CALL_FUNCTION', 'CALL_SERVICE', 'FORWARD_LOG', 'Kwargs', 'Message.pickled', 'Message.reply',
        'MitogenProtocol.build_stream', 'Router._async_route', 'StreamError', 'listen', 'to_text'),
    'mitogen.parent': ('Context.send', 'Context.send_await', 'get_connection_class'),
    'mitogen.master': ('Router.__init__', 'Router.add_handler', 'Router.connect', 'Router.context_by_id',
                        'Router.disconnect_stream', 'Router.register'),
}


def _need(root, names, label):
    """Ends the program with one line if this Mitogen lacks what is needed here."""
    import mitogen
    for name in names:
        obj = root
        for part in name.split('.'):
            obj = getattr(obj, part, None)
        if obj is None:
            version = '.'.join(str(n) for n in getattr(mitogen, '__version__', ()))
            raise SystemExit(
                'mitogend master: Mitogen %s (%s) has no %s.%s, which is needed to be its master; take another release, '
                'or a later mitogend' % (version, os.path.dirname(mitogen.__file__), label, name))


def install():
    """Have patch() called when mitogen.master has been imported."""
    if os.environ.get('MITOGEND_SOCKET'):
        sys.meta_path.insert(0, _Finder())


class _Finder(object):
    """Finds mitogen.master by the other finders, and patches what they load."""

    def __init__(self):
        self.busy = False

    def find_spec(self, name, path=None, target=None):
        if name != 'mitogen.master' or self.busy:
            return None
        import importlib.util
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is not None:
            sys.meta_path.remove(self)
            spec.loader = _Loader(spec.loader)
        return spec

    def find_module(self, name, path=None):
        """2.x only; 3.x asks find_spec."""
        if name == 'mitogen.master' and sys.version_info[0] == 2:
            return self
        return None

    def load_module(self, name):
        sys.meta_path.remove(self)
        __import__(name)
        patch(sys.modules[name])
        return sys.modules[name]


class _Loader(object):
    """Stands in for a module's loader while it is loaded."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        patch(module)


def patch(master):
    """Make the routers of that mitogen.master clients of the daemon."""
    import mitogen.core
    import mitogen.parent
    for name in sorted(NEEDS):
        _need(sys.modules[name], NEEDS[name], name)
    init = master.Router.__init__
    connect = master.Router.connect

    def patched_init(self, *args, **kwargs):
        # A second router in one process would need a context id of its own, but Mitogen keeps the id in a global.
        sock = None if _attached else _dial()
        if sock:
            _attached.append(self)
        try:
            init(self, *args, **kwargs)
            if sock:
                _attach(self, *sock)
        except BaseException:
            if sock:
                _attached.remove(self)
                sock[0].close()
            raise

    def patched_connect(self, method_name, name=None, **kwargs):
        daemon = self.__dict__.get('_mitogend_context')
        if daemon is None or kwargs.get('via') is not None or method_name == 'fork':
            # fork() means a fork of this process.
            return connect(self, method_name, name=name, **kwargs)
        return _connect(self, daemon, method_name, name, kwargs)

    master.Router.__init__ = patched_init
    master.Router.connect = patched_connect


def _dial():
    """A connection with the daemon, after the handshake, and what it said."""
    import mitogen
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(os.environ['MITOGEND_SOCKET'])
        sock.sendall(struct.pack('>L', os.getpid()))
        hello = b''
        while len(hello) < 12:
            data = sock.recv(12 - len(hello))
            if not data:
                raise EnvironmentError('mitogend closed the connection')
            hello += data
    except BaseException:
        sock.close()
        raise
    own_id, daemon_id, pid = struct.unpack('>LLL', hello)
    mitogen.context_id = own_id
    mitogen.parent_id = daemon_id
    mitogen.parent_ids = [daemon_id]
    return sock, daemon_id, pid


def _attach(router, sock, daemon_id, pid):
    """What mitogen.unix.connect does with a fresh router, and the ids of forked children from the daemon."""
    import mitogen
    import mitogen.core
    import mitogen.parent

    _need(router, ('broker', 'id_allocator', 'max_message_size', 'responder', 'route_monitor'), 'Router')
    sock.setblocking(False)
    stream = mitogen.core.MitogenProtocol.build_stream(router, daemon_id)
    stream.accept(sock, sock)
    stream.name = u'mitogend.%d' % (pid,)

    def lost():
        mitogen.context_id = 0
        mitogen.parent_id = None
        mitogen.parent_ids = []
        if router in _attached:
            _attached.remove(router)

    mitogen.core.listen(stream, 'disconnect', lost)
    mitogen.core.listen(router.broker, 'shutdown', lambda: router.disconnect_stream(stream))
    context = mitogen.parent.Context(router, daemon_id)
    router.register(context, stream)
    router.id_allocator = _IDs(router, context)
    router.route_monitor.parent = context
    router.register = _register(router)
    router._async_route = _route(router, stream)
    # Where a router that is not context 0 looks for what its forks may import.
    router.importer = _Lists(router.responder)
    router._mitogend_context = context
    # Services of this program are asked for at context 0, where the daemon is.
    context.send(_call('mitogend', 'own_services'))


def _call(module, function, **kwargs):
    """A message that calls a function of context 0."""
    import mitogen.core
    return mitogen.core.Message.pickled(
        (None, module, None, function, (), mitogen.core.Kwargs(kwargs)), handle=mitogen.core.CALL_FUNCTION)


def _register(router):
    """
    Router.register that tells the daemon of clients of this program's own mitogen.unix.Listener, who talk to its
    children.
    """
    register = router.register

    def registered(context, stream):
        register(context, stream)
        if (stream.name or u'').startswith(u'unix_client.'):
            router.route_monitor.notice_stream(stream)
    return registered


def _route(router, upstream):
    """
    Router._async_route that keeps what contexts behind this program, such as its forks, ask of its services and log:
    they send it to context 0, which is the daemon. Whether they may is judged as for any message to this program.
    """
    import mitogen
    import mitogen.core
    route = router._async_route
    ours = mitogen.core.CALL_SERVICE, mitogen.core.FORWARD_LOG

    def routed(msg, in_stream=None):
        if in_stream is not None and msg.dst_id == 0 and msg.handle in ours and in_stream is not upstream:
            msg.dst_id = mitogen.context_id
            reply = msg.reply
            # They accept an answer of context 0 alone.
            msg.reply = lambda answer, router=None, **kwargs: reply(answer, router, src_id=0, **kwargs)
        route(msg, in_stream)
    return routed


class _IDs(object):
    """
    Numbers for contexts, from blocks that the daemon gives. Mitogen also takes them on the thread that receives
    messages, which must not wait. So the next block is asked for while half of one is left.
    """

    def __init__(self, router, daemon):
        self.router, self.daemon = router, daemon
        self.changed = threading.Condition()
        self.asked = False
        self.error = None
        start, end = daemon.send_await(_allocation())
        self.left = [[start, end]]  # the next number of a block, and its end
        self.low = (end - start) // 2

    def allocate(self):
        import mitogen.core
        receives = threading.current_thread() is getattr(self.router.broker, '_thread', None)
        with self.changed:
            while True:
                if not self.asked and sum(end - start for start, end in self.left) <= self.low:
                    self._ask()
                if self.left:
                    break
                if receives or self.error:
                    raise mitogen.core.StreamError('%s', self.error or 'the daemon has not yet sent more numbers for contexts')
                self.changed.wait()
            block = self.left[0]
            number = block[0]
            block[0] += 1
            if block[0] == block[1]:
                del self.left[0]
            return number

    def _ask(self):
        self.asked, self.error = True, None
        message = _allocation()
        message.reply_to = self.router.add_handler(fn=self._answered, persist=False, respondent=self.daemon)
        self.daemon.send(message)

    def _answered(self, message):
        """Takes a block, on the thread that receives messages."""
        with self.changed:
            self.asked = False
            if message.is_dead:
                self.error = 'the daemon gives no more numbers for contexts'
            else:
                self.left.append(list(message.unpickle()))
            self.changed.notify_all()


def _allocation():
    import mitogen.core
    return mitogen.core.Message(dst_id=0, handle=mitogen.core.ALLOCATE_ID)


class _Lists(object):
    """
    What Mitogen reads of a child's importer when that child makes another: the lists, and from 0.3.42 on the policy.
    """

    def __init__(self, responder):
        self.responder = responder

    master_whitelist = property(lambda self: self.responder.whitelist)
    master_blacklist = property(lambda self: self.responder.blacklist)
    policy = property(lambda self: self.responder.policy)


def _connect(router, daemon, method_name, name, kwargs):
    """Router.connect without via=, by the daemon. Raises what Mitogen's own would."""
    import mitogen.core
    import mitogen.parent
    if name:
        name = mitogen.core.to_text(name)
    kwargs.pop('via', None)
    klass = mitogen.parent.get_connection_class(method_name)
    for key in 'debug', 'profiling', 'unidirectional':
        kwargs.setdefault(key, getattr(router, key, False))
    if hasattr(klass, 'options_class'):
        # Refuses what the method does not take.
        klass.options_class(
            old_router=router, max_message_size=router.max_message_size, name=name, **mitogen.core.Kwargs(kwargs))
    kwargs['log_level'] = logging.getLogger('mitogen.parent').getEffectiveLevel() or logging.INFO
    kwargs['mitogend_dir'], kwargs['mitogend_env'] = _surroundings()
    kwargs['mitogend_overrides'], kwargs['mitogend_blocks'] = _lists(router.responder)
    reply = daemon.send_await(_call(
        'mitogen.parent', '_proxy_connect', name=name, method_name=method_name, kwargs=mitogen.core.Kwargs(kwargs)))
    if reply['msg'] is not None:
        raise _error(method_name, reply['msg'])
    context = router.context_by_id(reply['id'], name=reply['name'])
    context.name = reply['name']
    return context


def _lists(responder):
    """What children take from this program although they have it, and what they never ask it for."""
    policy = getattr(responder, 'policy', None)
    if policy is not None:
        return list(policy.overrides), list(policy.blocks)
    # Where nothing is listed, the list has an empty name.
    return [name for name in responder.whitelist if name], list(responder.blacklist)


def _surroundings():
    """The current directory and environment of this process, without what `mitogend master` has put there."""
    environ = dict(getattr(os, 'environb', os.environ))
    socket_path = environ.pop(_same('MITOGEND_SOCKET'), None)
    path = environ.pop(_same('PYTHONPATH'), None)
    if path is not None and socket_path is not None:
        ours, sep = os.path.join(os.path.dirname(socket_path), _same('py')), _same(os.pathsep)
        if path.startswith(ours + sep):
            path = path[len(ours + sep):]
        elif path == ours:
            path = None
    if path is not None:
        environ[_same('PYTHONPATH')] = path
    try:
        directory = getattr(os, 'getcwdb', os.getcwd)()
    except OSError:  # it is gone
        directory = _same('')
    return directory, [name + _same('=') + value for name, value in environ.items()]


def _same(text):
    """Text as the type that the environment has."""
    return text.encode('ascii') if hasattr(os, 'environb') else text


def _error(method_name, text):
    """The exception of Mitogen's own that has this text."""
    import mitogen.core
    import mitogen.parent
    prefix = 'error occurred on host '
    if text.startswith(prefix):
        text = text[len(prefix):].partition(': ')[2]
    eof = getattr(mitogen.parent.Connection, 'eof_error_msg', None)
    if eof and text.startswith(eof) and hasattr(mitogen.parent, 'EofError'):
        hint = getattr(mitogen.parent.get_connection_class(method_name), 'eof_error_hint', None)
        if hint:
            text = '%s\n\n%s' % (text, hint)
        return mitogen.parent.EofError('%s', text)
    module = sys.modules.get('mitogen.' + method_name)
    for klass, names in (
            ('PasswordError', ('password_incorrect_msg', 'password_required_msg', 'auth_incorrect_msg')),
            ('HostKeyError', ('hostkey_failed_msg', 'hostkey_config_msg'))):
        if hasattr(module, klass) and text in [getattr(module, n, None) for n in names]:
            return getattr(module, klass)('%s', text)
    return mitogen.core.StreamError('%s', text)
