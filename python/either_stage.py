"""
Run by first_stage.py in place of our core where whoever sends it does not know the generation of the interpreter: `boot` has
the core for each, `config` is that core's.
"""
import sys


def main(boot, _source):
    core = sys.modules['mitogen.core']
    source = boot['core%d' % sys.version_info[0]].encode('ascii')
    exec(compile(source, '/master:mitogen/core.py', 'exec', 0, 1), core.__dict__)
    return core.main(boot['config'], source)
