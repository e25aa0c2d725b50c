"""What every interoperation test stands on: tools, a folder, a runner.

A group is a module with tests(): a list of (name, function).  The function
gets a Context, whose folder is its own, and fails by an exception; Skip says
why it could not be tried.  Tests run in two processes side by side (JOBS=),
are printed in their order, and every program they start has a time limit.
What a test leaves behind fails it: a program that runs, a mount, a folder that
can't be removed.
"""
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import contextlib
import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any, List, Tuple

from strict.report import MIB
from strict.view import View
from vhdx_strict import Image

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
# a line of the content that qemu-io's read -v prints
DUMP = re.compile(r'^[0-9a-f]{8,}:  ((?:[0-9a-f]{2} ){1,16}).*\n', re.M)
LIMIT = int(os.environ.get('TEST_SECONDS', '300'))
# ... and more than a test takes to tidy up when its time is over
GRACE = int(os.environ.get('TEST_GRACE', '60'))
# Programs that have been told to end may take so many seconds for it.
PATIENCE = min(10, GRACE)
PR_SET_CHILD_SUBREAPER = 36


class Skip(Exception):
    pass


class Failure(Exception):
    pass


class OutOfTime(BaseException):
    """Not to be taken for an error of what a test tries."""


def ours(tool):
    """One of the tools that hold the driver under test."""
    path = os.path.join(os.environ.get('QEMU_BIN_DIR')
                        or os.path.join(ROOT, 'build', 'bin'), tool)
    if not os.access(path, os.X_OK):
        raise Failure('%s is not there: run make, or set QEMU_BIN_DIR' % path)
    return path


def foreign(tool):
    """A tool of the distribution."""
    path = shutil.which(tool, path='/usr/bin:/usr/sbin:/bin')
    if not path:
        raise Skip('%s is not installed' % tool)
    return path


def expect(condition, text, *values):
    if not condition:
        raise Failure(text % values if values else text)


def run(*command, status=0, timeout=120, **more):
    """Run a program to its end; its output, both streams in one."""
    command = [str(c) for c in command]
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False, **more)
    text = done.stdout.decode(errors='replace')
    if status is not None and done.returncode != status:
        shown = ' '.join(command)
        if len(shown) > 300:
            shown = shown[:300] + ' ...'
        raise Failure('exit %d of %s\n%s'
                      % (done.returncode, shown, DUMP.sub('', text)[:1000]))
    return text


class Context:
    """The folder of one test, and what most tests do in it."""
    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def create(self, name, size, **options):
        """An image by our driver; options as -o has them."""
        path = self.path(name)
        args = ['-o', ','.join('%s=%s' % o for o in options.items())] \
            if options else []
        run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', *args, path, size)
        return path

    def io(self, path, commands, *options, tool=None, status=0):
        """qemu-io with these commands; any that failed fails the test.  'path'
        may be options that say how the image is opened ("driver=...").

        A flush that fails prints nothing, and only the exit status tells of
        it.  A process that is to die has none: then a write of no bytes that
        has to be stable, which is the same flush, takes its place."""
        args = []
        for command in commands:
            if command == 'flush' and status != 0:
                command = 'write -q -f 0 0'
            args += ['-c', command]
        how = ['--image-opts'] if path.startswith('driver=') else \
            ['-f', 'vhdx']
        text = run(tool or ours('qemu-io'), *how, *options, *args, path,
                   status=status, timeout=LIMIT)
        for line in text.splitlines():
            expect('failed' not in line and 'not found' not in line,
                   'qemu-io: %s', line)
        return text

    def raw(self, path, name='content.raw', tool=None, form='vhdx'):
        """The content of an image as a raw file, by qemu-img."""
        target = self.path(name)
        run(tool or ours('qemu-img'), 'convert', '-f', form, '-O', 'raw',
            path, target)
        return target


@contextlib.contextmanager
def checked(path, **how):
    """The strict reader on an image in which it finds nothing wrong."""
    with Image(path, **how) as image:
        bad = image.report.bad()
        expect(not bad, 'strict reader:\n%s',
               '\n'.join(image.report.lines(bad)))
        yield image


