"""The metadata table, its items, and the parent locator."""
import re
import struct
from collections import namedtuple

from .report import KIB, MIB, NIL_GUID, TIB, guid, is_zero

MAX_ENTRIES = 2047
MAX_USER = 1024
UNFINISHED = '71cc85f0-1b69-4e28-9558-c3bf83ae75d3'
VHDX_LOCATOR = 'b04aefb7-d19e-4a81-b789-25b8e9445913'

Item = namedtuple('Item', 'guid offset length flags')

# GUID: what it is called here, its flags, its length (None: any)
KNOWN = {
    'caa16737-fa36-4d43-b3b6-33f0aa44e76b': ('file parameters', 4, 8),
    '2fa54224-cd1b-4876-b211-5dbed83bf4b8': ('disk size', 6, 8),
    'beca12ab-b2e6-4523-93ef-c309e000c746': ('disk id', 6, 16),
    '8141bf1d-a96f-4709-ba47-f233a8faab5f': ('logical sector size', 6, 4),
    'cda348c7-445d-4471-9cc9-e9885251c556': ('physical sector size', 6, 4),
    'a8d35f2d-b30b-454d-abf7-d3d84834ab0c': ('parent locator', 4, None),
}


class Parameters:
    """The values that the metadata items hold."""
    block_size = disk_size = logical = physical = 0
    fixed = has_parent = False
    disk_id = ''
    locator = None

    @property
    def chunk_ratio(self):
        return (self.logical << 23) // self.block_size

    @property
    def blocks(self):
        return -(-self.disk_size // self.block_size)

    @property
    def bat_entries(self):
        if self.has_parent:
            chunks = -(-self.blocks // self.chunk_ratio)
            return chunks * (self.chunk_ratio + 1)
        if not self.blocks:
            return 0
        return self.blocks + (self.blocks - 1) // self.chunk_ratio


def check_metadata(view, region, report):
    table = view.read(region.offset, 64 * KIB)
    if table[:8] != b'metadata':
        report.fatal('metadata table', 'signature is %r' % table[:8])
    reserved, count = struct.unpack_from('<HH', table, 8)
    if reserved or not is_zero(table[12:32]):
        report.error('metadata table', 'reserved bytes are not zero')
    if count > MAX_ENTRIES:
        report.fatal('metadata table', 'EntryCount is %d' % count)
    items = []
    for i in range(count):
        name, offset, length, flags, reserved = struct.unpack_from(
            '<16sIIII', table, 32 + 32 * i)
        item = Item(guid(name), offset, length, flags)
        where = 'metadata entry %d' % i
        if reserved:
            report.error(where, 'reserved field is not zero')
        check_item(report, where, region, item)
        items.append(item)
    if not is_zero(table[32 + 32 * count:]):
        report.warn('metadata table', 'bytes behind the last entry are not '
                    'zero')
    check_together(view, region, items, report)
    found = {i.guid: i for i in items if not i.flags & 1}
    return read_values(view, region, found, report)


def check_item(report, where, region, item):
    name, flags, length = KNOWN.get(item.guid, (item.guid, None, None))
    if item.flags & ~7:
        report.error(where, '%s has reserved flags %#x' % (name, item.flags))
    if item.length == 0:
        if item.offset:
            report.error(where, '%s is empty, but has an offset' % name)
    elif item.offset < 64 * KIB:
        report.error(where, '%s is at offset %#x' % (name, item.offset))
    elif item.offset + item.length > region.length:
        report.error(where, '%s leaves the metadata region' % name)
    if item.length > MIB:
        report.error(where, '%s has %d bytes' % (name, item.length))
    if item.guid == UNFINISHED:
        report.error(where, 'the making of the file was not finished')
    elif flags is None or item.flags & 1:
        if item.flags & 4:
            report.error(where, 'unknown item %s is required' % name)
        else:
            report.info(where, 'unknown item %s' % name)
    elif item.flags != flags:
        report.error(where, '%s has flags %#x, not %#x'
                     % (name, item.flags, flags))
    if length and not (item.flags & 1) and item.length != length:
        report.error(where, '%s has %d bytes, not %d'
                     % (name, item.length, length))


def check_together(view, region, items, report):
    keys = [(i.guid, i.flags & 1) for i in items]
    for key in sorted(set(keys)):
        if keys.count(key) > 1:
            name = KNOWN.get(key[0], key)[0]
            report.error('metadata table', 'duplicate item %s' % name)
    users = sum(user for _, user in keys)
    if users > MAX_USER:
        report.error('metadata table', '%d user entries' % users)
    at = 64 * KIB
    for item in sorted((i for i in items if i.length),
                       key=lambda i: i.offset):
        name = KNOWN.get(item.guid, (item.guid,))[0]
        if item.offset < at:
            report.error('metadata table', 'item %s overlaps another' % name)
        elif not unused_is_zero(view, region, at, item.offset):
            report.warn('metadata', 'bytes between items are not zero')
        at = max(at, item.offset + item.length)
    if not unused_is_zero(view, region, at, region.length):
        report.warn('metadata', 'bytes behind the items are not zero')


def unused_is_zero(view, region, start, end):
    while start < end:
        length = min(MIB, end - start)
        if not view.reads_zero(region.offset + start, length) and \
                not is_zero(view.read(region.offset + start, length)):
            return False
        start += length
    return True


def read_values(view, region, found, report):
    p = Parameters()
    values = {}
    for name, (what, _, length) in KNOWN.items():
        item = found.get(name)
        if item is not None and item.offset + item.length <= region.length \
                and (length is None or length == item.length):
            values[what] = view.read(region.offset + item.offset, item.length)
        elif what != 'parent locator':
            report.fatal('metadata', 'no usable item %s' % what)
    p.block_size, bits = struct.unpack('<II', values['file parameters'])
    p.fixed, p.has_parent = bool(bits & 1), bool(bits & 2)
    if bits & ~3:
        report.error('file parameters', 'reserved bits %#x' % bits)
    if p.block_size & (p.block_size - 1) or \
            not MIB <= p.block_size <= 256 * MIB:
        report.fatal('file parameters', 'BlockSize is %#x' % p.block_size)
    for what in ('logical', 'physical'):
        size, = struct.unpack('<I', values[what + ' sector size'])
        if size not in (512, 4096):
            report.fatal(what + ' sector size', 'is %d' % size)
        setattr(p, what, size)
    p.disk_size, = struct.unpack('<Q', values['disk size'])
    if p.disk_size % p.logical or p.disk_size > 64 * TIB:
        report.fatal('disk size', 'is %d' % p.disk_size)
    p.disk_id = guid(values['disk id'])
    if p.disk_id == NIL_GUID:
        report.warn('disk id', 'is nil')
    if p.has_parent != ('parent locator' in values):
        report.error('parent locator', 'HasParent is %d, but the item is %s'
                     % (p.has_parent, 'absent' if p.has_parent else 'there'))
    elif p.has_parent:
        p.locator = parse_locator(values['parent locator'], report)
    return p


def parse_locator(data, report):
    """The keys and values of a parent locator."""
    where = 'parent locator'
    if len(data) < 20:
        report.error(where, 'has %d bytes' % len(data))
        return {}
    name, reserved, count = struct.unpack_from('<16sHH', data)
    if guid(name) != VHDX_LOCATOR:
        report.error(where, 'type is %s' % guid(name))
    if reserved:
        report.error(where, 'reserved field is not zero')
    if 20 + 12 * count > len(data):
        report.error(where, 'KeyValueCount is %d' % count)
        return {}
    found = {}
    for i in range(count):
        key_at, value_at, key_length, value_length = struct.unpack_from(
            '<IIHH', data, 20 + 12 * i)
        pair = [locator_text(data, at, length, 20 + 12 * count)
                for at, length in ((key_at, key_length),
                                   (value_at, value_length))]
        if None in pair:
            report.error(where, 'entry %d is not readable' % i)
        elif pair[0] in found:
            report.error(where, 'duplicate key %s' % pair[0])
        else:
            found[pair[0]] = pair[1]
    form = r'\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}'
    for key in ('parent_linkage', 'parent_linkage2'):
        if key in found and not re.fullmatch(form, found[key]):
            report.error(where, '%s is %r' % (key, found[key]))
    if 'parent_linkage' not in found:
        report.error(where, 'no parent_linkage')
    if not {'relative_path', 'volume_path',
            'absolute_win32_path'} & set(found):
        report.error(where, 'no path')
    return found


def locator_text(data, at, length, first):
    if at < first or not length or length % 2 or at + length > len(data):
        return None
    try:
        text = data[at:at + length].decode('utf-16-le')
    except UnicodeDecodeError:
        return None
    return None if '\0' in text else text
