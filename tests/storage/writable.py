"""What is tried on each storage that can be written to.

The content is compared with a model after each step, the image is checked, and
a copy of it is looked at by the strict reader.
"""
import os
import random
import subprocess
import time

from harness import check_copy, expect, ours, run, second_writes
from images import fill
from model import Model
from qmp import Daemon
from script import Script, data_file
from servers import info
from strict.report import MIB
from test_random import Plan, operate

SIZE = 40 * MIB
# An image of a disk of this size fits
ROOM = 64 * MIB
WRITEBACK = ('-t', 'writeback')


class Reads(Script):
    """A warning, or a library, may break a dump into pieces."""
    def dump(self, offset, length):
        self.read(offset, length, most=100)


def img(*command, **more):
    return run(ours('qemu-img'), *command, **more)


def create(url, size=SIZE, **options):
    """What qemu-img says when it makes an image"""
    options = {'block_size': '1M', **options}
    return img('create', '-q', '-f', 'vhdx', '-o',
               ','.join('%s=%s' % one for one in options.items()), url, size)


def io_fails(url, *commands):
    """What qemu-io says of commands of which one fails"""
    args = sum((['-c', command] for command in commands), [])
    text = run(ours('qemu-io'), '-f', 'vhdx', *WRITEBACK, *args, url,
               status=None)
    expect('failed' in text, text)
    return text


def sound(ctx, url, model):
    """Content and structure are right."""
    img('check', '-f', 'vhdx', url)
    copy = ctx.path('copy.vhdx')
    img('convert', '-f', 'raw', '-O', 'raw', url, copy)
    check_copy(copy, model)
    os.unlink(copy)
    raw = ctx.raw(url)
    model.check_raw(raw, 'convert')
    os.unlink(raw)


def images(storage_class, subformat):
    """An image that is made, written to, discarded from and resized."""
    def test(ctx):
        with storage_class(ctx) as storage:
            url = storage.new(ROOM)
            create(url, subformat=subformat)
            model = Model(SIZE)
            sound(ctx, url, model)
            script = Script(model, 0 if subformat == 'fixed' else MIB)
            fill(script, MIB)
            script.read(0, SIZE, most=1000)
            ctx.io(url, script.take(), *WRITEBACK)
            sound(ctx, url, model)
            resized(ctx, url, script)
            if subformat == 'dynamic':
                freed(ctx, storage, url, script)
            else:
                reserved(ctx, storage, url, script)
            amended(ctx, url, script.model)
    return test


def resized(ctx, url, script):
    """Longer, and shorter than it was"""
    model = script.model
    for size in SIZE + 8 * MIB, SIZE - 5 * MIB:
        img('resize', '-f', 'vhdx', '--shrink', url, size)
        model.resize(size)
        script.write(size - 8192, 8192, 77)
        ctx.io(url, script.take(), *WRITEBACK)
        sound(ctx, url, model)
    expect(info(url)['virtual-size'] == size, 'the disk has another size')


def reserved(ctx, storage, url, script):
    """A fixed image gets longer than it was before, with zeros that are
    written and with space that is reserved, or the error says that there is no
    such thing."""
    for mode, size in ('full', SIZE + 10 * MIB), ('falloc', SIZE + 14 * MIB):
        refused_mode = mode == 'falloc' and not storage.reserves
        text = img('resize', '-f', 'vhdx', '--preallocation=' + mode, url,
                   size, status=1 if refused_mode else 0)
        if refused_mode:
            expect("the protocol node has no preallocation mode 'falloc'"
                   in text, text)
        else:
            script.model.resize(size)
            script.write(size - 8192, 8192, 78)
            ctx.io(url, script.take(), *WRITEBACK)
        sound(ctx, url, script.model)


def amended(ctx, url, model):
    """Another log, and what the guest is told of its disk.  The latter leaves
    old bytes beside the new items, where the strict reader wants none."""
    img('amend', '-f', 'vhdx', '-o', 'log_size=2M', url)
    sound(ctx, url, model)
    before = info(url)['format-specific']['data']
    img('amend', '-f', 'vhdx', '-o', 'disk_id=new,physical_sector_size=512',
        url)
    after = info(url)['format-specific']['data']
    expect(after['log-size'] == 2 * MIB and
           after['disk-uuid'] != before['disk-uuid'] and
           after['physical-sector-size'] == 512, '%s', after)
    img('check', '-f', 'vhdx', url)
    model.check_raw(ctx.raw(url), 'convert')


