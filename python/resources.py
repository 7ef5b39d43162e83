"""
What a child seldom needs of its importer: data files of packages, importlib.resources, logging, and the search order
of --prefer here. It comes over the importer as mitogen.resources when first used; what mitogen.core.Importer lacks is
looked up here, and called with the importer. What is needed more seldom still lies in mitogen.finders and
mitogen.projects.

Requests go to context 0 as GET_RESOURCE with a handle for the reply, like a call; whoever is between passes them on.
"""
from __future__ import absolute_import

import errno
import io
import os
import sys

import mitogen.core as core
from mitogen.core import Latch, Message

GET_RESOURCE = 112
# Seconds for which what a directory contains is not asked for again within one call: it is looked at file by file.
KEEP = 1


class Refused(core.Error):
    """The master has no answer; the text is its reason."""


def ask(*question):
    """
    The master's answer. Questions are `read`, package, file; `list`, package, directory (where() makes what these ask
    about); `modules`; `installed`; `metadata`, project; and `part` and `python`, of which mitogen.extension and mitogen.launch know.
    Raises Refused with its reason when it has none.
    """
    return take(put(*question))


def put(*question):
    """Ask, and go on: take() gives the answer."""
    latch = Latch()
    handle = core.router.add_handler(latch.put, persist=False, policy=core.has_parent_authority)
    core.router.route(Message(0, handle=GET_RESOURCE, reply_to=handle, data=core.dumps(question, 0)))
    return latch


def take(latch):
    answer = latch.get()
    if answer.is_dead:
        raise Refused(answer.data or 'no answer')
    return answer.data if answer.enc == core.BIN else core.loads(answer.data)


def missing(path, why=None):
    return (IOError if sys.version_info[0] == 2 else FileNotFoundError)(
        errno.ENOENT, 'not served' if why is None else why, path)


def where(package, name, directory=None):
    """What `read` and `list` ask about. With a directory, only that one of the package's counts."""
    if isinstance(directory, bytes):
        directory = directory.decode('utf-8', 'replace')
    return (core.text_type(package), core.text_type(name)) + ((directory,) if directory else ())


def read(package, name, directory=None):
    """The bytes of a package's data file; IOError with the master's reason."""
    try:
        return ask(u'read', *where(package, name, directory))
    except Refused as e:
        raise missing(package.replace('.', '/') + '/' + name, str(e))


# Logging.

def watch(logging):
    """Have the root logger send to the master what passes the level of the config."""
    def emit(record):
        try:
            text = handler.format(record)
            if isinstance(text, bytes):
                text = text.decode('utf-8', 'replace')
            core.log(text, record.levelno, record.name)
        except Exception:
            handler.handleError(record)
    handler = logging.Handler()
    handler.emit = emit
    logging.root.addHandler(handler)
    logging.root.setLevel(core.config.get('log_level', 30))


# What Importer has not itself.

def elsewhere(module, name):
    def call(importer, *args, **kwargs):
        __import__(module)
        return getattr(sys.modules[module], name)(importer, *args, **kwargs)
    return call


list_modules = elsewhere('mitogen.finders', 'list_modules')
iter_modules = elsewhere('mitogen.finders', 'iter_modules')
find_distributions = elsewhere('mitogen.projects', 'find_distributions')


def explain(importer, name, reason):
    """
    Make the import of a module fail with the reason why it is not served, unless a finder behind ours has it. Who only
    looks for the module finds none.
    """
    package, _, tail = name.rpartition('.')
    # Behind the importer's own.
    frame, called = sys._getframe(3), None
    while frame and 'importlib' in frame.f_code.co_filename and called != '_find_and_load':
        called, frame = frame.f_code.co_name, frame.f_back
    if called != '_find_and_load':
        return
    spec = behind(importer, name)
    if spec:
        return spec
    while frame and frame.f_code.co_name == '_call_with_frames_removed':
        frame = frame.f_back
    if frame and frame.f_code.co_name == '_handle_fromlist' and 'importlib' in frame.f_code.co_filename:
        # _handle_fromlist drops a ModuleNotFoundError; Python then raises an ImportError like this one.
        raise ImportError('cannot import name %r from %r (mitogend: %s)' % (tail, package, reason), name=package)
    raise ModuleNotFoundError('No module named %r (mitogend: %s)' % (name, reason), name=name)


