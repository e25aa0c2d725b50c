"""A file system on each kind of disk: made, filled, trimmed, mounted again."""
import os

from harness import expect
from guest import DISKS, MIB, Guest, create, last_look, sound

LARGE = 48 * MIB


def used(path):
    return os.stat(path).st_blocks * 512


def files(context, disk):
    create(context, disk)
    path = context.path('base')
    known = {}
    with Guest(context, disk, known, 'base') as guest:
        guest.make()
        sector = guest.run('cat /sys/block/%s/queue/logical_block_size'
                           % guest.disk)
        expect(int(sector) == disk[1], 'the guest has sectors of %s', sector)
        guest.write()
        guest.wait_for(4)
        guest.stop()
        # from here on only fstrim discards
        guest.run('mount -o remount,nodiscard /mnt && fstrim /mnt && sync')
        guest.write_large()
        full = used(path)
        expect(full > LARGE, 'the file has %d bytes', full)
        guest.run('rm /mnt/large; sync')
        expect(used(path) > full - MIB, 'the file got smaller too early')
        guest.run('fstrim /mnt && sync')
        left = full - used(path)
        expect(LARGE - 4 * MIB <= left <= LARGE + 16 * MIB,
               '%d bytes were removed, the file has lost %d', LARGE, left)
        guest.off()
    sound(context, 'base')
    last_look(context, disk, known)


def tests():
    return [('%s-%d' % disk, lambda context, disk=disk: files(context, disk))
            for disk in DISKS]