def freed(ctx, storage, url, script):
    """What the guest has discarded is given back, where that can be told, and
    by compacting in any case, where the file can get shorter."""
    script.write(4 * MIB, 24 * MIB, 50)
    ctx.io(url, script.take(), *WRITEBACK)
    before = storage.used(url)
    script.discard(4 * MIB, 24 * MIB)
    ctx.io(url, script.take(), *WRITEBACK)
    img('amend', '-f', 'vhdx', '-o', 'compact=space', url)
    sound(ctx, url, script.model)
    after = storage.used(url)
    if storage.discards or storage.shrinks:
        expect(after <= before - 20 * MIB, 'it takes %d bytes, and took %d '
               'before 24 MiB were discarded', after, before)
    else:
        # The space is used again.
        script.write(4 * MIB, 24 * MIB, 51)
        ctx.io(url, script.take(), *WRITEBACK)
        expect(storage.used(url) <= after + MIB, 'it has grown from %d to %d',
               after, storage.used(url))
        sound(ctx, url, script.model)


def seeded(storage_class, seed):
    """Random operations, of a process that ends or is killed."""
    def test(ctx):
        plan = Plan(seed, small=True)
        noise = data_file(ctx.path('noise'), 70144, plan.chance)
        with storage_class(ctx) as storage:
            url = storage.new(4 * MIB + 2 * plan.size + plan.block)
            create(url, plan.size, **plan.options)
            script = Reads(Model(plan.size), 0 if plan.fixed else plan.block)
            for turn in range(4):
                operate(script, plan, noise, 40)
                dies = turn in (1, 2)
                if dies:
                    script.kill()
                ctx.io(url, script.take(), *WRITEBACK,
                       status=-9 if dies else 0)
                if dies:
                    expect(info(url).get('dirty-flag'),
                           'there is nothing to be replayed')
                    model_of_log(ctx, url, script.model)
                    img('check', '-f', 'vhdx', '-r', 'all', url)
                sound(ctx, url, script.model)
    return test


def model_of_log(ctx, url, model):
    """Before the log is replayed the content is there already."""
    script = Script(model, 0)
    script.read(0, model.size, most=200)
    ctx.io(url, script.take(), '-r')


def converted(storage_class):
    """From a raw file, to local files, and from one image to another."""
    def test(ctx):
        chance = random.Random(7)
        model = Model(SIZE)
        for place in range(0, SIZE, 3 * MIB + 512):
            model.write(place, 40960, chance.randrange(1, 256))
        source = ctx.path('source.raw')
        with open(source, 'wb') as file:
            file.write(model.read(0, SIZE))
        with storage_class(ctx) as storage:
            for options in ('subformat=dynamic', 'subformat=fixed',
                            'subformat=dynamic,block_size=8M'):
                url = storage.new(ROOM + 40 * MIB)
                img('convert', '-f', 'raw', '-O', 'vhdx', '-o', options,
                    source, url)
                sound(ctx, url, model)
                img('compare', '-f', 'raw', '-F', 'vhdx', source, url)
            for name in 'qcow2', 'vhdx':
                local = ctx.path('local.' + name)
                img('convert', '-f', 'vhdx', '-O', name, url, local)
                img('compare', '-f', name, '-F', 'vhdx', local, url)
            other = storage.new(ROOM)
            create(other)
            img('convert', '-n', '-f', 'vhdx', '-O', 'vhdx', url, other)
            sound(ctx, other, model)
    return test


def chained(storage_class):
    """An image there as the base of a chain: a qcow2 overlay, and its commit;
    for a child the parent locator has no name, which is told."""
    def test(ctx):
        with storage_class(ctx) as storage:
            base, top = storage.new(ROOM), storage.new(ROOM)
            create(base)
            script = Script(Model(SIZE), MIB)
            fill(script, MIB)
            ctx.io(base, script.take(), *WRITEBACK)
            text = img('create', '-q', '-f', 'vhdx', '-F', 'vhdx', '-b', base,
                       top, status=1)
            expect("The parent locator can't name" in text, text)
            img('create', '-q', '-f', 'qcow2', '-F', 'vhdx', '-b', base, top)
            script.write(11 * MIB, 2 * MIB, 70)
            run(ours('qemu-io'), '-f', 'qcow2', '-c', *script.take(), top)
            script.model.check_raw(ctx.raw(top, form='qcow2'), 'the overlay')
            if storage.reopens:
                img('commit', '-f', 'qcow2', top)
                sound(ctx, base, script.model)
            else:
                img('commit', '-f', 'qcow2', top, status=1)
                img('check', '-f', 'vhdx', base)
    return test


