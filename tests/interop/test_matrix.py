"""Every image of the matrix, checked by the strict reader.

create: the whole product of the options, once each.  write: combinations in
which each pair of option values is met at least once; each image is written,
zeroed and discarded in several sessions of qemu-io, with clean closes, with a
process that dies after a flush, and with reads by the driver in between.
"""
import itertools
import random

from harness import checked, expect, ours, run
from model import Model
from script import Script, fingerprint
from strict.report import MIB

GIB, TIB = 1 << 30, 1 << 40
SUBFORMATS = ('dynamic', 'fixed')
SIZES = {'1M': MIB, '3M+512': 3 * MIB + 512, '1G': GIB, '2040G': 2040 * GIB,
         '64T': 64 * TIB}
BLOCKS = (1, 2, 32, 256)
LOGS = (1, 64)
SECTORS = (512, 4096)
STATES = ('on', 'off')
NAMES = ('subformat', 'size', 'block', 'log', 'logical', 'physical', 'zero')


def combinations():
    for combo in itertools.product(SUBFORMATS, SIZES, BLOCKS, LOGS, SECTORS,
                                   SECTORS, STATES):
        c = dict(zip(NAMES, combo))
        if c['subformat'] == 'fixed' and (c['size'] == '64T'
                                          or c['zero'] == 'off'):
            continue        # too large for a fixed file; option for dynamic
        yield c


def pairwise():
    """A few combinations with each pair of values in at least one."""
    def pairs(c):
        return set(itertools.combinations(sorted(c.items(), key=str), 2))

    everything = list(combinations())
    left = set().union(*map(pairs, everything))
    chosen = []
    while left:
        best = max(everything, key=lambda c: len(pairs(c) & left))
        left -= pairs(best)
        chosen.append(best)
    return chosen


