"""A domain on a VHDX disk: definition, start, resizing under a guest."""
import json
import re

from domain import Domain, disk_xml
from report import expect_equal, expect_in, step
from tools import GIB, MIB, Unchanged

DRIVER = "discard='unmap' detect_zeroes='unmap'"


def blockdevs(text):
    """The -blockdev arguments of a domain's log, by node name."""
    found = (json.loads(one) for one in re.findall(r"-blockdev '(\{.*?\})' \\",
                                                   text))
    return {node['node-name']: node for node in found}


def format_node(nodes, driver='vhdx'):
    """The one node with this driver."""
    found = [node for node in nodes if node['driver'] == driver]
    expect_equal(len(found), 1, 'number of %s nodes' % driver)
    return found[0]


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('domain')
    pool.create('disk.vhdx', '1G')
    path = pool.path('disk.vhdx')

    domain = Domain(session, 'd', disk_xml(path, driver=DRIVER))
    with step('define --validate takes a disk of type vhdx'):
        domain.define()
        expect_equal(domain.disk().find('driver').get('type'), 'vhdx', 'type')

    with step('domblkinfo of a domain that is off'):
        expect_equal(domain.capacity(), GIB, 'capacity')

    with step('start'):
        domain.start()
        domain.running()

    with step("QEMU's command line: vhdx, discard and detect-zeroes"):
        node = format_node(blockdevs(domain.log()).values())
        expect_equal((node['discard'], node['detect-zeroes']),
                     ('unmap', 'unmap'), 'discard and detect-zeroes')

    with step('domblkinfo of a running domain'):
        info = domain.block_info()
        expect_equal(info['Capacity'], GIB, 'capacity')

    with step('the guest writes'):
        domain.write(31, 0, '1M')
        domain.write(32, '500M', '1M')
        expect_equal(domain.state(), 'running', 'state')

    with step('the guest reads'):
        domain.reads(31, 0, '1M')
        domain.reads(32, '500M', '1M')
        domain.reads(0, '600M', '1M')

    resize_in_use(session, pool, domain)
    stopped(tools, pool, domain)


def resize_in_use(session, pool, domain):
    path = pool.path('disk.vhdx')
    with step('vol-resize of a disk in use is refused by its lock'):
        with Unchanged(path):
            pool.virsh('vol-resize', 'disk.vhdx', '2G', fails='lock')
        expect_equal(domain.capacity(), GIB, 'capacity')

    with step('vol-info of a disk in use'):
        info = pool.info('disk.vhdx')
        expect_equal(int(info['Capacity']), GIB, 'capacity')

    with step('domblkinfo: the allocation is what the file takes'):
        domain.hmp('qemu-io -d scsi0-0-0-0 flush')
        # the guest's writes may still be on their way to the file's blocks
        expect_equal(domain.block_info()['Allocation'],
                     int(pool.info('disk.vhdx')['Allocation']), 'allocation')

    with step('blockresize up to 2 GiB'):
        session.mark()
        domain.virsh('blockresize', path, '2G')
        command, = session.qmp('block_resize')
        expect_in('"size":%d' % (2 * GIB), command)
        expect_equal(domain.capacity(), 2 * GIB, 'capacity')

    with step('vol-info and vol-dumpxml show the new size at once'):
        expect_equal(pool.capacity('disk.vhdx'), 2 * GIB, 'capacity')
        expect_equal(int(pool.xml('disk.vhdx').findtext('capacity')),
                     2 * GIB, 'capacity in the XML')

    with step('the guest writes behind the old end'):
        domain.write(33, '1536M', '1M')
        domain.reads(33, '1536M', '1M')

    with step('blockresize to a size between two sectors: rounded up'):
        session.mark()
        domain.virsh('blockresize', path, '%dB' % (3 * GIB + 1))
        expect_in('"size":%d' % (3 * GIB + 512),
                  session.qmp('block_resize')[0])
        expect_equal(domain.capacity(), 3 * GIB + 512, 'capacity')
    with step('... vol-info follows'):
        expect_equal(pool.capacity('disk.vhdx'), 3 * GIB + 512, 'capacity')

    with step('blockresize down to 1 GiB'):
        domain.virsh('blockresize', path, '1G')
        expect_equal(domain.capacity(), GIB, 'capacity')
        expect_equal(pool.capacity('disk.vhdx'), GIB, 'capacity by vol-info')


def stopped(tools, pool, domain):
    path = pool.path('disk.vhdx')
    with step('after the stop the image is clean and has the content'):
        domain.destroy()
        expect_equal(domain.state(), 'shut off', 'state')
        tools.check(path)
        tools.holds(path, (31, 0, MIB), (32, '500M', MIB),
                    (0, '600M', MIB))
        domain.remove()