def two_writers(storage_class):
    """No lock keeps a second program from writing to the image, and the first
    one tells what has happened."""
    def test(ctx):
        with storage_class(ctx) as storage:
            url = storage.new(ROOM)
            create(url)
            second_writes(ctx, url)
            model = Model(SIZE)
            model.write(2 * MIB, 65536, 2)
            sound(ctx, url, model)
    return test


def by_qmp(storage_class, where):
    """blockdev-create, of the file and then of the image in it; 'where' gives
    the options that name the file."""
    def test(ctx):
        with storage_class(ctx) as storage:
            url = storage.new(ROOM)
            with Daemon() as daemon:
                driver, location = url.split(':')[0], where(storage, url)
                if storage.creates:
                    error = daemon.create(driver=driver, size=0,
                                          location=location)
                    expect(not error, '%s', error)
                daemon.command('blockdev-add', driver=driver, **{
                    'node-name': 'file', **location})
                error = daemon.create(driver='vhdx', file='file', size=SIZE)
                expect(not error, '%s', error)
            model = Model(SIZE)
            script = Script(model, 8 * MIB)
            fill(script, 8 * MIB)
            ctx.io(url, script.take(), *WRITEBACK)
            sound(ctx, url, model)
    return test


def refused(storage_class, options, *texts):
    """What the protocol can't do is told, and nothing is left; what had the
    name before is as it was."""
    def test(ctx):
        with storage_class(ctx) as storage:
            url = storage.new(3 * MIB)
            old = ctx.path('old.raw')
            new = ctx.path('new.raw')
            if storage.creates:
                create(url)
            else:
                run(ours('qemu-io'), '-f', 'raw', '-c',
                    'write -q -P 90 0 %d' % MIB, url)
            img('convert', '-f', 'raw', '-O', 'raw', url, old)
            text = img('create', '-q', '-f', 'vhdx', '-o', options, url, SIZE,
                       status=1)
            for one in texts:
                expect(one in text, '"%s" is not in: %s', one, text)
            img('convert', '-f', 'raw', '-O', 'raw', url, new)
            img('compare', '-f', 'raw', '-F', 'raw', old, new)
            if storage.creates:
                url = storage.new(3 * MIB)
                img('create', '-q', '-f', 'vhdx', '-o', options, url, SIZE,
                    status=1)
                img('info', '-f', 'raw', url, status=1)
    return test


def restarted(storage_class):
    """The server is killed under a writer, and started again: the writer goes
    on, and nothing that it has flushed is lost."""
    def test(ctx):
        with storage_class(ctx) as storage:
            url = storage.new(ROOM)
            create(url)
            script = Script(Model(SIZE), MIB)
            with open(ctx.path('writer'), 'wb') as log, subprocess.Popen(
                    [ours('qemu-io'), '-f', 'vhdx', *WRITEBACK, url],
                    stdin=subprocess.PIPE, stdout=log, stderr=log) as writer:
                try:
                    for turn in range(200):
                        script.write(turn * 17 % 39 * MIB + turn * 4096, 4096,
                                     turn + 1)
                        script.flush()
                        text = '\n'.join(script.take()) + '\n'
                        writer.stdin.write(text.encode())
                        writer.stdin.flush()
                        time.sleep(0.01)
                        if turn == 60:
                            storage.kill()
                            time.sleep(1)
                            storage.start_server()
                    writer.stdin.close()
                    expect(writer.wait(180) == 0, 'the writer has failed')
                finally:
                    writer.kill()
            with open(ctx.path('writer'), encoding='utf-8') as log:
                text = log.read()
            expect('failed' not in text and 'rror' not in text, '%s', text)
            sound(ctx, url, script.model)
    return test


def tests(storage_class, *seeds):
    return [('dynamic', images(storage_class, 'dynamic')),
            ('fixed', images(storage_class, 'fixed')),
            ('convert', converted(storage_class)),
            ('chain', chained(storage_class)),
            ('two-writers', two_writers(storage_class)),
            *(('seed-%d' % seed, seeded(storage_class, seed))
              for seed in seeds)]
