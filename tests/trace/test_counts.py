"""How many requests to the file a guest's request costs, exactly.

The numbers are what the driver's design promises.  A step of growth is the
exception, which is bounded: see growth().  Where the log is what counts, the
driver's own events tell which writes are an entry, and when pages go in place.
"""
import os

from harness import expect, ours, run
from session import Session
from strict.report import KIB, MIB
from vhdx_strict import Image

# What the first change of a cleanly closed image costs beside the change: a
# header with the new GUIDs; an entry; two headers that name the log.  In a new
# image the log is a hole, and gets space before that.
OPENING = ['header', 'flush', 'log', 'flush', 'header', 'flush', 'header',
           'flush']
FIRST_OPENING = ['header', 'flush', 'log'] + OPENING[2:]
# What closing costs: what was put in place is stable before the log's name is
# taken out of the headers.  Where nothing has changed since the last flush the
# first flush has nothing to do.  After the cut the block layer flushes the
# file that it closes.
CLOSING = ['flush', 'header', 'flush', 'header', 'flush']
CUT = ['shrink', 'flush']
STEP = 16 * MIB                 # by which the file grows, at least
ENTRY = 8 * KIB                 # a log entry with one page


def same(got, *wanted, what=''):
    expect(got in wanted, '%sis %s\ninstead of %s', what + ' ' if what else '',
           got, ' or '.join(map(str, wanted)))


def without(names, *dropped):
    return [n for n in names if n not in dropped]


def growth(names, blocks, block=MIB):
    """Growing is rare: one step each 16 MiB of new blocks, or each block if
    that is more; and a new length is never shorter."""
    most = 1 + blocks * block // max(STEP, block)
    grown = names.count('grow')
    expect(grown <= most and 'shrink' not in names,
           'the file grew %d times for %d blocks, %d times would do',
           grown, blocks, most)


def opened(ctx, size='64M', node=None, trace='', **options):
    """A new image, in a session that is past the first write; @node are
    options of its nodes."""
    options = dict({'block_size': '1M'}, **options)
    image = ctx.create('a.vhdx', size, **options)
    io = Session(ctx, image, trace=trace, **(node or {}))
    same(io.opening, [])
    io.do('write -q -P 1 0 4k', 'flush')
    return image, io


def placed(image, io, wrote):
    """Each guest write (offset, length) went, as one write, to just where the
    BAT of the closed image has it."""
    found = {(op.offset, op.length) for op in wrote}
    expect(len(found) == len(wrote), 'written twice: %s', wrote)
    with Image(image) as view:
        expect(not view.report.bad(), '\n'.join(view.report.lines()))
        for offset, length in io:
            block, inside = divmod(offset, view.params.block_size)
            at = view.bat.lookup(block)[1] + inside
            expect((at, length) in found, 'the write of %#x at %#x did not go '
                   'to %#x', length, offset, at)
    expect(len(found) == len(io), '%d writes of data for %d requests',
           len(found), len(io))


def first_write(ctx):
    """The sequence of the first change after open, of the next ones, and of
    closing."""
    image = ctx.create('a.vhdx', '64M', block_size='1M')
    with Session(ctx, image) as io:
        same(io.opening, [])
        same(io.do('read -q 0 64M', 'flush', 'alloc 0 64M'), [])
        same(io.do('write -q -P 1 5M 4k'), FIRST_OPENING + ['grow', 'data'])
        header = io.writes('header')
        # first over the copy that is not current, then by turns
        expect(header[0].offset == header[2].offset != header[1].offset,
               '%s', header)
        log = io.writes('log')
        expect((log[0].offset, log[0].length) == (io.layout.log, MIB), '%s',
               log)
        for op in header + log[1:]:
            expect(op.length == 4 * KIB, '%s', op)
        # whether another program writes is looked up now, and when closing
        same([part for part in io.reads() if part == 'header'], ['header'])
        same(io.do('write -q -P 1 6M 4k'), ['data'])
        same(io.do('flush'), ['log', 'flush'])
        same(io.close(), ['BAT'] + CLOSING + CUT)
        same(io.reads(), ['header'])
    with Session(ctx, image) as io:
        # in place: no growth, and nothing for the log
        same(io.do('write -q -P 2 5M 4k'), OPENING + ['data'])
        same(io.do('flush'), ['flush'])
        same(io.close(), CLOSING[1:])
    with Session(ctx, image) as io:
        same(io.do('write -q -P 2 7M 4k'), OPENING + ['grow', 'data'])
        # not flushed: closing does it
        same(io.close(), ['log', 'flush', 'BAT'] + CLOSING + CUT)


