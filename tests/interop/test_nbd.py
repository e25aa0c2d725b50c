"""Images on NBD (nbdkit's memory): nodes that cannot grow and hold old bytes.

What is written there is copied out with nbdcopy and checked by the strict
reader.  The node is longer than the image needs, so the copy is cut where the
last object ends before it is checked.
"""
import contextlib
import json
import os

from harness import (check_copy, expect, foreign, ours, run, second_writes,
                     server)
from images import fill
from model import Model
from qmp import Daemon
from script import Script, data_file
from strict.report import MIB
from test_random import Plan, operate


@contextlib.contextmanager
def node(ctx, size, garbage=False):
    """An NBD node; its URI."""
    socket = ctx.path('nbd.sock')
    with server(foreign('nbdkit'), '-f', '--exit-with-parent', '-U', socket,
                'memory', size, ready=socket):
        uri = 'nbd+unix:///?socket=' + socket
        if garbage:
            run(ours('qemu-io'), '-f', 'raw', '-c',
                'write -q -P 0xa5 0 %d' % size, uri)
        yield uri
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)


def check(ctx, uri, model):
    """Copy out, cut the unused end, check strictly."""
    path = ctx.path('copy.vhdx')
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    run(foreign('nbdcopy'), uri, path)
    check_copy(path, model)


def create(uri, size, **options):
    args = ['-o', ','.join('%s=%s' % o for o in options.items())]
    return run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', *args, uri,
               size)


