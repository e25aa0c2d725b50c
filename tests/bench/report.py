"""README.md and plots from the rows of results.tsv."""
import os
import subprocess

from beside import more as beside_more
from results import within
from tools import MIB

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {'raw': 'raw', 'ours': 'VHDX, this driver',
         'stock': "VHDX, QEMU's own", 'qcow2': 'qcow2'}
COMPARED = ('ours', 'stock', 'qcow2')
GROUPS = (
    ('present', 'Blocks that are there', 'Requests per second on images that '
     'were filled with random data.'),
    ('allocating', 'New blocks', 'Writes all over a fresh disk of 64 GiB, '
     'nearly each to a block that is not there yet. Block sizes are those of '
     'VHDX; qcow2 has its default clusters, raw is a sparse file.'),
    ('latency', 'New blocks with a flush each, on slow storage', 'Writes of '
     '4 KiB to new blocks of 1 MiB, a flush after each, depth 1. A library '
     'that is preloaded waits in each write and in each flush of the file.'),
    ('sequential', 'New blocks in a row', 'A fresh disk of 64 GiB with '
     'default blocks is written from its beginning.'),
    ('iothreads', 'Several iothreads', 'One image that is used by several '
     'threads, as with iothread-vq-mapping of virtio-blk: it was filled with '
     'random data, or is a fresh disk of 64 GiB with default blocks.'),
    ('convert', 'qemu-img convert', 'Times, so less is better. The end '
     'includes a flush.'),
)

# What the plot in the top README.md shows, on any machine
PLOTTED = (
    ('read 4 KiB, depth 1', 'qemu-img, native'),
    ('read 4 KiB, depth 32', 'qemu-img, native'),
    ('write 4 KiB, depth 32', 'qemu-img, native'),
    ('write 4 KiB, depth 1, flush each write, default blocks',
     'qemu-img, native'),
    ('write 4 KiB, depth 32, default blocks', 'qemu-img, native'),
    ('write of 500 us, flush of 1000 us', 'qemu-img, threads'),
    ('write 1 MiB, depth 4', 'qemu-img, native'),
    ('convert 1024 MiB of random data, 2 MiB blocks', 'qemu-img, -t none'),
)


def number(value):
    return '%.0f' % value if value >= 100 else '%.3g' % value


def spread(value, form):
    if not value:
        return ''
    if value.low == value.high:
        return form(value.median)
    return '%s [%s..%s]' % tuple(form(v) for v in value[:3])


def ratio(value):
    return spread(value, lambda v: '%.2f' % v)


def table(head, rows):
    lines = ['| %s |' % ' | '.join(head), '|' + '---|' * len(head)]
    return lines + ['| %s |' % ' | '.join(row) for row in rows] + ['']


def words(met):
    return {None: 'undecided', True: 'met', False: '**NOT met**'}[met]


def opened_well(results, case, how, target):
    return below(results.absolute('chain-open', case, how, 'ours'), target)


def below(value, target):
    """Whether what was measured itself is below the target, in all rounds"""
    return bool(value) and value.high <= float(target[2:])




def verdicts(results):
    """(met, text) of each target, met being None if it is not decided"""
    for group, _, _ in GROUPS:
        for case, how, _, target in results.cases(group):
            if target:
                yield (results.met(group, case, how, target),
                       '%s (%s)' % (case, how))
    for group in 'chains', 'bitmaps':
        for case, how, _, target in results.cases(group):
            if target:
                yield (results.met(group, case, how, target),
                       '%s (%s)' % (case, how))
    for case, how, _, target in results.cases('chain-open'):
        yield (opened_well(results, case, how, target),
               'open, %s: %s' % (how, case))
    for case, how, _, target in results.cases('beside'):
        if target and how == 'compacting':
            yield (within(beside_more(results, case), target),
                   'compacting beside fio, ' + case)
    for case, how, _, target in results.cases('memory'):
        if target:
            yield (below(results.absolute('memory', case, how, 'ours'),
                         target), 'memory: ' + case)
    for case, how, _, target in results.cases('instructions'):
        if target:
            yield (below(results.absolute('instructions', case, how, 'ours'),
                         target), 'instructions: ' + case)


