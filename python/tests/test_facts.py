"""What a machine is, as told by files that are made up here."""
from __future__ import absolute_import

import os

import harness

harness.load()

GB = 1 << 30
MOUNTS = u'''rootfs / rootfs rw 0 0
proc /proc proc rw 0 0
selinuxfs /sys/fs/selinux selinuxfs rw 0 0
nfsd /proc/fs/nfsd nfsd rw 0 0
lxcfs /proc/meminfo fuse.lxcfs rw 0 0
odd /proc/odd oddfs rw 0 0
/dev/sda1 /etc/resolv.conf ext4 rw 0 0
systemd-1 /net autofs rw 0 0
srv:/net /net nfs4 rw 0 0
/dev/sda1 /srv ext4 rw 0 0
/dev/sda1 / ext4 rw 0 0
/dev/sdb1 /hidden ext4 rw 0 0
/dev/sdc1 /hidden ext4 rw 0 0
me@host: /home/me/far fuse.sshfs rw 0 0
/dev/sdd1 /with\\040space\\043 xfs rw 0 0
'''


class Statvfs(object):
    f_frsize = 4096

    def __init__(self, blocks):
        self.f_blocks = blocks
        self.f_bavail = blocks // 2


class FactsTest(harness.TestCase):
    def setUp(self):
        self.parent({})
        import mitogen.facts
        self.facts = mitogen.facts

    def patch(self, owner, name, value):
        self.addCleanup(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def listed(self, mounts):
        """The disks of a machine with these mounts; in /proc and /sys there are no blocks."""
        def statvfs(path):
            self.assertNotIn(path, ('/net', '/home/me/far'))
            return Statvfs(0 if path.startswith(('/proc/', '/sys/')) else GB // 4096)
        self.patch(self.facts, 'read', lambda path: mounts)
        self.patch(os, 'statvfs', statvfs)
        self.patch(os.path, 'isdir', lambda path: path != '/etc/resolv.conf')
        return self.facts.disks()

    def test_disks(self):
        disks = self.listed(MOUNTS)
        self.assertEqual([(d['mount'], d['device'], d['size'], d['free']) for d in disks], [
            ('/', '/dev/sda1', GB, GB // 2), ('/net', 'srv:/net', None, None), ('/hidden', '/dev/sdc1', GB, GB // 2),
            ('/home/me/far', 'me@host:', None, None), ('/with space#', '/dev/sdd1', GB, GB // 2)])

    def test_disks_of_a_container(self):
        disks = self.listed(u'overlay / overlay rw 0 0\n/dev/sda1 /etc/resolv.conf ext4 rw 0 0\n/dev/sda1 /data ext4 rw 0 0\n')
        self.assertEqual([(d['mount'], d['filesystem']) for d in disks], [('/', 'overlay'), ('/data', 'ext4')])

    def test_service_manager(self):
        for name, there, want in (
                ('nginx', (), None), ('sleep', (), None), ('init', (), 'sysvinit'), ('init', ('/run/openrc',), 'openrc'),
                ('systemd', ('/run/systemd/system',), 'systemd'), ('s6-svscan', (), 's6'), ('runit', (), 'runit')):
            self.patch(self.facts, 'read', lambda path: name + u'\n')
            self.patch(os.path, 'isdir', lambda path: path in there)
            self.assertEqual(self.facts.service_manager(), want)


if __name__ == '__main__':
    harness.main()
