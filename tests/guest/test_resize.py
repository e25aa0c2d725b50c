"""A disk gets larger while the guest writes to it."""
from harness import expect
from guest import DISKS, MIB, SIZE, Guest, create, sound


def resize(context, disk):
    create(context, disk)
    known = {}
    with Guest(context, disk, known, 'base') as guest:
        guest.make()
        guest.write()
        for size in (SIZE + 128 * MIB, SIZE + 256 * MIB):
            guest.wait_for(2)
            guest.command('block_resize', **{'node-name': 'base',
                                             'size': size})
            guest.run('until [ $(cat /sys/block/%s/size) -eq %d ]; '
                      'do sleep 0.1; done' % (guest.disk, size // 512))
            guest.run('resize2fs $disk %dM' % (size // MIB - 1))
        guest.wait_for(2)
        guest.stop()
        # the disk's last MiB is not part of the file system
        last = 'dd if=$disk bs=1M skip=%d | sha256sum' % (size // MIB - 1)
        guest.run('head -c 1m /dev/urandom | dd of=$disk bs=1M seek=%d '
                  'iflag=fullblock conv=fsync' % (size // MIB - 1))
        content = guest.run(last)
        guest.off()
    sound(context, 'base')
    with Guest(context, disk, known, 'base') as guest:
        guest.mount()
        expect(guest.run(last) == content, 'the last MiB has changed')
        space = int(guest.run('df -m /mnt').split()[-5])
        expect(space > SIZE // MIB, 'the file system has %d MiB', space)
        guest.off()
    sound(context, 'base')


def tests():
    return [('%s-%d' % disk, lambda context, disk=disk: resize(context, disk))
            for disk in (DISKS[0], DISKS[3])]
