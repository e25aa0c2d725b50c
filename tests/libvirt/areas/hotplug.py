"""Disks that come and go while the guest runs."""
import json
import re

from areas.domain import format_node
from domain import Domain, disk_xml
from report import expect, expect_equal, expect_in, step
from tools import MIB


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('hotplug')
    pool.create('disk.vhdx', '1G')
    with Domain(session, 'h', disk_xml(pool.path('disk.vhdx'))) as domain:
        domain.start()
        disks(tools, session, pool, domain)


def disks(tools, session, pool, domain):
    plug = Plug(session, domain)

    path = pool.path('b.vhdx')
    with step('a vhdx disk is attached'):
        pool.create('b.vhdx', '64M')
        session.mark()
        plug.attach(disk_xml(path, 'sdb'))
        node = format_node(plug.nodes())
        expect(node.get('backing', None) is None, 'backing: %s', node)
        expect_equal(domain.capacity('sdb'), 64 * MIB, 'capacity')
    with step('... written and read'):
        domain.write(41, '8M', '1M', 1)
        domain.reads(41, '8M', '1M', 1)
    with step('... detached, and closed'):
        plug.detach('sdb')
        tools.check(path)
        tools.holds(path, (41, '8M', MIB))

    with step('the same as type vhd: no backing is handed on'):
        session.mark()
        plug.attach(disk_xml(path, 'sdb', form='vhd'))
        expect('backing' not in format_node(plug.nodes()), 'backing')
    with step('... works'):
        domain.reads(41, '8M', '1M', 1)
        domain.write(42, '16M', '1M', 1)
    with step('... and comes off'):
        plug.detach('sdb')
        tools.check(path)
        tools.holds(path, (41, '8M', MIB), (42, '16M', MIB))

    path = tools.create(pool.path('4k.vhdx'), '64M', logical_sector_size=4096)
    with step('a disk with sectors of 4 KiB: the guest sees them'):
        plug.attach(disk_xml(path, 'sdb'))
        expect_in('logical_block_size = 4096', plug.device(1))
        expect_in('logical_block_size = 512', plug.device(0))
    with step('... blockresize to half of one is an error that says so'):
        domain.virsh('blockresize', path, '%dB' % (64 * MIB + 512),
                     fails=('4096',))
        domain.virsh('blockresize', path, '%dB' % (64 * MIB + 4096))
        expect_equal(domain.capacity('sdb'), 64 * MIB + 4096, 'capacity')
        plug.detach('sdb')

    volume = ("<disk type='volume' device='disk'><driver name='qemu' "
              "type='vhdx'><metadata_cache><max_size unit='bytes'>2097152"
              "</max_size></metadata_cache></driver><source pool='%s' "
              "volume='b.vhdx'/><target dev='sdb' bus='scsi'/></disk>"
              % pool.name)
    with step('a volume with metadata_cache: cache-size goes to QEMU'):
        pool.refresh()
        session.mark()
        plug.attach(volume)
        expect_equal(format_node(plug.nodes())['cache-size'], 2097152,
                     'cache-size')
    with step('... works'):
        domain.reads(41, '8M', '1M', 1)
        plug.detach('sdb')


class Plug:
    def __init__(self, session, domain):
        self.session = session
        self.domain = domain
        self.file = session.path('disk.xml')

    def attach(self, xml, **how):
        with open(self.file, 'w', encoding='utf-8') as file:
            file.write(xml)
        return self.domain.virsh('attach-device', self.file, **how)

    def detach(self, target):
        self.domain.virsh('detach-disk', target)
        expect(self.domain.disk(target) is None, '%s is still there', target)

    def nodes(self):
        """The arguments of blockdev-add since mark()."""
        return [json.loads(text)['arguments']
                for text in self.session.qmp('blockdev-add')]

    def device(self, unit):
        """What QEMU tells of the disk that the guest sees."""
        text = self.domain.hmp('info qtree')
        found = re.search(r'dev: scsi-hd, id "scsi0-0-0-%d"(.*?)(?=dev: |\Z)'
                          % unit, text, re.S)
        expect(found, 'no disk %d in: %s', unit, text)
        return found[1]
