"""blockcopy from and to VHDX under a running guest."""
from domain import Domain, disk_xml
from report import expect_equal, expect_in, step
from tools import MIB


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('blockjobs')
    first = tools.create(pool.path('first.vhdx'), '256M', block_size='2M')
    with Domain(session, 'j', disk_xml(first)) as domain:
        domain.start()
        copies(tools, session, pool, domain)
    shallow(tools, session, pool)


def copy(domain, path, form, *more):
    domain.virsh('blockcopy', 'sda', '--dest', path, '--format', form,
                 '--wait', '--pivot', '--transient-job', *more)


def now_on(domain, path, form):
    """The disk is this image, and has what was written to it."""
    expect_equal(domain.chain(), [(form, path)], 'images in the XML')
    expect_equal(domain.source(), path, 'domblklist')
    domain.reads(61, 0, '1M')
    domain.reads(62, '200M', '1M')
    domain.reads(0, '100M', '1M')


def copies(tools, session, pool, domain):
    domain.write(61, 0, '1M')
    domain.write(62, '200M', '1M')
    path = pool.path('second.vhdx')
    with step('blockcopy from vhdx to vhdx'):
        session.mark()
        copy(domain, path, 'vhdx')
        create, = [text for text in session.qmp('blockdev-create')
                   if '"driver":"vhdx"' in text]
        expect_in('"size":%d' % (256 * MIB), create)
        now_on(domain, path, 'vhdx')
    with step('... keeps the block size'):
        expect_in('"block-size":%d' % (2 * MIB), create)
        expect_equal(tools.vhdx(path)['block-size'], 2 * MIB, 'block size')
    with step('... the old image is closed and clean'):
        tools.check(pool.path('first.vhdx'))
        tools.holds(pool.path('first.vhdx'), (61, 0, MIB), (62, '200M', MIB))

    for number, form in enumerate(('qcow2', 'vhdx', 'raw', 'vhdx')):
        path = pool.path('copy-%d.%s' % (number, form))
        with step('blockcopy to %s' % (form if form != 'vhdx' else
                                       'vhdx again')):
            copy(domain, path, form)
            now_on(domain, path, form)

    with step('blockcopy into an image that is there'):
        path = tools.create(pool.path('there.vhdx'), '256M', block_size='4M')
        session.mark()
        copy(domain, path, 'vhdx', '--reuse-external')
        expect_equal(session.qmp('blockdev-create'), [], 'blockdev-create')
        now_on(domain, path, 'vhdx')
        expect_equal(tools.vhdx(path)['block-size'], 4 * MIB, 'block size')

    with step('the guest goes on writing, and the last image has it'):
        domain.write(63, '128M', '1M')
        domain.destroy()
        tools.check(path)
        tools.holds(path, (61, 0, MIB), (62, '200M', MIB), (63, '128M', MIB))


def shallow(tools, session, pool):
    base = tools.create(pool.path('base'), '64M', form='qcow2')
    top = tools.create(pool.path('top'), '64M', 'qcow2', ('qcow2', base))
    with step('a shallow copy to vhdx over a qcow2 is refused'):
        with Domain(session, 'j', disk_xml(top, form='qcow2')) as domain:
            domain.start()
            domain.virsh('blockcopy', 'sda', '--dest', pool.path('shallow'),
                         '--format', 'vhdx', '--shallow', '--transient-job',
                         fails=('vhdx', 'qcow2'))
            pool.absent('shallow')
            expect_equal(domain.chain(), [('qcow2', top), ('qcow2', base)],
                         'chain')
            domain.running()
