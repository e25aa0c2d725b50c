"""What the driver traces: which events come, in which order, with what.

In every test the write states are followed: none may change but by an arrow of
the picture in change.c.  The tests under "States" go all the ways that a tool
can make it go.
"""
import os
import re
import struct

import events
from events import shows
from harness import expect, ours, run
from record import Layout
from session import Session
from strict.report import KIB, MIB

# The first change of an image that was closed, up to what it is for
OPENED = ('ring_write tail=0 pages=0 ret=0', 'header_write ret=0',
          'header_write ret=0', 'write_state from=reading to=metadata',
          'log_open ret=0')
BEGUN = ('header_write ret=0',) + OPENED + (
    'write_state from=metadata to=data',)
# A commit of one page, and of none
COMMIT = ('commit_start pages=1 barrier=0', 'ring_write pages=1 ret=0',
          'commit_end ret=0')
NO_PAGE = ('commit_start pages=0 barrier=0', 'commit_end ret=0')
# Closing what is committed: its pages in place, headers, no log any more
CLOSED = NO_PAGE + ('ring_apply pages=1 ret=0', 'header_write ret=0',
                    'header_write ret=0',
                    'write_state from=data to=reading', 'log_close ret=0')


def present(ctx, size='64M', blocks='8M', **options):
    """An image whose first blocks are present, closed."""
    image = ctx.create('a.vhdx', size, **dict({'block_size': '1M'}, **options))
    ctx.io(image, ['write -q -P 1 0 ' + blocks])
    return image


def watched(ctx, image, **options):
    return Session(ctx, image, **dict({'trace': 'vhdx_*'}, **options))


def begun(ctx, image, **options):
    """In a session that is past its first change, in block 0."""
    io = watched(ctx, image, **options)
    io.do('write -q -P 1 0 4k', 'flush')
    return io


def names(io):
    return [event.name for event in io.events]


def errors(event, number=0, **more):
    """Rules of blkdebug: the next request of its kind after @event fails."""
    rule = dict({'event': event, 'errno': 5, 'once': 'on'}, **more)
    return {'inject-error.%d.%s' % (number, name): value
            for name, value in rule.items()}


def nth(event, count):
    """blkdebug's state is @count before so many of @event."""
    rules = {}
    for state in range(1, count):
        rules.update({'set-state.%d.%s' % (state - 1, key): value
                      for key, value in (('event', event), ('state', state),
                                         ('new_state', state + 1))})
    return rules


# -- Requests --

def life(ctx):
    """Open, first write, flush, usual requests, close."""
    image = ctx.create('a.vhdx', '64M', block_size='1M')
    with watched(ctx, image) as io:
        bat = io.layout.bat.offset
        shows(io.events, 'open filename=%s disk_size=%d regions=2 replay=0' %
              (image, 64 * MIB))
        io.do('read -q 0 4k')
        shows(io.events, 'page_load offset=%d count=1 ret=0' % bat)
        io.do('read -q 0 64M', 'flush', 'discard -q 0 64M')
        shows(io.events)
        io.do('write -q -P 1 5M 4k')
        first = io.layout.first
        shows(io.events, *BEGUN,
              'space_scan end=%d overlap=0 damaged=0' % first,
              'space_grow from=%d ret=0' % first,
              'alloc index=5 offset=%d kept=0 zero=1' % first,
              'alloc_publish index=5 offset=%d' % first)
        headers = [e for e in io.events if e.name == 'header_write']
        expect([h.copy for h in headers] == [headers[0].copy,
                                             1 - headers[0].copy,
                                             headers[0].copy] and
               [h.sequence - headers[0].sequence for h in headers] ==
               [0, 1, 2], '%s', headers)
        io.do('flush')
        shows(io.events, *COMMIT)
        # None of these
        io.do('write -q -P 2 5M 64k', 'read -q -P 2 5M 64k', 'read -q 7M 1M',
              'write -q -z 5M 4k')
        shows(io.events)
        # What was written to present blocks is flushed alone, and once.
        io.do('flush', 'flush')
        shows(io.events, *NO_PAGE)
        io.do('write -q -P 3 7M 2M')
        shows(io.events, *['alloc index=%d offset=%d kept=0 zero=1' %
                           (block, first + MIB + i * MIB)
                           for i, block in enumerate((7, 8))],
              *['alloc_publish index=%d offset=%d' %
                (block, first + MIB + i * MIB)
                for i, block in enumerate((7, 8))])
        io.close()
        shows(io.events, *COMMIT, *CLOSED,
              'space_cut to=%d ret=0' % (first + 3 * MIB))


