"""The distribution's unpatched qemu-img and qemu-io, in both directions.

It reads what the driver writes, and the driver reads and goes on writing what
it wrote: closed in good order, or left with a live log by a process that died.
Its limits: 512-byte logical sectors, no read-only open of an image with a live
log, no discard, fewer than 127 descriptors in a log entry.
"""
import json

from harness import Skip, checked, expect, foreign, ours, run
from images import fill, filled, parse_size
from model import Model
from script import Script, fingerprint
from strict.header import BAT_REGION
from strict.report import MIB, NIL_GUID
from vhdx_strict import Image

CASES = [
    ('dynamic', 40 * MIB, {}),
    ('dynamic-blocks-1M', 9 * MIB + 512, {'block_size': '1M'}),
    ('dynamic-absent', 9 * MIB, {'block_size': '2M',
                                 'block_state_zero': 'off'}),
    ('dynamic-log-64M', 9 * MIB, {'block_size': '1M', 'log_size': '64M'}),
    ('dynamic-8G', (8 << 30) + 512, {'block_size': '1M'}),
    ('fixed', 40 * MIB, {'subformat': 'fixed', 'block_size': '8M'}),
    ('fixed-partial', 5 * MIB + 512, {'subformat': 'fixed',
                                      'block_size': '2M'}),
]


def their(tool):
    """The unpatched tool, which must not be the one under test."""
    path = foreign(tool)
    if path == ours(tool):
        raise Skip('the tools under test are the distribution\'s')
    if 'vhdx' not in run(foreign('qemu-img'), '--help'):
        raise Skip('the distribution\'s QEMU has no VHDX driver')
    return path


def read_commands(model):
    script = Script(model, 0)
    script.read_written()
    return script.take()


def they_read(size, options):
    def test(ctx):
        their('qemu-io')
        path, model = filled(ctx, 'disk.vhdx', size, **options)
        before = fingerprint(path)
        ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
        run(their('qemu-img'), 'check', '-f', 'vhdx', path)
        if size < 100 * MIB:
            model.check_raw(ctx.raw(path, tool=their('qemu-img')),
                            'the distribution\'s qemu-img')
        expect(fingerprint(path) == before, 'a read-only open wrote')
    return test


def they_write(size, options):
    """Ours creates, they write, ours reads and writes again."""
    def test(ctx):
        their('qemu-io')
        path, model = filled(ctx, 'disk.vhdx', size, **options)
        script = Script(model, 0)
        block = parse_size(options.get('block_size', '8M'))
        script.write(block + 8192, 65536, 90)
        script.write(max(0, size - block - 5120), 5120, 91)
        ctx.io(path, script.take(), tool=their('qemu-io'))
        ctx.io(path, read_commands(model), '-r')
        script.write(4096, 4096, 92)
        script.write(block, 4096, 93)
        ctx.io(path, script.take())
        # their driver leaves header copies that differ: ours mended them
        with checked(path) as image:
            model.check_image(image)
    return test


def theirs(ctx, size, options):
    path = ctx.path('theirs.vhdx')
    args = ','.join('%s=%s' % o for o in options.items())
    run(their('qemu-img'), 'create', '-q', '-f', 'vhdx',
        *(['-o', args] if args else []), path, size)
    model = Model(size)
    script = Script(model, 0)
    return path, model, script


def fill_theirs(script, options):
    """As fill(), without the discards, which their driver ignores."""
    block = parse_size(options.get('block_size', '8M'))
    fill(script, block)
    commands = [c for c in script.take() if not c.startswith('discard')]
    script.model.loose.clear()
    return commands


def we_read(size, options):
    def test(ctx):
        path, model, script = theirs(ctx, size, options)
        ctx.io(path, fill_theirs(script, options), tool=their('qemu-io'))
        before = fingerprint(path)
        ctx.io(path, read_commands(model), '-r')
        if size < 100 * MIB:
            model.check_raw(ctx.raw(path), 'our qemu-img')
        expect(fingerprint(path) == before, 'a read-only open wrote')
        script.write(0, 2 * MIB, 95)
        ctx.io(path, script.take())
        ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
        run(ours('qemu-img'), 'check', '-q', '-f', 'vhdx', path)
    return test


