"""A guest's trim reaches the host's file system: a file system on an image
that is exported with FUSE, and requests over NBD."""
import os

from harness import Failure, Skip, checked, expect, foreign, ours, run
from qmp import Daemon
from strict.report import KIB, MIB

SIZE = 256 * MIB
FILES = 10
FILE_SIZE = 16 * MIB


def taken(path):
    """Bytes that the file takes on the host."""
    return os.stat(path).st_blocks * 512


def daemon(path):
    return Daemon('--blockdev', 'file,node-name=file,discard=unmap,filename='
                  + path, '--blockdev',
                  'vhdx,node-name=disk,file=file,discard=unmap')


def exported(ctx, disk, daemon_):
    """The disk as a file of the host's."""
    mount = ctx.path('exported')
    with open(mount, 'wb'):
        pass
    if not os.path.exists('/dev/fuse'):
        raise Skip('this machine has no /dev/fuse')
    try:
        daemon_.command('block-export-add', type='fuse', id='fuse',
                        mountpoint=mount, writable=True, growable=False,
                        **{'node-name': disk})
    except Failure as error:
        # A container may not be allowed to mount anything
        if 'Failed to mount' in str(error):
            raise Skip('FUSE can\'t mount here: %s' % error) from None
        raise
    expect(os.path.getsize(mount) == SIZE, 'the export has %d bytes',
           os.path.getsize(mount))
    return mount


def clean(mount, *options, status=0):
    """e2fsck finds nothing to repair."""
    text = run(foreign('e2fsck'), '-f', *options, mount, status=status)
    for words in ('Fix', 'WAS MODIFIED', 'ERROR', 'invalid'):
        expect(words not in text, text)


def contents(ctx, mount, numbers):
    for number in numbers:
        copy = ctx.path('copy')
        run(foreign('debugfs'), '-R', 'dump file%d %s' % (number, copy),
            mount)
        with open(copy, 'rb') as file:
            expect(file.read() == bytes([number + 1]) * FILE_SIZE,
                   'file%d has other content', number)
        os.unlink(copy)


def file_system(sector):
    """Make files, delete most of them, discard what is free: the host has its
    space back while the export goes on, and the file system is whole."""
    def test(ctx):
        for tool in ('mkfs.ext4', 'e2fsck', 'debugfs', 'fallocate'):
            foreign(tool)
        image = ctx.create('disk.vhdx', SIZE, block_size='1M',
                           logical_sector_size=sector)
        with daemon(image) as qsd:
            mount = exported(ctx, 'disk', qsd)
            # QEMU 10's export takes no discard of parts of a sector
            run(foreign('mkfs.ext4'), '-q', '-F', '-b', 4096, '-E',
                'discard,lazy_itable_init=0,lazy_journal_init=0', mount)
            empty = taken(image)
            for number in range(FILES):
                source = ctx.path('source')
                with open(source, 'wb') as file:
                    file.write(bytes([number + 1]) * FILE_SIZE)
                run(foreign('debugfs'), '-w', '-R', 'write %s file%d'
                    % (source, number), mount)
            clean(mount, '-n')
            contents(ctx, mount, range(FILES))
            full = taken(image)
            expect(full >= empty + FILES * FILE_SIZE,
                   '%d bytes taken after writing, %d before', full, empty)
            for number in range(FILES - 2):
                run(foreign('debugfs'), '-w', '-R', 'rm file%d' % number,
                    mount)
            expect(taken(image) >= full, 'there was no discard yet')
            clean(mount, '-y', '-E', 'discard')
            left = taken(image)
            expect(left <= empty + 2 * FILE_SIZE + 8 * MIB,
                   '%d bytes are left of %d, %d when empty', left, full, empty)
            clean(mount, '-n')
            contents(ctx, mount, range(FILES - 2, FILES))
            # All of it, block by block and in one go
            for place in range(0, SIZE // 2, 512 * KIB):
                run(foreign('fallocate'), '-p', '-o', place, '-l', 512 * KIB,
                    mount)
            run(foreign('fallocate'), '-p', '-o', SIZE // 2, '-l', SIZE // 2,
                mount)
            with open(mount, 'r+b') as file:
                os.fsync(file.fileno())
            expect(taken(image) <= 8 * MIB, '%d bytes are left of all',
                   taken(image))
            with open(mount, 'rb') as file:
                expect(not any(file.read()), 'there is data left')
        with checked(image):
            pass
        # No block is left, or some that are holes
        expect(taken(image) <= 8 * MIB, '%d bytes', taken(image))
    return test


def nbd(sector):
    """Trim and write-zeroes with leave for holes."""
    def test(ctx):
        image = ctx.create('disk.vhdx', SIZE, block_size='1M',
                           logical_sector_size=sector)
        socket = ctx.path('nbd.sock')
        uri = 'nbd+unix:///disk?socket=' + socket

        def io(*commands):
            args = [arg for command in commands for arg in ('-c', command)]
            text = run(ours('qemu-io'), '-f', 'raw', *args, uri)
            expect('failed' not in text, text)

        with daemon(image) as qsd:
            qsd.command('nbd-server-start', addr={
                'type': 'unix', 'data': {'path': socket}})
            qsd.command('block-export-add', type='nbd', id='nbd',
                        writable=True, **{'node-name': 'disk'})
            io('write -P 1 0 64M')
            full = taken(image)
            expect(full >= 64 * MIB, '%d bytes taken', full)
            for command, place in (('discard', 8), ('write -z -u', 16)):
                before = taken(image)
                io('%s %dM 4M' % (command, place))
                # Half of a block
                io('%s %dM 512k' % (command, place + 5))
                expect(taken(image) <= before - 4608 * KIB + 64 * KIB,
                       '%s: %d bytes of %d are left', command, taken(image),
                       before)
                io('read -P 0 %dM 4M' % place,
                   'read -P 1 %dM 1M' % (place - 1),
                   'read -P 1 %dM 1M' % (place + 4),
                   'read -P 0 %dM 512k' % (place + 5))
            io('discard 32M 32M')
            length = os.path.getsize(image)
            expect(length <= 4 * MIB + 32 * MIB,
                   'the file still has %d bytes', length)
        with checked(image):
            pass
    return test


def tests():
    return [('fuse-512', file_system(512)), ('fuse-4k', file_system(4096)),
            ('nbd-512', nbd(512)), ('nbd-4k', nbd(4096))]
