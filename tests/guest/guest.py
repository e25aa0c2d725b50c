"""A Linux guest that does what it is told: QEMU, its monitor, a console."""
import json
import os
import re
import select
import socket
import time

from harness import Failure, LIMIT, expect, foreign, ours, run
from qmp import Monitor
from vhdx_strict import Image

MIB = 1 << 20
SIZE = 512 * MIB
# How a disk is attached, by its bus, and what the guest calls it
BUSES = {
    'virtio-blk': ('virtio-blk-pci', 'vda'),
    'virtio-scsi': ('scsi-hd', 'sda')}
# The bus, and the bytes of a logical sector
DISKS = [(bus, sector) for bus in BUSES for sector in (512, 4096)]
# Seconds that the guest may take for one step, on a very busy host
PATIENCE = 600


class Guest(Monitor):
    """A guest whose disk is an image, or a chain of them: names, the base
    first.  'files' are those in its file system that are stable: the checksum
    of each, by its number."""
    def __init__(self, context, disk, files, *names):
        folder = os.environ['VHDX_GUEST']
        device, self.disk = BUSES[disk[0]]
        self.context = context
        self.files = files
        self.started = False
        self.said = b''
        nodes = []
        for name, parent in zip(names, [None, *names]):
            nodes += ['-blockdev', json.dumps(self.node(name, parent))]
        self.console, other = socket.socketpair()
        with other:
            super().__init__(
                ours('qemu-system-x86_64'), '-accel', 'tcg', '-icount',
                'shift=1', '-m', '160', '-nodefaults', '-display', 'none',
                '-no-reboot',
                '-chardev', 'stdio,id=m', '-mon', 'chardev=m,mode=control',
                '-kernel', folder + '/vmlinuz',
                '-initrd', folder + '/initrd.gz',
                '-append', 'console=ttyS0 quiet panic=-1',
                '-chardev', 'file,append=on,id=k,path='
                + context.path('kernel.log'), '-serial', 'chardev:k',
                '-chardev', 'socket,id=c,fd=%d' % other.fileno(),
                '-serial', 'chardev:c', *nodes, '-device', 'virtio-scsi-pci',
                '-device', '%s,drive=%s,logical_block_size=%d,'
                'physical_block_size=4096' % (device, names[-1], disk[1]),
                limit=LIMIT, pass_fds=[other.fileno()])

    def __exit__(self, *error):
        super().__exit__(*error)
        self.console.close()

    def node(self, name, parent):
        """The options of an image's node."""
        return {'driver': 'vhdx', 'node-name': name, 'discard': 'unmap',
                'backing': parent, 'file': {
                    'driver': 'file', 'discard': 'unmap',
                    'cache': {'no-flush': True},
                    'filename': self.context.path(name)}}

    def _line(self, end):
        """The next line from the guest; None when QEMU has ended."""
        while b'\n' not in self.said:
            left = max(0, end - time.monotonic())
            if not select.select([self.console], [], [], left)[0]:
                raise Failure('the guest does not answer')
            said = self.console.recv(65536)
            if not said:
                return None
            self.said += said
        line, _, self.said = self.said.partition(b'\n')
        return line.decode(errors='replace')

    def until(self, pattern):
        """What the guest says, up to the line that fits; None: to its end."""
        lines = []
        end = time.monotonic() + PATIENCE
        while True:
            line = self._line(end)
            if line is None:
                if pattern is None:
                    return lines
                with open(self.context.path('kernel.log'), 'rb') as log:
                    raise Failure('QEMU has ended\n' + log.read()[-2000:]
                                  .decode(errors='replace'))
            lines.append(line)
            stable = re.fullmatch(r'stable (\d+) (\w{64})', line)
            if stable:
                self.files[int(stable[1])] = stable[2]
            if pattern and re.fullmatch(pattern, line):
                return lines

    def run(self, command, status=(0,)):
        """What a command prints in the guest."""
        if not self.started:
            self.started = True
            self.until('ready')
            self.run('disk=/dev/%s; until [ -b $disk ]; do sleep 0.1; done'
                     % self.disk)
        self.console.sendall(command.encode() + b'\n')
        *lines, last = self.until(r'status \d+')
        text = '\n'.join(lines)
        expect(int(last.split()[1]) in status, '%s of %s in the guest\n%s',
               last, command, text)
        return text

    def make(self):
        """An empty file system."""
        self.run('mkfs.ext4 -q $disk && mount -o discard $disk /mnt')

    def mount(self):
        """The file system, which is whole, and has all that is stable."""
        self.run('e2fsck -f -n $disk && mount -o discard $disk /mnt')
        sums = {int(name): value for value, name in re.findall(
            r'^(\w{64})  (\d+)$', self.run('(cd /mnt && sha256sum [0-9]*)'),
            re.M)}
        for name, value in self.files.items():
            expect(sums.get(name) == value, 'file %d has the sum %s, not %s',
                   name, sums.get(name), value)

    def mend(self):
        """The same after a power cut."""
        self.run('e2fsck -f -y $disk', (0, 1))
        self.mount()

    def write(self):
        """Files are written from now on."""
        self.run('rm -f /stop; write-files %d &'
                 % (max(self.files, default=0) + 1))

    def write_large(self):
        """A file of 48 MiB that only takes space."""
        self.run('for i in $(seq 48); do cat /noise; done > /mnt/large; sync')

    def wait_for(self, count):
        """So many more files are stable."""
        goal = len(self.files) + count
        while len(self.files) < goal:
            self.until('stable .*')

    def stop(self):
        """No more files are written."""
        self.run('touch /stop; wait')

    def finish(self, name, **arguments):
        """A job from its beginning to its end."""
        error = self.job(name, **arguments)
        expect(not error, '%s: %s', name, error)

    def commit(self, device, base, **more):
        """Images of the chain go into one below, all those above it or those
        from 'top-node' on."""
        self.finish('block-commit', device=device, **{
            'base-node': base, 'auto-dismiss': False, **more})

    def snapshot(self, name, parent):
        """A new image goes on top of the one that is the disk."""
        node = self.node(name, None)
        with open(self.context.path(name), 'wb'):
            pass
        self.command('blockdev-add', **{'node-name': 'new', **node['file']})
        self.finish('blockdev-create', options={
            'driver': 'vhdx', 'file': 'new', 'size': SIZE,
            'backing-file': self.context.path(parent),
            'backing-fmt': 'vhdx'})
        self.command('blockdev-del', **{'node-name': 'new'})
        self.command('blockdev-add', **node)
        self.command('blockdev-snapshot', node=parent, overlay=name)

    def off(self):
        """The guest ends as it should."""
        self.run('umount /mnt')
        self.console.sendall(b'poweroff -f\n')
        self.until(None)
        expect(self.process.wait(PATIENCE) == 0, 'QEMU has exit status %d',
               self.process.returncode)

    def kill(self):
        """QEMU ends at once; what the guest has said before counts."""
        self.process.kill()
        self.until(None)
        self.process.wait(PATIENCE)


def create(context, disk):
    """The image "base" for such a disk."""
    context.create('base', SIZE, block_size='1M', logical_sector_size=disk[1])


def last_look(context, disk, files, mend=False):
    """Started once more from "base", the guest finds all that is stable; with
    'mend' after a power cut."""
    with Guest(context, disk, files, 'base') as guest:
        if mend:
            guest.mend()
        else:
            guest.mount()
        guest.off()
    sound(context, 'base')


def sound(context, *names):
    """Nothing is wrong with these images, whose last is the disk, and with the
    file system in it."""
    for name in names:
        path = context.path(name)
        run(ours('qemu-img'), 'check', '-f', 'vhdx', path)
        with Image(path) as image:
            # a child has the parent's names that it had before, a warning
            bad = [one for one in image.report.bad()
                   if one[0] == 'error' or not image.params.has_parent]
            expect(not bad, 'strict reader of %s:\n%s', name,
                   '\n'.join(image.report.lines(bad)))
    run(foreign('e2fsck'), '-f', '-n', context.raw(path))
