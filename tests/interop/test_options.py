"""Create options beside the matrix, as the strict reader finds them."""
import os

from harness import checked, expect, ours, run
from model import Model
from strict.report import MIB, TIB

GIB = 1 << 30


def facts(size, expected, **options):
    """These values of the image's parameters, no finding, all zeroes."""
    def test(ctx):
        path = ctx.create('disk.vhdx', size, **options)
        with checked(path) as image:
            p = image.params
            got = {'block': p.block_size, 'logical': p.logical,
                   'physical': p.physical, 'log': image.header.log_length,
                   'fixed': p.fixed, 'size': p.disk_size, 'id': p.disk_id,
                   'blocks': p.blocks}
            for name, value in expected.items():
                expect(got[name] == value, '%s is %s, not %s', name,
                       got[name], value)
            Model(p.disk_size).check_image(image)
    return test


def preallocated(mode, allocated):
    """A fixed image, checked, with its blocks allocated or not."""
    def test(ctx):
        size = 20 * MIB
        path = ctx.create('disk.vhdx', size, subformat='fixed',
                          block_size='2M', preallocation=mode)
        with checked(path) as image:
            expect(image.block_states() == {'FULLY_PRESENT': 10},
                   'blocks are %s', image.block_states())
            Model(size).check_image(image)
        used = os.stat(path).st_blocks * 512
        expect((used >= size) == allocated, '%d bytes are allocated', used)
    return test


def ids_differ(ctx):
    """The Virtual Disk ID is random."""
    found = set()
    for number in range(3):
        path = ctx.create('disk%d.vhdx' % number, MIB)
        with checked(path) as image:
            found.add(image.params.disk_id)
    expect(len(found) == 3, 'ids are %s', found)


def over_old_content(subformat):
    """create over a file full of something else."""
    def test(ctx):
        path = ctx.path('disk.vhdx')
        with open(path, 'wb') as file:
            file.write(b'\xa5' * (40 * MIB))
        ctx.create('disk.vhdx', 20 * MIB, subformat=subformat,
                   block_size='1M')
        with checked(path) as image:
            Model(20 * MIB).check_image(image)
    return test


def write_guids(ctx):
    """FileWriteGuid changes with any modification, DataWriteGuid only with
    one that a guest may see; reading changes neither."""
    path = ctx.create('disk.vhdx', 20 * MIB, block_size='1M')

    def guids():
        with checked(path) as image:
            return image.header.file_write, image.header.data_write
    made = guids()
    ctx.io(path, ['read -q 0 4096', 'flush'])
    expect(guids() == made, 'a session that wrote nothing changed a GUID')
    run(ours('qemu-img'), 'check', '-q', '-f', 'vhdx', path)
    expect(guids() == made, 'check changed a GUID')
    ctx.io(path, ['write -q 0 4096', 'flush', 'write -q 4096 4096'])
    written = guids()
    expect(written[0] != made[0] and written[1] != made[1],
           'GUIDs are still %s after a write', written)
    ctx.io(path, ['write -q 0 4096'])
    again = guids()
    expect(again[0] != written[0] and again[1] != written[1],
           'GUIDs are still %s after a write to a present block', again)


def tests():
    uid = '01234567-89ab-cdef-0123-456789abcdef'
    defaults = {'logical': 512, 'physical': 4096, 'log': MIB, 'fixed': False}
    found = [
        ('defaults', facts(GIB, dict(defaults, block=8 * MIB))),
        ('size-0', facts(0, dict(defaults, size=0, blocks=0))),
        ('size-0-fixed', facts(0, {'size': 0, 'fixed': True},
                               subformat='fixed')),
        ('size-1', facts(1, {'size': 512, 'blocks': 1})),
        ('size-1-4k', facts(1, {'size': 4096}, logical_sector_size=4096)),
        ('disk-id', facts(MIB, {'id': uid}, disk_id=uid)),
        ('block-size-0', facts(GIB, {'block': 8 * MIB}, block_size=0)),
        ('block-size-rounded', facts(GIB, {'block': 2 * MIB},
                                     block_size=MIB + 1)),
        ('block-size-capped', facts(GIB, {'block': 256 * MIB},
                                    block_size='512M')),
        ('log-size-rounded', facts(GIB, {'log': 2 * MIB},
                                   log_size=MIB + 1)),
        ('ids-differ', ids_differ), ('write-guids', write_guids),
    ]
    for size, block in ((GIB, 8), (GIB + 512, 16), (100 * GIB, 16),
                        (100 * GIB + 512, 32), (32 * TIB, 32),
                        (32 * TIB + 512, 64), (64 * TIB, 64)):
        found.append(('block-size-of-%d' % size,
                      facts(size, {'block': block * MIB})))
    for mode, allocated in (('off', False), ('metadata', False),
                            ('falloc', True), ('full', True)):
        found.append(('preallocation-' + mode, preallocated(mode, allocated)))
    for subformat in ('dynamic', 'fixed'):
        found.append(('over-old-content-' + subformat,
                      over_old_content(subformat)))
    return found
