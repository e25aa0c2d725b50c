"""The log: find the active sequence, check it, replay it into the view.

Every sector of the ring is tried as the start of an entry.  Valid entries
link to the one that follows (the offset where they end, number plus one), so
they fall into runs; a run counts when the Tail of its last entry is the offset
of an entry within the run.  The run with the highest number is active.
"""
import struct
from collections import namedtuple

from .report import MIB, crc_matches, guid, is_zero

SECTOR = 4096
IN_FIRST_SECTOR = 126
PER_SECTOR = 128

Entry = namedtuple('Entry', 'offset length tail sequence flushed last '
                            'descriptors flaws')
Update = namedtuple('Update', 'kind offset length data')


class Ring:
    def __init__(self, view, offset, length):
        self.view, self.offset, self.length = view, offset, length

    def read(self, at, length):
        at %= self.length
        first = min(length, self.length - at)
        data = self.view.raw(self.offset + at, first)
        if first < length:
            data += self.view.raw(self.offset, length - first)
        return data


def parse_entry(ring, at, log_guid):
    """The entry at this offset of the ring, or why there is none."""
    head = ring.read(at, 64)
    if head[:4] != b'loge':
        return None
    (length, tail, sequence, count, reserved, name, flushed,
     last) = struct.unpack('<IIQII16sQQ', head[8:])
    if guid(name) != log_guid:
        return 'has another LogGuid'
    if not length or length % SECTOR or length > ring.length:
        return 'EntryLength is %#x' % length
    if tail % SECTOR or tail >= ring.length:
        return 'Tail is %#x' % tail
    if not sequence:
        return 'SequenceNumber is zero'
    data = ring.read(at, length)
    if not crc_matches(data, 4):
        return 'CRC is wrong'
    table = 1
    if count > IN_FIRST_SECTOR:
        table += -(-(count - IN_FIRST_SECTOR) // PER_SECTOR)
    if table * SECTOR > length:
        return 'DescriptorCount is %d in an entry of %d bytes' % (count,
                                                                  length)
    updates, sector = [], table
    for i in range(count):
        update = parse_descriptor(data, 64 + 32 * i, sector, sequence)
        if isinstance(update, str):
            return 'descriptor %d %s' % (i, update)
        sector += update.kind == 'data'
        updates.append(update)
    if sector * SECTOR != length:
        return 'EntryLength is %#x for %d sectors' % (length, sector)
    flaws = []
    if reserved:
        flaws.append('reserved field is not zero')
    if not is_zero(data[64 + 32 * count:table * SECTOR]):
        flaws.append('bytes behind the last descriptor are not zero')
    return Entry(at, length, tail, sequence, flushed, last, updates, flaws)


def parse_descriptor(data, at, sector, sequence):
    kind, word, long_word, offset, number = struct.unpack_from(
        '<4sIQQQ', data, at)
    if number != sequence:
        return 'has sequence number %d in entry %d' % (number, sequence)
    if offset % SECTOR:
        return 'has FileOffset %#x' % offset
    if kind == b'zero':
        if word:
            return 'has a reserved field that is not zero'
        if not long_word or long_word % SECTOR:
            return 'has ZeroLength %#x' % long_word
        return Update('zero', offset, long_word, None)
    if kind != b'desc':
        return 'has signature %r' % kind
    page = data[sector * SECTOR:(sector + 1) * SECTOR]
    if len(page) < SECTOR or page[:4] != b'data':
        return 'has a data sector without signature'
    high, = struct.unpack_from('<I', page, 4)
    low, = struct.unpack_from('<I', page, SECTOR - 4)
    if high << 32 | low != sequence:
        return 'has a data sector of entry %d' % (high << 32 | low)
    page = data[at + 8:at + 16] + page[8:SECTOR - 4] + data[at + 4:at + 8]
    return Update('data', offset, SECTOR, page)


def find_runs(entries, ring_length):
    """Split entries (a dictionary by offset) into maximal runs."""
    def follower(entry):
        found = entries.get((entry.offset + entry.length) % ring_length)
        if found and found.sequence == entry.sequence + 1:
            return found
        return None

    followed = {f.offset for f in map(follower, entries.values()) if f}
    runs = []
    for offset, entry in entries.items():
        if offset in followed:
            continue
        run = []
        while entry is not None:
            run.append(entry)
            entry = follower(entry)
        runs.append(run)
    return runs


def replay(view, header, report):
    """Put the active sequence into the view; returns its entries."""
    ring = Ring(view, header.log_offset, header.log_length)
    entries = {}
    for start, end in view.data_in(ring.offset, ring.offset + ring.length):
        first = (start - ring.offset) // SECTOR
        for at in range(first * SECTOR, end - ring.offset, SECTOR):
            if at in entries:
                continue
            entry = parse_entry(ring, at, header.log_guid)
            if isinstance(entry, Entry):
                entries[at] = entry
            elif entry and not entry.startswith('has another'):
                report.info('log entry at %#x' % at, entry)
    runs = find_runs(entries, ring.length)
    runs = [r for r in runs if r[-1].tail in {e.offset for e in r}]
    if not runs:
        report.fatal('log', 'LogGuid is %s but no sequence of entries is valid'
                     % header.log_guid)
    active = max(runs, key=lambda run: run[-1].sequence)
    tail = next(i for i, e in enumerate(active)
                if e.offset == active[-1].tail)
    active = active[tail:]
    if sum(e.length for e in active) > ring.length:
        report.fatal('log', 'the active sequence is longer than the log')
    for entry in active:
        check_entry(report, entry)
        for update in entry.descriptors:
            if update.kind == 'data':
                view.put_page(update.offset, update.data)
            else:
                view.put_zeroes(update.offset, update.length)
    head = active[-1]
    if head.flushed > view.file_size:
        report.fatal('log', 'FlushedFileOffset is %#x, the file has %#x'
                     % (head.flushed, view.file_size))
    view.extend(head.last)
    report.info('log', 'replayed %d entries, numbers %d to %d'
                % (len(active), active[0].sequence, head.sequence))
    return active


def check_entry(report, entry):
    where = 'log entry %d' % entry.sequence
    for flaw in entry.flaws:
        report.error(where, flaw)
    for name, value in (('FlushedFileOffset', entry.flushed),
                        ('LastFileOffset', entry.last)):
        if value % MIB or not value:
            report.error(where, '%s is %#x' % (name, value))


def check_targets(active, allowed, report):
    """Each update lies within one of the allowed ranges (start, end)."""
    for entry in active:
        for update in entry.descriptors:
            end = update.offset + update.length
            if not any(start <= update.offset and end <= stop
                       for start, stop in allowed):
                report.error('log entry %d' % entry.sequence,
                             'writes %#x to %#x, which is no metadata'
                             % (update.offset, end))
