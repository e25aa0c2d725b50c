"""The page for administrators tells the truth: commands print what it says.

Blocks marked "console" are run from top to bottom in one folder, each line
after a "$ ", and those that go on with it after a backslash, by a shell of its
own, which has to succeed.  In what the page shows, a line "..." stands for any
number of lines, and "..." within a line for anything.  Those marked "console
fuse" are run apart from the others, where there is FUSE.
"""
import os
import re

from harness import ROOT, Skip, expect, ours, run

BLOCK = re.compile(r'^```console( \w+)?\n(.*?)^```$', re.M | re.S)


def steps(text, mark):
    """Commands, each with the lines that it should print."""
    found = []
    blocks = [block for marked, block in BLOCK.findall(text)
              if marked.strip() == mark]
    for line in ''.join(blocks).splitlines():
        if found and found[-1][0].endswith('\\'):
            found[-1] = (found[-1][0] + '\n' + line, [])
        elif line.startswith('$ '):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def pattern(lines):
    return ''.join('(.*\n)*?' if line == '...' else
                   '.*'.join(map(re.escape, line.split('...'))) + '\n'
                   for line in lines)


def shown(text):
    """What a terminal shows: the progress comes in one line."""
    lines = [line.rstrip('\r').split('\r')[-1].rstrip()
             for line in text.split('\n')]
    return '\n'.join(lines).rstrip('\n') + '\n' if any(lines) else ''


def page(name, mark=''):
    def test(ctx):
        if mark == 'fuse' and not os.access('/dev/fuse', os.R_OK | os.W_OK):
            raise Skip('/dev/fuse is not there, or not for this user')
        with open(os.path.join(ROOT, 'docs', name), encoding='utf-8') as file:
            commands = steps(file.read(), mark)
        expect(len(commands) > (5 if mark else 20), 'the page has %d commands',
               len(commands))
        tools = os.path.dirname(os.path.abspath(ours('qemu-img')))
        env = dict(os.environ, LC_ALL='C',
                   PATH=tools + ':/usr/sbin:/usr/bin:/sbin:/bin')
        for command, lines in commands:
            got = shown(run('/bin/bash', '-c', command, cwd=ctx.folder,
                            env=env))
            expect(re.fullmatch(pattern(lines), got),
                   '$ %s\nprints\n%sand %s says\n%s', command, got, name,
                   '\n'.join(lines))
    return test


def messages():
    """What the driver's sources have as strings, values left out"""
    found = []
    folder = os.path.join(ROOT, 'block/vhdx')
    for name in sorted(os.listdir(folder)):
        if name.endswith('.c'):
            with open(os.path.join(folder, name), encoding='utf-8') as file:
                text = re.sub(r'"\s*(?:PRI\w+|VHDX_NO_FALLOC)?\s*"', '',
                              file.read())
            found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', text)
    return found


def refusals(_):
    """The messages that the page explains are what the driver says."""
    with open(os.path.join(ROOT, 'docs/vhdx.md'), encoding='utf-8') as file:
        section = file.read().partition('## When something is refused\n')[2]
    rows = re.findall(r'^\| `(.+?)`', section.partition('\n## ')[0], re.M)
    expect(len(rows) > 15, 'the table has %d messages', len(rows))
    known = messages()
    for row in rows:
        wanted = re.compile('.*'.join(map(re.escape, row.split('...'))))
        expect(any(map(wanted.search, known)), 'the driver never says "%s"',
               row)


def tests():
    return [('vhdx.md', page('vhdx.md')),
            ('vhdx.md-fuse', page('vhdx.md', 'fuse')),
            ('refusals', refusals)]