def leave_log(path, commands):
    """Their driver empties its log at each flush, so one of its writes to
    the BAT is made to fail: the process then dies with a live log."""
    with Image(path, unclean=True) as image:
        sector = image.regions[BAT_REGION].offset // 512
    args = [a for c in commands + ['sigraise 9'] for a in ('-c', c)]
    text = run(their('qemu-io'), '--image-opts', '-t', 'writeback', *args,
               'driver=vhdx,file.driver=blkdebug,file.image.driver=file,'
               'file.image.filename=%s,file.inject-error.0.event=none,'
               'file.inject-error.0.iotype=write,'
               'file.inject-error.0.sector=%d' % (path, sector), status=-9)
    expect('write failed' in text, 'no write failed: %s', text)
    with Image(path, unclean=True) as image:
        expect(image.header.log_guid != NIL_GUID, 'their log is not live')


def we_replay(size, options):
    """Their process dies and leaves a live log."""
    def test(ctx):
        path, model, script = theirs(ctx, size, options)
        block = parse_size(options.get('block_size', '8M'))
        script.write(512, 70 * 1024, 50)
        script.write(size - 4096, 4096, 51)
        ctx.io(path, script.take(), tool=their('qemu-io'))
        script.write(block + 8192, 65536, 52)
        leave_log(path, script.take())
        before = fingerprint(path)
        ctx.io(path, read_commands(model), '-r')
        expect(fingerprint(path) == before, 'a read-only open wrote')
        script.write(8192, 4096, 96)
        ctx.io(path, script.take())
        ctx.io(path, read_commands(model), '-r')
        ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
    return test


def they_replay(size, options):
    """Our process dies after a flush; their driver replays our log."""
    def test(ctx):
        their('qemu-io')
        path, model = filled(ctx, 'disk.vhdx', size, **options)
        script = Script(model, 0)
        block = parse_size(options.get('block_size', '8M'))
        script.write(block * 2, 65536, 97)
        script.flush()
        script.write(max(0, size - block * 3) // 512 * 512, 65536, 98)
        script.kill()
        ctx.io(path, script.take(), '-t', 'writeback', status=-9)
        run(their('qemu-img'), 'check', '-q', '-r', 'all', '-f', 'vhdx', path)
        ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
        ctx.io(path, read_commands(model), '-r')
    return test


def bitmap_flags(path):
    """What qemu-img tells of the dirty bitmap, or None"""
    info = json.loads(run(ours('qemu-img'), 'info', '-f', 'vhdx',
                          '--output=json', path))
    bitmaps = info['format-specific']['data'].get('bitmaps', [])
    return bitmaps[0]['flags'] if bitmaps else None


def with_bitmaps(ctx):
    """They know nothing of our dirty bitmaps: one that is there while they
    write counts no more, and while they read it stays as it is."""
    path, model = filled(ctx, 'disk.vhdx', 40 * MIB, block_size='1M')
    add = [ours('qemu-img'), 'bitmap', '--add', '-f', 'vhdx', path, 'b']
    run(*add)
    script = Script(model, MIB)
    script.write(7 * MIB, 65536, 81)
    ctx.io(path, script.take())
    expect(bitmap_flags(path) == ['auto'], 'flags are %s', bitmap_flags(path))
    ctx.io(path, read_commands(model), '-r', tool=their('qemu-io'))
    expect(bitmap_flags(path) == ['auto'], 'read, flags are %s',
           bitmap_flags(path))
    script.write(11 * MIB, 65536, 82)
    ctx.io(path, script.take(), tool=their('qemu-io'))
    expect('in-use' in bitmap_flags(path), 'written to, flags are %s',
           bitmap_flags(path))
    run(ours('qemu-img'), 'check', '-f', 'vhdx', path)
    script.write(12 * MIB, 65536, 83)
    ctx.io(path, script.take())
    expect('in-use' in bitmap_flags(path), 'flags are %s', bitmap_flags(path))
    run(ours('qemu-img'), 'bitmap', '--remove', '-f', 'vhdx', path, 'b')
    run(*add)
    script.write(13 * MIB, 65536, 84)
    ctx.io(path, script.take())
    expect(bitmap_flags(path) == ['auto'], 'anew, flags are %s',
           bitmap_flags(path))
    model.check_raw(ctx.raw(path), 'our qemu-img')
    model.check_raw(ctx.raw(path, tool=their('qemu-img')),
                    'the distribution\'s qemu-img')
    with Image(path) as image:
        # a warning: what lies behind the items is not zero
        expect(not [one for one in image.report.bad() if one[0] == 'error'],
               'strict reader:\n%s', '\n'.join(image.report.lines()))
        model.check_image(image)


def tests():
    found = [('bitmaps', with_bitmaps)]
    for what in (they_read, they_write, we_read, we_replay, they_replay):
        for name, size, options in CASES:
            found.append(('%s-%s' % (what.__name__.replace('_', '-'), name),
                          what(size, options)))
    return found
