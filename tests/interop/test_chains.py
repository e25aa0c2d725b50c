"""Chains that our driver has made or changed, as other readers have them.

7-Zip finds parents by itself, in the child's folder; libvhdi is given them.
Both need linkage and names as Windows writes them, and read each state of a
block by code of their own.  So does the strict reader.  The chain from Windows
is written to, merged, and made one image.

In a child, libvhdi (20210425) takes a block in the state ZERO for one that is
the parent's, goes by the bits of blocks that are not present, and can't read
behind the parent's end.  So where blocks have been zeroed, the child has been
emptied, or is longer than its parent, it is not asked.
"""
import hashlib
import os
import random
import shutil

from harness import Context, expect, foreign, ours, run
from strict.report import KIB, MIB
from test_libvhdi import DIFFERENCING, DYNAMIC, python, read_all
from test_samples import known_sum, sha256, windows_chain
from vhdx_strict import Image

SIZE = 12 * MIB


def seven_zip(ctx, path):
    """The checksum of what 7zz extracts."""
    target = ctx.path('extracted')
    text = run(foreign('7zz'), 'x', '-y', '-tvhdx', '-o' + target, path)
    expect('Everything is Ok' in text, text)
    names = os.listdir(target)
    expect(len(names) == 1, 'extracted: %s', names)
    found = sha256(os.path.join(target, names[0]))
    shutil.rmtree(target)
    return found


def libvhdi(chain, size):
    """The checksum of what it reads."""
    python()
    told, (data,) = read_all(chain[0], [(0, size)], *chain[1:])
    kind = DIFFERENCING if len(chain) > 1 else DYNAMIC
    expect(told[:2] == [size, kind], 'pyvhdi: %s', told)
    return hashlib.sha256(data).hexdigest()


def agree(ctx, want, *chain, vhdi=True):
    """All readers find the content with this checksum; the child is first."""
    with Image(chain[0]) as image:
        expect(image.readable, '\n'.join(image.report.lines()))
        image.open_parent()
        size, strict = image.params.disk_size, image.hash()
    found = {'ours': sha256(ctx.raw(chain[0])), 'strict': strict,
             '7zz': seven_zip(ctx, chain[0])}
    if vhdi:
        found['libvhdi'] = libvhdi(chain, size)
    expect(set(found.values()) == {want}, 'checksums: %s, not %s', found, want)
    for path in chain:
        text = run(ours('qemu-img'), 'check', '-f', 'vhdx', path)
        expect('No errors were found' in text, text)


class Twin:
    """What a disk has to be, and commands that change it."""
    def __init__(self, data, seed, sector=512):
        self.data, self.sector = bytearray(data), sector
        self.chance = random.Random(seed)

    def sum(self):
        return hashlib.sha256(self.data).hexdigest()

    def resize(self, size):
        self.data = self.data[:size].ljust(size, b'\0')

    def commands(self, block, zeroes=False):
        """Writes of sectors and blocks; zeroes, discards of blocks."""
        found = []
        for number in range(24):
            at = self.chance.randrange(len(self.data))
            unit = block if number % 3 == 2 else self.sector
            at -= at % unit
            length = unit if unit == block else \
                unit * self.chance.choice((1, 1, 3, 40))
            length = min(length, len(self.data) - at)
            byte, kind = self.chance.randrange(1, 256), number % 8
            if zeroes and kind == 5:
                byte, what = 0, 'discard'
            elif zeroes and kind == 4:
                byte, what = 0, 'write -q -z -u'
            else:
                what = 'write -q -P %d' % byte
            if what == 'discard' and length % block:
                continue
            self.data[at:at + length] = bytes([byte]) * length
            found.append('%s %d %d' % (what, at, length))
        return found


def made(ctx, sector, *sizes, zeroes=False, blocks=0):
    """A chain of our own in a folder; its twin, and its files from the top.
    All have blocks of @blocks MiB, or 1 and 2 by turns."""
    folder = ctx.path('here')
    os.mkdir(folder)
    twin, chain = Twin(b'', 5, sector), []
    for number, size in enumerate(sizes):
        block = MIB * (blocks or 1 + number % 2)
        path = os.path.join(folder, 'disk-%d.vhdx' % number)
        args = ['-o', 'block_size=%d' % block]
        if chain:
            args += ['-b', os.path.basename(chain[0]), '-F', 'vhdx']
        else:
            args += ['-o', 'logical_sector_size=%d' % sector]
        run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', *args, path, size)
        twin.resize(size)
        ctx.io(path, twin.commands(block, zeroes), '-d', 'unmap')
        chain.insert(0, path)
    return twin, chain


