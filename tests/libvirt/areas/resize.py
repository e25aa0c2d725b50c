"""vol-resize: good images in both directions, damaged ones never."""
from areas.damaged import (both_region_tables, odd_block_size,
                           size_too_large)
from report import expect, expect_equal, expect_in, step
from tools import GIB, MIB, Unchanged
from vhdxfile import VHDXFile, damage_identifier


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('resize')
    dynamic(tools, session, pool)
    fixed(tools, pool)
    damaged(tools, session, pool)
    sectors(tools, pool)


def dynamic(tools, session, pool):
    path = pool.path('disk.vhdx')
    copy = pool.path('copy.raw')

    def content(name, size):
        with step('... and the content is kept, ' + name):
            tools.check(path)
            tools.holds(path, (17, 0, MIB), (18, '100M', MIB),
                        (0, '101M', MIB))
            expect_equal(tools.size(path), size, 'size by qemu-img')

    with step('from 1 GiB up to 2 GiB'):
        pool.create('disk.vhdx', '1G')
        tools.io(path, 'write -q -P 17 0 1M', 'write -q -P 18 100M 1M')
        tools.img('convert', '-f', 'vhdx', '-O', 'raw', path, copy)
        session.mark()
        pool.virsh('vol-resize', 'disk.vhdx', '2G')
        command, = session.ran('qemu-img')
        expect_in(['resize -f vhdx', path, str(2 * GIB)], command)
        expect_equal(pool.capacity('disk.vhdx'), 2 * GIB, 'capacity')
    content('2 GiB', 2 * GIB)

    with step('... and what is new reads as zeros'):
        tools.img('resize', '-q', '-f', 'raw', copy, '2G')
        tools.same(path, copy, 'vhdx raw')

    with step('down without --shrink is refused'):
        with Unchanged(path):
            pool.virsh('vol-resize', 'disk.vhdx', '512M', fails='shrink')
        expect_equal(pool.capacity('disk.vhdx'), 2 * GIB, 'capacity')

    with step('down with --shrink'):
        session.mark()
        pool.virsh('vol-resize', 'disk.vhdx', '512M', '--shrink')
        command, = session.ran('qemu-img')
        expect_in(['--shrink', '-f vhdx'], command)
        expect_equal(pool.capacity('disk.vhdx'), 512 * MIB, 'capacity')
    content('512 MiB', 512 * MIB)

    with step('up by --delta'):
        pool.virsh('vol-resize', 'disk.vhdx', '256M', '--delta')
        expect_equal(pool.capacity('disk.vhdx'), 768 * MIB, 'capacity')
    content('768 MiB', 768 * MIB)

    with step('down by --delta and --shrink'):
        pool.virsh('vol-resize', 'disk.vhdx', '512M', '--delta', '--shrink')
        expect_equal(pool.capacity('disk.vhdx'), 256 * MIB, 'capacity')
    content('256 MiB', 256 * MIB)

    with step('to less than the file takes: refused'):
        with Unchanged(path):
            pool.virsh('vol-resize', 'disk.vhdx', '1M', '--shrink',
                       fails='below existing allocation')

    with step('to a size that is no multiple of a sector: rounded up'):
        pool.virsh('vol-resize', 'disk.vhdx', str(300 * 1000 * 1000 + 1))
        size = pool.capacity('disk.vhdx')
        expect_equal(size % 512, 0, 'remainder by 512')
        expect(0 < size - 300 * 1000 * 1000 <= 512, '%d', size)
        expect_equal(tools.size(path), size, 'size by qemu-img')

    with step('--allocate is refused'):
        with Unchanged(path):
            pool.virsh('vol-resize', 'disk.vhdx', '1G', '--allocate',
                       fails='preallocate')


def fixed(tools, pool):
    path = pool.path('fixed.vhdx')
    with step('a fixed image: from 64 MiB up to 96 MiB'):
        pool.create('fixed.vhdx', '64M', '--allocation', '64M',
                    '--prealloc-metadata')
        tools.io(path, 'write -q -P 19 63M 1M')
        pool.virsh('vol-resize', 'fixed.vhdx', '96M')
        expect_equal(pool.capacity('fixed.vhdx'), 96 * MIB, 'capacity')
    with step('... stays fixed, with its content'):
        expect_equal(tools.vhdx(path)['subformat'], 'fixed', 'subformat')
        tools.check(path)
        tools.holds(path, (19, '63M', MIB), (0, '64M', '32M'))


def damaged(tools, session, pool):
    """qemu-img without a format takes such a file for raw; its file must not
    be stretched or cut off by anyone."""
    files = []
    for name, damage in (('size', size_too_large), ('block', odd_block_size),
                         ('regions', both_region_tables)):
        path = tools.create(pool.path('bad-%s.vhdx' % name), '64M')
        with VHDXFile(path) as image:
            damage(image)
        files.append('bad-%s.vhdx' % name)
    pool.refresh()
    for name in files:
        path = pool.path(name)
        for text, size in (('up', '200M'), ('down', '32M')):
            with step('%s: %s is refused, the file stays' % (name, text)):
                session.mark()
                with Unchanged(path):
                    pool.virsh('vol-resize', name, size,
                               *(['--shrink'] if text == 'down' else []),
                               fails=path)
                for command in session.ran('qemu-img'):
                    expect_in('-f vhdx', command)

    path = tools.create(pool.path('gone.vhdx'), '64M')
    pool.refresh()
    damage_identifier(path)
    with step('an identifier that went after the refresh: up is refused'):
        with Unchanged(path):
            pool.virsh('vol-resize', 'gone.vhdx', '200M', fails=path)
    with step('... down is refused'):
        with Unchanged(path):
            pool.virsh('vol-resize', 'gone.vhdx', '32M', '--shrink',
                       fails=path)
    with step('... and vol-info says so'):
        pool.virsh('vol-info', 'gone.vhdx',
                   fails="damaged VHDX image '%s'" % path)


def sectors(tools, pool):
    path = tools.create(pool.path('4k.vhdx'), '64M', logical_sector_size=4096)
    pool.refresh()
    with step('4 KiB sectors: a size between two of them is refused'):
        with Unchanged(path):
            pool.virsh('vol-resize', '4k.vhdx', '67109376',
                       fails=('67109376', '4096'))
    with step('4 KiB sectors: from 64 MiB up to 128 MiB'):
        pool.virsh('vol-resize', '4k.vhdx', '128M')
        expect_equal(pool.capacity('4k.vhdx'), 128 * MIB, 'capacity')
        expect_equal(tools.vhdx(path)['logical-sector-size'], 4096,
                     'logical sector size')