def behind(importer, name):
    """What the finders that come after ours have by that name."""
    ours = [i for i, finder in enumerate(sys.meta_path) if finder is importer or type(finder) is Last]
    path = getattr(sys.modules.get(name.rpartition('.')[0]), '__path__', None)
    for finder in sys.meta_path[ours[-1] + 1:] if ours else ():
        spec = hasattr(finder, 'find_spec') and finder.find_spec(name, path)
        if spec:
            return spec


def is_package(importer, name):
    return importer.record(name)[1] is not None


def invalidate_caches(importer):
    """
    Forget negative answers, and trust no package's list of modules: importlib.invalidate_caches() says that things
    have changed.
    """
    global counted
    importer.sure = False
    with importer.lock:
        for name in [n for n, record in importer.cache.items() if type(record) is not tuple]:
            del importer.cache[name]
    # As many modules as were forgotten may come.
    counted = None


# By paths: names of modules and of packages by their files, of packages by their directories, the directories that the
# top-level ones are in, and the files that extension modules were loaded from. `known` has the names that are in it,
# `counted` how many records there were then.
files, packages, homes, objects, known = {}, {}, {}, {}, set()
counted = 0


def learn(importer):
    """Note where what was received lies: each record is looked at once, however often files are asked for."""
    global counted
    count = len(importer.cache)
    if count == counted:
        return
    for name, record in list(importer.cache.items()):
        if type(record) is tuple and name not in known:
            # Of an extension module only a stub came; a namespace package is a directory.
            if record[2][-3:] != '.so' and (record[1] is None or record[2][-3:] in core.FILES):
                files.setdefault(importer.prefix + record[2], name)
            homes.setdefault(top(record), name)
            known.add(name)
            path = importer.prefix + record[2]
            if record[1] is not None:
                path = importer.search_path(record)[0]
                packages.setdefault(path, name)
            # Packages have more directories than the one that their record names: those that modules of theirs are in.
            path, name = os.path.dirname(path), name.rpartition('.')[0]
            while name and path not in packages:
                if type(importer.cache.get(name)) is tuple:
                    packages[path] = name
                path, name = os.path.dirname(path), name.rpartition('.')[0]
    counted = count


def relearn(importer):
    """The same where a reason why there is no such module may have become a record; is there more now?"""
    global counted
    before, counted = len(known), None
    learn(importer)
    return len(known) > before


def place(importer, path, walk=False):
    """
    The record of the package with the longest directory that the path lies in, and the rest of the path; None and the
    path if there is none. With walk, packages that were not received yet are asked for.
    """
    learn(importer)
    directory = path
    while directory not in packages:
        directory = directory.rpartition('/')[0]
        if not directory:
            return place(importer, path, walk) if relearn(importer) else (None, path)
    record = importer.cache[packages[directory]]
    rest = path[len(directory) + 1:]
    while walk and rest:
        name, _, inner = rest.partition('/')
        found = importer.request(record[0] + '.' + name) if name + '.' in record[1] else None
        directory += '/' + name
        if type(found) is not tuple or importer.search_path(found) != [directory]:
            break
        record, rest = found, inner
    return record, rest


def portion(importer, record, rest, path):
    """
    The directory of a package that a path lies in, by what place() gives; None if it is that of `__path__`, which
    stands for all that the package has.
    """
    directory = path[:len(path) - len(rest)].rstrip('/')
    return None if [directory] == importer.search_path(record) else directory[len(importer.prefix):]


def top(record):
    """The directory that the top-level package, or module, of a record is in."""
    names = record[0].count('.') + (record[1] is not None and record[2][-3:] in core.FILES)
    return os.path.normpath(core.Importer.prefix + record[2] + '/..' * (names + 1))


def get_data(importer, path):
    """The content of the file with that path, as it is made of `__file__`; IOError if there is none."""
    path = os.path.normpath(str(path))
    learn(importer)
    if path in objects:
        return objects[path].read()
    if path in files:
        return importer.get_bytes(files[path])
    record, rest = place(importer, path)
    if path in files:
        return importer.get_bytes(files[path])
    if not record:
        # It lies beside what was received: ask by the name that it has there.
        for home in list(homes):
            name, _, inner = path[len(home) + 1:].partition('/')
            if not path.startswith(home + '/') or not inner and name[-3:] != '.py':
                continue
            found = importer.request(name if inner else name[:-3])
            if type(found) is tuple and importer.prefix + found[2] == path:
                return importer.get_bytes(found[0])
            record, rest = place(importer, path)
            if record:
                break
    if record and rest:
        return read(record[0], rest, portion(importer, record, rest, path))
    raise missing(path, 'not in a package that is served')


