from harness import expect
from images import fill
from model import Model
from script import Script
from servers import Rbd, RbdWithKeys, info
from strict.report import MIB
import writable
from writable import ROOM, SIZE, WRITEBACK, create, img, sound


def location(storage, url):
    return {'pool': 'rbd', 'image': url.split('/')[1].split(':')[0],
            'conf': storage.conf}


def snapshots(ctx):
    """Ceph's own: one of an image whose log is to be replayed reads as it was,
    by its name, after going back to it, and in a clone."""
    with Rbd(ctx) as storage:
        url = storage.new(ROOM)
        create(url)
        script = Script(Model(SIZE), MIB)
        fill(script, MIB)
        script.kill()
        ctx.io(url, script.take(), *WRITEBACK, status=-9)
        expect(info(url)['dirty-flag'], 'the log is empty')
        img('snapshot', '-c', 'one', url)
        then = script.model.copy()
        script.write(9 * MIB, 3 * MIB, 66)
        ctx.io(url, script.take(), *WRITEBACK)
        sound(ctx, url, script.model)
        snapshot = url.replace(':conf', '@one:conf')
        then.check_raw(ctx.raw(snapshot), 'the snapshot')
        storage.tool('rbd', 'snap', 'protect', 'image1@one')
        storage.tool('rbd', 'clone', 'image1@one', 'clone')
        clone = storage.url('clone')
        script = Script(then.copy(), MIB)
        script.write(0, MIB, 67)
        ctx.io(clone, script.take(), *WRITEBACK)
        sound(ctx, clone, script.model)
        ids = [info(one)['format-specific']['data']['disk-uuid']
               for one in (url, clone)]
        expect(ids[0] == ids[1], 'a clone has the ID %s, not %s', ids[1],
               ids[0])
        img('amend', '-f', 'vhdx', '-o', 'disk_id=new', clone)
        expect(info(clone)['format-specific']['data']['disk-uuid'] != ids[0],
               'the ID is the same')
        img('snapshot', '-a', 'one', url)
        img('check', '-f', 'vhdx', '-r', 'all', url)
        sound(ctx, url, then)


def keys(ctx):
    """With cephx: an image for the user that has a key, and for no other"""
    with RbdWithKeys(ctx) as storage:
        url = storage.new(ROOM)
        create(url)
        script = Script(Model(SIZE), MIB)
        fill(script, MIB)
        ctx.io(url, script.take(), *WRITEBACK)
        sound(ctx, url, script.model)
        text = img('info', '-f', 'vhdx', storage.url('image1', 'nobody'),
                   status=1)
        expect('error connecting' in text, text)


def tests():
    return writable.tests(Rbd, 201, 202) + [
        ('qmp', writable.by_qmp(Rbd, location)),
        ('refused', writable.refused(
            Rbd, 'subformat=fixed,preallocation=falloc', 'falloc')),
        ('server-killed', writable.restarted(RbdWithKeys)),
        ('snapshots', snapshots), ('keys', keys)]
