# The bytes of a VHDX file, for tests that look at them or break them
#
# An Image reads and writes single fields of a file, by name and at the places
# where the format puts them, and computes the checksums anew unless it is
# told not to.  It takes the file as it stands: the log is not replayed, the
# first header and region table with the right signature are believed.
# Nothing is shared with the driver, so that both may be wrong only
# independently.  At the end are classes of tests, for what is tested in more
# than one file.
#
# SPDX-License-Identifier: LGPL-2.1-or-later

import functools
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import uuid

import iotests

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

HEADERS = (64 * KIB, 128 * KIB)
REGION_TABLES = (192 * KIB, 256 * KIB)
TABLE_SIZE = 64 * KIB

NIL = uuid.UUID(int=0)
BAT = uuid.UUID('2dc27766-f623-4200-9d64-115e9bfd4a08')
METADATA = uuid.UUID('8b7ca206-4790-4b9a-b8fe-575f050f886e')

ITEMS = {
    'file parameters': uuid.UUID('caa16737-fa36-4d43-b3b6-33f0aa44e76b'),
    'disk size': uuid.UUID('2fa54224-cd1b-4876-b211-5dbed83bf4b8'),
    'disk id': uuid.UUID('beca12ab-b2e6-4523-93ef-c309e000c746'),
    'logical sector': uuid.UUID('8141bf1d-a96f-4709-ba47-f233a8faab5f'),
    'physical sector': uuid.UUID('cda348c7-445d-4471-9cc9-e9885251c556'),
    'parent locator': uuid.UUID('a8d35f2d-b30b-454d-abf7-d3d84834ab0c'),
    'unfinished': uuid.UUID('71cc85f0-1b69-4e28-9558-c3bf83ae75d3'),
}

# The LocatorType of a parent that is VHDX
LOCATOR = uuid.UUID('b04aefb7-d19e-4a81-b789-25b8e9445913')

# Field: offset, struct format
HEADER_FIELDS = {
    'signature': (0, '4s'),
    'checksum': (4, 'I'),
    'sequence': (8, 'Q'),
    'file_write_guid': (16, '16s'),
    'data_write_guid': (32, '16s'),
    'log_guid': (48, '16s'),
    'log_version': (64, 'H'),
    'version': (66, 'H'),
    'log_length': (68, 'I'),
    'log_offset': (72, 'Q'),
}

LOG_ENTRY_FIELDS = {
    'signature': (0, '4s'),
    'checksum': (4, 'I'),
    'length': (8, 'I'),
    'tail': (12, 'I'),
    'sequence': (16, 'Q'),
    'descriptors': (24, 'I'),
    'log_guid': (32, '16s'),
    'flushed_file_offset': (48, 'Q'),
    'last_file_offset': (56, 'Q'),
}

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED = 0, 1, 2, 3
FULLY_PRESENT, PARTIALLY_PRESENT = 6, 7

# What flushes and says so when that fails: the command "flush" prints nothing
# then, and only the exit status tells that one of all commands has failed.  A
# write of no bytes that has to be stable changes nothing, and is that flush.
FLUSH = 'write -f 0 0'

# The first line of what a command prints that has done all it had to
DONE = r'(wrote|read|discard) (\d+)/\2 bytes'

# A line of the content that "read -v" prints
DUMP = re.compile(r'^[0-9a-f]{8,}:  ((?:[0-9a-f]{2} ){1,16})', re.M)


def crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC32C = crc32c_table()


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ CRC32C[(crc ^ byte) & 0xff]
    return crc ^ 0xffffffff


@functools.lru_cache(maxsize=64)
def checksum(data):
    '''The checksum of @data, which has a place for it at 4'''
    return crc32c(data[:4] + bytes(4) + data[8:])


