"""What each sector of a disk may read as after a power cut.

Each sector that is written holds the number of the request and its own number,
over and over, so what is read tells where it comes from.  A History keeps the
requests with the times at which they were sent and answered.  A flush that was
answered makes stable what had been answered before it was sent.  After a cut

 - a sector reads as one of the requests that covered it, or as at the start;
 - not as one that a stable request came after: one that was sent only when the
   former had been answered.

Writes that were in flight together, or were never answered, may stand in
either order or not at all.  A trim may or may not zero its sectors.
"""
import struct

from harness import Failure, expect
from nbd import TRIM, WRITE, ZEROES

SECTOR = 512
STAMP = struct.Struct('<QQ')
MAGIC = 0x57445856 << 32        # in the upper half of the request's number
ZERO = 0                        # the number that a sector of zeros has
BLANK = bytes(SECTOR)


def stamped(number, offset, length):
    """The data of a write."""
    first = offset // SECTOR
    return b''.join(STAMP.pack(MAGIC | number, first + i) *
                    (SECTOR // STAMP.size) for i in range(length // SECTOR))


def origin(data, sector):
    """The number of the request that this sector's data is from."""
    if data == BLANK:
        return ZERO
    word, place = STAMP.unpack_from(data)
    if word >> 32 != MAGIC >> 32 or \
            data != STAMP.pack(word, place) * (SECTOR // STAMP.size):
        raise Failure('sector %d is mixed or foreign: %r...'
                      % (sector, data[:32]))
    if place != sector:
        raise Failure('sector %d holds data of sector %d' % (sector, place))
    return word & 0xffffffff


class Sector:
    """What was done to one sector: the number it had at the start, and the
    requests, as (number, request)."""
    __slots__ = ('start', 'done')

    def __init__(self, start=ZERO):
        self.start, self.done = start, []


class History:
    """'number' counts the writes of all sessions with an image."""
    def __init__(self):
        self.number = 0
        self.sectors = {}
        self.flushes = []

    def next_write(self, offset, length):
        self.number += 1
        return self.number, stamped(self.number, offset, length)

    def add(self, request, number=ZERO):
        """A request that changes the disk and is about to be sent."""
        expect(request.kind in (WRITE, TRIM, ZEROES), '%s', request)
        for sector in range(request.offset // SECTOR, request.stop // SECTOR):
            self.sectors.setdefault(sector, Sector()).done.append(
                (number, request))

    def restart(self, numbers):
        """A new session, on a disk that holds these numbers."""
        self.flushes = []
        for sector, entry in self.sectors.items():
            entry.start, entry.done = numbers[sector], []

    def stable_until(self, clock):
        """What was answered before this time is stable at that time."""
        return max((f.sent for f in self.flushes
                    if f.replied is not None and f.replied <= clock
                    and not f.error), default=0)

    def allowed(self, entry, stable):
        """The numbers that a sector may have."""
        barrier = 0             # a stable request that was sent then
        for _, request in entry.done:
            if request.kind != TRIM and not request.error and \
                    request.replied is not None and request.replied < stable:
                barrier = max(barrier, request.sent)
        found = {number for number, request in entry.done
                 if request.replied is None or request.replied >= barrier}
        if not barrier:
            found.add(entry.start)
        return found

    def judge(self, image, clock):
        """Look at each sector that was ever written; returns the numbers, and
        how many sectors held something that had to be there."""
        stable = self.stable_until(clock)
        numbers, bound = {}, 0
        for first, count in self.runs():
            data = image.read(first * SECTOR, count * SECTOR)
            for i in range(count):
                sector = first + i
                number = origin(data[i * SECTOR:(i + 1) * SECTOR], sector)
                allowed = self.allowed(self.sectors[sector], stable)
                if number not in allowed:
                    raise Failure(
                        'sector %d reads as request %d, may be one of %s; %s'
                        % (sector, number, sorted(allowed),
                           self.told(sector, stable)))
                numbers[sector] = number
                bound += ZERO not in allowed
        self.rest_is_zero(image)
        return numbers, bound

    def told(self, sector, stable):
        return 'stable until %d; ' % stable + ', '.join(
            '%d kind %d sent %s answered %s' % (n, r.kind, r.sent, r.replied)
            for n, r in self.sectors[sector].done[-8:])

    def runs(self):
        """(first, count) of the sectors that were ever written."""
        first = count = 0
        for sector in sorted(self.sectors):
            if first + count == sector and 0 < count < 2048:
                count += 1
                continue
            if count:
                yield first, count
            first, count = sector, 1
        if count:
            yield first, count

    def rest_is_zero(self, image):
        """Nothing is where no request was."""
        for offset, length in image.data_extents():
            at, end = offset, offset + length
            while at < end:
                n = min(65536 - at % 65536, end - at)
                data = image.read(at, n)
                if data.count(0) != n:
                    for i in range(0, n, SECTOR):
                        sector = (at + i) // SECTOR
                        if sector not in self.sectors and \
                                data[i:i + SECTOR] != BLANK:
                            raise Failure('sector %d was never written and '
                                          'reads as %r...'
                                          % (sector, data[i:i + 32]))
                at += n
