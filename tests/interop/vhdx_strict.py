#!/usr/bin/python3
"""A strict reader of VHDX files, written from the format's description alone.

It shares no code with the driver: what both agree on, both have understood.
It checks every byte that the format gives a meaning or reserves, replays a
live log in memory, and reads the disk's content.

  vhdx_strict.py FILE                  print findings, exit 1 on any
  vhdx_strict.py --unclean FILE        the file may have been left open
  vhdx_strict.py --read OFF LEN FILE   content of the disk to standard output
  vhdx_strict.py --hash FILE           SHA-256 of the whole content

The parts are in strict/: what was found (report), the file after replay
(view), headers and region tables (header), log, metadata, and the block
allocation table (bat).
"""
import argparse
import hashlib
import os
import sys

from strict import bat, header, log, metadata
from strict.report import MIB, NIL_GUID, Corrupt, Report
from strict.view import View


class Image:
    """One VHDX file: checked when made, then readable.

    'unclean' is for a file that another process has open or that was not
    closed: a live log, copies of the header that differ, and space nobody
    owns (also behind the last object) are told as info only.  With 'tail' the
    latter is so in a closed one, too: it stands for a device.
    """
    def __init__(self, path, unclean=False, tail=False):
        self.path = path
        self.unclean = unclean
        self.tail = tail
        self.report = Report()
        self.view = View(path)
        self.readable = False
        self.parent = None
        try:
            self._check()
            self.readable = True
        except Corrupt:
            pass

    def close(self):
        self.view.close()
        if self.parent:
            self.parent.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self):
        view, report = self.view, self.report
        self.creator = header.check_identifier(view, report)
        self.header = header.current_header(view, report, self.unclean)
        header.check_gaps(view, report)
        entries = []
        if self.header.log_guid != NIL_GUID:
            if not self.unclean:
                report.error('header', 'LogGuid is %s after a clean close'
                             % self.header.log_guid)
            entries = log.replay(view, self.header, report)
        self.regions = header.check_regions(view, report)
        self.params = metadata.check_metadata(
            view, self.regions[header.METADATA_REGION], report)
        self.bat = bat.Bat(view, self.regions[header.BAT_REGION],
                           self.params, report)
        self.bat.check()
        end = self._check_space()
        if entries:
            self._check_log(entries, end)

    def objects(self):
        """(start, end, name) of everything that has its own place."""
        found = [(0, MIB, 'header section'),
                 (self.header.log_offset,
                  self.header.log_offset + self.header.log_length, 'log')]
        names = {header.BAT_REGION: 'BAT', header.METADATA_REGION: 'metadata'}
        for region in self.regions.values():
            found.append((region.offset, region.offset + region.length,
                          names.get(region.guid, 'region ' + region.guid)))
        for run in self.bat.runs:
            found.append((run.offset,
                          run.offset + run.count * self.params.block_size,
                          'payload block %d' % run.block))
        for chunk, offset in self.bat.bitmaps.items():
            found.append((offset, offset + MIB, 'sector bitmap %d' % chunk))
        return sorted(found)

    def _check_space(self):
        """No overlap, nothing unused at the end; returns where that is."""
        end, before = 0, None
        for start, stop, name in self.objects():
            if start < end:
                self.report.error('space', '%s at %#x overlaps %s'
                                  % (name, start, before))
            elif start > end:
                self.report.info('space', '%d MiB free at %#x'
                                 % ((start - end) // MIB, end))
            if stop > end:
                end, before = stop, name
        if self.view.file_size > end:
            may = self.unclean or self.tail
            tell = self.report.info if may else self.report.error
            tell('space', 'the file has %#x bytes, the last object ends at '
                 '%#x' % (self.view.file_size, end))
        return end

    def _check_log(self, entries, end):
        if entries[-1].last < end:
            self.report.error('log', 'LastFileOffset is %#x, the last object '
                              'ends at %#x' % (entries[-1].last, end))
        allowed = [(t, t + 65536) for t in header.TABLES]
        allowed += [(r.offset, r.offset + r.length)
                    for r in self.regions.values()]
        allowed += [(o, o + MIB) for o in self.bat.bitmaps.values()]
        log.check_targets(entries, allowed, self.report)

    def open_parent(self, path=None, children=()):
        """Open the chain, by default along the relative paths."""
        if not self.params.has_parent:
            return
        children = (*children, os.path.realpath(self.path))
        if path is None:
            relative = self.params.locator['relative_path']
            path = os.path.join(os.path.dirname(self.path) or '.',
                                relative.replace('\\', '/'))
        if os.path.realpath(path) in children:
            raise Corrupt('the chain of parents is a circle: %s' % path)
        self.parent = Image(path)
        if not self.parent.readable:
            raise Corrupt('the parent %s can\'t be read' % path)
        data_write = self.parent.header.data_write
        linkage = '{%s}' % data_write
        locator = self.params.locator
        if data_write == NIL_GUID or \
                linkage not in (locator.get('parent_linkage'),
                                locator.get('parent_linkage2')):
            raise Corrupt('the parent %s is %s' % (path, linkage))
        if self.parent.params.logical != self.params.logical:
            raise Corrupt('the parent %s has sectors of %d bytes'
                          % (path, self.parent.params.logical))
        self.parent.open_parent(children=children)

    def read(self, offset, length):
        """The disk's content; behind its end there are zeroes."""
        parts = []
        size = self.params.block_size
        while length:
            block, inside = divmod(offset, size)
            n = min(length, size - inside)
            valid = max(0, min(n, self.params.disk_size - offset))
            parts.append(self._read_in_block(block, inside, valid)
                         + bytes(n - valid))
            offset += n
            length -= n
        return b''.join(parts)

    def _read_in_block(self, block, inside, length):
        if not length:
            return b''
        state, offset = self.bat.lookup(block)
        at = block * self.params.block_size + inside
        if state == bat.PRESENT:
            return self.view.read(offset + inside, length)
        if state == bat.PARTIAL:
            return self._read_partial(block, inside, length, offset)
        if state == bat.NOT_PRESENT and self.parent:
            return self.parent.read(at, length)
        return bytes(length)

    def _read_partial(self, block, inside, length, offset):
        """Sector by sector from here or from the parent."""
        sector = self.params.logical
        first = inside // sector
        last = (inside + length - 1) // sector
        chunk, number = divmod(block, self.bat.ratio)
        number *= self.params.block_size // sector
        at = block * self.params.block_size
        bits = self.bat.bitmap(chunk)
        out = bytearray()
        for i in range(first, last + 1):
            byte, bit = divmod(number + i, 8)
            if self.view.read(bits + byte, 1)[0] >> bit & 1:
                out += self.view.read(offset + i * sector, sector)
            else:
                out += self.parent.read(at + i * sector, sector)
        start = inside - first * sector
        return bytes(out[start:start + length])

    def data_extents(self):
        """(offset, length) of the parts of the disk that may not be zero."""
        size, view = self.params.block_size, self.view
        for start, length in self.parent.data_extents() if self.parent else ():
            if start < self.params.disk_size:
                yield start, min(length, self.params.disk_size - start)
        for block, count, place in sorted(self.bat.runs):
            if count == 1 and self.bat.lookup(block)[0] not in (bat.PRESENT,
                                                                bat.PARTIAL):
                continue
            end = place + count * size
            for start, stop in view.data_in(place, end):
                at = block * size + start - place
                stop = block * size + stop - place
                stop = min(stop, self.params.disk_size)
                if at < stop:
                    yield at, stop - at

    def block_states(self):
        """How many payload blocks are in each state, by name."""
        return {bat.NAMES[s]: n for s, n in self.bat.counts.items() if n}

    def hash(self):
        digest = hashlib.sha256()
        for at in range(0, self.params.disk_size, MIB):
            digest.update(self.read(at, min(MIB, self.params.disk_size - at)))
        return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser(description='strict reader of VHDX files')
    parser.add_argument('--unclean', action='store_true',
                        help='the file may have been left open')
    parser.add_argument('--info', action='store_true',
                        help='print what is not wrong, too')
    parser.add_argument('--hash', action='store_true',
                        help='print the SHA-256 of the content')
    parser.add_argument('--read', nargs=2, type=lambda n: int(n, 0),
                        metavar=('OFFSET', 'LENGTH'),
                        help='write this part of the content')
    parser.add_argument('--parent', help='the parent of a differencing file')
    parser.add_argument('file')
    args = parser.parse_args()
    with Image(args.file, args.unclean) as image:
        report = image.report
        shown = report.items if args.info else report.bad()
        for line in report.lines(shown):
            print(line, file=sys.stderr if args.read else sys.stdout)
        if image.readable and (args.read or args.hash):
            image.open_parent(args.parent)
            if args.hash:
                print(image.hash())
            if args.read:
                sys.stdout.buffer.write(image.read(*args.read))
        return 1 if report.bad() else 0


if __name__ == '__main__':
    sys.exit(main())
