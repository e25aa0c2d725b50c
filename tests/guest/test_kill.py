"""QEMU is killed while the guest writes: all that was stable is there."""
import json

from harness import Failure, expect, ours, run
from guest import DISKS, Guest, create, last_look

# How many files the guest writes until it is killed, and again
COUNTS = ((2, 9), (5, 1), (1, 4), (7, 3))


def killed(context, *names):
    """None of the images has an error, and the last has a log that is to be
    replayed."""
    for name in names:
        check = ours('qemu-img'), 'check', '-f', 'vhdx', context.path(name)
        try:
            # its file is longer than what is in use ...
            run(*check, status=3)
        except Failure:
            # ... but where the guest has just used up all of it
            run(*check)
    info = run(ours('qemu-img'), 'info', '-f', 'vhdx', '--output=json',
               context.path(names[-1]))
    expect(json.loads(info)['dirty-flag'], 'nothing is to be replayed')


def kill(context, disk, counts):
    create(context, disk)
    known = {}
    for count in counts:
        with Guest(context, disk, known, 'base') as guest:
            if known:
                guest.mend()
            else:
                guest.make()
            guest.write()
            guest.wait_for(count)
            guest.kill()
        killed(context, 'base')
    last_look(context, disk, known, mend=True)


def kill_commit(context):
    """In the middle of a commit, which is then done again."""
    disk, known = DISKS[0], {}
    create(context, disk)
    with Guest(context, disk, known, 'base') as guest:
        guest.make()
        guest.write()
        guest.wait_for(1)
        guest.snapshot('one', 'base')
        guest.wait_for(2)
        guest.snapshot('two', 'one')
        guest.wait_for(2)
        guest.command('block-commit', device='two', speed=1 << 20,
                      **{'job-id': 'job', 'base-node': 'base'})
        guest.wait_for(2)
        job, = guest.command('query-jobs')
        expect(job['status'] in ('running', 'ready') and
               job['current-progress'] > 0, 'the commit is at %s', job)
        guest.kill()
    killed(context, 'base', 'one', 'two')
    with Guest(context, disk, known, 'base', 'one', 'two') as guest:
        guest.mend()
        guest.write()
        guest.wait_for(1)
        guest.commit('two', 'base')
        guest.wait_for(1)
        guest.kill()
    killed(context, 'base')
    last_look(context, disk, known, mend=True)


def tests():
    return [('%s-%d' % disk,
             lambda context, disk=disk, counts=counts:
             kill(context, disk, counts))
            for disk, counts in zip(DISKS, COUNTS)] + [('commit', kill_commit)]
