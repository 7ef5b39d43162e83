"""
Loaded by the interpreters that `mitogend master` starts: it lets mitogend_client wait for Mitogen, and gets out of
the way.
"""
import os
import sys

import mitogend_client

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != _here]
mitogend_client.install()

# The sitecustomize that this file has taken the place of. The import system wants the name to be there afterwards.
_own = sys.modules.pop('sitecustomize')
try:
    import sitecustomize
except ImportError:
    sys.modules['sitecustomize'] = _own
