#!/usr/bin/python3
"""Make the seed corpus of the fuzz target: images, stored as its inputs.

  seeds.py FOLDER         write one file for each image into FOLDER
  seeds.py --pack IMAGE   write the input for IMAGE to standard output

BUILD names a build folder with our tools. Images come from them, from the
unpatched tools of the distribution, from QEMU's source and from Windows, each
where there is any. The form of an input is told in vhdx-fuzz-input.c.
"""
import bz2
import glob
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
BUILD = os.path.realpath(os.environ.get('BUILD') or os.path.join(TOP, 'build'))

# What libFuzzer is told as the length of an input; content is left out where
# it would get longer. The metadata comes first in all files.
MOST = 60 * 1024
CHUNK = 32
PAGE = 4096

QUIET = {'stdout': subprocess.DEVNULL, 'timeout': 60}

# Name: size, options, commands of qemu-io; '!' kills it, so that a log is left
WRITES = ['write -P 1 0 512', 'write -P 2 1M 512', 'write -P 3 3M 4k', 'flush']
MORE = ['discard 1M 1M', 'write -P 4 5M 512', 'flush', 'write -z -u 3M 1M',
        'flush', 'write -P 5 6M 512', 'flush']
IMAGES = {
    'empty': ('0', 'block_size=1M', []),
    'dynamic': ('8M', 'block_size=1M', WRITES + MORE),
    'dynamic-4k': ('8M', 'block_size=1M,logical_sector_size=4096',
                   ['write -P 1 0 4k', 'write -P 2 5M 4k']),
    'not-present': ('9M', 'block_size=2M,block_state_zero=off', WRITES),
    'large-blocks': ('1G', 'block_size=256M', ['write -P 1 300M 512']),
    'fixed': ('4M', 'block_size=1M,subformat=fixed', ['write -P 1 1M 512']),
    'chunks': ('20G', 'block_size=1M,block_state_zero=off',
               ['write -P 1 4095M 512', 'write -P 2 4096M 512']),
    'huge': ('64T', 'block_size=1M,block_state_zero=off',
             ['write -P 1 64T-512 512']),
    'most': ('64T', 'block_size=256M,block_state_zero=off', []),
    'log': ('8M', 'block_size=1M', WRITES + ['!']),
    'log-more': ('8M', 'block_size=1M', WRITES + MORE + ['!']),
    'log-long': ('8M', 'block_size=1M,log_size=4095M',
                 ['write -P 1 0 512', 'flush', '!']),
    'log-4k': ('8M', 'block_size=1M,logical_sector_size=4096',
               ['write -P 1 0 4k', 'flush', '!']),
    'log-pages': ('8G', 'block_size=1M,block_state_zero=off',
                  ['write -P %d %dM 512' % (n, 600 * n)
                   for n in range(1, 12)] + ['flush', '!']),
}
# With a Parent Locator, and HasParent or not: then the image is damaged
CHILDREN = {
    'child': (True, ('8M', 'block_size=1M,block_state_zero=off', WRITES)),
    'child-lost': (False, ('8M', 'block_size=1M', WRITES)),
    'child-log': (True, ('8M', 'block_size=1M', WRITES + MORE + ['!'])),
}
# Made over a parent, by the driver
TURNS = ['write -P %d %dk 512' % (n, 3 * n) for n in range(1, 9)]
MADE = {
    'made': ('8M', 'block_size=1M', WRITES + TURNS),
    'made-zero': ('9M', 'block_size=2M', TURNS + [
        'write -z -u 0 2M', 'write -P 1 2M 2M', 'discard 4M 2M']),
    'made-log': ('8M', 'block_size=1M', TURNS + ['flush', '!']),
    'made-chunks': ('20G', 'block_size=32M', [
        'write -P 1 4095M 512', 'write -P 2 4096M 512', 'flush', '!']),
}
# With dirty bitmaps: the arguments of qemu-img bitmap between two rounds
STORED = {
    'bitmaps': ('8M', 'block_size=1M', [
        ['--add', '-g', '64k', 'a'], ['--add', '-g', '512', 'b'],
        ['--add', '--disable', '-g', '2M', 'c']], WRITES),
    'bitmaps-pages': ('200G', 'block_size=32M', [
        ['--add', '-g', '4k', 'a'], ['--add', '-g', '64k', 'b']],
                      ['write -P 1 %dM 512' % (150 * n)
                       for n in range(1, 9)]),
    'bitmaps-killed': ('8M', 'block_size=1M', [
        ['--add', '-g', '64k', 'a']], WRITES + ['flush', '!']),
    'bitmaps-removed': ('8M', 'block_size=1M', [
        ['--add', 'a'], ['--add', 'b'], ['--remove', 'a'], ['--remove', 'b']],
                        WRITES),
}
LOCATOR = {
    'parent_linkage': '{83ed0ec3-24c8-49a6-a959-5e4bd1288bfb}',
    'relative_path': '.\\parent.vhdx',
    'absolute_win32_path': 'C:\\disks\\parent.vhdx',
}
STOCK = {
    'stock': ('8M', 'block_size=1M', WRITES),
    'stock-fixed': ('4M', 'block_size=1M,subformat=fixed', []),
    'stock-log': ('64M', 'block_size=8M', ['write -P 1 0 512', 'flush', '!']),
}


def run_tools(folder, path, size, options, commands):
    """Make the image at @path with the qemu-img and qemu-io in @folder."""
    subprocess.run([folder + '/qemu-img', 'create', '-q', '-f', 'vhdx',
                    '-o', options, path, size], check=True, **QUIET)
    if commands:
        run_io(folder, path, commands)


