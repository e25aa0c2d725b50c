"""The strict reader's own test: what it must accept, and what it must not.

Each breakage takes a good image from sample.py, breaks one thing, and names
the finding that has to come: the test of a tester is that it can fail.
"""
import hashlib
import os
import struct
import sys
import uuid

from harness import expect, run
from sample import BAT, DATA, ITEM, ITEMS, METADATA, Sample, le, log_entry
from strict.report import KIB, MIB, TIB
from vhdx_strict import Image

HEAD, TABLE = 64 * KIB, 192 * KIB
LINKAGE = '{%s}' % uuid.UUID(int=2)
CHILD = (('parent_linkage', LINKAGE), ('relative_path', '.\\parent.vhdx'))
NEWS = bytes(range(256)) * 16


def child(pairs=CHILD):
    return Sample(parent=pairs)


def with_log(*entries):
    """A sample whose log holds these entries, (place, entry)."""
    sample = Sample()
    sample.name_log()
    for at, entry in entries:
        sample.put_log(at, entry)
    return sample


def bat_page():
    """The first page of the sample's BAT, block 1 being NOT_PRESENT."""
    page = bytearray(Sample().data[BAT:BAT + 4 * KIB])
    page[8:16] = bytes(8)
    return bytes(page)


def both(sample, at, form, value):
    """The same change in both headers (at + 64 KiB) or region tables."""
    sample.put(at, form, value)
    sample.put(at + 64 * KIB, form, value)


def set_bytes(sample, at, data):
    sample.data[at:at + len(data)] = data


def one_log(change=None, updates=None, **fields):
    """What makes a sample whose log holds one entry, perhaps a broken one."""
    fields.setdefault('tail', 0)
    entry = log_entry(9, updates=updates or [(BAT, bat_page())],
                      change=change, **fields)
    return lambda: with_log((0, entry))


def poke(at, data):
    def change(entry):
        entry[at:at + len(data)] = data
    return change


