"""What the measurements stand on: formats, programs, images, a folder.

A Format is a name, the driver behind it and the folder of its programs.  raw
and qcow2 are the same code in both builds and are taken from ours; QEMU's own
VHDX driver comes from a build of its own.  Every program has a time limit, and
those that are still there at the end are killed.
"""
import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
LIMIT = 120     # seconds for one program


class Failure(Exception):
    """A measurement that could not be taken, and why."""


class Format:
    def __init__(self, name, driver, folder):
        self.name = name
        self.driver = driver
        self.folder = folder

    def tool(self, name):
        return os.path.join(self.folder, name)


def formats():
    """In the order in which they are measured."""
    ours, stock = os.environ['QEMU_BIN_DIR'], os.environ['STOCK_BIN_DIR']
    return [Format('raw', 'raw', ours), Format('qcow2', 'qcow2', ours),
            Format('stock', 'vhdx', stock), Format('ours', 'vhdx', ours)]


class Programs:
    """Starts programs and knows which of them are still running."""

    def __init__(self):
        self.running = set()

    def start(self, args, **kwargs):
        process = subprocess.Popen(args, **kwargs)
        self.running.add(process)
        return process

    def end(self, process, limit=LIMIT):
        """Wait for a program; one that does not end in time is killed."""
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failure('%s does not end' % process.args[0]) from None
        finally:
            self.kill(process)

    def kill(self, process):
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in process.stdin, process.stdout, process.stderr:
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        self.running.discard(process)

    def kill_all(self):
        for process in list(self.running):
            self.kill(process)

    def run(self, args, limit=LIMIT):
        """Run to the end; gives standard output, and error output with it."""
        process = self.start(args, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True)
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failure('%s: not done after %d seconds'
                          % (os.path.basename(args[0]), limit)) from None
        finally:
            self.kill(process)
        if process.returncode:
            raise Failure('%s: exit status %d: %s' % (
                os.path.basename(args[0]), process.returncode,
                ' '.join(output.split())[-300:]))
        return output


class Bench:
    """A run: its programs and its folder of images."""

    def __init__(self, folder, quick):
        self.quick = quick
        self.programs = Programs()
        self.formats = formats()
        self.folder = tempfile.mkdtemp(prefix='vhdx-bench.', dir=folder)
        self.memory = tempfile.mkdtemp(prefix='vhdx-bench.', dir='/dev/shm')

    def close(self):
        self.programs.kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)

    def run(self, args, limit=LIMIT):
        return self.programs.run(args, limit)

    def seconds(self, args, limit=LIMIT):
        """How long a program takes."""
        begin = time.monotonic()
        self.run(args, limit)
        return time.monotonic() - begin

    def library(self, name):
        """One to preload, from NAME.c."""
        library = os.path.join(self.folder, name + '.so')
        here = os.path.dirname(os.path.abspath(__file__))
        self.run(['gcc', '-O2', '-shared', '-fPIC', '-o', library,
                  os.path.join(here, name + '.c'), '-ldl'])
        return library

    def path(self, fmt, name):
        return os.path.join(self.folder, '%s.%s' % (name, fmt.name))

    def create(self, fmt, path, size, block_size=None):
        args = [fmt.tool('qemu-img'), 'create', '-q', '-f', fmt.driver]
        if block_size and fmt.driver == 'vhdx':
            args += ['-o', 'block_size=%d' % block_size]
        self.run(args + [path, str(size)])

    @contextlib.contextmanager
    def fresh(self, fmt, size, block_size=None):
        """An empty image, gone afterwards."""
        path = self.path(fmt, 'fresh')
        try:
            self.create(fmt, path, size, block_size)
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def fill(self, fmt, source, path, block_size=None):
        """An image with the content of a raw file; gives the time it takes."""
        args = [fmt.tool('qemu-img'), 'convert', '-t', 'none', '-T', 'none',
                '-f', 'raw', '-O', fmt.driver]
        if block_size and fmt.driver == 'vhdx':
            args += ['-o', 'block_size=%d' % block_size]
        return self.seconds(args + [source, path])

    def read_some(self, stream, deadline):
        """What there is to read; nothing at the end, or at the deadline."""
        wait = max(0, deadline - time.monotonic())
        if not select.select([stream], [], [], wait)[0]:
            return b''
        return os.read(stream.fileno(), 65536)

    def fill_memory(self, fmt, source):
        """The same in memory, where there is no O_DIRECT."""
        self.run([fmt.tool('qemu-img'), 'convert', '-f', 'raw', '-O',
                  fmt.driver, source,
                  os.path.join(self.memory, 'full.' + fmt.name)])

    def random_file(self, path, size):
        with open(path, 'wb') as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