def run_io(folder, path, commands):
    """Let the qemu-io in @folder do @commands."""
    args = [folder + '/qemu-io', '-f', 'vhdx', '-t', 'writeback', '-d',
            'unmap']
    killed = commands[-1] == '!'
    for command in commands[:-1] if killed else commands:
        at = command.replace('64T-512', str((64 << 40) - 512))
        args += ['-c', at]
    if killed:
        args += ['-c', 'sigraise 9']
        done = subprocess.run(args + [path], check=False, **QUIET)
        assert done.returncode == -9, done
    else:
        subprocess.run(args + [path], check=True, **QUIET)


def locator():
    """The content of a Parent Locator item."""
    kind = uuid.UUID('b04aefb7-d19e-4a81-b789-25b8e9445913')
    head = kind.bytes_le + struct.pack('<HH', 0, len(LOCATOR))
    at = len(head) + 12 * len(LOCATOR)
    table, text = b'', b''
    for pair in LOCATOR.items():
        key, value = (string.encode('utf-16-le') for string in pair)
        place = at + len(text)
        table += struct.pack('<IIHH', place, place + len(key), len(key),
                             len(value))
        text += key + value
    return head + table + text


def make_child(path, has_parent):
    """Give the image at @path, of our layout, a Parent Locator."""
    metadata, content = 3 << 20, locator()
    item = uuid.UUID('a8d35f2d-b30b-454d-abf7-d3d84834ab0c')
    parameters = uuid.UUID('caa16737-fa36-4d43-b3b6-33f0aa44e76b')
    with open(path, 'r+b') as file:
        table = bytearray(os.pread(file.fileno(), 64 << 10, metadata))
        count = struct.unpack_from('<H', table, 10)[0]
        struct.pack_into('<H', table, 10, count + 1)
        struct.pack_into('<16sIIII', table, 32 + 32 * count, item.bytes_le,
                         65 << 10, len(content), 4, 0)
        entry = table.index(parameters.bytes_le)
        flags = metadata + struct.unpack_from('<I', table, entry + 16)[0] + 4
        os.pwrite(file.fileno(), table, metadata)
        os.pwrite(file.fileno(), content, metadata + (65 << 10))
        if has_parent:
            os.pwrite(file.fileno(), struct.pack('<I', 2), flags)


def extents(file, size):
    """Where the file holds data, by its holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield start, at


def pieces(file, size):
    """(offset, bytes) for all that is not zero, in chunks."""
    begin, data = 0, b''
    for start, end in extents(file, size):
        for page in range(start // PAGE * PAGE, end, PAGE):
            content = os.pread(file.fileno(), PAGE, page)
            if not any(content):
                continue
            for i in range(0, len(content), CHUNK):
                chunk = content[i:i + CHUNK]
                if (data and begin + len(data) == page + i and any(chunk) and
                        len(data) < PAGE):
                    data += chunk
                elif any(chunk):
                    if data:
                        yield begin, data
                    begin, data = page + i, chunk
    if data:
        yield begin, data


def pack(path):
    """The input for the image at @path."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        result = struct.pack('<QQ', size, 1)
        for offset, data in pieces(file, size):
            piece = struct.pack('<QQIIII', offset, 0, len(data), 1, 0, 0)
            if len(result) + len(piece) + len(data) > MOST:
                break
            result += piece + data
    return result


def unpack(source, path):
    """Store a compressed image at @path, sparse."""
    opener = bz2.open if source.endswith('.bz2') else lzma.open
    with opener(source) as packed, open(path, 'wb') as file:
        for data in iter(lambda: packed.read(1 << 20), b''):
            if any(data):
                file.write(data)
            else:
                file.seek(len(data), os.SEEK_CUR)
        file.truncate()


def make_all(scratch):
    """(name, path) of each image."""
    path = os.path.join(scratch, 'image.vhdx')
    for folder, images in ((BUILD + '/bin', IMAGES), ('/usr/bin', STOCK)):
        if not shutil.which(folder + '/qemu-img'):
            continue
        for name, how in images.items():
            run_tools(folder, path, *how)
            yield name, path
            os.unlink(path)
    for name, (has_parent, how) in CHILDREN.items():
        run_tools(BUILD + '/bin', path, *how)
        make_child(path, has_parent)
        yield name, path
        os.unlink(path)
    for name, (size, options, bitmaps, commands) in STORED.items():
        run_tools(BUILD + '/bin', path, size, options, [])
        for how in bitmaps:
            subprocess.run([BUILD + '/bin/qemu-img', 'bitmap', *how[:-1], path,
                            how[-1]], check=True, **QUIET)
        run_io(BUILD + '/bin', path, commands)
        yield name, path
        os.unlink(path)
    parent = os.path.join(scratch, 'parent.vhdx')
    run_tools(BUILD + '/bin', parent, '9M', 'block_size=1M', WRITES)
    for name, (size, options, commands) in MADE.items():
        options += ',backing_fmt=vhdx,backing_file=' + parent
        run_tools(BUILD + '/bin', path, size, options, commands)
        yield 'child-' + name, path
        os.unlink(path)
    sources = glob.glob(BUILD + '/pristine/tests/qemu-iotests/'
                        'sample_images/*.vhdx.bz2')
    sources += glob.glob(os.path.dirname(TOP) + '/shared/images/*.vhdx.xz')
    for source in sorted(sources):
        unpack(source, path)
        yield os.path.basename(source).split('.')[0], path
        os.unlink(path)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == '--pack':
        sys.stdout.buffer.write(pack(sys.argv[2]))
        return
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        for name, path in make_all(scratch):
            with open(os.path.join(sys.argv[1], name), 'wb') as file:
                file.write(pack(path))


if __name__ == '__main__':
    main()
