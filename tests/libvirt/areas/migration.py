"""Live migration to a second daemon: shared and copied storage."""
import os
import shutil

from areas.backup import CHECKPOINT, PUSH, SINCE, begin, finished
from areas.merge import SIZE, build, vhdx
from content import Content
from domain import Domain, disk_xml
from report import expect, expect_equal, step
from tools import MIB, Unchanged


def run(bench):
    tools = bench.tools
    source = bench.daemon()
    pool = bench.pool('migration')
    with step('a second daemon with another host UUID'):
        target = bench.new_session('b')
        target.virsh('uri')
        expect_equal(len({session.virsh('capabilities').split('<uuid>')[1][:36]
                          for session in (source, target)}), 2,
                     'number of hosts')
    shared(tools, source, target, pool)
    copied(tools, source, target, pool)
    sectors(tools, source, target, pool)
    checkpoint(tools, source, target, bench.pool('checkpoint'))
    chain(tools, source, target, bench.pool('migrated'))
    chain_copied(tools, source, target, bench.pool('migrated-top'))


def migrate(source, target, domain, *more, **how):
    socket = source.path('migrate')
    return domain.virsh(
        'migrate', '--live', '--unsafe', *more, '--migrateuri',
        'unix://' + socket, '--desturi',
        'qemu+unix:///session?socket=' + target.socket, **how)


def there(domain, target):
    """The domain as the target's daemon sees it."""
    moved = Domain(target, domain.name, *domain.disks)
    moved.running()
    names = domain.session.virsh('list', '--name').split()
    expect(domain.name not in names, 'it still runs on the source')
    return moved


def shared(tools, source, target, pool):
    disk = tools.create(pool.path('shared.vhdx'), '256M')
    with Domain(source, 'm', disk_xml(disk, driver="cache='none'")) as domain:
        domain.start()
        domain.write(101, 0, '1M')
        with step('live migration with shared storage'):
            migrate(source, target, domain)
            moved = there(domain, target)
        with step("... the guest reads what it wrote on the source's side"):
            moved.reads(101, 0, '1M')
        with step('... and writes'):
            moved.write(102, '1M', '1M')
            moved.reads(102, '1M', '1M')
        with step('after the stop the image is clean and has both'):
            moved.destroy()
            tools.check(disk)
            tools.holds(disk, (101, 0, MIB), (102, '1M', MIB))


def copied(tools, source, target, pool):
    disk = tools.create(pool.path('copied.vhdx'), '256M')
    their_pool = target.pool('target')
    copy = their_pool.path('copied.vhdx')
    with Domain(source, 'm', disk_xml(disk, driver="cache='none'")) as domain:
        domain.start()
        domain.write(103, 0, '1M')
        domain.write(104, '200M', '1M')
        with step('live migration that copies the storage'):
            migrate_copy(source, target, domain, copy)
            moved = there(domain, target)
            expect_equal(moved.source(), copy, 'domblklist')
        with step('... into an image that libvirt has made, as vhdx'):
            expect_equal(tools.info(copy)['format'], 'vhdx', 'format')
            expect_equal(their_pool.form('copied.vhdx'), 'vhdx',
                         "the volume's format")
        with step('... the guest reads and writes'):
            moved.reads(103, 0, '1M')
            moved.reads(104, '200M', '1M')
            moved.write(105, '100M', '1M')
            moved.reads(105, '100M', '1M')
        with step('after the stop both images are clean'):
            moved.destroy()
            tools.check(disk)
            tools.check(copy)
        with step('... the copy has the writes of both sides'):
            tools.holds(copy, (103, 0, MIB), (104, '200M', MIB),
                        (105, '100M', MIB))
        with step('... and but for the last of them they are the same'):
            tools.io(disk, 'write -q -P 105 100M 1M')
            tools.same(disk, copy)


