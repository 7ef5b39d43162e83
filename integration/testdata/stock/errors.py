# Failures to connect, by class and by what Mitogen documents. STUB stands in for the programs that ask for a password.
import os
import shutil
import stat
import sys
import tempfile

import mitogen.core
import mitogen.utils

STUB = r'''#!/bin/sh
say() { printf "$1" >/dev/tty; }
ask() { say "$1"; read -r answer </dev/tty || exit 9; say '\n'; }
case $MODE in
denied) echo 'u@h: Permission denied (publickey,password).' >&2; exit 255 ;;
refused) echo 'u@h: Permission denied (publickey).' >&2; exit 255 ;;
hostkey) echo 'Host key verification failed.' >&2; exit 255 ;;
fails) say 'su: Authentication failure\n'; exit 1 ;;
eof) echo one >&2; echo two >&2; exit 3 ;;
silent) exec sleep 600 ;;
esac
case $0 in
*/ssh) no='Permission denied, please try again.\n' prompt="u@h's password: " ;;
*/sudo) no='Sorry, try again.\n' prompt=${SUDO_PROMPT:-'[sudo] password for u: '} ;;
*/su) no='su: Authentication failure\n' prompt='Password: ' ;;
*/doas) no='doas: Authorization failed\n' prompt='doas (u@h) password: ' ;;
esac
[ "$1" != -p ] || prompt=$2
ask "$prompt"
say "$no"
ask "$prompt"
exit 1
'''

CASES = [
    ('sudo', '', {}), ('sudo', '', dict(password='x')), ('sudo', 'eof', {}),
    ('su', '', {}), ('su', '', dict(password='x')), ('su', 'fails', {}), ('su', 'fails', dict(password='x')),
    ('doas', '', {}), ('doas', '', dict(password='x')),
    ('ssh', 'denied', {}), ('ssh', 'refused', {}), ('ssh', 'hostkey', {}), ('ssh', '', dict(password='x')),
    ('ssh', 'silent', dict(connect_timeout=1)),
    ('lxc', 'eof', {}), ('docker', 'eof', {}), ('kubectl', 'eof', {}),
]
NAMES = dict(ssh=dict(hostname='h'), lxc=dict(container='c'), docker=dict(container='c'), kubectl=dict(pod='p'))
PATHS = dict(lxc='lxc_attach_path')


def main(router):
    directory = tempfile.mkdtemp()
    try:
        for method, mode, kwargs in CASES:
            program = os.path.join(directory, method)
            with open(program, 'w') as fp:
                fp.write(STUB)
            os.chmod(program, stat.S_IRWXU)
            os.environ['MODE'] = mode
            kwargs.update(NAMES.get(method, {}))
            kwargs[PATHS.get(method, method + '_path')] = program
            try:
                getattr(router, method)(**kwargs)
                print('no error')
            except mitogen.core.StreamError:
                e = sys.exc_info()[1]
                lines = str(e).splitlines()
                print('%s %s %s.%s: %s ... %s' % (method, mode, type(e).__module__, type(e).__name__, lines[0], lines[-1][:30]))
        for kwargs in dict(hostname='h', no_such_argument=1), dict(hostname='h', check_host_keys='maybe'), {}:
            try:
                router.ssh(**kwargs)
            except Exception:
                print(type(sys.exc_info()[1]).__name__)
        # Children start in the program's directory and environment at that time.
        os.chdir('/')
        child = router.local()
        print(child.call(os.getcwd), [child.call(os.getenv, name) for name in ('MODE', 'PYTHONPATH', 'MITOGEND_SOCKET')])
    finally:
        shutil.rmtree(directory)


if __name__ == '__main__':
    mitogen.utils.run_with_router(main)