def not_written(ctx):
    """An image that is only read is not touched, opened for writing or not;
    and zeroing what is zero changes nothing."""
    image = ctx.create('a.vhdx', '64M', block_size='1M')
    before = os.stat(image)
    for readonly in (False, True):
        with Session(ctx, image, readonly=readonly) as io:
            same(io.opening, [])
            same(io.do('read -q 0 64M', 'read -q 1M 512'), [])
            if not readonly:
                same(io.do('write -q -z 1M 3M', 'write -q -z -u 1M 3M',
                           'write -q -z 512 512', 'discard -q 5M 9M',
                           'flush'), [])
            same(io.close(), [])
    after = os.stat(image)
    expect((before.st_mtime_ns, before.st_size) ==
           (after.st_mtime_ns, after.st_size), 'the file has changed')


def allocating(ctx):
    """New blocks without a flush: each one write of the file, no flush."""
    image, io = opened(ctx, '128M')
    wrote, guest, names = [], [], []
    with io:
        for number in range(1, 101):
            at = (number * 37 % 128) * MIB + 8 * KIB
            step = io.do('write -q -P %d %d 4k' % (number, at))
            same(without(step, 'grow'), ['data'])
            names += step
            wrote += io.writes('data')
            guest.append((at, 4 * KIB))
        growth(names, 100)
        same(io.do('flush'), ['log', 'flush'])
        io.close()
    placed(image, guest, wrote)


def ring(io, pages):
    """The flush was one entry of so many pages, in the log where the driver
    says: one write, or two where it goes around the end of the ring.  Pages
    went in place when that was said, and at no other time."""
    entry, = [e for e in io.events if e.name == 'ring_write']
    same((entry.pages, entry.ret), (pages, 0))
    length = (1 + pages) * 4 * KIB
    first = min(length, io.layout.log_length - entry.head)
    same([(op.offset - io.layout.log, op.length) for op in io.writes('log')],
         [(entry.head, first), (0, length - first)][:1 + (first < length)])
    applied = sum(e.pages for e in io.events if e.name == 'ring_apply')
    same(sum(op.length for op in io.writes('BAT')), applied * 4 * KIB)
    return entry


def allocate_and_flush(ctx):
    """A new block, then a flush, again and again: one write of the log, which
    may be beside the data's, and one flush of the file.  Blocks' entries go in
    place for a quarter of the log at once, and that needs no flush of its
    own."""
    count = 500
    _, io = opened(ctx, '512M', trace='vhdx_ring_*')
    with io:
        names, entries, applied = [], [], 0
        for number in range(1, count + 1):
            step = io.do('write -q -P 1 %dM 4k' % number)
            names += step
            beside = ['log'] * step.count('log')
            same(sorted(without(step, 'grow')), ['data'] + beside)
            if beside:
                entries.append(ring(io, 1))
            step = io.do('flush')
            if not beside:
                entries.append(ring(io, 1))
            log = ['log'] * len(io.writes('log'))
            # what goes in place does so after the flush, one page
            bat = ['BAT'] * sum(e.name == 'ring_apply' for e in io.events)
            same(step, log + ['flush'] + bat)
            applied += len(bat)
        growth(names, count)
        for last, entry in zip(entries, entries[1:]):
            same(entry.sequence, last.sequence + 1)
            same(entry.head, (last.head + ENTRY) % io.layout.log_length)
        rounds = count * ENTRY / io.layout.log_length
        expect(4 * rounds - 4 <= applied <= 12 * rounds + 4,
               '%d writes in place', applied)
        same(sum(b.head < a.head for a, b in zip(entries, entries[1:])),
             int(rounds))
        io.close()


def entry_beside(ctx):
    """Where the log's writes take long, and a flush is sure to follow, a new
    block costs no request more, but its entry is on its way with its data: for
    FUA, and from the fifth turn on of a guest that flushes after each write.
    Two writes for a flush end that, and cost one flush, for some longer."""
    _, io = opened(ctx, '512M', node={'delay': 20000},
                   trace='vhdx_commit_early')
    number = 0

    def write(early, option=''):
        nonlocal number
        number += 1
        names = io.do('write -q %s-P 1 %dM 4k' % (option, number))
        end = ['flush'] if option else []
        same(sorted(without(names, 'grow')),
             sorted(['data'] + ['log'] * early + end))
        same(len(io.events), early)
        if early:
            data, = io.writes('data')
            log, = io.writes('log')
            expect(log.start < data.end and data.start < log.end,
                   'one after the other: %s', io.ops)

    def turn(early):
        write(early)
        same(io.do('flush'), ['log'] * (not early) + ['flush'])

    with io:
        # What an entry's write takes is known after some.
        for _ in range(16):
            write(False)
            turn(False)
        for early in [False] * 4 + [True] * 3:
            turn(early)
        write(True)
        write(False)
        same(io.do('flush'), ['flush', 'log', 'flush'])
        for early in [False] * 16 + [True] * 3:
            turn(early)
        write(True, '-f ')
        # A request of several parts is no such thing before the last one.
        step = without(io.do('write -q -f -P 1 128M 32M'), 'data', 'grow')
        same(step, ['log', 'flush'])
        io.close()


