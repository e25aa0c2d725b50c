"""Resized images, as the strict reader and other programs see them.

Sizes at the edges of blocks, chunks and the BAT's region, from and to each
other, with data before and after each step.
"""
from harness import checked, foreign, ours, run
from images import filled, round_up
from model import CHUNK
from script import Script
from strict.report import MIB
from test_distribution import read_commands, their, theirs
from test_sevenzip import listing

GIB = 1 << 30

# Options, and the sizes that the disk has one after the other
CASES = [
    ('blocks', {'block_size': '1M'},
     [9 * MIB, 9 * MIB + 512, 20 * MIB, 3 * MIB + 1024, 40 * MIB]),
    ('blocks-4k', {'block_size': '2M', 'logical_sector_size': '4096'},
     [9 * MIB, 9 * MIB + 4096, 31 * MIB, 5 * MIB, 8 * MIB]),
    ('absent', {'block_size': '1M', 'block_state_zero': 'off'},
     [9 * MIB, 33 * MIB, MIB, 12 * MIB]),
    ('fixed', {'block_size': '1M', 'subformat': 'fixed'},
     [9 * MIB, 20 * MIB + 512, 3 * MIB, 10 * MIB]),
    ('chunks', {'block_size': '1M'},
     [4095 * MIB, 4096 * MIB, 4097 * MIB, 8 * GIB + 512, 4096 * MIB]),
    ('chunks-256M', {'block_size': '256M'},
     [3 * GIB, 4 * GIB + 512, 16 * GIB, GIB]),
    ('bat-moves', {'block_size': '1M'},
     [100 * GIB, 200 * GIB, 1000 * GIB, 5 * GIB, 3000 * GIB]),
    ('bat-moves-fixed', {'block_size': '1M', 'subformat': 'fixed'},
     [120 * GIB, 140 * GIB, 100 * GIB]),
]


def cut(model, size):
    """The model of a disk that has another size now."""
    if size < model.size:
        model.zero(size, model.size - size)
        model.chunks = {number: chunk for number, chunk in
                        model.chunks.items() if number * CHUNK < size}
        model.loose = {s for s in model.loose if s < size // 512}
    model.size = size


def steps(ctx, path, script, sizes):
    model = script.model
    for number, size in enumerate(sizes):
        run(ours('qemu-img'), 'resize', '-q', '-f', 'vhdx', '--shrink',
            path, size)
        cut(model, size)
        with checked(path) as image:
            model.check_image(image)
        script.write(size - 1024 * 5, 4096, 100 + number)
        script.write(size // 2 // 4096 * 4096, 65536, 110 + number)
        ctx.io(path, script.take())
        with checked(path) as image:
            model.check_image(image)
        run(ours('qemu-img'), 'check', '-q', '-f', 'vhdx', path)


def resized(options, sizes):
    def test(ctx):
        path, model = filled(ctx, 'disk.vhdx', sizes[0], **options)
        steps(ctx, path, Script(model, 0), sizes[1:])
        if round_up(sizes[-1], options) // 512 % 2 == 0:
            listing(path)
        if 'logical_sector_size' not in options:
            ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
    return test


def theirs_resized(ctx):
    """An image by QEMU's own driver, whose regions are not Required."""
    path, model, script = theirs(ctx, 100 * GIB, {'block_size': '1M'})
    script.write(5 * MIB, 3 * MIB, 1)
    script.write(99 * GIB, MIB, 2)
    ctx.io(path, script.take(), tool=their('qemu-io'))
    for size in (300 * GIB, 50 * GIB):
        run(ours('qemu-img'), 'resize', '-q', '-f', 'vhdx', '--shrink',
            path, size)
        cut(model, size)
        for tool in (None, foreign('qemu-io')):
            ctx.io(path, read_commands(model), '-r', tool=tool)


def tests():
    found = [(name, resized(options, sizes))
             for name, options, sizes in CASES]
    return found + [('theirs', theirs_resized)]
