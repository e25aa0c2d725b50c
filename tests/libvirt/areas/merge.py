"""Chains of VHDX images that are merged while the guest runs: blockcommit and
blockpull, with absolute names and with relative ones."""
import os

from areas.snapshots import snapshot
from content import Content
from domain import Domain, disk_xml
from report import expect, expect_equal, expect_in, step
from tools import MIB, Unchanged

SIZE = 64 * MIB


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    relative_commit(tools, session, bench.pool('merge'))
    relative_pull(tools, session, bench.pool('pull'))
    middle(tools, session, bench.pool('middle'))
    active(tools, session, bench.pool('active'))
    whole(tools, session, bench.pool('whole'))
    sibling(tools, session, bench.pool('sibling'))


def vhdx(*paths):
    """Such a chain as Domain.chain() and Tools.chain() tell it."""
    return [('vhdx', path) for path in paths]


def build(tools, pool, *names):
    """A chain in which each image names its parent by a relative path; the
    first is the one without parent. The paths and what the last one shows."""
    content = Content(SIZE)
    for number, name in enumerate(names):
        path = pool.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        parent = os.path.relpath(pool.path(names[number - 1]),
                                 os.path.dirname(path))
        tools.create(path, SIZE, backing=('vhdx', parent) if number else None)
        content.file_layer(tools, path, number)
    return [pool.path(name) for name in names], content


def names_file(session, job, name):
    """The one job since mark() tells QEMU to store this name."""
    command, = session.qmp(job)
    expect_in('"backing-file":"%s"' % name, command)


def by_relative_path(tools, path, name):
    """The image names its parent so, and in no other way."""
    parent = tools.vhdx(path)['parent']
    del parent['linkage']
    expect_equal(parent, {'relative-path': name}, 'names of the parent')


def moved(tools, pool, top, content, names):
    """The same chain is found when its folder has another name."""
    other = pool.folder + '-2'
    os.rename(pool.folder, other)
    try:
        top = os.path.join(other, os.path.relpath(top, pool.folder))
        expect_equal(
            [os.path.realpath(path) for _, path in tools.chain(top)],
            [os.path.join(other, name) for name in names], 'chain elsewhere')
        content.held_by(tools, top)
    finally:
        os.rename(other, pool.folder)


def relative_commit(tools, session, pool):
    names = 'sub/base.vhdx', 'one.vhdx', 'two.vhdx'
    (base, one, two), content = build(tools, pool, *names)
    three = pool.path('three.vhdx')
    with Domain(session, 'm', disk_xml(two)) as domain:
        with step('a chain with relative names starts'):
            domain.start()
            expect_equal(domain.chain(), vhdx(two, one, base), 'chain')
            content.seen_by(domain)
        with step('... and a snapshot is put on it'):
            # its name of the one below is absolute, and relative as well
            snapshot(domain, 'three', three, driver='vhdx')
            expect_equal(domain.chain(), vhdx(three, two, one, base), 'chain')
            content.guest_layer(domain, 4)
            content.seen_by(domain)
        with step('blockcommit --keep-relative of a layer in the middle'):
            session.mark()
            domain.virsh('blockcommit', 'sda', '--top', two, '--base', one,
                         '--keep-relative', '--wait')
            names_file(session, 'block-commit', 'one.vhdx')
            expect_equal(domain.chain(), vhdx(three, one, base), 'chain')
            by_relative_path(tools, three, r'.\one.vhdx')
            content.seen_by(domain)
        with step('... into a base in another folder'):
            session.mark()
            domain.virsh('blockcommit', 'sda', '--top', one, '--base', base,
                         '--keep-relative', '--wait')
            names_file(session, 'block-commit', 'sub/base.vhdx')
            expect_equal(domain.chain(), vhdx(three, base), 'chain')
            by_relative_path(tools, three, r'.\sub\base.vhdx')
            content.write(domain, 201, 40 * MIB, MIB)
        with step('... with the guest off all is there, and clean'):
            domain.destroy()
            expect_equal([os.path.normpath(path)
                          for _, path in tools.chain(three)], [three, base],
                         'chain')
            tools.check(base)
            content.held_by(tools, three)
        with step('... and in a folder with another name, too'):
            moved(tools, pool, three, content, ('three.vhdx', names[0]))


def relative_pull(tools, session, pool):
    names = 'sub/base.vhdx', 'one.vhdx', 'two.vhdx', 'three.vhdx'
    (base, one, two, three), content = build(tools, pool, *names)
    with Domain(session, 'm', disk_xml(three)) as domain:
        domain.start()
        with step('blockpull --keep-relative to a base'):
            session.mark()
            with Unchanged(one, two):
                domain.virsh('blockpull', 'sda', '--base', base,
                             '--keep-relative', '--wait')
            names_file(session, 'block-stream', 'sub/base.vhdx')
            expect_equal(domain.chain(), vhdx(three, base), 'chain')
            by_relative_path(tools, three, r'.\sub\base.vhdx')
            content.write(domain, 202, 40 * MIB, MIB)
            content.seen_by(domain)
            domain.destroy()
            tools.check(base)
            content.held_by(tools, three)
        with step('... the chain is found in a folder with another name'):
            moved(tools, pool, three, content, ('three.vhdx', names[0]))


