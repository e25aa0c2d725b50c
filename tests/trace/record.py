"""What the recorder has noted: reading it, and telling what each call was.

An Op is one call.  'start' and 'end' are stamps, which order the calls of all
threads; 'end' is None for a call that had not returned when the program ended.
A Layout says what part of a VHDX file a call went to.
"""
import contextlib
import errno
import mmap
import os
import struct

from harness import Failure, expect
from strict.header import BAT_REGION, HEADERS, METADATA_REGION, TABLES
from strict.report import KIB, MIB
from vhdx_strict import Image

NOTE = struct.Struct('<IHHIIQQQQQq')
MAGIC = 0x31435254
READ, WRITE, TRUNCATE, FALLOCATE, FLUSH, RANGE, COPY = range(1, 8)
BEGIN, END = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 0x10
DSYNC = 2 | 4                   # pwritev2: RWF_DSYNC, RWF_SYNC


class Op:
    """One call; 'clock' and 'end_clock' are CLOCK_MONOTONIC, nanoseconds."""
    def __init__(self, kind, thread, flags, offset, length, start, clock):
        self.kind, self.thread, self.flags = kind, thread, flags
        self.offset, self.length = offset, length
        self.start, self.clock = start, clock
        self.end = self.end_clock = self.result = None
        self.data = b''

    @property
    def stop(self):
        return self.offset + self.length

    def __repr__(self):
        name = ('', 'read', 'write', 'truncate', 'fallocate', 'flush',
                'range', 'copy')[self.kind]
        return '%s(%#x, %#x, flags %#x) %s..%s = %s' % (
            name, self.offset, self.length, self.flags, self.start, self.end,
            self.result)


def preloaded(record, image, delay=0):
    """The environment in which a program's calls on 'image' are noted."""
    library = os.environ.get('VHDX_RECORDER')
    if not library or not os.path.exists(library):
        raise Failure('VHDX_RECORDER does not name the recorder: '
                      'use scripts/run-trace')
    return dict(os.environ, LD_PRELOAD=library, VHDX_TRACE_FILE=image,
                VHDX_TRACE_RECORD=record, VHDX_TRACE_DELAY=str(delay))


class Record:
    """The notes of one run of a program.  read() gives the calls that are
    new since the last time; each must be complete unless 'broken'."""
    def __init__(self, path):
        self.path = path
        self.at = 0
        self.open = {}

    def read(self, broken=False):
        if not os.path.exists(self.path):
            return []
        with open(self.path, 'rb') as file:
            if os.fstat(file.fileno()).st_size <= self.at:
                return []
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as notes:
                found = self._parse(notes, broken)
        expect(broken or not self.open, 'still under way: %s',
               list(self.open.values()))
        return sorted(found, key=lambda op: op.start)

    def _parse(self, notes, broken):
        found = []
        while self.at + NOTE.size <= len(notes):
            (magic, kind, phase, thread, flags, number, stamp, clock, offset,
             length, result) = NOTE.unpack_from(notes, self.at)
            expect(magic == MAGIC, 'the record is damaged at %d', self.at)
            data = length if kind == WRITE and phase == BEGIN else 0
            if self.at + NOTE.size + data > len(notes):
                break
            self.at += NOTE.size
            if phase == BEGIN or kind == READ:
                op = Op(kind, thread, flags, offset, length, stamp, clock)
                op.data = notes[self.at:self.at + data]
                self.at += data
                found.append(op)
            if phase == BEGIN:
                self.open[number] = op
                continue
            if kind != READ:
                op = self.open.pop(number)
            op.end, op.end_clock, op.result = stamp, clock, result
        expect(broken or self.at == len(notes), 'the record ends in a note')
        return found


class Layout:
    """The parts of a closed image; they do not move while it is open."""
    def __init__(self, path):
        with Image(path) as image:
            expect(image.readable, '\n'.join(image.report.lines()))
            self.block_size = image.params.block_size
            self.log = image.header.log_offset
            self.log_length = image.header.log_length
            self.bat = image.regions[BAT_REGION]
            metadata = image.regions[METADATA_REGION]
        self.size = os.stat(path).st_size
        parts = [('header', HEADERS[0], 4 * KIB),
                 ('header', HEADERS[1], 4 * KIB),
                 ('table', TABLES[0], 64 * KIB),
                 ('table', TABLES[1], 64 * KIB),
                 ('log', self.log, self.log_length),
                 ('BAT', self.bat.offset, self.bat.length),
                 ('metadata', metadata.offset, metadata.length)]
        self.parts = [(name, at, at + n) for name, at, n in parts]
        self.first = max(end for _, _, end in self.parts)

    def part(self, op):
        """The name of what holds the bytes of this call, all of them."""
        for name, start, end in self.parts:
            if start <= op.offset and op.stop <= end:
                return name
        if op.offset >= self.first:
            return 'data'
        raise Failure('%s lies in no part of the file' % op)

    def names(self, ops, reads=False):
        """What each call did, in short; None of them may have failed.

        Zeroing is one step, though file-posix may try several modes of
        fallocate for it, some of which a file system does not know."""
        names, last = [], None
        for op in ops:
            if op.kind == READ:
                if reads:
                    names.append('read ' + self.part(op))
                continue
            if op.kind == FALLOCATE and op.result == -errno.EOPNOTSUPP:
                continue
            expect(op.result is not None and op.result >= 0, 'failed: %s', op)
            if op.kind == FALLOCATE and last and last.kind == FALLOCATE and \
                    (op.offset, op.length) == (last.offset, last.length):
                continue
            names.append(self._name(op))
            last = op
        return names

    def _name(self, op):
        if op.kind == WRITE:
            expect(op.result == op.length, 'short: %s', op)
            expect(not op.flags & DSYNC, 'synchronous: %s', op)
            return self.part(op)
        if op.kind == FLUSH:
            return 'flush'
        if op.kind == FALLOCATE:
            expect(self.part(op) == 'data', 'not of blocks: %s', op)
            return 'zero'
        if op.kind == TRUNCATE:
            before, self.size = self.size, op.offset
            expect(op.offset >= self.first and op.offset % MIB == 0,
                   'an odd length: %s', op)
            return 'grow' if op.offset > before else 'shrink'
        raise Failure('unexpected: %s' % op)


@contextlib.contextmanager
def environment(values):
    """These variables, for programs that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
