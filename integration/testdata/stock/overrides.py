# Packages that children take from the program although they have them, and packages that they never ask it for.
import os
import shutil
import sys
import tempfile

import mitogen.utils


def where(name):
    try:
        return __import__(name).WHERE
    except ImportError:
        return 'nowhere'


def package(root, name):
    os.makedirs(os.path.join(root, name))
    with open(os.path.join(root, name, '__init__.py'), 'w') as f:
        f.write('WHERE = %r\n' % (os.path.basename(root),))


def main(router):
    root = tempfile.mkdtemp()
    try:
        here, there = os.path.join(root, 'here'), os.path.join(root, 'there')
        for name in 'money', 'time_', 'plain':
            package(here, name)
        package(there, 'money')
        package(there, 'plain')
        sys.path.insert(0, here)
        python = ['env', 'PYTHONPATH=' + there, sys.executable]
        first = router.local(python_path=python)
        print([first.call(where, name) for name in ('money', 'time_', 'plain')])
        router.responder.blacklist_prefix('time_')
        second = router.local(python_path=python)
        print([second.call(where, name) for name in ('money', 'time_', 'plain')])
        router.responder.whitelist_prefix('__main__')
        router.responder.whitelist_prefix('money')
        third = router.local(python_path=python)
        behind = router.local(via=third, python_path=python)
        for child in third, behind:
            print([child.call(where, name) for name in ('money', 'time_', 'plain')])
    finally:
        shutil.rmtree(root)


if __name__ == '__main__':
    mitogen.utils.run_with_router(main)
