"""
In a process that was forked off to be a program (guard.py): makes it one. It comes over the importer as mitogen.script.

The stack is unwound first, down to the stub that was the interpreter's command line, and first_stage.py runs the
code: so nothing of the runtime is below the script, and Python itself ends the process in its own way.
"""
from __future__ import absolute_import

import os
import sys

import mitogen
import mitogen.core as core
import mitogen.guard

# Names, arguments and files are bytes on the way, so that they are what they would be on Python's command line.
native = os.fsdecode if core.PY3 else bytes


class Program(object):
    """
    What the process is to be. `spec` has: config; path, the script as it was named, or the name of a module if
    `source` is None; file, its absolute name; package, its `__package__` where it has one; dir, what sys.path begins
    with, and whether that is a directory on this disk; names, of the modules there that are served, packages with a
    dot behind; argv; env, settings NAME=VALUE; cwd, the working directory or nothing. `fds` are the connection's two
    and those that become 0, 1 and 2.
    """

    def __init__(self, spec, fds):
        self.spec = spec
        self.fds = fds

    def __call__(self):
        """Be the program, up to its first line."""
        spec = self.spec
        rfd, wfd = self.place_fds()
        if 'mitogen.parent' in sys.modules:
            sys.modules['mitogen.parent'].leaf()
        core.setup(spec['config'], rfd, wfd, take_stdio=False)
        core.plug(core, mitogen)
        # mitogen.forked looks at this when it reads for processes that the program forks off. There is no ticker: who
        # waits reads, and the process that this one was forked off sees to its end.
        core.io.running = 1
        core.io.mark()
        mitogen.guard.quiet_fork()
        if 'random' in sys.modules and sys.version_info < (3, 7):
            # Later ones do so by themselves after a fork.
            sys.modules['random'].seed()
        own_logging()
        line_buffered()
        for setting in spec['env']:
            variable, _, value = native(setting).partition('=')
            os.environ[variable] = value
        path, name = native(spec['path']), native(spec['file'])
        sys.argv[:] = [path] + [native(a) for a in spec['argv']]
        if spec['dir'] and not getattr(sys.flags, 'safe_path', False):
            served_from(native(spec['dir']), spec['names'], spec['disk'])
        main = sys.modules['__main__'] = type(sys)('__main__')
        builtins = sys.modules['builtins' if core.PY3 else '__builtin__']
        main.__dict__.update(__builtins__=builtins, __package__=None)
        if core.PY3 and sys.version_info < (3, 14):
            main.__annotations__ = {}
        self.space = main.__dict__
        if spec['source'] is None:
            sys.argv[0] = '-m'
            self.space = {'__builtins__': builtins, 'name': path}
            return self
        if sys.version_info < (3, 9):
            name = path
        self.script = main.__loader__ = Script(name, bytes(spec['source']))
        main.__file__ = name
        if core.PY3:
            main.__cached__ = None
        if spec['package'] is not None:
            main.__file__ = self.script.path = os.path.join(path, '__main__.py')
            main.__package__ = str(spec['package'])
            if core.PY3:
                main.__spec__ = core.ModuleSpec('__main__', self.script, origin=main.__file__)
                main.__spec__.has_location = True
        return self

    def place_fds(self):
        """Make 0, 1 and 2 of the last three, wherever all five are; gives the others."""
        fds = []
        for fd in self.fds:
            while fd < 3:
                fd = os.dup(fd)
            fds.append(fd)
        for fd, to in zip(fds[2:], range(3)):
            os.dup2(fd, to)
            os.close(fd)
        for fd in fds[:2]:
            core.cloexec(fd)
        return fds[:2]

    def code(self):
        # Here, what it raises is the program's own failure.
        if self.spec['cwd']:
            os.chdir(native(self.spec['cwd']))
        if self.spec['source'] is None:
            from runpy import _run_module_as_main
            self.space['run'] = _run_module_as_main
            return compile('run(name)', '<string>', 'exec', 0, 1)
        return self.script.get_code()

    def run(self):
        """On top of a stack that is not to be unwound."""
        try:
            exec(self.code(), self.space)
        except SystemExit:
            raise
        except:
            self.failed()
            raise

    def failed(self):
        """The code has raised: make Python show that as if there were nothing but the script."""
        hook = sys.excepthook

        def excepthook(kind, value, tb):
            tb = without_ours(value, tb)
            sys.last_traceback = tb
            if core.io.lost and not core.io.changed() and not core.forked():
                return
            if hook is sys.__excepthook__:
                show(kind, value, tb)
            else:
                try:
                    hook(kind, value, tb)
                except SystemExit:
                    raise
                except:
                    # Python would show the frame of this function, too.
                    bad, error, bad_tb = sys.exc_info()
                    say('Error in sys.excepthook:\n')
                    show(bad, error, without_ours(error, bad_tb))
                    say('\nOriginal exception was:\n')
                    show(kind, value, tb)
            if core.PY3 and kind is KeyboardInterrupt:
                # Since 3.8 Python ends by SIGINT where the last code that it compiled by itself has ended so.
                try:
                    exec('raise KeyboardInterrupt', {})
                except KeyboardInterrupt:
                    pass
        sys.excepthook = excepthook


OURS = '<string>', Program.code.__code__.co_filename


def without_ours(value, tb):
    """
    A traceback from where the program's own code begins, and, from 3.7 on, without our functions that stand in for
    Python's.
    """
    while tb and tb.tb_frame.f_code.co_filename in OURS:
        tb = tb.tb_next
    at = tb if sys.version_info >= (3, 7) else None
    while at and at.tb_next:
        if is_ours(at.tb_next.tb_frame.f_code.co_filename):
            at.tb_next = at.tb_next.tb_next
        else:
            at = at.tb_next
    if core.PY3:
        value.with_traceback(tb)
    return tb


