"""Who reads what whom has written: the table of docs/proof.md.

A row is a writer, or how one lays its files out, and a column a reader that
shares no code with the others.  Each cell says what the reader makes of the
image, and is tried: "right" is the content by its checksum, "wrong" another
one, "refused" an error; "-" is not asked, as the reader does not know such
images.  A cell that is not as it is in the table fails, also one that has
become better.
"""
import hashlib
import os
import re
import subprocess

from harness import ROOT, Failure, Skip, expect, foreign, ours, run
from images import filled
from layouts import LAYOUTS
from model import Model
from qmp import Daemon
from script import Script
from strict.header import METADATA_REGION
from strict.report import MIB
from test_chains import made, seven_zip
from test_distribution import their
from test_libvhdi import read_all
from test_samples import known_sum, sha256, windows_chain
from vhdx_strict import Image

SIZE = 34 * MIB
# So much of the disk is one page of the bits of a bitmap with the finest
# granularity, and so many bitmaps with all of their pages fill the region.
BITMAPS_PAGE = 16 * MIB
BITMAPS_SIZE = 512 * MIB
BITMAPS = 980
PAGE = os.path.join(ROOT, 'docs', 'proof.md')
DISSECT = '''
import hashlib
import sys
from pathlib import Path
from dissect.hypervisor.disk.vhdx import VHDX
disk, found, at = VHDX(Path(sys.argv[1])), hashlib.sha256(), 0
# It cuts no request at the end of a block.
while at < disk.size:
    disk.seek(at)
    data = disk.read(min(disk.block_size, disk.size - at))
    found.update(data)
    at += len(data)
print(found.hexdigest())
'''


class Refused(Exception):
    pass


def dissect_python():
    """The Python that scripts/install-python has made, or None."""
    path = os.path.join(os.environ.get('QEMU_BIN_DIR')
                        or os.path.join(ROOT, 'build', 'bin'),
                        '..', 'python', 'bin', 'python')
    return path if os.path.exists(path) else None


def by_ours(ctx, *chain):
    return sha256(ctx.raw(chain[0]))


def by_strict(_, *chain):
    with Image(chain[0], unclean=True) as image:
        expect(image.readable, '\n'.join(image.report.lines()))
        image.open_parent()
        return image.hash()


def by_seven_zip(ctx, *chain):
    return seven_zip(ctx, chain[0])


def by_libvhdi(_, *chain):
    with Image(chain[0], unclean=True) as image:
        size = image.params.disk_size
    _, (data,) = read_all(chain[0], [(0, size)], *chain[1:])
    return hashlib.sha256(data).hexdigest()


def by_dissect(_, *chain):
    done = subprocess.run([dissect_python(), '-c', DISSECT, chain[0]],
                          capture_output=True, timeout=120, check=False)
    if done.returncode:
        raise Refused(done.stderr.decode())
    return done.stdout.decode().strip()


def by_qemu(ctx, *chain):
    target = ctx.path('theirs.raw')
    run(their('qemu-img'), 'convert', '-f', 'vhdx', '-O', 'raw', chain[0],
        target)
    return sha256(target)


READERS = {'this driver': by_ours, 'strict reader': by_strict,
           '7-Zip': by_seven_zip, 'libvhdi': by_libvhdi, 'dissect': by_dissect,
           "QEMU's own": by_qemu}


def written(**options):
    def make(ctx):
        path, model = filled(ctx, 'disk.vhdx', SIZE, block_size='2M',
                             **options)
        model.check_raw(ctx.raw(path), 'our qemu-img')
        return sha256(ctx.path('content.raw')), (path,)
    return make


def not_replayed(**options):
    """The process was killed: a block is in the log, and not in the BAT yet"""
    def make(ctx):
        path, model = filled(ctx, 'disk.vhdx', SIZE, block_size='2M',
                             **options)
        script = Script(model, 2 * MIB)
        script.write(13 * MIB, MIB, 77)
        script.kill()
        ctx.io(path, script.take(), status=-9)
        model.check_raw(ctx.raw(path), 'our qemu-img')
        return sha256(ctx.path('content.raw')), (path,)
    return make


