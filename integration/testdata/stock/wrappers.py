# ssh, sudo, docker ... are often replaced by a script that reads its arguments. This one records them and runs the child.
import os
import shutil
import stat
import sys
import tempfile

import mitogen.utils

STUB = '''#!%s
import os
import shlex
import subprocess
import sys

words = sys.argv[1:]
at = words.index('-c')
if os.path.basename(sys.argv[0]) == 'su':
    os.environ['STUB_ARGV'] = repr(words[:at + 1])
    sys.exit(subprocess.call(['sh', '-c', words[at + 1]]))
command = words[at:]
if os.path.basename(sys.argv[0]) == 'ssh':
    command = [''.join(shlex.split(word)) for word in command]
os.environ['STUB_ARGV'] = repr(words[:at])
sys.exit(subprocess.call([sys.executable] + command))
'''

CASES = [
    ('ssh', 'ssh_path', dict(hostname='h')),
    ('ssh', 'ssh_path', dict(hostname='h', username='u', port=2222, identity_file='k', check_host_keys='ignore', compression=False,
                             keepalive_count=4, keepalive_interval=20, ssh_args=['-F', 'none'])),
    ('ssh', 'ssh_path', dict(hostname='h', check_host_keys='accept', keepalive_enabled=False, identities_only=False, ssh_debug_level=2)),
    ('ssh', 'ssh_path', dict(hostname='h', password='p')),
    ('sudo', 'sudo_path', dict()),
    ('sudo', 'sudo_path', dict(username='u', preserve_env=True, set_home=True, login=True, selinux_role='r', selinux_type='t')),
    ('sudo', 'sudo_path', dict(sudo_args=['--type', 'st', '--role=sr', '--user', 'u', '-EHSn', '-i'])),
    ('sudo', 'sudo_path', dict(username='v', set_home=True, sudo_args=['-ux', '-t', 'st', '--preserve-env'])),
    ('su', 'su_path', dict(username='u')),
    ('doas', 'doas_path', dict(username='u')),
    ('docker', 'docker_path', dict(container='c', username='u')),
    ('docker', 'docker_path', dict(image='i', username='u')),
    ('docker', 'docker_path', dict(container='c')),
    ('podman', 'podman_path', dict(container='c', username='u')),
    ('buildah', 'buildah_path', dict(container='c', username='u')),
    ('kubectl', 'kubectl_path', dict(pod='p', kubectl_args=['-n', 'x'])),
    ('lxc', 'lxc_attach_path', dict(container='c')),
    ('lxd', 'lxc_path', dict(container='c')),
    ('incus', 'incus_path', dict(container='c')),
    ('jail', 'jexec_path', dict(container='c', username='u')),
]


def main(router):
    directory = tempfile.mkdtemp()
    try:
        for method, path, kwargs in CASES:
            if not hasattr(router, method):  # only in later releases
                continue
            program = os.path.join(directory, method)
            with open(program, 'w') as fp:
                fp.write(STUB % (sys.executable,))
            os.chmod(program, stat.S_IRWXU)
            more = ['a python', ['env', 'A=b', 'python']] if len(kwargs) == 1 and method in ('ssh', 'docker') else []
            for python in [None] + more:
                kwargs[path] = program
                kwargs.pop('python_path', None)
                if python:
                    kwargs['python_path'] = python
                child = getattr(router, method)(**kwargs)
                print(method, child.call(os.getenv, 'STUB_ARGV'))
                child.shutdown(wait=True)
    finally:
        shutil.rmtree(directory)


if __name__ == '__main__':
    mitogen.utils.run_with_router(main)
