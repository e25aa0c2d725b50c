"""Backups of a running guest, pushed into an image and pulled over NBD."""
import re

from domain import Domain, disk_xml
from report import expect, expect_equal, expect_in, step
from tools import MIB, run as run_program

PUSH = """<domainbackup mode='push'>%s<disks><disk name='sda' backup='yes'
type='file'><driver type='%s'/><target file='%s'/></disk></disks>
</domainbackup>"""
PULL = """<domainbackup mode='pull'><server transport='unix' socket='%s'/>
<disks><disk name='sda' backup='yes' type='file'><scratch file='%s'/></disk>
</disks></domainbackup>"""
CHECKPOINT = "<domaincheckpoint><name>one</name></domaincheckpoint>"


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
    incremental(tools, session, pool)


def begin(session, domain, xml, checkpoint=None, **how):
    files = []
    for name, text in (('backup.xml', xml), ('checkpoint.xml', checkpoint)):
        if text:
            with open(session.path(name), 'w', encoding='utf-8') as file:
                file.write(text)
            files.append(session.path(name))
    return domain.virsh('backup-begin', *files, **how)


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
        begin(session, domain, PULL % (socket, pool.path('scratch')))
        text = run_program([tools.io_path, '-r', '-f', 'raw', '-c',
                            'read -P 81 0 1M', '-c', 'read -P 82 200M 1M',
                            url])
        expect('failed' not in text, '%s', text)
    with step('... shows the content as it was when it began'):
        domain.write(83, 0, '1M')
        domain.reads(83, 0, '1M')
        text = run_program([tools.io_path, '-r', '-f', 'raw', '-c',
                            'read -P 81 0 1M', url])
        expect('failed' not in text, '%s', text)
    with step('... and ends'):
        domain.virsh('domjobabort')
        domain.job_over()
        domain.running()
        domain.reads(83, 0, '1M')


def incremental(tools, session, pool):
    """Only qcow2 has bitmaps; its changes alone can't be a VHDX image."""
    path = tools.create(pool.path('disk'), '64M', form='qcow2')
    full = pool.path('full')
    with step('an incremental push of a qcow2 disk into vhdx is refused'):
        with Domain(session, 'b', disk_xml(path, form='qcow2')) as domain:
            domain.start()
            begin(session, domain, PUSH % ('', 'qcow2', full), CHECKPOINT)
            finished(domain)
            begin(session, domain, PUSH % (
                '<incremental>one</incremental>', 'vhdx',
                pool.path('changes')), fails=('vhdx',))
            pool.absent('changes')
            domain.job_over()
            domain.running()
