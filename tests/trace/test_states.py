"""Power cuts in real runs: a storage daemon, its threads, requests in flight.

A client works on an image over NBD while each call of the daemon on the file
is noted, until the daemon is told to end or is killed.  Then states of the
file are built that a power cut could have left, and each is opened.
"""
import collections
import contextlib
import os
import random

from harness import (Failure, Skip, checked, expect, ours, run,
                     same_as_raw)
from judge import History, origin
from nbd import (FLUSH, NO_HOLE, TRIM, WRITE, ZEROES, Request, exported,
                 supports_direct)
from power import Cuts, copy, disputed, replayed, same_file
from record import TRUNCATE, WRITE as CALL_WRITE
from record import Layout, Record
from strict.report import KIB, MIB
from vhdx_strict import Image

BLOCK = MIB
SIZE = 2048 * MIB               # four pages of the BAT
ODD_ROOM = 100 * MIB + 74 * KIB + 512   # for blocks, where nothing grows
FOREVER = 1 << 62
TURNS = 8
EXTRA = int(os.environ.get('TRACE_SEEDS', '0'))


class Workload:
    """Random requests to a few blocks, several in flight."""
    def __init__(self, chance, history, depth=10):
        self.chance, self.history, self.depth = chance, history, depth
        self.places = []
        for page in range(4):
            for _ in range(4):
                first = page * 512 + chance.randrange(500)
                self.places += [first, first + 1]
        self.spots = [chance.randrange(0, 240) * 4 * KIB for _ in range(4)]

    def request(self, flying):
        """The next one; seldom over sectors that are in flight."""
        for _ in range(50):
            request, number = self.random_request()
            if request.kind == FLUSH or self.chance.random() < 0.05 or \
                    not any(f.kind != FLUSH and f.offset < request.stop and
                            request.offset < f.stop for f in flying):
                break
        if request.kind == FLUSH:
            self.history.flushes.append(request)
        else:
            if request.kind == WRITE:
                number, request.data = self.history.next_write(
                    request.offset, request.length)
            self.history.add(request, number)
        return request

    def random_request(self):
        chance = self.chance
        block = chance.choice(self.places) * BLOCK
        kind = chance.random()
        if kind < 0.12:
            return Request(FLUSH), 0
        if kind < 0.20:
            return Request(TRIM, block, BLOCK * chance.choice((1, 1, 2))), 0
        at = block + chance.choice(self.spots)
        length = chance.choice((512, 4 * KIB, 4 * KIB, 12 * KIB, 48 * KIB))
        if kind < 0.24:
            return Request(TRIM, at, length), 0
        if kind < 0.32:
            flags = chance.choice((0, NO_HOLE))
            if chance.random() < 0.4:
                at, length = block, BLOCK
            return Request(ZEROES, at, length, flags=flags), 0
        if kind < 0.40:                 # over the edge of a block
            at, length = block + BLOCK - 16 * KIB, 32 * KIB
        return Request(WRITE, at, length), 0

    def run(self, client, count, stop=None):
        """Send so many requests; stop() may then end the other side."""
        for _ in range(count):
            while len(client.flying) >= self.depth:
                self.check(client.receive())
            client.send(self.request(client.flying.values()))
            if self.chance.random() < 0.05:
                while client.flying:
                    self.check(client.receive())
        if stop:
            stop()
        with contextlib.suppress(*((EOFError, ConnectionError) if stop
                                   else ())):
            while client.flying:
                self.check(client.receive())

    def check(self, request):
        expect(not request.error, '%s: error %d', request, request.error)


