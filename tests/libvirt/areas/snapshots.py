"""External snapshots over VHDX disks, and what merges them again."""
from domain import Domain, disk_xml
from report import expect_equal, expect_in, step
from tools import MIB

# of a VHDX overlay, while there are no differencing images: by qemu-img, or by
# libvirt, whose QEMU lacks the capability
REFUSAL_OFF = 'differencing images cannot be created yet'
REFUSAL = 'does not support backing files of vhdx images'


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('snapshots')
    disk = tools.create(pool.path('disk.vhdx'), '256M')
    with Domain(session, 's', disk_xml(disk)) as domain:
        domain.start()
        commit(tools, session, pool, domain)
        pull(tools, session, pool, domain)
    vhdx_overlay(tools, session, pool)


def snapshot(domain, name, path, *more, driver=None, **how):
    spec = 'sda,snapshot=external,file=' + path
    if driver:
        spec += ',driver=' + driver
    return domain.virsh('snapshot-create-as', name, '--disk-only',
                        '--diskspec', spec, *more, **how)


def commit(tools, session, pool, domain):
    disk = pool.path('disk.vhdx')
    over = pool.path('one.qcow2')
    domain.write(71, 0, '1M')
    with step('a snapshot in the default format: qcow2 over the vhdx disk'):
        session.mark()
        snapshot(domain, 'one', over)
        expect_equal(domain.chain(), [('qcow2', over), ('vhdx', disk)],
                     'chain')
    with step('... whose header names the format of its parent'):
        create, = [text for text in session.qmp('blockdev-create')
                   if '"driver":"qcow2"' in text]
        expect_in('"backing-fmt":"vhdx"', create)
        expect_equal(tools.info(over, 'qcow2')['backing-filename-format'],
                     'vhdx', 'backing format')
    with step('... the guest sees both layers'):
        domain.write(72, '1M', '1M')
        domain.reads(71, 0, '1M')
        domain.reads(72, '1M', '1M')
        domain.reads(0, '2M', '1M')
    with step('blockcommit --active --pivot'):
        domain.virsh('blockcommit', 'sda', '--active', '--pivot')
        expect_equal(domain.chain(), [('vhdx', disk)], 'chain')
        expect_equal(domain.source(), disk, 'domblklist')
    with step('... has brought the layer down'):
        domain.reads(71, 0, '1M')
        domain.reads(72, '1M', '1M')
        domain.write(73, '2M', '1M')
        domain.reads(73, '2M', '1M')
        domain.running()


def pull(tools, session, pool, domain):
    disk = pool.path('disk.vhdx')
    over = pool.path('two.qcow2')
    with step('another snapshot, and blockpull'):
        snapshot(domain, 'two', over)
        domain.write(74, '3M', '1M')
        session.mark()
        domain.virsh('blockpull', 'sda', '--wait')
        expect_equal(len(session.qmp('block-stream')), 1, 'block-stream')
        expect_equal(domain.chain(), [('qcow2', over)], 'chain')
    with step('... has brought the content up'):
        for number in range(4):
            domain.reads(71 + number, number * MIB, '1M')
    with step('... and the vhdx image is closed, clean and as it was'):
        domain.destroy()
        tools.check(disk)
        tools.holds(disk, (71, 0, MIB), (72, MIB, MIB), (73, 2 * MIB, MIB),
                    (0, 3 * MIB, MIB))
        tools.holds(over, (71, 0, MIB), (74, 3 * MIB, MIB), form='qcow2')


def vhdx_overlay(tools, session, pool):
    disk = pool.path('disk.vhdx')
    over = pool.path('three.vhdx')
    # Differencing images turn the next two round: the overlay is made, and
    # the guest sees both layers.
    with Domain(session, 's', disk_xml(disk)) as domain:
        with step('a snapshot in vhdx, guest off: refused, no file left'):
            snapshot(domain, 'three', over, driver='vhdx',
                     fails=REFUSAL_OFF)
            pool.absent('three.vhdx')
            expect_equal(domain.chain(), [('vhdx', disk)], 'chain')
        with step('a snapshot in vhdx, guest running: refused, no file left'):
            domain.start()
            snapshot(domain, 'three', over, driver='vhdx', fails=REFUSAL)
            pool.absent('three.vhdx')
            expect_equal(domain.chain(), [('vhdx', disk)], 'chain')
            domain.reads(71, 0, '1M')
            expect_equal(domain.virsh('snapshot-list', '--name').strip(), '',
                         'snapshots')

    path = tools.create(pool.path('base'), '64M', form='qcow2')
    with step('a snapshot in vhdx over a qcow2 disk: refused, no file left'):
        with Domain(session, 's', disk_xml(path, form='qcow2')) as domain:
            domain.start()
            snapshot(domain, 'four', pool.path('four'), driver='vhdx',
                     fails=('vhdx', 'qcow2'))
            pool.absent('four')
            expect_equal(domain.chain(), [('qcow2', path)], 'chain')
