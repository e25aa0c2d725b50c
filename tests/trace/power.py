"""What a power cut could leave of a file, from the record of a run.

At a point of the record, that is, a stamp, a call is
 - stable if it had ended before a flush began that has itself ended;
 - pending if it has begun and is not stable: it may be in the file, or not, or
   in part, and so may each other pending call;
 - not there if it has not begun.

A disk writes sectors of 512 bytes whole, so those are the parts.
"""
import ctypes
import errno
import os
import subprocess

from harness import Failure, expect
from record import (DSYNC, FALLOCATE, FLUSH, KEEP_SIZE, PUNCH_HOLE,
                    READ, TRUNCATE, WRITE)
from strict.view import View

SECTOR = 512
CALLS = (WRITE, TRUNCATE, FALLOCATE)
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64,
                           ctypes.c_int64]


def copy(source, target):
    """With the holes."""
    subprocess.run(['cp', '--sparse=always', source, target], check=True)


def zero(fd, offset, length, keep_size):
    end = offset + length
    size = os.fstat(fd).st_size
    if end > size:
        if keep_size:
            end = max(offset, size)
        else:
            os.ftruncate(fd, end)
    if end > offset and LIBC.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset,
                                       end - offset) != 0:
        for at in range(offset, end, 1 << 20):
            os.pwrite(fd, bytes(min(1 << 20, end - at)), at)


def apply(op, fd, pieces=None):
    """Do what a call did; 'pieces' are the parts of it that arrive, as
    (start, end) from its beginning."""
    if op.kind == TRUNCATE:
        os.ftruncate(fd, op.offset)
    elif op.kind == FALLOCATE:
        for start, end in pieces or [(0, op.length)]:
            zero(fd, op.offset + start, end - start, op.flags & KEEP_SIZE)
    else:
        for start, end in pieces or [(0, op.length)]:
            os.pwrite(fd, op.data[start:end], op.offset + start)


def torn(op, chance):
    """A part of a call: its beginning, its end, or sectors here and there."""
    sectors = op.length // SECTOR
    if sectors < 2:
        return chance.choice(([], [(0, op.length)]))
    kind = chance.randrange(4)
    cut = chance.randrange(1, sectors) * SECTOR
    if kind == 0:
        return [(0, cut)]
    if kind == 1:
        return [(cut, op.length)]
    if kind == 2:
        return [(0, SECTOR), (op.length - SECTOR, op.length)]
    pieces = []
    for at in range(0, op.length, SECTOR):
        if chance.random() < 0.5:
            if pieces and pieces[-1][1] == at:
                pieces[-1] = (pieces[-1][0], at + SECTOR)
            else:
                pieces.append((at, at + SECTOR))
    return pieces


