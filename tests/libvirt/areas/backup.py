"""Backups of a running guest, pushed into an image and pulled over NBD."""
import json
import re

from areas.merge import SIZE, build, vhdx
from content import PIECE, Content
from domain import Domain, disk_xml
from report import expect, expect_equal, expect_in, step
from tools import MIB, Unchanged

PUSH = """<domainbackup mode='push'>%s<disks><disk name='sda' backup='yes'
type='file'><driver type='%s'/><target file='%s'/></disk></disks>
</domainbackup>"""
PULL = """<domainbackup mode='pull'>%s<server transport='unix' socket='%s'/>
<disks><disk name='sda' backup='yes' type='file'><scratch file='%s'/></disk>
</disks></domainbackup>"""
SINCE = "<incremental>%s</incremental>"
CHECKPOINT = "<domaincheckpoint><name>%s</name></domaincheckpoint>"


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('backup')
    disk = tools.create(pool.path('disk.vhdx'), '256M')
    with Domain(session, 'b', disk_xml(disk)) as domain:
        domain.start()
        domain.write(81, 0, '1M')
        domain.write(82, '200M', '1M')
        push(tools, session, pool, domain)
        pull(tools, session, pool, domain)
    for form in 'qcow2', 'vhdx':
        incremental(tools, session, bench.pool('incremental-' + form), form)
    over_vhdx(tools, session, bench.pool('backup-chain'))


def begin(session, domain, xml, checkpoint=None, more=(), **how):
    files = []
    for name, text in (('backup.xml', xml), ('checkpoint.xml', checkpoint)):
        if text:
            with open(session.path(name), 'w', encoding='utf-8') as file:
                file.write(text)
            files.append(session.path(name))
    return domain.virsh('backup-begin', *files, *more, **how)


def finished(domain):
    """The backup has come to a good end."""
    domain.job_over()
    expect_in('Completed', re.search('Job type:.*', domain.virsh(
        'domjobinfo', '--completed'))[0])


def push(tools, session, pool, domain):
    path = pool.path('pushed.vhdx')
    with step('a push backup into a vhdx image'):
        session.mark()
        begin(session, domain, PUSH % ('', 'vhdx', path))
        finished(domain)
        create, = [text for text in session.qmp('blockdev-create')
                   if '"driver":"vhdx"' in text]
        expect_in('"size":%d' % (256 * MIB), create)
    with step('... has the content, and is clean'):
        tools.check(path)
        tools.holds(path, (81, 0, MIB), (82, '200M', MIB), (0, '100M', MIB))
        expect_equal(tools.size(path), 256 * MIB, 'size')
    with step('... and is a volume after a refresh'):
        pool.refresh()
        expect_equal(pool.form('pushed.vhdx'), 'vhdx', 'format')
        expect_equal(pool.capacity('pushed.vhdx'), 256 * MIB, 'capacity')


def pull(tools, session, pool, domain):
    socket = session.path('nbd')
    url = 'nbd+unix:///sda?socket=' + socket
    with step('a pull backup over NBD'):
        begin(session, domain, PULL % ('', socket, pool.path('scratch')))
        tools.holds(url, (81, 0, '1M'), (82, '200M', '1M'), form='raw')
    with step('... shows the content as it was when it began'):
        domain.write(83, 0, '1M')
        domain.reads(83, 0, '1M')
        tools.holds(url, (81, 0, '1M'), form='raw')
    with step('... and ends'):
        domain.virsh('domjobabort')
        domain.job_over()
        domain.running()
        domain.reads(83, 0, '1M')


def incremental(tools, session, pool, form):
    """The bitmaps are in the disk, also while it is shut off; what has
    changed goes into children of the backup before it."""
    content = Content(SIZE)
    disk = tools.create(pool.path('disk'), SIZE, form=form)
    content.file_layer(tools, disk, 0, form)
    full, one, two = (pool.path(name + '.vhdx')
                      for name in ('full', 'one', 'two'))
    with Domain(session, 'b', disk_xml(disk, form=form)) as domain:
        domain.start()
        begin(session, domain, PUSH % ('', 'vhdx', full), CHECKPOINT % 'one')
        finished(domain)
        seen = [content.copy()]
        content.guest_layer(domain, 1)
        changes = PUSH % (SINCE, 'vhdx', '%s')
        with step('an incremental push into a new vhdx image is refused'):
            begin(session, domain, changes % ('one', one),
                  fails=('vhdx', 'previous backup'))
            pool.absent('one.vhdx')
            domain.job_over()
            domain.running()
        with step('... into one that was made over the full backup it works'):
            tools.create(one, SIZE, backing=('vhdx', 'full.vhdx'))
            with Unchanged(full):
                begin(session, domain, changes % ('one', one),
                      CHECKPOINT % 'two', ('--reuse-external',))
                finished(domain)
            seen.append(content.copy())
        content.guest_layer(domain, 2)
        with step('the bitmaps outlive a restart of QEMU'):
            domain.destroy()
            text = tools.img('info', '--output=json', disk)
            expect_in('"name": "two"', text)
            tools.check(disk, form)
            domain.start()
        with step('... so that it works again, over that one'):
            tools.create(two, SIZE, backing=('vhdx', 'one.vhdx'))
            with Unchanged(full, one):
                begin(session, domain, changes % ('two', two), None,
                      ('--reuse-external',))
                finished(domain)
            seen.append(content.copy())
        pull_changes(tools, session, domain, seen[-2], content)
        content.guest_layer(domain, 3)
        push_qcow2(tools, session, pool, domain, content)
        with step('... each backup shows the disk as it was'):
            expect_equal(tools.chain(two), vhdx(two, one, full), 'chain')
            for path, content in zip((full, one, two), seen):
                content.held_by(tools, path)
        with step('... and has only what has changed'):
            depths = tools.depths(two)
            # one piece of each layer that no later one has written to
            for mib, depth in (17, 2), (19, 1), (21, 0):
                expect_equal([found for start, length, found in depths
                              if start <= mib * MIB < start + length],
                             [depth], 'image that has offset %d MiB' % mib)