def cut_tail(sample):
    del sample.data[-MIB // 2:]


# Name, what makes the sample, what breaks it, what has to be found; the
# checksums are made to fit again afterwards.
BREAKAGES = [
    ('identifier', Sample, lambda s: set_bytes(s, 0, b'vhdxfilf'),
     'file identifier: signature'),
    ('identifier-rest', Sample, lambda s: set_bytes(s, 5000, b'x'),
     'bytes 520 to 64 KiB are not zero'),
    ('creator-rest', Sample, lambda s: set_bytes(s, 100, b'x'),
     'bytes follow the creator'),
    ('header-signature', Sample, lambda s: set_bytes(s, HEAD, b'hEad'),
     'header 1: signature'),
    ('header-reserved', Sample, lambda s: s.put(2 * HEAD + 90, 'B', 1),
     'header 2: reserved bytes'),
    ('header-version', Sample, lambda s: both(s, HEAD + 66, 'H', 2),
     'Version is 2'),
    ('log-version', Sample, lambda s: both(s, HEAD + 64, 'H', 3),
     'LogVersion is 3'),
    ('log-alignment', Sample, lambda s: both(s, HEAD + 72, 'Q', MIB + 4096),
     'LogOffset is 0x101000'),
    ('log-length', Sample, lambda s: both(s, HEAD + 68, 'I', 0),
     'LogLength is 0x0'),
    ('log-outside', Sample, lambda s: both(s, HEAD + 72, 'Q', 99 * MIB),
     'behind the end of the file'),
    ('log-overlap', Sample, lambda s: both(s, HEAD + 72, 'Q', 2 * MIB),
     'overlaps'),
    ('same-sequence', Sample, lambda s: (both(s, HEAD + 8, 'Q', 4),
                                         s.put(HEAD + 16, 'Q', 5)),
     'same sequence number'),
    ('identical-headers', Sample, lambda s: both(s, HEAD + 8, 'Q', 4),
     'both copies have the same sequence number'),
    ('sequence-distance', Sample, lambda s: s.put(HEAD + 8, 'Q', 20),
     'not neighbours'),
    ('header-copies', Sample, lambda s: s.put(HEAD + 32, 'Q', 5),
     'differ in data_write'),
    ('header-gap', Sample, lambda s: s.put(HEAD + 5000, 'B', 5),
     'header section: bytes'),
    ('region-signature', Sample, lambda s: set_bytes(s, TABLE, b'REGI'),
     'region table 1: signature'),
    ('region-reserved', Sample, lambda s: both(s, TABLE + 12, 'I', 1),
     'reserved field'),
    ('region-count', Sample, lambda s: both(s, TABLE + 8, 'I', 2048),
     'EntryCount is 2048'),
    ('region-rest', Sample, lambda s: both(s, TABLE + 3000, 'I', 1),
     'bytes behind the last entry'),
    ('region-required', Sample, lambda s: both(s, TABLE + 16 + 28, 'I', 0),
     'Required is not set'),
    ('region-bits', Sample, lambda s: both(s, TABLE + 16 + 28, 'I', 3),
     'reserved bits'),
    ('region-alignment', Sample,
     lambda s: both(s, TABLE + 16 + 16, 'Q', BAT + 8 * KIB), 'FileOffset is'),
    ('region-length', Sample, lambda s: both(s, TABLE + 16 + 24, 'I', 4096),
     'Length is 0x1000'),
    ('region-outside', Sample, lambda s: both(s, TABLE + 16 + 16, 'Q', TIB),
     'behind the end of the file'),
    ('region-overlap', Sample,
     lambda s: both(s, TABLE + 16 + 24, 'I', 2 * MIB), 'overlaps'),
    ('region-copies', Sample, lambda s: s.put(TABLE + 16 + 16, 'Q', DATA),
     'the copies differ'),
    ('region-duplicate', Sample,
     lambda s: (both(s, TABLE + 8, 'I', 3),
                [set_bytes(s, at + 80, bytes(s.data[at + 16:at + 48]))
                 for at in (TABLE, TABLE + 64 * KIB)]),
     'duplicate region'),
    ('region-unknown', Sample,
     lambda s: (both(s, TABLE + 8, 'I', 3),
                [s.put(at + 80, 'QQQII', 1, 2, 3 * MIB, MIB, 1)
                 for at in (TABLE, TABLE + 64 * KIB)]),
     'unknown region 0'),
    ('metadata-signature', Sample, lambda s: s.put(METADATA, 'B', 0),
     'metadata table: signature'),
    ('metadata-reserved', Sample, lambda s: s.put(METADATA + 20, 'B', 1),
     'metadata table: reserved bytes'),
    ('metadata-count', Sample, lambda s: s.put(METADATA + 10, 'H', 2048),
     'EntryCount is 2048'),
    ('metadata-rest', Sample, lambda s: s.put(METADATA + 9000, 'B', 1),
     'behind the last entry'),
    ('metadata-slack', Sample, lambda s: s.put(METADATA + 500000, 'B', 1),
     'bytes behind the items'),
    ('item-flags', Sample, lambda s: s.put(s.entry_at['id'] + 24, 'I', 4),
     'disk id has flags 0x4, not 0x6'),
    ('item-reserved-flags', Sample,
     lambda s: s.put(s.entry_at['id'] + 24, 'I', 14), 'reserved flags'),
    ('item-reserved', Sample, lambda s: s.put(s.entry_at['id'] + 28, 'I', 1),
     'reserved field'),
    ('item-length', Sample, lambda s: s.put(s.entry_at['id'] + 20, 'I', 17),
     'disk id has 17 bytes, not 16'),
    ('item-overlap', Sample,
     lambda s: s.put(s.entry_at['id'] + 16, 'I', 64 * KIB),
     'overlaps another'),
    ('item-in-table', Sample,
     lambda s: s.put(s.entry_at['id'] + 16, 'I', 32 * KIB),
     'disk id is at offset 0x8000'),
    ('item-outside', Sample,
     lambda s: s.put(s.entry_at['id'] + 16, 'I', MIB - 8),
     'leaves the metadata region'),
    ('item-duplicate', Sample,
     lambda s: set_bytes(s, s.entry_at['id'], le(ITEM['size'])),
     'duplicate item disk size'),
    ('item-missing', Sample,
     lambda s: s.put(METADATA + 10, 'H', 4), 'no usable item physical'),
    ('item-unknown', Sample,
     lambda s: (s.put(METADATA + 10, 'H', 6),
                s.put(METADATA + 32 + 160, 'QQIIII', 8, 8, ITEMS + MIB // 2
                      - METADATA, 8, 4, 0)),
     'unknown item'),
    ('unfinished', Sample,
     lambda s: (s.put(METADATA + 10, 'H', 6),
                set_bytes(s, METADATA + 32 + 160,
                          le('71cc85f0-1b69-4e28-9558-c3bf83ae75d3'))),
     'making of the file was not finished'),
    ('block-size', Sample,
     lambda s: s.put(s.item_at['parameters'], 'I', 3 * MIB),
     'BlockSize is 0x300000'),
    ('block-size-large', Sample,
     lambda s: s.put(s.item_at['parameters'], 'I', 512 * MIB), 'BlockSize is'),
    ('parameter-bits', Sample,
     lambda s: s.put(s.item_at['parameters'] + 4, 'I', 4), 'reserved bits'),
    ('disk-size', Sample, lambda s: s.put(s.item_at['size'], 'Q', 5 * MIB + 1),
     'disk size: is'),
    ('disk-size-large', Sample,
     lambda s: s.put(s.item_at['size'], 'Q', 64 * TIB + 512), 'disk size: is'),
    ('disk-id', Sample, lambda s: s.put(s.item_at['id'], 'QQ', 0, 0),
     'disk id: is nil'),
    ('logical', Sample, lambda s: s.put(s.item_at['logical'], 'I', 1024),
     'logical sector size: is 1024'),
    ('physical', Sample, lambda s: s.put(s.item_at['physical'], 'I', 0),
     'physical sector size: is 0'),
    ('parent-without-locator', Sample,
     lambda s: s.put(s.item_at['parameters'] + 4, 'I', 2), 'HasParent is 1'),
    ('locator-without-parent', child,
     lambda s: s.put(s.item_at['parameters'] + 4, 'I', 0), 'HasParent is 0'),
    ('bat-short', Sample, lambda s: s.put(s.item_at['size'], 'Q', TIB),
     'region has 1048576 bytes'),
    ('bat-reserved', Sample, lambda s: s.put_entry(0, DATA | 6 | 8),
     'BAT entry 0: reserved bits'),
    ('bat-state', Sample, lambda s: s.put_entry(4, 5), 'state is 5'),
    ('bat-partial', Sample, lambda s: s.put_entry(0, DATA | 7), 'state is 7'),
    ('bat-zero-offset', Sample, lambda s: s.put_entry(1, DATA | 2),
     'ZERO has offset'),
    ('bat-absent-offset', Sample, lambda s: s.put_entry(1, DATA),
     'NOT_PRESENT has offset'),
    ('bat-no-offset', Sample, lambda s: s.put_entry(0, 6), 'block has offset'),
    ('bat-twice', Sample, lambda s: s.put_entry(1, DATA | 6), 'overlaps'),
    ('bat-outside', Sample, lambda s: s.put_entry(0, 90 * MIB | 6),
     'behind the end of the file'),
    ('bat-in-metadata', Sample, lambda s: s.put_entry(0, METADATA | 6),
     'overlaps'),
    ('bat-rest', Sample, lambda s: s.put_entry(6, 2),
     'behind the last entry'),
    ('fixed-hole', lambda: Sample(fixed=True), lambda s: s.put_entry(4, 0),
     '1 blocks of 6 of a fixed file'),
    ('tail', Sample, lambda s: s.data.extend(bytes(MIB)),
     'the last object ends at'),
    ('cut', Sample, cut_tail,
     'behind the end of the file'),
    ('child-no-bitmap', child, lambda s: s.put_entry(0, DATA | 7),
     'no sector bitmap'),
    ('child-bitmap-state', child, lambda s: s.put_entry(4096, DATA | 7),
     'sector bitmap entry is'),
    ('child-bitmap-overlap', child, lambda s: s.put_entry(4096, DATA | 6),
     'overlaps'),
    ('child-bitmap-outside', child, lambda s: s.put_entry(4096, TIB | 6),
     'sector bitmap has offset'),
    ('child-no-block', child, lambda s: s.put_entry(7, 2),
     'entries without a block'),
    ('bitmap-without-parent', Sample,
     lambda s: (s.put(s.item_at['size'], 'Q', 5 << 30),
                s.put_entry(4096, DATA | 6)), 'sector bitmap entry is'),
    ('locator-linkage',
     lambda: child((('parent_linkage', LINKAGE.upper().replace('0', 'A')),
                    CHILD[1])), None, 'parent_linkage is'),
    ('locator-no-path', lambda: child(CHILD[:1]), None, 'no path'),
    ('locator-no-linkage', lambda: child(CHILD[1:]), None,
     'no parent_linkage'),
    ('locator-duplicate', lambda: child(CHILD + CHILD[:1]), None,
     'duplicate key'),
    ('locator-type', child, lambda s: s.put(s.item_at['locator'], 'B', 0),
     'type is'),
    ('locator-offset', child,
     lambda s: s.put(s.item_at['locator'] + 20, 'I', 60000),
     'entry 0 is not readable'),
    ('log-clean', lambda: with_log((0, log_entry(9, 0, []))), None,
     'LogGuid is'),
]

# The same, with the checksums left as they were.
UNSEALED = [
    ('header-crc', Sample, lambda s: s.put(HEAD + 16, 'Q', 5),
     'header 1: CRC is wrong'),
    ('region-crc', Sample, lambda s: s.put(TABLE + 64 * KIB + 90, 'B', 5),
     'region table 2: CRC is wrong'),
    ('neither-header', Sample, lambda s: both(s, HEAD + 16, 'Q', 5),
     'header: neither copy is valid'),
    ('neither-region-table', Sample, lambda s: both(s, TABLE + 90, 'B', 5),
     'region table: neither copy is valid'),
]

# Live logs: name, what makes the sample, what has to be found.
LOG_BREAKAGES = [
    ('log-none', lambda: with_log((0, b'')), 'no sequence of entries'),
    ('log-crc', lambda: with_log(
        (0, log_entry(9, 0, [])[:4] + bytes(4) + log_entry(9, 0, [])[8:])),
     'no sequence of entries'),
    ('log-signature', one_log(poke(0, b'logE')), 'no sequence of entries'),
    ('log-other-guid', one_log(poke(32, b'x')), 'no sequence of entries'),
    ('log-entry-length', one_log(poke(8, struct.pack('<I', 100))),
     'EntryLength is 0x64'),
    ('log-tail', one_log(tail=4096), 'no sequence of entries'),
    ('log-tail-alignment', one_log(tail=100), 'Tail is 0x64'),
    ('log-sequence-zero', one_log(poke(16, bytes(8))),
     'SequenceNumber is zero'),
    ('log-entry-reserved', one_log(poke(28, b'x')), 'reserved field'),
    ('log-descriptor-rest', one_log(poke(200, b'x')),
     'behind the last descriptor'),
    ('log-descriptor-sequence', one_log(poke(64 + 24, b'x')),
     'has sequence number'),
    ('log-descriptor-signature', one_log(poke(64, b'x')), 'has signature'),
    ('log-data-sequence', one_log(poke(8192 - 4, b'x')), 'data sector of'),
    ('log-update-alignment', one_log(updates=[(BAT + 512, NEWS)]),
     'has FileOffset'),
    ('log-zero-length', one_log(updates=[(BAT, 100)]), 'has ZeroLength'),
    ('log-updates-payload', one_log(updates=[(DATA, NEWS)]),
     'which is no metadata'),
    ('log-updates-header', one_log(updates=[(HEAD, 4096)]),
     'which is no metadata'),
    ('log-flushed-large', one_log(flushed=64 * MIB), 'FlushedFileOffset is'),
    ('log-flushed-alignment', one_log(flushed=DATA + 512),
     'FlushedFileOffset is'),
    ('log-last-small', one_log(last=DATA), 'LastFileOffset is'),
]


def find(ctx, sample, unclean=False):
    path = ctx.path('sample.vhdx')
    with open(path, 'wb') as file:
        file.write(sample.data)
    with Image(path, unclean) as image:
        return image.report.lines(), image.report.bad()


def breakage(make, change, text, seal=True, unclean=False):
    def test(ctx):
        sample = make()
        if change:
            change(sample)
        if seal:
            sample.seal()
        lines, bad = find(ctx, sample, unclean)
        expect(bad, 'nothing was found, but should: %s', text)
        expect(any(text in line for line in lines),
               '%r is not in:\n%s', text, '\n'.join(lines))
    return test


def good(make, *states, unclean=False):
    """No finding, and these states of the six blocks."""
    def test(ctx):
        lines, bad = find(ctx, make(), unclean)
        expect(not bad, '\n'.join(lines))
        with Image(ctx.path('sample.vhdx'), unclean) as image:
            found = tuple(image.bat.lookup(n)[0] for n in range(6))
            expect(found == states, 'states are %s', found)
    return test


def wrapped_log():
    """Two entries around the end of the ring, and an older sequence."""
    first = log_entry(20, MIB - 4096, [(BAT, NEWS), (METADATA + 8192, 8192)])
    second = log_entry(21, MIB - 4096, [(BAT, bat_page())])
    return with_log((MIB - 4096, first), (4096, second),
                    (64 * KIB, log_entry(11, 64 * KIB, [(BAT, NEWS)])))


def torn_log():
    """The second entry is torn: the sequence ends before it."""
    second = log_entry(10, 0, [(BAT, NEWS)])
    return with_log((0, log_entry(9, 0, [(BAT, bat_page())])),
                    (8192, second[:4096] + bytes(4096)))


def content(ctx):
    """The content, by the library and by the command."""
    path = ctx.path('sample.vhdx')
    lines, bad = find(ctx, Sample())
    expect(not bad, '\n'.join(lines))
    want = b'\1' * MIB + bytes(MIB) + b'\2' * MIB + bytes(3 * MIB - 512)
    with Image(path) as image:
        expect(image.read(0, len(want)) == want, 'content differs')
        expect(image.read(MIB - 5, 10) == want[MIB - 5:MIB + 5],
               'a read across two blocks differs')
        expect(list(image.data_extents()) == [(0, MIB), (2 * MIB, MIB)],
               'data extents are %s', list(image.data_extents()))
    command = os.path.join(os.path.dirname(__file__), 'vhdx_strict.py')
    text = run(sys.executable, '-B', command, '--hash', path)
    expect(text == hashlib.sha256(want).hexdigest() + '\n', text)
    text = run(sys.executable, '-B', command, '--read', MIB - 2, 4, path)
    expect(text == '\1\1\0\0', repr(text))
    with open(path, 'r+b') as file:
        file.seek(0)
        file.write(b'?')
    text = run(sys.executable, '-B', command, path, status=1)
    expect('signature' in text, text)


def chain(ctx):
    """A child: present, partial and absent blocks over a parent."""
    with open(ctx.path('parent.vhdx'), 'wb') as file:
        file.write(Sample().data)
    sample = child()
    sample.put_entry(0, DATA | 7)                    # its data is all 1
    sample.put_entry(4096, (DATA + 2 * MIB) | 6)
    sample.put_entry(2, (DATA + MIB) | 6)
    sample.put_entry(1, 2)
    sample.data[DATA:DATA + MIB] = b'\x99' * MIB
    sample.data.extend(b'\x05' + bytes(MIB - 1))     # sectors 0 and 2
    lines, bad = find(ctx, sample)
    expect(not bad, '\n'.join(lines))
    with Image(ctx.path('sample.vhdx')) as image:
        image.open_parent()
        got = image.read(0, 6 * MIB - 512)
    want = b'\x99' * 512 + b'\1' * 512 + b'\x99' * 512 + \
        b'\1' * (MIB - 1536) + bytes(MIB) + b'\2' * MIB + \
        bytes(3 * MIB - 512)
    expect(got == want, 'content of the chain differs')


def huge(ctx):
    """64 TiB in blocks of 1 MiB, its BAT a hole but for two entries."""
    sample = Sample()
    entries = (1 << 26) + (1 << 26) // 4096 - 1
    length = -(-entries * 8 // MIB) * MIB
    place = 8 * MIB
    sample.put(sample.item_at['size'], 'Q', 64 * TIB)
    both(sample, TABLE + 16 + 16, 'Q', place)
    both(sample, TABLE + 16 + 24, 'I', length)
    sample.seal()
    path = ctx.path('huge.vhdx')
    with open(path, 'wb') as file:
        file.write(sample.data)
        file.truncate(place + length + MIB)
    last = entries - 1

    def set_entry(index, value):
        with open(path, 'r+b') as file:
            file.seek(place + 8 * index)
            file.write(struct.pack('<Q', value))
    set_entry(last, place + length | 6)
    with Image(path) as image:
        bad = image.report.bad()
        expect(not bad, '\n'.join(image.report.lines(bad)))
        expect(image.bat.lookup((1 << 26) - 1) == (6, place + length),
               'the last block is not found')
        expect(image.block_states() == {'NOT_PRESENT': (1 << 26) - 1,
                                        'FULLY_PRESENT': 1},
               'states are %s', image.block_states())
    set_entry(entries // 3, 1 << 20 | 2)
    with Image(path) as image:
        text = '\n'.join(image.report.lines())
        expect('BAT entry %d: ZERO has offset' % (entries // 3) in text,
               'a bad entry in the middle was not found:\n%s', text)


def tests():
    found = [
        ('good-dynamic', good(Sample, 6, 2, 6, 2, 0, 0)),
        ('good-fixed', good(lambda: Sample(fixed=True), *[6] * 6)),
        ('good-child', good(child, 6, 0, 6, 0, 0, 0)),
        ('good-log', good(one_log(), 6, 0, 6, 2, 0, 0, unclean=True)),
        ('good-log-wrapped', good(wrapped_log, 6, 0, 6, 2, 0, 0,
                                  unclean=True)),
        ('good-log-torn', good(torn_log, 6, 0, 6, 2, 0, 0, unclean=True)),
        ('content', content), ('chain', chain), ('huge', huge),
    ]
    for name, make, change, text in BREAKAGES:
        found.append(('finds-' + name, breakage(make, change, text)))
    for name, make, change, text in UNSEALED:
        found.append(('finds-' + name, breakage(make, change, text, False)))
    for name, make, text in LOG_BREAKAGES:
        found.append(('finds-' + name, breakage(make, None, text,
                                                unclean=True)))
    return found
