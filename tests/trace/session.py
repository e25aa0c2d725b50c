"""qemu-io with a record, one command at a time.

Each command is over, with all file requests that it led to, when qemu-io
prompts for the next; the calls noted until then are its.  The image is opened
with aio=threads: the other kinds of I/O do not go through the C library.
"""
import os
import selectors
import subprocess
import time

from events import Trace
from harness import Failure, expect, ours
from record import FLUSH, READ, WRITE, Layout, Record, preloaded

PROMPT = b'qemu-io> '


class Session:
    """'trace' says which of the driver's events are noted as well; 'rule' are
    options of a blkdebug node above the file; with 'size' the image has so
    many bytes for ever, as on a device; with 'delay' each change of the file
    takes up to so many microseconds more."""
    def __init__(self, ctx, image, readonly=False, name='io.record',
                 trace='', rule=None, size=None, delay=0, **options):
        self.layout = Layout(image)
        path = ctx.path(name)
        if os.path.exists(path):
            os.unlink(path)
        self.record = Record(path)
        self.trace = Trace(path + '.trace')
        file, below = {}, 'file'
        if size is not None:
            file.update({'file.driver': 'raw', 'file.size': size})
            below = 'file.file'
        if rule is not None:
            file.update((below + '.' + key, rule[key]) for key in rule)
            file[below + '.driver'] = 'blkdebug'
            below += '.image'
        file.update({below + '.filename': image, below + '.driver': 'file',
                     below + '.aio': 'threads', **options})
        tracing = self.trace.options(trace) if trace else []
        command = [ours('qemu-io'), *tracing, '-t', 'writeback', '-d', 'unmap',
                   '--image-opts', 'driver=vhdx,' + ','.join(
                       '%s=%s' % o for o in file.items())]
        if readonly:
            command.insert(1, '-r')
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=preloaded(path, image, delay))
        self.failed = False
        self.opening = self._names(self._wait())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if not kind and self.process.poll() is None:
                self.close()
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()

    def _wait(self, timeout=60):
        """Read to the next prompt; what was printed before it."""
        out, limit = b'', time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not out.endswith(PROMPT):
                if not selector.select(limit - time.monotonic()):
                    raise Failure('qemu-io does not answer: %r' % out)
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise Failure('qemu-io ended: %r' % out)
                out += data
        return out[:-len(PROMPT)].decode()

    def _names(self, _=None):
        self.ops = self.record.read()
        self.events = self.trace.read()
        return self.layout.names(self.ops)

    def _ask(self, command):
        self.process.stdin.write(command.encode() + b'\n')
        self.process.stdin.flush()
        return self._wait()

    def do(self, *commands):
        """Run these; the names of the changes they made to the file, in order
        of their beginnings.  self.ops has the calls themselves, self.events
        what was traced."""
        for command in commands:
            text = self._ask(command)
            expect('failed' not in text and 'not found' not in text, text)
        return self._names()

    def fails(self, *commands, error='Input/output error'):
        """The same, and each command has to fail.  A flush that does prints
        nothing: 'write -f 0 0' is one as well."""
        self.failed = True
        for command in commands:
            text = self._ask(command)
            expect('failed: ' + error in text, '%s: %s', command, text)
        return self._names()

    def reads(self):
        """Of the last do()."""
        return [self.layout.part(op) for op in self.ops if op.kind == READ]

    def writes(self, part):
        return [op for op in self.ops
                if op.kind == WRITE and self.layout.part(op) == part]

    def flushes(self):
        return [op for op in self.ops if op.kind == FLUSH]

    def kill(self):
        """End as in a crash: what is not written yet stays so."""
        self.process.kill()
        self.process.wait()

    def close(self):
        """Close the image; the names of what that did.  A flush that failed
        has printed nothing, but the exit status tells."""
        out, _ = self.process.communicate(b'quit\n', timeout=60)
        expect(self.process.returncode == int(self.failed), 'qemu-io: %s',
               out.decode())
        return self._names()