def throughput(results):
    for group, title, text in GROUPS:
        cases = results.cases(group)
        if not cases:
            continue
        rows = []
        for case, how, unit, target in cases:
            raw = results.absolute(group, case, how, 'raw')
            rows.append([case, how, (spread(raw, number) + ' ' + unit)
                         if raw else 'failed']
                        + [ratio(results.ratio(group, case, how, f))
                           for f in COMPARED]
                        + [target.replace('=', '= '),
                           words(results.met(group, case, how, target))
                           if target else '',
                           str(len(results.values(group, case, how,
                                                  'ours')))])
        yield from ['## ' + title, '', text, '']
        yield from table(['case', 'with', 'raw']
                         + [NAMES[f] + ' : raw' for f in COMPARED]
                         + ['target', '', 'rounds'], rows)


def instructions(results):
    cases = results.cases('instructions')
    if not cases:
        return
    yield from ['## Instructions for one request', '',
                'User space, all threads, image in memory with aio=threads, '
                'one request at a time, counted by %s. What raw takes is the '
                'program, the block layer and the pool of threads; a thread '
                'that waits runs a different number of instructions each '
                'time.' % cases[0][1], '']
    rows = []
    for case, how, _, target in cases:
        ours = results.absolute('instructions', case, how, 'ours')
        rows.append([case] + [
            spread(results.absolute('instructions', case, how, f), number)
            for f in ('raw',) + COMPARED] + [
                target.replace('=', '= '),
                words(below(ours, target)) if target else ''])
    yield from table(['request'] + [NAMES[f] for f in ('raw',) + COMPARED]
                     + ['target', ''], rows)


def chains(results):
    cases = results.cases('chains')
    if not cases:
        return
    yield from ['## Chains', '',
                'Differencing images beside qcow2 with backing files; raw is '
                'one file. Each image of a chain has 64 KiB of its own in '
                'each 4 MiB, and the lowest is full. Targets are ratios to '
                'qcow2, and of times in the last row.', '']
    rows = []
    for case, how, unit, target in cases:
        raw = results.absolute('chains', case, how, 'raw')
        rows.append([case, how, spread(raw, number) + ' ' + unit]
                    + [ratio(results.ratio('chains', case, how, f))
                       for f in ('ours', 'qcow2')]
                    + [ratio(results.ratio('chains', case, how, 'ours',
                                           'qcow2')),
                       target.replace('=', '= '),
                       words(results.met('chains', case, how, target)),
                       str(len(results.values('chains', case, how, 'ours')))])
    yield from table(['case', 'with', 'raw', 'VHDX : raw', 'qcow2 : raw',
                      'VHDX : qcow2', 'target', '', 'rounds'], rows)
    rows = []
    for case, how, unit, target in results.cases('chain-open'):
        form = ((lambda v: '%.0f ms' % (v * 1000)) if unit == 's' else
                (lambda v: '%.0f MiB' % (v / MIB)))
        rows.append([how, case] + [
            spread(results.absolute('chain-open', case, how, f), form)
            for f in ('ours', 'qcow2')] + [
                '<= ' + form(float(target[2:])),
                words(opened_well(results, case, how, target))])
    yield from ['Opened with their parents: more than the program takes with '
                'raw.', '']
    yield from table(['chain', '', 'VHDX', 'qcow2', 'target', ''], rows)


def bitmaps(results):
    cases = results.cases('bitmaps')
    if not cases:
        return
    yield from ['## Dirty bitmaps', '',
                'Persistent bitmaps with granules of 64 KiB, beside qcow2. '
                'All pages of bits are in the file. Loading and storing: how '
                'often in a second it could be done, without what opening and '
                'closing take of an image that has no bitmap.', '']
    rows = []
    for case, how, _, target in cases:
        rows.append([case] + [
            spread(results.absolute('bitmaps', case, how, f), number) + ' 1/s'
            for f in ('ours', 'qcow2')] + [
                ratio(results.ratio('bitmaps', case, how, 'ours', 'qcow2')),
                target.replace('=', '= '),
                words(results.met('bitmaps', case, how, target))
                if target else '',
                str(len(results.values('bitmaps', case, how, 'ours')))])
    yield from table(['case', 'VHDX', 'qcow2', 'VHDX : qcow2', 'target', '',
                      'rounds'], rows)


