"""libvirtd ends and starts again while a guest runs."""
from domain import Domain, disk_xml
from report import expect, expect_equal, step
from tools import GIB, MIB


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('restart')
    disk = tools.create(pool.path('disk.vhdx'), '1G')
    overlay = tools.create(pool.path('over.qcow2'), '64M', 'qcow2', (
        'vhdx', tools.create(pool.path('base.vhdx'), '64M')))
    with Domain(session, 'r', disk_xml(disk),
                disk_xml(overlay, 'sdb', form='qcow2')) as domain:
        domain.start()
        domain.write(91, 0, '1M')
        chains = [domain.chain('sda'), domain.chain('sdb')]
        number = session.process.pid

        with step('libvirtd ends within its time'):
            session.stop()
        with step('... and starts again'):
            session.start()
            expect(session.process.pid != number, 'the same process')
        with step('the guest is still running'):
            domain.running()
            domain.reads(91, 0, '1M')
        with step('... with the same chains in its XML'):
            expect_equal([domain.chain('sda'), domain.chain('sdb')], chains,
                         'chains')
        with step('the pool is still there'):
            pool.running()
            expect_equal(pool.capacity('disk.vhdx'), GIB, 'capacity')
        with step('blockresize to 3 GiB'):
            domain.virsh('blockresize', disk, '3G')
            expect_equal(domain.capacity(), 3 * GIB, 'capacity')
            expect_equal(pool.capacity('disk.vhdx'), 3 * GIB,
                         'capacity by vol-info')
        with step('after the stop all images are clean'):
            domain.write(92, '2G', '1M')
            domain.destroy()
            for name in ('disk.vhdx', 'base.vhdx'):
                tools.check(pool.path(name))
            tools.check(overlay, 'qcow2')
            tools.holds(disk, (91, 0, MIB), (92, '2G', MIB))

    with step('the domain is gone after undefine'):
        expect('r' not in session.virsh('list', '--all', '--name').split(),
               'it is listed')