def created(options, garbage):
    """Reads as zeroes, then as what is written to it."""
    def test(ctx):
        size = 40 * MIB
        with node(ctx, 64 * MIB, garbage) as uri:
            text = create(uri, size, **options)
            expect("can't grow" not in text, text)
            model = Model(size)
            check(ctx, uri, model)
            ctx.io(uri, ['read -q -P 0 0 %d' % size])
            block = int(options['block_size'][:-1]) * MIB
            fixed = options.get('subformat') == 'fixed'
            script = Script(model, 0 if fixed else block)
            fill(script, block)
            script.read(0, size, most=1000)
            ctx.io(uri, script.take(), '-t', 'writeback')
            check(ctx, uri, model)
            # blocks that were freed are used again
            for place in range(0, size, 3 * block):
                script.discard(place, block)
            script.flush()
            for place in range(block, size, 5 * block):
                script.write(place + 4096, 8192, 60 + place // MIB)
            script.read(0, size, most=1000)
            ctx.io(uri, script.take(), '-t', 'writeback')
            script.read(0, size, most=1000)
            ctx.io(uri, script.take(), '-r')
            check(ctx, uri, model)
    return test


def too_small(options, needed):
    """The error names the size that the node must have."""
    def test(ctx):
        with node(ctx, 2 * MIB) as uri:
            text = run(ours('qemu-img'), 'create', '-f', 'vhdx', '-o',
                       options, uri, 20 * MIB, status=1)
            expect(any(n in text for n in needed),
                   'none of %s is in: %s', needed, text)
    return test


def full(ctx):
    """A disk larger than its node, of which a warning tells: writes go on
    until there is no space, what was written stays."""
    with node(ctx, 12 * MIB) as uri:
        text = create(uri, 64 * MIB, block_size='1M')
        expect('takes up to 71303168 bytes, and the protocol node has '
               "12582912 bytes and can't grow" in text, text)
        model = Model(64 * MIB)
        script = Script(model, MIB)
        written = 0
        for block in range(0, 64, 2):
            text = run(ours('qemu-io'), '-f', 'vhdx', '-c', 'write -P %d %d '
                       '65536' % (block + 1, block * MIB), uri, status=None)
            if 'failed' in text:
                expect('No space left' in text, text)
                break
            model.write(block * MIB, 65536, block + 1)
            written += 1
        expect(3 <= written <= 10, '%d blocks were written', written)
        script.read(0, 64 * MIB, most=1000)
        script.discard(0, MIB)
        script.flush()
        script.write(33 * MIB, 65536, 90)       # in the space of block 0
        script.read(0, 64 * MIB, most=1000)
        ctx.io(uri, script.take(), '-t', 'writeback')
        check(ctx, uri, model)


def replayed(ctx):
    """A process that dies after a flush, on a node that cannot grow."""
    with node(ctx, 64 * MIB, garbage=True) as uri:
        create(uri, 40 * MIB, block_size='1M')
        model = Model(40 * MIB)
        script = Script(model, MIB)
        fill(script, MIB)
        script.kill()
        ctx.io(uri, script.take(), '-t', 'writeback', status=-9)
        script.read(0, 40 * MIB, most=1000)
        ctx.io(uri, script.take(), '-r')
        script.write(12345 * 512, 4096, 61)
        ctx.io(uri, script.take())
        check(ctx, uri, model)


def seeded(seed):
    """Random operations as in the random group, dying in between."""
    def test(ctx):
        plan = Plan(seed, small=True)
        noise = data_file(ctx.path('noise'), 70144, plan.chance)
        with node(ctx, 4 * MIB + 2 * (plan.size + plan.block) // MIB * MIB,
                  garbage=True) as uri:
            create(uri, plan.size, **plan.options)
            script = Script(Model(plan.size), 0 if plan.fixed else plan.block)
            for turn in range(4):
                operate(script, plan, noise, 40)
                if turn == 2:
                    script.kill()
                script.verify(ctx.io(uri, script.take(), '-t', 'writeback',
                                     status=-9 if turn == 2 else 0))
                if turn != 2:
                    check(ctx, uri, script.model)
    return test


def parallel(sector):
    """Requests to several new blocks of a fresh image at once, again and
    again: none may fail, none may undo another."""
    def test(ctx):
        with node(ctx, 32 * MIB, garbage=True) as uri:
            for turn in range(12):
                create(uri, 20 * MIB, block_size='1M',
                       logical_sector_size=sector)
                script = Script(Model(20 * MIB), MIB)
                length = (4096, 65536, 7680)[turn % 3]
                script.parallel([
                    (block * MIB + part * length, length, part + 1)
                    for block in range(6) for part in (5, 1, 3, 2, 0, 4)])
                script.read(0, 8 * MIB, most=100)
                ctx.io(uri, script.take(), '-t', 'writeback')
            check(ctx, uri, script.model)
    return test


def parallel_fills(ctx):
    """Requests to new blocks at once that take the last of the space, some
    of it between other blocks: no place is given to two of them."""
    with node(ctx, 12 * MIB, garbage=True) as uri:
        for turn in range(12):
            create(uri, 64 * MIB, block_size='1M')
            script = Script(Model(64 * MIB), MIB)
            script.write(0, 3 * MIB, 1)
            script.discard(MIB, MIB)
            ctx.io(uri, script.take(), '-t', 'writeback')
            script.parallel([(block * MIB, 4096 << turn % 7, block)
                             for block in range(20, 26)])
            script.read(0, 64 * MIB, most=100)
            ctx.io(uri, script.take(), '-t', 'writeback')
            check(ctx, uri, script.model)


def converted(ctx):
    """qemu-img convert -n to an image on NBD, and from it."""
    source = ctx.path('source.raw')
    model = Model(20 * MIB)
    for number, place in enumerate(range(0, 20 * MIB, 3 * MIB + 512)):
        model.write(place, 40960, number + 1)
    with open(source, 'wb') as file:
        file.write(model.read(0, model.size))
    with node(ctx, 32 * MIB, garbage=True) as uri:
        create(uri, model.size, block_size='1M')
        run(ours('qemu-img'), 'convert', '-n', '-f', 'raw', '-O', 'vhdx',
            '-m', '16', '-W', source, uri)
        check(ctx, uri, model)
        model.check_raw(ctx.raw(uri), 'convert from NBD')


def resized(subformat):
    """To both sides, within the node, and beyond what it has room for, which
    changes nothing"""
    def test(ctx):
        with node(ctx, 64 * MIB, garbage=True) as uri:
            create(uri, 20 * MIB, block_size='1M', subformat=subformat)
            script = Script(Model(20 * MIB),
                            0 if subformat == 'fixed' else MIB)
            fill(script, MIB)
            ctx.io(uri, script.take(), '-t', 'writeback')
            modes = ['off', 'metadata', 'falloc', 'full'] \
                if subformat == 'fixed' else ['off']
            for mode in modes:
                size = script.model.size + 3 * MIB + 512
                run(ours('qemu-img'), 'resize', '-q', '-f', 'vhdx',
                    '--preallocation=' + mode, uri, size)
                script.model.resize(size)
                script.write(size - 8192, 8192, len(mode))
                ctx.io(uri, script.take(), '-t', 'writeback')
                check(ctx, uri, script.model)
            text = run(ours('qemu-img'), 'resize', '-f', 'vhdx', uri, '60T',
                       status=1)
            expect('No space left' in text, text)
            check(ctx, uri, script.model)
            size = 17 * MIB + 512
            run(ours('qemu-img'), 'resize', '-q', '-f', 'vhdx', '--shrink',
                uri, size)
            script.model.resize(size)
            check(ctx, uri, script.model)
    return test


def amended(ctx):
    """The log and less space; then the kind of image and what the disk is,
    which leaves old bytes beside new items, where the strict reader wants
    none"""
    name = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'
    with node(ctx, 64 * MIB, garbage=True) as uri:
        create(uri, 20 * MIB, block_size='1M')
        model = Model(20 * MIB)
        script = Script(model, MIB)
        fill(script, MIB)
        ctx.io(uri, script.take(), '-t', 'writeback')
        for step, strictly, told in (
                ('log_size=4M', True, 'log size: 4194304'),
                ('compact=space', True, 'subformat: dynamic'),
                ('subformat=fixed', False, 'subformat: fixed'),
                ('subformat=dynamic,compact=zeroes', False,
                 'subformat: dynamic'),
                ('subformat=fixed,preallocation=falloc', False,
                 'subformat: fixed'),
                ('subformat=dynamic', False, 'subformat: dynamic'),
                ('subformat=fixed,preallocation=full', False,
                 'subformat: fixed'),
                ('disk_id=' + name, False, 'disk uuid: ' + name),
                ('physical_sector_size=512', False,
                 'physical sector size: 512')):
            run(ours('qemu-img'), 'amend', '-f', 'vhdx', '-o', step, uri)
            if strictly:
                check(ctx, uri, model)
            run(ours('qemu-img'), 'check', '-f', 'vhdx', uri)
            model.check_raw(ctx.raw(uri), 'convert from NBD')
            text = run(ours('qemu-img'), 'info', '-f', 'vhdx', uri)
            expect(told in text, '"%s" is not in: %s', told, text)


def discarded(ctx):
    """What the guest discards the server has back, if that is asked for."""
    with node(ctx, 64 * MIB) as uri:
        create(uri, 40 * MIB, block_size='1M')
        how = 'driver=vhdx,discard=unmap,file.driver=nbd,file.discard=unmap,' \
            'file.server.type=unix,file.server.path=' + ctx.path('nbd.sock')

        def taken():
            extents = json.loads(run(ours('qemu-img'), 'map', '-f', 'raw',
                                     '--output=json', uri))
            return sum(e['length'] for e in extents if e['data'])

        ctx.io(how, ['write -q -P 1 0 24M'])
        before = taken()
        ctx.io(how, ['discard -q 4M 16M'])
        expect(before - taken() == 16 * MIB, '%d bytes, and %d before',
               taken(), before)
        model = Model(40 * MIB)
        model.write(0, 24 * MIB, 1)
        model.zero(4 * MIB, 16 * MIB)
        check(ctx, uri, model)


def overlaid(ctx):
    """A qcow2 image over the one there, and its commit"""
    with node(ctx, 64 * MIB, garbage=True) as uri:
        create(uri, 40 * MIB, block_size='1M')
        script = Script(Model(40 * MIB), MIB)
        fill(script, MIB)
        ctx.io(uri, script.take(), '-t', 'writeback')
        top = ctx.path('top.qcow2')
        text = run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-F',
                   'vhdx', '-b', uri, ctx.path('top.vhdx'), status=1)
        expect("The parent locator can't name" in text, text)
        run(ours('qemu-img'), 'create', '-q', '-f', 'qcow2', '-F', 'vhdx',
            '-b', uri, top)
        script.write(11 * MIB, 2 * MIB, 70)
        run(ours('qemu-io'), '-f', 'qcow2', '-c', *script.take(), top)
        script.model.check_raw(ctx.raw(top, form='qcow2'), 'the overlay')
        run(ours('qemu-img'), 'commit', '-q', '-f', 'qcow2', top)
        check(ctx, uri, script.model)