def reading(ctx):
    """What only reads traces the open, and the pages of the BAT."""
    image = present(ctx)
    for readonly in (False, True):
        with watched(ctx, image, readonly=readonly) as io:
            shows(io.events, 'open replay=0')
            io.do('read -q -P 1 0 8M', 'read -q 9M 1M')
            shows(io.events, 'page_load count=1 ret=0')
            io.close()
            shows(io.events)


def share(ctx):
    """A second write to a block whose first one is on its way."""
    with begun(ctx, present(ctx), rule={}) as io:
        io.do('break write_aio A', 'aio_write -q -P 2 20M 64k',
              'wait_break A')
        at, = [e.offset for e in io.events if e.name == 'alloc']
        expect('alloc_publish' not in names(io), '%s', io.events)
        io.do('write -q -P 3 20608k 4k')
        shows(io.events, 'alloc_share index=20',
              'alloc_publish index=20 offset=%d' % at)
        io.do('resume A', 'aio_flush', 'flush')
        shows(io.events, *COMMIT)
        io.do('read -q -P 2 20M 64k', 'read -q -P 3 20608k 4k')


def reuse(ctx):
    """A place that was another block's: it is not zero, and the commit that
    names it has a barrier, once."""
    for option in ('unmap', 'ignore'):
        with begun(ctx, present(ctx), **{'file.discard': option}) as io:
            io.do('discard -q 2M 1M')
            freed = io.events[0].offset
            shows(io.events, 'block_free block=2')
            io.do('flush')
            shows(io.events, *COMMIT, 'space_scan overlap=0 damaged=0',
                  'space_reclaim known=1',
                  'space_punch offset=%d bytes=%d' % (freed, MIB))
            io.do('write -q -P 2 50M 4k')
            shows(io.events,
                  'alloc index=50 offset=%d kept=0 zero=0' % freed,
                  'alloc_publish index=50 offset=%d' % freed)
            io.do('flush')
            shows(io.events, 'commit_start pages=1 barrier=1', *COMMIT[1:])
            io.do('write -q -P 2 51M 4k', 'flush')
            shows(io.events, 'space_grow ret=0',
                  'alloc index=51 kept=0 zero=1', 'alloc_publish index=51',
                  *COMMIT)


def kept(ctx):
    """A block that is not present, but has kept its place, gets that."""
    image = present(ctx)
    with Session(ctx, image) as io:
        at = io.layout.bat.offset + 3 * 8
    with open(image, 'r+b') as file:
        file.seek(at)
        entry, = struct.unpack('<Q', file.read(8))
        file.seek(at)
        file.write(struct.pack('<Q', entry & ~7 | 3))   # UNMAPPED
    place = entry & ~(MIB - 1)
    with begun(ctx, image) as io:
        io.do('write -q -P 4 3M 4k', 'flush')
        shows(io.events, 'space_scan overlap=0 damaged=0',
              'alloc index=3 offset=%d kept=1 zero=0' % place,
              'alloc_publish index=3 offset=%d' % place,
              'commit_start pages=1 barrier=1', *COMMIT[1:])


