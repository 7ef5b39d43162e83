"""
The program of `mitogend exec`: it becomes the command. sys.argv has the directory, the number of environment
settings, the settings, and then the command. Without a command, terminal.py goes on.
"""
import errno
import os
import signal
import sys


def fail(status, text):
    sys.stderr.write('mitogend exec: %s\n' % text)
    sys.stderr.flush()
    os._exit(status)


chdir, count = sys.argv[1], int(sys.argv[2])
settings, command = sys.argv[3:3 + count], sys.argv[3 + count:]
for setting in settings:
    name, _, value = setting.partition('=')
    os.environ[name] = value
if chdir:
    try:
        os.chdir(chdir)
    except OSError as e:
        fail(126, '--chdir %s: %s' % (chdir, e.strerror))
# Python ignores these signals, and a program inherits that.
for name in 'SIGPIPE', 'SIGXFZ', 'SIGXFSZ':
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
if command:
    try:
        os.execvp(command[0], command)
    except OSError as e:
        reason = e.errno
        if reason == errno.EACCES and '/' not in command[0]:
            # A directory of PATH that we may not read says nothing about the command.
            path = os.environ.get('PATH', os.defpath).split(os.pathsep)
            if not any(os.path.lexists(os.path.join(directory, command[0])) for directory in path):
                reason = errno.ENOENT
        # The statuses that a shell gives.
        fail(127 if reason == errno.ENOENT else 126, '%s: %s' % (command[0], os.strerror(reason)))
    except ValueError as e:
        fail(126, '%s: %s' % (command[0], e))