def two_writers(ctx):
    """No lock keeps a second program away, and the first one says so."""
    with node(ctx, 64 * MIB, garbage=True) as uri:
        create(uri, 40 * MIB, block_size='1M')
        second_writes(ctx, uri)
        model = Model(40 * MIB)
        model.write(2 * MIB, 65536, 2)
        check(ctx, uri, model)


def by_qmp(options, garbage):
    """blockdev-create on an NBD node, as libvirt does it."""
    def test(ctx):
        with node(ctx, 64 * MIB, garbage) as uri:
            with Daemon('--blockdev',
                        'nbd,node-name=proto,server.type=unix,server.path='
                        + ctx.path('nbd.sock')) as daemon:
                error = daemon.create(driver='vhdx', file='proto',
                                      size=20 * MIB, **options)
            expect(not error, '%s', error)
            model = Model(20 * MIB)
            check(ctx, uri, model)
            ctx.io(uri, ['write -q -P 9 %d 65536' % (5 * MIB)])
            model.write(5 * MIB, 65536, 9)
            check(ctx, uri, model)
    return test


def qmp_too_small(ctx):
    with node(ctx, 2 * MIB):
        with Daemon('--blockdev',
                    'nbd,node-name=proto,server.type=unix,server.path='
                    + ctx.path('nbd.sock')) as daemon:
            error = daemon.create(driver='vhdx', file='proto', size=20 * MIB)
        expect(error and any(n in error for n in ('4194304', '4 MiB')),
               'error is: %s', error)


