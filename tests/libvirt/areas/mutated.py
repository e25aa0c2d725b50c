"""A pool with 1000 images that were changed at random.

All bytes but the identifier may be wrong; a region table gets a right
checksum, or it would not be looked at.  SEED= takes another seed.
"""
import os
import random
import struct
from xml.etree import ElementTree

from areas.damaged import child_of
from report import expect, expect_equal, expect_in, step
from vhdxfile import HEADERS, MIB, REGION_TABLES, TABLE, VHDXFile, crc32c

IMAGES = 1000
BATCH = 100
PAGE = 4096


class Packed:
    """The pages of a file that are not zero."""
    def __init__(self, path):
        self.size = os.stat(path).st_size
        self.pages = {}
        with open(path, 'rb') as file:
            for number, page in enumerate(iter(lambda: file.read(PAGE), b'')):
                if any(page):
                    self.pages[number] = page
        with VHDXFile(path) as image:
            self.metadata = image.metadata
            self.items = [place[1:] for place in image.items.values()]
            self.regions, = image.get(REGION_TABLES[0] + 8, 'I')

    def write(self, path):
        with open(path, 'wb') as file:
            for number, page in self.pages.items():
                file.seek(number * PAGE)
                file.write(page)
            file.truncate(self.size)


def value(chance):
    """A byte; the odd ones are as likely as all others."""
    return chance.choice((0, 1, 0x7f, 0x80, 0xff, chance.randrange(256)))


def scatter(chance, data, length):
    """Change some bytes of the first ones, or a whole field."""
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(length)
        if chance.random() < 0.5:
            data[at] = value(chance)
        else:
            at &= ~7
            struct.pack_into('<Q', data, at, chance.choice(
                (0, 1, MIB, 1 << 32, 1 << 40, 1 << 63, (1 << 64) - 1,
                 chance.getrandbits(64))))


def in_place(chance, file, offset, length):
    """The same for a part of the file."""
    length = max(8, -(-length // 8) * 8)
    file.seek(offset)
    data = bytearray(file.read(length))
    data += bytes(length - len(data))
    scatter(chance, data, length)
    file.seek(offset)
    file.write(data)


def regions(chance, file, packed):
    file.seek(REGION_TABLES[0])
    table = bytearray(file.read(TABLE))
    scatter(chance, table, 16 + 32 * (packed.regions + 1))
    if chance.random() < 0.9:
        table[:4] = b'regi'
    table[4:8] = bytes(4)
    table[4:8] = struct.pack('<I', crc32c(table))
    for offset in REGION_TABLES:
        file.seek(offset)
        file.write(table)


def metadata_table(chance, file, packed):
    in_place(chance, file, packed.metadata, 32 + 32 * (len(packed.items) + 1))


def items(chance, file, packed):
    offset, length = chance.choice(packed.items)
    in_place(chance, file, offset, length)


def headers(chance, file, _):
    for offset in HEADERS:
        in_place(chance, file, offset, 80)


def cut_short(chance, file, packed):
    file.truncate(chance.choice((8, 9, 4096, 65536, chance.randrange(
        8, packed.size), chance.randrange(8, 2 * MIB))))


KINDS = (regions, metadata_table, items, items, headers, cut_short)


def bases(tools, pool):
    paths = [tools.create(pool.path('base-%d' % number), '1G', **options)
             for number, options in enumerate((
                 {}, {'block_size': '256M'}, {'subformat': 'fixed'},
                 {'logical_sector_size': 4096}))]
    paths.append(child_of(tools, pool.path('base-child'), 'base-0'))
    paths.append(child_of(tools, pool.path('base-child-2'), 'base-0',
                          absolute_win32_path='C:\\disks\\base-0',
                          volume_path='\\\\?\\Volume{1}\\base-0'))
    return [Packed(path) for path in paths]


def run(bench):
    seed = int(os.environ.get('SEED', '1'))
    chance = random.Random(seed)
    session = bench.daemon()
    pool = bench.pool('mutated')
    packed = bases(bench.tools, pool)
    refused = 0
    for first in range(0, IMAGES, BATCH):
        names = ['%04d.vhdx' % number
                 for number in range(first, first + BATCH)]
        with step('images %d to %d of seed %d'
                  % (first, first + BATCH - 1, seed)):
            for name in names:
                base = chance.choice(packed)
                base.write(pool.path(name))
                with open(pool.path(name), 'r+b') as file:
                    chance.choice(KINDS)(chance, file, base)
            pool.refresh()
            session.alive()
            pool.running()
            listed = pool.names()
            for name in names:
                expect(name in listed, '%s is not listed', name)
            refused += look_at(pool, names)
            session.alive()
            pool.running()
        for name in names:
            if os.path.exists(pool.path(name)):
                os.unlink(pool.path(name))
    with step('of %d images some were refused, and some were not' % IMAGES):
        print('# %d were refused' % refused)
        expect(0.1 * IMAGES < refused < 0.9 * IMAGES, '%d were refused',
               refused)


def look_at(pool, names):
    """How many are refused: with their name then, and as vhdx otherwise."""
    refused = 0
    for name, text in zip(names, pool.session.virsh_many(
            ['vol-dumpxml --pool %s %s' % (pool.name, name)
             for name in names])):
        if 'error:' in text:
            expect_in("damaged VHDX image '%s'" % pool.path(name), text)
            refused += 1
        else:
            form = ElementTree.fromstring(text).find('target/format')
            expect_equal(form.get('type'), 'vhdx', name)
    return refused