def image_opts(fmt, path, aio, **extra):
    """An image opened with O_DIRECT, or with threads and the page cache."""
    direct = 'off' if aio == 'threads' else 'on'
    opts = {'driver': fmt.driver, 'cache.direct': direct,
            'file.driver': 'file', 'file.filename': path.replace(',', ',,'),
            'file.cache.direct': direct, 'file.aio': aio}
    opts.update(extra)
    return ','.join('%s=%s' % item for item in opts.items())


def scatter(size, request):
    """
    A distance between requests that leads all over a disk: about 1/(n + g) of
    it, with g the golden section, which spreads any number of requests evenly.
    It is an odd number of requests, so each place comes up once in a turn.
    qemu-img takes distances below 2 GiB.
    """
    parts = max(1, size // (2 * GIB)) + 0.618034
    return (int(size / parts / request) | 1) * request


def img_bench(fmt, opts, aio, size, *, count, request, depth, write=False,
              flush=0, step=None):
    """The command line of qemu-img bench."""
    cache = 'writeback' if aio == 'threads' else 'none'
    args = [fmt.tool('qemu-img'), 'bench', '--image-opts', '-t', cache,
            '-i', aio, '-c', str(count), '-s', str(request), '-d', str(depth),
            '-S', str(step or scatter(size, request))]
    if write:
        args.append('-w')
    if flush:
        args.append('--flush-interval=%d' % flush)
    return args + [opts]


def img_bench_seconds(output):
    match = re.search(r'^Run completed in ([0-9.]+) seconds', output, re.M)
    if not match:
        raise Failure('qemu-img bench gave no time')
    return max(float(match[1]), 0.001)


class Storage:
    """
    qemu-storage-daemon with one image, the node "disk", served over NBD; with
    a monitor at the path @monitor, if it is given.
    """

    def __init__(self, bench, fmt, opts, monitor=None):
        self.bench = bench
        self.socket = os.path.join(bench.memory, 'nbd')
        # The image's options are those of a block device without "driver".
        self.process = bench.programs.start(
            [fmt.tool('qemu-storage-daemon'),
             '--blockdev', opts + ',node-name=disk',
             '--nbd-server', 'addr.type=unix,addr.path=' + self.socket,
             '--export',
             'type=nbd,id=export,node-name=disk,name=,writable=on',
             *(['--chardev', 'socket,id=monitor,server=on,wait=off,path='
                + monitor, '--monitor', 'monitor'] if monitor else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        deadline = time.monotonic() + 30
        while not os.path.exists(self.socket):
            if self.process.poll() is not None:
                output = self.process.stdout.read()
                self.bench.programs.kill(self.process)
                raise Failure('qemu-storage-daemon: ' + output.strip())
            if time.monotonic() > deadline:
                self.bench.programs.kill(self.process)
                raise Failure('qemu-storage-daemon does not serve')
            time.sleep(0.01)
        return 'nbd+unix:///?socket=' + self.socket

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.bench.programs.end(self.process)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.socket)
        if status:
            raise Failure('qemu-storage-daemon: exit status %d' % status)
