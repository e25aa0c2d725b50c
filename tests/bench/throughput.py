"""Requests and bytes per second, and the time of a conversion.

A case has a number of requests that raw does in the time wanted.  A format
that would take more than three times as long gets fewer; rates are compared,
not times.  Requests lie all over the disk, see scatter() in tools.py.

Allocating cases get a fresh image of 64 GiB each time, and no more requests
than there are blocks, so that nearly each of them goes to a new block.  The
others work on images that were filled with random data.
"""
import collections
import functools
import json
import os

import tools
from rounds import Case
from tools import GIB, KIB, MIB

DISK = 64 * GIB
DEFAULT_BLOCKS = DISK // (16 * MIB)     # the default for a disk of 64 GiB

Setup = collections.namedtuple(
    'Setup', 'group name tool aio write depth request flush target block_size')


def setups(aios):
    made = []

    def add(group, tool, aio, write, depth, request, flush, target,
            block_size=None):
        names = {'allocating': 'write', 'sequential': 'write'}
        name = '%s %s' % (names.get(group, 'write' if write else 'read'),
                          '%d KiB' % (request // KIB) if request < MIB
                          else '%d MiB' % (request // MIB))
        name += ', depth %d' % depth
        if flush:
            name += ', flush each %s' % (flush if flush > 1 else 'write')
        if group == 'allocating':
            name += ', %s blocks' % ('1 MiB' if block_size else 'default')
        made.append(Setup(group, name, tool, aio, write, depth, request,
                          flush, target, block_size))

    runs = [('qemu-img', aio) for aio in aios] + [('fio', aios[0])]
    for tool, aio in runs:
        for block_size in MIB, None:
            if tool == 'fio' and not block_size:
                continue
            for depth, flush in (1, 1), (1, 32), (32, 0):
                add('allocating', tool, aio, True, depth, 4 * KIB, flush,
                    '>=0.8', block_size)
    for aio in aios:
        add('sequential', 'qemu-img', aio, True, 4, MIB, 0, '>=0.95')
    for tool, aio in runs:
        for write in False, True:
            for depth in 1, 32:
                for request in 4 * KIB, 64 * KIB:
                    if tool == 'fio' and (depth, request) == (1, 64 * KIB):
                        continue
                    add('present', tool, aio, write, depth, request, 0,
                        '>=0.95')
    return made


def fio(bench, fmt, setup, path, size, count):
    """Requests per second through an NBD export, final flush included."""
    with tools.Storage(bench, fmt,
                       tools.image_opts(fmt, path, setup.aio)) as uri:
        args = ['fio', '--name=bench', '--ioengine=nbd', '--uri=' + uri,
                '--rw=rand' + ('write' if setup.write else 'read'),
                '--bs=%d' % setup.request, '--iodepth=%d' % setup.depth,
                '--size=%d' % size, '--number_ios=%d' % count,
                '--norandommap=1', '--randseed=1', '--output-format=json']
        if setup.write:
            args += ['--end_fsync=1']
        if setup.flush:
            args += ['--fsync=%d' % setup.flush]
        output = bench.run(args)
    try:
        job = json.loads(output[output.index('{'):])['jobs'][0]
        done = job['write' if setup.write else 'read']
        if job['error'] or done['total_ios'] < count:
            raise ValueError('error %s, %s of %d requests'
                             % (job['error'], done['total_ios'], count))
        return done['total_ios'] * 1000 / max(1, done['runtime'])
    except (ValueError, KeyError, IndexError) as error:
        raise tools.Failure('fio: %s' % error) from None


def img_bench(bench, fmt, setup, path, size, count):
    output = bench.run(tools.img_bench(
        fmt, tools.image_opts(fmt, path, setup.aio), setup.aio, size,
        count=count, request=setup.request, depth=setup.depth,
        write=setup.write, flush=setup.flush,
        step=setup.request if setup.group == 'sequential' else None))
    return count / tools.img_bench_seconds(output)


class Throughput:
    def __init__(self, bench):
        self.bench = bench
        self.seconds = 0.15 if bench.quick else 0.4
        self.size = (256 if bench.quick else 1024) * MIB
        self.source = os.path.join(bench.folder, 'source')
        self.counts = {}

    def prepare(self):
        self.bench.random_file(self.source, self.size)
        for fmt in self.bench.formats:
            self.bench.fill(fmt, self.source, self.bench.path(fmt, 'full'))

    def some(self, setup, fmt, count):
        tool = fio if setup.tool == 'fio' else img_bench
        if setup.group == 'present':
            return tool(self.bench, fmt, setup, self.bench.path(fmt, 'full'),
                        self.size, count)
        with self.bench.fresh(fmt, DISK, setup.block_size) as path:
            return tool(self.bench, fmt, setup, path, DISK, count)

    def most(self, setup):
        if setup.group == 'sequential':
            return self.size // MIB
        if setup.group == 'present':
            return 1 << 20
        return (DISK // setup.block_size if setup.block_size
                else DEFAULT_BLOCKS) * 3 // 4

    def count(self, setup, fmt):
        """How many requests, found by a trial before the first round."""
        if (setup, fmt.name) not in self.counts:
            raw = self.bench.formats[0]
            most = (self.most(setup) if fmt is raw
                    else self.count(setup, raw))
            count = min(most, 16)
            rate = self.some(setup, fmt, count)
            while count < most and count / rate < self.seconds / 8:
                count = min(most, 8 * count)
                rate = self.some(setup, fmt, count)
            share = self.seconds if fmt is raw else 3 * self.seconds
            count = max(16, min(most, int(rate * share)))
            self.counts[setup, fmt.name] = count
        return self.counts[setup, fmt.name]

    def rate(self, setup, fmt):
        return self.some(setup, fmt, self.count(setup, fmt))

    def convert(self, block_size, fmt):
        """The same file into each format; VHDX with several block sizes."""
        path = self.bench.path(fmt, 'converted')
        try:
            return self.bench.fill(fmt, self.source, path, block_size)
        finally:
            if os.path.exists(path):
                os.unlink(path)

    def cases(self, aios):
        formats = self.bench.formats
        for setup in setups(aios):
            yield Case(setup.group, setup.name,
                       '%s, %s' % (setup.tool, setup.aio), '1/s',
                       setup.target, 'raw', formats,
                       functools.partial(self.rate, setup))
        for block_size in MIB, 2 * MIB, 32 * MIB:
            yield Case('convert', 'convert %d MiB of random data, '
                       '%d MiB blocks' % (self.size // MIB, block_size // MIB),
                       'qemu-img, -t none', 's', '<=1.1', 'raw', formats,
                       functools.partial(self.convert, block_size))


def usable_aio(bench):
    """Kinds of asynchronous I/O that work here, and why others do not."""
    good, bad = [], []
    raw = bench.formats[0]
    path = os.path.join(bench.folder, 'aio')
    bench.create(raw, path, MIB)
    for aio in 'native', 'io_uring':
        try:
            bench.run([raw.tool('qemu-io'), '--image-opts', '-c', 'read 0 4k',
                       '-c', 'write 0 4k',
                       tools.image_opts(raw, path, aio)], 30)
            good.append(aio)
        except tools.Failure as error:
            bad.append((aio, str(error)))
    os.unlink(path)
    return good, bad


def run(bench, results, rounds):
    aios, bad = usable_aio(bench)
    for aio, why in bad:
        results.facts.append(('aio=%s does not work here' % aio, why))
    if not aios:
        results.fail('O_DIRECT with native AIO or io_uring does not work in '
                     'this folder: nothing measured')
        return
    everything = Throughput(bench)
    everything.prepare()
    rounds.run('throughput', list(everything.cases(aios)))
