"""External snapshots in vhdx that are deleted, and gone back to."""
import os
import re

from areas.merge import SIZE, vhdx
from areas.snapshots import snapshot
from content import Content
from domain import Domain, disk_xml
from report import expect, expect_equal, expect_in, step
from tools import Unchanged


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    for number, form in enumerate(('vhdx', 'qcow2')):
        running(tools, session, bench.pool('running-%d' % number), form)
    for form in 'vhdx', 'qcow2':
        off(tools, session, bench.pool('off-' + form), form)
    if session.version() < (9, 9):
        no_revert(tools, session, bench.pool('revert'))
    else:
        revert(tools, session, bench.pool('revert'))
        memory(tools, session, bench.pool('memory'))
        others(tools, session, bench.pool('others'))


def name_of(path):
    """The snapshot that has made this file."""
    return os.path.splitext(os.path.basename(path))[0]


def names(domain):
    return domain.virsh('snapshot-list', '--name').split()


def delete(pool, domain, name, path):
    """Delete a snapshot; the file that it had made is gone."""
    domain.virsh('snapshot-delete', name)
    expect(name not in names(domain), '%s is listed', name)
    expect(not os.path.exists(path), '%s is there', path)
    expect(path not in [source for _, source in domain.chain()],
           '%s in the chain', path)
    pool.refresh()


def checkpoint(domain, pool, content, name, number, form='vhdx'):
    """A snapshot of a running guest, which then writes this layer; the
    file."""
    path = pool.path('%s.%s' % (name, form))
    snapshot(domain, name, path, driver=form)
    content.guest_layer(domain, number)
    return path


def running(tools, session, pool, form):
    """Each of three is deleted: in the middle, the current, the last."""
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    content = Content(SIZE)
    content.file_layer(tools, disk, 0)
    with Domain(session, 's', disk_xml(disk)) as domain:
        domain.start()
        one, two, three = (
            checkpoint(domain, pool, content, name, number + 1, form)
            for number, name in enumerate(('one', 'two', 'three')))
        below = [(form, one), ('vhdx', disk)]
        with step('snapshot-delete in the middle, guest running, %s' % form):
            delete(pool, domain, 'two', two)
            expect_equal(domain.chain(), [(form, three)] + below, 'chain')
            content.seen_by(domain)
        with step('... of the current one'):
            delete(pool, domain, 'three', three)
            expect_equal(domain.chain(), below, 'chain')
            content.seen_by(domain)
        with step('... of the last one: the disk is what it was'):
            delete(pool, domain, 'one', one)
            expect_equal(domain.chain(), vhdx(disk), 'chain')
            expect_equal(names(domain), [], 'snapshots')
            domain.destroy()
            content.held_by(tools, disk)


def off(tools, session, pool, form):
    """The same with the guest off: libvirt starts QEMU for the merge."""
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    content = Content(SIZE)
    content.file_layer(tools, disk, 0)
    one, two, three = files = [pool.path('%s.%s' % (name, form))
                               for name in ('one', 'two', 'three')]
    with Domain(session, 's', disk_xml(disk)) as domain:
        for number, path in enumerate(files):
            snapshot(domain, name_of(path), path, driver=form)
            content.file_layer(tools, path, number + 1, form)
        if session.version() < (9, 9):
            with step('snapshot-delete in the middle, guest off, %s: this '
                      'libvirt looks in a chain it has not read' % form):
                with Unchanged(disk, *files):
                    domain.virsh('snapshot-delete', 'two',
                                 fails='could not find base disk source')
            order = [three, two, one]
        else:
            order = [two, one, three]
        left = [disk] + files
        for path in order:
            with step('snapshot-delete of %s, guest off, %s'
                      % (name_of(path), form)):
                delete(pool, domain, name_of(path), path)
                left.remove(path)
                expect_equal(domain.state(), 'shut off', 'state')
                expect_equal(domain.source(), left[-1], 'domblklist')
                top = form if len(left) > 1 else 'vhdx'
                expect_equal([found for _, found in tools.chain(
                    left[-1], top)], left[::-1], 'chain')
                content.held_by(tools, left[-1], top)
                tools.check(disk)
        with step('... and none is left'):
            expect_equal(names(domain), [], 'snapshots')


def no_revert(tools, session, pool):
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    with Domain(session, 's', disk_xml(disk)) as domain:
        with step('snapshot-revert: this libvirt has none to external ones'):
            path = pool.path('one.vhdx')
            snapshot(domain, 'one', path, driver='vhdx')
            domain.virsh('snapshot-revert', 'one',
                         fails='revert to external snapshot not supported')
            expect_equal(domain.source(), path, 'domblklist')
            expect_equal(tools.chain(path), vhdx(path, disk), 'chain')


def new_overlay(domain, below):
    """libvirt has put a qcow2 image of its own choice on the one below."""
    path = domain.source()
    expect(re.fullmatch(re.escape(os.path.splitext(below)[0]) + r'\.\d+',
                        path), 'name of the overlay: %s', path)
    return path