def middle(tools, session, pool):
    """Names as they come: absolute ones."""
    names = 'base.vhdx', 'one.vhdx', 'two.vhdx', 'three.vhdx'
    (base, one, two, three), content = build(tools, pool, *names)
    with Domain(session, 'm', disk_xml(three)) as domain:
        domain.start()
        with step('blockcommit of two layers in the middle'):
            session.mark()
            domain.virsh('blockcommit', 'sda', '--top', two, '--base', base,
                         '--wait')
            names_file(session, 'block-commit', base)
            expect_equal(domain.chain(), vhdx(three, base), 'chain')
            expect_equal(tools.backing(three), base, 'name')
            content.seen_by(domain)
        with step('... the layers are closed, and no part of the chain'):
            tools.check(one)
            tools.check(two)
            domain.destroy()
            os.unlink(one)
            os.unlink(two)
            content.held_by(tools, three)
        with step('... and it starts again'):
            domain.start()
            content.seen_by(domain)
            domain.destroy()


def active(tools, session, pool):
    names = 'base.vhdx', 'one.vhdx', 'two.vhdx'
    (base, one, two), content = build(tools, pool, *names)
    with Domain(session, 'm', disk_xml(two)) as domain:
        domain.start()
        with step('blockcommit --active that is not brought to its end'):
            domain.virsh('blockcommit', 'sda', '--active', '--shallow',
                         '--keep-overlay')
            expect_equal(domain.chain(), vhdx(two, one, base), 'chain')
            content.write(domain, 203, 41 * MIB, MIB)
            content.seen_by(domain)
        with step('... the chain goes on, now and after the next start'):
            domain.destroy()
            content.held_by(tools, two)
            tools.check(one)
            domain.start()
            content.write(domain, 204, 42 * MIB, MIB)
            content.seen_by(domain)
        with step('blockcommit --active --shallow --pivot: one layer down'):
            domain.virsh('blockcommit', 'sda', '--active', '--shallow',
                         '--pivot')
            expect_equal(domain.chain(), vhdx(one, base), 'chain')
            expect_equal(domain.source(), one, 'domblklist')
            content.write(domain, 205, 43 * MIB, MIB)
            content.seen_by(domain)
        with step('blockcommit --active --pivot --delete: into the base'):
            domain.virsh('blockcommit', 'sda', '--active', '--pivot',
                         '--delete')
            expect_equal(domain.chain(), vhdx(base), 'chain')
            expect(not os.path.exists(one), '%s is there', one)
            content.write(domain, 206, 44 * MIB, MIB)
            content.seen_by(domain)
            domain.destroy()
            content.held_by(tools, base)
            expect_equal(tools.vhdx(base)['subformat'], 'dynamic',
                         'subformat')


def whole(tools, session, pool):
    names = 'base.vhdx', 'one.vhdx', 'two.vhdx', 'three.vhdx'
    (base, one, two, three), content = build(tools, pool, *names)
    with Domain(session, 'm', disk_xml(three)) as domain:
        domain.start()
        with step('blockpull of the whole chain'):
            with Unchanged(base, one, two):
                domain.virsh('blockpull', 'sda', '--wait')
            expect_equal(domain.chain(), vhdx(three), 'chain')
            content.write(domain, 207, 45 * MIB, MIB)
            content.seen_by(domain)
        with step('... leaves an image without a parent'):
            domain.destroy()
            expect_equal(tools.backing(three), None, 'name')
            expect_equal(tools.vhdx(three)['subformat'], 'dynamic',
                         'subformat')
            for path in base, one, two:
                os.unlink(path)
            content.held_by(tools, three)
        with step('... on which a snapshot can be put'):
            domain.start()
            over = pool.path('over.vhdx')
            snapshot(domain, 'over', over, driver='vhdx')
            content.write(domain, 208, 46 * MIB, MIB)
            expect_equal(domain.chain(), vhdx(over, three), 'chain')
            content.seen_by(domain)


def sibling(tools, session, pool):
    """What is merged into has another child."""
    (base, one), content = build(tools, pool, 'base.vhdx', 'one.vhdx')
    other = tools.create(pool.path('other.vhdx'), SIZE,
                         backing=('vhdx', 'base.vhdx'))
    with Domain(session, 'm', disk_xml(one)) as domain:
        domain.start()
        domain.virsh('blockcommit', 'sda', '--active', '--pivot')
        domain.destroy()
        content.held_by(tools, base)
    with step('a base that was merged into: a start on its other child fails'):
        with Domain(session, 'm', disk_xml(other)) as domain:
            with Unchanged(base, other):
                domain.start(fails=('does not match its parent', base))
    with step('... and its merged child, too'):
        with Domain(session, 'm', disk_xml(one)) as domain:
            # no change since the pivot: the same content
            tools.io(base, 'write -q -P 9 0 64k')
            domain.start(fails=('does not match its parent', base))
