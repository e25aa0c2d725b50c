"""The block allocation table: every entry, and the space they name.

64 TiB in 1 MiB blocks has 2^26 entries, so the table is read in units of
whole chunk groups (C payload entries and the sector bitmap entry): a unit in
a hole of the file, or equal to one whose entries are all NOT_PRESENT or all
ZERO, is done with one comparison.  Present blocks become runs (block, count,
place in the file), and a group that is one rising run is one comparison too.
"""
import sys
from array import array
from collections import namedtuple

from .report import MIB, is_zero

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED = range(4)
PRESENT, PARTIAL = 6, 7
RESERVED = 0xffff8
NAMES = {0: 'NOT_PRESENT', 1: 'UNDEFINED', 2: 'ZERO', 3: 'UNMAPPED',
         6: 'FULLY_PRESENT', 7: 'PARTIALLY_PRESENT'}
UNIT = MIB
TOLD = 20

Run = namedtuple('Run', 'block count offset')


class Bat:
    def __init__(self, view, region, params, report):
        self.view, self.region, self.params = view, region, params
        self.report = report
        self.ratio = params.chunk_ratio
        self.counts = {state: 0 for state in NAMES}
        self.runs = []          # payload blocks that have space in the file
        self.bitmaps = {}       # chunk -> place of its sector bitmap block
        self.told = 0
        # a table that is too short is an error; what is there is checked
        entries = min(params.bat_entries, region.length // 8)
        self.blocks = params.blocks if entries == params.bat_entries else \
            min(params.blocks, entries - entries // (self.ratio + 1))
        if params.bat_entries * 8 > region.length:
            report.error('BAT', 'region has %d bytes, %d entries need %d'
                         % (region.length, params.bat_entries,
                            params.bat_entries * 8))

    def complain(self, index, text):
        """The first errors are told one by one, the others counted."""
        self.told += 1
        if self.told <= TOLD:
            self.report.error('BAT entry %d' % index, text)

    def entry(self, index):
        data = self.view.read(self.region.offset + 8 * index, 8)
        return int.from_bytes(data, 'little')

    def lookup(self, block):
        """State and file offset of a payload block."""
        entry = self.entry(block + block // self.ratio)
        return entry & 7, entry >> 20 << 20

    def bitmap(self, chunk):
        return self.entry(chunk * (self.ratio + 1) + self.ratio) >> 20 << 20

    def check(self):
        ratio, region = self.ratio, self.region
        group = 8 * (ratio + 1)
        per_unit = max(1, UNIT // group)
        zeroed = ZERO.to_bytes(8, 'little') * ratio + bytes(8)
        chunks = -(-self.blocks // ratio)
        chunk = 0
        while chunk < chunks:
            n = min(per_unit, chunks - chunk)
            blocks = min(n * ratio, self.blocks - chunk * ratio)
            length = n * group if self.params.has_parent else \
                8 * (blocks + blocks // ratio)
            length = min(length, region.length - chunk * group)
            at = region.offset + chunk * group
            if self.view.reads_zero(at, length):
                self.counts[NOT_PRESENT] += blocks
            else:
                data = self.view.read(at, length)
                if data == (zeroed * n)[:length]:
                    self.counts[ZERO] += blocks
                else:
                    self.check_unit(chunk, n, blocks, data, zeroed)
            chunk += n
        if self.told > TOLD:
            self.report.error('BAT', '%d errors more' % (self.told - TOLD))
        self.check_rest()
        if self.params.fixed and not self.params.has_parent and \
                self.counts[PRESENT] != self.params.blocks:
            self.report.error('BAT', '%d blocks of %d of a fixed file are '
                              'not FULLY_PRESENT'
                              % (self.params.blocks - self.counts[PRESENT],
                                 self.params.blocks))

    def check_unit(self, chunk, n, blocks, data, zeroed):
        group = len(zeroed)
        for i in range(n):
            part = data[i * group:(i + 1) * group]
            count = min(self.ratio, blocks - i * self.ratio)
            if is_zero(part):
                self.counts[NOT_PRESENT] += count
            elif part == zeroed[:len(part)]:
                self.counts[ZERO] += count
            else:
                self.check_group(chunk + i, count, part)

    def check_group(self, chunk, count, data):
        entries = array('Q', data)
        if sys.byteorder == 'big':
            entries.byteswap()
        first, index = chunk * self.ratio, chunk * (self.ratio + 1)
        partial = False
        block, mib = entries[0] & 7, self.params.block_size
        rising = array('Q', range(entries[0], entries[0] + count * mib, mib)) \
            if entries[0] + count * mib < 1 << 64 else None
        if block == PRESENT and not entries[0] & RESERVED and \
                entries[:count] == rising:
            self.counts[PRESENT] += count
            self.place(index, first, entries[0] >> 20 << 20, count)
        else:
            for i in range(count):
                if entries[i] == NOT_PRESENT or entries[i] == ZERO:
                    self.counts[entries[i]] += 1
                else:
                    partial |= self.check_entry(index + i, first + i,
                                                entries[i])
            if any(entries[count:self.ratio]):
                self.complain(index + count, 'entries without a block are not '
                              'zero')
        bitmap = entries[self.ratio] if len(entries) > self.ratio else 0
        self.check_bitmap(chunk, index + self.ratio, bitmap, partial)

    def check_entry(self, index, block, entry):
        """Any entry but a plain NOT_PRESENT or ZERO; True if partial."""
        state, offset = entry & 7, entry >> 20 << 20
        if state not in NAMES or \
                (state == PARTIAL and not self.params.has_parent):
            self.complain(index, 'state is %d' % state)
            return False
        self.counts[state] += 1
        if entry & RESERVED:
            self.complain(index, 'reserved bits are set: %#x' % entry)
        if state in (NOT_PRESENT, ZERO):
            if offset:
                self.complain(index, '%s has offset %#x'
                              % (NAMES[state], offset))
        elif offset or state in (PRESENT, PARTIAL):
            self.place(index, block, offset, 1)
        return state == PARTIAL

    def place(self, index, block, offset, count):
        end = offset + count * self.params.block_size
        if offset < MIB:
            self.complain(index, 'block has offset %#x' % offset)
        elif end > self.view.size:
            self.complain(index, 'block ends at %#x behind the end of the '
                          'file %#x' % (end, self.view.size))
        self.runs.append(Run(block, count, offset))

    def check_bitmap(self, chunk, index, entry, needed):
        state, offset = entry & 7, entry >> 20 << 20
        if not self.params.has_parent:
            if entry:
                self.complain(index, 'sector bitmap entry is %#x' % entry)
            return
        if state not in (NOT_PRESENT, PRESENT) or entry & RESERVED:
            self.complain(index, 'sector bitmap entry is %#x' % entry)
        elif state == NOT_PRESENT:
            if offset:
                self.complain(index, 'absent sector bitmap has offset %#x'
                              % offset)
            if needed:
                self.complain(index, 'no sector bitmap for a partial block')
        elif offset < MIB or offset + MIB > self.view.size:
            self.complain(index, 'sector bitmap has offset %#x' % offset)
        else:
            self.bitmaps[chunk] = offset

    def check_rest(self):
        """Room behind the last entry; in a child that is its bitmap's."""
        at = self.region.offset + 8 * self.params.bat_entries
        end = self.region.offset + self.region.length
        while at < end:
            length = min(UNIT, end - at)
            if not self.view.reads_zero(at, length) and \
                    not is_zero(self.view.read(at, length)):
                self.report.warn('BAT', 'bytes behind the last entry are not '
                                 'zero, near %#x' % at)
                return
            at += length
