"""What a disk should hold: an in-memory model, sparse, with a trace of doubt.

Content is kept in chunks of 64 KiB, absent ones being zeroes.  A discard may
keep or zero what it does not cover by whole blocks; such sectors are 'loose'
until written again: they may read as they did, or as zeroes.
"""
import re

from harness import expect
from strict.view import View

CHUNK = 65536
SECTOR = 512
UNIFORM = re.compile(rb'(.)\1*', re.S)


class Model:
    def __init__(self, size):
        self.size = size
        self.chunks = {}
        self.loose = set()

    def copy(self):
        other = Model(self.size)
        other.chunks = {n: bytearray(c) for n, c in self.chunks.items()}
        other.loose = set(self.loose)
        return other

    def _parts(self, offset, length):
        end = min(offset + length, self.size)
        while offset < end:
            number, at = divmod(offset, CHUNK)
            n = min(CHUNK - at, end - offset)
            yield number, at, n
            offset += n

    def _firm(self, offset, length):
        if self.loose:
            self.loose.difference_update(
                range(offset // SECTOR, -(-(offset + length) // SECTOR)))

    def write(self, offset, length, pattern):
        """A fill byte, or bytes that repeat from the start of the write."""
        if isinstance(pattern, int):
            pattern = bytes([pattern])
        done = 0
        repeated = pattern * (CHUNK // len(pattern) + 2)
        for number, at, n in self._parts(offset, length):
            start = done % len(pattern)
            chunk = self.chunks.setdefault(number, bytearray(CHUNK))
            chunk[at:at + n] = repeated[start:start + n]
            done += n
        self._firm(offset, length)

    def zero(self, offset, length):
        for number, at, n in self._parts(offset, length):
            if n == CHUNK:
                self.chunks.pop(number, None)
            elif number in self.chunks:
                self.chunks[number][at:at + n] = bytes(n)
        self._firm(offset, length)

    def discard(self, offset, length, block_size=0):
        """Whole blocks read as zeroes after it; without a block size (a
        fixed image) no part of it is certain."""
        end = min(offset + length, self.size)
        first = last = offset
        if block_size:
            first = -(-offset // block_size) * block_size
            last = end // block_size * block_size
        if first < last:
            self.zero(first, last - first)
        else:
            first = last = offset
        for start, stop in ((offset, first), (last, end)):
            self.loose.update(range(start // SECTOR, -(-stop // SECTOR)))

    def resize(self, size):
        if size < self.size:
            self.zero(size, self.size - size)
            self.chunks = {n: data for n, data in self.chunks.items()
                           if n * CHUNK < size}
            self.loose = {n for n in self.loose if n < size // SECTOR}
        self.size = size

    def read(self, offset, length):
        out = bytearray()
        for number, at, n in self._parts(offset, length):
            chunk = self.chunks.get(number)
            out += chunk[at:at + n] if chunk else bytes(n)
        return bytes(out)

    def _pieces(self, offset, length):
        """(offset, length, byte) of uniform pieces, cut at chunks."""
        start = offset
        for number, at, n in self._parts(offset, length):
            chunk = self.chunks.get(number, b'')[at:at + n]
            value = chunk[0] if chunk else 0
            if not chunk or chunk.count(value) == n:
                yield start, n, value
            else:
                for match in UNIFORM.finditer(chunk):
                    yield (start + match.start(), match.end() - match.start(),
                           match.group(1)[0])
            start += n

    def uniform(self, offset, length):
        """(offset, length, byte) of the pieces with one value, none loose."""
        whole = []
        for start, n, value in self._pieces(offset, length):
            if whole and whole[-1][2] == value:
                whole[-1][1] += n
            else:
                whole.append([start, n, value])
        for start, n, value in whole:
            if not self.loose or self.loose.isdisjoint(
                    range(start // SECTOR, -(-(start + n) // SECTOR))):
                yield start, n, value

    def check(self, offset, data, who):
        """These bytes are what may be read there."""
        want = self.read(offset, len(data))
        if data == want:
            return
        for at in range(0, len(data), SECTOR):
            got, old = data[at:at + SECTOR], want[at:at + SECTOR]
            if got != old and not (
                    (offset + at) // SECTOR in self.loose and not any(got)):
                expect(False, '%s: at %#x there is %s, not %s', who,
                       offset + at, got[:16].hex(), old[:16].hex())

    def _check_numbers(self, extents, read, who):
        """All chunks with content here or there."""
        numbers = set(self.chunks)
        for offset, length in extents:
            numbers.update(range(offset // CHUNK,
                                 -(-(offset + length) // CHUNK)))
        for number in sorted(numbers):
            at = number * CHUNK
            self.check(at, read(at, min(CHUNK, self.size - at)), who)

    def check_image(self, image, who='strict reader'):
        """The whole content of an image that the strict reader opened."""
        expect(image.params.disk_size == self.size, 'disk has %d bytes, '
               'not %d', image.params.disk_size, self.size)
        self._check_numbers(image.data_extents(), image.read, who)

    def check_raw(self, path, who):
        """The whole content of a raw file."""
        view = View(path)
        try:
            expect(view.size == self.size, '%s: %d bytes, not %d', who,
                   view.size, self.size)
            extents = [(start, end - start)
                       for start, end in view.data_in(0, view.size)]
            self._check_numbers(extents, view.read, who)
        finally:
            view.close()

    def settle(self, image, later):
        """After a crash each sector holds what was flushed (this model) or
        what came later; what is found becomes the content."""
        expect(image.params.disk_size == self.size, 'disk size changed')
        numbers = set(self.chunks) | set(later.chunks)
        for offset, length in image.data_extents():
            numbers.update(range(offset // CHUNK,
                                 -(-(offset + length) // CHUNK)))
        for number in sorted(numbers):
            at = number * CHUNK
            data = image.read(at, min(CHUNK, self.size - at))
            for i in range(0, len(data), SECTOR):
                part = data[i:i + SECTOR]
                sector = (at + i) // SECTOR
                loose = sector in self.loose or sector in later.loose
                expect(part in (self.read(at + i, len(part)),
                                later.read(at + i, len(part)))
                       or loose and not any(part),
                       'at %#x there is %s, neither flushed nor written',
                       at + i, part[:16].hex())
            self.chunks[number] = bytearray(data.ljust(CHUNK, b'\0'))
        self.loose.clear()