def with_bitmaps(ctx):
    """Stored in pages of the metadata region that no item names"""
    path, model = filled(ctx, 'disk.vhdx', SIZE, block_size='2M')
    for name in 'one', 'two':
        run(ours('qemu-img'), 'bitmap', '--add', '-f', 'vhdx', path, name)
        script = Script(model, 2 * MIB)
        script.write(9 * MIB, 70000 // 512 * 512, len(name) + ord(name[0]))
        ctx.io(path, script.take())
    model.check_raw(ctx.raw(path), 'our qemu-img')
    return sha256(ctx.path('content.raw')), (path,)


def with_all_bitmaps(ctx):
    """... so many that the region is as long as the format allows"""
    path, model = filled(ctx, 'disk.vhdx', BITMAPS_SIZE, block_size='2M')
    with Daemon('--blockdev', 'vhdx,node-name=disk,file.driver=file,'
                'file.filename=' + path) as daemon:
        daemon.command('transaction', actions=[
            {'type': 'block-dirty-bitmap-add',
             'data': {'node': 'disk', 'name': 'b%d' % number,
                      'granularity': 512, 'persistent': True}}
            for number in range(BITMAPS)])
    script = Script(model, 2 * MIB)
    for offset in range(MIB, BITMAPS_SIZE, BITMAPS_PAGE):
        script.write(offset, 4096, 1 + offset // BITMAPS_PAGE)
    ctx.io(path, script.take())
    with Image(path) as image:
        region = image.regions[METADATA_REGION]
        expect(region.length == 128 * MIB, 'the region has %d bytes',
               region.length)
        holes = sum(not any(image.view.read(region.offset + at, 4096))
                    for at in range(MIB, region.length, 4096))
        expect(holes < 4096, '%d pages of the region are empty', holes)
    model.check_raw(ctx.raw(path), 'our qemu-img')
    return sha256(ctx.path('content.raw')), (path,)


def child(sector, *sizes, **options):
    def make(ctx):
        twin, chain = made(ctx, sector, *sizes, **options)
        return twin.sum(), chain
    return make


def laid_out(name):
    def make(ctx):
        layout, model = LAYOUTS[name], Model(SIZE)
        for at, length, pattern in ((0, 8192, 1), (4 * MIB, MIB, 2),
                                    (SIZE - 3584, 3584, 3)):
            model.write(at, length, pattern)
        path = ctx.path('foreign.vhdx')
        layout.make(path, model, sorted({at // layout.block for at in
                                         (0, 4 * MIB, SIZE - 1)}))
        model.check_raw(ctx.raw(path), 'our qemu-img')
        return sha256(ctx.path('content.raw')), (path,)
    return make


def qemu(subformat):
    def make(ctx):
        path, model = ctx.path('theirs.vhdx'), Model(SIZE)
        run(their('qemu-img'), 'create', '-q', '-f', 'vhdx', '-o',
            'block_size=2M,subformat=' + subformat, path, SIZE)
        script = Script(model, 0)
        for at, length, pattern in ((0, 8192, 1), (4 * MIB, MIB, 2),
                                    (SIZE - 3584, 3584, 3)):
            script.write(at, length, pattern)
        ctx.io(path, script.take(), tool=their('qemu-io'))
        model.check_raw(ctx.raw(path), 'our qemu-img')
        return sha256(ctx.path('content.raw')), (path,)
    return make


def windows(name):
    def make(ctx):
        path, parent = windows_chain(ctx)
        chain = (path, parent) if 'differential' in name else (parent,)
        return known_sum(name), chain
    return make


WRITERS = {
    'this driver, dynamic': written(),
    'this driver, fixed': written(subformat='fixed'),
    'this driver, sectors of 4096': written(logical_sector_size='4096'),
    'this driver, log not replayed': not_replayed(),
    'this driver, dirty bitmaps': with_bitmaps,
    'this driver, all dirty bitmaps': with_all_bitmaps,
    'this driver, child': child(512, SIZE, SIZE, blocks=2),
    'this driver, child of a child': child(512, SIZE, SIZE, SIZE, blocks=2),
    'this driver, child with zeroes': child(512, SIZE, SIZE, blocks=2,
                                            zeroes=True),
    'this driver, child with longer disk': child(512, SIZE, SIZE + 8 * MIB,
                                                 blocks=2),
    'this driver, child with other blocks': child(512, SIZE, SIZE),
    "QEMU's own, dynamic": qemu('dynamic'),
    "QEMU's own, no block ZERO": qemu('dynamic,block_state_zero=off'),
    "QEMU's own, fixed": qemu('fixed'),
    "FreeBSD's mkimg, dynamic (laid out)": laid_out('mkimg-short'),
    "FreeBSD's mkimg, fixed (laid out)": laid_out('mkimg-fixed'),
    "FreeBSD's mkimg, whole blocks (laid out)": laid_out('mkimg'),
    'DiscUtils, dynamic (laid out)': laid_out('discutils'),
    'DiscUtils, fixed (laid out)': laid_out('discutils-fixed'),
    'OpenVMM, dynamic (laid out)': laid_out('openvmm'),
    'OpenVMM, dynamic, log last (laid out)': laid_out('log-last'),
    'OpenVMM, fixed, log last (laid out)': laid_out('log-last-fixed'),
    'Windows, dynamic': windows('fat-parent.vhdx.xz'),
    'Windows, child': windows('fat-differential.vhdx.xz'),
}


def table():
    """The cells of docs/proof.md by writer and reader."""
    found, readers = {}, None
    with open(PAGE, encoding='utf-8') as file:
        for line in file:
            cells = [cell.strip() for cell in line.strip().strip('|')
                     .split('|')]
            if line.startswith('| made by'):
                readers = cells[1:]
            elif readers and not line.startswith('|'):
                break
            elif readers and not re.match(r'\|[-| ]+\|$', line):
                found[cells[0]] = dict(zip(readers, cells[1:]))
    expect(found, 'there is no table in %s', PAGE)
    return found


def cell(ctx, reader, want, chain):
    try:
        found = READERS[reader](ctx, *chain)
    except (Failure, Refused):
        return 'refused'
    return 'right' if found == want else 'wrong'


def row(writer):
    def test(ctx):
        wanted = table().get(writer, {})
        expect(list(wanted) == list(READERS), 'the row "%s" has %s', writer,
               wanted)
        for tool in '7zz', 'qemu-img':
            foreign(tool)
        want, chain = WRITERS[writer](ctx)
        asked = [reader for reader in READERS if wanted[reader] != '-' and
                 (reader != 'dissect' or dissect_python())]
        found = {reader: cell(ctx, reader, want, chain) for reader in asked}
        expect(all(found[reader] == wanted[reader] for reader in asked),
               'the readers: %s', found)
        if not dissect_python():
            raise Skip('dissect.hypervisor is not installed; the other '
                       'readers do as they should')
    return test


def all_rows(_):
    expect(list(table()) == list(WRITERS), 'the rows are: %s', list(table()))
    expect(ours('qemu-img') != foreign('qemu-img'), 'the same qemu-img')


def tests():
    return [('table', all_rows)] + [
        (re.sub(r'\W+', '-', writer).strip('-'), row(writer))
        for writer in WRITERS]
