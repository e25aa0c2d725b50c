"""A domain without an operating system; its disks are written by QEMU."""
import os
import re
from xml.etree import ElementTree

from report import expect, expect_equal
from tools import wait_for

XML = """<domain type='qemu'>
  <name>%(name)s</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>%(emulator)s</emulator>
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
%(disks)s
  </devices>
</domain>
"""


def disk_xml(path, target='sda', form='vhdx', driver='', more='', inner=''):
    """A disk on the virtio-scsi controller.

    'driver' goes into the attributes of <driver>, 'inner' into the element
    itself, 'more' beside it."""
    unit = ord(target[-1]) - ord('a')
    return ("<disk type='file' device='disk'>"
            "<driver name='qemu' type='%s' %s>%s</driver>"
            "<source file='%s'/><target dev='%s' bus='scsi'/>"
            "<address type='drive' controller='0' bus='0' target='0' "
            "unit='%d'/>%s</disk>"
            % (form, driver, inner, path, target, unit, more))


class Domain:
    """Defined within a with statement, and running between start() and
    destroy()."""
    def __init__(self, session, name, *disks):
        self.session = session
        self.name = name
        self.disks = disks

    def __enter__(self):
        self.define()
        return self

    def __exit__(self, kind, *_):
        self.remove()

    def define(self):
        path = self.session.path(self.name + '.xml')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(self.xml_text(*self.disks))
        self.session.virsh('define', '--validate', path)

    def xml_text(self, *disks):
        return XML % {'name': self.name, 'disks': '\n'.join(disks),
                      'emulator': self.session.tools.emulator}

    def virsh(self, command, *args, **how):
        return self.session.virsh(command, self.name, *args, **how)

    def start(self, **how):
        return self.virsh('start', **how)

    def state(self):
        return self.virsh('domstate').strip()

    def running(self):
        expect_equal(self.state(), 'running', 'state')

    def destroy(self):
        """A stop as by pulling the plug; QEMU closes its images."""
        self.virsh('destroy')

    def remove(self):
        """Stop it if it runs, and forget it."""
        if self.state() != 'shut off':
            self.destroy()
        self.virsh('undefine', '--snapshots-metadata',
                   '--checkpoints-metadata')

    def xml(self, *args):
        return ElementTree.fromstring(self.virsh('dumpxml', *args))

    def disk(self, target='sda'):
        """The disk's element in the XML."""
        for disk in self.xml().iter('disk'):
            if disk.find('target').get('dev') == target:
                return disk
        return None

    def chain(self, target='sda'):
        """Format and file of the disk's images, from the top."""
        disk = self.disk(target)
        found = [(disk.find('driver').get('type'),
                  disk.find('source').get('file'))]
        below = disk.find('backingStore')
        while below is not None and below.find('source') is not None:
            found.append((below.find('format').get('type'),
                          below.find('source').get('file')))
            below = below.find('backingStore')
        return found

    def source(self, target='sda'):
        """The file that domblklist names."""
        text = self.virsh('domblklist')
        return dict(line.split(None, 1) for line in text.splitlines()
                    if line.strip())[target].strip()

    def block_info(self, target='sda'):
        text = self.virsh('domblkinfo', target)
        return {name: int(value)
                for name, value in re.findall(r'^(\w+):\s+(\d+)', text, re.M)}

    def capacity(self, target='sda'):
        return self.block_info(target)['Capacity']

    def hmp(self, command):
        return self.virsh('qemu-monitor-command', '--hmp', command)

    def qmp(self, command):
        return self.virsh('qemu-monitor-command', command)

    def log(self):
        path = os.path.join(self.session.cache, 'libvirt/qemu/log',
                            self.name + '.log')
        with open(path, 'rb') as file:
            return file.read().decode(errors='replace')

    def guest(self, command, unit=0):
        """A read or write where the guest's would come from.

        What it has led to is printed into the domain's log."""
        before = len(self.log())
        answer = self.hmp('qemu-io -d scsi0-0-0-%d "%s"' % (unit, command))
        expect(not answer.strip(), '%s: %s', command, answer)
        wait_for('result of qemu-io %s' % command, lambda: re.search(
            r'.*(ops; |failed|rror).*', self.log()[before:]))
        text = self.log()[before:]
        expect('failed' not in text and 'rror' not in text, '%s: %s', command,
               text)
        done = re.search(r'(wrote|read|discard) (\d+)/(\d+) bytes', text)
        expect(done and done[2] == done[3], '%s: %s', command, text)

    def write(self, pattern, offset, length, unit=0):
        self.guest('write -P %s %s %s' % (pattern, offset, length), unit)

    def reads(self, pattern, offset, length, unit=0):
        """The guest finds this pattern there."""
        self.guest('read -P %s %s %s' % (pattern, offset, length), unit)

    def job_over(self, limit=120):
        """The domain's job, a backup or a migration, has come to its end."""
        wait_for('end of the job', lambda: re.search(
            r'Job type:\s+None', self.virsh('domjobinfo')), limit)
