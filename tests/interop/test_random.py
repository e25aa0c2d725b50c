"""Random operations against a model in memory, seeded, with reopen.

A seed chooses the image and sessions of qemu-io; each ends with a clean close
or by a process that dies.  After each the strict reader checks the file and
compares the whole content; at the end so do our qemu-img and, where it can
read the image, the distribution's.
"""
import os
import random
import shutil

from harness import checked, expect, foreign, ours
from images import round_up
from model import Model
from script import Script, data_file
from strict.report import MIB, NIL_GUID

SEEDS = range(1, 25)
GIB = 1 << 30


class Plan:
    """The image of a seed, and where in it things are done."""
    def __init__(self, seed, small=False):
        chance = self.chance = random.Random(seed)
        self.fixed = chance.random() < 0.25
        block = chance.choice((1, 1, 2) if small else
                              (1, 1, 1, 2, 2, 8, 32))
        self.block = block * MIB
        self.sector = chance.choice((512, 512, 4096))
        self.options = {'block_size': '%dM' % block,
                        'subformat': 'fixed' if self.fixed else 'dynamic',
                        'logical_sector_size': str(self.sector),
                        'physical_sector_size':
                            chance.choice(('512', '4096'))}
        if not self.fixed:
            self.options['block_state_zero'] = chance.choice(('on', 'off'))
        blocks = chance.randrange(1, 40)
        size = blocks * self.block - chance.randrange(self.block) // 512 * 512
        chunk = self.sector << 23
        self.windows = [0]
        if not small and chance.random() < 0.4:
            # larger than a chunk: work at its edge too
            size += chunk
            self.windows += [chunk - 2 * self.block, chunk - self.block // 2]
        self.size = round_up(size, self.options)
        self.windows += [max(0, self.size - 3 * self.block)]

    def place(self, most):
        """Offset and length, in sectors, often at the edges of blocks."""
        chance = self.chance
        start = chance.choice(self.windows)
        room = min(6 * self.block, self.size - start)
        offset = start + chance.randrange(room) // 512 * 512
        kind = chance.random()
        if kind < 0.2:
            offset = offset // self.block * self.block
        elif kind < 0.4:
            offset = max(0, offset // self.block * self.block
                         - chance.randrange(1, 129) * 512)
        elif kind < 0.7:
            offset = offset // 4096 * 4096
        length = chance.choice((512, 4096, 65536, 65536, most))
        length = max(512, chance.randrange(1, length + 1) // 512 * 512)
        if chance.random() < 0.3:
            length = max(4096, length // 4096 * 4096)
        return offset, min(length, self.size - offset)


def operate(script, plan, path, count):
    """Random operations; what one of them is like is in its branch."""
    chance = plan.chance
    for _ in range(count):
        kind = chance.random()
        if kind < 0.30:
            offset, length = plan.place(3 * MIB)
            script.write(offset, length, chance.randrange(1, 256))
        elif kind < 0.38:
            offset, length = plan.place(MIB)
            script.write_file(offset, length, path)
        elif kind < 0.46:
            offset, length = plan.place(2 * plan.block)
            script.zero(offset, length, unmap=chance.random() < 0.6)
        elif kind < 0.52:
            number = chance.randrange(-(-plan.size // plan.block))
            script.zero(number * plan.block,
                        plan.block * chance.randrange(1, 3),
                        unmap=chance.random() < 0.7)
        elif kind < 0.60:
            offset, length = plan.place(4 * MIB)
            if chance.random() < 0.6 and not plan.fixed:
                offset = offset // plan.block * plan.block
                length = plan.block * chance.randrange(1, 4)
            script.discard(offset, length)
        elif kind < 0.70:
            script.flush()
        elif kind < 0.82:
            script.parallel(parallel(plan))
        elif kind < 0.93:
            offset, length = plan.place(4 * MIB)
            script.read(offset, length)
        else:
            offset, _ = plan.place(4096)
            edge = -(-offset // plan.block) * plan.block
            script.dump(max(0, min(edge, plan.size) - 16384), 32768)


def parallel(plan):
    """Disjoint requests to one or two neighbouring blocks, out of order."""
    chance = plan.chance
    offset, _ = plan.place(4096)
    room = min(2 * plan.block, plan.size - offset) // 512
    cuts = sorted({chance.randrange(room + 1) for _ in range(16)})
    requests = []
    for start, end in zip(cuts, cuts[1:]):
        length = min((end - start) * 512, 256 * 1024)
        kind = chance.random()
        pattern = None if kind < 0.2 else 0 if kind < 0.3 else \
            chance.randrange(1, 256)
        requests.append((offset + start * 512, length, pattern))
    chance.shuffle(requests)
    return requests


def unflushed(script, plan):
    """Requests that a flush did not cover, no sector twice."""
    plan.place(4096)
    for start, length, pattern in parallel(plan):
        if pattern:
            script.write(start, length, pattern)


def seeded(seed):
    def test(ctx):
        plan = Plan(seed)
        chance = plan.chance
        path = ctx.create('disk.vhdx', plan.size, **plan.options)
        noise = data_file(ctx.path('noise'), 70144, chance)
        model = Model(plan.size)
        script = Script(model, 0 if plan.fixed else plan.block)
        for _ in range(chance.randrange(3, 6)):
            cache = chance.choice((['-t', 'writeback'], ['-t', 'writeback'],
                                   []))
            operate(script, plan, noise, 40)
            if chance.random() < 0.3:
                crash(ctx, script, plan, path, cache)
                continue
            script.verify(ctx.io(path, script.take(), *cache))
            with checked(path) as image:
                model.check_image(image)
        finish(ctx, plan, path, model)
    return test


def crash(ctx, script, plan, path, cache):
    """The process dies some requests after a flush; a reopen goes on."""
    model = script.model
    script.flush()
    flushed = model.copy()
    unflushed(script, plan)
    script.commands.append('sigraise 9')
    script.verify(ctx.io(path, script.take(), *cache, status=-9))
    with checked(path, unclean=True) as image:
        flushed.settle(image, model)
    model.chunks, model.loose = flushed.chunks, flushed.loose
    for number in sorted(model.chunks)[:40]:
        script.read(number * 65536, 65536)
    ctx.io(path, script.take(), '-r')


def finish(ctx, plan, path, model):
    """The last reads: by our driver, and by the unpatched one."""
    model.check_raw(ctx.raw(path), 'qemu-img')
    if plan.sector != 512 or foreign('qemu-img') == ours('qemu-img'):
        return
    # it opens no image with a live log read-only
    ctx.io(path, ['write -q -P 1 0 512'])
    model.write(0, 512, 1)
    with checked(path) as image:
        model.check_image(image)
    if plan.size < GIB:
        os.unlink(ctx.path('content.raw'))
        model.check_raw(ctx.raw(path, tool=foreign('qemu-img')),
                        'the distribution\'s qemu-img')
    else:
        script = Script(model, 0)
        script.read_written()
        ctx.io(path, script.take(), '-r', tool=foreign('qemu-io'))


def reopened(ctx):
    """qemu-io's reopen between reading and writing, in one process."""
    size = 12 * MIB + 512
    path = ctx.create('disk.vhdx', size, block_size='1M')
    model = Model(size)
    script = Script(model, MIB)
    for turn in range(6):
        script.write(turn * 2 * MIB + 512, 70000 // 512 * 512, turn + 1)
        script.commands.append('reopen -r')
        script.read(0, size)
        script.commands.append('reopen -w')
        script.discard((turn // 2) * MIB * 3, MIB)
        script.commands.append('reopen -w -c writeback')
        script.read(0, size)
    ctx.io(path, script.take())
    with checked(path) as image:
        model.check_image(image)


def copied(ctx):
    """A live file, copied after a flush, is a consistent image."""
    path = ctx.create('disk.vhdx', 20 * MIB, block_size='1M')
    model = Model(20 * MIB)
    script = Script(model, MIB)
    for turn in range(5):
        script.write(turn * 3 * MIB, 80 * 1024, turn + 1)
        script.zero(turn * MIB, MIB, unmap=True)
        script.kill()
        ctx.io(path, script.take(), '-t', 'writeback', status=-9)
        copy = ctx.path('copy%d.vhdx' % turn)
        shutil.copy(path, copy)
        with checked(copy, unclean=True) as image:
            model.check_image(image)
            expect(image.header.log_guid != NIL_GUID, 'log is not live')
        ctx.io(copy, ['write -q -P 1 0 512'])
        with checked(copy) as image:
            changed = model.copy()
            changed.write(0, 512, 1)
            changed.check_image(image)


def tests():
    seeds = list(SEEDS) + [1000 + n for n in
                           range(int(os.environ.get('SEEDS', '0')))]
    return [('seed-%d' % seed, seeded(seed)) for seed in seeds] + [
        ('reopen', reopened), ('dies-again-and-again', copied)]
