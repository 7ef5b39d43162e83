"""
What a program can ask about where it runs: `import mitogend`. It comes over the importer, ahead of any module of that
name on the path.
"""
import json
import os

import mitogen.core as core

MANUAL = 'docs/cli.md, Host variables'


class HostVars(dict):
    """Variables of a host. `unknown` has the names of those that cannot be had, and why."""
    unknown = {}

    def __missing__(self, name):
        raise KeyError(self.unknown.get(name) or '%s: no such variable of this host' % (name,))


def target():
    """The name of the target: the inventory's for a host of it. None outside of programs."""
    return os.environ.get('MITOGEND_TARGET')


def host_vars():
    """
    The inventory's variables of this host, as a new dict; LookupError where the target is no host of an inventory.
    """
    data = core.config.get('host_vars')
    if data is None:
        raise LookupError('there are no host variables: this is no program on a host of an inventory (%s)' % MANUAL)
    told = json.loads(data.decode('utf-8'))
    if 'error' in told:
        raise LookupError(told['error'])
    found = HostVars(told['known'])
    found.unknown = told.get('unknown', {})
    return found