def checkpoint(tools, source, target, pool):
    """What has changed since a checkpoint is known over there."""
    disk = tools.create(pool.path('disk.vhdx'), SIZE)
    copy = tools.create(pool.path('copy.vhdx'), SIZE)
    full, changes = pool.path('full.vhdx'), pool.path('changes.vhdx')
    content = Content(SIZE)
    with Domain(source, 'm', disk_xml(disk, driver="cache='none'")) as domain:
        domain.start()
        content.guest_layer(domain, 0)
        begin(source, domain, PUSH % ('', 'vhdx', full), CHECKPOINT % 'one')
        finished(domain)
        content.guest_layer(domain, 1)
        text = domain.virsh('checkpoint-dumpxml', 'one')
        with step('live migration that copies a disk with a checkpoint'):
            migrate_copy(source, target, domain, copy)
            moved = there(domain, target)
        with step('... over there it can be told again'):
            path = target.path('one.xml')
            with open(path, 'w', encoding='utf-8') as file:
                file.write(text)
            moved.virsh('checkpoint-create', path, '--redefine',
                        '--redefine-validate')
        content.guest_layer(moved, 2)
        with step('... and what has changed on both sides be pushed'):
            tools.create(changes, SIZE, backing=('vhdx', 'full.vhdx'))
            with Unchanged(full):
                begin(target, moved, PUSH % (SINCE % 'one', 'vhdx', changes),
                      None, ('--reuse-external',))
                finished(moved)
            content.held_by(tools, changes)
        with step('after the stop the copy has its bitmap'):
            moved.destroy()
            bitmap, = tools.vhdx(copy)['bitmaps']
            expect_equal((bitmap['name'], bitmap['flags']), ('one', ['auto']),
                         'bitmap')
            content.held_by(tools, copy)


def migrate_copy(source, target, domain, copy, what='--copy-storage-all',
                 **how):
    path = source.path('target.xml')
    with open(path, 'w', encoding='utf-8') as file:
        file.write(domain.xml_text(disk_xml(copy, driver="cache='none'"))
                   .replace('</name>', '</name><uuid>%s</uuid>'
                            % domain.virsh('domuuid').strip()))
    return migrate(source, target, domain, what, '--xml', path,
                   '--disks-uri', 'unix://' + source.path('disks'),
                   **how)


def sectors(tools, source, target, pool):
    disk = tools.create(pool.path('4k.vhdx'), '64M', logical_sector_size=4096)
    copy = os.path.join(target.folder, 'pools', 'target', '4k.vhdx')
    with step('sectors of 4 KiB: no target with others is made'):
        with Domain(source, 'm', disk_xml(disk, driver="cache='none'")) \
                as domain:
            domain.start()
            migrate_copy(source, target, domain, copy, fails='sector')
            expect(not os.path.exists(copy), 'a target was made')
            domain.running()
            domain.write(106, 0, '1M')
            domain.reads(106, 0, '1M')


def chain(tools, source, target, pool):
    (base, one, top), content = build(tools, pool, 'base.vhdx', 'one.vhdx',
                                      'top.vhdx')
    with Domain(source, 'm', disk_xml(top, driver="cache='none'")) as domain:
        domain.start()
        content.guest_layer(domain, 3)
        with step('live migration of a chain with shared storage'):
            with Unchanged(base, one):
                migrate(source, target, domain)
                moved = there(domain, target)
                expect_equal(moved.chain(), vhdx(top, one, base), 'chain')
                content.seen_by(moved)
                content.guest_layer(moved, 4)
        with step('... whose layers are merged over there'):
            moved.virsh('blockcommit', 'sda', '--top', one, '--base', base,
                        '--wait')
            moved.virsh('blockcommit', 'sda', '--active', '--pivot')
            expect_equal(moved.chain(), vhdx(base), 'chain')
            content.seen_by(moved)
            moved.destroy()
            content.held_by(tools, base)


def chain_copied(tools, source, target, pool):
    """The parent is there already, and only the child is copied."""
    (base, top), content = build(tools, pool, 'base.vhdx', 'top.vhdx')
    os.mkdir(pool.path('target'))
    other = shutil.copy(base, pool.path('target/base.vhdx'))
    copy = tools.create(pool.path('target/top.vhdx'), SIZE,
                        backing=('vhdx', 'base.vhdx'))
    with Domain(source, 'm', disk_xml(top, driver="cache='none'")) as domain:
        domain.start()
        content.guest_layer(domain, 2)
        with step('live migration that copies a child'):
            with Unchanged(base, other):
                migrate_copy(source, target, domain, copy,
                             '--copy-storage-inc')
                moved = there(domain, target)
            expect_equal(moved.chain(), vhdx(copy, other), 'chain')
            content.seen_by(moved)
        with step('... the guest writes there, and the copy has it'):
            content.guest_layer(moved, 3)
            moved.destroy()
            os.unlink(base)
            content.held_by(tools, copy)