def revert(tools, session, pool):
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    contents = {'one': Content(SIZE)}
    contents['one'].file_layer(tools, disk, 0)
    one, two = pool.path('one.vhdx'), pool.path('two.vhdx')
    with Domain(session, 's', disk_xml(disk)) as domain:
        snapshot(domain, 'one', one, driver='vhdx')
        domain.start()
        content = contents['one'].copy()
        content.guest_layer(domain, 1)
        contents['two'] = content.copy()
        snapshot(domain, 'two', two, driver='vhdx')
        content.guest_layer(domain, 2)

        with step('snapshot-revert, guest running: it is off'):
            domain.virsh('snapshot-revert', 'one')
            expect_equal(domain.state(), 'shut off', 'state')
            over = new_overlay(domain, disk)
            expect_equal(tools.chain(over, 'qcow2'),
                         [('qcow2', over), ('vhdx', disk)], 'chain')
            contents['one'].held_by(tools, over, 'qcow2')
        with step('... the layer after the last snapshot is gone'):
            expect(not os.path.exists(two), '%s is there', two)
            contents['two'].held_by(tools, one)
        with step('... the guest writes there'):
            domain.start()
            content = contents['one'].copy()
            content.guest_layer(domain, 3)
            content.seen_by(domain)
            domain.destroy()
            content.held_by(tools, over, 'qcow2')
            contents['two'].held_by(tools, one)
        with step('snapshot-revert to another branch, with a start'):
            domain.virsh('snapshot-revert', 'two', '--running')
            domain.running()
            expect(not os.path.exists(over), '%s is there', over)
            over = new_overlay(domain, one)
            expect_equal(domain.chain(), [('qcow2', over), ('vhdx', one),
                                          ('vhdx', disk)], 'chain')
            contents['two'].seen_by(domain)
        with step('... all of it merged by snapshot-delete'):
            content = contents['two'].copy()
            content.guest_layer(domain, 4)
            delete(pool, domain, 'one', one)
            expect_equal(domain.chain(), [('qcow2', over), ('vhdx', disk)],
                         'chain')
            delete(pool, domain, 'two', over)
            expect_equal(domain.chain(), vhdx(disk), 'chain')
            content.seen_by(domain)
            domain.destroy()
            content.held_by(tools, disk)


def memory(tools, session, pool):
    """A snapshot of a running guest with its memory."""
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    content = Content(SIZE)
    content.file_layer(tools, disk, 0)
    one = pool.path('one.vhdx')
    with Domain(session, 's', disk_xml(disk)) as domain:
        domain.start()
        with step('a snapshot in vhdx with the memory'):
            domain.virsh('snapshot-create-as', 'one', '--memspec',
                         'snapshot=external,file=' + pool.path('memory'),
                         '--diskspec', 'sda,snapshot=external,driver=vhdx,'
                         'file=' + one)
            domain.running()
            expect_equal(domain.chain(), vhdx(one, disk), 'chain')
            content.copy().guest_layer(domain, 1)
        with step('... snapshot-revert: the guest runs on'):
            domain.virsh('snapshot-revert', 'one')
            domain.running()
            over = new_overlay(domain, disk)
            expect_equal(domain.chain(), [('qcow2', over), ('vhdx', disk)],
                         'chain')
            content.seen_by(domain)
            expect(not os.path.exists(one), '%s is there', one)
        with step('... and writes'):
            content.guest_layer(domain, 2)
            domain.destroy()
            content.held_by(tools, over, 'qcow2')
            tools.check(disk)


def others(tools, session, pool):
    """What is merged and removed has another child, of another branch."""
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    content = Content(SIZE)
    content.file_layer(tools, disk, 0)
    with Domain(session, 's', disk_xml(disk)) as domain:
        domain.start()
        seen = []
        files = []
        for number, name in enumerate(('one', 'two', 'three')):
            seen.append(content.copy())
            files.append(checkpoint(domain, pool, content, name, number + 1))
        domain.destroy()
        one, two, three = files
        # now there are two images over the first overlay
        domain.virsh('snapshot-revert', 'two', '--running')
        over = new_overlay(domain, one)
        expect(not os.path.exists(three), '%s is there', three)
        with step('snapshot-delete of what has another child, too'):
            session.mark()
            delete(pool, domain, 'one', one)
            expect_equal(domain.chain(), [('qcow2', over), ('vhdx', disk)],
                         'chain')
            seen[1].seen_by(domain)
        with step('... the other child is told its new parent'):
            command, = [text for text in session.ran('qemu-img')
                        if ' rebase ' in text]
            expect_in('rebase -u -F vhdx -f vhdx -b %s %s' % (disk, two),
                      command)
            expect_equal(tools.chain(two), vhdx(two, disk), 'chain')
        with step('... and reads as before'):
            domain.destroy()
            seen[1].held_by(tools, over, 'qcow2')
            seen[2].held_by(tools, two)
        with step('... also for snapshot-revert to it'):
            domain.virsh('snapshot-revert', 'three', '--running')
            expect_equal(domain.chain(), [
                ('qcow2', new_overlay(domain, two)), ('vhdx', two),
                ('vhdx', disk)], 'chain')
            seen[2].seen_by(domain)
