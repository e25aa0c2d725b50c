"""What the strict reader found, and the small helpers that every part uses.

A finding has one of three levels.  An *error* breaks a rule of the format.
A *warning* breaks none, but a careful writer would not leave it so (bytes
that ought to be zero, for instance).  *info* is only told: space that is free
inside the file, the place of a region.  Errors and warnings make a check fail.
"""
import uuid

import crcmod.predefined

KIB = 1 << 10
MIB = 1 << 20
TIB = 1 << 40

crc32c = crcmod.predefined.mkCrcFun('crc-32c')


class Corrupt(Exception):
    """The file cannot be read any further."""


class Report:
    def __init__(self):
        self.items = []

    def error(self, where, text):
        self.items.append(('error', where, text))

    def warn(self, where, text):
        self.items.append(('warning', where, text))

    def info(self, where, text):
        self.items.append(('info', where, text))

    def fatal(self, where, text):
        self.error(where, text)
        raise Corrupt('%s: %s' % (where, text))

    def bad(self):
        return [i for i in self.items if i[0] != 'info']

    def lines(self, items=None):
        return ['%s: %s: %s' % i for i in (self.items if items is None
                                           else items)]


def guid(data):
    """The GUID in 16 bytes of a VHDX file, as text in lower case."""
    return str(uuid.UUID(bytes_le=bytes(data)))


NIL_GUID = str(uuid.UUID(int=0))


def is_zero(data):
    return not any(data) if len(data) < 64 else \
        data.count(0) == len(data)


def crc_matches(data, at):
    """Whether the CRC-32C stored at offset 'at' is that of the data."""
    stored = int.from_bytes(data[at:at + 4], 'little')
    return stored == crc32c(bytes(data[:at]) + bytes(4) + bytes(data[at + 4:]))
