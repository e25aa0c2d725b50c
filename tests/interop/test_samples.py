"""Images that others made: QEMU's samples and the two from Windows.

Driver and strict reader agree on the content, which for the Windows images is
also known as a checksum; reading changes no byte of the file.  The second one
from Windows is a child of the first.
"""
import bz2
import hashlib
import lzma
import os

from harness import ROOT, Failure, Skip, expect, ours, run, same_as_raw
from script import fingerprint
from strict.report import Corrupt
from vhdx_strict import Image

QEMU_SAMPLES = ('iotest-dynamic-1G', 'iotest-dirtylog-10G-4M',
                'test-disk2vhd')
IMAGES = os.path.join(os.path.dirname(ROOT), 'shared', 'images')


def unpack(ctx, path, opener):
    name = ctx.path(os.path.basename(path).rpartition('.')[0])
    with opener(path) as packed, open(name, 'wb') as file:
        while True:
            data = packed.read(1 << 20)
            if not data:
                break
            if any(data):
                file.write(data)
            else:
                file.seek(len(data), os.SEEK_CUR)
        file.truncate()
    return name


def qemu_sample(ctx, name):
    source = os.environ.get('QEMU_SOURCE_DIR') or \
        os.path.join(ROOT, 'build', 'src')
    path = os.path.join(source, 'tests', 'qemu-iotests', 'sample_images',
                        name + '.vhdx.bz2')
    if not os.path.exists(path):
        raise Skip('no QEMU source with sample images')
    return unpack(ctx, path, bz2.open)


def sha256(path):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def same_content(ctx, path):
    """Driver and strict reader; nothing written by reading."""
    before = fingerprint(path), sha256(path)
    raw = ctx.raw(path)
    text = run(ours('qemu-img'), 'info', '-f', 'vhdx', path)
    expect('file format: vhdx' in text, text)
    expect((fingerprint(path), sha256(path)) == before,
           'a read-only open changed the file')
    # foreign images break some strict rules: they are read all the same
    with Image(path, unclean=True) as image:
        expect(image.readable, '\n'.join(image.report.lines()))
        image.open_parent()
        same_as_raw(image, raw)
    return raw


def sample(name):
    def test(ctx):
        path = qemu_sample(ctx, name)
        same_content(ctx, path)
        ctx.io(path, ['write -q -P 7 65536 8192', 'flush'])
        ctx.io(path, ['read -q -P 7 65536 8192'], '-r')
        same_content(ctx, path)
    return test


def windows(ctx, name):
    path = os.path.join(IMAGES, name)
    if not os.path.exists(path):
        raise Skip('no images from Windows here')
    return unpack(ctx, path, lzma.open)


def known_sum(name):
    with open(os.path.join(IMAGES, 'README.md'), encoding='utf-8') as file:
        for line in file:
            if name in line:
                return line.split('|')[3].strip()
    raise Skip('no checksum of %s is known' % name)


def windows_fixed(ctx):
    path = windows(ctx, 'fat-parent.vhdx.xz')
    raw = same_content(ctx, path)
    expect(sha256(raw) == known_sum('fat-parent.vhdx.xz'),
           'content has another checksum')
    ctx.io(path, ['write -q -P 7 65536 8192', 'flush'])
    ctx.io(path, ['read -q -P 7 65536 8192'], '-r')
    same_content(ctx, path)


def windows_chain(ctx):
    """The child in the folder of its parent; the path of the child."""
    parent = windows(ctx, 'fat-parent.vhdx.xz')
    return windows(ctx, 'fat-differential.vhdx.xz'), parent


def windows_child(ctx):
    """By both readers, which follow the chain; neither file changes."""
    path, parent = windows_chain(ctx)
    before = fingerprint(parent), sha256(parent)
    raw = same_content(ctx, path)
    with Image(path) as image:
        image.open_parent()
        sums = sha256(raw), image.hash()
    expect(sums == 2 * (known_sum('fat-differential.vhdx.xz'),),
           'content has other checksums: %s', sums)
    text = run(ours('qemu-img'), 'info', '-f', 'vhdx', path)
    for line in ('backing file: fat-parent.vhdx (actual path: %s)' % parent,
                 'subformat: differencing',
                 'linkage: f88d4d92-6fcc-408d-9bef-9b7c89f15c89',
                 'relative path: .\\fat-parent.vhdx'):
        expect(line in text, '%s is not in:\n%s', line, text)
    text = run(ours('qemu-img'), 'check', '-f', 'vhdx', path)
    expect('No errors were found' in text, text)
    expect((fingerprint(parent), sha256(parent)) == before,
           'the parent changed')


def windows_alone(ctx):
    """Without its parent, it can be looked at, and not be read."""
    path = windows(ctx, 'fat-differential.vhdx.xz')
    before = fingerprint(path), sha256(path)
    text = run(ours('qemu-img'), 'info', path)
    expect('relative path: .\\fat-parent.vhdx' in text, text)
    for tool in (['qemu-img', 'check'], ['qemu-io', '-r', '-c', 'read 0 512'],
                 ['qemu-io', '-c', 'write 0 512']):
        text = run(ours(tool[0]), *tool[1:], '-f', 'vhdx', path, status=1)
        expect('Could not find the parent of' in text and
               '.\\fat-parent.vhdx' in text, text)
    expect((fingerprint(path), sha256(path)) == before, 'the file changed')


def windows_other_parent(ctx):
    """A parent that has been written to is not the one it was."""
    path, parent = windows_chain(ctx)
    ctx.io(parent, ['write -q -P 7 65536 512'])
    text = run(ours('qemu-img'), 'convert', '-O', 'raw', path,
               ctx.path('raw'), status=1)
    expect('does not match its parent' in text and
           'f88d4d92-6fcc-408d-9bef-9b7c89f15c89' in text, text)
    with Image(path) as image:
        try:
            image.open_parent()
        except Corrupt:
            return
    raise Failure('the strict reader takes the parent')


def tests():
    found = [('qemu-' + name, sample(name)) for name in QEMU_SAMPLES]
    return found + [('windows-fixed', windows_fixed),
                    ('windows-differencing', windows_child),
                    ('windows-differencing-alone', windows_alone),
                    ('windows-differencing-other-parent',
                     windows_other_parent)]
