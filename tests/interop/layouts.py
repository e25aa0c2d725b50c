"""Makes images as other writers lay them out, by a table of places.

Nothing of a driver is in here: an image is a header section, three regions and
blocks, in the order that is asked for.  Files are sparse.
"""
import struct
import uuid

from sample import ITEM, FLAGS, le
from strict.header import BAT_REGION, METADATA_REGION
from strict.report import KIB, MIB, crc32c

PRESENT, ZERO = 6, 2


def up(value, unit=MIB):
    return -(-value // unit) * unit


class Layout:
    """
    How one writer makes files.  'order' names what follows the header section;
    'sequences' and 'guids' are those of the two headers; with 'short' the file
    ends where the disk does, in the middle of its last block.
    """
    def __init__(self, creator, order, *, sequences=(1, 2), guids=(1, 1),
                 block=2 * MIB, log=MIB, fixed=False, short=False,
                 absent=ZERO, required=1, first=MIB):
        self.creator, self.order = creator, order
        self.sequences, self.guids = sequences, guids
        self.block, self.log, self.fixed = block, log, fixed
        self.short, self.absent = short, absent
        self.required, self.first = required, first

    def place(self, blocks, count):
        """(offset, bytes) of each part, and of 'end'."""
        lengths = {'log': self.log, 'metadata': MIB, 'bat': up(8 * count),
                   'blocks': blocks * self.block}
        places, at = {}, self.first
        for name in self.order:
            places[name] = at, lengths[name]
            at += lengths[name]
        return places, at

    def make(self, path, model, present):
        """An image of @model at @path, with the blocks @present in it."""
        count = up(model.size, self.block) // self.block
        if self.fixed:
            present = range(count)
        places, end = self.place(len(present), count)
        with open(path, 'wb') as file:
            self._headers(file, places)
            self._metadata(file, places['metadata'][0], model.size)
            entries = [self.absent] * count
            for i, block in enumerate(present):
                at = places['blocks'][0] + i * self.block
                entries[block] = at | PRESENT
                self._content(file, at, model, block)
                if self.short and block == count - 1:
                    end = at + model.size - block * self.block
            file.seek(places['bat'][0])
            file.write(struct.pack('<%dQ' % count, *entries))
            file.truncate(end)

    def _content(self, file, at, model, block):
        start = block * self.block
        for offset in range(start, min(start + self.block, model.size),
                            64 * KIB):
            if offset // (64 * KIB) in model.chunks:
                file.seek(at + offset - start)
                file.write(model.read(offset, 64 * KIB))

    def _headers(self, file, places):
        file.write(b'vhdxfile' + self.creator.encode('utf-16-le'))
        for i, at in enumerate((64 * KIB, 128 * KIB)):
            guid = uuid.UUID(int=self.guids[i])
            self._sealed(file, at, 4 * KIB, struct.pack(
                '<4sIQ16s16s16sHHIQ', b'head', 0, self.sequences[i],
                guid.bytes_le, guid.bytes_le, bytes(16), 0, 1, self.log,
                places['log'][0]))
        table = struct.pack('<4sIII', b'regi', 0, 2, 0)
        for name, part in ((BAT_REGION, 'bat'), (METADATA_REGION, 'metadata')):
            table += struct.pack('<16sQII', le(name), *places[part],
                                 self.required)
        for at in (192 * KIB, 256 * KIB):
            self._sealed(file, at, 64 * KIB, table)

    @staticmethod
    def _sealed(file, at, length, data):
        data = data.ljust(length, b'\0')
        file.seek(at)
        file.write(data[:4] + struct.pack('<I', crc32c(data)) + data[8:])

    def _metadata(self, file, at, size):
        items = {
            'parameters': struct.pack('<II', self.block, int(self.fixed)),
            'size': struct.pack('<Q', size),
            'id': uuid.UUID(int=3).bytes_le,
            'logical': struct.pack('<I', 512),
            'physical': struct.pack('<I', 4096),
        }
        table = struct.pack('<8sHH20x', b'metadata', 0, len(items))
        content = b''
        for name, value in items.items():
            table += struct.pack('<16sIII4x', le(ITEM[name]),
                                 64 * KIB + len(content), len(value),
                                 FLAGS.get(name, 6))
            content += value
        file.seek(at)
        file.write(table)
        file.seek(at + 64 * KIB)
        file.write(content)


LAYOUTS = {
    # FreeBSD's mkimg: the first headers are 0 and 1, metadata behind the log
    'mkimg': Layout('FreeBSD mkimg', ('log', 'metadata', 'bat', 'blocks'),
                    sequences=(0, 1), block=8 * MIB, absent=0),
    'mkimg-short': Layout('FreeBSD mkimg',
                          ('log', 'metadata', 'bat', 'blocks'),
                          sequences=(0, 1), block=8 * MIB, short=True),
    'mkimg-fixed': Layout('FreeBSD mkimg',
                          ('log', 'metadata', 'bat', 'blocks'),
                          sequences=(0, 1), block=8 * MIB, short=True,
                          fixed=True),
    # DiscUtils: each header with GUIDs of its own
    'discutils': Layout('.NET DiscUtils', ('log', 'bat', 'metadata',
                                           'blocks'),
                        sequences=(0, 1), guids=(1, 2), block=32 * MIB),
    'discutils-fixed': Layout('.NET DiscUtils', ('log', 'bat', 'metadata',
                                                 'blocks'),
                              sequences=(1, 0), guids=(1, 2), block=4 * MIB,
                              fixed=True),
    # OpenVMM: metadata and BAT first, the log where it finds room
    'openvmm': Layout('OpenVMM', ('bat', 'metadata', 'log', 'blocks'),
                      guids=(1, 2)),
    'log-last': Layout('OpenVMM', ('metadata', 'bat', 'blocks', 'log'),
                       log=3 * MIB),
    'log-last-fixed': Layout('OpenVMM', ('metadata', 'bat', 'blocks', 'log'),
                             fixed=True, block=MIB),
    'tables-last': Layout('a maker', ('blocks', 'metadata', 'log', 'bat'),
                          block=MIB, sequences=(2 ** 40, 2 ** 40 + 1)),
    'gap': Layout('a maker', ('log', 'bat', 'metadata', 'blocks'),
                  first=5 * MIB, block=MIB, absent=0),
}
