"""Images that a web server has: they can be read, and nothing else."""
import os
import shutil

from harness import expect, ours, run
from images import fill
from model import Model
from script import Script
from servers import Https, info
from strict.report import MIB
from writable import SIZE, WRITEBACK, create, img


# The curl driver of QEMU 7.2 may lose one of several requests under way.
def raw(ctx, url):
    target = ctx.path('content.raw')
    img('convert', '-m', '1', '-f', 'vhdx', '-O', 'raw', url, target)
    return target


def same(path, before):
    with open(path, 'rb') as one, open(before, 'rb') as two:
        expect(one.read() == two.read(), 'the file has been changed')


def reads(subformat, unclean):
    """An image, also one with a log that is to be replayed, which it stays"""
    def test(ctx):
        with Https(ctx) as storage:
            path = ctx.path('data/disk.vhdx')
            create(path, subformat=subformat)
            script = Script(Model(SIZE), 0 if subformat == 'fixed' else MIB)
            fill(script, MIB)
            if unclean:
                script.kill()
            ctx.io(path, script.take(), *WRITEBACK,
                   status=-9 if unclean else 0)
            url = storage.url('disk.vhdx')
            text = img('info', '-f', 'vhdx', url, status=1)
            expect('certificate' in text, text)
            storage.trust()
            expect(info(url).get('dirty-flag', False) == unclean,
                   'the log is not as it was left')
            # 3: what a kill has left at the end
            img('check', '-f', 'vhdx', url, status=3 if unclean else 0)
            script.model.check_raw(raw(ctx, url), 'convert')
            img('compare', '-f', 'vhdx', '-F', 'vhdx', path, url)
            shutil.copyfile(path, ctx.path('before'))
            overlay(ctx, url, script.model)
            same(path, ctx.path('before'))
    return test


def overlay(ctx, url, model):
    """A local image over the one there, which can't be committed"""
    top = ctx.path('top.qcow2')
    img('create', '-q', '-f', 'qcow2', '-F', 'vhdx', '-b', url, top)
    script = Script(model, 0)
    script.write(30 * MIB, MIB, 80)
    run(ours('qemu-io'), '-f', 'qcow2', '-c', *script.take(), top)
    target = ctx.path('overlay.raw')
    img('convert', '-m', '1', '-f', 'qcow2', '-O', 'raw', top, target)
    model.check_raw(target, 'the overlay')
    img('commit', '-f', 'qcow2', top, status=1)


def refused(ctx):
    """All that would write, and the file there is as it was"""
    with Https(ctx) as storage:
        path = ctx.path('data/disk.vhdx')
        create(path)
        shutil.copyfile(path, ctx.path('before'))
        url = storage.url('disk.vhdx')
        storage.trust()
        for command in (['resize', '-f', 'vhdx', url, '50M'],
                        ['amend', '-f', 'vhdx', '-o', 'compact=space', url],
                        ['check', '-f', 'vhdx', '-r', 'all', url],
                        ['create', '-f', 'vhdx', storage.url('new.vhdx'),
                         '50M'],
                        ['create', '-f', 'vhdx', url, '50M'],
                        ['convert', '-f', 'vhdx', '-O', 'vhdx', path,
                         storage.url('new.vhdx')],
                        ['convert', '-n', '-f', 'vhdx', '-O', 'vhdx', path,
                         url]):
            text = img(*command, status=1)
            expect('does not support' in text, text)
        same(path, ctx.path('before'))
        expect(not os.path.exists(ctx.path('data/new.vhdx')),
               'a file was made')


def tests():
    return [('dynamic', reads('dynamic', False)),
            ('fixed', reads('fixed', False)),
            ('log', reads('dynamic', True)), ('refused', refused)]