def get_resource_reader(importer, name):
    return Reader(name) if importer.is_package(name) else None


class Reader(object):
    """importlib.abc.ResourceReader, and TraversableResources, of a package."""

    def __init__(self, package, path='', directory=None):
        self.package = package
        self.path = path
        self.directory = directory

    def files(self):
        # For the paths of what it gives.
        import mitogen.files
        return self.resource()

    def resource(self):
        return Resource(self.package, self.path, None, self.directory)

    def open_resource(self, name):
        return io.BytesIO(self.resource().joinpath(name).read_bytes())

    def resource_path(self, name):
        # Has the caller make a temporary file.
        raise missing(name)

    def is_resource(self, name):
        return self.resource().joinpath(name).is_file()

    def contents(self):
        return iter(self.resource().entries())


class Resource(object):
    """importlib.abc.Traversable: a file or a directory in a package."""

    def __init__(self, package, path='', parent=None, directory=None):
        self.package = package
        self.path = path
        self.parent = parent
        # The one of the package's directories that counts; None of all.
        self.directory = directory
        self.listing = None
        # The user's call in which it was asked for, and when.
        self.call = self.time = 0
        self.sizes = {}
        self.children = {}

    # What else zipfile.Path has.

    def __repr__(self):
        return 'Resource(%r, %r)' % (self.package, self.path)

    def __str__(self):
        """The path, by which functions of mitogen.files find it."""
        directory = [core.Importer.prefix + self.directory] if self.directory else core.importer.search_path(
            core.importer.record(self.package))
        return '/'.join((directory or [core.Importer.prefix + self.package])[:1] + [self.path] * (self.path != ''))

    @property
    def name(self):
        return (self.path or self.package.replace('.', '/')).rpartition('/')[2]

    @property
    def stem(self):
        return os.path.splitext(self.name)[0]

    @property
    def suffix(self):
        return os.path.splitext(self.name)[1]

    @property
    def suffixes(self):
        return ['.' + part for part in self.name.lstrip('.').split('.')[1:]]

    def is_symlink(self):
        return False

    def match(self, pattern):
        from pathlib import PurePosixPath
        return PurePosixPath(str(self)).match(pattern)

    def relative_to(self, other, *more):
        return os.path.relpath(str(self), str(other.joinpath(*more)))

    def glob(self, pattern):
        if not pattern:
            raise ValueError('Unacceptable pattern: %r' % (pattern,))
        return self.matches(pattern.split('/'))

    def rglob(self, pattern):
        return self.glob('**/' + pattern)

    def matches(self, parts):
        import fnmatch
        if not parts:
            yield self
            return
        part, rest = parts[0], parts[1:]
        if part == '**':
            rest = rest[rest[:1] == ['**']:]
            for found in self.matches(rest):
                yield found
        for entry in self.iterdir():
            if part == '**':
                deeper = entry.matches([part] + rest) if entry.is_dir() else ()
            elif fnmatch.fnmatchcase(entry.name, part):
                deeper = entry.matches(rest) if not rest or entry.is_dir() else ()
            else:
                deeper = ()
            for found in deeper:
                yield found

    # What Traversable has.

    def entries(self):
        """The entries of a directory: name, and whether it is a directory."""
        now, call = core.clock(), core.io.calls
        old = self.call != call or now > self.time + KEEP
        if self.listing is None or old and not core.io.lost:
            try:
                listing = ask(u'list', *where(self.package, self.path, self.directory))
            except Refused as e:
                raise missing(self.name, str(e))
            self.call, self.time = call, now
            self.listing = dict((str(name), is_dir) for name, is_dir, _size in listing)
            self.sizes = dict((str(name), size) for name, _is_dir, size in listing)
        return self.listing

    def iterdir(self):
        for name in sorted(self.entries()):
            yield self.joinpath(name)

    def kind(self):
        """True of a directory, False of a file, None of neither."""
        if self.parent is None:
            return True
        try:
            return self.parent.entries().get(self.name)
        except (IOError, OSError):
            return None

    def is_dir(self):
        return self.kind() is True

    def is_file(self):
        return self.kind() is False

    def exists(self):
        return self.kind() is not None

    def joinpath(self, *descendants):
        resource = self
        for part in '/'.join(str(d) for d in descendants).split('/'):
            if part == '..':
                raise missing(part, 'leads out of its directory')
            if part not in ('', '.'):
                resource = resource.children.setdefault(
                    part, Resource(self.package, (resource.path + '/' + part).lstrip('/'), resource, self.directory))
        return resource

    def __truediv__(self, child):
        return self.joinpath(child)

    def read_bytes(self):
        return read(self.package, self.path, self.directory)

    def read_text(self, encoding=None, errors=None):
        with self.open(encoding=encoding, errors=errors) as f:
            return f.read()

    def open(self, mode='r', *args, **kwargs):
        if mode not in ('r', 'rb', 'rt'):
            raise ValueError('cannot be opened in mode %r: it is not on this machine' % (mode,))
        data = io.BytesIO(self.read_bytes())
        return data if mode == 'rb' else io.TextIOWrapper(data, *args, **kwargs)


