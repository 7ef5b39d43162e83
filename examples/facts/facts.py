"""
Functions to call on other machines.

    mitogend call -I examples/facts facts:disk /
    mitogend call -I examples/facts -H ssh:web1,ssh:web2 --json facts:disk / --kw unit=1048576
"""
import os
import platform


def disk(path, unit=1024):
    """Size and free space of path's file system, in units of that many bytes."""
    if unit < 1:
        raise ValueError('unit must be at least 1, not {0}'.format(unit))
    s = os.statvfs(path)
    return {'size': s.f_blocks * s.f_frsize // unit, 'free': s.f_bavail * s.f_frsize // unit}


def python():
    """Which interpreter this is."""
    return {'version': platform.python_version(), 'implementation': platform.python_implementation()}
