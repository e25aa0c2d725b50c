"""Copies: clones, other formats, up- and download, wiping, deleting."""
import os

from areas.damaged import child_of, odd_block_size
from content import Content
from report import expect, expect_equal, expect_in, step
from tools import GIB, MIB, Unchanged, sha256
from vhdxfile import VHDXFile

WRITES = ('write -q -P 21 0 1M', 'write -q -P 22 33M 3M',
          'write -q -P 23 63M 1M')


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('clone')
    pool.create('disk.vhdx', '64M')
    tools.io(pool.path('disk.vhdx'), *WRITES)
    clones(tools, session, pool)
    children(tools, session, bench.pool('children'))
    conversions(tools, session, pool)
    transfer(tools, session, pool)
    removal(tools, pool)


def clones(tools, session, pool):
    disk = pool.path('disk.vhdx')
    with step('a clone of a dynamic image'):
        pool.virsh('vol-clone', 'disk.vhdx', 'clone.vhdx')
        expect_equal(tools.vhdx(pool.path('clone.vhdx'))['subformat'],
                     'dynamic', 'subformat')
        expect_equal(pool.form('clone.vhdx'), 'vhdx', 'format')
        expect_equal(pool.capacity('clone.vhdx'), 64 * MIB, 'capacity')
    with step('... has the same content and is no hard link'):
        tools.same(disk, pool.path('clone.vhdx'))
        tools.check(pool.path('clone.vhdx'))
        expect(os.stat(disk).st_ino
               != os.stat(pool.path('clone.vhdx')).st_ino, 'one file')

    with step('a clone keeps the block size'):
        tools.create(pool.path('small.vhdx'), '64M', block_size='2M')
        tools.io(pool.path('small.vhdx'), *WRITES)
        pool.refresh()
        pool.virsh('vol-clone', 'small.vhdx', 'small-2.vhdx')
        expect_equal(tools.vhdx(pool.path('small-2.vhdx'))['block-size'],
                     2 * MIB, 'block size')
        tools.same(disk, pool.path('small-2.vhdx'))

    with step('a clone keeps sectors of 4 KiB'):
        tools.create(pool.path('4k.vhdx'), '64M', logical_sector_size=4096)
        tools.io(pool.path('4k.vhdx'), *WRITES)
        pool.refresh()
        session.mark()
        pool.virsh('vol-clone', '4k.vhdx', '4k-2.vhdx')
        expect_in('logical_sector_size=4096', session.ran('qemu-img')[0])
        expect_equal(tools.vhdx(pool.path('4k-2.vhdx'))[
            'logical-sector-size'], 4096, 'logical sector size')
    with step('... and the content'):
        tools.same(pool.path('4k.vhdx'), pool.path('4k-2.vhdx'))

    with step('a clone of a fixed image is fixed'):
        tools.create(pool.path('fixed.vhdx'), '64M', subformat='fixed')
        tools.io(pool.path('fixed.vhdx'), *WRITES)
        pool.refresh()
        session.mark()
        pool.virsh('vol-clone', 'fixed.vhdx', 'fixed-2.vhdx')
        expect_in('subformat=fixed', session.ran('qemu-img')[0])
        expect_equal(tools.vhdx(pool.path('fixed-2.vhdx'))['subformat'],
                     'fixed', 'subformat')
    with step('... with the same content'):
        tools.same(pool.path('fixed.vhdx'), pool.path('fixed-2.vhdx'))

    with step('a clone of a damaged image is refused, no file left'):
        path = tools.create(pool.path('bad.vhdx'), '64M')
        with VHDXFile(path) as image:
            odd_block_size(image)
        pool.refresh()
        with Unchanged(path):
            pool.virsh('vol-clone', 'bad.vhdx', 'bad-2.vhdx',
                       fails="damaged VHDX image '%s'" % path)
        pool.absent('bad-2.vhdx')


BACKING = ("<backingStore><path>%s</path><format type='vhdx'/>"
           "</backingStore>")


