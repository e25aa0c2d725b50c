"""File identifier, headers and region tables."""
import struct
from collections import namedtuple

from .report import KIB, MIB, NIL_GUID, crc_matches, guid, is_zero

HEADERS = (64 * KIB, 128 * KIB)
TABLES = (192 * KIB, 256 * KIB)
BAT_REGION = '2dc27766-f623-4200-9d64-115e9bfd4a08'
METADATA_REGION = '8b7ca206-4790-4b9a-b8fe-575f050f886e'
MAX_ENTRIES = 2047

Header = namedtuple('Header', 'sequence file_write data_write log_guid '
                              'log_version version log_length log_offset')
Region = namedtuple('Region', 'guid offset length required')


def check_identifier(view, report):
    data = view.raw(0, 64 * KIB)
    if len(data) < 520 or data[:8] != b'vhdxfile':
        report.fatal('file identifier', 'signature is %r' % data[:8])
    units = struct.unpack_from('<256H', data, 8)
    if 0 not in units:
        report.warn('file identifier', 'creator is not terminated')
        length = 256
    else:
        length = units.index(0)
        if any(units[length:]):
            report.warn('file identifier', 'bytes follow the creator')
    if not is_zero(data[520:]):
        report.warn('file identifier', 'bytes 520 to 64 KiB are not zero')
    try:
        creator = data[8:8 + 2 * length].decode('utf-16-le')
    except UnicodeDecodeError:
        report.error('file identifier', 'creator is not UTF-16')
        creator = ''
    return creator


def check_gaps(view, report):
    """What lies between the structures of the first MiB stays zero."""
    for start, end in ((68 * KIB, 128 * KIB), (132 * KIB, 192 * KIB),
                       (320 * KIB, MIB)):
        if view.data_in(start, end) and \
                not is_zero(view.raw(start, end - start)):
            report.warn('header section', 'bytes %#x to %#x are not zero'
                        % (start, end))


def parse_header(view, number, report):
    """Header 1 or 2, or None where it is not valid."""
    where = 'header %d' % number
    data = view.raw(HEADERS[number - 1], 4 * KIB)
    if data[:4] != b'head':
        report.error(where, 'signature is %r' % data[:4])
        return None
    if not crc_matches(data, 4):
        report.error(where, 'CRC is wrong')
        return None
    (sequence, file_write, data_write, log_guid, log_version, version,
     log_length, log_offset) = struct.unpack_from('<Q16s16s16sHHIQ', data, 8)
    header = Header(sequence, guid(file_write), guid(data_write),
                    guid(log_guid), log_version, version, log_length,
                    log_offset)
    if not is_zero(data[80:]):
        report.error(where, 'reserved bytes are not zero')
    if version != 1:
        report.error(where, 'Version is %d' % version)
    if log_version != 0:
        report.error(where, 'LogVersion is %d' % log_version)
    if header.file_write == NIL_GUID:
        report.warn(where, 'FileWriteGuid is nil')
    if header.data_write == NIL_GUID:
        report.warn(where, 'DataWriteGuid is nil')
    if log_offset % MIB or log_offset < MIB:
        report.error(where, 'LogOffset is %#x' % log_offset)
    if log_length % MIB or not log_length:
        report.error(where, 'LogLength is %#x' % log_length)
    if log_offset + log_length > view.file_size:
        report.error(where, 'log ends at %#x behind the end of the file %#x'
                     % (log_offset + log_length, view.file_size))
    return header


def current_header(view, report, unclean):
    first, second = (parse_header(view, n, report) for n in (1, 2))
    if first is None and second is None:
        report.fatal('header', 'neither copy is valid')
    if first is None or second is None:
        return first or second
    current, other = ((first, second) if first.sequence > second.sequence
                      else (second, first))
    if first == second:
        report.warn('header', 'both copies have the same sequence number %d'
                    % first.sequence)
    elif first.sequence == second.sequence:
        report.fatal('header', 'two different copies have the same '
                     'sequence number %d' % first.sequence)
    differences = [name for name in Header._fields[1:]
                   if getattr(first, name) != getattr(second, name)]
    tell = report.info if unclean else report.error
    if differences:
        tell('header', 'the copies differ in ' + ', '.join(differences))
    if current.sequence - other.sequence > 1:
        tell('header', 'sequence numbers %d and %d are not neighbours'
             % (first.sequence, second.sequence))
    return current


def parse_table(view, number, report):
    where = 'region table %d' % number
    data = view.read(TABLES[number - 1], 64 * KIB)
    if data[:4] != b'regi':
        report.error(where, 'signature is %r' % data[:4])
        return None
    if not crc_matches(data, 4):
        report.error(where, 'CRC is wrong')
        return None
    count, reserved = struct.unpack_from('<II', data, 8)
    if reserved:
        report.error(where, 'reserved field is not zero')
    if count > MAX_ENTRIES:
        report.error(where, 'EntryCount is %d' % count)
        return None
    regions = {}
    for i in range(count):
        name, offset, length, required = struct.unpack_from(
            '<16sQII', data, 16 + 32 * i)
        region = Region(guid(name), offset, length, required)
        check_region(view, report, '%s entry %d' % (where, i), region)
        if region.guid in regions:
            report.error(where, 'duplicate region %s' % region.guid)
        else:
            regions[region.guid] = region
    if not is_zero(data[16 + 32 * count:]):
        report.error(where, 'bytes behind the last entry are not zero')
    return regions


def check_region(view, report, where, region):
    if region.offset % MIB or region.offset < MIB:
        report.error(where, 'FileOffset is %#x' % region.offset)
    if region.length % MIB or not region.length:
        report.error(where, 'Length is %#x' % region.length)
    if region.offset + region.length > view.size:
        report.error(where, 'region ends at %#x behind the end of the file '
                     '%#x' % (region.offset + region.length, view.size))
    if region.required & ~1:
        report.error(where, 'reserved bits are not zero')
    if region.guid in (BAT_REGION, METADATA_REGION):
        if not region.required & 1:
            report.error(where, 'Required is not set')
    elif region.required & 1:
        report.error(where, 'unknown region %s is required' % region.guid)
    else:
        report.info(where, 'unknown region %s' % region.guid)


def check_regions(view, report):
    first, second = (parse_table(view, n, report) for n in (1, 2))
    if first is None and second is None:
        report.fatal('region table', 'neither copy is valid')
    if first is not None and second is not None and first != second:
        report.error('region table', 'the copies differ')
    regions = second if first is None else first
    for name, what in ((BAT_REGION, 'BAT'), (METADATA_REGION, 'metadata')):
        if name not in regions:
            report.fatal('region table', 'no %s region' % what)
    return regions
