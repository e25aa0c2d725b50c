"""Copies: clones, other formats, up- and download, wiping, deleting."""
import os

from areas.damaged import odd_block_size
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