@property
def archive(importer):
    """3.9 asks no loader for files(), only zipimport's by this attribute."""
    frame = sys._getframe(2)
    if sys.version_info[:2] != (3, 9) or frame.f_code.co_name != 'fallback_resources':
        raise AttributeError('archive')
    import importlib._common as common
    plain = common.from_package

    def from_package(package):
        if getattr(package.__spec__.loader, 'cache', None) is importer.cache:
            return Resource(package.__name__)
        return plain(package)
    # This is for later calls. The call that is under way takes what looks to it like a zip file.
    common.from_package = from_package
    return archive_of(Resource(frame.f_locals['spec'].name), importer)


def archive_of(root, importer):
    import zipfile
    # As in Reader.files().
    import mitogen.files

    class Archive(zipfile.CompleteDirs):
        filename = importer.search_path(importer.record(root.package))[0]

        def __init__(self):
            pass

        def __fspath__(self):
            return self.filename

        def namelist(self):
            def walk(directory):
                for entry in directory.iterdir():
                    if entry.is_dir():
                        names.append('./' + entry.path + '/')
                        walk(entry)
                    else:
                        names.append('./' + entry.path)
            names = ['./']
            walk(root)
            return names

        def open(self, name, mode='r', pwd=None):
            return io.BytesIO(read(root.package, name[2:]))

        def close(self):
            pass
    return Archive()


# --prefer here.

def prefer_here():
    """
    Have what is served found before what this machine has, but for the standard library. Called by the master. What
    the master refuses, this machine may have: the reason comes last.
    """
    if not core.STDLIB:
        core.STDLIB = own_library()
    if not core.PY3:
        find_here = core.Importer.find_here
        core.Importer.find_here = lambda importer, name, path: (
            type(importer.request(name) or ()) is not tuple and find_here(importer, name, path))
    finders = [finder for finder in sys.meta_path if finder is not core.importer]
    for i, finder in enumerate(finders):
        if getattr(finder, '__name__', None) == 'PathFinder':
            last = Last(core.Importer.fail)
            core.Importer.fail = lambda importer, name, reason: None
            # Another list: a search that is under way goes on in the one that it has.
            sys.meta_path = finders[:i] + [core.importer] + finders[i:] + [last]
            return


class Last(object):
    """A finder of nothing, behind all others: it says why a module that nobody has is not served."""

    def __init__(self, fail):
        self.fail = fail

    def find_spec(self, name, path=None, target=None):
        reason = core.importer.request(name)
        if reason and type(reason) is not tuple:
            return self.fail(core.importer, name, reason)


def own_library():
    """The top-level names of the standard library of a Python that does not know them."""
    home = os.path.dirname(os.__file__)
    names = set(sys.builtin_module_names)
    for directory in [home] + [p for p in sys.path if p.startswith(home + os.sep)]:
        if 'site-packages' in directory or 'dist-packages' in directory or not os.path.isdir(directory):
            continue
        for entry in os.listdir(directory):
            stem, dot, _ = entry.partition('.')
            if dot or os.path.exists(os.path.join(directory, entry, '__init__.py')):
                names.add(stem)
                if stem.endswith('module'):
                    # lib-dynload of 2.x.
                    names.add(stem[:-6])
    return frozenset(names)
