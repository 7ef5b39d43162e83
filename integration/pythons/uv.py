# Stands in for uv in tests: the used part of `uv pip install`, according to its documentation (0.5.6 to 0.12), for wheels in directories.
# All other arguments are an error, as they are for uv. For each start it writes a line with its arguments, as JSON, to a file beside itself.
import email
import glob
import json
import os
import re
import sys
import zipfile

VALUES = ('--target', '--python', '--python-version', '--python-platform', '--only-binary', '--link-mode', '--find-links', '-r')
FLAGS = ('--no-compile-bytecode',)
MANYLINUX = re.compile(r'^(x86_64|aarch64)-manylinux_2_(17|28|3[1-9]|40)$')
MUSL = re.compile(r'^(x86_64|aarch64)-unknown-linux-musl$')
REQUIREMENT = re.compile(r'^\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?$')


def end(text, status=1):
    sys.stderr.write(text + '\n')
    sys.exit(status)


def arguments(argv):
    if argv[:2] != ['pip', 'install']:
        end("error: unrecognized subcommand %r" % argv[:2], 2)
    given, lines, i = {}, [], 2
    while i < len(argv):
        name = argv[i]
        if name == '--':
            lines = argv[i + 1:]
            break
        if name in FLAGS:
            given[name] = True
        elif name in VALUES and i + 1 < len(argv):
            i += 1
            given.setdefault(name, []).append(argv[i])
        else:
            end("error: unexpected argument '%s' found" % name, 2)
        i += 1
    for name in VALUES:
        if len(given.get(name, [])) > 1 and name not in ('-r', '--find-links'):
            end("error: the argument '%s' cannot be used multiple times" % name, 2)
    if not lines and '-r' not in given:
        end("error: the following required arguments were not provided", 2)
    return given, lines


def normal(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def version(text):
    return [int(n) for n in re.findall(r'\d+', text)]


def holds(have, text):
    for one in filter(None, text.split(',')):
        op, want = re.match(r'\s*(==|!=|>=|<=|<|>)\s*([\d.]+)\s*$', one).groups()
        a, b = version(have), version(want)
        if not {'==': a == b, '!=': a != b, '>=': a >= b, '<=': a <= b, '<': a < b, '>': a > b}[op]:
            return False
    return True


def applies(marker, python):
    if not marker:
        return True
    op, want = re.match(r'''python_version\s*(\S+)\s*['"]([\d.]+)['"]\s*$''', marker).groups()
    return holds(python, op + want)


def fits(name, python, platform):
    digits = python.replace('.', '')
    machine, system = platform.split('-', 1)
    pythons, abis, systems = name[:-4].split('-')[-3:]
    if not set(pythons.split('.')) & {'py3', 'py2.py3', 'py' + digits, 'cp' + digits} or not set(abis.split('.')) & {'none', 'abi3', 'cp' + digits}:
        return False
    for one in systems.split('.'):
        m = re.match(r'(manylinux|musllinux)_(\d+)_(\d+)_(.*)$', one)
        if one in ('any', 'linux_' + machine):
            return True
        if m and m.group(1) == 'manylinux' and system.startswith('manylinux_2_') and m.group(4) == machine and int(m.group(3)) <= int(system[12:]):
            return True
        if m and m.group(1) == 'musllinux' and system.endswith('musl') and m.group(4) == machine and version(m.group(0))[:2] <= [1, 2]:
            return True
    return False


def lay(path, target):
    with zipfile.ZipFile(path) as z:
        for name in z.namelist():
            to = name
            m = re.match(r'[^/]*\.data/([^/]*)/(.*)', name)
            if m:
                to = {'scripts': 'bin/', 'headers': 'include/'}.get(m.group(1), '') + m.group(2)
            to = os.path.join(target, to)
            if not os.path.isdir(os.path.dirname(to)):
                os.makedirs(os.path.dirname(to))
            with open(to, 'wb') as f:
                f.write(z.read(name))
            if name.endswith('.dist-info/WHEEL'):
                with open(os.path.join(os.path.dirname(to), 'INSTALLER'), 'w') as f:
                    f.write('uv')


def main(argv):
    if argv == ['--version']:
        print('uv 0.12.5 (x86_64-unknown-linux-gnu)')
        return
    with open(os.path.abspath(__file__) + '.log', 'a') as f:
        f.write(json.dumps({'argv': argv, 'dir': os.getcwd(), 'env': {k: v for k, v in os.environ.items() if k.startswith(('UV_', 'PIP_'))}}) + '\n')
    given, todo = arguments(argv)
    platform, python = given['--python-platform'][0], given['--python-version'][0]
    if not MANYLINUX.match(platform) and not MUSL.match(platform) and platform != 'riscv64-unknown-linux':
        end("error: invalid value '%s' for '--python-platform <PYTHON_PLATFORM>'" % platform, 2)
    if not re.match(r'3\.\d+$', python):
        end("error: invalid value '%s' for '--python-version <PYTHON_VERSION>'" % python, 2)
    if given['--only-binary'] != [':all:'] or given['--link-mode'][0] not in ('clone', 'copy', 'hardlink', 'symlink'):
        end('error: invalid value', 2)
    if os.environ.get('UV_PYTHON_DOWNLOADS') != 'never':
        end('error: a Python would be downloaded')
    todo = list(todo)
    for path in given.get('-r', []):
        with open(path) as f:
            todo += [line.strip() for line in f if line.strip() and not line.startswith('#')]
    wheels = [w for d in given.get('--find-links', []) + os.environ.get('UV_FIND_LINKS', '').split(',') if d for w in sorted(glob.glob(os.path.join(d, '*.whl')))]
    done = {}
    while todo:
        line = todo.pop(0)
        name, spec, marker = REQUIREMENT.match(line).groups()
        if not applies(marker, python) or normal(name) in done:
            continue
        found = [w for w in wheels if normal(os.path.basename(w).split('-')[0]) == normal(name)]
        found = [w for w in found if holds(os.path.basename(w).split('-')[1], spec) and fits(os.path.basename(w), python, platform)]
        if not found:
            end('  \u00d7 No solution found when resolving dependencies:\n  \u2570\u2500\u25b6 Because there is no version of %s and you require %s,\n'
                '      we can conclude that your requirements are unsatisfiable.' % (line, line))
        done[normal(name)] = best = max(found, key=lambda w: version(os.path.basename(w).split('-')[1]))
        with zipfile.ZipFile(best) as z:
            info = [n for n in z.namelist() if n.endswith('.dist-info/METADATA')][0]
            todo += email.message_from_string(z.read(info).decode()).get_all('Requires-Dist') or []
    for path in done.values():
        lay(path, given['--target'][0])
    sys.stderr.write('Installed %d packages in 1ms\n' % len(done))


main(sys.argv[1:])
