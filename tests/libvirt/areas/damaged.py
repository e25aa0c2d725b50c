"""Images that are damaged, odd or children: listed as vhdx, never as raw."""
import lzma
import os
import struct

from report import Skip, expect, expect_equal, expect_in, step
from tools import GIB, MIB, run as run_program
from vhdxfile import (DISK_SIZE, FILE_PARAMETERS, METADATA, PARENT_LOCATOR,
                      REQUIRED, VHDXFile, damage_identifier)


def child_of(tools, path, parent, size='1G', **more):
    """An image whose locator names the parent by a relative path, and by
    others if they are given."""
    tools.create(path, size)
    with VHDXFile(path) as image:
        image.set_parent(relative_path='.\\' + parent, **more)
    return path


# where the project keeps images that Windows has made, outside the repository
WINDOWS = os.path.abspath(os.path.join(os.path.dirname(__file__),
                                       '../../../../shared/images'))


def run(bench):
    tools = bench.tools
    pool = bench.pool('damaged')
    parents(tools, pool)
    windows(pool)
    damaged(tools, pool)
    unclosed(tools, pool)


def parents(tools, pool):
    tools.create(pool.path('parent.vhdx'), '4M', subformat='fixed')
    child_of(tools, pool.path('child.vhdx'), 'parent.vhdx', '4M')
    with step('a parent: its capacity is 4194304'):
        pool.refresh()
        expect_equal(pool.capacity('parent.vhdx'), 4194304, 'capacity')

    with step('a child: its capacity is from within, too'):
        expect_equal(pool.capacity('child.vhdx'), 4194304, 'capacity')

    with step("... and the parent's path and format are in backingStore"):
        store = pool.xml('child.vhdx').find('backingStore')
        expect(store is not None, 'no backingStore')
        expect_equal(store.findtext('path'), pool.path('parent.vhdx'), 'path')
        expect_equal(store.find('format').get('type'), 'vhdx', 'format')

    with step('one region table damaged: the other one counts'):
        for number in range(2):
            path = tools.create(pool.path('table-%d.vhdx' % number), '1G')
            with VHDXFile(path) as image:
                image.break_region_table(number)
        pool.refresh()
        for number in range(2):
            expect_in('1.00 GiB', pool.virsh('vol-info',
                                             'table-%d.vhdx' % number))


def unpack_windows(pool):
    """The paths of a parent and its child that Windows has made."""
    if not os.path.isdir(WINDOWS):
        raise Skip('the images are not there')
    names = 'fat-parent.vhdx', 'fat-differential.vhdx'
    for name in names:
        with lzma.open(os.path.join(WINDOWS, name + '.xz')) as packed, \
                open(pool.path(name), 'wb') as file:
            file.write(packed.read())
    return [pool.path(name) for name in names]


def windows_facts(name):
    """What is known of one of them, as a line of a table."""
    with open(os.path.join(WINDOWS, 'README.md'), encoding='utf-8') as file:
        return next(line for line in file if name in line)


def windows(pool):
    with step('parent and child that Windows has made'):
        names = [os.path.basename(path) for path in unpack_windows(pool)]
        pool.refresh()
        for name in names:
            expect_equal(pool.capacity(name), 4194304, 'capacity')
        store = pool.xml(names[1]).find('backingStore')
        expect_equal(store.findtext('path'), pool.path(names[0]), 'path')
        expect_equal(store.find('format').get('type'), 'vhdx', 'format')


def both_region_tables(image):
    image.break_region_table(0)
    image.break_region_table(1)


def metadata_signature(image):
    image.write(image.metadata, b'METADATA')


def size_too_large(image):
    image.put(image.item(DISK_SIZE), 'Q', 1 << 63)


def odd_block_size(image):
    image.put(image.item(FILE_PARAMETERS), 'I', 3 * MIB)


def item_outside(image):
    image.put(image.entry(DISK_SIZE) + 16, 'I', 0xfffffff8)


def locator_outside(image):
    image.set_parent(relative_path='.\\parent.vhdx')
    # the offset of the first value
    image.put(image.item(PARENT_LOCATOR) + 24, 'I', 0x7fffffff)


def no_metadata_region(image):
    def change(table):
        struct.pack_into('<I', table, 8, 1)
        table[48:80] = bytes(32)
        table[16:32] = bytes(range(16))
        struct.pack_into('<I', table, 44, 0)
    image.change_regions(change)