def overwriting(ctx):
    """Present blocks: one write of the file, and a flush is one flush."""
    for options in ({}, {'subformat': 'fixed'}):
        image = ctx.create('a.vhdx', '16M', block_size='1M', **options)
        with Session(ctx, image) as io:
            io.do('write -q -P 1 0 16M', 'flush')
            for number in range(32):
                at = number * 509 * KIB % (15 * MIB)
                same(io.do('write -q -P 2 %d 12k' % at), ['data'])
                same(io.do('flush'), ['flush'])
                same(io.do('flush'), [])
                same(io.do('write -q -P 3 %d 512' % at,
                           'write -q -P 3 %d 3k' % (at + KIB)),
                     ['data', 'data'])
                same(io.do('flush'), ['flush'])
            io.close()
        os.unlink(image)


def fixed(ctx):
    """In a fixed image no write after the first changes any metadata."""
    image = ctx.create('a.vhdx', '16M', block_size='1M', subformat='fixed')
    with Session(ctx, image) as io:
        same(io.do('write -q -P 1 5M 64k'), FIRST_OPENING + ['data'])
        for at in range(16):
            same(io.do('write -q -P 1 %dM 4k' % at), ['data'])
            same(io.do('flush'), ['flush'])
        same(io.do('write -q -z 1M 2M', 'flush'), ['zero', 'zero', 'flush'])
        same(io.do('discard -q 4M 2M', 'flush'), [])
        same(io.close(), CLOSING[1:])


def many_pages(ctx):
    """A flush after changes of many BAT pages is one entry, one write, one
    flush."""
    _, io = opened(ctx, '16G', trace='vhdx_ring_*')
    with io:
        for pages in (2, 7, 30):
            io.do(*['write -q -P 1 %dM 4k' % (page * 512 + pages)
                    for page in range(pages)])
            same(without(io.do('flush'), 'BAT'), ['log', 'flush'])
            ring(io, pages)
        io.close()


def parallel(ctx):
    """Requests in flight together, to a block each: one write each, then a
    flush for all."""
    image, io = opened(ctx, '256M')
    guest, wrote, names = [], [], []
    with io:
        for turn in range(10):
            places = [(1 + turn * 16 + i) * MIB for i in range(16)]
            step = io.do(*['aio_write -q -P 1 %d 64k' % at for at in places],
                         'aio_flush')
            same(without(step, 'grow'), ['data'] * 16)
            names += step
            wrote += io.writes('data')
            guest += [(at, 64 * KIB) for at in places]
            same(without(io.do('flush'), 'BAT'), ['log', 'flush'])
        growth(names, 160)
        io.close()
    placed(image, guest, wrote)


def parallel_in_block(ctx):
    """Several writes to each new block, in flight together: they share a
    place, also where the file has to grow for it."""
    image, io = opened(ctx, '256M')
    guest, wrote, names = [], [], []
    with io:
        for turn in range(12):
            places = [(1 + turn * 4 + i % 4) * MIB + i // 4 * 64 * KIB
                      for i in range(16)]
            step = io.do(*['aio_write -q -P 1 %d 64k' % at for at in places],
                         'aio_flush')
            same(without(step, 'grow'), ['data'] * 16)
            names += step
            wrote += io.writes('data')
            guest += [(at, 64 * KIB) for at in places]
            same(without(io.do('flush'), 'BAT'), ['log', 'flush'])
        expect('grow' in names, 'the file did not grow')
        growth(names, 48)
        io.close()
    placed(image, guest, wrote)


