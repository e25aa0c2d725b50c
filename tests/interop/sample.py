"""Makes small VHDX files byte by byte, for the strict reader's own test.

The images come from no driver, so that the reader is tested against the
format alone.  A sample is a bytearray with the places of its parts; a test
changes what it likes and calls seal() to make the checksums fit again.
"""
import struct
import uuid

from strict.header import BAT_REGION, METADATA_REGION
from strict.metadata import VHDX_LOCATOR
from strict.report import KIB, MIB, crc32c

LOG, BAT, METADATA, DATA = MIB, 2 * MIB, 3 * MIB, 4 * MIB
ITEMS = METADATA + 64 * KIB
LOG_GUID = uuid.UUID(int=77).bytes_le
ITEM = {
    'parameters': 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
    'size': '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
    'id': 'beca12ab-b2e6-4523-93ef-c309e000c746',
    'logical': '8141bf1d-a96f-4709-ba47-f233a8faab5f',
    'physical': 'cda348c7-445d-4471-9cc9-e9885251c556',
    'locator': 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
}
FLAGS = {'parameters': 4, 'locator': 4}


def le(name):
    return uuid.UUID(name).bytes_le


def locator(pairs):
    """A parent locator item with these keys and values."""
    at = 20 + 12 * len(pairs)
    table, text = b'', b''
    for key, value in pairs:
        key, value = key.encode('utf-16-le'), value.encode('utf-16-le')
        table += struct.pack('<IIHH', at + len(text),
                             at + len(text) + len(key), len(key), len(value))
        text += key + value
    return le(VHDX_LOCATOR) + struct.pack('<HH', 0, len(pairs)) + table + text


class Sample:
    """Six blocks of 1 MiB less 512 bytes; blocks 0 and 2 hold data."""
    def __init__(self, fixed=False, parent=None):
        blocks = 6
        present = range(blocks) if fixed else (0, 2)
        self.data = bytearray(DATA + MIB * len(present))
        self.data[:8] = b'vhdxfile'
        self.data[8:22] = 'a maker'.encode('utf-16-le')
        for number, at in enumerate((64 * KIB, 128 * KIB)):
            struct.pack_into('<4sIQ16s16s16sHHIQ', self.data, at, b'head', 0,
                             7 + number, uuid.UUID(int=1).bytes_le,
                             uuid.UUID(int=2).bytes_le, bytes(16), 0, 1,
                             MIB, LOG)
        for at in (192 * KIB, 256 * KIB):
            struct.pack_into('<4sIII', self.data, at, b'regi', 0, 2, 0)
            for i, (name, offset) in enumerate(((BAT_REGION, BAT),
                                                (METADATA_REGION, METADATA))):
                struct.pack_into('<16sQII', self.data, at + 16 + 32 * i,
                                 le(name), offset, MIB, 1)
        items = {
            'parameters': struct.pack('<II', MIB, fixed | bool(parent) << 1),
            'size': struct.pack('<Q', blocks * MIB - 512),
            'id': uuid.UUID(int=3).bytes_le,
            'logical': struct.pack('<I', 512),
            'physical': struct.pack('<I', 4096),
        }
        if parent:
            items['locator'] = locator(parent)
        self.put_items(items)
        for i, block in enumerate(present):
            place = DATA + i * MIB
            self.put_entry(block, place | 6)
            self.data[place:place + MIB] = bytes([i + 1]) * MIB
        for block in () if fixed or parent else (1, 3):
            self.put_entry(block, 2)
        self.seal()

    def put_items(self, items):
        struct.pack_into('<8sHH', self.data, METADATA, b'metadata', 0,
                         len(items))
        self.entry_at, self.item_at = {}, {}
        at = ITEMS
        for i, (name, value) in enumerate(items.items()):
            entry = METADATA + 32 + 32 * i
            self.entry_at[name], self.item_at[name] = entry, at
            struct.pack_into('<16sIII', self.data, entry, le(ITEM[name]),
                             at - METADATA, len(value), FLAGS.get(name, 6))
            self.data[at:at + len(value)] = value
            at += len(value)

    def put(self, at, form, *values):
        struct.pack_into('<' + form, self.data, at, *values)

    def put_entry(self, index, value):
        self.put(BAT + 8 * index, 'Q', value)

    def seal(self):
        """Checksums of both headers and both region tables."""
        for at, length in ((64 * KIB, 4 * KIB), (128 * KIB, 4 * KIB),
                           (192 * KIB, 64 * KIB), (256 * KIB, 64 * KIB)):
            self.put(at + 4, 'I', 0)
            self.put(at + 4, 'I', crc32c(bytes(self.data[at:at + length])))

    def name_log(self):
        for at in (64 * KIB, 128 * KIB):
            self.data[at + 48:at + 64] = LOG_GUID
        self.seal()

    def put_log(self, at, entry):
        """Write a log entry at this place of the ring, around its end."""
        for i in range(0, len(entry), 4 * KIB):
            place = LOG + (at + i) % MIB
            self.data[place:place + 4 * KIB] = entry[i:i + 4 * KIB]


def log_entry(sequence, tail, updates, flushed=DATA, last=DATA + 2 * MIB,
              change=None):
    """A log entry; an update is (offset, 4 KiB of data or a zero length)."""
    sectors = b''
    descriptors = b''
    for offset, what in updates:
        if isinstance(what, int):
            descriptors += struct.pack('<4sIQQQ', b'zero', 0, what, offset,
                                       sequence)
        else:
            descriptors += b'desc' + what[-4:] + what[:8] + \
                struct.pack('<QQ', offset, sequence)
            sectors += struct.pack('<4sI', b'data', sequence >> 32) + \
                what[8:-4] + struct.pack('<I', sequence & 0xffffffff)
    table = 64 + len(descriptors)
    table += -table % 4096
    length = table + len(sectors)
    head = struct.pack('<4sIIIQII16sQQ', b'loge', 0, length, tail, sequence,
                       len(updates), 0, LOG_GUID, flushed, last)
    entry = bytearray((head + descriptors).ljust(table, b'\0') + sectors)
    if change:
        change(entry)
    struct.pack_into('<I', entry, 4, 0)
    struct.pack_into('<I', entry, 4, crc32c(bytes(entry)))
    return bytes(entry)
