# Dirty bitmaps in VHDX files, for tests of them
#
# An Area reads and changes what a file has, from the description in
# docs/interop/vhdx-dirty-bitmaps.rst, without the driver.
#
# SPDX-License-Identifier: LGPL-2.1-or-later

import os
import struct

from vhdximage import (KIB, METADATA, MIB, NIL, Image, crc32c, create, digest,
                       io)
import iotests
from iotests import qemu_img, qemu_img_check, qemu_img_info

PAGE = 4 * KIB
ENABLED, INCONSISTENT = 1, 2

HEAD_FIELDS = {
    'signature': (0, '8s'),
    'checksum': (8, 'I'),
    'version': (12, 'H'),
    'features': (14, 'H'),
    'file_write_guid': (16, '16s'),
    'data_write_guid': (32, '16s'),
    'disk_size': (48, 'Q'),
    'directory_page': (56, 'I'),
    'directory_bytes': (60, 'I'),
    'directory_crc': (64, 'I'),
    'count': (68, 'I'),
    'stores': (72, 'Q'),
}


class Area(Image):
    '''A file without a log; @start is None if it has no bitmaps'''
    def __init__(self, path):
        super().__init__(path)
        _, self.base, length, _ = self.region(METADATA)
        end = max(item[1] + item[2] for item in self.items())
        self.start = next(
            (self.base + at for at in range(-(-end // MIB) * MIB, length, MIB)
             if self.read(self.base + at, 8) == b'qvhdxbmp'), None)

    def page(self, number):
        '''Where in the file a page is'''
        return self.base + number * PAGE

    def head(self):
        return self.fields(self.start, HEAD_FIELDS)

    def set_head(self, seal=True, **values):
        for name, value in values.items():
            at, code = HEAD_FIELDS[name]
            self.write(self.start + at, struct.pack('<' + code, value))
        if seal:
            page = self.read(self.start, PAGE)
            crc = crc32c(page[:8] + bytes(4) + page[12:])
            self.write(self.start + 8, struct.pack('<I', crc))

    def directory(self):
        '''By name: place in the file, granularity, flags, page of the map'''
        head, found = self.head(), {}
        at = self.page(head['directory_page'])
        for _ in range(head['count']):
            length, shift, flags, size, page, _ = struct.unpack(
                '<IBBHII', self.read(at, 16))
            name = self.read(at + 16, size).decode()
            assert name not in found
            found[name] = at, 1 << shift, flags, page
            at += length
        return found

    def set_entry(self, name, offset, value):
        '''Write @value, bytes, into the entry, with a right checksum'''
        head = self.head()
        self.write(self.directory()[name][0] + offset, value)
        self.set_head(directory_crc=crc32c(self.read(
            self.page(head['directory_page']), head['directory_bytes'])))

    def map(self, name):
        _, granularity, _, page = self.directory()[name]
        count = -(-self.head()['disk_size'] // (granularity * PAGE * 8))
        return [struct.unpack('<II', self.read(self.page(page) + i * 8, 8))
                for i in range(count)]

    def set_map(self, name, i, page, crc):
        '''Write an entry of the map, with a right checksum'''
        first = self.page(self.directory()[name][3])
        self.write(first + i * 8, struct.pack('<II', page, crc))
        self.set_entry(name, 12, struct.pack('<I', crc32c(self.read(
            first, len(self.map(name)) * 8))))

    def dirty(self, name):
        '''The numbers of the granules that are dirty'''
        granularity = self.directory()[name][1]
        end = -(-self.head()['disk_size'] // granularity)
        found = set()
        for i, (page, crc) in enumerate(self.map(name)):
            first = i * PAGE * 8
            if page > 1:
                data = self.read(self.page(page), PAGE)
                assert crc32c(data) == crc
                bits = int.from_bytes(data, 'little')
                found.update(first + bit for bit in range(PAGE * 8)
                             if bits >> bit & 1)
            elif page == 1:
                found.update(range(first, min(end, first + PAGE * 8)))
        assert not found or max(found) < end
        return found


class BitmapCase(iotests.QMPTestCase):
    disk = os.path.join(iotests.test_dir, 'disk.vhdx')
    other = os.path.join(iotests.test_dir, 'other.vhdx')
    qcow2 = os.path.join(iotests.test_dir, 'other.qcow2')
    raw = os.path.join(iotests.test_dir, 'other.raw')
    size = 64 * MIB

    def setUp(self):
        create(self.disk, self.size, block_size='1M')

    def tearDown(self):
        for path in (self.disk, self.other, self.qcow2, self.raw):
            if os.path.exists(path):
                os.remove(path)

    def bitmap(self, *args, path=disk, fmt='vhdx', error=None):
        '''qemu-img bitmap, which works, or fails with @error'''
        done = qemu_img('bitmap', '-f', fmt, *args[:-1], path, args[-1],
                        check=False)
        if error:
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(error, done.stdout)
        else:
            self.assertEqual((done.returncode, done.stdout), (0, ''))

    def bitmaps(self, path=disk):
        '''What "info" tells: by name, granularity and flags'''
        data = qemu_img_info('-U', path)['format-specific']['data']
        return {found['name']: (found['granularity'], sorted(found['flags']))
                for found in data.get('bitmaps', [])}

    def counts(self, *names, path=disk):
        '''These are all that count'''
        found = [name for name, (_, flags) in self.bitmaps(path).items()
                 if 'in-use' not in flags]
        self.assertEqual(found, list(names))

    def dirty(self, name, path=disk):
        self.assertNotIn('in-use', self.bitmaps(path)[name][1])
        with Area(path) as area:
            return area.dirty(name)

    def sound(self, path=disk):
        result = qemu_img_check('-f', 'vhdx', path)
        for key in ('corruptions', 'leaks', 'check-errors'):
            self.assertEqual(result.get(key, 0), 0, result)

    def untouched(self, *commands, options=()):
        before = digest(self.disk)
        io(self.disk, *commands, options=options)
        self.assertEqual(digest(self.disk), before)

    def metadata_length(self):
        with Image(self.disk) as image:
            self.assertEqual(image.header(image.current())['log_guid'], NIL)
            return image.region(METADATA)[2]
