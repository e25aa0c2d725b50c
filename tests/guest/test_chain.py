"""Snapshots, commits and compacting while the guest writes."""
import os

from harness import expect
from guest import DISKS, MIB, Guest, create, last_look, sound


def chain(context, disk):
    create(context, disk)
    known = {}
    names = ('base', 'one', 'two', 'three', 'four')
    with Guest(context, disk, known, 'base') as guest:
        guest.make()
        guest.write_large()
        guest.write()
        for parent, name in zip(names, names[1:]):
            guest.wait_for(1)
            guest.snapshot(name, parent)
        guest.wait_for(2)
        guest.commit('four', 'two', **{'top-node': 'three'})
        guest.command('blockdev-del', **{'node-name': 'three'})
        guest.wait_for(2)
        guest.stop()
        guest.off()
    names = ('base', 'one', 'two', 'four')
    sound(context, *names)

    path = context.path('base')
    with Guest(context, disk, known, *names) as guest:
        guest.mount()
        guest.write()
        guest.wait_for(1)
        guest.commit('four', 'base')
        for name in reversed(names[1:]):
            guest.command('blockdev-del', **{'node-name': name})
            os.remove(context.path(name))
        guest.wait_for(1)
        guest.run('rm /mnt/large; sync; fstrim /mnt')
        before = os.path.getsize(path)
        guest.finish('x-blockdev-amend', **{'node-name': 'base', 'options': {
            'driver': 'vhdx', 'compact': 'space'}})
        after = os.path.getsize(path)
        expect(after <= before - 32 * MIB, 'the file had %d bytes, and has %d',
               before, after)
        guest.wait_for(2)
        guest.stop()
        guest.off()
    sound(context, 'base')
    last_look(context, disk, known)


def tests():
    return [('%s-%d' % disk, lambda context, disk=disk: chain(context, disk))
            for disk in (DISKS[1], DISKS[2])]
