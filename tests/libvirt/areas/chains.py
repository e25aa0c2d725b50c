"""Chains with VHDX images in them."""
from areas.damaged import child_of, size_too_large
from areas.hotplug import Plug
from domain import Domain, disk_xml
from report import expect, expect_equal, step
from tools import MIB, Unchanged
from vhdxfile import VHDXFile


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    pool = bench.pool('chains')
    base = tools.create(pool.path('base.vhdx'), '1G')
    tools.io(base, 'write -q -P 51 0 1M', 'write -q -P 52 100M 1M')
    overlay = tools.create(pool.path('over.qcow2'), '1G', 'qcow2',
                           ('vhdx', base))

    over_vhdx(session, base, overlay)
    tools.holds(overlay, (51, 0, MIB), (53, '50M', MIB), form='qcow2')
    damaged(tools, session, pool)
    children(tools, session, pool, base)


def over_vhdx(session, base, overlay):
    with Domain(session, 'c', disk_xml(overlay, form='qcow2')) as domain:
        with step('a domain on a qcow2 over a vhdx starts'):
            domain.start()
            domain.running()
            expect_equal(domain.chain(), [('qcow2', overlay), ('vhdx', base)],
                         'chain')
        with step("... and the guest sees the disk, not the file's bytes"):
            domain.reads(51, 0, '1M')
            domain.reads(52, '100M', '1M')
            with Unchanged(base):
                domain.write(53, '50M', '1M')
                domain.reads(53, '50M', '1M')
                domain.destroy()


def damaged(tools, session, pool):
    path = tools.create(pool.path('bad.vhdx'), '1G')
    with VHDXFile(path) as image:
        size_too_large(image)
    with step('a damaged image: start is refused, with its name'):
        with Domain(session, 'c', disk_xml(path)) as domain:
            domain.start(fails="damaged VHDX image '%s'" % path)

    with step('a qcow2 over a damaged image: start is refused'):
        over = tools.create(pool.path('over-bad.qcow2'), '1G', 'qcow2')
        tools.img('rebase', '-u', '-f', 'qcow2', '-F', 'vhdx', '-b', path,
                  over)
        with Domain(session, 'c', disk_xml(over, form='qcow2')) as domain:
            domain.start(fails="damaged VHDX image '%s'" % path)


def children(tools, session, pool, base):
    child = tools.create(pool.path('child.vhdx'), '1G', 'vhdx',
                         ('vhdx', base))
    with step('a domain on a child starts, with both images in its XML'):
        with Domain(session, 'c', disk_xml(child)) as domain:
            with Unchanged(base):
                domain.start()
                expect_equal(domain.chain(), [('vhdx', child), ('vhdx', base)],
                             'chain')
                domain.reads(51, 0, '1M')
                domain.write(54, '1M', '1M')
                domain.reads(54, '1M', '1M')
                domain.destroy()
    with step('a child is attached'):
        other = tools.create(pool.path('other.vhdx'), '1G')
        with Domain(session, 'c', disk_xml(other)) as domain:
            domain.start()
            Plug(session, domain).attach(disk_xml(child, 'sdb'))
            expect(domain.disk('sdb') is not None, 'sdb is not there')
            domain.running()

    with step('a parent that is not there: start names it'):
        path = child_of(tools, pool.path('orphan.vhdx'), 'missing.vhdx')
        with Domain(session, 'c', disk_xml(path)) as domain:
            domain.start(fails=pool.path('missing.vhdx'))