def sequential(ctx):
    """Across blocks: new ones get places side by side, so that one request
    of the guest is one of the file, when writing and when reading."""
    _, io = opened(ctx, '128M')
    with io:
        names = []
        for at in range(32):
            step = io.do('write -q -P 3 %dk 1M' % (1536 + at * 1024))
            names += step
            same(without(step, 'grow'), ['data'])
            expect(io.writes('data')[0].length == MIB, '%s', io.ops)
        for at in (40, 48):
            step = io.do('write -q -P 4 %dM 8M' % at)
            names += step
            same(without(step, 'grow'), ['data'])
        same(without(io.do('flush'), 'BAT'), ['log', 'flush'])
        growth(names, 50)
        for at in range(2, 30):
            io.do('read -q -P 3 %dM 1M' % at)
            same(io.reads(), ['data'])
        io.do('read -q -P 4 40M 16M')
        same(io.reads(), ['data'])
        same(io.do('write -q -P 5 40M 16M'), ['data'])
        same(io.do('flush'), ['flush'])
        io.close()


def reading(ctx):
    """A page of the BAT is read once; after that a read of a present block is
    one read of the file, and one of an absent block none."""
    image, io = opened(ctx, '2G')
    with io:
        io.do('write -q -P 7 0 8M', 'write -q -P 8 1G 1M', 'flush')
        io.close()
    with Session(ctx, image) as io:
        io.do('read -q -P 7 100k 4k')
        same(io.reads(), ['BAT', 'data'])
        expect(io.ops[0].length == 4 * KIB, '%s', io.ops)
        for at in range(0, 8 * 1024, 301):
            io.do('read -q -P 7 %dk 4k' % min(at, 8188))
            same(io.reads(), ['data'])
        for command in ('read -q -P 7 0 8M', 'read -q -P 7 1000k 100k'):
            io.do(command)
            same(io.reads(), ['data'])
        io.do('read -q -P 0 9M 1M', 'read -q -P 0 100M 64k')
        same(io.reads(), [])
        # behind 1 GiB another page is needed
        io.do('read -q -P 8 1G 1M', 'read -q -P 8 1G 1M')
        same(io.reads(), ['BAT', 'data', 'data'])
        # in part absent
        io.do('read -q 7M 2M')
        same(io.reads(), ['data'])
        same(io.close(), [])


def chains(ctx):
    """A read goes through the block layer to the image that has the data, but
    to none between that has nothing."""
    path = ctx.create('a.vhdx', '64M')
    ctx.io(path, ['write -q -P 9 20M 1M'])
    for number in range(1, 6):
        parent, path = path, ctx.path('%d.vhdx' % number)
        run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-b', parent,
            '-F', 'vhdx', path)
        ctx.io(path, ['write -q -P %d %dM 4k' % (number, 20 + 2 * number)])
    for at, byte, images in ((20 * MIB, 9, 2), (22 * MIB, 1, 2),
                             (28 * MIB, 4, 2), (30 * MIB, 5, 1),
                             (28 * MIB + 4 * KIB, 0, 2), (50 * MIB, 0, 2)):
        trace = ctx.path('reads.trace')
        ctx.io(path, ['read -q -P %d %d 4k' % (byte, at)], '-r', '--trace',
               'enable=bdrv_co_preadv_part,file=' + trace)
        with open(trace, encoding='utf-8') as file:
            seen = file.read().count(' offset %d bytes 4096 ' % at)
        expect(seen == images, 'a read at %#x went through %d images, not %d',
               at, seen, images)


def zeroes(ctx):
    """write_zeroes and discard: what is absent costs nothing; in place it is
    one request and no metadata; a block that goes, one BAT change."""
    _, io = opened(ctx)
    with io:
        io.do('write -q -P 1 0 8M', 'flush')
        same(io.do('write -q -z 20M 4M', 'write -q -z -u 20M 4M',
                   'discard -q 20M 4M', 'write -q -z 30M 512', 'flush'), [])
        same(io.do('write -q -z 1M 1M'), ['zero'])
        same(io.do('flush'), ['flush'])
        same(io.do('write -q -z -u 2100k 64k'), ['zero'])
        same(io.do('discard -q 2200k 64k'), ['zero'])
        same(io.do('flush'), ['flush'])
        # Whole blocks: in memory until the flush.  Only when that has made
        # the change stable may the space be punched.
        same(io.do('write -q -z -u 3M 1M'), [])
        same(io.do('flush'), ['log', 'flush', 'zero'])
        # What lies together is punched at once.
        same(io.do('discard -q 4M 2M', 'discard -q 7M 1M'), [])
        same(io.do('flush'), ['log', 'flush', 'zero', 'zero'])
        # Punching need not be stable: who takes the space zeroes it.
        same(io.do('flush'), [])
        io.close()


