"""A child fetches a file by Mitogen's FileService protocol."""

import mitogen.core
import mitogen.service


@mitogen.core.takes_econtext
def fetch(path, econtext):
    """Fetches path from the master to nowhere, and gives its size."""
    with open('/dev/null', 'wb') as fp:
        ok, metadata = mitogen.service.FileService.get(econtext.master, path, fp)
    if not ok:
        raise IOError('transfer was cut short')
    return metadata['size']
