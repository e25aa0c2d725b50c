"""blockcopy from and to VHDX under a running guest."""
import os
import shutil

from areas.merge import build, vhdx
from content import Content
from domain import Domain, disk_xml
from report import expect_equal, expect_in, step
from tools import MIB, Unchanged


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('blockjobs')
    first = tools.create(pool.path('first.vhdx'), '256M', block_size='2M')
    with Domain(session, 'j', disk_xml(first)) as domain:
        domain.start()
        copies(tools, session, pool, domain)
    shallow(tools, session, pool)
    chain_copies(tools, session, bench.pool('shallow'))
    for form in 'qcow2', 'vhdx':
        over_a_child(tools, session, bench.pool('over-' + form), form)


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


def chain_copies(tools, session, pool):
    (base, top), content = build(tools, pool, 'base.vhdx', 'top.vhdx')
    with Domain(session, 'j', disk_xml(top)) as domain:
        domain.start()
        content.guest_layer(domain, 2)
        path = pool.path('copy.vhdx')
        with step('a shallow copy of a child: a child of the same parent'):
            session.mark()
            with Unchanged(base):
                copy(domain, path, 'vhdx', '--shallow')
            create, = [text for text in session.qmp('blockdev-create')
                       if '"driver":"vhdx"' in text]
            expect_in(['"backing-file":"%s"' % base, '"backing-fmt":"vhdx"'],
                      create)
            expect_equal(domain.chain(), vhdx(path, base), 'chain')
            content.held_by(tools, top)
        with step('... has the same content, and is written'):
            content.write(domain, 64, 50 * MIB, MIB)
            content.seen_by(domain)

        with step('a shallow copy into a child of a copy of the parent'):
            os.mkdir(pool.path('other'))
            other = shutil.copy(base, pool.path('other/base.vhdx'))
            path = tools.create(pool.path('other/top.vhdx'), 64 * MIB,
                                backing=('vhdx', 'base.vhdx'))
            session.mark()
            with Unchanged(base, other):
                copy(domain, path, 'vhdx', '--shallow', '--reuse-external')
            expect_equal(session.qmp('blockdev-create'), [],
                         'blockdev-create')
            expect_equal(domain.chain(), vhdx(path, other), 'chain')
            content.write(domain, 65, 51 * MIB, MIB)
        with step('... the chain is all there at its new place'):
            domain.destroy()
            os.unlink(base)
            content.held_by(tools, path)
            domain.start()
            expect_equal(domain.chain(), vhdx(path, other), 'chain')
            content.seen_by(domain)

        with step('a full copy of a chain is one image'):
            flat = pool.path('flat.vhdx')
            copy(domain, flat, 'vhdx')
            expect_equal(domain.chain(), vhdx(flat), 'chain')
            content.write(domain, 66, 52 * MIB, MIB)
            domain.destroy()
            shutil.rmtree(pool.path('other'))
            expect_equal(tools.vhdx(flat)['subformat'], 'dynamic',
                         'subformat')
            content.held_by(tools, flat)


def over_a_child(tools, session, pool, form):
    """A full copy into a child whose parent holds something else: the same
    with both formats."""
    first = tools.create(pool.path('first'), 64 * MIB, form)
    content = Content()
    content.file_layer(tools, first, 1, form)
    base = tools.create(pool.path('base'), 64 * MIB, form)
    tools.io(base, 'write -q -P 99 0 64M', form=form)
    path = tools.create(pool.path('child'), 64 * MIB, form, (form, 'base'))
    with Domain(session, 'j', disk_xml(first, form=form)) as domain:
        domain.start()
        with step('a full copy into a child that is there, %s' % form):
            with Unchanged(base):
                copy(domain, path, form, '--reuse-external')
            expect_equal(domain.source(), path, 'domblklist')
            content.write(domain, 67, 53 * MIB, MIB)
            content.seen_by(domain)
        with step("... hides all of what the child's parent has, %s" % form):
            domain.destroy()
            expect_equal(tools.chain(path, form), [
                (form, path), (form, base)], 'chain')
            content.held_by(tools, path, form)
        with step('... which libvirt leaves out of the chain, %s' % form):
            domain.start()
            expect_equal(domain.chain(), [(form, path)], 'chain')
            content.seen_by(domain)
