"""
What a child seldom needs of its importer: what packages contain, data files, metadata of what is installed where the modules
come from, and the search order of --prefer here. It comes over the importer as mitogen.resources when first used; what
mitogen.core.Importer lacks is looked up here, and called with the importer.

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


class Refused(core.Error):
    """The master has no answer; the text is its reason."""


def ask(*question):
    """
    The master's answer. Questions are `read`, package, file; `list`, package, directory; `modules`; `installed`; and
    `metadata`, project. Raises Refused with its reason when it has none.
    """
    latch = Latch()
    handle = core.router.add_handler(latch.put, persist=False, policy=core.has_parent_authority)
    core.router.route(Message(0, handle=GET_RESOURCE, reply_to=handle, data=core.dumps(question, 0)))
    answer = latch.get()
    if answer.is_dead:
        raise Refused(answer.data or 'no answer')
    return answer.data if answer.enc == core.BIN else core.loads(answer.data)


def missing(path, why=None):
    return (IOError if sys.version_info[0] == 2 else FileNotFoundError)(
        errno.ENOENT, 'not served' if why is None else why, path)


def read(package, name):
    """The bytes of a package's data file; IOError with the master's reason."""
    try:
        return ask(u'read', core.text_type(package), core.text_type(name))
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

def is_package(importer, name):
    return importer.record(name)[1] is not None


def invalidate_caches(importer):
    """Forget negative answers: importlib.invalidate_caches() says that things have changed."""
    with importer.lock:
        for name in [n for n, record in importer.cache.items() if type(record) is not tuple]:
            del importer.cache[name]


def packages(importer):
    """Pairs of the directory, in the form of `__path__`, and the record of each package that was received."""
    for record in list(importer.cache.values()):
        if type(record) is tuple and record[1] is not None:
            yield importer.search_path(record)[0], record


def place(importer, path, walk=False):
    """
    The record of the package with the longest directory that the path lies in, and the rest of the path; None and the path if
    there is none. With walk, packages that were not received yet are asked for.
    """
    best = None
    for directory, record in packages(importer):
        if (path + '/').startswith(directory + '/') and (best is None or len(directory) > len(best[0])):
            best = directory, record
    if not best:
        return None, path
    directory, record = best
    rest = path[len(directory) + 1:]
    while walk and rest:
        name, _, inner = rest.partition('/')
        found = importer.request(record[0] + '.' + name) if name + '.' in record[1] else None
        directory += '/' + name
        if type(found) is not tuple or importer.search_path(found) != [directory]:
            break
        record, rest = found, inner
    return record, rest


def listing(importer, path):
    """Names of the modules in a directory: True of a package, False of a module, None of a directory that is neither."""
    record, rest = place(importer, path, True)
    if not record:
        return {}
    if not rest:
        # A package ends in a dot. A directory without __init__.py is there twice, with one and with two.
        return dict((str(n.rstrip('.')), n.endswith('.') and (None if n.rstrip('.') + '..' in record[1] else True))
                    for n in record[1])
    names = {}
    try:
        for name, is_dir, _size in ask(u'list', core.text_type(record[0]), core.text_type(rest)):
            stem, dot, ending = str(name).partition('.')
            if is_dir and not dot:
                names.setdefault(stem, None)
            elif ending == 'py' and not is_dir:
                names[stem] = False
    except Refused:
        pass
    names.pop('__init__', None)
    return names


def is_package_directory(importer, path):
    record, rest = place(importer, path, True)
    try:
        return not rest or (u'__init__.py', False) in [
            tuple(e)[:2] for e in ask(u'list', core.text_type(record[0]), core.text_type(rest))]
    except Refused:
        return False


def list_modules(importer, path, prefix):
    """For pkgutil: the names of the modules in a directory, and if they are packages."""
    path = os.path.normpath(path)
    names = listing(importer, path)
    known = place(importer, path)[1] == ''
    for name in sorted(names):
        is_package = names[name]
        if is_package is None and not known:
            is_package = is_package_directory(importer, path + '/' + name) or None
        if is_package is not None:
            yield prefix + name, is_package


def iter_modules(importer, prefix=''):
    """For pkgutil: what the master has that lies in no package."""
    try:
        for name in ask(u'modules'):
            yield prefix + str(name.rstrip('.')), name.endswith('.')
    except Refused:
        pass


def find_at(importer, name, finder):
    """What a directory has of that name, whatever the module there is called otherwise: a spec, on 2.x a loader."""
    if not hasattr(finder, 'names'):
        finder.names = listing(importer, finder.path)
    tail = name.rpartition('.')[2]
    if tail not in finder.names:
        return None
    path = finder.path + '/' + tail
    is_package = finder.names[tail]
    if is_package is None:
        is_package = is_package_directory(importer, path) or None
    filename = path + ('/__init__.py' if is_package else '.py')
    if not core.PY3:
        return None if is_package is None else Placed(importer, name, filename, is_package)
    if is_package is None:
        spec = core.ModuleSpec(name, None)
        spec.submodule_search_locations = [path]
        return spec
    from importlib.util import spec_from_file_location
    return spec_from_file_location(
        name, filename, loader=loader_class()(name, filename), submodule_search_locations=[path] if is_package else None)


def loader_class():
    from importlib.machinery import SourceFileLoader

    class Placed(SourceFileLoader):
        """Loads by its path what has another name, or none, to the master."""

        def get_resource_reader(self, name):
            record, rest = place(core.importer, os.path.dirname(self.path))
            return Reader(record[0], rest) if record and self.is_package(name) else None
    return Placed


class Placed(object):
    """The same for 2.x."""

    def __init__(self, importer, name, path, package):
        self.importer, self.name, self.path, self.package = importer, name, path, package

    def is_package(self, name):
        return self.package

    def get_filename(self, name):
        return self.path

    def get_data(self, path):
        return self.importer.get_data(path)

    def get_source(self, name):
        return self.get_data(self.path).replace(b'\r\n', b'\n').replace(b'\r', b'\n')

    def get_code(self, name):
        return compile(self.get_source(name) + b'\n', self.path, 'exec', 0, 1)

    def load_module(self, name):
        fresh = name not in sys.modules
        module = sys.modules.setdefault(name, type(sys)(name))
        module.__file__, module.__loader__, module.__package__ = self.path, self, name.rpartition('.')[0] or None
        if self.package:
            module.__path__, module.__package__ = [os.path.dirname(self.path)], name
        try:
            exec(self.get_code(name), module.__dict__)
        except BaseException:
            if fresh:
                sys.modules.pop(name, None)
            raise
        return sys.modules[name]


def top(record):
    """The directory that the top-level package, or module, of a record is in."""
    names = record[0].count('.') + (record[1] is not None and record[2].endswith('.py'))
    return os.path.normpath(core.Importer.prefix + record[2] + '/..' * (names + 1))


def get_data(importer, path):
    """The content of the file with that path, as it is made of `__file__`; IOError if there is none."""
    path = os.path.normpath(str(path))
    received = [record for record in list(importer.cache.values()) if type(record) is tuple]
    for record in received:
        if importer.prefix + record[2] == path:
            return importer.get_bytes(record[0])
    record, rest = place(importer, path)
    if not record:
        # Beside what was received: by the name that it has there.
        for home in set(map(top, received)):
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
        return read(record[0], rest)
    raise missing(path, 'not in a package that is served')


def get_resource_reader(importer, name):
    return Reader(name) if importer.is_package(name) else None


class Reader(object):
    """importlib.abc.ResourceReader, and TraversableResources, of a package."""

    def __init__(self, package, path=''):
        self.package = package
        self.path = path

    def files(self):
        return Resource(self.package, self.path)

    def open_resource(self, name):
        return io.BytesIO(self.files().joinpath(name).read_bytes())

    def resource_path(self, name):
        # Has the caller make a temporary file.
        raise missing(name)

    def is_resource(self, name):
        return self.files().joinpath(name).is_file()

    def contents(self):
        return iter(self.files().entries())


class Resource(object):
    """importlib.abc.Traversable: a file or a directory in a package."""

    def __init__(self, package, path='', parent=None):
        self.package = package
        self.path = path
        self.parent = parent
        self.listing = None
        self.sizes = {}
        self.children = {}

    def __repr__(self):
        return 'Resource(%r, %r)' % (self.package, self.path)

    @property
    def name(self):
        return (self.path or self.package.replace('.', '/')).rpartition('/')[2]

    def entries(self):
        """The entries of a directory: name, and whether it is a directory. Asked for once."""
        if self.listing is None:
            try:
                listing = ask(u'list', core.text_type(self.package), core.text_type(self.path))
            except Refused as e:
                raise missing(self.name, str(e))
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
                    part, Resource(self.package, (resource.path + '/' + part).lstrip('/'), resource))
        return resource

    def __truediv__(self, child):
        return self.joinpath(child)

    def read_bytes(self):
        return read(self.package, self.path)

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
    # From now on. The call that is under way takes what looks to it like a zip file.
    common.from_package = from_package
    return archive_of(Resource(frame.f_locals['spec'].name), importer)


def archive_of(root, importer):
    import zipfile

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


# importlib.metadata.

def find_distributions(importer, context=None):
    """What is installed where the modules come from, for importlib.metadata and for its backport."""
    import importlib
    metadata = importlib.import_module(type(context).__module__ if context else 'importlib.metadata')
    cls = distribution_class(metadata.Distribution)
    name = getattr(context, 'name', None)
    try:
        if name is None:
            return iter([cls(*found) for found in ask(u'installed')])
        return iter([cls(*ask(u'metadata', core.text_type(name)))])
    except Refused:
        return iter(())


def distribution_class(base):
    import pathlib

    class Located(pathlib.PurePosixPath):
        """A file of a project: its path where the modules come from, and its content."""
        resource = None

        def exists(self):
            # Only a package tells what it has.
            return self.resource is None or self.resource.exists()

        def content(self):
            if self.resource is None:
                raise missing(str(self), 'not in a package')
            return self.resource

        def open(self, *args, **kwargs):
            return self.content().open(*args, **kwargs)

        def read_bytes(self):
            return self.content().read_bytes()

        def read_text(self, *args, **kwargs):
            return self.content().read_text(*args, **kwargs)

    class Distribution(base):
        """A project: `texts` has its metadata files, all of them or, until another one is read, entry points alone."""

        def __init__(self, name, version, path, texts, whole):
            self.project, self.path, self.texts, self.whole = name, path, dict(texts), whole
            self.packages = {}

        @property
        def _normalized_name(self):
            return self.project.lower().replace('-', '_').replace('.', '_')

        def read_text(self, filename):
            name = str(filename)
            if not self.whole and name not in self.texts:
                self.texts, self.whole = dict(ask(u'metadata', core.text_type(self.project))[3]), True
            data = self.texts.get(name)
            return data if data is None else data.decode('utf-8')

        def locate_file(self, path):
            located = Located(core.Importer.prefix + os.path.dirname(self.path), str(path))
            package, _, rest = str(path).partition('/')
            if rest and '.' not in package:
                located.resource = self.packages.setdefault(package, Resource(package)).joinpath(rest)
            return located
    return Distribution


# --prefer here.

def prefer_here():
    """Have what is served found before what this machine has, but for the standard library. Called by the master."""
    if not core.STDLIB:
        core.STDLIB = own_library()
    core.Importer.find_here = lambda importer, name, path: False
    finders = [finder for finder in sys.meta_path if finder is not core.importer]
    for i, finder in enumerate(finders):
        if getattr(finder, '__name__', None) == 'PathFinder':
            # Another list: see find_nothing().
            sys.meta_path = finders[:i] + [core.importer] + finders[i:]
            return


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