def pull_changes(tools, session, domain, before, content):
    """What has changed since a checkpoint is told over NBD, and has the
    content that a client would copy."""
    socket = session.path('nbd')
    url = 'nbd+unix:///sda?socket=' + socket
    scratch = session.path('scratch')
    with step('an incremental pull tells all that has changed'):
        begin(session, domain, PULL % (SINCE % 'two', socket, scratch))
        found = json.loads(tools.img(
            'map', '--output=json', '--image-opts',
            'driver=nbd,export=sda,server.type=unix,server.path=%s,'
            'x-dirty-bitmap=qemu:dirty-bitmap:backup-sda' % socket))
        changed = bytearray(len(content.pieces))
        for part in found:
            if not part['data']:
                first = part['start'] // PIECE
                number = -(-part['length'] // PIECE)
                changed[first:first + number] = b'x' * number
        expect_equal([place for place, (old, new) in
                      enumerate(zip(before.pieces, content.pieces))
                      if old != new and not changed[place]], [],
                     'pieces that have changed, and are not told')
        expect(0 < changed.count(b'x') < len(changed) // 8,
               '%d of %d pieces are told', changed.count(b'x'), len(changed))
    with step('... and has the content'):
        tools.holds(url, *(
            (pattern, place * PIECE, PIECE)
            for place, pattern in enumerate(content.pieces)
            if changed[place]), form='raw')
        domain.virsh('domjobabort')
        domain.job_over()


def push_qcow2(tools, session, pool, domain, content):
    path = pool.path('changes.qcow2')
    with step('an incremental push into qcow2, put over the backup before'):
        begin(session, domain, PUSH % (SINCE % 'two', 'qcow2', path))
        finished(domain)
        tools.img('rebase', '-u', '-f', 'qcow2', '-F', 'vhdx', '-b',
                  pool.path('one.vhdx'), path)
        content.held_by(tools, path, 'qcow2')


def over_vhdx(tools, session, pool):
    """The disk is a chain of VHDX images, or a qcow2 image over them: the
    full backup is in vhdx, what comes after it in qcow2."""
    (_, child), content = build(tools, pool, 'base.vhdx', 'child.vhdx')
    with Domain(session, 'b', disk_xml(child)) as domain:
        with step('a push of a chain into vhdx, with a checkpoint: one image'):
            domain.start()
            path = pool.path('flat.vhdx')
            begin(session, domain, PUSH % ('', 'vhdx', path),
                  CHECKPOINT % 'chain')
            finished(domain)
            expect_equal(domain.virsh('checkpoint-list', '--name').strip(),
                         'chain', 'checkpoints')
            expect_equal(tools.chain(path), vhdx(path), 'chain')
            content.held_by(tools, path)

    top = tools.create(pool.path('top.qcow2'), SIZE, 'qcow2', ('vhdx', child))
    full, changes = pool.path('full.vhdx'), pool.path('changes.qcow2')
    with Domain(session, 'b', disk_xml(top, form='qcow2')) as domain:
        domain.start()
        content.guest_layer(domain, 2)
        with step('a push of qcow2 over vhdx into vhdx, with a checkpoint'):
            begin(session, domain, PUSH % ('', 'vhdx', full),
                  CHECKPOINT % 'one')
            finished(domain)
            content.held_by(tools, full)
        content.guest_layer(domain, 3)
        with step('... what has changed since then, into qcow2'):
            begin(session, domain, PUSH % (SINCE % 'one', 'qcow2', changes))
            finished(domain)
            later = content.copy()
            later.write(domain, 85, 60 * MIB, MIB)
        with step('... put over the full backup it is the disk'):
            with Unchanged(full):
                tools.img('rebase', '-u', '-f', 'qcow2', '-F', 'vhdx',
                          '-b', full, changes)
                expect_equal(tools.chain(changes, 'qcow2'), [
                    ('qcow2', changes), ('vhdx', full)], 'chain')
                content.held_by(tools, changes, 'qcow2')