def digest(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def sparse_digest(path):
    '''A digest of what is not zero in a file, and of where that is'''
    total = hashlib.sha256()
    step, at = 64 * KIB, 0
    with open(path, 'rb', buffering=0) as file:
        while True:
            try:
                at = max(at, os.lseek(file.fileno(), at, os.SEEK_DATA))
            except OSError:
                # No data from here on
                return total.hexdigest()
            at -= at % step
            file.seek(at)
            data = file.read(step)
            if data != bytes(len(data)):
                total.update(str(at).encode() + data)
            at += step


def create(path, size, check=True, **options):
    '''qemu-img create, which has to work with @check; gives its process'''
    args = ['create', '-f', 'vhdx']
    for name, value in options.items():
        args += ['-o', f'{name}={value}']
    return iotests.qemu_img(*args, path, str(size), check=check)


def run_io(path, *commands, options=()):
    '''
    qemu-io with @commands on @path; gives its exit status, what it printed but
    for the timings, and its messages
    '''
    args = list(options)
    for command in commands:
        args += ['-c', command]
    done = iotests.qemu_io(*args, path, check=False, combine_stdio=False)
    output = iotests.filter_qemu_io(iotests.filter_testfiles(done.stdout))
    output = re.sub(r'\n.*X ops; .*', '', output)
    return done.returncode, output, iotests.filter_testfiles(done.stderr)


def qemu_io(path, *commands, options=()):
    '''Commands that may fail; gives all that was printed'''
    _, output, messages = run_io(path, *commands, options=options)
    return messages + output


def io(path, *commands, options=()):
    '''Commands that all have to succeed, without any message'''
    status, output, messages = run_io(path, *commands, options=options)
    assert (status, messages) == (0, ''), messages + output
    return output


def read_disk(path, ranges, options=('-r', '-f', 'vhdx')):
    '''The content of @ranges of (offset, length), as qemu-io reads them'''
    output = io(path, *(f'read -v {at} {length}' for at, length in ranges),
                options=options)
    parts = re.split(r'read \d+/\d+ bytes.*\n', output)[:-1]
    return [bytes.fromhex(''.join(DUMP.findall(part))) for part in parts]


def bytes_read(pid='self'):
    '''How much a process, with its children that have ended, has read'''
    with open(f'/proc/{pid}/io', encoding='ascii') as file:
        return int(file.readline().split()[1])


def told(command):
    '''@command, or what tells of its failure as well'''
    return FLUSH if command == 'flush' else command


def failing(path, kind, event='none', number=1, errno=5, once=True,
            offset=None, immediately=False, raw=False):
    '''
    Options that open @path with blkdebug above the file.  With the @number'th
    @event a rule becomes active, and the next request of @kind, or the next
    one that covers @offset, fails with @errno; with @once just that one.
    @event is the driver's; with @raw it is that of a raw node between the
    driver and blkdebug, which raises "flush_to_disk" for each flush of the
    file.
    '''
    rule = {'event': event, 'iotype': kind, 'errno': errno,
            'once': 'on' if once else 'off',
            'immediately': 'on' if immediately else 'off'}
    if offset is not None:
        rule['sector'] = offset // 512
    if number > 1:
        rule['state'] = number
    options = {'driver': 'blkdebug', 'image.filename': path}
    options.update((f'inject-error.0.{name}', value)
                   for name, value in rule.items())
    for state in range(1, number):
        step = f'set-state.{state - 1}'
        options.update({f'{step}.event': event, f'{step}.state': state,
                        f'{step}.new_state': state + 1})
    node = 'file.file' if raw else 'file'
    return ('driver=vhdx,' + ('file.driver=raw,' if raw else '') +
            ','.join(f'{node}.{name}={value}'
                     for name, value in options.items()))


def crash(path, *commands, options=()):
    '''
    The same, then qemu-io is killed before it closes @path: what was flushed
    is in the file, and nothing is tidied up.
    '''
    args = ['-t', 'writeback', *options]
    for command in commands:
        args += ['-c', told(command)]
    args += ['-c', 'sigraise 9', path]
    done = subprocess.run(iotests.qemu_io_wrap_args(args), check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    assert done.returncode == -9, done.stdout
    assert not re.search('failed|not found|rror', done.stdout), done.stdout
    return done.stdout


class Prompt(iotests.QemuIoInteractive):
    '''A qemu-io that is told what to do while the image stays open'''
    failed = False

    def __init__(self, *args):
        super().__init__('-t', 'writeback', *args)

    def cmd(self, cmd):
        return super().cmd(told(cmd))

    def works(self, *commands):
        for command in commands:
            out = self.cmd(command)
            silent = command.startswith('truncate')
            good = out == '' if silent else re.match(DONE, out)
            assert good, f'{command}: {out}'

    def fails(self, *commands, error='Input/output error'):
        self.failed = True
        for command in commands:
            out = self.cmd(command)
            assert error in out, f'{command}: {out}'

    def kill(self):
        self._p.kill()
        self._p.communicate()

    def close(self, message=None):
        '''
        Whatever failed was to fail.  @message is printed, or nothing.  Gives
        all that was.
        '''
        out, _ = self._p.communicate('q\n', timeout=60)
        assert (message in out if message else out == ''), out
        assert self._p.returncode == int(self.failed), self._p.returncode
        return out


class Guest(iotests.VM):
    '''
    An emulator whose block nodes, or the guest's devices with @qdev, are used
    by commands of qemu-io.  What these print goes into its log, so they are
    judged by finish().
    '''
    def __init__(self, *args, qdev=False):
        super().__init__(*args)
        self.qdev = qdev
        self.wanted = []

    def io(self, *commands, node='disk', error=None):
        '''Commands that have to succeed, or else to fail with @error'''
        for command in map(told, commands):
            text = self.hmp_qemu_io(node, command, qdev=self.qdev)['return']
            if text:
                assert error and error in text, f'{command}: {text}'
            else:
                self.wanted.append((command, error))

    def finish(self):
        '''Shut down, and see whether all commands did as they had to'''
        self.shutdown()
        printed = [line for line in self.get_log().splitlines() if
                   re.match(r'(wrote|read|discard) \d+/|.* failed', line) and
                   not line.startswith('qemu-system')]
        for number, (command, error) in enumerate(self.wanted):
            line = printed[number] if number < len(printed) else 'nothing'
            good = error in line if error else re.match(DONE, line)
            assert good, f'{command}: {line}'
        assert len(printed) == len(self.wanted), printed


class Image:
    def __init__(self, path):
        self.path = path
        # pylint: disable=consider-using-with
        self.file = open(path, 'r+b', buffering=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, offset, length):
        self.file.seek(offset)
        data = self.file.read(length)
        assert len(data) == length
        return data

    def write(self, offset, data):
        self.file.seek(offset)
        self.file.write(data)

    def size(self):
        return self.file.seek(0, 2)

    def fields(self, offset, layout):
        values = {}
        for name, (at, code) in layout.items():
            data = self.read(offset + at, struct.calcsize(code))
            values[name] = struct.unpack('<' + code, data)[0]
            if code == '16s':
                values[name] = uuid.UUID(bytes_le=values[name])
        return values

    def seal(self, offset, length):
        '''Set the checksum of the structure at @offset'''
        crc = checksum(self.read(offset, length))
        self.write(offset + 4, struct.pack('<I', crc))

    def creator(self):
        text = self.read(8, 512).decode('utf-16-le')
        return text.split('\0')[0]

    # Headers

    def header(self, copy):
        return self.fields(HEADERS[copy], HEADER_FIELDS)

    def current(self):
        '''The number of the current header, where both are valid'''
        return int(self.header(1)['sequence'] > self.header(0)['sequence'])

    def set_header(self, copy, seal=True, **values):
        for name, value in values.items():
            at, code = HEADER_FIELDS[name]
            if isinstance(value, uuid.UUID):
                value = value.bytes_le
            self.write(HEADERS[copy] + at, struct.pack('<' + code, value))
        if seal:
            self.seal(HEADERS[copy], 4 * KIB)

    def set_headers(self, **values):
        '''Both of them'''
        self.set_header(0, **values)
        self.set_header(1, **values)

    def break_header(self, copy):
        '''Change a reserved byte, which only the checksum tells'''
        self.write(HEADERS[copy] + 100, b'\xff')

    def header_is_valid(self, copy):
        data = self.read(HEADERS[copy], 4 * KIB)
        return (data[:4] == b'head' and
                struct.unpack_from('<I', data, 4)[0] == checksum(data))

    # Region tables; a region is [GUID, offset, length, flags]

    def regions(self):
        table = REGION_TABLES[0]
        if self.read(table, 4) != b'regi':
            table = REGION_TABLES[1]
        count = struct.unpack('<I', self.read(table + 8, 4))[0]
        regions = []
        for i in range(count):
            entry = self.read(table + 16 + i * 32, 32)
            regions.append([uuid.UUID(bytes_le=entry[:16]),
                            *struct.unpack_from('<QII', entry, 16)])
        return regions

    def region(self, guid):
        return next(r for r in self.regions() if r[0] == guid)

    def region_end(self, guid):
        _, offset, length, _ = self.region(guid)
        return offset + length

    def set_regions(self, regions, copies=(0, 1), count=None):
        '''@count is what the table says, where that shall not be true'''
        count = len(regions) if count is None else count
        table = struct.pack('<4sIII', b'regi', 0, count, 0)
        for guid, offset, length, flags in regions:
            table += guid.bytes_le + struct.pack('<QII', offset, length, flags)
        table = table.ljust(TABLE_SIZE, b'\0')
        for copy in copies:
            self.write(REGION_TABLES[copy], table)
            self.seal(REGION_TABLES[copy], TABLE_SIZE)

    def break_region_table(self, copy):
        self.write(REGION_TABLES[copy] + TABLE_SIZE - 1, b'\xff')

    def region_table_is_valid(self, copy):
        data = self.read(REGION_TABLES[copy], TABLE_SIZE)
        return (data[:4] == b'regi' and
                struct.unpack_from('<I', data, 4)[0] == checksum(data))

    # Metadata; an item is [GUID, offset in the region, length, flags]

    def items(self):
        table = self.region(METADATA)[1]
        count = struct.unpack('<H', self.read(table + 10, 2))[0]
        items = []
        for i in range(count):
            entry = self.read(table + 32 + i * 32, 32)
            items.append([uuid.UUID(bytes_le=entry[:16]),
                          *struct.unpack_from('<III', entry, 16)])
        return items

    def set_items(self, items, count=None):
        count = len(items) if count is None else count
        table = struct.pack('<8sHH20x', b'metadata', 0, count)
        for guid, offset, length, flags in items:
            table += guid.bytes_le + struct.pack('<IIII', offset, length,
                                                 flags, 0)
        self.write(self.region(METADATA)[1], table.ljust(TABLE_SIZE, b'\0'))

    def find_item(self, name):
        return next(i for i in self.items() if i[0] == ITEMS[name])

    def item(self, name, code):
        '''The values of the item @name, by the struct format @code'''
        at = self.region(METADATA)[1] + self.find_item(name)[1]
        return struct.unpack('<' + code, self.read(at, struct.calcsize(code)))

    def set_item(self, name, code, *values):
        at = self.region(METADATA)[1] + self.find_item(name)[1]
        self.write(at, struct.pack('<' + code, *values))

    # BAT

    def bat(self, first, count=1):
        data = self.read(self.region(BAT)[1] + first * 8, count * 8)
        return list(struct.unpack(f'<{count}Q', data))

    def set_bat(self, index, entry):
        self.write(self.region(BAT)[1] + index * 8, struct.pack('<Q', entry))

    # Log

    def log(self):
        '''
        The valid entries of the log that the current header names, each with
        its place in the file as 'at', by their sequence numbers
        '''
        header = self.header(self.current())
        start, length = header['log_offset'], header['log_length']
        # Twice, so that an entry that wraps around is in one piece
        ring = self.read(start, length) * 2
        entries = []
        for at in range(0, length, 4 * KIB):
            if ring[at:at + 4] != b'loge':
                continue
            entry = self.fields(start + at, LOG_ENTRY_FIELDS)
            data = ring[at:at + entry['length']]
            if (entry['log_guid'] == header['log_guid'] and
                    entry['length'] <= length and
                    checksum(data) == entry['checksum']):
                entry['at'] = start + at
                entries.append(entry)
        return sorted(entries, key=lambda entry: entry['sequence'])


def places(image, count, first=0):
    '''
    The blocks that are present, by number, with their offsets; no chunk may
    end in between
    '''
    return {first + i: entry & ~0xfffff
            for i, entry in enumerate(image.bat(first, count))
            if entry & 7 == FULLY_PRESENT}


class CompactCase(iotests.QMPTestCase):
    '''What tests of compacting do with an image, which is at @disk'''
    disk = os.path.join(iotests.test_dir, 'disk.vhdx')
    saved = os.path.join(iotests.test_dir, 'saved.vhdx')
    raw = os.path.join(iotests.test_dir, 'disk.raw')

    # Of the image that create() has made
    block_size = log_size = sector_size = first = 0

    def setUp(self):
        self.random = random.Random(4)

    def tearDown(self):
        for path in (self.disk, self.saved, self.raw):
            if os.path.exists(path):
                os.remove(path)

    def create(self, size, **options):
        done = create(self.disk, size, **options)
        self.assertEqual(done.returncode, 0, done.stdout)
        with Image(self.disk) as image:
            self.block_size = image.item('file parameters', 'I')[0]
            self.first = image.region_end(METADATA)
            self.log_size = image.header(0)['log_length']
            self.sector_size = image.item('logical sector', 'I')[0]

    def amend(self, *args, options='compact=space', path=disk):
        '''Gives its exit status and all that it printed'''
        done = iotests.qemu_img('amend', '-o', options, *args,
                                *([path] if path else []), check=False)
        return done.returncode, iotests.filter_testfiles(done.stdout)

    def content(self):
        iotests.qemu_img('convert', '-f', 'vhdx', '-O', 'raw', self.disk,
                         self.raw)
        return sparse_digest(self.raw)

    def check(self):
        done = iotests.qemu_img('check', '-f', 'vhdx', '--output=json',
                                self.disk, combine_stdio=False)
        result = json.loads(done.stdout)
        for key in ('corruptions', 'leaks', 'check-errors'):
            self.assertEqual(result.get(key, 0), 0, done.stdout)
        with Image(self.disk) as image:
            for copy in (0, 1):
                self.assertEqual(image.header(copy)['log_guid'], NIL)

    def guids(self):
        with Image(self.disk) as image:
            header = image.header(image.current())
            return header['file_write_guid'], header['data_write_guid']

    def measured(self):
        '''How long a new file with these blocks would be'''
        return iotests.qemu_img_measure(
            '-f', 'vhdx', '-O', 'vhdx', '-o',
            f'block_size={self.block_size},log_size={self.log_size},'
            f'logical_sector_size={self.sector_size}', self.disk)['required']

    def compact(self, mode='space', blocks=None):
        '''
        It works, and leaves a file with @blocks blocks and nothing else, with
        the same content
        '''
        before, guids = self.content(), self.guids()
        old_size = os.path.getsize(self.disk)
        self.assertEqual(self.amend(options=f'compact={mode}'), (0, ''))
        self.check()
        self.assertEqual(self.content(), before)
        after = self.guids()
        size = os.path.getsize(self.disk)
        self.assertEqual(after[0] != guids[0], size != old_size)
        self.assertEqual(after[1], guids[1])
        if blocks is not None:
            self.assertEqual(size, self.first + blocks * self.block_size)
        return size

    def nothing(self, mode='space'):
        '''There is nothing to do, and the file is not touched'''
        before = sparse_digest(self.disk)
        self.assertEqual(self.amend(options=f'compact={mode}'), (0, ''))
        self.assertEqual(sparse_digest(self.disk), before)

    def write_blocks(self, blocks, length=None):
        '''Write to @blocks, in this order in the file, each something else'''
        length = length or self.block_size
        behind = self.block_size - length
        io(self.disk, *[f'write -P {1 + i % 255} '
                        f'{i * self.block_size + behind} {length}'
                        for i in blocks])

    def discard_blocks(self, blocks):
        io(self.disk, *[f'discard {i * self.block_size} {self.block_size}'
                        for i in blocks])


class CheckCase(iotests.QMPTestCase):
    '''What tests of check do with an image, which is at @disk'''
    disk = os.path.join(iotests.test_dir, 'disk.vhdx')
    saved = os.path.join(iotests.test_dir, 'saved.vhdx')
    big = os.path.join(iotests.test_dir, 'big.qcow2')

    def tearDown(self):
        for path in (self.disk, self.saved, self.big):
            if os.path.exists(path):
                os.remove(path)

    def check(self, *options, path=disk):
        '''Exit status, the JSON output, and the messages'''
        args = ['--image-opts', path] if '=' in path else ['-f', 'vhdx', path]
        done = iotests.qemu_img('check', '--output=json', *options, *args,
                                check=False, combine_stdio=False)
        result = json.loads(done.stdout) if done.stdout else {}
        return done.returncode, result, done.stderr.splitlines()

    def result(self, *options, status=0, path=disk, **expected):
        '''Run a check; names in @expected have - in JSON'''
        done, found, messages = self.check(*options, path=path)
        self.assertEqual(done, status, (found, messages))
        for name, value in expected.items():
            self.assertEqual(found.get(name.replace('_', '-')), value,
                             (name, found, messages))
        return messages


# Images made here, by no driver

# What stands in a sector that nobody may read
STALE = 0xee


def locator(pairs, kind=LOCATOR, count=None):
    '''A parent locator, of keys and values as text or bytes'''
    at = 20 + 12 * len(pairs)
    table, text = b'', b''
    for key, value in pairs:
        key, value = (x if isinstance(x, bytes) else
                      x.encode('utf-16-le', 'surrogatepass')
                      for x in (key, value))
        table += struct.pack('<IIHH', at + len(text),
                             at + len(text) + len(key), len(key), len(value))
        text += key + value
    return (kind.bytes_le + struct.pack('<HH', 0, len(pairs) if count is None
                                        else count) + table + text)


class Layer(Image):
    '''
    An image that is made here, alone or as the child of the Layer @parent, and
    what its disk holds.  A sector that is put into the file has a content that
    tells the image, by the number @tag, and the sector.

    A child names its parent by a relative path, unless @pairs has the keys and
    values of its locator.
    '''
    # pylint: disable=too-many-instance-attributes
    def __init__(self, path, size, parent=None, tag=1, block_size=MIB,
                 sector=512, pairs=None):
        with open(path, 'wb') as file:
            file.truncate(3 * MIB)
        super().__init__(path)
        self.disk_size, self.parent, self.tag = size, parent, tag
        self.block_size, self.sector = block_size, sector
        self.chunk = 2**23 * sector // block_size
        self.blocks = -(-size // block_size)
        # Block: its state and place in the file
        self.states = {}
        # Sectors that are in the file; index of a BAT entry: sector bitmap
        self.marks, self.bitmaps = set(), {}
        self.locator_at = 0
        self.data_write = uuid.uuid4()
        if parent and pairs is None:
            pairs = self.default_pairs()
        self._make(pairs)

    def default_pairs(self):
        return [('parent_linkage', '{%s}' % self.parent.data_write),
                ('parent_linkage2', '{%s}' % NIL),
                ('relative_path', '.\\' + os.path.basename(self.parent.path))]

    def _make(self, pairs):
        '''Log, metadata and BAT, in this order; all entries are 0'''
        entries = -(-self.blocks // self.chunk) * (self.chunk + 1)
        bat_length = max(1, -(-entries * 8 // MIB)) * MIB
        self.file.truncate(3 * MIB + bat_length)
        self.write(0, b'vhdxfile' + 'a test'.encode('utf-16-le'))
        for copy in (0, 1):
            self.set_header(copy, signature=b'head', sequence=7 + copy,
                            file_write_guid=uuid.uuid4(), version=1,
                            data_write_guid=self.data_write,
                            log_length=MIB, log_offset=MIB)
        self.set_regions([[METADATA, 2 * MIB, MIB, 1],
                          [BAT, 3 * MIB, bat_length, 1]])
        item_of = {
            'file parameters': struct.pack('<II', self.block_size,
                                           2 if pairs else 0),
            'disk size': struct.pack('<Q', self.disk_size),
            'disk id': (self.parent.item('disk id', '16s')[0] if self.parent
                        else uuid.uuid4().bytes_le),
            'logical sector': struct.pack('<I', self.sector),
            'physical sector': struct.pack('<I', 4096),
        }
        if pairs:
            item_of['parent locator'] = locator(pairs)
        at, items = TABLE_SIZE, []
        # The locator is the last item.
        for name, data in item_of.items():
            flags = 4 if name in ('file parameters', 'parent locator') else 6
            items.append([ITEMS[name], at, len(data), flags])
            self.write(2 * MIB + at, data)
            self.locator_at = at
            at += len(data)
        self.set_items(items)

    def set_locator(self, item):
        '''Put another parent locator, @item, in place of the one there is'''
        items = self.items()
        for entry in items:
            if entry[0] == ITEMS['parent locator']:
                # What is empty has no place.
                entry[1:3] = self.locator_at if item else 0, len(item)
                self.write(2 * MIB + entry[1], item)
        self.set_items(items)

    # BAT and bitmaps

    def entry_of(self, block):
        return block + block // self.chunk

    def bitmap_entry(self, block):
        '''The index of the BAT entry of the sector bitmap'''
        return block // self.chunk * (self.chunk + 1) + self.chunk

    def place(self, length):
        '''New space at the end of the file'''
        at = self.size()
        self.file.truncate(at + length)
        return at

    def bitmap(self, block):
        '''The place of the sector bitmap, which is made if there is none'''
        index = self.bitmap_entry(block)
        if index not in self.bitmaps:
            self.bitmaps[index] = self.place(MIB)
            self.set_bat(index, self.bitmaps[index] | FULLY_PRESENT)
        return self.bitmaps[index]

    def bit_at(self, sector):
        '''The place in the file, and the mask, of the bit of a sector'''
        block = sector // (self.block_size // self.sector)
        bit = sector % (self.chunk * self.block_size // self.sector)
        return self.bitmap(block) + bit // 8, 1 << bit % 8

    def set_bits(self, sectors):
        masks = {}
        for sector in sectors:
            at, mask = self.bit_at(sector)
            masks[at] = masks.get(at, 0) | mask
        for at, mask in masks.items():
            self.write(at, bytes([self.read(at, 1)[0] | mask]))

    # Content

    def mark(self, sector, tag=None):
        '''What a sector of the disk holds if this image has it'''
        tag = self.tag if tag is None else tag
        return (bytes([tag]) * 8 + struct.pack('>Q', sector)) * (
            self.sector // 16)

    def put(self, block, state, sectors=(), stale=16):
        '''
        Give @block the state @state, with @sectors, numbers in the disk, in
        the file.  In a block that is PARTIALLY_PRESENT these have a bit; the
        file has something else in @stale sectors around each.
        '''
        count = self.block_size // self.sector
        first, end = block * count, block * count + count
        assert all(first <= sector < end for sector in sectors)
        offset = 0
        if state in (FULLY_PRESENT, PARTIALLY_PRESENT):
            offset = self.place(self.block_size)
        self.states[block] = (state, offset)
        self.set_bat(self.entry_of(block), offset | state)
        around = set()
        if state == PARTIALLY_PRESENT:
            self.bitmap(block)
            self.set_bits(sectors)
            for sector in sectors or (first, end - 1):
                around.update(range(max(first, sector - stale),
                                    min(end, sector + stale + 1)))
        self.marks.update(sectors)
        for sector in around.union(sectors):
            tag = None if sector in self.marks else STALE
            self.write(offset + (sector - first) * self.sector,
                       self.mark(sector, tag))

    def source(self, sector):
        '''The image of the chain that has a sector, or None: it is zero'''
        if sector * self.sector >= self.disk_size:
            return None
        block = sector // (self.block_size // self.sector)
        state, _ = self.states.get(block, (NOT_PRESENT, 0))
        if state == FULLY_PRESENT or (state == PARTIALLY_PRESENT and
                                      sector in self.marks):
            return self
        if self.parent and state in (NOT_PRESENT, PARTIALLY_PRESENT):
            return self.parent.source(sector)
        return None

    def content(self, offset, length):
        '''What the disk holds, by the format's rules'''
        first = offset // self.sector
        end = -(-(offset + length) // self.sector)
        parts = []
        for sector in range(first, end):
            layer = self.source(sector)
            parts.append(layer.mark(sector) if layer and sector in layer.marks
                         else bytes(self.sector))
        start = offset - first * self.sector
        return b''.join(parts)[start:start + length]

    def all_marks(self):
        '''Each sector that is not zero in some image of the chain'''
        return self.marks | (self.parent.all_marks() if self.parent else set())

    def write_raw(self, path):
        '''The disk as a raw file'''
        with open(path, 'wb') as file:
            for sector in sorted(self.all_marks()):
                layer = self.source(sector)
                if layer and sector in layer.marks:
                    file.seek(sector * self.sector)
                    file.write(layer.mark(sector))
            file.truncate(self.disk_size)

    # Log

    def put_log(self, pages):
        '''
        Leave a log to replay, of one entry that changes @pages: their places,
        and 4 KiB for each
        '''
        guid, sequence, size = uuid.uuid4(), 9, self.size()
        descriptors, sectors = b'', b''
        for at, page in pages.items():
            descriptors += (b'desc' + page[-4:] + page[:8] +
                            struct.pack('<QQ', at, sequence))
            sectors += (struct.pack('<4sI', b'data', sequence >> 32) +
                        page[8:-4] + struct.pack('<I', sequence & 0xffffffff))
        length = 4 * KIB + len(sectors)
        entry = struct.pack('<4sIIIQII16sQQ', b'loge', 0, length, 0, sequence,
                            len(pages), 0, guid.bytes_le, size, size)
        entry = (entry + descriptors).ljust(4 * KIB, b'\0') + sectors
        self.write(MIB, entry)
        self.seal(MIB, length)
        self.set_headers(log_guid=guid)
