"""
What a machine is: mitogend facts and --where ask for it. It comes over the importer as mitogen.facts. Nothing is
started for it, and what cannot be told is None.
"""
from __future__ import absolute_import

import os
import sys

SEARCHED = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']
MANAGERS = [('apt-get', 'apt'), ('dnf', 'dnf'), ('yum', 'yum'), ('zypper', 'zypper'), ('pacman', 'pacman'), ('apk', 'apk'),
            ('emerge', 'portage'), ('xbps-install', 'xbps'), ('pkg', 'pkg'), ('brew', 'brew')]
# File systems that hold no data of their own, and images that are full by nature.
UNREAL = set(('autofs', 'binfmt_misc', 'bpf', 'cgroup', 'cgroup2', 'configfs', 'cramfs', 'debugfs', 'devpts', 'devtmpfs', 'efivarfs',
              'erofs', 'fuse.gvfsd-fuse', 'fuse.lxcfs', 'fuse.portal', 'fuse.snapfuse', 'fuse.squashfuse', 'fusectl', 'hugetlbfs',
              'iso9660', 'mqueue', 'nfsd', 'nsfs', 'overlay', 'proc', 'pstore', 'ramfs', 'rootfs', 'rpc_pipefs', 'securityfs',
              'selinuxfs', 'smackfs', 'squashfs', 'sysfs', 'tmpfs', 'tracefs'))
# File systems of other machines: asking for their size may take for ever.
REMOTE = set(('9p', 'afs', 'ceph', 'cifs', 'davfs', 'glusterfs', 'lustre', 'nfs', 'nfs4', 'smb3', 'smbfs'))
MAX_DISKS = 64
# Names of process 1 that say what it is; in a container it may be any program.
SERVICE_MANAGERS = {'systemd': 'systemd', 'init': 'sysvinit', 'openrc-init': 'openrc', 'runit': 'runit', 'runsvdir': 'runit',
                    's6-svscan': 's6', 'dinit': 'dinit'}


def text(value):
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value


def read(path):
    with open(path, 'rb') as f:
        return text(f.read(1 << 20))


def uname(index):
    return text(os.uname()[index])


def release():
    """What os-release says: shell assignments."""
    for path in '/etc/os-release', '/usr/lib/os-release':
        try:
            lines = read(path).splitlines()
        except (IOError, OSError):
            continue
        found = {}
        for line in lines:
            name, equal, value = line.strip().partition('=')
            if equal and not name.startswith('#'):
                found[name] = unquoted(value)
        return found
    return {}


def unquoted(value):
    import shlex
    try:
        words = shlex.split(value if sys.version_info[0] > 2 else value.encode('utf-8'))
    except ValueError:
        words = [value]
    return text(words[0]) if words else u''


def meminfo(name):
    for line in read('/proc/meminfo').splitlines():
        key, _, value = line.partition(':')
        if key == name:
            return int(value.split()[0]) * 1024


def memory():
    try:
        return meminfo('MemTotal')
    except (IOError, OSError):
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def cpus():
    return os.sysconf('SC_NPROCESSORS_ONLN')


def cpu():
    for line in read('/proc/cpuinfo').splitlines():
        key, _, value = line.partition(':')
        if key.strip() in ('model name', 'Hardware', 'cpu model', 'cpu'):
            return value.strip()


def disks():
    """Mounted file systems that hold data, each device once, that of / before the others."""
    found, seen, last = [], set(), {}
    mounts = [[plain(word) for word in line.split()[:3]] for line in read('/proc/mounts').splitlines()]
    for at, (_, mount, _) in enumerate(mounts):
        # What is mounted at the same place later hides it.
        last[mount] = at
    for at in sorted(last.values(), key=lambda at: (mounts[at][1] != u'/', at)):
        device, mount, kind = mounts[at]
        if kind in UNREAL and mount != u'/' or device in seen or len(found) == MAX_DISKS:
            continue
        size = free = None
        if kind not in REMOTE and not kind.startswith('fuse'):
            path = mount if sys.version_info[0] > 2 else mount.encode('utf-8')
            try:
                s = os.statvfs(path)
            except (IOError, OSError):
                continue
            # A container has single files of its host's disks.
            if not s.f_blocks or not os.path.isdir(path):
                continue
            size, free = s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize
        seen.add(device)
        found.append({'mount': mount, 'device': device, 'filesystem': kind, 'size': size, 'free': free})
    return found