def metadata_behind_end(image):
    def change(table):
        count, = struct.unpack_from('<I', table, 8)
        for entry in range(16, 16 + 32 * count, 32):
            if table[entry:entry + 16] == METADATA.bytes_le:
                struct.pack_into('<Q', table, entry + 16, 1 << 40)
    image.change_regions(change)


def unknown_item(image):
    """One more item that a reader has to know, and does not."""
    count, = image.get(image.metadata + 10, 'H')
    image.put(image.metadata + 32 + 32 * count, '16sIIII', bytes(range(16)),
              256 * 1024, 8, REQUIRED, 0)
    image.put(image.metadata + 10, 'H', count + 1)


DAMAGES = (
    ('regions', 'both region tables', both_region_tables),
    ('signature', 'signature of the metadata table', metadata_signature),
    ('size', 'a disk size of 2^63', size_too_large),
    ('block', 'a block size of 3 MiB', odd_block_size),
    ('item', 'an item out of bounds', item_outside),
    ('locator', 'a locator entry out of bounds', locator_outside),
    ('metadata', 'no metadata region', no_metadata_region),
    ('end', 'metadata behind the end of the file', metadata_behind_end),
    ('unknown', 'an unknown item that is required', unknown_item),
)


def damaged(tools, pool):
    names = []
    for word, _, damage in DAMAGES:
        name = 'bad-%s.vhdx' % word
        tools.create(pool.path(name), '1G')
        with VHDXFile(pool.path(name)) as image:
            damage(image)
        names.append(name)
    names.append('bad-short.vhdx')
    tools.create(pool.path(names[-1]), '1G')
    os.truncate(pool.path(names[-1]), 100 * 1024)

    with step('a pool with %d damaged images stays active' % len(names)):
        pool.refresh()
        pool.running()
        for name in names:
            expect_in(name, pool.names())

    told = [text for _, text, _ in DAMAGES] + ['a file of 100 KiB']
    for name, text in zip(names, told):
        with step('%s: vol-info and vol-dumpxml name the image' % text):
            for command in ('vol-info', 'vol-dumpxml'):
                pool.virsh(command, name, fails=(
                    "damaged VHDX image '%s'" % pool.path(name)))

    with step("vol-list --details shows the others' capacity"):
        text = pool.session.virsh('vol-list', '--details', pool.name)
        lines = {line.split()[0]: line for line in text.splitlines()
                 if line.strip()}
        expect_in('4.00 MiB', lines['parent.vhdx'])
        expect_in('1.00 GiB', lines['table-0.vhdx'])
        for name in names:
            expect('MiB' not in lines[name].replace(pool.folder, ''), '%s',
                   lines[name])

    with step('an image whose identifier is gone is known by its header'):
        path = tools.create(pool.path('bad-identifier.vhdx'), '1G')
        damage_identifier(path)
        pool.refresh()
        pool.virsh('vol-info', 'bad-identifier.vhdx',
                   fails="damaged VHDX image '%s'" % path)

    with step('a good qcow2 over a damaged vhdx is listed, and shown'):
        path = pool.path('over.qcow2')
        tools.create(path, '1G', form='qcow2')
        tools.img('rebase', '-u', '-f', 'qcow2', '-F', 'vhdx', '-b',
                  pool.path('bad-size.vhdx'), path)
        pool.refresh()
        pool.running()
        expect_in('over.qcow2', pool.names())
        expect_equal(pool.capacity('over.qcow2'), GIB, 'capacity')
        expect_equal(pool.xml('over.qcow2').findtext('backingStore/path'),
                     pool.path('bad-size.vhdx'), 'path of the parent')


def unclosed(tools, pool):
    path = tools.create(pool.path('killed.vhdx'), '512M')
    with step('an image whose writer was killed: the size at its last flush'):
        # the shell's word for "ended by a signal"
        run_program(['sh', '-c', '%s -f vhdx -c "truncate 1G" -c flush '
                     '-c "write -P 7 0 1M" -c flush -c "sigraise 9" %s; '
                     'test $? -gt 128' % (tools.io_path, path)])
        expect(tools.vhdx(path)['log-dirty'], 'the log is empty')
        pool.refresh()
        expect_in('1.00 GiB', pool.virsh('vol-info', 'killed.vhdx'))
        expect_equal(pool.capacity('killed.vhdx'), GIB, 'capacity')

    with step('zeros in a file named .vhdx are raw'):
        with open(pool.path('zeros.vhdx'), 'wb') as file:
            file.truncate(MIB)
        pool.refresh()
        expect_equal(pool.form('zeros.vhdx'), 'raw', 'format')
        expect_equal(pool.capacity('zeros.vhdx'), MIB, 'capacity')