def discard(ctx):
    """Blocks go one by one, their places together; a long free end goes by a
    checkpoint, and is cut."""
    with begun(ctx, present(ctx, '256M', '64M')) as io:
        io.do('discard -q 1M 2M', 'discard -q 4M 64k')
        one, two = (e.offset for e in io.events)
        shows(io.events, 'block_free block=1', 'block_free block=2')
        expect(two == one + MIB, '%s', io.events)
        io.do('flush')
        shows(io.events, *COMMIT, 'space_scan overlap=0 damaged=0',
              'space_reclaim known=1',
              'space_punch offset=%d bytes=%d' % (one, 2 * MIB))
        size = os.stat(ctx.path('a.vhdx')).st_size
        io.do('discard -q 24M 40M')
        shows(io.events, *['block_free block=%d' % block
                           for block in range(24, 64)])
        io.do('flush')
        end = size - 40 * MIB
        shows(io.events, *COMMIT, 'space_reclaim known=1', 'checkpoint',
              'ring_apply pages=1 ret=0', 'ring_write pages=0 ret=0',
              'space_cut from=%d to=%d ret=0' % (size, end))
        expect(io.events[-2].head == io.events[-2].tail, '%s', io.events)
        io.close()
        shows(io.events, *NO_PAGE, 'ring_apply pages=0 ret=0', *CLOSED[3:])


def relieve(ctx):
    """So many pages have changed that a write commits them; and what has been
    committed goes in place when the cache, or the log, is half full."""
    image = ctx.create('a.vhdx', '256G', block_size='1M')
    with begun(ctx, image, **{'cache-size': '256k'}) as io:
        found = []
        for page in range(1, 101):
            io.do('write -q -P 1 %dM 4k' % (page * 512))
            found.append(io.events)
        relieved = [e for e in found if any(x.name == 'relieve' for x in e)]
        expect(relieved and len(relieved) < 50, '%d times', len(relieved))
        for step in relieved:
            step = [e for e in step if not e.name.startswith(
                ('page', 'alloc', 'space'))]
            pages = step[1].pages
            expect(pages > 10, '%s', step)
            shows([e for e in step if e.name != 'ring_apply'], 'relieve',
                  'commit_start pages=%d barrier=0' % pages,
                  'ring_write pages=%d ret=0' % pages, 'commit_end ret=0')
        expect(any(e.name == 'ring_apply' and e.pages for step in relieved
                   for e in step), 'nothing was put in place')


FLUSH = 'file_flush', 'file_flush_end ret=0'


