"""
Projects that are installed where the modules come from: importlib.metadata and its backport, and pkg_resources. It
comes over the importer when one of them is asked.
"""
from __future__ import absolute_import
import os
import sys

import mitogen.core as core
from mitogen.resources import Refused, Resource, ask, missing


class Project(object):
    """
    What the master tells of a project. `texts` has its metadata files: entry points alone, if it has some, until another
    file is read, then all.
    """

    def __init__(self, name, version, path, texts, whole):
        self.name, self.version, self.path, self.texts, self.whole = name, version, path, dict(texts), whole

    def read(self, filename):
        """The text of a file; None if there is none."""
        if not self.whole and filename not in self.texts and filename != 'entry_points.txt':
            try:
                self.texts = dict(ask(u'metadata', core.text_type(self.name))[3])
            except Refused:
                # It has been removed meanwhile.
                pass
            self.whole = True
        data = self.texts.get(filename)
        return data if data is None else data.decode('utf-8')

    def read_bytes(self, filename):
        self.read('')
        if filename not in self.texts:
            raise missing(filename)
        return self.texts[filename]


# importlib.metadata.

def find_distributions(importer, context=None):
    """What is installed where the modules come from, for importlib.metadata and for its backport."""
    import importlib
    metadata = importlib.import_module(type(context).__module__ if context else 'importlib.metadata')
    cls = distribution_class(metadata.Distribution)
    name = getattr(context, 'name', None)
    # Who names a path asks for the projects there, and not for ours, unless all that imports look at is in it.
    path = vars(context).get('path') if context else None
    if path is not None:
        path = list(path)
        path = None if set(sys.path) <= set(path) else set(os.path.normpath(text(entry)) for entry in path)
    if path is not None and not any(entry.startswith(core.Importer.prefix) for entry in path):
        return iter(())
    try:
        found = ask(u'installed') if name is None else [ask(u'metadata', core.text_type(name))]
    except Refused:
        return iter(())
    return iter([cls(*told) for told in found
                 if path is None or core.Importer.prefix in path or place_of(told[2]) in path])


def text(entry):
    # On 2.7, text that is not ASCII has no str().
    return entry if isinstance(entry, (str, core.text_type)) else str(entry)


def place_of(path):
    """The directory that a project lies in, as an entry of a path."""
    return core.Importer.prefix + os.path.dirname(path)


def distribution_class(base):
    import pathlib

    class Located(pathlib.PurePosixPath):
        """
        A file of a project: its path where the modules come from, and its content: a Resource, or of the project
        itself.
        """
        project = resource = None

        def exists(self):
            try:
                return self.resource.exists() if self.resource else self.read_bytes() is not None
            except EnvironmentError:
                return False

        def read_bytes(self):
            if self.resource:
                return self.resource.read_bytes()
            inner = os.path.relpath(str(self), core.Importer.prefix + self.project.path)
            return core.importer.get_data(str(self)) if inner.startswith('..') else self.project.read_bytes(inner)

        open, read_text = Resource.open, Resource.read_text

    class Distribution(base):
        def __init__(self, *told):
            self.project = Project(*told)
            self.packages = {}

        @property
        def _normalized_name(self):
            return self.project.name.lower().replace('-', '_').replace('.', '_')

        def read_text(self, filename):
            return self.project.read(str(filename))

        def locate_file(self, path):
            located = Located(place_of(self.project.path), str(path))
            located.project = self.project
            package, _, rest = str(path).partition('/')
            if rest and '.' not in package:
                located.resource = self.packages.setdefault(package, Resource(package)).joinpath(rest)
            return located
    return Distribution


# pkg_resources.

def watch(pkg_resources):
    """pkg_resources was imported: have it know what is served like what is on the disk, which goes first."""
    # Its providers look at files by their paths.
    import mitogen.files
    pkg_resources.register_loader_type(core.Importer, pkg_resources.DefaultProvider)

    class Metadata(pkg_resources.PathMetadata):
        def __init__(self, project, location):
            pkg_resources.PathMetadata.__init__(self, location, core.Importer.prefix + project.path)
            self.project = project

        def has_metadata(self, name):
            return self.project.read(name) is not None

        def get_metadata(self, name):
            text = self.project.read(name)
            if text is None:
                raise missing(name)
            return text if core.PY3 else text.encode('utf-8')

        def get_metadata_lines(self, name):
            return pkg_resources.yield_lines(self.get_metadata(name))

        def metadata_isdir(self, name):
            self.project.read('')
            return not name or any(n.startswith(name + '/') for n in self.project.texts)

        def metadata_listdir(self, name):
            self.project.read('')
            inside = name and name + '/'
            return sorted(set(n[len(inside):].partition('/')[0] for n in self.project.texts if n.startswith(inside)))

    try:
        found = ask(u'installed')
    except Refused:
        return
    working_set = pkg_resources.working_set
    names = getattr(working_set, 'normalized_to_canonical_keys', {})
    for told in found:
        project = Project(*told)
        location = place_of(project.path)
        make = pkg_resources.DistInfoDistribution if project.path.endswith('.dist-info') else pkg_resources.Distribution
        dist = make(location, Metadata(project, location), str(project.name), str(project.version) or None)
        if dist.key in working_set.by_key:
            continue
        # Its add() would put the directory into sys.path, and read all files of each.
        working_set.by_key[dist.key] = dist
        names[dist.key.replace('_', '-').replace('.', '-')] = dist.key
        working_set.entry_keys.setdefault(location, []).append(dist.key)
        if location not in working_set.entries:
            working_set.entries.append(location)
