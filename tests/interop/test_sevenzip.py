"""7-Zip lists and extracts what the driver wrote, without a warning.

7-Zip (26.02) refuses a disk whose number of logical sectors is odd, however
correct the file; it does not replay a log, and it warns of unused space at
the end of the file.  The odd test is skipped where it still refuses.
"""
from harness import Failure, Skip, expect, foreign, ours, run
from images import filled, round_up
from model import Model
from strict.report import MIB
from test_samples import known_sum, sha256, windows_chain
from vhdx_strict import Image

CASES = [
    ('dynamic', 40 * MIB, {}),
    ('dynamic-blocks-1M', 9 * MIB, {'block_size': '1M'}),
    ('dynamic-absent', 9 * MIB, {'block_size': '2M',
                                 'block_state_zero': 'off'}),
    ('dynamic-partial', 10 * MIB + 3072, {'block_size': '2M'}),
    ('dynamic-4k', 10 * MIB + 8192, {'block_size': '1M',
                                     'logical_sector_size': '4096'}),
    ('dynamic-log-64M', 9 * MIB, {'block_size': '1M', 'log_size': '64M'}),
    ('fixed', 40 * MIB, {'subformat': 'fixed', 'block_size': '8M'}),
    ('fixed-partial', 5 * MIB + 1024, {'subformat': 'fixed',
                                       'block_size': '2M'}),
    ('fixed-4k', 5 * MIB + 8192, {'subformat': 'fixed', 'block_size': '1M',
                                  'logical_sector_size': '4096'}),
]

SIZES = (MIB, 1 << 30, 2040 << 30, 64 << 40)


def listing(path):
    """What 7zz says of a file, or the failure that it found."""
    text = run(foreign('7zz'), 'l', '-slt', path)
    for word in ('warning', 'error'):
        expect(word not in text.lower(), '7zz has a %s:\n%s', word, text)
    lines = [line.partition(' = ') for line in text.splitlines()]
    comment = [line.partition(': ') for line in text.splitlines()]
    return {key: value for key, _, value in lines + comment if value}


def check_listing(path, size, options):
    """Its view of the parameters is ours; nothing is unused."""
    told = listing(path)
    want = {'Method': options.get('subformat', 'dynamic'), 'Type': 'VHDX',
            'VirtualDiskSize': str(round_up(size, options)),
            'LogicalSectorSize': options.get('logical_sector_size', '512'),
            'PhysicalSectorSize': options.get('physical_sector_size', '4096'),
            'HasParent': '-', 'FreeSpace': '0 (0 MiB)'}
    for key, value in want.items():
        expect(told.get(key) == value, '%s is %s, not %s', key,
               told.get(key), value)
    expect(told['Creator Application'].startswith('QEMU v'), str(told))


def extract(ctx, path, model):
    target = ctx.path('extracted')
    text = run(foreign('7zz'), 'x', '-y', '-o' + target, path)
    expect('Everything is Ok' in text and 'arning' not in text, text)
    names = run('ls', target).split()
    expect(len(names) == 1, 'extracted: %s', names)
    model.check_raw(target + '/' + names[0], '7zz')


def content(size, options):
    def test(ctx):
        path, model = filled(ctx, 'disk.vhdx', size, **options)
        check_listing(path, size, options)
        extract(ctx, path, model)
    return test


def empty(subformat, size):
    def test(ctx):
        path = ctx.create('disk.vhdx', size, subformat=subformat,
                          block_size='32M')
        check_listing(path, size, {'subformat': subformat})
        if size <= MIB:
            extract(ctx, path, Model(size))
    return test


def odd(ctx):
    path, model = filled(ctx, 'disk.vhdx', 3 * MIB + 512, block_size='1M')
    try:
        listing(path)
    except Failure as why:
        if 'Cannot open the file' in str(why):
            raise Skip('this 7zz refuses an odd number of sectors') from None
        raise
    extract(ctx, path, model)


def unclean(ctx):
    """An image of a process that was killed, and its content without what is
    in the log alone"""
    path, model = filled(ctx, 'disk.vhdx', 9 * MIB, block_size='1M')
    ctx.io(path, ['write -q -P 99 7M 1M', 'flush', 'sigraise 9'], status=-9)
    return path, model


def without_log(ctx, path, model):
    """7-Zip leaves a log out, which it says."""
    target = ctx.path('extracted')
    text = run(foreign('7zz'), 'x', '-y', '-o' + target, path, status=2)
    for words in ('non-empty LOG was not replayed', 'Warnings: 1',
                  'Open Errors: 1'):
        expect(words in text, text)
    names = run('ls', target).split()
    expect(names == ['disk.img'], 'extracted: %s', names)
    model.check_raw(target + '/disk.img', '7zz')


def log(ctx):
    path, model = unclean(ctx)
    without_log(ctx, path, model)
    ctx.io(path, ['read -q -P 99 7M 1M'])


def lost_log(ctx):
    """The log of an image that was not closed is damaged: ours say so, and
    that 7-Zip leaves it out, as docs/vhdx.md says."""
    path, model = unclean(ctx)
    with Image(path, unclean=True) as image:
        header = image.header
    with open(path, 'r+b') as file:
        file.seek(header.log_offset)
        file.write(bytes(header.log_length))
    for command in (['info'], ['check', '-r', 'all'],
                    ['convert', '--salvage', '-O', 'raw']):
        target = [ctx.path('none')] if command[0] == 'convert' else []
        text = run(ours('qemu-img'), *command, path, *target, status=1)
        expect('there is no valid sequence of entries with this LogGuid'
               in text, text)
    without_log(ctx, path, model)


def chain(ctx):
    """A child from Windows, as 7-Zip and our driver read it."""
    path, _ = windows_chain(ctx)
    told = listing(path)
    expect((told.get('Method'), told.get('Parent')) ==
           ('Differencing -> fixed', 'fat-parent.vhdx'), str(told))
    target = ctx.path('extracted')
    run(foreign('7zz'), 'x', '-y', '-tvhdx', '-o' + target, path)
    names = run('ls', target).split()
    expect(len(names) == 1, 'extracted: %s', names)
    sums = sha256(target + '/' + names[0]), sha256(ctx.raw(path))
    expect(sums == 2 * (known_sum('fat-differential.vhdx.xz'),),
           'checksums: %s', sums)


def tests():
    found = [(name, content(size, options)) for name, size, options in CASES]
    for subformat in ('dynamic', 'fixed'):
        for size in SIZES:
            if (subformat, size) != ('fixed', SIZES[-1]):
                found.append(('list-%s-%dM' % (subformat, size // MIB),
                              empty(subformat, size)))
    return found + [('odd', odd), ('log', log),
                    ('lost-log', lost_log), ('windows-chain', chain)]
