"""An NBD export that wants TLS: all is as without, for who has the key."""
from harness import check_copy, expect, foreign, run
from images import fill
from model import Model
from qmp import Daemon
from script import Script
from servers import NbdTls
from strict.report import MIB
from writable import SIZE, WRITEBACK, img


def refused(storage, creds, tls, words):
    text = img('info', *creds, storage.url(tls=tls), status=1)
    expect(words in text, '"%s" is not in: %s', words, text)


def sound(ctx, storage, model):
    """Content and structure are right, also for another client."""
    url, creds = storage.url(), storage.creds()
    img('check', *creds, '--image-opts', options(storage))
    target = ctx.path('content.raw')
    img('convert', *creds, '-O', 'raw', url, target)
    model.check_raw(target, 'convert')
    copy = ctx.path('copy.vhdx')
    run(foreign('nbdcopy'), 'nbds://%s@127.0.0.1:10809?tls-psk-file=%s'
        % (storage.user, storage.path('')), copy)
    check_copy(copy, model)


def options(storage):
    node = storage.node()
    return ('driver=vhdx,file.driver=nbd,file.tls-creds=%s,'
            % node['tls-creds'] + ','.join(
                'file.server.%s=%s' % one for one in node['server'].items()))


def written(ctx):
    """Made by QMP, written to, killed, read before and after the replay"""
    with NbdTls(ctx) as storage:
        with Daemon(*storage.creds()) as daemon:
            daemon.command('blockdev-add', **{'node-name': 'file',
                                              **storage.node()})
            error = daemon.create(driver='vhdx', file='file', size=SIZE,
                                  **{'block-size': MIB})
            expect(not error, '%s', error)
        script = Script(Model(SIZE), MIB)
        fill(script, MIB)
        script.kill()
        ctx.io(storage.url(), script.take(), *storage.creds(), *WRITEBACK,
               status=-9)
        script.read(0, SIZE, most=1000)
        ctx.io(storage.url(), script.take(), *storage.creds(), '-r')
        img('check', *storage.creds(), '-r', 'all', '--image-opts',
            options(storage))
        sound(ctx, storage, script.model)
        img('resize', *storage.creds(), '--image-opts', options(storage),
            '48M')
        script.model.resize(48 * MIB)
        sound(ctx, storage, script.model)
        img('amend', *storage.creds(), '-o', 'compact=space', '--image-opts',
            options(storage))
        sound(ctx, storage, script.model)


def no_key(ctx):
    with NbdTls(ctx) as storage:
        refused(storage, [], False, 'TLS')
        refused(storage, storage.creds('wrong'), True, 'TLS')


def tests():
    return [('written', written), ('no-key', no_key)]