class Disk:
    """An image through sessions and power cuts.  With 'room' it stands for a
    device that has so many bytes for blocks."""
    def __init__(self, ctx, seed, room=None, **options):
        self.ctx = ctx
        self.chance = random.Random(seed)
        self.history = History()
        self.image = ctx.create('disk.vhdx', SIZE, block_size=BLOCK,
                                **options)
        self.size = room and os.stat(self.image).st_size + room
        if room:
            os.truncate(self.image, self.size)
        self.layout = Layout(self.image)
        self.workload = Workload(self.chance, self.history)
        self.seen = collections.Counter()
        self.before, self.ops = None, []

    def session(self, count, kill, delay=1500, direct=False):
        """Work on the image; 'before' is then the file as it was."""
        self.before = self.ctx.path('before.vhdx')
        copy(self.image, self.before)
        path = self.ctx.path('record')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with exported(self.ctx, self.image, path, delay, direct,
                      size=self.size) as opened:
            client, process = opened
            self.workload.run(client, count, process.kill if kill else None)
            if kill:
                process.wait()
        self.ops = Record(path).read(broken=kill)
        expect(self.ops, 'nothing was recorded')
        if not kill:
            with checked(self.image, tail=bool(self.size)) as image:
                self.history.judge(image, FOREVER)
        # The record tells all that has become of the file.
        if not any(op.end is None and op.kind == TRUNCATE for op in self.ops):
            target = self.ctx.path('replayed.vhdx')
            replayed(self.ops, self.before, target)
            same_file(self.image, target, disputed(self.ops))
            os.unlink(target)

    def cuts(self, count):
        """Check so many states of the session; the last one is returned, as
        (path, numbers of its sectors)."""
        work = self.ctx.path('work.vhdx')
        copy(self.before, work)
        cuts = Cuts(self.ops, work, self.layout)
        target = self.ctx.path('state.vhdx')
        numbers = None
        for turn, point in enumerate(cuts.points(count, self.chance)):
            pending, mode, lost = cuts.state(point, target, self.chance)
            self.seen[mode] += 1
            self.seen['pending'] += len(pending)
            self.seen['lost'] += lost
            try:
                numbers = self.check(target, cuts.clock(point), pending)
                if turn % 4 == 3:
                    again = self.ctx.path('again.vhdx')
                    copy(target, again)
                    self.go_on(again, numbers)
                    os.unlink(again)
            except Failure as why:
                raise Failure('cut at %d of %d, %s pending calls arrive of '
                              '%d: %s' % (point, cuts.last, mode,
                                          len(pending), why)) from why
        return target, numbers

    def check(self, path, clock, pending):
        """Open the state in every way."""
        header = any(op.kind == CALL_WRITE and
                     self.layout.part(op) == 'header' for op in pending)
        with Image(path, unclean=True) as image:
            bad = [i for i in image.report.bad()
                   if not (header and i[1] in ('header 1', 'header 2') and
                           i[2] == 'CRC is wrong')]
            expect(image.readable and not bad, 'strict reader:\n%s',
                   '\n'.join(image.report.lines(bad or None)))
            numbers, bound = self.history.judge(image, clock)
            self.seen['bound'] += bound
            before = os.stat(path)
            text = run(ours('qemu-img'), 'check', '-f', 'vhdx', path,
                       status=None)
            expect('leaked' in text or 'No errors' in text,
                   'qemu-img check: %s', text)
            expect('ERROR' not in text and 'Error' not in text,
                   'qemu-img check: %s', text)
            raw = self.ctx.raw(path)
            same_as_raw(image, raw)
            os.unlink(raw)
            after = os.stat(path)
            expect((before.st_size, before.st_mtime_ns) ==
                   (after.st_size, after.st_mtime_ns),
                   'reading has changed the file')
        return numbers

    def go_on(self, path, numbers):
        """The state takes writes again, and is whole when closed."""
        at = (SIZE // BLOCK - 2) * BLOCK        # of no other request
        opened = path
        if self.size:
            opened = ('driver=vhdx,file.driver=raw,file.size=%d,'
                      'file.file.filename=%s' % (self.size, path))
        self.ctx.io(opened, ['write -q -P 7 %d 64k' % at, 'flush',
                             'write -q -P 8 %d 64k' % (at + BLOCK),
                             'read -q -P 7 %d 64k' % at], '-t', 'writeback')
        with checked(path, tail=bool(self.size)) as image:
            expect(image.read(at, BLOCK) == b'\7' * 65536 +
                   bytes(BLOCK - 65536), 'the new block has other content')
            expect(image.read(at + BLOCK, 65536) == b'\10' * 65536,
                   'the newest block has other content')
            for sector, number in numbers.items():
                expect(origin(image.read(sector * 512, 512), sector) ==
                       number, 'sector %d has changed by going on', sector)

    def restart(self, path, numbers):
        """Go on with this state."""
        os.rename(path, self.image)
        self.history.restart(numbers)

    def told(self):
        """Whether states have been such that something could be lost."""
        return self.seen['lost'] and self.seen['bound']

    def finish(self):
        expect(self.told(), 'no state has tested anything: %s',
               dict(self.seen))


def one_run(seed, kill, direct=False, count=350, states=16, **options):
    def test(ctx):
        if direct and not supports_direct(ctx.folder):
            raise Skip('no O_DIRECT in %s' % ctx.folder)
        disk = Disk(ctx, seed, **options)
        disk.session(count, kill, direct=direct)
        if kill:
            # The process is gone, its writes are not.
            with_all = ctx.path('killed.vhdx')
            copy(disk.image, with_all)
            disk.check(with_all, FOREVER, disk.ops)
            os.unlink(with_all)
        # What is in flight at a point is a matter of luck.
        for _ in range(TURNS):
            disk.cuts(states)
            if disk.told():
                break
        disk.finish()
    return test


def chain(seed, sessions=4, states=6):
    """Each session starts from what a power cut has left of the one before:
    a log to replay, lost writes behind the end, blocks nobody owns."""
    def test(ctx):
        disk = Disk(ctx, seed)
        for _ in range(sessions):
            disk.session(disk.chance.randrange(20, 200),
                         disk.chance.random() < 0.7)
            disk.restart(*disk.cuts(states))
        disk.finish()
    return test


def tests():
    found = [('close', one_run(1, False)), ('kill', one_run(2, True)),
             ('direct', one_run(3, True, direct=True)),
             ('fixed', one_run(4, True, states=8, subformat='fixed')),
             ('odd-length', one_run(8, True, states=8, room=ODD_ROOM)),
             ('absent', one_run(5, True, states=8,
                                block_state_zero='off')),
             ('chain-6', chain(6)), ('chain-7', chain(7))]
    for seed in range(100, 100 + EXTRA):
        found.append(('seed-%d' % seed,
                      chain(seed) if seed % 2 else
                      one_run(seed, seed % 4 == 0, seed % 8 == 0)))
    return found