def reuse(ctx):
    """Space that was another block's: it is zeroed, unless it is a hole, and
    the data is stable before the entry that names it is written."""
    _, io = opened(ctx)
    with io:
        io.do('write -q -P 1 0 8M', 'flush', 'discard -q 2M 1M', 'flush')
        same(io.do('write -q -P 2 50M 4k'), ['data'])
        same(io.do('flush'), ['flush', 'log', 'flush'])
        io.close()
    _, io = opened(ctx, node={'file.discard': 'ignore'})
    with io:
        io.do('write -q -P 1 0 8M', 'flush', 'discard -q 2M 1M', 'flush')
        same(io.do('write -q -P 2 50M 4k'), ['zero', 'data'])
        expect(io.ops[0].length == MIB and
               io.ops[0].offset <= io.ops[-1].offset < io.ops[0].stop,
               '%s', io.ops)
        same(io.do('flush'), ['flush', 'log', 'flush'])
        same(io.do('write -q -P 2 51M 4k'), ['data'])
        same(io.do('flush'), ['log', 'flush'])
        # freed, but not flushed: not to be had yet
        io.do('discard -q 3M 1M')
        same(without(io.do('write -q -P 2 52M 4k'), 'grow'), ['data'])
        io.do('read -q -P 0 3M 1M', 'read -q -P 2 52M 4k')
        io.close()


def growing(ctx):
    """Blocks larger than the step: one growth for each, at the most."""
    _, io = opened(ctx, '16G', block_size='256M')
    with io:
        names = []
        for block in range(1, 20):
            names += io.do('write -q -P 1 %dM 4k' % (block * 256))
        growth(names, 20, 256 * MIB)
        same(without(names, 'grow'), ['data'] * 19)
        io.do('flush')
        io.close()


def small_log(ctx):
    """More pages than an entry may have, which is a quarter of the log: the
    flush that has to log them all writes several entries, and is one."""
    pages, sectors = 100, 256 // 4
    _, io = opened(ctx, '64G', log_size='1M', trace='vhdx_ring_write')
    with io:
        names = []
        for page in range(pages):
            names += io.do('write -q -P 1 %dM 4k' % (page * 512 + 1))
        same(without(names, 'grow', 'BAT', 'data'), [])
        same(without(io.do('flush'), 'BAT'), ['log', 'log', 'flush'])
        entries = [event.pages for event in io.events]
        expect(sum(entries) == pages and 1 + max(entries) <= sectors,
               'entries have %s pages', entries)
        same([op.length for op in io.writes('log')],
             [(1 + n) * 4 * KIB for n in entries])
        io.close()


def log_space(ctx):
    """A log that is a hole gets space by the MiB, each before its first use,
    and once."""
    image, io = opened(ctx, '64G', log_size='3M')
    with io:
        filled = io.layout.log + MIB
        for turn in range(24):
            io.do(*['write -q -P 1 %dM 4k' % (page * 512 + turn + 1)
                    for page in range(60)], 'flush')
            for op in io.writes('log'):
                if op.offset == filled and op.length == MIB:
                    filled += MIB
                expect(op.stop <= filled, '%s, and up to %#x there is space',
                       op, filled)
        expect(filled == io.layout.log + 3 * MIB, 'up to %#x', filled)
        io.close()
    with Session(ctx, image) as io:
        same(io.do('write -q -P 1 0 4k'), OPENING + ['data'])
        io.close()


def replay(ctx):
    """The first change after a crash puts the log's pages in place: those next
    to each other in one write, those of one entry with few reads."""
    image, io = opened(ctx, '64G')
    with io:
        io.do(*['write -q -P 1 %dM 4k' % (page * 512 + 1)
                for page in range(48)], 'flush')
        io.do(*['write -q -P 1 %dM 4k' % (page * 512 + 1)
                for page in range(50, 98, 2)], 'flush')
        io.kill()
    with Session(ctx, image) as io:
        same(io.opening, [])
        io.do('write -q -P 2 0 4k')
        lengths = [op.length // (4 * KIB) for op in io.writes('BAT')]
        same(sorted(lengths), [1] * 24 + [48])
        # 64 pages at a time, and each time what lies together in the log
        same(io.reads().count('log'), 3)
        io.do('read -q -P 2 0 4k',
              *['read -q -P 1 %dM 4k' % (page * 512 + 1)
                for page in [*range(48), *range(50, 98, 2)]])
        io.close()


def tests():
    return [(f.__name__.replace('_', '-'), f) for f in (
        first_write, not_written, allocating, allocate_and_flush,
        entry_beside, overwriting, fixed, many_pages, parallel,
        parallel_in_block, sequential, reading, chains, zeroes, reuse, growing,
        small_log, log_space, replay)]
