"""How long a guest's requests take while its image is compacted.

fio reads, writes and flushes in one half of a disk, at a rate that the storage
has no trouble with, by way of an NBD export.  The other half has been given
up, so that compacting has to move blocks of the half in use.  Each round takes
the same alone and beside that; the target is a bound, in milliseconds, of what
the slowest request takes more.
"""
import json
import os
import socket
import subprocess
import time

import results
import throughput
import tools
from tools import KIB, MIB

BLOCKS = 1, 32          # MiB
TARGET = '<=50'
START = 1               # seconds after fio


def more(data, case):
    """What a request takes more than alone, in milliseconds"""
    alone = data.values('beside', case, 'alone', 'ours')
    values = data.values('beside', case, 'compacting', 'ours')
    both = [values[n] - alone[n] for n in values if n in alone]
    return results.spread(both) if both else None


def is_open(data, mib):
    """Whether more rounds with such blocks may decide on a target."""
    return any(results.within(more(data, case), target) is None
               for case, how, _, target in data.cases('beside')
               if target and how == 'compacting' and
               case.startswith('blocks of %d MiB' % mib))


class Monitor:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(tools.LIMIT)
        self.socket.connect(path)
        self.stream = self.socket.makefile('rw', encoding='utf-8')
        self.stream.readline()              # the greeting
        self.command('qmp_capabilities')

    def close(self):
        self.stream.close()
        self.socket.close()

    def command(self, name, **arguments):
        self.stream.write(json.dumps({'execute': name,
                                      'arguments': arguments}) + '\n')
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if 'error' in answer:
                raise tools.Failure('%s: %s' % (name, answer['error']['desc']))
            if 'return' in answer:
                return answer['return']

    def compact(self):
        self.command('x-blockdev-amend', **{
            'job-id': 'job', 'node-name': 'disk',
            'options': {'driver': 'vhdx', 'compact': 'space'}})
        end = time.monotonic() + tools.LIMIT
        while time.monotonic() < end:
            job, = self.command('query-jobs')
            if job['status'] == 'concluded':
                self.command('job-dismiss', id='job')
                if 'error' in job:
                    raise tools.Failure('compacting: ' + job['error'])
                return
            time.sleep(0.01)
        raise tools.Failure('compacting does not end')


class Beside:
    def __init__(self, bench, aio):
        self.bench = bench
        self.fmt = bench.formats[-1]
        self.aio = aio
        self.size = (256 if bench.quick else 2048) * MIB
        self.seconds = 8 if bench.quick else 30
        self.source = os.path.join(bench.folder, 'beside-source')
        bench.random_file(self.source, self.size)

    def fio(self, uri):
        half = self.size // 2
        return self.bench.programs.start(
            ['fio', '--name=bench', '--ioengine=nbd', '--uri=' + uri,
             '--rw=randrw', '--bs=%d' % (4 * KIB), '--iodepth=4',
             '--rate_iops=500,500', '--fsync=50', '--offset=%d' % half,
             '--size=%d' % half, '--randseed=1', '--norandommap=1',
             '--time_based', '--runtime=%d' % self.seconds,
             '--output-format=json'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def times(self, process):
        """(what, milliseconds) when fio has ended"""
        try:
            output, _ = process.communicate(timeout=tools.LIMIT)
            job = json.loads(output[output.index('{'):])['jobs'][0]
            if job['error']:
                raise ValueError('error %s' % job['error'])
            for name in 'read', 'write':
                done = job[name]['clat_ns']
                yield (name + ', 99.9 % take no longer',
                       done['percentile']['99.900000'] / 1e6)
                yield name + ', the slowest', done['max'] / 1e6
            yield 'flush, the slowest', job['sync']['lat_ns']['max'] / 1e6
        except (ValueError, KeyError, IndexError) as error:
            raise tools.Failure('fio: %s' % error) from None
        finally:
            self.bench.programs.kill(process)

    def measure(self, data, number, mib):
        path = self.bench.path(self.fmt, 'beside')
        monitor_path = os.path.join(self.bench.memory, 'qmp')
        self.bench.fill(self.fmt, self.source, path, mib * MIB)
        length = os.stat(path).st_size
        opts = tools.image_opts(self.fmt, path, self.aio, discard='unmap',
                                **{'file.discard': 'unmap'})

        def add(process, how):
            for case, value in self.times(process):
                target = TARGET if case.endswith('slowest') else ''
                data.add('beside', 'blocks of %d MiB: %s' % (mib, case),
                            how, 'ours', 'ms', target, number, value)

        with tools.Storage(self.bench, self.fmt, opts, monitor_path) as uri:
            args = [self.fmt.tool('qemu-io'), '-f', 'raw']
            step = max(mib, 16) * MIB
            for at in range(0, self.size // 2, step):
                args += ['-c', 'discard -q %d %d' % (at, step)]
            self.bench.run(args + ['-c', 'flush', uri])
            monitor = Monitor(monitor_path)
            try:
                add(self.fio(uri), 'alone')
                process = self.fio(uri)
                time.sleep(START)
                monitor.compact()
                if process.poll() is not None:
                    raise tools.Failure('compacting takes longer than fio')
                add(process, 'compacting')
            finally:
                monitor.close()
        if os.stat(path).st_size > length - self.size // 4:
            raise tools.Failure('compacting has moved nothing')
        os.unlink(path)


def run(bench, data, rounds):
    aios, _ = throughput.usable_aio(bench)
    beside = Beside(bench, aios[0] if aios else 'threads')
    end = rounds.end()
    for number in range(rounds.most):
        for mib in BLOCKS:
            if number < rounds.least or (time.monotonic() < end and
                                         is_open(data, mib)):
                rounds.say('compacting beside fio, round %d: blocks of %d MiB'
                           % (number + 1, mib))
                beside.measure(data, number, mib)
