"""
Runs in a stock child, over its own Mitogen's importer: has it start a child of another runtime behind itself. The
method's class, its prompts and its errors are those of that Mitogen; what the interpreter is started with and is sent
are ours.
"""
import socket
import sys
import zlib

import mitogen.core
import mitogen.parent


class Boot(mitogen.parent.Connection):
    """Goes between a method's own class and the class that all of them have in common."""

    # Set by connect().
    argv = head = tail = None

    def get_boot_command(self):
        return self.get_python_argv() + self.argv

    def get_preamble(self):
        text = '%s%d%s' % (self.head, self.context.context_id, self.tail)
        packed = zlib.compress(text.encode('ascii'), 9)
        return ('%d\n' % len(packed)).encode('ascii') + packed


@mitogen.core.takes_econtext
def connect(name, method_name, kwargs, argv, head, tail, econtext):
    """
    What mitogen.parent._proxy_connect() does, and replies. `argv` follows the interpreter; the first stage is sent
    `head`, the id that was allocated, and `tail`.
    """
    mitogen.parent.upgrade_router(econtext)
    reply = {u'id': None, u'name': None, u'msg': None}
    try:
        method = mitogen.parent.get_connection_class(method_name)
        bases = (Boot,) if method is mitogen.parent.Connection else (method, Boot)
        klass = type(method)('Connection', bases, {'argv': list(argv), 'head': head, 'tail': tail})
        context = econtext.router._connect(klass=klass, name=name, **kwargs)
        reply.update({u'id': context.context_id, u'name': context.name})
    except mitogen.core.StreamError:
        reply[u'msg'] = u'error occurred on host %s: %s' % (socket.gethostname(), sys.exc_info()[1])
    return reply
