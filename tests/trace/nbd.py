"""A small NBD client with many requests in flight, and the daemon it talks to.

Requests are sent as they come and replies are taken as they come; of each the
time before it was sent and the time after its reply are kept.  Only what these
tests need of the protocol is here: a fixed newstyle handshake and simple
replies.
"""
import contextlib
import os
import socket
import struct
import time

import qmp
from harness import expect
from record import environment, preloaded

READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6
NO_HOLE = 2
HANDSHAKE = b'NBDMAGICIHAVEOPT'
REQUEST = struct.Struct('>IHHQQI')
REPLY = struct.Struct('>IIQ')


class Request:
    def __init__(self, kind, offset=0, length=0, data=b'', flags=0):
        self.kind, self.offset, self.length = kind, offset, length
        self.data, self.flags = data, flags
        self.sent = self.replied = self.error = None

    @property
    def stop(self):
        return self.offset + self.length

    def __repr__(self):
        return 'kind %d at %#x+%#x' % (self.kind, self.offset, self.length)


class Client:
    def __init__(self, path, export):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.flying = {}
        self.number = 0
        hello = self._receive(18)
        expect(hello[:16] == HANDSHAKE, 'not NBD: %r', hello)
        name = export.encode()
        self.socket.sendall(struct.pack('>I8sII', 1, b'IHAVEOPT', 1,
                                        len(name)) + name)
        self.size, self.flags = struct.unpack('>QH', self._receive(10))
        self._receive(124)

    def close(self):
        self.socket.close()

    def _receive(self, length):
        data = bytearray()
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def send(self, *requests):
        """All in one go, so that they are in flight together."""
        out = []
        for r in requests:
            self.number += 1
            self.flying[self.number] = r
            out.append(REQUEST.pack(0x25609513, r.flags, r.kind, self.number,
                                    r.offset, r.length) + r.data)
        now = time.monotonic_ns()
        for r in requests:
            r.sent = now
        self.socket.sendall(b''.join(out))

    def receive(self):
        """Wait for one reply; the request it belongs to."""
        magic, error, number = REPLY.unpack(self._receive(REPLY.size))
        expect(magic == 0x67446698, 'reply has magic %#x', magic)
        r = self.flying.pop(number)
        if r.kind == READ and not error:
            r.data = self._receive(r.length)
        r.replied, r.error = time.monotonic_ns(), error
        return r

    def drain(self):
        while self.flying:
            self.receive()

    def do(self, *requests):
        """Send these together, wait for them all; none may fail."""
        self.send(*requests)
        self.drain()
        for r in requests:
            expect(not r.error, '%s: error %d', r, r.error)


@contextlib.contextmanager
def exported(ctx, image, record, delay=0, direct=False, rule='', size=None,
             trace=()):
    """A storage daemon with its image on NBD, its calls noted; a Client and
    the process.  'rule' is what blkdebug lets fail; with 'size' the image has
    so many bytes for ever, as on a device.  'trace' are options that let it
    trace."""
    path = ctx.path('nbd.sock')
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    file, above = 'file', []
    if rule:
        above += ['--blockdev', 'blkdebug,node-name=faulty,image=file,' + rule]
        file = 'faulty'
    if size:
        above += ['--blockdev', 'raw,node-name=sized,file=%s,size=%d,'
                  'discard=unmap' % (file, size)]
        file = 'sized'
    with environment(preloaded(record, image, delay)):
        daemon = qmp.Daemon(
            *trace, '--blockdev',
            'file,node-name=file,filename=%s,aio=threads,discard=unmap,'
            'cache.direct=%s' % (image, 'on' if direct else 'off'),
            *above,
            '--blockdev', 'vhdx,node-name=disk,file=%s,discard=unmap' % file,
            '--nbd-server', 'addr.type=unix,addr.path=' + path,
            '--export', 'nbd,id=e,node-name=disk,name=disk,writable=on')
    with daemon:
        client = Client(path, 'disk')
        try:
            yield client, daemon.process
        finally:
            client.close()


def supports_direct(folder):
    """Whether files there can be opened with O_DIRECT."""
    path = os.path.join(folder, 'direct')
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
        return True
    except OSError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
