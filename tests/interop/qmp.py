"""A qemu-storage-daemon with a QMP monitor on its standard input."""
import json
import subprocess
import threading
import time

from harness import Failure, ours


class Daemon:
    def __init__(self, *options):
        self.process = subprocess.Popen(
            [ours('qemu-storage-daemon'), '--chardev', 'stdio,id=m',
             '--monitor', 'chardev=m', *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        # a daemon that says nothing must not hold the test for ever
        self.guard = threading.Timer(120, self.process.kill)
        self.guard.start()
        self._receive()                         # the greeting
        self.command('qmp_capabilities')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.process.poll() is None:
                self.process.stdin.write(b'{"execute": "quit"}\n')
                self.process.stdin.flush()
            self.process.communicate(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.communicate()
        finally:
            self.guard.cancel()

    def _receive(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure('qemu-storage-daemon ended: '
                          + self.process.stderr.read().decode())
        return json.loads(line)

    def command(self, name, **arguments):
        """The return value; an error is a Failure with its text."""
        text = json.dumps({'execute': name, 'arguments': arguments})
        self.process.stdin.write(text.encode() + b'\n')
        self.process.stdin.flush()
        while True:
            answer = self._receive()
            if 'error' in answer:
                raise Failure(answer['error']['desc'])
            if 'return' in answer:
                return answer['return']

    def create(self, **options):
        """blockdev-create; the error of its job, or None."""
        self.command('blockdev-create', **{'job-id': 'create',
                                           'options': options})
        end = time.monotonic() + 60
        while time.monotonic() < end:
            job, = self.command('query-jobs')
            if job['status'] == 'concluded':
                self.command('job-dismiss', id='create')
                return job.get('error')
            time.sleep(0.005)
        raise Failure('blockdev-create does not end')
