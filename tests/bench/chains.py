"""Chains: differencing images beside qcow2 with backing files.

An image of a chain has 64 KiB of its own in each 4 MiB, which is a cluster of
qcow2: so images have the same in both formats, and a request goes through as
many of them.  The lowest is full.  Raw is one file, for scale.  Targets are
ratios to qcow2.
"""
import contextlib
import functools
import os

import scale
import throughput
import tools
from rounds import Case
from tools import KIB, MIB, TIB

LENGTHS = (1, 4, 16, 32)
WRITES = (          # depth, flush each, target
    (1, 1, '>=1.0'), (1, 32, '>=1.2'), (1, 0, '>=1.2'),
    (32, 32, '>=1.2'), (32, 0, '>=1.2'),
)
REQUEST = 4 * KIB
CLUSTER = 64 * KIB
SPACING = 4 * MIB
CONVERTED = 16      # the length of the chain that is converted
OPENED = 32         # ... and of that which is opened
OPEN_SECONDS = 0.1
OPEN_BYTES = 64 * MIB


def overlay(bench, fmt, path, parent, size=None):
    args = [fmt.tool('qemu-img'), 'create', '-q', '-f', fmt.driver]
    if parent:
        args += ['-b', parent, '-F', fmt.driver]
    bench.run(args + [path] + ([str(size)] if size else []))


class Chains:
    def __init__(self, bench, results, aio):
        self.bench, self.results, self.aio = bench, results, aio
        self.formats = [f for f in bench.formats if f.name != 'stock']
        self.raw = self.formats[0]
        self.seconds = 0.15 if bench.quick else 0.4
        self.size = (256 if bench.quick else 1024) * MIB
        self.counts = {}

    def path(self, fmt, number):
        return self.bench.path(fmt, 'chain-%d' % (0 if fmt is self.raw
                                                  else number))

    def prepare(self):
        """One chain for each format, whose shorter ones are parts of it"""
        source = os.path.join(self.bench.folder, 'chain-source')
        self.bench.random_file(source, self.size)
        for fmt in self.formats:
            self.bench.fill(fmt, source, self.path(fmt, 0))
            for number in range(1, max(LENGTHS)):
                path = self.path(fmt, number)
                if fmt is self.raw:
                    break
                overlay(self.bench, fmt, path, self.path(fmt, number - 1))
                args = tools.img_bench(
                    fmt, tools.image_opts(fmt, path, self.aio), self.aio,
                    self.size, count=self.size // SPACING, request=CLUSTER,
                    depth=8, write=True, step=SPACING)
                start = number * 5 * CLUSTER % SPACING
                self.bench.run(args[:2] + ['-o', str(start)] + args[2:])
        os.unlink(source)

    def rate(self, fmt, path, how, count):
        """Requests in a second; @how is for img_bench()"""
        output = self.bench.run(tools.img_bench(
            fmt, tools.image_opts(fmt, path, self.aio), self.aio, self.size,
            count=count, request=how.get('request', REQUEST),
            depth=how['depth'], write=how.get('write', False),
            flush=how.get('flush', 0), step=how.get('step')))
        return count / tools.img_bench_seconds(output)

    def count(self, key, most, once, least=16):
        """
        How many requests take the time that is wanted, by a trial; @least, so
        that it is not the first ones that count
        """
        if key not in self.counts:
            count = min(most, least)
            rate = once(count)
            while count < most and count / rate < self.seconds / 8:
                count = min(most, 8 * count)
                rate = once(count)
            self.counts[key] = max(least, min(most, int(rate * self.seconds)))
        return self.counts[key]

    def case(self, name, unit, target, once):
        return Case('chains', name, 'qemu-img, %s' % self.aio, unit, target,
                    'qcow2', self.formats, once)

    def read_rate(self, name, length, how, most, fmt):
        once = functools.partial(self.rate, fmt, self.path(fmt, length - 1),
                                 how)
        if 'request' in how:
            return once(most)
        return once(self.count((name, fmt.name), most, once,
                               2000 if how['depth'] == 1 else 8000))

    def reads(self):
        for length in LENGTHS:
            for depth in 4, 1, 32:
                name = 'read 4 KiB, depth %d, %d in the chain' % (
                    depth, length)
                how, most = {'depth': depth}, 1 << 20
                if depth == 4:
                    name = 'read 1 MiB, all of it, %d in the chain' % length
                    how.update(request=MIB, step=MIB)
                    most = self.size // MIB
                yield self.case(name, '1/s', '>=1.0', functools.partial(
                    self.read_rate, name, length, how, most))

    @contextlib.contextmanager
    def child(self, fmt):
        """Over the full image, which stays as it is; raw is the file itself"""
        if fmt is self.raw:
            yield self.path(fmt, 0)
            return
        path = self.bench.path(fmt, 'child')
        try:
            overlay(self.bench, fmt, path, self.path(fmt, 0))
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def child_rate(self, fmt, how, count):
        with self.child(fmt) as path:
            return self.rate(fmt, path, how, count)

    def write_rate(self, name, how, fmt):
        once = functools.partial(self.child_rate, fmt, how)
        # The same number for all: what is new gets less.
        return once(self.count(name, self.size // MIB * 16, once,
                               256 if how['flush'] == 1 else 2048))

    def writes(self):
        for depth, flush, target in WRITES:
            name = 'write 4 KiB to a new child, depth %d' % depth
            if flush:
                name += ', flush each %s' % (flush if flush > 1 else 'write')
            how = {'depth': depth, 'flush': flush, 'write': True}
            yield self.case(name, '1/s', target, functools.partial(
                self.write_rate, name, how))

    def convert(self, fmt):
        target = os.path.join(self.bench.folder, 'converted')
        path = self.path(fmt, CONVERTED - 1)
        seconds = self.bench.seconds(
            [fmt.tool('qemu-img'), 'convert', '-t', 'none', '-T', 'none',
             '-f', fmt.driver, '-O', 'raw', path, target])
        os.unlink(target)
        return seconds

    def converts(self):
        yield self.case('convert %d in the chain to raw' % CONVERTED, 's',
                        '<=1.0', self.convert)

    def open(self, rounds):
        """Beside what the program takes with raw"""
        paths = {}
        for fmt in self.formats:
            parent = None
            for number in range(1 if fmt is self.raw else OPENED + 1):
                path = self.bench.path(fmt, 'huge-%d' % number)
                overlay(self.bench, fmt, path, parent,
                        MIB if fmt is self.raw else 64 * TIB)
                parent = path
            paths[fmt.name] = path
        for number in range(rounds):
            base = None
            for fmt in self.formats:        # raw first
                io = scale.QemuIO(self.bench, fmt, tools.image_opts(
                    fmt, paths[fmt.name], self.aio))
                try:
                    seconds, peak = io.open_time, io.peak()
                    io.command('read -q %d 64k' % (
                        0 if fmt is self.raw else 33 * TIB))
                    io.close()
                finally:
                    io.kill()
                base = base or (seconds, peak)
                for what, unit, value, limit in (
                        ('time', 's', seconds - base[0], OPEN_SECONDS),
                        ('memory', 'bytes', peak - base[1], OPEN_BYTES)):
                    self.results.add(
                        'chain-open', what, '%d children of 64 TiB' % OPENED,
                        fmt.name, unit, '<=%g' % limit, number, value)


def run(bench, results, rounds):
    aios, _ = throughput.usable_aio(bench)
    chains = Chains(bench, results, aios[0] if aios else 'threads')
    chains.prepare()
    rounds.run('chains', [*chains.reads(), *chains.writes(),
                          *chains.converts()])
    chains.open(rounds.least)
