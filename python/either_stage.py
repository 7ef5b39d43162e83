"""
Run by first_stage.py in place of our core, where the sender does not know the interpreter's generation. `boot` has
the core for each, and `config` for the core.
"""
import sys


def main(boot, _source):
    core = sys.modules['mitogen.core']
    source = boot['core%d' % sys.version_info[0]].encode('ascii')
    exec(compile(source, '/master:mitogen/core.py', 'exec', 0, 1), core.__dict__)
    return core.main(boot['config'], source)
