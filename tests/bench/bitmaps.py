"""Persistent dirty bitmaps: their cost, beside qcow2.

A disk of 1 TiB, or 32 TiB, has a bitmap with granules of 64 KiB, in which each
page of 4 KiB has a bit that is set, so that all of it is in the file: 2 MiB,
and 64 MiB.  Opening loads it, closing after a write stores it; what the
program takes with an image of the same size without a bitmap is subtracted.
Writes go to an image that is full, with a bitmap that is enabled.  Targets,
for loading, are ratios to qcow2.
"""
import contextlib
import functools
import os

import scale
import tools
from rounds import Case
from tools import KIB, MIB, TIB

GRANULE = 64 * KIB
PAGE = 32768 * GRANULE      # what a page of bits stands for
SIZES = (('1 TiB', TIB), ('32 TiB', 32 * TIB))
FULL = 256 * MIB
REQUESTS = 20000


class Bitmaps:
    def __init__(self, bench, results):
        self.bench, self.results = bench, results
        self.formats = [f for f in bench.formats if f.name in ('ours',
                                                               'qcow2')]
        self.sizes = SIZES[:1] if bench.quick else SIZES
        self.paths = {}

    def path(self, fmt, name):
        return os.path.join(self.bench.memory, 'bits-%s.%s' % (name, fmt.name))

    def add_bitmap(self, fmt, path):
        self.bench.run([fmt.tool('qemu-img'), 'bitmap', '--add', '-g',
                        str(GRANULE), '-f', fmt.driver, path, 'b'])

    def make(self, fmt, path, size, bitmap):
        """An image of @size; with a bitmap, a bit is set in each page."""
        self.bench.run([fmt.tool('qemu-img'), 'create', '-q', '-f', fmt.driver,
                        path, str(size)])
        if not bitmap:
            return
        self.add_bitmap(fmt, path)
        io = scale.QemuIO(self.bench, fmt, self.options(fmt, path))
        try:
            for at in range(0, size, PAGE):
                io.command('discard -q %d 64k' % at)
            io.close()
        finally:
            io.kill()

    @staticmethod
    def options(fmt, path):
        return tools.image_opts(fmt, path, 'threads', discard='unmap')

    def session(self, fmt, path):
        """Seconds that opening takes, and closing after a write"""
        io = scale.QemuIO(self.bench, fmt, self.options(fmt, path))
        try:
            io.command('write -q 12345678848 4k')
            return io.open_time, io.close()
        finally:
            io.kill()

    def rate(self, name, which, fmt):
        """How often in a second it could be loaded, or stored"""
        both = [self.session(fmt, self.path(fmt, name + kind))[which]
                for kind in ('-with', '-without')]
        return 1 / max(both[0] - both[1], 1e-5)

    def write_rate(self, depth, fmt):
        path = self.path(fmt, 'full')
        output = self.bench.run(tools.img_bench(
            fmt, tools.image_opts(fmt, path, 'threads'), 'threads', FULL,
            count=REQUESTS, request=4 * KIB, depth=depth, write=True))
        return REQUESTS / tools.img_bench_seconds(output)

    def prepare(self):
        for name, size in self.sizes:
            for fmt in self.formats:
                for kind in '-with', '-without':
                    self.make(fmt, self.path(fmt, name + kind), size,
                              kind == '-with')
        source = os.path.join(self.bench.memory, 'bits-source')
        self.bench.random_file(source, FULL)
        for fmt in self.formats:
            self.bench.run([fmt.tool('qemu-img'), 'convert', '-f', 'raw', '-O',
                            fmt.driver, source, self.path(fmt, 'full')])
            self.add_bitmap(fmt, self.path(fmt, 'full'))
        os.unlink(source)

    def cases(self):
        def case(name, target, once):
            return Case('bitmaps', name, 'page cache, threads', '1/s', target,
                        'qcow2', self.formats, once)
        for name, _ in self.sizes:
            for which, (what, target) in enumerate((('load', '>=1.0'),
                                                    ('store', ''))):
                yield case('%s, disk of %s' % (what, name), target,
                           functools.partial(self.rate, name, which))
        for depth in 1, 32:
            yield case('write 4 KiB, depth %d, bitmap enabled' % depth, '',
                       functools.partial(self.write_rate, depth))

    def clean(self):
        for fmt in self.formats:
            for name in ['full'] + [name + kind for name, _ in self.sizes
                                    for kind in ('-with', '-without')]:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path(fmt, name))


def run(bench, results, rounds):
    bitmaps = Bitmaps(bench, results)
    rounds.say('bitmaps')
    try:
        bitmaps.prepare()
        rounds.run('bitmaps', list(bitmaps.cases()))
    finally:
        bitmaps.clean()
