"""Requests that are in flight together, over NBD, and qemu-img convert."""
import os

from events import Trace
from harness import expect, ours, run
from nbd import FLUSH, READ, TRIM, WRITE, ZEROES, Request, exported
from record import FLUSH as SYNC
from record import READ as PREAD
from record import Layout, Record, preloaded
from strict.report import KIB, MIB
from test_counts import growth, same, without
from vhdx_strict import Image


def write(offset, length=4 * KIB):
    return Request(WRITE, offset, length, b'w' * length)


class Export:
    """An image on NBD that is past its first write."""
    def __init__(self, ctx, size='256M', **more):
        image = ctx.create('a.vhdx', size, block_size='1M')
        self.layout = Layout(image)
        self.record = Record(ctx.path('nbd.record'))
        self.client, self.ops, self.events = None, [], []
        self.trace = Trace(ctx.path('nbd.trace'))
        self.context = exported(ctx, image, self.record.path,
                                trace=self.trace.options(), **more)

    def __enter__(self):
        self.client = self.context.__enter__()[0]
        self.do(write(0), Request(FLUSH))
        return self

    def __exit__(self, *error):
        return self.context.__exit__(*error)

    def do(self, *requests):
        self.client.do(*requests)
        self.ops = self.record.read()
        self.events = self.trace.read()
        return self.layout.names(self.ops)


def queued_flushes(ctx):
    """Flushes that wait together for the same writes are one; with nothing
    new they are none."""
    with Export(ctx, delay=2000) as disk:
        for count in (2, 8, 15):
            disk.do(write(count * MIB))
            same(disk.do(*[Request(FLUSH) for _ in range(count)]),
                 ['log', 'flush'])
            same(disk.do(*[Request(FLUSH) for _ in range(count)]), [])
            disk.do(write(count * MIB))
            same(disk.do(*[Request(FLUSH) for _ in range(count)]), ['flush'])


def flushes_between(ctx):
    """Writes and flushes in flight together.  A flush covers the writes that
    were complete when it began, so it is one commit or rides on another.  A
    commit is an entry, if there is anything to log, and a flush, and one
    before that if it has a barrier; at the end all is stable."""
    seen = barriers = 0
    with Export(ctx, delay=2000) as disk:
        for turn in range(1, 12):
            requests = []
            for i in range(5):
                requests += [write(turn * 10 * MIB + i * MIB),
                             write(turn * 10 * MIB + i * MIB + 64 * KIB),
                             Request(FLUSH)]
            names = disk.do(*requests)
            same(without(names, 'grow', 'log', 'flush', 'zero', 'BAT'),
                 ['data'] * 10)
            commits = [e for e in disk.events if e.name == 'commit_start']
            expect(len(commits) <= 5, '%s', disk.events)
            seen += len(commits)
            same(names.count('log'), sum(c.pages > 0 for c in commits))
            # Where nothing was written since the flush before there is none.
            most = len(commits) + sum(c.barrier for c in commits)
            expect(names.count('log') <= names.count('flush') <= most, '%s %s',
                   names, commits)
            barriers += sum(c.barrier for c in commits)
            disk.do(Request(FLUSH))
            # The next turn takes this place again.
            disk.do(Request(TRIM, turn * 10 * MIB, MIB))
            disk.do(Request(FLUSH))
            same(disk.do(Request(FLUSH)), [])
    expect(seen and barriers, '%d commits, %d barriers', seen, barriers)


def deep_reads(ctx):
    """16 reads at once of present blocks: a read of the file each."""
    with Export(ctx) as disk:
        disk.do(Request(WRITE, 0, 8 * MIB, b'r' * (8 * MIB)))
        for turn in range(8):
            reads = [Request(READ, (turn * 97 + i * 130) * 4 * KIB % (8 * MIB),
                             4 * KIB) for i in range(16)]
            same(disk.do(*reads), [])
            same([disk.layout.part(op) for op in disk.ops
                  if op.kind == PREAD], ['data'] * 16)
            for r in reads:
                expect(r.data == b'r' * (4 * KIB), '%s has other content', r)


