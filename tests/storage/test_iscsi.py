from harness import expect
from model import Model
from script import Script
from servers import Iscsi
from strict.report import MIB
import writable
from writable import SIZE, WRITEBACK, create, img, sound


def location(storage, url):
    return {'transport': 'tcp', 'portal': '127.0.0.1',
            'target': storage.target, 'lun': int(url.split('/')[-1])}


def full(ctx):
    """A disk that is larger than the LUN: when that is full a write fails, and
    what is there stays; discarded blocks are used again."""
    with Iscsi(ctx) as storage:
        url = storage.new(16 * MIB)
        text = create(url)
        expect('takes up to 46137344 bytes, and the protocol node has '
               "16778752 bytes and can't grow" in text, text)
        script = Script(Model(SIZE), MIB)
        script.write(0, 11 * MIB, 5)
        ctx.io(url, script.take(), *WRITEBACK)
        text = writable.io_fails(url, 'write -P 6 20M 4M', 'flush')
        expect('No space left' in text, text)
        script.discard(2 * MIB, 6 * MIB)
        script.flush()
        ctx.io(url, script.take(), *WRITEBACK)
        script.model.loose.update(range(20 * 2048, 24 * 2048))
        script.write(20 * MIB, 4 * MIB, 7)
        ctx.io(url, script.take(), *WRITEBACK)
        sound(ctx, url, script.model)
        text = img('resize', '-f', 'vhdx', url, 60 << 40, status=1)
        expect('No space left' in text, text)
        sound(ctx, url, script.model)


def tests():
    return writable.tests(Iscsi, 201, 202) + [
        ('qmp', writable.by_qmp(Iscsi, location)),
        ('refused', writable.refused(Iscsi, 'block_size=1M', '4194304')),
        ('full', full)]