def own(sector, *sizes, zeroes=False, vhdi=True):
    def test(ctx):
        twin, chain = made(ctx, sector, *sizes, zeroes=zeroes)
        agree(ctx, twin.sum(), *chain, vhdi=vhdi)
        # In another folder, and where the first one has gone.
        copied, moved = ctx.path('copied'), ctx.path('moved')
        shutil.copytree(os.path.dirname(chain[0]), copied)
        os.rename(os.path.dirname(chain[0]), moved)
        for folder in copied, moved:
            agree(ctx, twin.sum(), *(os.path.join(folder,
                                                  os.path.basename(path))
                                     for path in chain), vhdi=vhdi)
    return test


def own_first_parent(ctx):
    """An image that had none gets one."""
    twin, (path,) = made(ctx, 512, SIZE)
    other = Context(os.path.dirname(path)).create('parent.vhdx', SIZE)
    ctx.io(other, ['write -q -P 77 0 %d' % SIZE])
    run(ours('qemu-img'), 'rebase', '-f', 'vhdx', '-b', 'parent.vhdx', '-F',
        'vhdx', path)
    agree(ctx, twin.sum(), path, other, vhdi=False)
    ctx.io(path, twin.commands(MIB, zeroes=True), '-d', 'unmap')
    agree(ctx, twin.sum(), path, other, vhdi=False)


def windows(ctx):
    """The chain, and a twin of the child."""
    chain = windows_chain(ctx)
    raw = ctx.raw(chain[0])
    with open(raw, 'rb') as file:
        return Twin(file.read(), 9), chain


def windows_written(ctx):
    """As it is, and below a child of our own"""
    twin, (child, parent) = windows(ctx)
    ctx.io(child, twin.commands(2 * MIB), '-d', 'unmap')
    agree(ctx, twin.sum(), child, parent)
    top = ctx.path('top.vhdx')
    run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-b',
        os.path.basename(child), '-F', 'vhdx', top)
    ctx.io(top, twin.commands(2 * MIB), '-d', 'unmap')
    agree(ctx, twin.sum(), top, child, parent)


def windows_merged(ctx):
    """The parent is fixed, so that one is known as such."""
    twin, (child, parent) = windows(ctx)
    ctx.io(child, twin.commands(2 * MIB), '-d', 'unmap')
    run(ours('qemu-img'), 'commit', '-q', '-f', 'vhdx', child)
    agree(ctx, twin.sum(), child, parent, vhdi=False)
    expect({sha256(ctx.raw(parent)), seven_zip(ctx, parent)} == {twin.sum()},
           'the parent has not got the content of its child')
    ctx.io(child, twin.commands(2 * MIB), '-d', 'unmap')
    agree(ctx, twin.sum(), child, parent)


def windows_alone(ctx):
    """One image of it, with the content that is known"""
    _, (child, parent) = windows(ctx)
    run(ours('qemu-img'), 'rebase', '-f', 'vhdx', '-b', '', child)
    os.unlink(parent)
    agree(ctx, known_sum('fat-differential.vhdx.xz'), child)


def tests():
    return [('own-512', own(512, SIZE, SIZE, SIZE)),
            ('own-4096', own(4096, SIZE, SIZE, SIZE)),
            ('own-zeroes', own(512, SIZE, SIZE, SIZE, zeroes=True,
                               vhdi=False)),
            ('own-longer', own(512, SIZE, SIZE + 5 * MIB + 3 * KIB,
                               vhdi=False)),
            ('own-shorter', own(512, SIZE, 7 * MIB + 5 * KIB)),
            ('own-first-parent', own_first_parent),
            ('windows-written', windows_written),
            ('windows-merged', windows_merged),
            ('windows-alone', windows_alone)]