def beside(results):
    cases = results.cases('beside')
    if not cases:
        return
    yield from ['## A guest while its image is compacted', '',
                'Milliseconds that requests of 4 KiB take, read and written '
                'at random by fio, 500 of each in a second and a flush after '
                'each 50 writes: alone, and beside `x-blockdev-amend` with '
                '`compact: space`, which moves a part of the blocks that they '
                'go to. The target is of the difference.', '']
    rows = []
    for case, how, _, target in cases:
        if how != 'alone':
            continue
        rows.append([case] + [
            spread(results.absolute('beside', case, h, 'ours'), number)
            for h in ('alone', 'compacting')] + [
                spread(beside_more(results, case), number),
                target.replace('=', '= '),
                words(within(beside_more(results, case), target))
                if target else '',
                str(len(results.values('beside', case, 'compacting',
                                       'ours')))])
    yield from table(['requests', 'alone', 'compacting', 'more', 'target', '',
                      'rounds'], rows)


def over_raw(results, case, how, fmt):
    """Milliseconds that a part of a session takes more than with raw."""
    value = results.absolute('scale', case, how, fmt)
    part = case.split(', ')[1]
    raw = results.absolute('scale', '1 GiB, ' + part, 'default blocks', 'raw')
    if not value or not raw:
        return None
    base = raw.median if part in ('open', 'close') else 0
    return value._replace(**{name: (getattr(value, name) - base) * 1000
                             for name in ('median', 'low', 'high')})


def scale(results):
    cases = list(results.cases('scale'))
    if not cases:
        return
    yield from ['## As the disk grows', '',
                'Milliseconds. Opening and closing: without what the program '
                'takes with raw. A random write is to a new block; none is '
                'flushed before the end.', '']
    rows = []
    for case, how, _, _ in cases:
        size, part = case.split(', ')
        row = [size, how, part]
        for fmt in COMPARED:
            value = over_raw(results, case, how, fmt)
            none = how != 'default blocks' and fmt == 'qcow2'
            row.append('' if none else spread(
                value, lambda v: '%.3g' % (v if abs(v) >= 0.001 else 0)))
        rows.append(row)
    yield from table(['disk', 'VHDX with', 'part']
                     + [NAMES[f] for f in COMPARED], rows)

    rows = []
    for case, how, _, target in results.cases('memory'):
        for fmt in 'ours', 'stock':
            peak = results.absolute('memory', case, how, fmt)
            if not peak:
                continue
            bound = int(target[2:]) if target else None
            rows.append([case, NAMES[fmt], '%.0f MiB' % (peak.high / MIB),
                         '<= %d MiB' % (bound / MIB) if bound else '',
                         words(peak.high <= bound) if bound else ''])
    yield from ['Memory: the most that the process ever had, with a disk of '
                '64 TiB and blocks of 1 MiB. The target is the cache\'s limit '
                'and 32 MiB.', '']
    yield from table(['access', 'format', 'memory', 'target', ''], rows)

    rows = []
    for case, how, _, _ in results.cases('tools'):
        rows.append(['qemu-img ' + case] + [
            spread(results.absolute('tools', case, how, f),
                   lambda value: number(value) + ' s')
            for f in ('ours', 'stock')])
    yield from ['qemu-img on the same disks. Ours has what the accesses above '
                'have written, QEMU\'s own the few blocks it was given.', '']
    yield from table(['command', NAMES['ours'], NAMES['stock']], rows)


