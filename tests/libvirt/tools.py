"""Programs with a time limit, qemu-img and qemu-io, and files compared."""
import hashlib
import json
import os
import subprocess
import time

from report import Failure, expect, note_check

LIMIT = 120
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40


def run(command, fails=None, limit=LIMIT, given='', **more):
    """Run a program to its end; what it printed.

    'given' is its standard input.  It has to succeed, or, with 'fails', to
    fail with each of these strings in what it printed."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, input=given.encode(),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=limit, check=False, **more)
    except subprocess.TimeoutExpired as why:
        raise Failure('no end within %d s: %s'
                      % (limit, ' '.join(command))) from why
    text = done.stdout.decode(errors='replace')
    told = 'exit %d of %s\n%s' % (done.returncode, ' '.join(command),
                                  text.strip()[:2000])
    if fails is None:
        expect(done.returncode == 0, '%s', told)
        return text
    # a program that a signal has ended has not refused anything
    expect(done.returncode > 0, 'no refusal: %s', told)
    for part in [fails] if isinstance(fails, str) else fails:
        expect(part in text, "'%s' is missing: %s", part, told)
    return text


def wait_for(what, condition, limit=LIMIT):
    """Ask until the answer is true; the answer."""
    end = time.monotonic() + limit
    while True:
        answer = condition()
        if answer:
            note_check()
            return answer
        if time.monotonic() > end:
            raise Failure('%s: not within %d s' % (what, limit))
        time.sleep(0.05)


class Tools:
    """The programs under test."""
    def __init__(self, img, emulator):
        self.img_path = os.path.abspath(img)
        self.io_path = os.path.join(os.path.dirname(self.img_path), 'qemu-io')
        self.emulator = os.path.abspath(emulator)

    def img(self, *args, **how):
        return run([self.img_path, *args], **how)

    def create(self, path, size, form='vhdx', backing=None, **options):
        """A new image; options as -o has them."""
        args = ['-o', ','.join('%s=%s' % pair for pair in options.items())] \
            if options else []
        if backing:
            args += ['-F', backing[0], '-b', backing[1]]
        self.img('create', '-q', '-f', form, *args, path, str(size))
        return path

    def info(self, path, form='vhdx'):
        """qemu-img info, of an image that may be in use."""
        return json.loads(self.img('info', '-U', '-f', form, '--output=json',
                                   path))

    def chain(self, path, form='vhdx'):
        """Format and file of an image and of all below it, as 'qemu-img
        info --backing-chain' finds them."""
        found = json.loads(self.img('info', '-U', '--backing-chain', '-f',
                                    form, '--output=json', path))
        return [(image['format'], image['filename']) for image in found]

    def backing(self, path, form='vhdx'):
        """The name of the parent as the image has it, None without."""
        return self.info(path, form).get('backing-filename')

    def depths(self, path, form='vhdx'):
        """(offset, length, how far down the chain it is), all of the disk."""
        found = json.loads(self.img('map', '-f', form, '--output=json', path))
        return [(part['start'], part['length'], part['depth'])
                for part in found]

    def vhdx(self, path):
        """What is special to the format: block-size, subformat ..."""
        return self.info(path)['format-specific']['data']

    def size(self, path, form='vhdx'):
        return self.info(path, form)['virtual-size']

    def same(self, a, b, forms='vhdx vhdx'):
        """Both disks have the same content and the same size."""
        form_a, form_b = forms.split()
        text = self.img('compare', '-f', form_a, '-F', form_b, a, b)
        expect('identical' in text, '%s', text)
        expect(self.size(a, form_a) == self.size(b, form_b),
               '%s and %s have different sizes', a, b)

    def check(self, path, form='vhdx'):
        text = self.img('check', '-f', form, path)
        expect('No errors were found' in text, '%s', text)

    def io(self, path, *commands, form='vhdx', readonly=False):
        """qemu-io on an image that nobody has open; a read of the wrong
        pattern or any other command that fails is a failure."""
        args = ['-r'] if readonly else []
        for command in commands:
            args += ['-c', command]
        text = run([self.io_path, '-f', form, *args, path])
        for bad in ('failed', 'not found', 'rror'):
            expect(bad not in text, '%s: %s', ' '.join(commands), text)
        return text

    def holds(self, path, *patterns, form='vhdx'):
        """The disk has these patterns: (byte, offset, length)."""
        self.io(path, *('read -P %s %s %s' % p for p in patterns), form=form,
                readonly=True)


def sha256(path):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class Unchanged:
    """The bytes of these files are the same at the end of the block."""
    def __init__(self, *paths):
        self.paths = paths
        self.before = []

    def __enter__(self):
        self.before = [sha256(path) for path in self.paths]

    def __exit__(self, kind, *_):
        if kind is None:
            for path, before in zip(self.paths, self.before):
                expect(sha256(path) == before, '%s was changed', path)


def allocated(path):
    return os.stat(path).st_blocks * 512