def plain(word):
    """A word of /proc/mounts, where odd characters are octal."""
    for code in '040', '011', '012', '043', '134':
        word = word.replace('\\' + code, chr(int(code, 8)))
    return word


def addresses():
    """IP addresses by interface."""
    found = {}
    for name, address in ipv4() + ipv6():
        found.setdefault(name, []).append(address)
    return found


def ipv4():
    import array
    import fcntl
    import socket
    import struct
    room = 40 * 256  # of struct ifreq
    names = array.array('B', b'\0' * room)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # SIOCGIFCONF: how many bytes there are, and where.
        reply = fcntl.ioctl(s.fileno(), 0x8912, struct.pack('iP', room, names.buffer_info()[0]))
    finally:
        s.close()
    data = names.tobytes() if hasattr(names, 'tobytes') else names.tostring()
    size = 40 if struct.calcsize('P') == 8 else 32
    out = []
    for start in range(0, struct.unpack('iP', reply)[0], size):
        name = data[start:start + 16].split(b'\0')[0]
        out.append((text(name).partition(u':')[0], text(socket.inet_ntoa(data[start + 20:start + 24]))))
    return out


def ipv6():
    import socket
    from binascii import a2b_hex
    out = []
    try:
        lines = read('/proc/net/if_inet6').splitlines()
    except (IOError, OSError):
        return out
    for line in lines:
        words = line.split()
        out.append((words[5], text(socket.inet_ntop(socket.AF_INET6, a2b_hex(words[0].encode('ascii'))))))
    return out


def programs(wanted):
    """The names that are programs on the path."""
    path = os.environ.get('PATH', os.defpath).split(os.pathsep)
    for name in wanted:
        for directory in path + [d for d in SEARCHED if d not in path]:
            full = os.path.join(directory, name)
            if directory and os.path.isfile(full) and os.access(full, os.X_OK):
                yield name, full
                break


def package_manager():
    known = dict(MANAGERS)
    for name, _ in programs([name for name, _ in MANAGERS]):
        return known[name]


def service_manager():
    if os.path.isdir('/run/systemd/system'):
        return 'systemd'
    if os.path.isdir('/run/openrc'):
        # Its process 1 is busybox's or System V's init.
        return 'openrc'
    return SERVICE_MANAGERS.get(read('/proc/1/comm').strip())


def container():
    """The kind of container that this is; None for none that is known."""
    for path, kind in ('/run/.containerenv', 'podman'), ('/.dockerenv', 'docker'):
        if os.path.exists(path):
            return kind
    try:
        return read('/run/systemd/container').strip() or None
    except (IOError, OSError):
        return None


def pythons():
    """Interpreters on the path, by their real files."""
    names = ['python3', 'python', 'python2'] + ['python3.%d' % n for n in range(6, 20)] + ['python2.7']
    found = []
    for _, full in programs(names):
        real = text(os.path.realpath(full))
        if real not in found:
            found.append(real)
    return found


def user():
    import pwd
    try:
        return text(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        return text(str(os.geteuid()))


FACTS = {
    'system': lambda: uname(0), 'kernel': lambda: uname(2), 'machine': lambda: uname(4), 'hostname': lambda: uname(1),
    'distribution': lambda: release().get('ID'), 'distribution_version': lambda: release().get('VERSION_ID'),
    'distribution_name': lambda: release().get('PRETTY_NAME'),
    'distribution_like': lambda: release().get('ID_LIKE', u'').split(),
    'cpus': cpus, 'cpu': cpu, 'load': lambda: list(os.getloadavg()),
    'memory': memory, 'memory_available': lambda: meminfo('MemAvailable'), 'swap': lambda: meminfo('SwapTotal'),
    'uptime': lambda: float(read('/proc/uptime').split()[0]),
    'disks': disks, 'addresses': addresses,
    'package_manager': package_manager, 'service_manager': service_manager, 'container': container,
    'python': lambda: '.'.join(str(n) for n in sys.version_info[:3]),
    'python_executable': lambda: text(sys.executable), 'pythons': pythons,
    'user': user, 'uid': os.geteuid,
}


def collect(names=None):
    """The facts of these names, or all."""
    found = {}
    for name in names if names is not None else FACTS:
        try:
            found[name] = FACTS[name]()
        except Exception:
            found[name] = None
    return found
