"""Several threads that use one image, as iothread-vq-mapping has them.

QEMU's block layer lets them in the 10.x lines, not in 7.2.  The program is
iothreads.c, which scripts/run-bench builds.
"""
import functools
import os

import tools
from rounds import Case
from tools import GIB, MIB

THREADS = 1, 2, 4
DEPTH = 8           # of each thread
# name, write, new blocks
CASES = (('read 4 KiB', False, False), ('write 4 KiB', True, False),
         ('write 4 KiB to new blocks', True, True))
DISK = 64 * GIB     # if blocks are new
TARGET = {False: '>=0.95', True: '>=0.8'}


class Threads:
    def __init__(self, bench, program):
        self.bench, self.program = bench, program
        self.size = (256 if bench.quick else 1024) * MIB
        self.count = 4000 if bench.quick else 40000

    def rate(self, threads, write, new, fmt):
        if not new:
            return self.once(threads, write, self.bench.path(fmt, 'shared'),
                             self.size, fmt)
        with self.bench.fresh(fmt, DISK) as path:
            return self.once(threads, write, path, DISK, fmt)

    def once(self, threads, write, path, size, fmt):
        opts = tools.image_opts(fmt, path, 'native')
        count = self.count if fmt.name != 'qcow2' else self.count // 4
        return count / float(self.bench.run([
            self.program, opts, str(threads), str(DEPTH),
            'write' if write else 'read', str(count), str(size)]))

    def cases(self, formats):
        for name, write, new in CASES:
            for threads in THREADS:
                yield Case(
                    'iothreads', '%s, %d thread%s' % (
                        name, threads, 's' if threads > 1 else ''),
                    'depth %d each' % DEPTH, '1/s', TARGET[new], 'raw',
                    formats, functools.partial(self.rate, threads, write,
                                               new))


def run(bench, results, rounds):
    program = os.environ.get('IOTHREADS_PROGRAM')
    if not program:
        results.facts.append(('Several iothreads', 'not measured: with this '
                              'QEMU only one at a time uses a node'))
        return
    threads = Threads(bench, program)
    # QEMU's own driver has a lock for the whole request, and nothing to show.
    formats = [f for f in bench.formats if f.name != 'stock']
    source = os.path.join(bench.folder, 'source')
    bench.random_file(source, threads.size)
    for fmt in formats:
        bench.fill(fmt, source, bench.path(fmt, 'shared'))
    os.unlink(source)
    rounds.run('iothreads', list(threads.cases(formats)))