def small_steps(ctx):
    """What comes with other steps: flushes of the file, places that are taken
    and given back, the length that a cut is going to leave."""
    image = present(ctx, '256M', '64M')
    with Session(ctx, image) as io:
        log = io.layout.log
    size = os.stat(image).st_size
    # The second write of data
    with begun(ctx, image, rule=errors('write_aio', iotype='write', state=2) |
               nth('write_aio', 2)) as io:
        io.trace.small = True
        io.fails('write 100M 4k')
        taken = 'space_take offset=%d bytes=%d zero=' % (size, MIB)
        shows(io.events, 'space_scan', 'space_grow', taken + '1',
              'alloc index=100', 'space_return offset=%d bytes=%d touched=1' %
              (size, MIB))
    # The entry of the first checkpoint
    with begun(ctx, image, rule=errors('none', iotype='write', sector=(
            log + 12 * KIB) // 512)) as io:
        io.do('discard -q 24M 40M')
        io.trace.small = True
        io.do('flush')
        shows([e for e in io.events if e.name != 'space_punch'], *COMMIT[:2],
              *FLUSH, COMMIT[2], 'space_scan', 'space_reclaim',
              'space_cut_begin from=%d to=%d' % (size, size - 40 * MIB),
              'checkpoint', 'ring_apply ret=0', *FLUSH, 'ring_write ret=-5',
              'space_cut_undo size=%d' % size)
    with Session(ctx, image) as io:
        io.do('discard -q 2M 1M')
        first = io.layout.first
    found = [e for e in tool(ctx, *COMPACT, image, small=True)
             if e.name in ('space_take', 'block_move')]
    to = first + 2 * MIB
    shows(found, 'space_take offset=%d bytes=%d zero=0' % (to, MIB),
          'block_move index=23 to=%d' % to)


# -- Logs that are left --

def replay(ctx):
    """An image that was left by a kill: an index of it; when it is written to,
    all of the log in place before anything else."""
    image = present(ctx)
    with begun(ctx, image) as io:
        # Three entries: the log's first one is empty.
        io.do('write -q -P 2 20M 4k', 'flush', 'write -q -P 3 21M 4k', 'flush')
        last = [e.sequence for e in io.events if e.name == 'ring_write'][-1]
        io.kill()
    with watched(ctx, image, readonly=True) as io:
        shows(io.events, 'replay_index first=%d last=%d' % (last - 2, last),
              'open replay=1')
        io.do('read -q -P 2 20M 4k', 'read -q -P 3 21M 4k')
        shows(io.events, 'page_load count=1 ret=0')
        io.close()
        shows(io.events)
    with watched(ctx, image) as io:
        index = io.events[0]
        shows(io.events, 'replay_index first=%d last=%d' % (last - 2, last),
              'open replay=1')
        io.do('write -q -P 4 22M 4k')
        events_ = [e for e in io.events if e.name != 'page_load']
        shows(events_, 'header_write ret=0', 'replay_apply',
              'header_write ret=0', 'header_write ret=0',
              'space_scan end=%d overlap=0 damaged=0' %
              index.last_file_offset,
              'space_cut to=%d ret=0' % index.last_file_offset, *OPENED,
              'write_state from=metadata to=data', 'space_grow ret=0',
              'alloc index=22 kept=0 zero=1', 'alloc_publish index=22')
        io.close()
        shows(io.events, *COMMIT, *CLOSED, 'space_cut ret=0')


# -- Failures --

def failing(ctx):
    """What fails is traced with its error, and leaves the state as it is."""
    image = present(ctx)
    with watched(ctx, image, rule=errors('l2_load', iotype='read')) as io:
        io.fails('read 0 4k')
        shows(io.events, 'page_load ret=-5')
        io.do('read -q -P 1 0 4k')
        shows(io.events, 'page_load ret=0')
    with watched(ctx, image, rule=errors('reftable_update', iotype='write',
                                         state=3, immediately='on') |
                 nth('reftable_update', 3)) as io:
        io.fails('write 0 4k')
        shows(io.events, 'header_write ret=0', 'page_load ret=0', *OPENED[:2],
              'header_write ret=-5', 'log_open ret=-5')
        # One of the copies may name a log: this time both are written first.
        io.do('write -q -P 2 0 4k')
        shows(io.events, 'header_write ret=0', *BEGUN)
    # The flush's entry, and the page of the BAT
    with Session(ctx, image) as io:
        log = io.layout.log
    with begun(ctx, image, rule=errors('none', iotype='write',
                                       sector=(log + 4 * KIB) // 512) |
               errors('l2_update', 1, iotype='write')) as io:
        io.do('write -q -P 3 20M 4k')
        io.fails('write -f 0 0')
        shows(io.events, COMMIT[0], 'ring_write pages=1 ret=-5',
              'commit_end ret=-5')
        _, failed, _ = io.events
        # It may be there all the same: its number is an empty entry's.
        io.do('flush')
        shows(io.events, COMMIT[0], 'checkpoint', 'ring_apply pages=0 ret=0',
              'ring_write sequence=%d head=%d tail=%d pages=0 ret=0' %
              (failed.sequence, failed.head, failed.head),
              'ring_write sequence=%d pages=1 ret=0' % (failed.sequence + 1),
              'commit_end ret=0')
        io.close()
        shows(io.events, *NO_PAGE, 'ring_apply pages=1 ret=-5',
              'log_close ret=-5')


def no_space(ctx):
    """A node that can't get longer: by a step, and by what is needed.  What
    is looked for before that is a place in the file."""
    image = present(ctx)
    size = os.stat(image).st_size
    with watched(ctx, image, size=size) as io:
        io.fails('write 20M 4k', error='No space left')
        shows([e for e in io.events if e.name.startswith(('space', 'alloc'))],
              'space_scan end=%d overlap=0 damaged=0' % size,
              'space_grow from=%d ret=-95' % size,
              'space_grow from=%d to=%d ret=-95' % (size, size + MIB))
        io.do('write -q -P 2 0 4k')
        shows(io.events)


# -- States --

def stopped(ctx):
    """A flush of metadata fails: nothing is written any more, until the image
    is reopened; what it was about is logged again, and all goes on."""
    image = present(ctx)
    rule = errors('flush_to_disk', iotype='flush', state=3) | \
        nth('flush_to_disk', 3)
    with begun(ctx, image, rule=rule) as io:
        io.do('write -q -P 2 0 4k', 'flush', 'write -q -P 2 20M 4k')
        io.fails('write -f 0 0')
        shows(io.events, *COMMIT[:2], 'latch',
              'write_state from=data to=broken', 'commit_end ret=-5')
        sequence = io.events[1].sequence
        io.fails('write -f 0 0', 'write 0 4k', 'discard 0 1M', 'write -z 0 4k')
        shows(io.events)
        io.do('read -q -P 2 0 4k', 'read -q -P 2 20M 4k')
        shows(io.events)
        # The number of the entry that may be there is given to an empty one.
        io.do('reopen -w')
        shows(io.events, 'freeze', 'ring_rewind sequence=%d ret=0' %
              (sequence - 1), 'write_state from=broken to=metadata', 'thaw',
              'commit_start pages=1 barrier=0', 'checkpoint',
              'ring_apply pages=0 ret=0',
              'ring_write sequence=%d pages=0 ret=0' % sequence,
              'ring_write sequence=%d pages=1 ret=0' % (sequence + 1),
              'commit_end ret=0')
        # Children may have come. Zeros are not believed any more.
        io.do('write -q -P 3 21M 4k', 'flush')
        shows(io.events, 'header_write ret=0', 'header_write ret=0',
              'write_state from=metadata to=data',
              'alloc index=21 zero=0', 'alloc_publish index=21',
              'commit_start pages=1 barrier=1', *COMMIT[1:])


def stopped_at_once(ctx):
    """The very first flush fails: the log is not open then, nor later."""
    image = present(ctx)
    with watched(ctx, image, rule=errors('reftable_update',
                                         iotype='flush')) as io:
        io.fails('write 0 4k')
        shows(io.events, 'latch', 'write_state from=reading to=broken',
              'header_write ret=-5')
        io.do('reopen -w')
        # That header may be in the file.
        shows(io.events, 'freeze', 'header_write ret=0',
              'write_state from=broken to=reading', 'thaw')
        io.do('write -q -P 2 0 4k')
        shows(io.events, *BEGUN[:1], 'page_load ret=0', *BEGUN[1:])


def stays_stopped(ctx):
    """A new block that no entry names lies where another has been."""
    with begun(ctx, present(ctx), rule=errors(
            'flush_to_disk', iotype='flush', state=3) |
            nth('flush_to_disk', 3)) as io:
        io.do('discard -q 2M 1M', 'flush', 'write -q -P 2 50M 4k')
        io.fails('write -f 0 0')
        shows(io.events, 'commit_start barrier=1 pages=1', 'latch',
              'write_state from=data to=broken', 'commit_end ret=-5')
        io.do('reopen -w')
        shows(io.events, 'freeze', 'thaw')
        io.fails('write 0 4k')
        shows(io.events)
        io.close()
        shows(io.events, 'log_close ret=-5')


def read_only_and_back(ctx):
    """A reopen read-only closes the log; the next change opens one again."""
    with begun(ctx, present(ctx)) as io:
        io.do('write -q -P 2 0 4k', 'reopen -r')
        shows(io.events, *NO_PAGE, *NO_PAGE, 'ring_apply pages=0 ret=0',
              *CLOSED[3:], 'space_scan overlap=0 damaged=0')
        io.do('reopen -w', 'read -q -P 2 0 4k')
        shows(io.events)
        io.do('write -q -P 3 0 4k')
        shows(io.events, *BEGUN)


# -- Operations --

def tool(ctx, *command, rule=None, status=0, small=False):
    """qemu-img on an image, the last of @command; what it traces, but for the
    pages that it reads."""
    trace = events.Trace(ctx.path('tool.trace'))
    trace.small = small
    *command, image = command
    how = ['-f', 'vhdx']
    if rule is not None:
        how = ['--image-opts']
        image = 'driver=vhdx,file.driver=blkdebug,file.image.filename=%s,%s' \
            % (image, ','.join('file.%s=%s' % r for r in rule.items()))
    run(ours('qemu-img'), *trace.options(), *command, *how, image,
        status=status)
    return steps(trace.read())


def steps(found):
    return [e for e in found if e.name != 'page_load']


def in_place(pages):
    """A commit of nothing new, and all pages of the log in place."""
    return NO_PAGE + ('checkpoint', 'ring_apply pages=%d ret=0' % pages,
                      'ring_write pages=0 ret=0')


def resized(size, to, *done, pages=1):
    return ('freeze', *done, *in_place(pages),
            'resize from=%d to=%d ret=0' % (size, to), 'thaw')


def resize(ctx):
    """A longer disk, a shorter one, and one that needs a longer BAT."""
    image = present(ctx)
    with begun(ctx, image) as io:
        io.do('truncate 128M')
        shows(steps(io.events), *resized(64 * MIB, 128 * MIB, *COMMIT))
        io.do('truncate 128M')
        shows(io.events, 'freeze', 'thaw')
        io.do('truncate 4M')
        first = io.layout.first
        shows(steps(io.events), *resized(
            128 * MIB, 4 * MIB, *COMMIT, *COMMIT,
            'space_scan end=%d overlap=0 damaged=0' % (first + 8 * MIB),
            'space_reclaim known=1',
            'space_punch offset=%d bytes=%d' % (first + 4 * MIB, 4 * MIB),
            pages=2))
        end, at, length = first + 4 * MIB, io.layout.bat.offset, \
            io.layout.bat.length
    # A page of each table has the regions, and the last one their end.
    shows(tool(ctx, 'resize', image, '1T')[:-len(CLOSED) - 1],
          'open disk_size=%d' % (4 * MIB), 'freeze', *BEGUN,
          'space_scan end=%d' % end, 'space_grow from=%d ret=0' % end,
          'region_move from=%d to=%d length=%d' % (at, end, 9 * MIB),
          *in_place(0), 'commit_start pages=2', 'ring_write pages=2 ret=0',
          'commit_end ret=0', *NO_PAGE, 'space_reclaim known=1',
          'space_punch offset=%d bytes=%d' % (at, length), *COMMIT,
          *in_place(3), 'resize from=%d to=%d ret=0' % (4 * MIB, 1 << 40),
          'thaw')


COMPACT = 'amend', '-o', 'compact=space'


def compact(ctx):
    """Blocks and the BAT move down, under a log that no guest's data is in;
    what is compact already stays as it is."""
    image = present(ctx)
    with Session(ctx, image) as io:
        io.do('discard -q 2M 1M')
        first = io.layout.first
    end = first + 7 * MIB
    shows(tool(ctx, *COMPACT, image), 'open replay=0', 'freeze',
          'space_scan end=%d overlap=0 damaged=0' % (end + MIB),
          'move_blocks count=1', 'header_write ret=0', *OPENED,
          'move_piece from=%d to=%d bytes=%d' % (end, first + 2 * MIB, MIB),
          'commit_start pages=1 barrier=1', *COMMIT[1:],
          'space_reclaim known=1',
          'space_punch offset=%d bytes=%d' % (end, MIB), *CLOSED[:5],
          'write_state from=metadata to=reading', 'log_close ret=0',
          'space_scan end=%d' % end,
          'space_cut from=%d to=%d ret=0' % (end + MIB, end), 'thaw')
    shows(tool(ctx, *COMPACT, image), 'open replay=0', 'freeze',
          'space_scan end=%d overlap=0 damaged=0' % end, 'thaw')
    tool(ctx, 'resize', image, '1T')
    bat = Layout(image).bat
    ctx.io(image, ['discard -q 3M 2M'])
    # Where it would overlap itself it goes up first.  One of the five blocks
    # is where the BAT was before the resize.
    found = tool(ctx, *COMPACT, image)
    shows([e for e in found if 'move' in e.name], 'move_blocks count=2',
          'move_piece', 'move_piece',
          'region_move from=%d length=%d' % (bat.offset, bat.length),
          'region_move to=%d length=%d' % (first + 4 * MIB, bat.length))
    expect(found[-1].name == 'thaw' and found[-2].name == 'space_cut',
           '%s', found[-2:])


def compact_stopped(ctx):
    """The flush of the blocks' copies fails: the log stays, named."""
    image = present(ctx)
    ctx.io(image, ['discard -q 2M 1M'])
    # Writes are: header, entry, header, header, the copy.
    shows(tool(ctx, *COMPACT, image, status=1, rule=errors(
        'pwritev', iotype='flush', state=5) | nth('pwritev', 5)),
          'open replay=0', 'freeze', 'space_scan', 'move_blocks count=1',
          'header_write ret=0', *OPENED, 'move_piece',
          'commit_start barrier=1', 'latch',
          'write_state from=metadata to=broken', 'commit_end ret=-5', 'thaw',
          'log_close ret=-5')


def amend(ctx):
    """The log moves when it is closed; blocks get places, then the flag."""
    image = present(ctx, '12M')
    end = Layout(image).first + 8 * MIB
    begins = 'open replay=0', 'freeze', 'header_write ret=0', *OPENED
    shows(tool(ctx, 'amend', '-o', 'log_size=3M', image), *begins,
          'space_scan end=%d overlap=0 damaged=0' % end,
          'space_grow from=%d ret=0' % end, *NO_PAGE,
          'ring_apply pages=0 ret=0', 'header_write ret=0',
          'header_write ret=0', 'write_state from=metadata to=reading',
          'log_move from=%d to=%d length=%d ret=0' % (MIB, end, 3 * MIB),
          'space_reclaim known=1', 'space_cut to=%d ret=0' % (end + 3 * MIB),
          'space_punch offset=%d bytes=%d' % (MIB, MIB), 'thaw')
    end += 3 * MIB
    # One of the four blocks is where the log was: its zeros are flushed first.
    # The items take two commits: what is new, then the table.
    shows(tool(ctx, 'amend', '-o', 'subformat=fixed', image), *begins[:2],
          'space_scan end=%d overlap=0 damaged=0' % end, *begins[2:],
          'space_grow from=%d to=%d ret=0' % (end, end + 3 * MIB),
          'commit_start pages=1 barrier=1', *COMMIT[1:], *COMMIT, *COMMIT,
          'subformat fixed=1 ret=0', 'thaw', *NO_PAGE,
          'ring_apply pages=3 ret=0', *CLOSED[3:5],
          'write_state from=metadata to=reading', 'log_close ret=0')
    # What the item has held before is still there.
    shows(tool(ctx, 'amend', '-o', 'subformat=dynamic', image), *begins,
          *NO_PAGE, *COMMIT, 'subformat fixed=0 ret=0', 'thaw', *CLOSED[:5],
          'write_state from=metadata to=reading', 'log_close ret=0',
          'space_scan end=%d' % (end + 3 * MIB))


def bitmap(ctx, command, image):
    trace = events.Trace(ctx.path('tool.trace'))
    run(ours('qemu-img'), *trace.options(), 'bitmap', command, '-f', 'vhdx',
        image, 'b')
    return steps(trace.read())


def bitmaps(ctx):
    """Dirty bitmaps are stored before the log is closed, the first one in a
    longer region, and one that is as it was costs nothing."""
    image = present(ctx)
    end = Layout(image).first + 8 * MIB
    closed = ('header_write ret=0', 'header_write ret=0',
              'write_state from=metadata to=reading', 'log_close ret=0')
    shows(bitmap(ctx, '--add', image), 'open replay=0', 'freeze',
          'header_write ret=0', *OPENED,
          'space_scan end=%d overlap=0 damaged=0' % end,
          'space_grow from=%d ret=0' % end,
          'region_move to=%d length=%d' % (end, 2 * MIB), *in_place(0),
          'commit_start pages=2 barrier=0', 'ring_write pages=2 ret=0',
          'commit_end ret=0', 'dirty_store count=1 page=256 ret=0', 'thaw',
          *NO_PAGE, 'ring_apply pages=2 ret=0', *closed,
          'space_reclaim known=1', 'space_cut to=%d ret=0' % (end + 2 * MIB),
          'space_punch bytes=%d' % MIB)
    shows(bitmap(ctx, '--clear', image), 'open replay=0',
          'dirty_load count=1 current=1')
    shows(bitmap(ctx, '--disable', image), 'open replay=0',
          'dirty_load count=1 current=1', 'freeze', 'header_write ret=0',
          *OPENED, 'commit_start pages=1 barrier=1', *COMMIT[1:],
          'dirty_store count=1 page=256 ret=0', 'thaw', *NO_PAGE,
          'ring_apply pages=1 ret=0', *closed,
          'space_scan end=%d' % (end + 2 * MIB))
    shows(bitmap(ctx, '--remove', image), 'open replay=0',
          'dirty_load count=1 current=1', 'freeze', 'header_write ret=0',
          *OPENED, 'commit_start pages=1 barrier=1', *COMMIT[1:],
          'dirty_remove left=0 ret=0', 'thaw', *NO_PAGE,
          'ring_apply pages=1 ret=0', *closed,
          'space_scan end=%d' % (end + 2 * MIB))


# -- Chains --

def told(ctx):
    """A child is told which GUID its parent will have before it has that, and
    again afterwards; one that has a child in use gets a new GUID itself."""
    base = present(ctx)
    middle, top = ctx.path('middle.vhdx'), ctx.path('top.vhdx')
    for parent, child in (base, middle), (middle, top):
        run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-b', parent, '-F',
            'vhdx', child)
    ctx.io(top, ['write -q -P 2 0 4k'])
    trace = events.Trace(ctx.path('trace'))
    run(ours('qemu-img'), *trace.options(), 'commit', '-q', '-d', '-b', base,
        top)
    seen = [e for e in trace.read() if e.name in (
        'open', 'header_write', 'write_state', 'link_set', 'tell_child')]
    telling = [e for e in seen if e.name == 'tell_child']
    (inner, above), (outer, below) = [(e.s, e.child) for e in telling]
    expect(inner == below, 'the top one is told first: %s', telling)
    who = {above: 'top', inner: 'middle', outer: 'base'}
    done = ['%s %s' % (who[e.s], e.to if e.name == 'write_state' else e.name)
            for e in seen if e.s in who and
            e.name not in ('open', 'header_write')]
    expect(done[:11] == [
        'top metadata', 'top link_set', 'middle tell_child',
        'middle metadata', 'middle data', 'top link_set', 'middle link_set',
        'base tell_child', 'base metadata', 'base data', 'middle link_set'],
           '%s', done)


def beside(ctx):
    """Where the log's writes take long, a new block's entry is written beside
    its data if a flush follows, which then has nothing more to write."""
    with begun(ctx, present(ctx, blocks='4k'), delay=20000) as io:
        for number in range(1, 17):
            io.do('write -q -P 1 %dM 4k' % number, 'flush')
        for number in range(17, 33):
            io.do('write -q -f -P 1 %dM 4k' % number)
            shown = [e for e in io.events if e.name in (
                'alloc_publish', 'ring_write', 'commit_early', 'commit_start',
                'commit_end')]
            if any(e.name == 'commit_early' for e in shown):
                break
        shows(shown, 'alloc_publish', 'commit_early pages=1',
              'ring_write pages=1 ret=0', *NO_PAGE)
        io.close()


def declared(_):
    """Each event is raised, in the files that its declaration is sorted by,
    and a test here names it."""
    with open(__file__, encoding='ascii') as file:
        tested = file.read()
    calls = {}
    for name in sorted(os.listdir(events.DRIVER)):
        if name.endswith('.c'):
            with open(os.path.join(events.DRIVER, name),
                      encoding='utf-8') as file:
                for event in re.findall(r'\btrace_vhdx_(\w+)\(', file.read()):
                    calls.setdefault(event, set()).add(name)
    found = events.declarations()
    expect(sorted(calls) == sorted(found), 'declared, or raised, only: %s',
           sorted(set(calls) ^ set(found)))
    for name, event in found.items():
        expect(calls[name] <= set(event.files),
               '%s is raised in %s, not in %s', name, calls[name], event.files)
        expect(re.search(r"'%s\b" % name, tested), 'no test for %s', name)


def tests():
    return [(f.__name__.replace('_', '-'), f) for f in (
        life, reading, share, reuse, kept, discard, relieve, small_steps,
        replay, failing,
        no_space, stopped, stopped_at_once, stays_stopped, read_only_and_back,
        resize, compact, compact_stopped, amend, bitmaps, beside, told,
        declared)]
