"""External snapshots over VHDX disks, and what merges them again."""
from domain import Domain, disk_xml
from report import expect_equal, expect_in, step
from tools import MIB


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
    disk, three, four, five = (pool.path(name + '.vhdx') for name in (
        'disk', 'three', 'four', 'five'))
    with Domain(session, 's', disk_xml(disk)) as domain:
        with step('a snapshot in vhdx, guest off'):
            snapshot(domain, 'three', three, driver='vhdx')
            expect_equal(tools.vhdx(three)['subformat'], 'differencing',
                         'subformat')
        with step('... the guest sees both layers'):
            domain.start()
            expect_equal(domain.chain(), [('vhdx', three), ('vhdx', disk)],
                         'chain')
            domain.reads(71, 0, '1M')
            domain.write(81, '4M', '1M')
        with step('a snapshot in vhdx, guest running'):
            snapshot(domain, 'four', four, driver='vhdx')
            domain.write(82, '5M', '1M')
            snapshot(domain, 'five', five, driver='vhdx')
            domain.write(83, '6M', '1M')
            expect_equal(domain.chain(), [('vhdx', path) for path in (
                five, four, three, disk)], 'chain')
        with step('... the chain starts again'):
            domain.destroy()
            domain.start()
            for number, mib in (71, 0), (81, 4), (82, 5), (83, 6):
                domain.reads(number, mib * MIB, '1M')
        with step('blockcommit of a layer in the middle'):
            domain.virsh('blockcommit', 'sda', '--top', four, '--base', three,
                         '--wait')
            expect_equal(domain.chain(), [('vhdx', path) for path in (
                five, three, disk)], 'chain')
            domain.reads(82, '5M', '1M')
        with step('blockpull to a base'):
            domain.virsh('blockpull', 'sda', '--base', disk, '--wait')
            expect_equal(domain.chain(), [('vhdx', five), ('vhdx', disk)],
                         'chain')
        with step('blockcommit --active --pivot'):
            domain.virsh('blockcommit', 'sda', '--active', '--pivot')
            expect_equal(domain.chain(), [('vhdx', disk)], 'chain')
            for number, mib in (71, 0), (81, 4), (82, 5), (83, 6):
                domain.reads(number, mib * MIB, '1M')
        with step('... the old overlay does not fit any more'):
            domain.write(84, '7M', '1M')
            domain.destroy()
            tools.check(disk)
            tools.img('map', '-f', 'vhdx', five,
                      fails='does not match its parent')

    path = tools.create(pool.path('base'), '64M', form='qcow2')
    with step('a snapshot in vhdx over a qcow2 disk: refused, no file left'):
        with Domain(session, 's', disk_xml(path, form='qcow2')) as domain:
            domain.start()
            snapshot(domain, 'four', pool.path('four'), driver='vhdx',
                     fails=('vhdx', 'qcow2'))
            pool.absent('four')
            expect_equal(domain.chain(), [('qcow2', path)], 'chain')