def readme(results):
    checks = list(verdicts(results))
    missed = [text for met, text in checks if met is False]
    open_ones = [text for met, text in checks if met is None]
    facts = dict(results.facts)
    lines = [
        '# Measurements', '',
        'Made by `make bench`, which writes this file, the plots and '
        '[results.tsv](results.tsv) anew; every value of every round is in '
        'there.', '',
        '%d targets: %d met, %d not met, %d undecided. %d measurements '
        'failed.' % (len(checks), len(checks) - len(missed) - len(open_ones),
                     len(missed), len(open_ones), len(results.failures)), '']
    lines += ['- not met: ' + text for text in missed]
    lines += ['- undecided: ' + text for text in open_ones]
    lines += ['- failed: ' + text for text in results.failures]
    lines += [''] if missed or open_ones or results.failures else []
    for name, title in plots(results):
        lines += ['![%s](%s.svg)' % (title, name), '']
    lines += ['## How', '',
              'Raw, qcow2, QEMU\'s own VHDX driver and this one take turns '
              'within each case, in an order that is drawn anew in each round.'
              ' QEMU\'s own driver is built from the same source with the same'
              ' options. The image file is opened with O_DIRECT. A ratio is '
              'worked out within a round, then the median of the rounds is '
              'taken; behind it stand two values between which the true '
              'median lies with a probability of 95 %. Ratios are of rates, so'
              ' more is better, except where times are told. A format that is '
              'much slower than raw does fewer requests. Where a case is done '
              'with fio, it goes through an NBD export of qemu-storage-daemon,'
              ' raw\'s as well.', '',
              'The targets are those of VHDX with this driver. One is met, or '
              'not met, if all of that interval is on one side of it: there '
              'are as many rounds as that takes, %s; who looks after each of '
              'them is a little less sure than 95 %%. If it still lies within '
              'then, or after %s of a part, the target is undecided. Instruct'
              'ions, memory, and what opening a chain takes, are below it or '
              'not in all rounds. What can be counted is not left to '
              'this: [tests/trace](../../tests/trace/README.md) asserts how '
              'many requests and flushes of the file a request of a guest '
              'takes.' % (facts['Rounds'], facts['Time for rounds']), '',
              '| machine | |', '|---|---|']
    lines += ['| %s | %s |' % fact for fact in results.facts] + ['']
    for part in throughput, instructions, scale, chains, bitmaps, beside:
        lines += part(results)
    return '\n'.join(lines).rstrip('\n') + '\n'


def quoted(text):
    return '"%s"' % text.replace('"', "'")


def ratio_line(results, group, case, how):
    fields = [quoted('%s (%s)' % (case, how))]
    for fmt in COMPARED:
        value = results.ratio(group, case, how, fmt)
        # a conversion's is turned round, so that more is better
        if value and group == 'convert':
            value = (1 / value.median, 1 / value.high, 1 / value.low)
        fields += ['%.4f' % v for v in value[:3]] if value else '???'
    return ' '.join(fields) + '\n'


def ratio_data(results, file, wanted):
    for group, _, _ in GROUPS:
        for case, how, _, _ in results.cases(group):
            if wanted(case, how):
                file.write(ratio_line(results, group, case, how))


def matters(case, how):
    return (case, how) in PLOTTED


def plot_data(results, folder):
    """What gnuplot reads: one line for each group of bars, ? for none."""
    for name, wanted in (('summary', matters),
                         ('ratios', lambda *_: True)):
        with open(os.path.join(folder, name + '.dat'), 'w',
                  encoding='utf-8') as file:
            ratio_data(results, file, wanted)
    with open(os.path.join(folder, 'scale.dat'), 'w',
              encoding='utf-8') as file:
        for case, how, _, _ in results.cases('scale'):
            size, part = case.split(', ')
            fields = [quoted(part), quoted('%s, %s' % (size, how))]
            for fmt in COMPARED:
                value = over_raw(results, case, how, fmt)
                fields.append('%.4f' % max(value.median, 0.01)
                              if value else '?')
            file.write(' '.join(fields) + '\n')


def plots(results):
    """(name, title) of those that there is something to plot for."""
    rows = [row[:2] for group, _, _ in GROUPS for row in results.cases(group)]
    if any(matters(*row) for row in rows):
        yield 'summary', 'Ratios to raw, of what matters most'
    if rows:
        yield 'ratios', 'Ratios to raw'
    if results.cases('scale'):
        yield 'scale', 'As the disk grows'


def plot(results, folder, out):
    plot_data(results, folder)
    for name, _ in plots(results):
        subprocess.run(
            ['gnuplot', '-e',
             "data='%s'; set output '%s'" % (
                 os.path.join(folder, name + '.dat'),
                 os.path.join(out, name + '.svg')),
             os.path.join(HERE, ('scale' if name == 'scale' else 'ratios')
                          + '.gp')],
            check=True, timeout=60, stdin=subprocess.DEVNULL)


def write(results, folder, out):
    results.sort()
    os.makedirs(out, exist_ok=True)
    results.save(os.path.join(out, 'results.tsv'))
    with open(os.path.join(out, 'README.md'), 'w', encoding='utf-8') as file:
        file.write(readme(results))
    plot(results, folder, out)
    return list(verdicts(results))
