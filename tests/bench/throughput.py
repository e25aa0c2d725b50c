"""Requests and bytes per second, and the time of a conversion.

Formats take turns within a case, in an order that moves on with each round,
so that what the machine does besides meets them alike.  A case has a number of
requests that raw does in the time wanted.  A format that would take more than
three times as long gets fewer; rates are compared, not times.  Requests lie
all over the disk, see scatter() in tools.py.

Allocating cases get a fresh image of 64 GiB each time, and no more requests
than there are blocks, so that nearly each of them goes to a new block.  The
others work on images that were filled with random data.
"""
import collections
import json
import os

import tools
from tools import GIB, KIB, MIB

DISK = 64 * GIB
DEFAULT_BLOCKS = DISK // (16 * MIB)     # the default for a disk of 64 GiB

Case = collections.namedtuple(
    'Case', 'group name tool aio write depth request flush target block_size')


def cases(aios):
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
        made.append(Case(group, name, tool, aio, write, depth, request, flush,
                         target, block_size))

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


def fio(bench, fmt, case, path, size, count):
    """Requests per second through an NBD export, final flush included."""
    with tools.Storage(bench, fmt,
                       tools.image_opts(fmt, path, case.aio)) as uri:
        args = ['fio', '--name=bench', '--ioengine=nbd', '--uri=' + uri,
                '--rw=rand' + ('write' if case.write else 'read'),
                '--bs=%d' % case.request, '--iodepth=%d' % case.depth,
                '--size=%d' % size, '--number_ios=%d' % count,
                '--norandommap=1', '--randseed=1', '--output-format=json']
        if case.write:
            args += ['--end_fsync=1']
        if case.flush:
            args += ['--fsync=%d' % case.flush]
        output = bench.run(args)
    try:
        job = json.loads(output[output.index('{'):])['jobs'][0]
        done = job['write' if case.write else 'read']
        if job['error'] or done['total_ios'] < count:
            raise ValueError('error %s, %s of %d requests'
                             % (job['error'], done['total_ios'], count))
        return done['total_ios'] * 1000 / max(1, done['runtime'])
    except (ValueError, KeyError, IndexError) as error:
        raise tools.Failure('fio: %s' % error) from None


def img_bench(bench, fmt, case, path, size, count):
    output = bench.run(tools.img_bench(
        fmt, tools.image_opts(fmt, path, case.aio), case.aio, size,
        count=count, request=case.request, depth=case.depth, write=case.write,
        flush=case.flush,
        step=case.request if case.group == 'sequential' else None))
    return count / tools.img_bench_seconds(output)


class Throughput:
    def __init__(self, bench, results, rounds):
        self.bench = bench
        self.results = results
        self.rounds = rounds
        self.seconds = 0.15 if bench.quick else 0.4
        self.size = (256 if bench.quick else 1024) * MIB
        self.source = os.path.join(bench.folder, 'source')
        self.counts = {}
        self.failed = set()

    def prepare(self):
        self.bench.random_file(self.source, self.size)
        for fmt in self.bench.formats:
            self.bench.fill(fmt, self.source, self.bench.path(fmt, 'full'))

    def once(self, case, fmt, count):
        tool = fio if case.tool == 'fio' else img_bench
        if case.group == 'present':
            return tool(self.bench, fmt, case, self.bench.path(fmt, 'full'),
                        self.size, count)
        with self.bench.fresh(fmt, DISK, case.block_size) as path:
            return tool(self.bench, fmt, case, path, DISK, count)

    def most(self, case):
        if case.group == 'sequential':
            return self.size // MIB
        if case.group == 'present':
            return 1 << 20
        blocks = DISK // case.block_size if case.block_size else DEFAULT_BLOCKS
        return blocks * 3 // 4

    def count(self, case, fmt):
        """How many requests, found by a trial before the first round."""
        if (case, fmt.name) not in self.counts:
            most = self.most(case)
            if fmt.name != 'raw':
                most = self.counts[case, 'raw']
            count = min(most, 16)
            rate = self.once(case, fmt, count)
            while count < most and count / rate < self.seconds / 8:
                count = min(most, 8 * count)
                rate = self.once(case, fmt, count)
            share = self.seconds if fmt.name == 'raw' else 3 * self.seconds
            count = max(16, min(most, int(rate * share)))
            self.counts[case, fmt.name] = count
        return self.counts[case, fmt.name]

    def measure(self, case, number):
        formats = self.bench.formats
        turn = number % len(formats)
        todo = [f for f in formats if (case, f.name) not in self.failed]
        try:
            for fmt in todo:            # raw first
                self.count(case, fmt)
        except (tools.Failure, KeyError) as error:
            self.give_up(case, fmt, error)
            todo.remove(fmt)
        for fmt in formats[turn:] + formats[:turn]:
            if fmt not in todo or (case, fmt.name) not in self.counts:
                continue
            try:
                rate = self.once(case, fmt, self.counts[case, fmt.name])
            except tools.Failure as error:
                self.give_up(case, fmt, error)
                continue
            self.results.add(case.group, case.name,
                             '%s, %s' % (case.tool, case.aio), fmt.name, '1/s',
                             case.target, number, rate)

    def give_up(self, case, fmt, error):
        """Not tried again in later rounds: it could take long each time."""
        self.failed.add((case, fmt.name))
        self.results.fail('%s: %s (%s, %s): %s' % (
            fmt.name, case.name, case.tool, case.aio, error))

    def convert(self, number):
        """The same file into each format; VHDX with several block sizes."""
        for block_size in MIB, 2 * MIB, 32 * MIB:
            case = 'convert %d MiB of random data, %d MiB blocks' % (
                self.size // MIB, block_size // MIB)
            turn = number % len(self.bench.formats)
            for fmt in self.bench.formats[turn:] + self.bench.formats[:turn]:
                path = self.bench.path(fmt, 'converted')
                try:
                    seconds = self.bench.fill(fmt, self.source, path,
                                              block_size)
                    self.results.add('convert', case, 'qemu-img, -t none',
                                     fmt.name, 's', '<=1.1', number, seconds)
                except tools.Failure as error:
                    self.results.fail('%s: %s: %s' % (fmt.name, case, error))
                finally:
                    if os.path.exists(path):
                        os.unlink(path)


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


def run(bench, results, rounds, say):
    aios, bad = usable_aio(bench)
    for aio, why in bad:
        results.facts.append(('aio=%s does not work here' % aio, why))
    if not aios:
        results.fail('O_DIRECT with native AIO or io_uring does not work in '
                     'this folder: nothing measured')
        return
    everything = Throughput(bench, results, rounds)
    everything.prepare()
    for number in range(rounds):
        say('round %d of %d' % (number + 1, rounds))
        for case in cases(aios):
            say('%s (%s, %s)' % (case.name, case.tool, case.aio))
            everything.measure(case, number)
        say('convert')
        everything.convert(number)