def is_ours(filename):
    return filename.startswith(core.__file__[:-len('core.py')])


def say(text):
    if getattr(sys, 'stderr', None):
        sys.stderr.write(text)


def show(kind, value, tb):
    """What Python itself prints of an exception that nobody has caught."""
    show = sys.__excepthook__
    if not getattr(sys, 'stderr', None) or tb is None and not getattr(value, '__context__', None):
        show(kind, value, tb)
        return
    # Before 3.13 that one looks for source lines on the disk only.
    import traceback
    if not core.PY3:
        if tb:
            say('Traceback (most recent call last):\n')
            say(''.join(traceback.format_list(
                [entry for entry in traceback.extract_tb(tb) if not is_ours(entry[0])])))
        show(kind, value, None)
        return
    if sys.version_info < (3, 10):
        # For a class of the program's own, that one shows the module as well.
        real = traceback.TracebackException.format_exception_only

        def format_exception_only(self):
            own = getattr(self.exc_type, '__module__', None) == '__main__' and not issubclass(self.exc_type, SyntaxError)
            for line in real(self):
                yield '__main__.' + line if own else line
                own = False
        traceback.TracebackException.format_exception_only = format_exception_only
    try:
        traceback.print_exception(kind, value, tb)
    finally:
        if sys.version_info < (3, 10):
            traceback.TracebackException.format_exception_only = real


class Script(object):
    """The loader of __main__, for tracebacks and inspect."""
    name = '__main__'

    def __init__(self, path, source):
        self.path = path
        self.source = source

    def get_source(self, _name=None):
        if not core.PY3:
            return self.source
        from importlib.util import decode_source
        return decode_source(self.source)

    def get_filename(self, _name=None):
        return self.path

    def is_package(self, _name=None):
        return False

    def get_code(self, _name=None):
        source = self.source
        if 'mitogen.files' in core.importer.cache:
            import mitogen.files
        if not core.PY3:
            source = source.replace(b'\r\n', b'\n') + b'\n'
        return compile(source, self.path, 'exec', 0, 1)


def own_logging():
    """Logging as in any program: what it logs goes where it says, and not to the master."""
    core.WATCHED.pop('logging', None)
    logging = sys.modules.get('logging')
    if logging:
        for handler in logging.root.handlers[:]:
            if getattr(handler.emit, '__module__', None) == 'mitogen.resources':
                logging.root.removeHandler(handler)
                logging.root.setLevel(logging.WARNING)


def line_buffered():
    """
    Standard output by lines, so that what a program prints is seen while it runs. The objects stay, since what a
    sitecustomize has put into their place may use them.
    """
    out = sys.__stdout__
    if out is None or out.closed:
        return
    if hasattr(out, 'reconfigure'):
        out.reconfigure(line_buffering=True)
    elif os.environ.get('PYTHONUNBUFFERED') and not sys.flags.ignore_environment:
        return
    elif core.PY3:
        if out is sys.stdout:
            from io import open
            sys.stdout = sys.__stdout__ = open(1, 'w', 1, out.encoding, out.errors, closefd=False)
            sys.stdout.buffer.raw.name = '<stdout>'
            sys.stdout.mode = 'w'
    else:
        # C decides that at the first byte, by what the descriptor is at that time.
        try:
            fds = os.openpty()
        except (OSError, IOError):
            return
        keep = os.dup(1)
        os.dup2(fds[1], 1)
        out.write('\n')
        out.flush()
        os.dup2(keep, 1)
        for fd in fds + (keep,):
            os.close(fd)


def served_from(path, names, disk):
    """Have sys.path begin with the script's directory, and what is served from there be found in it."""
    finder = Directory(path, names, disk)
    # It is known that they are there.
    core.importer.never = set(core.importer.never) - set(finder.names)
    sys.path.insert(0, path)
    sys.path_hooks.insert(0, finder.hook)
    sys.path_importer_cache[path] = finder


class Directory(object):
    """The finder of one entry of sys.path."""

    def __init__(self, path, names, disk):
        self.path = path
        names = (names.decode('utf-8') if core.PY3 else names).split()
        # Whether it is a package, by name.
        self.names = dict((name.rstrip('.'), name.endswith('.')) for name in names)
        self.disk = disk
        self.rest = None

    def hook(self, path):
        if path != self.path:
            raise ImportError(path)
        return self

    def here(self):
        """Python's own finder, for what is on this disk and not served: extension modules, data."""
        if self.disk and self.rest is None:
            self.rest = False
            for hook in sys.path_hooks:
                if hook != self.hook:
                    try:
                        self.rest = hook(self.path)
                        break
                    except ImportError:
                        pass
        return self.rest

    def find_spec(self, name, target=None):
        return name in self.names and core.importer.find_spec(name) or (
            self.here() and self.rest.find_spec(name, target) or None)

    def find_module(self, name, path=None):
        if name in self.names and type(core.importer.request(name)) is tuple:
            return core.importer
        if self.disk:
            import imp
            try:
                imp.find_module(name, [self.path])
            except ImportError:
                return None
            from pkgutil import ImpImporter
            return ImpImporter(self.path).find_module(name)

    def invalidate_caches(self):
        if self.rest:
            self.rest.invalidate_caches()

    def iter_modules(self, prefix=''):
        for name in sorted(self.names):
            yield prefix + name, self.names[name]