class Cuts:
    """States of the file 'work', which at first is as before the run.  Points
    have to be asked for in rising order."""
    MODES = ('nothing', 'all', 'half', 'torn', 'last', 'metadata', 'data')

    def __init__(self, ops, work, layout):
        self.ops = []
        for op in ops:
            if op.kind == READ:
                continue
            expect(op.kind in CALLS + (FLUSH,), 'cannot replay %s', op)
            expect(not op.flags & DSYNC or op.kind != WRITE, '%s', op)
            if op.result == -errno.EOPNOTSUPP and op.kind == FALLOCATE:
                continue
            expect(op.result is None or
                   op.result == (op.length if op.kind == WRITE else 0),
                   'failed or short: %s', op)
            expect(op.kind != FALLOCATE or op.flags & PUNCH_HOLE or
                   op.flags == 0x10 or op.flags == 0x11 or op.flags == 0,
                   'cannot replay %s', op)
            self.ops.append(op)
        self.work, self.layout = work, layout
        self.stable = set()
        stamps = [op.start for op in self.ops]
        stamps += [op.end for op in self.ops if op.end is not None]
        self.last = max(stamps, default=0) + 1

    def clock(self, point):
        """A time that had come when the record was at that point."""
        times = [op.clock for op in self.ops if op.start < point]
        times += [op.end_clock for op in self.ops
                  if op.end is not None and op.end < point]
        return max(times, default=0)

    def parts(self, ops):
        """What the writes among these went to."""
        return {self.layout.part(op) for op in ops if op.kind == WRITE}

    def modes(self, pending):
        """What to choose from: while an entry or a header is on its way, it
        matters most that it may overtake what it is about."""
        parts = self.parts(pending)
        if 'header' in parts:
            return self.MODES + ('header',) * 7
        if 'log' in parts:
            return self.MODES + ('metadata',) * 5
        return self.MODES

    def points(self, count, chance):
        """Stamps: anywhere, around flushes and changes of metadata, and around
        changes of headers, that is, in the first change and in closing."""
        near, headers = [], []
        for op in self.ops:
            part = self.layout.part(op) if op.kind == WRITE else None
            if op.kind in (FLUSH, TRUNCATE) or part not in (None, 'data'):
                around = [op.start + 1]
                if op.end is not None:
                    around += [op.end, op.end + 1]
                near += around
                if part == 'header':
                    headers += around
        found = [chance.randrange(self.last + 1) for _ in range(count // 3)]
        for _ in range(count // 3):
            # half of them around the last two, which may be closing's
            some = headers[-6:] if chance.random() < 0.5 else headers
            found.append(chance.choice(some or [self.last]))
        found += [chance.choice(near or [self.last])
                  for _ in range(count - len(found))]
        return sorted(found)

    def advance(self, point):
        """Put what is stable at that point into the file; what is pending."""
        bound = max((op.start for op in self.ops if op.kind == FLUSH and
                     op.end is not None and op.end < point), default=-1)
        fresh = [op for op in self.ops if op.kind in CALLS and
                 op.end is not None and op.end < bound and
                 op.start not in self.stable]
        fd = os.open(self.work, os.O_RDWR)
        try:
            for op in sorted(fresh, key=lambda op: op.end):
                apply(op, fd)
                self.stable.add(op.start)
        finally:
            os.close(fd)
        return [op for op in self.ops if op.kind in CALLS and
                op.start < point and op.start not in self.stable]

    def state(self, point, target, chance):
        """Write a state to 'target'; what was pending, how it arrives, and
        how much of it has not arrived whole."""
        pending = self.advance(point)
        mode = chance.choice(self.modes(pending))
        copy(self.work, target)
        lost = 0
        odd = chance.choice(pending) if pending else None
        fd = os.open(target, os.O_RDWR)
        try:
            for op in pending:
                pieces = self.arrives(op, mode, odd, chance)
                if pieces != [(0, op.length)]:
                    lost += 1
                if pieces:
                    apply(op, fd, None if op.kind == TRUNCATE else pieces)
        finally:
            os.close(fd)
        return pending, mode, lost

    def arrives(self, op, mode, odd, chance):
        whole = [(0, op.length)]
        if mode == 'nothing':
            return []
        if mode == 'all':
            return whole
        if mode == 'last':
            return [] if op is odd else whole
        if mode == 'header':
            return whole if self.parts([op]) == {'header'} else []
        if mode in ('metadata', 'data'):
            data = op.kind == FALLOCATE or \
                op.kind == WRITE and self.layout.part(op) == 'data'
            return whole if data == (mode == 'data') else []
        if mode == 'torn' and op.kind != TRUNCATE:
            return chance.choice(([], whole, torn(op, chance)))
        return chance.choice(([], whole))


def replayed(ops, start, target):
    """All calls of a record onto a copy of the file as it was before."""
    copy(start, target)
    fd = os.open(target, os.O_RDWR)
    try:
        for op in sorted((op for op in ops if op.kind in CALLS and
                          op.result is not None and op.result >= 0),
                         key=lambda op: op.end):
            apply(op, fd)
    finally:
        os.close(fd)


def disputed(ops):
    """Ranges in which the order of calls is not known: two that were under
    way together, or one that had not returned."""
    calls = [op for op in ops if op.kind in (WRITE, FALLOCATE)]
    found = [(op.offset, op.stop) for op in calls if op.end is None]
    active = []
    for op in sorted(calls, key=lambda op: op.start):
        active = [a for a in active if a.end is None or a.end > op.start]
        for other in active:
            start, end = max(op.offset, other.offset), min(op.stop, other.stop)
            if start < end:
                found.append((start, end))
        active.append(op)
    return found


def same_file(first, second, ignored):
    """Both have the same bytes, except in these ranges."""
    a, b = View(first), View(second)
    try:
        expect(a.size == b.size, 'the file has %d bytes, by its record %d',
               a.size, b.size)
        for start, end in a.data_in(0, a.size) + b.data_in(0, b.size):
            for at in range(start, end, 1 << 20):
                n = min(1 << 20, end - at)
                if a.raw(at, n) != b.raw(at, n):
                    compare(a.raw(at, n), b.raw(at, n), at, ignored)
    finally:
        a.close()
        b.close()


def compare(one, two, at, ignored):
    for i in range(0, len(one), SECTOR):
        if one[i:i + SECTOR] != two[i:i + SECTOR] and not any(
                start <= at + i and at + i + SECTOR <= end
                for start, end in ignored):
            raise Failure('the file differs from its record at %#x'
                          % (at + i))