def children(tools, session, pool):
    """Linked clones, and copies of them, which have no parent."""
    content = Content(64 * MIB)
    pool.create('base.vhdx', '64M')
    content.file_layer(tools, pool.path('base.vhdx'), 0)
    path = pool.path('child.vhdx')
    with step('vol-create with a backingStore: a child, with its block size'):
        pool.create_xml('child.vhdx', 64 * MIB, BACKING % pool.path(
            'base.vhdx'), target="<clusterSize unit='MiB'>4</clusterSize>")
        expect_equal(tools.chain(path), [('vhdx', path), (
            'vhdx', pool.path('base.vhdx'))], 'chain')
        expect_equal(tools.vhdx(path)['block-size'], 4 * MIB, 'block size')
        with Unchanged(pool.path('base.vhdx')):
            content.file_layer(tools, path, 1)
            content.held_by(tools, path)
    with step('... a larger disk over it'):
        pool.create_xml('larger.vhdx', 80 * MIB, BACKING % path)
        expect_equal(pool.capacity('larger.vhdx'), 80 * MIB, 'capacity')
        tools.holds(pool.path('larger.vhdx'), *content.runs(),
                    (0, 64 * MIB, 16 * MIB))
    with step('... vol-resize, which leaves the parents as they are'):
        with Unchanged(path, pool.path('base.vhdx')):
            pool.virsh('vol-resize', 'larger.vhdx', '96M')
        expect_equal(pool.capacity('larger.vhdx'), 96 * MIB, 'capacity')
        tools.holds(pool.path('larger.vhdx'), *content.runs(),
                    (0, 64 * MIB, 32 * MIB))
    with step('vol-clone of a child: an image without a parent'):
        pool.refresh()
        session.mark()
        pool.virsh('vol-clone', 'child.vhdx', 'own.vhdx')
        command, = session.ran('qemu-img')
        expect_in('convert -f vhdx -O vhdx', command)
        own = pool.path('own.vhdx')
        expect_equal(tools.chain(own), [('vhdx', own)], 'chain')
        expect_equal(tools.vhdx(own)['subformat'], 'dynamic', 'subformat')
        expect_equal(tools.vhdx(own)['block-size'], 4 * MIB, 'block size')
        content.held_by(tools, own)
    for form in 'qcow2', 'raw', 'vhdx':
        with step('vol-create-from a child to %s' % form):
            name = 'from-child.' + form
            pool.create_xml(name, 64 * MIB, form=form, command=(
                'vol-create-from', 'child.vhdx', '--inputpool', pool.name))
            if form != 'raw':
                expect_equal(tools.backing(pool.path(name), form), None,
                             'parent')
            tools.same(path, pool.path(name), 'vhdx ' + form)
            tools.holds(pool.path(name), *content.runs(), form=form)
    with step('a clone of a child whose parent is not there: refused'):
        child_of(tools, pool.path('orphan.vhdx'), 'missing.vhdx', '64M')
        pool.refresh()
        pool.virsh('vol-clone', 'orphan.vhdx', 'orphan-2.vhdx',
                   fails='missing.vhdx')
        pool.absent('orphan-2.vhdx')


def conversions(tools, session, pool):
    disk = pool.path('disk.vhdx')
    tools.img('convert', '-f', 'vhdx', '-O', 'qcow2', disk,
              pool.path('source.qcow2'))
    tools.img('convert', '-f', 'vhdx', '-O', 'raw', disk,
              pool.path('source.raw'))
    pool.refresh()
    for source, target, form in (
            ('source.qcow2', 'from-qcow2.vhdx', 'vhdx'),
            ('source.raw', 'from-raw.vhdx', 'vhdx'),
            ('disk.vhdx', 'from-vhdx.qcow2', 'qcow2'),
            ('disk.vhdx', 'from-vhdx.raw', 'raw')):
        source_form = source.partition('.')[2].replace('disk.', '')
        with step('vol-create-from %s to %s' % (source_form, form)):
            session.mark()
            pool.create_xml(target, 64 * MIB, form=form, command=(
                'vol-create-from', source, '--inputpool', pool.name))
            command, = session.ran('qemu-img')
            expect_in('convert -f %s -O %s' % (source_form, form), command)
            expect_equal(pool.form(target), form, 'format')
        with step('... has the same content'):
            tools.same(disk, pool.path(target), 'vhdx ' + form)


def transfer(tools, session, pool):
    disk = pool.path('disk.vhdx')
    copy = session.path('copy')
    with step('vol-download gives the file'):
        pool.virsh('vol-download', 'disk.vhdx', copy)
        expect_equal(sha256(copy), sha256(disk), 'sha256')
    with step('... which is a good image'):
        tools.check(copy)
        tools.same(disk, copy)

    with step('vol-download --sparse gives the same file'):
        os.unlink(copy)
        pool.virsh('vol-download', '--sparse', 'disk.vhdx', copy)
        expect_equal(sha256(copy), sha256(disk), 'sha256')
    with step('... as a sparse one'):
        expect(os.stat(copy).st_blocks * 512 < os.stat(disk).st_size,
               'no holes')

    with step('vol-upload --sparse of a vhdx file into a raw volume'):
        pool.create('upload.vhdx', str(os.stat(copy).st_size), form='raw')
        expect_equal(pool.form('upload.vhdx'), 'raw', 'format')
        pool.virsh('vol-upload', '--sparse', 'upload.vhdx', copy)
        expect_equal(sha256(pool.path('upload.vhdx')), sha256(copy),
                     'sha256')
    with step('... makes it vhdx, with the capacity from within'):
        pool.refresh()
        expect_equal(pool.form('upload.vhdx'), 'vhdx', 'format')
        expect_equal(pool.capacity('upload.vhdx'), 64 * MIB, 'capacity')
    with step('... and the same content'):
        tools.same(disk, pool.path('upload.vhdx'))


def removal(tools, pool):
    path = pool.path('clone.vhdx')
    with step('vol-wipe leaves zeros'):
        size = os.stat(path).st_size
        pool.virsh('vol-wipe', 'clone.vhdx')
        with open(path, 'rb') as file:
            expect(not any(file.read()), 'data in the file')
        expect_equal(os.stat(path).st_size, size, 'size of the file')
    with step('... and what is left is raw, with the size of the file'):
        pool.refresh()
        expect_equal(pool.form('clone.vhdx'), 'raw', 'format')
        expect_equal(pool.capacity('clone.vhdx'), size, 'capacity')
    with step('vol-delete'):
        pool.virsh('vol-delete', 'disk.vhdx')
        pool.absent('disk.vhdx')
    with step('vol-delete of a damaged image'):
        pool.virsh('vol-delete', 'bad.vhdx')
        pool.absent('bad.vhdx')
    with step('a volume that was deleted is made anew'):
        pool.create('disk.vhdx', '1G')
        expect_equal(pool.capacity('disk.vhdx'), GIB, 'capacity')
        tools.check(pool.path('disk.vhdx'))
