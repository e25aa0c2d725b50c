"""Chains with VHDX images in them."""
import os
import shutil

from areas.damaged import (child_of, size_too_large, unpack_windows,
                           windows_facts)
from areas.hotplug import Plug
from areas.merge import SIZE, build, vhdx
from content import Content
from domain import Domain, disk_xml
from report import expect, expect_equal, expect_in, step
from tools import MIB, Unchanged, sha256
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
    from_windows(tools, session, bench.pool('windows'))
    as_from_windows(tools, session, bench.pool('hyper-v'))
    named_in_xml(tools, session, bench.pool('named'))
    for form in 'qcow2', 'vhdx':
        alone(tools, session, bench.pool('alone-' + form), form)


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


def from_windows(tools, session, pool):
    """The chain that Windows has made, with the guest writing to it."""
    with step('a chain that Windows has made: the guest reads and writes'):
        parent, child = unpack_windows(pool)
        raw = pool.path('raw')
        tools.img('convert', '-f', 'vhdx', '-O', 'raw', child, raw)
        expect_in(sha256(raw), windows_facts(os.path.basename(child)))
        with Domain(session, 'c', disk_xml(child)) as domain:
            with Unchanged(parent):
                domain.start()
                expect_equal(domain.chain(), vhdx(child, parent), 'chain')
                # into a block of which the child has some sectors
                domain.write(55, 4096, 4096)
                domain.reads(55, 4096, 4096)
                domain.destroy()
        tools.check(child)
        tools.io(raw, 'write -q -P 55 4096 4096', form='raw')
        tools.same(raw, child, 'raw vhdx')


def hyper_v_child(tools, pool, name, parent, layer=None, **paths):
    """A child, with a layer, whose locator has these paths and no others.
    They come last: with a write the driver stores the path that it has found
    the parent by."""
    path = tools.create(pool.path(name), SIZE, backing=('vhdx', parent))
    if layer:
        content, number = layer
        content.file_layer(tools, path, number)
    with VHDXFile(pool.path(parent)) as image:
        guid = image.data_write_guid()
    with VHDXFile(path) as image:
        image.set_parent(parent_linkage=guid, **paths)
    expect_equal(len(tools.vhdx(path)['parent']), 1 + len(paths),
                 'entries of the locator')
    return path


def as_from_windows(tools, session, pool):
    """Files of a machine that were copied into one folder: their paths are
    those of another system."""
    content = Content(SIZE)
    base = tools.create(pool.path('vm.vhdx'), SIZE, block_size='32M')
    content.file_layer(tools, base, 0)
    files = [base]
    for number, (name, parent, paths) in enumerate((
            ('vm_1.avhdx', 'vm.vhdx',
             {'absolute_win32_path': r'C:\VMs\Disks\vm.vhdx',
              'volume_path': r'\\?\Volume{5e0b1d3a-0000-0000-0000-'
                             r'100000000000}\VMs\Disks\vm.vhdx'}),
            ('vm_2.avhdx', 'vm_1.avhdx',
             {'relative_path': r'..\Virtual Hard Disks\vm_1.avhdx',
              'absolute_win32_path': r'\\server\share\vm_1.avhdx'}),
            ('vm_3.avhdx', 'vm_2.avhdx',
             {'relative_path': r'.\vm_2.avhdx',
              'absolute_win32_path': r'C:\VMs\Disks\vm_2.avhdx'}))):
        files.insert(0, hyper_v_child(tools, pool, name, parent,
                                      (content, number + 1), **paths))
    with step('volumes as from Hyper-V: each names its parent'):
        pool.refresh()
        for path, parent in zip(files, files[1:]):
            store = pool.xml(os.path.basename(path)).find('backingStore')
            expect_equal(store.findtext('path'), parent, 'path')
            expect_equal(store.find('format').get('type'), 'vhdx', 'format')
    with step('a chain as from Hyper-V, with paths of Windows, starts'):
        with Domain(session, 'c', disk_xml(files[0])) as domain:
            with Unchanged(*files[1:]):
                domain.start()
                expect_equal(domain.chain(), vhdx(*files), 'chain')
                content.guest_layer(domain, 4)
                content.seen_by(domain)
                domain.destroy()
        content.held_by(tools, files[0])
    with step('... its checkpoints are merged into the first image'):
        with Domain(session, 'c', disk_xml(files[0])) as domain:
            domain.start()
            domain.virsh('blockcommit', 'sda', '--active', '--pivot')
            expect_equal(domain.chain(), vhdx(base), 'chain')
            content.seen_by(domain)
        content.held_by(tools, base)
    with step('a parent in other letters: libvirt looks for the exact name'):
        path = hyper_v_child(tools, pool, 'letters.vhdx', 'vm.vhdx',
                             relative_path=r'.\VM.vhdx')
        expect_equal(tools.chain(path), vhdx(path, base), 'chain')
        with Domain(session, 'c', disk_xml(path)) as domain:
            domain.start(fails=pool.path('VM.vhdx'))


