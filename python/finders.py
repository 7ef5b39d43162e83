"""
Finders by path: what pkgutil is told of directories, and modules that are loaded from where they lie, whatever they
are called. It comes over the importer when something looks for modules in a directory of what is served.
"""
from __future__ import absolute_import
import os
import sys

import mitogen.core as core
from mitogen.resources import Reader, Refused, ask, place, portion, where


def listing(importer, path):
    """
    Names of the modules in a directory: True of a package, False of a module, None of a directory that is neither.
    """
    record, rest = place(importer, path, True)
    if not record:
        return {}
    directory = portion(importer, record, rest, path)
    if not rest and not directory:
        # A package ends in a dot. A directory without __init__.py is there twice, with one and with two.
        return dict((str(n.rstrip('.')), n.endswith('.') and (None if n.rstrip('.') + '..' in record[1] else True))
                    for n in record[1])
    names = {}
    try:
        for name, is_dir, _size in ask(u'list', *where(record[0], rest, directory)):
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
    directory = portion(importer, record, rest, path)
    if not rest and not directory:
        return record[2][-3:] in core.FILES
    try:
        return (u'__init__.py', False) in [tuple(e)[:2] for e in ask(u'list', *where(record[0], rest, directory))]
    except Refused:
        return False


def list_modules(importer, path, prefix):
    """For pkgutil: the names of the modules in a directory, and whether they are packages."""
    path = os.path.normpath(path)
    names = listing(importer, path)
    record, rest = place(importer, path)
    known = record and not rest and not portion(importer, record, rest, path)
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
    """What a directory has under that name, whatever else the module is called: a spec, on 2.x a loader."""
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
        return None if is_package is None else Placed(name, filename, is_package)
    if is_package is None:
        spec = core.ModuleSpec(name, None)
        spec.submodule_search_locations = [path]
        return spec
    return util.spec_from_file_location(
        name, filename, loader=Placed(name, filename), submodule_search_locations=[path] if is_package else None)


if core.PY3:
    from importlib import machinery, util

    class Placed(machinery.SourceFileLoader):
        """Loads by its path what the master knows by another name, or by none."""

        def get_resource_reader(self, name):
            record, rest = place(core.importer, os.path.dirname(self.path))
            if record and self.is_package(name):
                return Reader(record[0], rest, portion(core.importer, record, rest, os.path.dirname(self.path)))
else:
    class Placed(object):
        """The same, whole: 2.x has no such class."""

        def __init__(self, name, path, package):
            self.name, self.path, self.package = name, path, package

        def is_package(self, name):
            return self.package

        def get_filename(self, name):
            return self.path

        def get_data(self, path):
            return core.importer.get_data(path)

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
