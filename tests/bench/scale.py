"""Times and memory as the disk grows.

Opening, the first write, further writes and closing are timed at qemu-io's
prompt.  Raw does the same on a disk of 1 GiB (a file system need not take a
file of 64 TiB): the time it takes to start and end is subtracted.  Memory is
VmHWM, the most that the process ever had.
"""
import random
import time

import tools
from tools import GIB, KIB, MIB, TIB

SIZES = (('1 GiB', GIB), ('1 TiB', TIB), ('64 TiB', 64 * TIB))
PROMPT = b'qemu-io> '
WRITES = 100        # random writes whose mean is taken
SLACK = 32 * MIB    # what the process may need besides the cache
LIMIT = 120


class QemuIO:
    """A qemu-io that is told what to do through a pipe."""

    def __init__(self, bench, fmt, opts):
        self.bench = bench
        begin = time.monotonic()
        self.process = bench.programs.start(
            [fmt.tool('qemu-io'), '--image-opts', opts],
            stdin=-1, stdout=-1, stderr=-2, bufsize=0)
        self.deadline = begin + LIMIT
        self.buffer = b''
        try:
            self.answer()
        except tools.Failure:
            self.kill()
            raise
        self.open_time = time.monotonic() - begin

    def answer(self):
        """Everything up to the next prompt."""
        while PROMPT not in self.buffer:
            if time.monotonic() > self.deadline:
                raise tools.Failure('qemu-io: out of time')
            data = self.bench.read_some(self.process.stdout, self.deadline)
            if not data:
                raise tools.Failure('qemu-io ended: '
                                    + self.buffer.decode().strip())
            self.buffer += data
        text, self.buffer = self.buffer.split(PROMPT, 1)
        return text.decode()

    def check(self, text):
        if 'failed' in text or 'rror' in text:
            raise tools.Failure('qemu-io: ' + text)

    def command(self, text):
        """Gives the time it took."""
        begin = time.monotonic()
        self.process.stdin.write(text.encode() + b'\n')
        self.check(self.answer())
        return time.monotonic() - begin

    def peak(self):
        with open('/proc/%d/status' % self.process.pid,
                  encoding='utf-8') as file:
            for line in file:
                if line.startswith('VmHWM:'):
                    return int(line.split()[1]) * KIB
        raise tools.Failure('VmHWM is not known')

    def close(self):
        begin = time.monotonic()
        self.process.stdin.write(b'quit\n')
        self.process.stdin.close()
        status = self.bench.programs.end(self.process,
                                         self.deadline - begin)
        if status:
            raise tools.Failure('qemu-io: exit status %d' % status)
        return time.monotonic() - begin

    def kill(self):
        self.bench.programs.kill(self.process)


def session(bench, fmt, path, size, number):
    """One open image: times of its parts."""
    where = random.Random(number)
    io = QemuIO(bench, fmt, tools.image_opts(fmt, path, 'native'))
    try:
        def write():
            return io.command('write -q %d 4k' % (
                where.randrange(size // (4 * KIB)) * 4 * KIB))
        taken = {'open': io.open_time, 'first write': write()}
        taken['random write'] = sum(write() for _ in range(WRITES)) / WRITES
        taken['close'] = io.close()
        return taken
    finally:
        io.kill()


def times(bench, results, rounds):
    raw = bench.formats[0]
    others = [f for f in bench.formats if f is not raw]
    with bench.fresh(raw, GIB) as path:
        for number in range(rounds):
            for part, seconds in session(bench, raw, path, GIB,
                                         number).items():
                results.add('scale', '1 GiB, ' + part, 'default blocks', 'raw',
                            's', '', number, seconds)
    for block_size in MIB, None:
        how = '1 MiB blocks' if block_size else 'default blocks'
        for name, size in SIZES:
            for fmt in others:
                if block_size and fmt.driver != 'vhdx':
                    continue
                try:
                    with bench.fresh(fmt, size, block_size) as path:
                        for number in range(rounds):
                            for part, seconds in session(
                                    bench, fmt, path, size, number).items():
                                results.add('scale', '%s, %s' % (name, part),
                                            how, fmt.name, 's', '', number,
                                            seconds)
                except tools.Failure as error:
                    results.fail('%s: %s, %s: %s' % (fmt.name, name, how,
                                                     error))


def memory(bench, results, fmt, path, cache_size):
    """Random reads, then writes, over 64 TiB."""
    size = 64 * TIB
    count = 4000 if bench.quick else 40000
    if fmt.name == 'stock':
        count = 200     # its memory is that of the BAT, and writes are slow
    extra = {'cache-size': cache_size} if cache_size else {}
    where = random.Random(1)
    io = QemuIO(bench, fmt, tools.image_opts(fmt, path, 'native', **extra))
    try:
        for what in 'read', 'write':
            for _ in range(count):
                io.command('%s -q %d 4k' % (
                    what, where.randrange(size // (4 * KIB)) * 4 * KIB))
        peak = io.peak()
        io.close()
    finally:
        io.kill()
    limit = cache_size or 32 * MIB
    case = ('%d random reads, then as many writes' % count
            + (', cache-size=%d MiB' % (cache_size // MIB) if cache_size
               else ''))
    target = '<=%d' % (limit + SLACK) if fmt.name == 'ours' else ''
    results.add('memory', case, '64 TiB, 1 MiB blocks', fmt.name, 'bytes',
                target, 0, peak)


# Commands of qemu-img, and whether QEMU's own driver has them too: it tells no
# place of a block, so that it has no map.
COMMANDS = (('check', True), ('map', False), ('info', False),
            ('amend -o disk_id=new', False), ('amend -o log_size=8M', False),
            ('amend -o compact=space', False))


def commands(bench, results, fmt, path):
    for command, stock in COMMANDS:
        if fmt.name == 'stock' and not stock:
            continue
        name, *options = command.split()
        seconds = bench.seconds([fmt.tool('qemu-img'), name, *options, '-f',
                                 fmt.driver, path], LIMIT)
        results.add('tools', command, '64 TiB, 1 MiB blocks', fmt.name, 's',
                    '', 0, seconds)


def big(bench, results):
    """Memory, and qemu-img on what has been written."""
    for fmt in bench.formats:
        if fmt.driver != 'vhdx':
            continue
        try:
            begin = time.monotonic()
            with bench.fresh(fmt, 64 * TIB, MIB) as path:
                results.add('tools', 'create', '64 TiB, 1 MiB blocks',
                            fmt.name, 's', '', 0, time.monotonic() - begin)
                for size in (4 * MIB, None) if fmt.name == 'ours' else (None,):
                    memory(bench, results, fmt, path, size)
                commands(bench, results, fmt, path)
        except tools.Failure as error:
            results.fail('%s: 64 TiB, 1 MiB blocks: %s' % (fmt.name, error))


def run(bench, results, rounds):
    rounds.say('scale')
    times(bench, results, rounds.least)
    big(bench, results)