def trims(ctx):
    """Trim and write-zeroes over NBD: no request to the file until the flush,
    and none where nothing is."""
    with Export(ctx) as disk:
        disk.do(Request(WRITE, 0, 8 * MIB, b'r' * (8 * MIB)), Request(FLUSH))
        disk.do(Request(FLUSH))
        same(disk.do(Request(TRIM, 20 * MIB, 9 * MIB),
                     Request(ZEROES, 30 * MIB, 9 * MIB)), [])
        same(disk.do(Request(TRIM, MIB, MIB), Request(ZEROES, 3 * MIB, MIB)),
             [])
        same(disk.do(Request(FLUSH)), ['log', 'flush', 'zero', 'zero'])


def delayed(ctx):
    """With storage that is slow: the same numbers."""
    with Export(ctx, delay=3000) as disk:
        names = []
        for turn in range(8):
            step = disk.do(*[write((1 + turn * 12 + i) * MIB)
                             for i in range(12)])
            names += step
            same(without(step, 'grow'), ['data'] * 12)
            same(without(disk.do(Request(FLUSH)), 'BAT'), ['log', 'flush'])
        growth(names, 96)


def converted(ctx, size, *options):
    """qemu-img convert to an image; what it did to the file."""
    source, image = ctx.path('source.raw'), ctx.path('target.vhdx')
    with open(source, 'wb') as file:
        file.write(b'c' * size)
    run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-o', 'block_size=1M',
        image, size)
    layout, record = Layout(image), Record(ctx.path('convert.record'))
    run(ours('qemu-img'), 'convert', '-n', '-f', 'raw', '-O', 'vhdx',
        *options, '-t', 'writeback', source, image,
        env=preloaded(record.path, image))
    ops = record.read()
    os.unlink(record.path)
    os.unlink(image)
    return layout.names(ops), ops


def failed_commit(ctx):
    """The flush of an entry fails: it and all that follow fail, also if
    nothing is written any more; reads go on, and the file is left alone."""
    image = ctx.create('a.vhdx', '64M', block_size='1M')
    layout = Layout(image)
    record = Record(ctx.path('nbd.record'))
    # The third flush that a client asks for
    rule = ','.join(
        ['set-state.%d.event=flush_to_disk,set-state.%d.state=%d,'
         'set-state.%d.new_state=%d' % (i, i, i + 1, i, i + 2)
         for i in range(2)] +
        ['inject-error.0.event=flush_to_disk,inject-error.0.state=3,'
         'inject-error.0.iotype=flush,inject-error.0.once=on'])
    with exported(ctx, image, record.path, rule=rule) as (client, _):
        client.do(write(0), Request(FLUSH))
        client.do(write(0), Request(FLUSH))
        client.do(write(5 * MIB))
        errors = []
        for _ in range(4):
            flush = Request(FLUSH)
            client.send(flush)
            client.drain()
            errors.append(flush.error)
        expect(errors == [5] * 4, 'flushes gave %s', errors)
        record.read()
        for request in (write(7 * MIB), write(0), Request(TRIM, 0, MIB),
                        Request(ZEROES, 0, MIB), Request(FLUSH)):
            client.send(request)
            client.drain()
            expect(request.error == 5, '%s: error %d', request, request.error)
        read = Request(READ, 0, 4 * KIB)
        client.do(read)
        expect(read.data == b'w' * (4 * KIB), 'other content')
        same(layout.names(record.read()), [])
    with Image(image, unclean=True) as view:
        expect(not view.report.bad(), '\n'.join(view.report.lines()))
        expect(view.read(0, 4 * KIB) == b'w' * (4 * KIB), 'content is lost')


def convert(ctx):
    """Large requests stay whole, and the number of flushes does not depend
    on how much is copied."""
    flushes = []
    for size in (32 * MIB, 96 * MIB):
        for options in ((), ('-m', '8', '-W')):
            names, ops = converted(ctx, size, *options)
            growth([n for n in names if n != 'shrink'], size // MIB)
            # convert reads and writes 2 MiB at a time
            expect(names.count('data') == size // (2 * MIB),
                   '%d writes of data', names.count('data'))
            # The log's first MiB gets space, then there are two entries.
            expect(names.count('log') == 3, '%s', names)
            flushes.append(sum(op.kind == SYNC for op in ops))
    expect(len(set(flushes)) == 1, 'flushes: %s', flushes)


def tests():
    return [(f.__name__.replace('_', '-'), f) for f in (
        queued_flushes, flushes_between, deep_reads, trims, delayed,
        failed_commit, convert)]
