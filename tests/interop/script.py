"""A list of qemu-io commands and the model of the disk, kept in step.

Each method appends one command and does to the model what it asks for; reads
are appended as checks of what the model holds.  block_size is that of a
dynamic image, 0 for a fixed one: it says what a discard makes certain.
"""
import os

from harness import DUMP, expect
from model import CHUNK, SECTOR


class Script:
    def __init__(self, model, block_size):
        self.model = model
        self.block_size = block_size
        self.commands = []
        self.dumped = []

    def take(self):
        """The commands so far; the next ones begin a new list."""
        commands, self.commands = self.commands, []
        return commands

    def verify(self, text):
        """What the dumps in the output of qemu-io show is what was there."""
        got = b''.join(bytes.fromhex(m.group(1)) for m in DUMP.finditer(text))
        at = 0
        for offset, want in self.dumped:
            expect(got[at:at + len(want)] == want,
                   'read of %#x, %d bytes, is not what was written',
                   offset, len(want))
            at += len(want)
        expect(at == len(got), '%d bytes were dumped, not %d', len(got), at)
        self.dumped = []

    def _clip(self, offset, length):
        return min(length, self.model.size - offset)

    def write(self, offset, length, pattern):
        length = self._clip(offset, length)
        self.commands.append('write -q -P %d %d %d'
                             % (pattern, offset, length))
        self.model.write(offset, length, pattern)

    def write_file(self, offset, length, path):
        """The bytes of a file, again and again."""
        length = self._clip(offset, length)
        self.commands.append('write -q -s %s %d %d' % (path, offset, length))
        with open(path, 'rb') as file:
            self.model.write(offset, length, file.read())

    def zero(self, offset, length, unmap=False):
        length = self._clip(offset, length)
        self.commands.append('write -q -z %s %d %d' % (
            '-u' if unmap else '', offset, length))
        self.model.zero(offset, length)

    def discard(self, offset, length):
        length = self._clip(offset, length)
        self.commands.append('discard -q %d %d' % (offset, length))
        self.model.discard(offset, length, self.block_size)

    def flush(self):
        self.commands.append('flush')

    def read(self, offset, length, most=40):
        """Reads of the pieces that hold one value each."""
        length = self._clip(offset, length)
        pieces = list(self.model.uniform(offset, length))
        for at, n, value in pieces[:most]:
            self.commands.append('read -q -P %d %d %d' % (value, at, n))

    def read_written(self):
        """Reads of everything that was written, and around it."""
        for number in sorted(self.model.chunks):
            self.read(max(0, number * CHUNK - 4096), CHUNK + 8192)
        self.read(self.model.size - 4096, 4096)

    def dump(self, offset, length):
        """One read over data of all kinds, to be checked by verify()."""
        length = self._clip(offset, length)
        if self.model.loose.isdisjoint(
                range(offset // SECTOR, -(-(offset + length) // SECTOR))):
            self.commands.append('read -v %d %d' % (offset, length))
            self.dumped.append((offset, self.model.read(offset, length)))

    def parallel(self, requests):
        """Requests under way at once: (offset, length, pattern), disjoint;
        pattern 0 is written as zeroes that may unmap, pattern None read."""
        for offset, length, pattern in requests:
            length = self._clip(offset, length)
            if pattern is None:
                for at, n, value in list(self.model.uniform(offset,
                                                            length))[:4]:
                    self.commands.append('aio_read -q -P %d %d %d'
                                         % (value, at, n))
            elif pattern:
                self.commands.append('aio_write -q -P %d %d %d'
                                     % (pattern, offset, length))
                self.model.write(offset, length, pattern)
            else:
                self.commands.append('aio_write -q -z -u %d %d'
                                     % (offset, length))
                self.model.zero(offset, length)
        self.commands.append('aio_flush')

    def kill(self):
        """End of the process with nothing closed."""
        self.flush()
        self.commands.append('sigraise 9')


def data_file(path, length, random):
    """A file of bytes without a pattern, for write_file()."""
    with open(path, 'wb') as file:
        file.write(random.randbytes(length))
    return path


def fingerprint(path):
    """What changes when somebody writes to a file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_blocks