def tests():
    found = []
    for garbage in (False, True):
        state = 'garbage' if garbage else 'zero'
        for name, options in (
                ('dynamic', {'block_size': '1M'}),
                ('dynamic-absent', {'block_size': '2M',
                                    'block_state_zero': 'off'}),
                ('fixed', {'block_size': '4M', 'subformat': 'fixed'})):
            found.append(('create-%s-%s' % (name, state),
                          created(options, garbage)))
        for name, options in (('dynamic', {}),
                              ('fixed', {'subformat': 'fixed'})):
            found.append(('qmp-%s-%s' % (name, state),
                          by_qmp(options, garbage)))
    found += [('seed-%d' % seed, seeded(seed)) for seed in range(101, 107)]
    found += [('resize-' + kind, resized(kind))
              for kind in ('dynamic', 'fixed')]
    return found + [
        ('amend', amended), ('discard', discarded), ('overlay', overlaid),
        ('two-writers', two_writers),
        ('too-small-dynamic', too_small('block_size=1M', ('4194304',
                                                          '4 MiB'))),
        ('too-small-fixed', too_small('block_size=1M,subformat=fixed',
                                      ('25165824', '24 MiB'))),
        ('qmp-too-small', qmp_too_small), ('full', full),
        ('replay', replayed), ('convert', converted),
        ('parallel-fills', parallel_fills),
        ('parallel-512', parallel(512)), ('parallel-4k', parallel(4096))]
