"""Programs with a QMP monitor on their standard input."""
import json
import subprocess
import threading
import time

from harness import Failure, LIMIT, ours


class Monitor:
    def __init__(self, *command, limit=120, **more):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **more)
        # a program that says nothing must not hold the test for ever
        self.guard = threading.Timer(limit, self.process.kill)
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
            raise Failure('%s ended: %s' % (
                self.process.args[0], self.process.stderr.read().decode()))
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

    def job(self, name, **arguments):
        """Run a job to its end, also one that has to be told when; its error,
        or None."""
        self.command(name, **{'job-id': 'job', **arguments})
        end = time.monotonic() + LIMIT
        told = False
        while time.monotonic() < end:
            job, = self.command('query-jobs')
            if job['status'] == 'ready' and not told:
                self.command('job-complete', id='job')
                told = True
            elif job['status'] == 'concluded':
                self.command('job-dismiss', id='job')
                return job.get('error')
            time.sleep(0.005)
        raise Failure('%s does not end' % name)


class Daemon(Monitor):
    """A qemu-storage-daemon."""
    def __init__(self, *options):
        super().__init__(ours('qemu-storage-daemon'), '--chardev',
                         'stdio,id=m', '--monitor', 'chardev=m', *options)

    def create(self, **options):
        """blockdev-create; the error of its job, or None."""
        return self.job('blockdev-create', options=options)
