"""What all these tests rely on: time limits, nothing that is left behind, and
flushes that are looked at.

A harness of its own runs tests that never end, each in another way, with a
limit of one second: each is told by its name, and those behind it are run.
Others leave something behind.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time

import harness
from harness import Skip, expect, foreign, ours, run


def endless(_):
    while True:
        pass


def sleeps(_):
    time.sleep(3600)


def child(_):
    run('sleep', '3600')


def swallows(_):
    """An error is what this one waits for."""
    while True:
        try:
            time.sleep(3600)
        except Exception:
            pass


def deaf(_):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(3600)


def dies(_):
    os.kill(os.getpid(), signal.SIGKILL)


def runs_on(_):
    run('sh', '-c', 'setsid sleep 3600 > /dev/null 2>&1 &')


def mounted(ctx):
    """What a daemon leaves that has no time to unmount"""
    place, pid = ctx.path('export'), ctx.path('pid')
    with open(place, 'wb'):
        pass
    run(ours('qemu-storage-daemon'), '--daemonize', '--pidfile', pid,
        '--blockdev', 'null-co,node-name=disk,size=1048576', '--export',
        'fuse,id=disk,node-name=disk,mountpoint=' + place)
    with open(pid, encoding='utf-8') as file:
        os.kill(int(file.read()), signal.SIGKILL)


def gone(ctx):
    os.rmdir(ctx.folder)


def lacks(_):
    foreign('vhdx-no-such-program')


PLANTED = {f.__name__: f for f in (endless, sleeps, child, swallows, deaf,
                                   dies, runs_on, mounted, gone, lacks)}


def inner(names, **more):
    """The harness with a limit of one second, in a process of its own."""
    code = ('import sys; sys.path[:0] = %r; import harness, test_limits; '
            'sys.exit(harness.run_all("x", [("x/" + n, '
            'test_limits.PLANTED.get(n, lambda _: None)) for n in %r]))'
            % ([os.path.dirname(os.path.abspath(__file__))], names))
    done = subprocess.run(
        [sys.executable, '-B', '-c', code], check=False, timeout=60,
        env=dict(os.environ, TEST_SECONDS='1', TEST_GRACE='1', JOBS='2',
                 KEEP='', **more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def test_told(_):
    names = ['endless', 'sleeps', 'child', 'swallows']
    status, text = inner(names + ['fine'])
    expect(status == 1 and 'x: 1 passed, 4 failed' in text, text)
    expect('ok x/fine' in text.splitlines()[-2], text)
    expect(text.count('no end after 1 seconds') == 4, text)
    for name in names:
        expect('\nnot ok x/%s' % name in '\n' + text, text)


def test_lost(_):
    for name in 'deaf', 'dies':
        status, text = inner(['fine', name])
        expect(status == 1 and '\nnot ok x/%s' % name in text, text)
        expect('has ended the process' in text, text)


def test_left(ctx):
    """What is left behind is told, and then is there no more."""
    told = {'runs_on': 'a program runs on: .* sleep 3600',
            'gone': 'the folder can\'t be removed: ',
            'mounted': 'still mounted: '}
    if not os.access('/dev/fuse', os.R_OK | os.W_OK):
        del told['mounted']
    status, text = inner([*told, 'fine'], TMPDIR=ctx.folder)
    expect(status == 1 and 'x: 1 passed, %d failed' % len(told) in text, text)
    for name, words in told.items():
        expect(re.search('(?m)^not ok x/%s .*\n# %s' % (name, words), text),
               text)
    expect(not os.listdir(ctx.folder), 'there is %s', os.listdir(ctx.folder))
    if 'mounted' not in told:
        raise Skip('a mount can\'t be left: /dev/fuse is not there, or not '
                   'for this user')


def test_skipped(_):
    """A test whose program is missing is in the sum, and is no success where
    no other test was run."""
    told = 'skip x/lacks: vhdx-no-such-program is not installed'
    status, text = inner(['lacks', 'fine'])
    expect(status == 0 and told in text and
           'x: 1 passed, 0 failed, 1 skipped' in text, text)
    status, text = inner(['lacks'])
    expect(status == 1 and 'x: 0 passed, 0 failed, 1 skipped' in text, text)


def test_program(_):
    """Each program has a limit of its own as well."""
    try:
        run('sleep', '3600', timeout=1)
    except subprocess.TimeoutExpired as error:
        expect("'sleep'" in str(error), '%s', error)
    else:
        raise harness.Failure('no end of it was seen')


def test_flush(ctx):
    """A flush that fails is seen, where the process dies as well."""
    path = ctx.path('raw')
    with open(path, 'wb') as file:
        file.truncate(1 << 20)
    faulty = 'json:' + json.dumps({
        'driver': 'raw', 'file': {
            'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': path},
            'inject-error': [{'event': 'none', 'iotype': 'flush',
                              'errno': 5}]}})
    write = 'write -q -P 1 0 4k'
    for last, status in (('read -q 0 4k', 0), ('sigraise 9', -9)):
        for commands, good in (([write, last], True),
                               ([write, 'flush', last], False)):
            try:
                ctx.io(faulty, commands, '-f', 'raw', '-t', 'writeback',
                       status=status)
            except harness.Failure:
                expect(not good, '%r failed', commands)
            else:
                expect(good, 'no failure of %r was seen', commands)


def tests():
    return [('told', test_told), ('lost', test_lost), ('left', test_left),
            ('skipped', test_skipped),
            ('program', test_program), ('flush', test_flush)]