def below(path, form='vhdx', more='<backingStore/>'):
    """A <backingStore> with this image."""
    return ("<backingStore type='file'><format type='%s'/>"
            "<source file='%s'/>%s</backingStore>" % (form, path, more))


def named_in_xml(tools, session, pool):
    (base, one, two), content = build(tools, pool, 'base.vhdx', 'one.vhdx',
                                      'two.vhdx')
    os.mkdir(pool.path('else'))
    base = shutil.move(base, pool.path('else/other-name.vhdx'))
    disk = disk_xml(two, more=below(one, more=below(base)))
    with step('a parent is elsewhere: the start fails, and names it'):
        with Domain(session, 'c', disk_xml(two)) as domain:
            domain.start(fails=pool.path('base.vhdx'))
    with step('... with the chain in the XML it starts'):
        with Domain(session, 'c', disk) as domain:
            with Unchanged(base, one):
                domain.start()
                expect_equal(domain.chain(), vhdx(two, one, base), 'chain')
                content.guest_layer(domain, 3)
                content.seen_by(domain)
                domain.destroy()
    with step('... the same for a disk that is attached'):
        first = tools.create(pool.path('first.vhdx'), SIZE)
        with Domain(session, 'c', disk_xml(first)) as domain:
            domain.start()
            Plug(session, domain).attach(disk_xml(
                two, 'sdb', more=below(one, more=below(base))))
            expect_equal(domain.chain('sdb'), vhdx(two, one, base), 'chain')
            content.seen_by(domain, 1)
    with step('... blockcommit stores the name that the parent has'):
        with Domain(session, 'c', disk) as domain:
            domain.start()
            domain.virsh('blockcommit', 'sda', '--top', one, '--base', base,
                         '--wait')
            domain.destroy()
            expect_equal(tools.chain(two), vhdx(two, base), 'chain')
            content.held_by(tools, two)
    with step('a parent of another content in the XML: no start'):
        other = tools.create(pool.path('else/stranger.vhdx'), SIZE)
        with Domain(session, 'c', disk_xml(two, more=below(other))) as domain:
            with Unchanged(two, other):
                domain.start(fails=('does not match its parent', other))


def alone(tools, session, pool, form):
    """An empty <backingStore> ends the chain: the same with both formats."""
    base = tools.create(pool.path('base'), SIZE, form)
    content = Content(SIZE)
    content.file_layer(tools, base, 0, form)
    top = tools.create(pool.path('top'), SIZE, form, (form, 'base'))
    with step('a child with an empty <backingStore>, %s: zeros' % form):
        with Domain(session, 'c', disk_xml(
                top, form=form, more='<backingStore/>')) as domain:
            with Unchanged(base):
                domain.start()
                expect_equal(domain.chain(), [(form, top)], 'chain')
                without = Content(SIZE)
                without.guest_layer(domain, 1)
                without.seen_by(domain)
                domain.destroy()
    with step('... what was written there is in the chain, %s' % form):
        for pattern, offset, length in content.layer(1):
            # zeroes of the child, too, hide what the parent has
            content.put(pattern, offset, length)
        expect_equal(tools.chain(top, form), [(form, top), (form, base)],
                     'chain')
        content.held_by(tools, top, form)
        with Domain(session, 'c', disk_xml(top, form=form)) as domain:
            domain.start()
            expect_equal(domain.chain(), [(form, top), (form, base)],
                         'chain')
            content.seen_by(domain)
