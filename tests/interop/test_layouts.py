"""Images as other writers lay them out are used as our own.

Those of FreeBSD's mkimg, DiscUtils and OpenVMM are made byte by byte from
where these put the parts of a file (layouts.py), those of QEMU's own driver
by the distribution's qemu-img.  Each is checked, read, written to, left with a
live log, resized and compacted; the strict reader and the model look at every
step, and QEMU's own driver reads the result.
"""
from harness import expect, ours, run
from layouts import LAYOUTS
from model import Model
from script import Script, fingerprint
from strict.report import MIB
from test_distribution import read_commands, their
from test_resize import cut
from vhdx_strict import Image

SIZE = 70 * MIB + 5 * 512


def check(path):
    text = run(ours('qemu-img'), 'check', '-f', 'vhdx', path)
    expect('No errors were found' in text, text)


# What other writers do and the strict reader will not have
ODD = ('Required is not set', 'behind the end of the file',
       'of a fixed file are not FULLY_PRESENT')
# ... until we have written to the file
AT_FIRST = ODD + ('the copies differ in',)


def content(path, model, odd=ODD):
    """The strict reader finds the model's content, and nothing but @odd."""
    with Image(path) as image:
        bad = [line for line in image.report.lines(image.report.bad())
               if not any(text in line for text in odd)]
        expect(not bad, 'strict reader:\n%s', '\n'.join(bad))
        model.check_image(image)


def look(path, model):
    check(path)
    content(path, model)


def write(ctx, path, script, pattern):
    """Present blocks and new ones, zeroes, a discard, the disk's end."""
    model = script.model
    for at in (0, 3 * MIB + 512, 9 * MIB - 4096, 33 * MIB, 50 * MIB,
               model.size - 8192):
        if at < model.size:
            script.write(at, 8192, pattern)
    script.zero(5 * MIB, 3 * MIB, unmap=True)
    script.zero(20 * MIB + 512, 4096)
    script.flush()
    script.discard(32 * MIB, 8 * MIB)
    script.write(34 * MIB, 512, pattern + 1)
    ctx.io(path, script.take(), '-t', 'writeback', '-d', 'unmap')
    look(path, model)


def die(ctx, path, script, pattern):
    """A process that leaves a log, which is read and then replayed."""
    for at in (11 * MIB, 41 * MIB, 60 * MIB):
        if at < script.model.size:
            script.write(at, 12288, pattern)
    script.kill()
    ctx.io(path, script.take(), '-t', 'writeback', status=-9)
    before = fingerprint(path)
    ctx.io(path, read_commands(script.model), '-r')
    expect(fingerprint(path) == before, 'a read-only open wrote')
    script.write(512, 512, pattern + 1)
    ctx.io(path, script.take())
    look(path, script.model)


def resize(path, model, size):
    run(ours('qemu-img'), 'resize', '-q', '-f', 'vhdx', '--shrink', path, size)
    cut(model, size)
    look(path, model)


def compact(path, model):
    for mode in 'space', 'zeroes':
        run(ours('qemu-img'), 'amend', '-f', 'vhdx', '-o', 'compact=' + mode,
            path)
        look(path, model)


def used(ctx, path, model, block, fixed):
    """Everything, one after the other."""
    before = fingerprint(path)
    check(path)
    ctx.io(path, read_commands(model), '-r')
    model.check_raw(ctx.raw(path), 'our qemu-img')
    expect(fingerprint(path) == before, 'what only looks at it wrote')
    # A fixed image's discards leave what they will
    script = Script(model, 0 if fixed else block)
    write(ctx, path, script, 40)
    die(ctx, path, script, 50)
    resize(path, model, SIZE + 17 * MIB)
    write(ctx, path, script, 60)
    resize(path, model, 40 * MIB + 512)
    if not fixed:
        compact(path, model)
    write(ctx, path, script, 70)
    die(ctx, path, script, 80)
    their('qemu-io')
    ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
    run(their('qemu-img'), 'check', '-f', 'vhdx', path)
    model.check_raw(ctx.raw(path, tool=their('qemu-img')),
                    "the distribution's qemu-img")


def laid_out(layout):
    def test(ctx):
        model = Model(SIZE)
        for at, length, pattern in ((0, 8192, 1), (4 * MIB, MIB, 2),
                                    (34 * MIB, 65536, 3),
                                    (SIZE - 3584, 3584, 4)):
            model.write(at, length, pattern)
        block = layout.block
        present = sorted({at // block for at in
                          (SIZE - 1, SIZE - 3584, 0, 4 * MIB, 34 * MIB)})
        path = ctx.path('foreign.vhdx')
        layout.make(path, model, present)
        content(path, model, AT_FIRST)
        used(ctx, path, model, block, layout.fixed)
    return test


def by_qemu(options):
    """QEMU's own driver makes it and writes to it."""
    def test(ctx):
        path = ctx.path('theirs.vhdx')
        run(their('qemu-img'), 'create', '-q', '-f', 'vhdx', '-o',
            'block_size=2M,' + options, path, SIZE)
        model = Model(SIZE)
        script = Script(model, 0)
        for at, length, pattern in ((0, 8192, 1), (4 * MIB, MIB, 2),
                                    (34 * MIB, 65536, 3),
                                    (SIZE - 3584, 3584, 4)):
            script.write(at, length, pattern)
        ctx.io(path, script.take(), tool=their('qemu-io'))
        used(ctx, path, model, 2 * MIB, 'fixed' in options)
    return test


def converted_by_qemu(ctx):
    """The same by their convert, which knows of holes."""
    model = Model(SIZE)
    model.write(4 * MIB, MIB, 2)
    raw = ctx.path('source.raw')
    with open(raw, 'wb') as file:
        file.truncate(SIZE)
        file.seek(4 * MIB)
        file.write(model.read(4 * MIB, MIB))
    path = ctx.path('theirs.vhdx')
    run(their('qemu-img'), 'convert', '-f', 'raw', '-O', 'vhdx', raw, path)
    used(ctx, path, model, 8 * MIB, False)


def tests():
    found = [(name, laid_out(layout)) for name, layout in LAYOUTS.items()]
    for subformat in 'dynamic', 'fixed':
        for state in 'on', 'off':
            found.append(('qemu-%s-%s' % (subformat, state), by_qemu(
                'subformat=%s,block_state_zero=%s' % (subformat, state))))
    return found + [('qemu-converted', converted_by_qemu)]
