"""The bytes of a VHDX file: single fields read and changed by name.

For tests that damage an image or give it a parent.  Nothing is shared with the
driver or with libvirt's reader.
"""
import struct
import uuid

KIB = 1024
MIB = 1024 * KIB

HEADERS = (64 * KIB, 128 * KIB)
REGION_TABLES = (192 * KIB, 256 * KIB)
TABLE = 64 * KIB

METADATA = uuid.UUID('8b7ca206-4790-4b9a-b8fe-575f050f886e')
FILE_PARAMETERS = uuid.UUID('caa16737-fa36-4d43-b3b6-33f0aa44e76b')
DISK_SIZE = uuid.UUID('2fa54224-cd1b-4876-b211-5dbed83bf4b8')
SECTOR_SIZE = uuid.UUID('8141bf1d-a96f-4709-ba47-f233a8faab5f')
PARENT_LOCATOR = uuid.UUID('a8d35f2d-b30b-454d-abf7-d3d84834ab0c')
LOCATOR_TYPE = uuid.UUID('b04aefb7-d19e-4a81-b789-25b8e9445913')

HAS_PARENT = 2
REQUIRED = 4


def _crc_table():
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        yield value


_CRC = tuple(_crc_table())


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xff]
    return crc ^ 0xffffffff


class VHDXFile:
    """A file that is changed in place.  Offsets within the metadata table and
    the items are those of the file as it was opened."""
    def __init__(self, path):
        self.file = open(path, 'r+b')
        self.metadata = self._region(METADATA)
        self.items = dict(self._items())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, offset, length):
        self.file.seek(offset)
        return self.file.read(length)

    def write(self, offset, data):
        self.file.seek(offset)
        self.file.write(data)

    def put(self, offset, form, *values):
        self.write(offset, struct.pack('<' + form, *values))

    def get(self, offset, form):
        return struct.unpack('<' + form,
                             self.read(offset, struct.calcsize('<' + form)))

    def _region(self, wanted):
        count, = self.get(REGION_TABLES[0] + 8, 'I')
        for number in range(count):
            guid, offset = self.get(REGION_TABLES[0] + 16 + 32 * number,
                                    '16sQ')
            if uuid.UUID(bytes_le=guid) == wanted:
                return offset
        raise ValueError('no region %s' % wanted)

    def _items(self):
        count, = self.get(self.metadata + 10, 'H')
        for number in range(count):
            entry = self.metadata + 32 + 32 * number
            guid, offset, length = self.get(entry, '16sII')
            yield uuid.UUID(bytes_le=guid), (entry, self.metadata + offset,
                                             length)

    def item(self, guid):
        """Where the content of an item is."""
        return self.items[guid][1]

    def entry(self, guid):
        """Where the entry of an item in the metadata table is."""
        return self.items[guid][0]

    def change_regions(self, change, tables=REGION_TABLES):
        """change() gets a region table as a bytearray; the checksum is made
        right afterwards."""
        for offset in tables:
            table = bytearray(self.read(offset, TABLE))
            change(table)
            table[4:8] = bytes(4)
            table[4:8] = struct.pack('<I', crc32c(table))
            self.write(offset, table)

    def break_region_table(self, number):
        self.write(REGION_TABLES[number] + 4, b'\0\0\0\0')

    def data_write_guid(self):
        """What a child stores of its parent, from the newer header."""
        _, guid = max(self.get(offset + 8, 'Q16x16s') for offset in HEADERS
                      if self.read(offset, 4) == b'head')
        return '{%s}' % uuid.UUID(bytes_le=guid)

    def set_parent(self, **values):
        """Make it a child: a locator with these keys, and the flag. A child
        gets another locator."""
        keys = {'parent_linkage': '{%s}' % uuid.uuid4(), **values}
        texts = b''
        entries = b''
        place = 20 + 12 * len(keys)
        for key, value in keys.items():
            key, value = (text.encode('utf-16-le') for text in (key, value))
            entries += struct.pack('<IIHH', place + len(texts),
                                   place + len(texts) + len(key),
                                   len(key), len(value))
            texts += key + value
        locator = LOCATOR_TYPE.bytes_le + struct.pack('<HH', 0, len(keys)) \
            + entries + texts
        # behind the other items, which need little
        offset = 512 * KIB
        self.write(self.metadata + offset, locator)
        if PARENT_LOCATOR in self.items:
            entry = self.entry(PARENT_LOCATOR)
        else:
            count, = self.get(self.metadata + 10, 'H')
            self.put(self.metadata + 10, 'H', count + 1)
            entry = self.metadata + 32 + 32 * count
        self.put(entry, '16sIIII', PARENT_LOCATOR.bytes_le, offset,
                 len(locator), REQUIRED, 0)
        self.put(self.item(FILE_PARAMETERS) + 4, 'I', HAS_PARENT)
        self.items = dict(self._items())


def damage_identifier(path):
    with open(path, 'r+b') as file:
        file.write(b'damaged!')
