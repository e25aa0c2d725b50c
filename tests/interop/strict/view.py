"""A file as it is after log replay, without writing to it.

The view keeps the replayed updates beside the file: a dictionary of 4 KiB
pages for data, a list of ranges for zeroes, and for each the number of the
update, so that the latest wins.  It also knows the holes of the file, which
lets a check step over the unwritten parts of a huge block allocation table.
"""
import bisect
import errno
import os

PAGE = 4096


class View:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        self.file_size = os.fstat(self.fd).st_size
        self.size = self.file_size
        self.pages = {}
        self.zeroes = []
        self.updates = 0
        self._data = None

    def close(self):
        os.close(self.fd)

    def put_page(self, offset, data):
        self.updates += 1
        self.pages[offset // PAGE] = (self.updates, bytes(data))

    def put_zeroes(self, offset, length):
        self.updates += 1
        self.zeroes.append((self.updates, offset, offset + length))

    def extend(self, size):
        self.size = max(self.size, size)

    def raw(self, offset, length):
        """The file's own bytes; behind its end there are zeroes."""
        parts = []
        while length:
            part = os.pread(self.fd, length, offset)
            if not part:
                parts.append(bytes(length))
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b''.join(parts)

    def read(self, offset, length):
        data = self.raw(offset, length)
        if not self.updates or not length:
            return data
        end = offset + length
        data = bytearray(data)
        for _, start, stop in self.zeroes:
            start, stop = max(start, offset), min(stop, end)
            if start < stop:
                data[start - offset:stop - offset] = bytes(stop - start)
        for number in self._pages_in(offset, end):
            order, page = self.pages[number]
            at = number * PAGE
            if any(o > order and start <= at < stop
                   for o, start, stop in self.zeroes):
                continue
            start, stop = max(at, offset), min(at + PAGE, end)
            data[start - offset:stop - offset] = page[start - at:stop - at]
        return bytes(data)

    def _pages_in(self, offset, end):
        first, last = offset // PAGE, (end + PAGE - 1) // PAGE
        if last - first < len(self.pages):
            return [n for n in range(first, last) if n in self.pages]
        return [n for n in self.pages if first <= n < last]

    def _extents(self):
        """Starts and ends of the file's data extents, found once."""
        if self._data is None:
            starts, ends, at = [], [], 0
            while at < self.file_size:
                try:
                    start = os.lseek(self.fd, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        break
                    raise
                at = os.lseek(self.fd, start, os.SEEK_HOLE)
                starts.append(start)
                ends.append(at)
            self._data = starts, ends
        return self._data

    def data_in(self, offset, end):
        """Parts of [offset, end) of the file that are not holes in it."""
        starts, ends = self._extents()
        found = []
        i = bisect.bisect_right(ends, offset)
        while i < len(starts) and starts[i] < end:
            found.append((max(starts[i], offset), min(ends[i], end)))
            i += 1
        return found

    def reads_zero(self, offset, length):
        """True where a hole makes it certain without reading."""
        end = offset + length
        if self.data_in(offset, end):
            return False
        return not (self.pages and self._pages_in(offset, end))
