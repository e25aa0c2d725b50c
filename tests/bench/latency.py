"""New blocks with a flush each, on storage that takes its time.

How long a write and a flush take is set by a library that waits in them
(latency.c), so the machine has little to say in it.
"""
import functools

import tools
from rounds import Case
from tools import GIB, KIB, MIB

DISK = 4 * GIB       # few pages of the BAT, which are read once
COUNT = 2000
SLOW_COUNT = 200     # for formats that are much slower than raw
# microseconds of a write, of a flush; the target
CASES = (200, 500, '>=0.9'), (500, 1000, '>=0.95'), (50, 500, ''), (0, 0, '')


def rate(bench, library, write, flush, fmt):
    count = COUNT if fmt.name in ('raw', 'ours') else SLOW_COUNT
    with bench.fresh(fmt, DISK, MIB) as path:
        opts = tools.image_opts(fmt, path, 'threads', **{
            'cache.direct': 'on', 'file.cache.direct': 'on'})
        output = bench.run([
            'env', 'LD_PRELOAD=' + library, 'WRITE_US=%d' % write,
            'FLUSH_US=%d' % flush, *tools.img_bench(
                fmt, opts, 'threads', DISK, count=count, request=4 * KIB,
                depth=1, write=True, flush=1)])
    return count / tools.img_bench_seconds(output)


def run(bench, _, rounds):
    library = bench.library('latency')
    rounds.run('latencies', [
        Case('latency', 'write of %d us, flush of %d us' % (write, flush),
             'qemu-img, threads', '1/s', target, 'raw', bench.formats,
             functools.partial(rate, bench, library, write, flush))
        for write, flush, target in CASES])
