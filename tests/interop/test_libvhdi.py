"""libvhdi, by vhdiinfo and its Python reader, agrees with the driver.

What it calls identifier is the DataWriteGuid.  It does not replay a log, so
it gets closed images only.  The Python module is a C extension that comes as a
Debian package for /usr/bin/python3, so a reader process of that Python does
the reading.
"""
import hashlib
import json
import subprocess

from harness import Failure, Skip, checked, expect, foreign, run
from images import filled, round_up, spots
from model import Model
from strict.report import MIB
from test_samples import known_sum, sha256, windows_chain

READER = '''
import json
import sys
import pyvhdi
# A parent that nobody names any more would be closed.
images = []
for path in sys.argv[:0:-1]:
    image = pyvhdi.file()
    image.open(path)
    if images:
        image.set_parent(images[-1])
    images.append(image)
print(json.dumps([image.media_size, image.disk_type, image.bytes_per_sector,
                  image.identifier]))
sys.stdout.flush()
for line in sys.stdin:
    offset, length = map(int, line.split())
    sys.stdout.buffer.write(image.read_buffer_at_offset(length, offset))
image.close()
'''
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4

CASES = [
    ('dynamic', 40 * MIB, {}),
    ('dynamic-blocks-1M', 9 * MIB, {'block_size': '1M'}),
    ('dynamic-absent', 9 * MIB, {'block_size': '2M',
                                 'block_state_zero': 'off'}),
    ('dynamic-partial', 3 * MIB + 512, {'block_size': '2M'}),
    ('dynamic-10G', 10 << 30, {'block_size': '1M'}),
    ('dynamic-64T', 64 << 40, {'block_size': '256M'}),
    ('dynamic-4k', 10 * MIB + 8192, {'block_size': '1M',
                                     'logical_sector_size': '4096'}),
    ('fixed', 40 * MIB, {'subformat': 'fixed', 'block_size': '8M'}),
    ('fixed-partial', 5 * MIB + 512, {'subformat': 'fixed',
                                      'block_size': '2M'}),
    ('fixed-4G', 4 << 30, {'subformat': 'fixed', 'block_size': '1M'}),
]


def python():
    path = foreign('python3')
    try:
        run(path, '-c', 'import pyvhdi')
    except Exception:
        raise Skip('python3-libvhdi is not installed') from None
    return path


def read_all(path, ranges, *parents):
    """What the Python reader says of an image, and the bytes it reads; it is
    given the image's parent, the parent's, and so on."""
    asked = ''.join('%d %d\n' % r for r in ranges)
    done = subprocess.run([python(), '-c', READER, path, *parents],
                          input=asked.encode(), capture_output=True,
                          timeout=120, check=False)
    if done.returncode:
        raise Failure('pyvhdi: ' + done.stderr.decode())
    head, _, data = done.stdout.partition(b'\n')
    parts, at = [], 0
    for _, length in ranges:
        parts.append(data[at:at + length])
        at += length
    return json.loads(head), parts


def check_facts(path, size, options):
    """Size, type, sector and identifier, as both programs have them."""
    with checked(path) as image:
        want = [round_up(size, options),
                FIXED if options.get('subformat') == 'fixed' else DYNAMIC,
                int(options.get('logical_sector_size', 512)),
                image.header.data_write]
    got, _ = read_all(path, [])
    expect(got == want, 'pyvhdi has %s, not %s', got, want)
    text = run(foreign('vhdiinfo'), path)
    told = {key.strip(): value.strip() for key, _, value in
            (line.partition(':') for line in text.splitlines())}
    kind = 'Fixed' if want[1] == FIXED else 'Dynamic'
    for key, value in (('Format', 'VHDX (version 2)'), ('Disk type', kind),
                       ('Bytes per sector', '%d bytes' % want[2]),
                       ('Identifier', want[3])):
        expect(told.get(key) == value, 'vhdiinfo: %s is %s, not %s', key,
               told.get(key), value)
    size_text = told['Media size']
    expect(size_text.endswith('(%d bytes)' % want[0])
           or size_text == '%d bytes' % want[0],
           'vhdiinfo: media size is %s', size_text)


def content(size, options):
    def test(ctx):
        python()
        path, model = filled(ctx, 'disk.vhdx', size, **options)
        check_facts(path, size, options)
        ranges = list(spots(model))
        _, parts = read_all(path, ranges)
        for (offset, length), data in zip(ranges, parts):
            expect(len(data) == length, 'pyvhdi: %d bytes at %#x, not %d',
                   len(data), offset, length)
            model.check(offset, data, 'pyvhdi')
    return test


def fixed_chunks(ctx):
    """Fixed and larger than a chunk (4 GiB): what is told is checked; the
    content only where this libvhdi has left the limit behind."""
    python()
    options = {'subformat': 'fixed', 'block_size': '1M'}
    path, model = filled(ctx, 'disk.vhdx', 5 << 30, **options)
    check_facts(path, 5 << 30, options)
    with checked(path) as image:
        model.check_image(image)
    limit = 4 << 30
    ranges = list(spots(model))
    _, parts = read_all(path, ranges)
    for below in (True, False):
        for (offset, _), data in zip(ranges, parts):
            if (offset < limit) != below:
                continue
            try:
                model.check(offset, data, 'pyvhdi')
            except Failure:
                if below:
                    raise
                raise Skip('this libvhdi misreads fixed images behind 4 GiB'
                           ) from None


def empty(size):
    def test(ctx):
        python()
        path = ctx.create('disk.vhdx', size, block_size='1M')
        check_facts(path, size, {})
        model = Model(size)
        ranges = list(spots(model))
        for (offset, _), data in zip(ranges, read_all(path, ranges)[1]):
            model.check(offset, data, 'pyvhdi')
    return test


def unclean(ctx):
    """After a kill it reads what there was without the log, and tells nobody.
    """
    python()
    path, model = filled(ctx, 'disk.vhdx', 9 * MIB, block_size='1M')
    ctx.io(path, ['write -q -P 99 7M 1M', 'flush', 'sigraise 9'], status=-9)
    _, (data,) = read_all(path, [(0, 9 * MIB)])
    model.check(0, data, 'pyvhdi')
    ctx.io(path, ['read -q -P 99 7M 1M'])


def chain(ctx):
    """A child from Windows, which libvhdi is given the parent of."""
    python()
    path, parent = windows_chain(ctx)
    told, (data,) = read_all(path, [(0, 4 * MIB)], parent)
    expect(told[:3] == [4 * MIB, DIFFERENCING, 512], str(told))
    sums = hashlib.sha256(data).hexdigest(), sha256(ctx.raw(path))
    expect(sums == 2 * (known_sum('fat-differential.vhdx.xz'),),
           'checksums: %s', sums)
    text = run(foreign('vhdiinfo'), path)
    expect('fat-parent.vhdx' in text and
           'f88d4d92-6fcc-408d-9bef-9b7c89f15c89' in text, text)


def tests():
    found = [(name, content(size, options)) for name, size, options in CASES]
    found.append(('fixed-5G', fixed_chunks))
    found += [('log', unclean), ('windows-chain', chain)]
    return found + [('empty-%dM' % (size // MIB), empty(size))
                    for size in (MIB, 1 << 30, 2040 << 30)]
