"""What commands read and write, as docs/vhdx.md says in "What commands cost".

A cell of its table with a number holds if that much is enough, and half of it
is not; one with words if so much is moved, and no more than MORE beside it.
"""
import os
import re

from harness import ROOT, expect, ours, run
from record import READ, WRITE, Record, preloaded
from strict.report import KIB, MIB

USED = 512                      # blocks with data, one in each STEP
PIECE = 64 * KIB                # ... so much of it
STEP = 8 * MIB
BLOCK = MIB
DATA = USED * PIECE
MORE = 6 * MIB
CREATE = ['create', '-q', '-f', 'vhdx', '-o', 'block_size=1M']
CELL = re.compile(r'([0-9.]+) (KiB|MiB)$')


def table():
    """Rows by command: (reads, writes), as they stand there"""
    with open(os.path.join(ROOT, 'docs/vhdx.md'), encoding='utf-8') as file:
        section = file.read().partition('## What commands cost\n')[2]
    lines = [[cell.strip() for cell in line.split('|')[1:-1]]
             for line in section.partition('\n## ')[0].splitlines()
             if line.startswith('| ')]
    expect(lines[0] == ['command', 'time goes with', 'reads', 'writes',
                        'more space'], '%s', lines[0])
    return {line[0]: (line[2], line[3]) for line in lines[1:]}


class Costs:
    def __init__(self, ctx):
        self.ctx = ctx
        self.rows = table()
        self.tried = set()

    def write(self, image, pattern, blocks=range(USED)):
        """A piece of data to each of these blocks"""
        self.ctx.io(image, ['write -q -P %d %d %d' % (
            pattern, STEP * block, PIECE) for block in blocks])

    def moved(self, image, *command):
        """How many bytes of an image a command reads and writes"""
        record = self.ctx.path('record')
        if os.path.exists(record):
            os.unlink(record)
        run(ours('qemu-img'), *command, env=preloaded(record, image))
        found = Record(record).read()
        return [sum(op.result if kind == READ else op.length for op in found
                    if op.kind == kind and op.result > 0)
                for kind in (READ, WRITE)]

    def held(self, row, *got, words=(DATA, DATA)):
        """The row of the table is right about these bytes that were read and
        written; 'words' are those that stand there where there is no number.
        """
        self.tried.add(row)
        for cell, bytes_, meant in zip(self.rows[row], got, words):
            number = CELL.match(cell)
            if not cell:
                good = bytes_ == 0
            elif number:
                most = float(number[1]) * (KIB if number[2] == 'KiB' else MIB)
                good = most / 2 < bytes_ <= most
            else:
                good = meant <= bytes_ <= meant + MORE
            expect(good, '%s moves %s bytes, and the page says "%s"', row, got,
                   cell)

    def tell(self, row, image, *command, **more):
        self.held(row, *self.moved(image, *command), **more)


def small(costs, disk):
    """What is about the image and not its data"""
    costs.tell('`create`', disk, *CREATE, disk, '4G')
    costs.write(disk, 7)
    for command in (['info', disk], ['map', disk],
                    ['measure', '-O', 'vhdx', disk]):
        costs.tell('`info`, `map`, `measure`', disk, *command)
    costs.tell('`check`', disk, 'check', disk)
    costs.tell('`resize`', disk, 'resize', '-f', 'vhdx', disk, '5G')
    run(ours('qemu-img'), 'resize', '-f', 'vhdx', '--shrink', disk, '4G')
    for option in 'disk_id=new', 'physical_sector_size=512':
        costs.tell('`amend` with `disk_id` or `physical_sector_size`', disk,
                   'amend', '-f', 'vhdx', '-o', option, disk)
    costs.tell('`amend -o log_size`', disk, 'amend', '-f', 'vhdx', '-o',
               'log_size=2M', disk)
    costs.write(disk, 7)
    costs.tell('`bitmap --add`', disk, 'bitmap', '--add', '-f', 'vhdx', disk,
               'one')
    run(ours('qemu-img'), 'bitmap', '--remove', '-f', 'vhdx', disk, 'one')


def copied(costs, disk, copy):
    """Two runs, as the calls on one file are counted"""
    convert = ['convert', '-O', 'vhdx', '-o', 'block_size=1M', disk, copy]
    read, _ = costs.moved(disk, *convert)
    os.unlink(copy)
    _, written = costs.moved(copy, *convert)
    costs.held('`convert` from or to it', read, written)


def chain(costs, disk, other, child):
    """'other' is a copy of the parent"""
    create = ['create', '-q', '-f', 'vhdx', '-F', 'vhdx', '-o',
              'block_size=1M', '-b', disk, child]

    def make():
        run(ours('qemu-img'), *create)
        costs.write(child, 8, range(64))

    read, _ = costs.moved(disk, *create)
    os.unlink(child)
    _, written = costs.moved(child, *create)
    costs.held('`create` of a child', read, written)

    rebase = ['rebase', '-u', '-F', 'vhdx', '-b', disk, child]
    _, first = costs.moved(child, *rebase)
    costs.tell('`rebase -u`', child, *rebase)
    _, later = costs.moved(child, *rebase)
    # An image that is new fills its log with the first change.
    expect(0 <= first - later - MIB <= 64 * KIB,
           'first it writes %d bytes, then %d', first, later)

    # Of 96 pieces in which the parents differ 64 are the child's own.
    costs.write(other, 9, range(96))
    rebase = ['rebase', '-F', 'vhdx', '-b', other, child]
    make()
    read, _ = costs.moved(disk, *rebase)
    make()
    _, written = costs.moved(child, *rebase)
    costs.held('`rebase`', read, written,
               words=(USED * BLOCK - 64 * PIECE, 32 * PIECE))

    commit = ['commit', '-d', '-f', 'vhdx', child]
    make()
    read, _ = costs.moved(child, *commit)
    make()
    _, written = costs.moved(disk, *commit)
    costs.held('`commit`', read, written, words=2 * (64 * PIECE,))


def smaller(costs, disk):
    """200 blocks at the front go, so that as many of the rest move."""
    costs.ctx.io(disk, ['discard -q %d 1M' % (STEP * block)
                        for block in range(200)])
    costs.tell('`amend -o compact=space`', disk, 'amend', '-f', 'vhdx', '-o',
               'compact=space', disk, words=2 * (200 * PIECE,))
    costs.write(disk, 0, range(200, 260))
    costs.tell('`amend -o compact=zeroes`', disk, 'amend', '-f', 'vhdx', '-o',
               'compact=zeroes', disk, words=(372 * PIECE, 60 * PIECE))
    size = os.path.getsize(disk)
    row = '`amend -o subformat=fixed`'
    read, written = costs.moved(disk, 'amend', '-f', 'vhdx', '-o',
                                'subformat=fixed', disk)
    grown = os.path.getsize(disk) - size
    expect(grown == 4096 * MIB - 252 * BLOCK, 'it has grown by %d', grown)
    costs.held(row, read, written, words=(0, 4 * KIB * 8))


def costs_told(ctx):
    costs = Costs(ctx)
    disk, other = ctx.path('disk.vhdx'), ctx.path('other.vhdx')
    small(costs, disk)
    copied(costs, disk, other)
    chain(costs, disk, other, ctx.path('child.vhdx'))
    smaller(costs, disk)
    expect(costs.tried == set(costs.rows), 'not counted: %s',
           set(costs.rows) - costs.tried)


def tests():
    return [('commands', costs_told)]
