"""What a disk should hold, and whether a guest or qemu-io finds it there."""
from tools import MIB

# the smallest piece that is written here: a part of a block of any size
PIECE = 64 * 1024


class Content:
    """The patterns of a disk, piece by piece; 0 is what was never written.

    It can be handed on: after a snapshot the overlay shows what the disk
    below had, and a copy of this object goes on with it."""
    def __init__(self, size=64 * MIB, pieces=None):
        self.pieces = bytearray(pieces or size // PIECE)

    def copy(self):
        return Content(pieces=self.pieces)

    def put(self, pattern, offset, length):
        """It has been written there by other means."""
        first = offset // PIECE
        number = length // PIECE
        assert first * PIECE == offset and number * PIECE == length
        assert first + number <= len(self.pieces)
        self.pieces[first:first + number] = bytes([pattern]) * number

    def write(self, domain, pattern, offset, length, unit=0):
        """A write by the guest; the pattern 0 is a write of zeroes."""
        if pattern:
            domain.write(pattern, offset, length, unit)
        else:
            domain.guest('write -z %d %d' % (offset, length), unit)
        self.put(pattern, offset, length)

    @staticmethod
    def layer(number):
        """Where the layer with this number writes, and what: a part of a
        block that only it has, one that all layers write a part of, a whole
        block, and zeros over some of what the layer below has."""
        pattern = 16 * (number + 1)
        yield pattern, number * PIECE, PIECE
        yield pattern + 1, 4 * MIB + number * PIECE, 8 * PIECE
        yield pattern + 2, (16 + 2 * number) * MIB, 2 * MIB
        if number:
            yield 0, (14 + 2 * number) * MIB + 4 * PIECE, 4 * PIECE

    def guest_layer(self, domain, number):
        """Write a layer as the guest."""
        for pattern, offset, length in self.layer(number):
            self.write(domain, pattern, offset, length)

    def file_layer(self, tools, path, number, form='vhdx'):
        """Write a layer into an image that nobody has open."""
        commands = []
        for pattern, offset, length in self.layer(number):
            kind = '-P %d' % pattern if pattern else '-z'
            commands.append('write -q %s %d %d' % (kind, offset, length))
            self.put(pattern, offset, length)
        tools.io(path, *commands, form=form)

    def runs(self):
        """(pattern, offset, length) for all of the disk."""
        start = 0
        for place in range(1, len(self.pieces) + 1):
            if place == len(self.pieces) or \
                    self.pieces[place] != self.pieces[start]:
                yield (self.pieces[start], start * PIECE,
                       (place - start) * PIECE)
                start = place

    def seen_by(self, domain, unit=0):
        """The guest finds it, all over the disk."""
        for run in self.runs():
            domain.reads(*run, unit=unit)

    def held_by(self, tools, path, form='vhdx'):
        """The image, which nobody has open, is clean and shows it."""
        tools.check(path, form)
        tools.holds(path, *self.runs(), form=form)
