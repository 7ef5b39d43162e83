"""
Projects that are installed where the modules come from: importlib.metadata and its backport, and pkg_resources. It comes over the
importer when one of them is asked.
"""
from __future__ import absolute_import
import os

import mitogen.core as core
from mitogen.resources import Refused, Resource, ask, missing


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