def second_writes(ctx, url):
    """A program has an image open, another one writes to 64 KiB at 2 MiB, and
    the first one's next write fails, as it says.  Nothing keeps them apart:
    for where there is no lock."""
    with subprocess.Popen([ours('qemu-io'), '-f', 'vhdx', url],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as first:
        try:
            first.stdin.write(b'read 0 4k\n')
            first.stdin.flush()
            while b'read 4096/4096' not in (line := first.stdout.readline()):
                expect(line, 'the first program has ended')
            ctx.io(url, ['write -q -P 2 2M 64k'])
            text = first.communicate(b'write -P 7 7M 64k\n',
                                     timeout=60)[0].decode()
        finally:
            first.kill()
    expect('another program has written to it' in text and
           'write failed: Input/output error' in text, text)


def check_copy(path, model):
    """The copy of a node that may be longer than its image needs: its unused
    end is cut, then it is checked strictly, and compared with the model."""
    with Image(path, unclean=True) as image:
        expect(image.readable, '\n'.join(image.report.lines()))
        end = image.objects()[-1][1]
    os.truncate(path, end)
    with checked(path) as image:
        model.check_image(image)


def same_as_raw(image, raw):
    """The strict reader's content against a raw file's, holes skipped."""
    view = View(raw)
    try:
        expect(view.size == image.params.disk_size, 'raw file has %d bytes, '
               'the disk %d', view.size, image.params.disk_size)
        extents = list(image.data_extents())
        extents += [(start, end - start)
                    for start, end in view.data_in(0, view.size)]
        for start, length in extents:
            for at in range(start, start + length, MIB):
                n = min(MIB, start + length - at)
                expect(image.read(at, n) == view.read(at, n),
                       'content differs between %#x and %#x', at, at + n)
    finally:
        view.close()


def _serves(path):
    """Whether the path is there; a socket is there before anyone listens, and
    Linux has the flag 0x10000 for one that does."""
    if not os.path.exists(path):
        return False
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        return True
    with open('/proc/net/unix', encoding='utf-8', errors='replace') as file:
        return any(line.split()[3] == '00010000' and
                   line.rstrip('\n').endswith(' ' + str(path))
                   for line in list(file)[1:])


@contextlib.contextmanager
def server(*command, ready, timeout=20):
    """A program in the background, until the block ends.

    'ready' is a path that appears once it serves."""
    process = subprocess.Popen([str(c) for c in command],
                               stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + timeout
        while not _serves(ready):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise Failure('%s did not start: %s' % (
                    command[0], process.communicate()[0].decode()))
            time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _none_runs():
    """Whether all programs below this process have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _wait_for_programs():
    end = time.monotonic() + PATIENCE
    while not (done := _none_runs()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


def _end_programs():
    """Programs that run on, which are ended; also those whose own parent has
    ended, as this process has adopted them."""
    if _wait_for_programs():
        return
    found = subprocess.run(['pgrep', '-a', '-P', str(os.getpid())],
                           stdout=subprocess.PIPE, check=False, text=True)
    for line in found.stdout.splitlines():
        yield 'a program runs on: ' + line
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    if not _wait_for_programs():
        yield 'it can\'t be ended'


def _unmount(folder):
    """What is mounted below a folder, which is ended."""
    with open('/proc/self/mountinfo', encoding='utf-8') as file:
        points = [re.sub(r'\\([0-7]{3})', lambda m: chr(int(m.group(1), 8)),
                         line.split()[4]) for line in file]
    for point in reversed(points):
        if point.startswith(os.path.realpath(folder) + '/'):
            yield 'still mounted: ' + point
            tool = ['umount', '-l'] if os.getuid() == 0 else \
                ['fusermount3', '-u', '-z']
            subprocess.run(tool + [point], check=False)


def _tidy(folder):
    """Remove a folder, and end what was left there; one line for each thing
    that should not have been there."""
    left = [*_end_programs(), *_unmount(folder)]
    if not os.environ.get('KEEP'):
        try:
            shutil.rmtree(folder)
        except OSError as why:
            left.append('the folder can\'t be removed: %s' % why)
    return left


def _adopt():
    """Be the parent of each program below this process whose own has ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _out_of_time(*_):
    raise OutOfTime('no end after %d seconds' % LIMIT)


def _run_one(job):
    name, function, top = job
    folder = tempfile.mkdtemp(dir=top)
    _adopt()
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(LIMIT)
    # A test that does not listen ends with its process.
    faulthandler.dump_traceback_later(LIMIT + GRACE, exit=True)
    started = time.monotonic()
    try:
        function(Context(folder))
        result = 'ok', ''
    except Skip as why:
        result = 'skip', str(why)
    except (Failure, OutOfTime, subprocess.TimeoutExpired) as why:
        result = 'not ok', str(why)
    except Exception:
        result = 'not ok', traceback.format_exc()
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    seconds = time.monotonic() - started
    left = _tidy(folder)
    if left:
        result = 'not ok', '\n'.join([*filter(None, result[1:]), *left])
    return (name, seconds) + result


_JOBS: List[Tuple[Any, ...]] = []


def _run_number(number):
    return _run_one(_JOBS[number])


def _result(number, future):
    """What _run_one() has given."""
    try:
        return future.result()
    except BrokenProcessPool:
        return _JOBS[number][0], 0, 'not ok', 'this test, or the one beside ' \
            'it, has ended the process that it ran in'


def run_all(part, chosen):
    """Run (name, function) pairs; the status to exit with."""
    counts = {'ok': 0, 'not ok': 0, 'skip': 0}
    top = tempfile.mkdtemp(prefix='vhdx-%s-' % part)
    _adopt()
    _JOBS.extend((name, function, top) for name, function in chosen)
    try:
        # forked, so that the functions need not be sent
        with ProcessPoolExecutor(
                int(os.environ.get('JOBS', '2')),
                mp_context=multiprocessing.get_context('fork')) as pool:
            futures = [pool.submit(_run_number, number)
                       for number in range(len(_JOBS))]
            for number, future in enumerate(futures):
                name, seconds, status, text = _result(number, future)
                counts[status] += 1
                print('%s %s%s (%.1f s)' % (
                    status, name,
                    ': ' + text if status == 'skip' else '', seconds))
                if status == 'not ok':
                    print('\n'.join('# ' + l for l in text.splitlines()))
                sys.stdout.flush()
    finally:
        left = _tidy(top)
        if left:
            counts['not ok'] += 1
            print('not ok what was left\n# ' + '\n# '.join(left))
        if os.environ.get('KEEP'):
            print('# files are in ' + top)
    print('%s: %d passed, %d failed, %d skipped'
          % (part, counts['ok'], counts['not ok'], counts['skip']))
    return 1 if counts['not ok'] or not counts['ok'] else 0


def main(part, groups):
    """Run the tests of these groups that the command line names, or list
    them; the status to exit with."""
    wanted = [a for a in sys.argv[1:] if a != '-l']
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = []
    for group in groups:
        module = importlib.import_module('test_' + group)
        for name, function in module.tests():
            name = group + '/' + name
            if not wanted or any(name.startswith(w) for w in wanted):
                chosen.append((name, function))
    if '-l' in sys.argv[1:]:
        for name, _ in chosen:
            print(name)
        return 0
    return run_all(part, chosen)
