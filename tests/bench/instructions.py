"""User space instructions for one request.

A program does N requests and then 2N; the difference, by N, is what one
request costs, without start and end.  The image lies in memory.  All threads
count: aio=threads hands each request to one of a pool of threads, which is
the larger part of what raw takes.  Where the processor's counter is to be had,
perf counts, else valgrind, with a clock (clock.c) by which the storage is as
quick as it is: the driver does more where a write takes its time.
"""
import functools
import os
import re

import tools
from tools import GIB, KIB, MIB

SIZE = 64 * MIB
DISK = 64 * GIB

# name, write, flush interval, allocating, target
CASES = (('read 4 KiB', False, 0, False, ''),
         ('write 4 KiB', True, 0, False, ''),
         ('write 4 KiB and flush', True, 1, False, ''),
         ('write 4 KiB to a new block of 1 MiB', True, 0, True, ''),
         ('the same and flush', True, 1, True, '<=35000'))


def perf_counts(bench):
    try:
        return perf(bench, ['true']) > 0
    except (tools.Failure, FileNotFoundError):
        return False


def perf(bench, args):
    output = bench.run(['perf', 'stat', '-x,', '-e', 'instructions:u'] + args)
    match = re.search(r'^(\d+),[^,]*,instructions:u', output, re.M)
    if not match:
        raise tools.Failure('perf has not counted')
    return int(match[1])


def cachegrind(clock, bench, args):
    output = bench.run(['env', 'LD_PRELOAD=' + clock, 'valgrind',
                        '--tool=cachegrind', '--cache-sim=no',
                        '--fair-sched=yes',
                        '--cachegrind-out-file=/dev/null'] + args)
    match = re.search(r'I\s+refs:\s+([\d,]+)', output)
    if not match:
        raise tools.Failure('valgrind has not counted')
    return int(match[1].replace(',', ''))


def one(bench, fmt, case, path, counter, count):
    _, write, flush, new, _ = case
    size = DISK if new else SIZE
    if new:
        bench.create(fmt, path, size, MIB)
    try:
        return counter(bench, tools.img_bench(
            fmt, tools.image_opts(fmt, path, 'threads'), 'threads', size,
            count=count, request=4 * KIB, depth=1, write=write, flush=flush))
    finally:
        if new:
            os.unlink(path)


def run(bench, results, rounds):
    if perf_counts(bench):
        counter, how = perf, 'perf stat'
    else:
        clock = bench.library('clock')
        counter, how = functools.partial(cachegrind, clock), 'valgrind'
    count = 300 if bench.quick else 2000
    source = os.path.join(bench.memory, 'source')
    bench.random_file(source, SIZE)
    for fmt in bench.formats:
        bench.fill_memory(fmt, source)
    os.unlink(source)
    rounds.say('instructions (%s)' % how)
    for number in range(min(rounds.least, 3)):
        for case in CASES:
            for fmt in bench.formats:
                path = os.path.join(bench.memory, ('new.' if case[3] else
                                                   'full.') + fmt.name)
                try:
                    few = one(bench, fmt, case, path, counter, count)
                    many = one(bench, fmt, case, path, counter, 2 * count)
                    results.add('instructions', case[0], how, fmt.name,
                                'instructions', case[4], number,
                                (many - few) / count)
                except tools.Failure as error:
                    results.fail('%s: instructions, %s: %s'
                                 % (fmt.name, case[0], error))
