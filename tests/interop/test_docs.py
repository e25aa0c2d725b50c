"""The page for administrators tells the truth: commands print what it says.

Blocks marked "console" are run from top to bottom in one folder, each line
after a "$ " by a shell of its own, which has to succeed.  In what the page
shows, a line "..." stands for any number of lines, and "..." within a line for
anything.
"""
import os
import re

from harness import ROOT, expect, ours, run

BLOCK = re.compile(r'^```console\n(.*?)^```$', re.M | re.S)


def steps(text):
    """Commands, each with the lines that it should print."""
    found = []
    for line in ''.join(BLOCK.findall(text)).splitlines():
        if line.startswith('$ '):
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


def page(name):
    def test(ctx):
        with open(os.path.join(ROOT, 'docs', name), encoding='utf-8') as file:
            commands = steps(file.read())
        expect(len(commands) > 20, 'the page has %d commands', len(commands))
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


def tests():
    return [('vhdx.md', page('vhdx.md'))]
