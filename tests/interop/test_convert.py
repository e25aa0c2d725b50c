"""qemu-img convert, compare, map and measure with VHDX at either end."""
import json
import os
import random

from harness import Skip, checked, expect, foreign, ours, run, same_as_raw
from images import filled
from strict.report import MIB
from strict.view import View

EMPTY = 200 << 30
TARGETS = {
    'dynamic': {},
    'dynamic-1M': {'block_size': '1M'},
    'dynamic-absent': {'block_size': '2M', 'block_state_zero': 'off'},
    'dynamic-4k': {'block_size': '1M', 'logical_sector_size': '4096'},
    'fixed': {'subformat': 'fixed', 'block_size': '2M'},
}


def raw_disk(ctx, size, seed=1):
    """Data without a pattern, explicit zeroes and holes."""
    path = ctx.path('source.raw')
    chance = random.Random(seed)
    with open(path, 'wb') as file:
        file.truncate(size)
        for _ in range(24):
            length = chance.choice((512, 4096, 70000, MIB, 3 * MIB))
            offset = chance.randrange(size - length) // 512 * 512
            file.seek(offset)
            file.write(chance.randbytes(length) if chance.random() < 0.8
                       else bytes(length))
        file.seek(size - 512)
        file.write(b'\7' * 512)
    return path


def convert(source, target, *options, form='vhdx', **create):
    args = list(options)
    if create:
        args += ['-o', ','.join('%s=%s' % o for o in create.items())]
    run(ours('qemu-img'), 'convert', '-O', form, *args, source, target)


def same(first, second, form='vhdx'):
    text = run(ours('qemu-img'), 'compare', '-f', 'raw', '-F', form, first,
               second)
    expect('Images are identical' in text, text)


def there_and_back(options, *flags):
    def test(ctx):
        source = raw_disk(ctx, 60 * MIB + 8192)
        target, back = ctx.path('disk.vhdx'), ctx.path('back.raw')
        convert(source, target, *flags, **options)
        with checked(target) as image:
            same_as_raw(image, source)
        same(source, target)
        convert(target, back, *flags, form='raw')
        run('cmp', source, back)
    return test


def odd(ctx):
    """Sizes that are no multiple of a block, a MiB or 4 KiB."""
    for size in (MIB, 3 * MIB + 512, 5 * MIB - 1024):
        source, target = raw_disk_small(ctx, size), ctx.path('disk.vhdx')
        convert(source, target, block_size='1M')
        with checked(target) as image:
            same_as_raw(image, source)
        convert(target, ctx.path('back.raw'), form='raw')
        run('cmp', source, ctx.path('back.raw'))


def raw_disk_small(ctx, size):
    path = ctx.path('source.raw')
    with open(path, 'wb') as file:
        file.write(random.Random(size).randbytes(size))
    return path


def into_existing(options):
    """-n: the old content of the target has to go."""
    def test(ctx):
        source = raw_disk(ctx, 40 * MIB)
        target, _ = filled(ctx, 'disk.vhdx', 40 * MIB, **options)
        convert(source, target, '-n')
        with checked(target) as image:
            same_as_raw(image, source)
        same(source, target)
    return test


def target_is_zero(options):
    def test(ctx):
        source = raw_disk(ctx, 40 * MIB)
        target = ctx.create('disk.vhdx', 40 * MIB, **options)
        convert(source, target, '-n', '--target-is-zero', '-m', '16', '-W')
        with checked(target) as image:
            same_as_raw(image, source)
    return test


def other_format(form):
    """To another format of QEMU and back; compared with the source."""
    def test(ctx):
        source = raw_disk(ctx, 30 * MIB)
        disk, other = ctx.path('disk.vhdx'), ctx.path('disk.' + form)
        convert(source, disk, block_size='1M')
        convert(disk, other, form=form)
        same(source, other, form)
        convert(other, ctx.path('again.vhdx'), subformat='fixed')
        with checked(ctx.path('again.vhdx')) as image:
            same_as_raw(image, source)
    return test


def mapped(path):
    return json.loads(run(ours('qemu-img'), 'map', '-f', 'vhdx',
                          '--output=json', path))


def empty(options):
    """One zero extent, nothing allocated; so is what it is converted to."""
    def test(ctx):
        path = ctx.create('disk.vhdx', EMPTY, **options)
        extents = mapped(path)
        expect(len(extents) == 1, '%d extents: %s', len(extents), extents[:5])
        extent = extents[0]
        expect((extent['start'], extent['length']) == (0, EMPTY)
               and extent['zero'], 'extent is %s', extent)
        if 'subformat' not in options:
            expect(not extent['data'], 'extent is %s', extent)
        convert(path, ctx.path('copy.raw'), form='raw')
        expect(os.stat(ctx.path('copy.raw')).st_blocks <= 64,
               'the copy is allocated')
        convert(path, ctx.path('copy.vhdx'), **options)
        with checked(ctx.path('copy.vhdx')) as image:
            same_as_raw(image, ctx.path('copy.raw'))
    return test


def map_of_data(options):
    """What map calls zero is zero; what it calls data is where it says."""
    def test(ctx):
        path, model = filled(ctx, 'disk.vhdx', 40 * MIB, **options)
        at = 0
        view = View(path)
        for extent in mapped(path):
            start, length = extent['start'], extent['length']
            expect(start == at, 'map jumps from %#x to %#x', at, start)
            at += length
            content = model.read(start, length)
            if extent['zero']:
                expect(not any(content), 'map: no zeroes at %#x', start)
            if 'offset' in extent and extent['data']:
                expect(view.read(extent['offset'], length) == content,
                       'map: %#x is not at %#x of the file', start,
                       extent['offset'])
        expect(at == model.size, 'map ends at %#x', at)
        view.close()
    return test


def measure(ctx):
    path, model = filled(ctx, 'disk.vhdx', 40 * MIB, block_size='1M')
    for form in ('raw', 'qcow2'):
        sizes = json.loads(run(ours('qemu-img'), 'measure', '-f', 'vhdx',
                               '-O', form, '--output=json', path))
        convert(path, ctx.path('copy'), form=form)
        expect(sizes['fully-allocated'] >= model.size, str(sizes))
        if form == 'qcow2':
            got = os.stat(ctx.path('copy')).st_size
            expect(got <= sizes['required'] < model.size,
                   'measured %s, the copy has %d', sizes, got)


def distribution_compares(ctx):
    """The unpatched qemu-img finds our copy identical to the source."""
    if foreign('qemu-img') == ours('qemu-img'):
        raise Skip('the tools under test are the distribution\'s')
    source, target = raw_disk(ctx, 30 * MIB), ctx.path('disk.vhdx')
    convert(source, target, '-m', '16', '-W', block_size='1M')
    text = run(foreign('qemu-img'), 'compare', '-f', 'raw', '-F', 'vhdx',
               source, target)
    expect('Images are identical' in text, text)


def tests():
    found = []
    for name, options in TARGETS.items():
        found += [('raw-' + name, there_and_back(options)),
                  ('raw-parallel-' + name,
                   there_and_back(options, '-m', '16', '-W')),
                  ('existing-' + name, into_existing(options)),
                  ('map-' + name, map_of_data(options))]
        if name != 'dynamic-absent':
            found.append(('target-is-zero-' + name, target_is_zero(options)))
        found.append(('empty-' + name, empty(options)))
    found += [('to-' + form, other_format(form))
              for form in ('qcow2', 'vdi', 'vmdk')]
    return found + [('odd-sizes', odd), ('measure', measure),
                    ('distribution-compares', distribution_compares)]