def disk_size(c):
    size = SIZES[c['size']]
    return -(-size // c['logical']) * c['logical']


def make(ctx, c, name='disk.vhdx'):
    options = {'subformat': c['subformat'], 'block_size': '%dM' % c['block'],
               'log_size': '%dM' % c['log'],
               'logical_sector_size': c['logical'],
               'physical_sector_size': c['physical']}
    if c['subformat'] == 'dynamic':
        options['block_state_zero'] = c['zero']
    return ctx.create(name, SIZES[c['size']], **options)


def check_parameters(image, c):
    p = image.params
    got = (p.fixed, p.has_parent, p.disk_size, p.block_size, p.logical,
           p.physical, image.header.log_length)
    want = (c['subformat'] == 'fixed', False, disk_size(c), c['block'] * MIB,
            c['logical'], c['physical'], c['log'] * MIB)
    expect(got == want, 'image has %s, not %s', got, want)
    expect(image.creator.startswith('QEMU v'), 'creator is %s', image.creator)


def check_new(image, c):
    check_parameters(image, c)
    state = 'FULLY_PRESENT' if c['subformat'] == 'fixed' else \
        'ZERO' if c['zero'] == 'on' else 'NOT_PRESENT'
    expect(image.block_states() == {state: image.params.blocks},
           'blocks are %s', image.block_states())
    Model(disk_size(c)).check_image(image)


def created(subformat, size, block):
    def test(ctx):
        for c in combinations():
            if (c['subformat'], c['size'], c['block']) != (subformat, size,
                                                           block):
                continue
            path = ctx.path('disk.vhdx')
            run('rm', '-f', path)
            make(ctx, c)
            try:
                with checked(path) as image:
                    check_new(image, c)
            except Exception as why:
                raise type(why)('%s: %s' % (c, why)) from None
    return test


def places(c):
    """Where it may go wrong: ends of blocks, of chunks, of the disk."""
    size, block = disk_size(c), c['block'] * MIB
    chunk = c['logical'] << 23
    spots = [0, block, 2 * block, size // 2 // block * block, chunk,
             2 * chunk, size - size % block, size - block]
    return sorted({s for s in spots if 0 <= s < size})


def first_session(script, c):
    size, block = script.model.size, c['block'] * MIB
    script.write(0, 512, 1)
    for i, place in enumerate(places(c)):
        start = max(0, place - 64 * 1024)
        script.write(start, 128 * 1024 + 512, 2 + i)        # over an edge
        if i % 2:
            script.flush()
        script.read(start, 256 * 1024)
    script.write(size - 4096, 4096, 77)
    script.write(min(block, size - 512), 3 * 4096 + 512, 78)
    script.flush()
    script.zero(0, 700)
    script.zero(min(block, size) - 4096, 8192)
    script.read(0, 8192)


def second_session(script, c):
    """Whole blocks: freed, and used again."""
    block = c['block'] * MIB
    spots = places(c)
    for i, place in enumerate(spots):
        place = place // block * block
        if i % 3 == 0:
            script.zero(place, block, unmap=True)
        elif i % 3 == 1:
            script.discard(place, block)
        else:
            script.zero(place, block)
        script.read(place, 4096)
    script.flush()
    for place in spots[::2]:
        script.write(place, 20000 // 512 * 512, 99)
        script.read(max(0, place - 4096), 32768)
    script.discard(spots[-1] + 512, 1024)
    script.zero(spots[0] + 1024, 512, unmap=True)
    script.read(spots[0], 8192)


def third_session(script, c):
    """Left without a close: what was flushed is in the log."""
    for i, place in enumerate(places(c)):
        script.write(place + i * 512, 4096, 120 + i)
    script.flush()
    for place in places(c)[1::2]:
        script.write(max(0, place - 8192), 16384, 140)
    script.kill()


def written(c):
    def test(ctx):
        path = make(ctx, c)
        model = Model(disk_size(c))
        fixed = c['subformat'] == 'fixed'
        script = Script(model, 0 if fixed else c['block'] * MIB)
        for session, options in ((first_session, ['-t', 'writeback']),
                                 (second_session, ['-t', 'writeback']),
                                 (first_session, [])):
            session(script, c)
            ctx.io(path, script.take(), *options)
            with checked(path) as image:
                check_parameters(image, c)
                model.check_image(image)
                if session is second_session and not fixed:
                    check_freed(image, c)
        third_session(script, c)
        ctx.io(path, script.take(), '-t', 'writeback', status=-9)
        with checked(path, unclean=True) as image:
            check_parameters(image, c)
            model.check_image(image)
        before = fingerprint(path)
        for place in places(c):
            script.read(max(0, place - 65536), 128 * 1024)
        ctx.io(path, script.take(), '-r')
        expect(fingerprint(path) == before, 'a read-only open wrote')
        script.write(0, 512, 5)
        script.read(0, 8192)
        ctx.io(path, script.take(), '-t', 'writeback')
        with checked(path) as image:
            model.check_image(image)
        run(ours('qemu-img'), 'check', '-q', '-f', 'vhdx', path)
    return test


def check_freed(image, c):
    """A block that was freed as a whole, and not written since, is ZERO."""
    block = c['block'] * MIB
    spots = places(c)
    used = {p // block for p in spots[::2]} | {spots[-1] // block,
                                               spots[0] // block}
    for i, place in enumerate(spots):
        number = place // block
        whole = (number + 1) * block <= image.params.disk_size
        if i % 3 == 2 or number in used or not whole:
            continue
        if any(s // block == number and k % 3 == 2
               for k, s in enumerate(spots)):
            continue
        state = image.bat.lookup(number)
        expect(state == (2, 0), 'block %d was freed and is %s', number, state)


def label(c):
    return '-'.join(str(c[n]) for n in NAMES)


def tests():
    found = []
    for subformat, size, block in itertools.product(SUBFORMATS, SIZES, BLOCKS):
        if (subformat, size) != ('fixed', '64T'):
            found.append(('create-%s-%s-%d' % (subformat, size, block),
                          created(subformat, size, block)))
    chosen = pairwise()
    random.Random(1).shuffle(chosen)        # the heavy ones not side by side
    for c in chosen:
        found.append(('write-' + label(c), written(c)))
    return found
