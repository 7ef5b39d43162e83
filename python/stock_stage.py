"""
Run by first_stage.py in place of our core: it makes this interpreter a child of the user's own Mitogen, whose core it
runs as __main__ without starting another interpreter. The core takes the descriptors it reads and writes from its
configuration.
"""
import os
import sys


def feed(fd, data):
    """Write the core's own source into the pipe that it reads it from; a pipe holds less than that."""
    try:
        while data:
            data = data[os.write(fd, data):]
    finally:
        os.close(fd)


def setsid(real=os.setsid):
    """For ExternalContext.detach(): under Mitogen's own first stage this process would not lead its session already."""
    if os.getsid(0) != os.getpid():
        real()


def from_master(klass, name):
    """What that method sets up asks context 0 for modules, or data of packages. A fork asks its parent, as ever."""
    setup = klass.__dict__.get(name)

    def method(self):
        setattr(klass, name, setup)
        parent, self.parent = self.parent, self.master
        try:
            setup(self)
        finally:
            self.parent = parent
    if setup:
        setattr(klass, name, method)


def main(boot, _source):
    """
    `boot` has `source`, the core; `config`, what its ExternalContext takes; `filename`, for tracebacks; and `past`,
    whether its parent has another Mitogen, which is of no use to it.
    """
    source = boot['source'].encode('utf-8')
    config = boot['config']
    config['version'] = tuple(config['version'])
    if os.environ.get('SUDO_PROMPT', '').startswith('mitogen-sudo-prompt-'):
        del os.environ['SUDO_PROMPT']  # it was for our sudo
    # It is kept: 2.x clears the globals of a module that is dropped, and these are ours.
    sys.stock_boot = [sys.modules.pop(name) for name in ('__main__', 'mitogen.core', 'mitogen')]
    os.setsid = setsid
    core = type(sys)('__main__')
    sys.modules['__main__'] = core
    r, w = os.pipe()
    config['core_src_fd'] = r
    # Descriptors 0 and 1 become /dev/null and a log; the core closes the one that it is given.
    config['in_fd'] = os.dup(0)
    while config['in_fd'] < 3:
        config['in_fd'] = os.dup(0)
    try:
        from _thread import start_new_thread
    except ImportError:
        from thread import start_new_thread
    # The core cuts off the last line, where Mitogen's preamble has the call that starts it.
    start_new_thread(feed, (w, source + '\n\n'.encode()))
    exec(compile(source, boot['filename'], 'exec', 0, 1), core.__dict__)
    # This process has no first stage beside it. Waiting for a child would be for what a start-up file has left.
    core.ExternalContext._reap_first_stage = lambda self: None
    if boot['past']:
        from_master(core.ExternalContext, '_setup_importer')
        from_master(core.ExternalContext, '_setup_resource_requester')
    core.ExternalContext(config).main()
    sys.exit()
