"""Space in the file: given back at close, used again before it grows."""
import contextlib
import os
import subprocess

from harness import Failure, Skip, checked, expect, ours, run
from model import Model
from script import Script
from strict.report import MIB

SIZE = 20 * MIB
HEAD = 4 * MIB          # header section, log, BAT and metadata


def session(ctx, path, script, *options):
    """Run the commands, check file and content; the length of the file."""
    ctx.io(path, script.take(), '-t', 'writeback', *options)
    with checked(path) as image:
        script.model.check_image(image)
    return os.path.getsize(path)


def start(ctx):
    path = ctx.create('disk.vhdx', SIZE, block_size='1M')
    return path, Script(Model(SIZE), MIB)


def all_freed(ctx):
    path, script = start(ctx)
    script.write(0, SIZE, 1)
    expect(session(ctx, path, script) == HEAD + SIZE, 'blocks are not dense')
    script.discard(0, SIZE)
    expect(session(ctx, path, script) == HEAD, 'space was not given back')


def gap_at_the_end(ctx):
    """A gap left by one session is the end of the file after another."""
    path, script = start(ctx)
    script.write(0, 3 * MIB, 1)
    session(ctx, path, script)
    script.discard(MIB, MIB)
    expect(session(ctx, path, script) == HEAD + 3 * MIB, 'the gap is inside')
    script.discard(2 * MIB, MIB)
    expect(session(ctx, path, script) == HEAD + MIB, 'the gap is still there')


def used_again(ctx):
    """Freed blocks are used again before the file grows."""
    path, script = start(ctx)
    script.write(0, 10 * MIB, 1)
    session(ctx, path, script)
    for turn in range(10):
        script.discard(turn * MIB, MIB)
        script.flush()
        # a part of the block only: old content must not show
        script.write((turn + 10) * MIB + 4096, 4096, 2)
        script.flush()
    length = session(ctx, path, script)
    expect(length <= HEAD + 11 * MIB, 'the file has %d MiB', length // MIB)


def used_again_later(ctx, size=SIZE):
    """Gaps that earlier sessions left are used before the file grows."""
    path = ctx.create('disk.vhdx', size, block_size='1M')
    script = Script(Model(size), MIB)
    script.write(0, 10 * MIB, 1)
    full = session(ctx, path, script)
    for turn in range(25):
        script.discard(turn % 20 * MIB, MIB)
        session(ctx, path, script)
        script.write((turn + 10) % 20 * MIB + 4096, 4096, 2)
        length = session(ctx, path, script)
        expect(length <= full, 'the file has %d MiB after %d turns',
               length // MIB, turn + 1)


def used_again_in_large(ctx):
    """The same where the BAT is large."""
    used_again_later(ctx, 256 * 1024 * MIB)


def after_a_crash(ctx):
    """Space that a process left behind is given back by the next one."""
    path, script = start(ctx)
    script.write(0, 2 * MIB, 1)
    script.flush()
    flushed = script.model.copy()
    script.write(5 * MIB, 8 * MIB, 2)
    script.commands.append('sigraise 9')
    ctx.io(path, script.take(), '-t', 'writeback', status=-9)
    with checked(path, unclean=True) as image:
        flushed.settle(image, script.model)
        present = image.block_states().get('FULLY_PRESENT', 0)
    script.model.chunks = flushed.chunks
    script.write(0, 512, 3)
    length = session(ctx, path, script)
    expect(length <= HEAD + present * MIB, '%d blocks are present, the file '
           'has %d MiB', present, length // MIB)


def cut_last_block(ctx):
    """A last block that ends in the file where the disk does, as some writers
    leave it: no other block may come into the place behind that."""
    path = ctx.create('disk.vhdx', 67 * MIB, block_size='32M')
    script = Script(Model(67 * MIB), 32 * MIB)
    script.write(64 * MIB, 3 * MIB, 1)
    session(ctx, path, script)
    os.truncate(path, HEAD + 3 * MIB)
    script.write(0, 32 * MIB, 2)
    session(ctx, path, script)
    script.discard(64 * MIB, 3 * MIB)
    script.flush()
    session(ctx, path, script)


@contextlib.contextmanager
def small_host(ctx, size):
    """A folder on a file system of this size."""
    folder = ctx.path('host')
    os.mkdir(folder)
    try:
        run('mount', '-t', 'tmpfs', '-o', 'size=%d' % size, 'tmpfs', folder)
    except (Failure, OSError) as error:
        raise Skip('no tmpfs can be mounted here: %s' % error) from None
    try:
        yield folder
    finally:
        subprocess.run(['umount', folder], check=True)


def fill(folder):
    """Take all that is left of a file system."""
    try:
        with open(os.path.join(folder, 'other'), 'wb', buffering=0) as file:
            while file.write(bytes(MIB)) > 0:
                pass
    except OSError:
        pass


def full_host(ctx):
    """Space that a failed write has taken of the host is given back, and a
    discard makes room."""
    with small_host(ctx, 24 * MIB) as folder:
        path = os.path.join(folder, 'disk.vhdx')
        run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-o',
            'block_size=1M', path, '60M')
        text = run(ours('qemu-io'), '-f', 'vhdx', '-d', 'unmap', '-t',
                   'writeback', '-c', 'write 0 10M', '-c', 'flush',
                   '-c', 'write 10M 30M', '-c', 'flush',
                   '-c', 'discard 0 5M', '-c', 'flush',
                   '-c', 'write -P 7 45M 15M', '-c', 'flush', path, status=1)
        expect(text.count('failed') == 1 and
               'write failed: No space left on device' in text, text)
        ctx.io(path, ['read -P 0 0 5M', 'read -P 7 45M 15M'])
        with checked(path):
            pass


def preallocated(ctx):
    """With its space allocated, an image can be written on a full host."""
    for mode in 'falloc', 'full':
        with small_host(ctx, 24 * MIB) as folder:
            path = os.path.join(folder, 'disk.vhdx')
            run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-o',
                'subformat=fixed,preallocation=' + mode, path, '16M')
            fill(folder)
            ctx.io(path, ['write -P 1 0 16M', 'flush', 'read -P 1 0 16M'])
            with checked(path):
                pass
        os.rmdir(ctx.path('host'))


def tests():
    return [('all-freed', all_freed), ('gap-at-the-end', gap_at_the_end),
            ('used-again', used_again),
            ('used-again-later', used_again_later),
            ('used-again-in-large', used_again_in_large),
            ('after-a-crash', after_a_crash),
            ('cut-last-block', cut_last_block), ('full-host', full_host),
            ('preallocated', preallocated)]
