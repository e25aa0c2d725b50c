"""The page for administrators tells the truth: commands print what it says.

Blocks marked "console" are run from top to bottom in one folder, each line
after a "$ ", and those that go on with it after a backslash, by a shell of its
own, which has to succeed.  In what the page shows, a line "..." stands for any
number of lines, and "..." within a line for anything.  Those marked "console
fuse" are run apart from the others, where there is FUSE.
"""
import os
import re

import test_nbd
from harness import ROOT, Skip, expect, ours, run, server

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


# A literal of C, and one that is made of several
STRING = r'"(?:[^"\\\n]|\\.)*"'
JOINED = re.compile(r'"\s*(?:PRI\w+)?\s*"')
MACRO = re.compile(r'#define (VHDX_\w+)\s+(?:\\\n\s*)?'
                   r'(%s(?:\s*(?:\\\n)?\s*%s)*)' % (STRING, STRING))
SAYS = re.compile(r'\b(error_setg|error_report|warn_report|'
                  r'vhdx_change_latch)\(((?:[^";]|%s)*)\);' % STRING)
# What the page says nothing of, and why: a file or several, and a message
LEFT_OUT = {
    'says what an option takes, or what it is for': [
        ('options create-parent reopen', '.*'),
        ('amend-job', "can be '.*', not|takes longer than requests can wait"),
        ('amend', "can be '.*', not|does not accept value|of % is less than"),
        ('amend', '^The %s of a differencing image is that of its parent'),
        ('amend compact', "^A fixed image can't be compacted"),
        ('create', ' of % is less than the '),
        ('subformat', "^A differencing image can't be made "),
        ('dirty-bitmaps', '^(Name is|Granularity of|With a granularity|'
         'Bitmap already exists|There (are|is no space))'),
        ('dirty-collect', '^(There are|The names of)')],
    'the reason behind another message, which has a row': [
        ('locator', '^(it|its|entry|KeyValueCount) |^%s$'),
        ('dirty-area', '.*'), ('dirty-load', '^it'),
        ('commit dirty-store', '^(failed to|its) '),
        ('parent-file', '^its? '), ('parent-file', '^neither region table'),
        ('change move', '^%s$'), ('begin', '^it is read-only'),
        ('check-entry', 'where another block is')],
    'says what state the image is in, which whoever asked for it knows': [
        ('begin compact-live', '^(The image is|Compacting has been)'),
        ('dirty-bitmaps', '^The image is read-only'),
        ('subformat', '^(Out of memory|Making the image fixed has been)')],
}
# Those of QEMU itself and of the C library: seen below, by space/... and by
# the iotest vhdx-4k
OTHERS = ('Failed to get "write" lock', 'No space left on device',
          'discard_granularity must be a multiple of logical_block_size')


def source(folder, ending):
    for name in sorted(os.listdir(os.path.join(ROOT, folder))):
        if name.endswith(ending):
            with open(os.path.join(ROOT, folder, name),
                      encoding='utf-8') as file:
                yield name[:-len(ending)], file.read()


def strings(text):
    return [found[1:-1] for found in re.findall(STRING, text)]


def sources():
    """The driver's files, with literals joined and named ones in place"""
    macros = {}
    for _, text in source('include/block/vhdx', '.h'):
        for name, value in MACRO.findall(text):
            macros[name] = '"%s"' % ''.join(strings(value))
    for name, text in source('block/vhdx', '.c'):
        text = re.sub(r'\bVHDX_\w+', lambda m: macros.get(m[0], m[0]), text)
        yield name, JOINED.sub('', text)


def rows():
    """The messages in the tables of the page"""
    with open(os.path.join(ROOT, 'docs/vhdx.md'), encoding='utf-8') as file:
        page_text = file.read()
    found = []
    for title in '### What is refused, and what to do', \
            '## When something is refused':
        section = re.split(r'(?m)^#{2,3} ', page_text.partition(
            title + '\n')[2])[0]
        cells = re.findall(r'(?m)^\| ([^|]*) \|', section)
        named = [re.findall('`(.+?)`', cell) for cell in cells]
        expect(all(names or cell in ('message', '---')
                   for names, cell in zip(named, cells)), '%s', cells)
        found += sum(named, [])
    return found


def as_pattern(message):
    return re.compile('.*'.join(map(re.escape, message.split('...'))))


def refusals(_):
    """The messages that the page explains are what the driver says."""
    found = rows()
    expect(len(found) > 40, 'the tables have %d messages', len(found))
    known = sum((strings(text) for _, text in sources()), [])
    for row in found:
        expect(row in OTHERS or any(map(as_pattern(row).search, known)),
               'the driver never says "%s"', row)
    expect(set(OTHERS) <= set(found), '%s is not in the tables', OTHERS)


def explained(_):
    """Each error and warning of the driver is in a table of the page, but for
    what is left out above, and what ends with the system's reason.  Among them
    are all that our tests expect."""
    patterns = [as_pattern(row) for row in rows()]
    reasons = {(name, words): re.compile(words)
               for left in LEFT_OUT.values()
               for names, words in left for name in names.split()}
    used, missing, count = set(), [], 0
    for name, text in sources():
        for _, call in SAYS.findall(text):
            message = max(strings(call), key=len, default='')
            if not message:
                continue
            count += 1
            fitting = {key for key, pattern in reasons.items()
                       if key[0] == name and pattern.search(message)}
            used |= fitting
            if not fitting and not any(p.search(message) for p in patterns):
                missing.append('%s.c: %s' % (name, message))
    expect(count > 180, 'the driver says %d things', count)
    expect(not missing, 'the page does not explain:\n%s', '\n'.join(missing))
    expect(len(used) == len(reasons), 'nobody says: %s',
           sorted(set(reasons) - used))


def storage(_):
    """The tests that are said to hold a table's rows are there."""
    with open(os.path.join(ROOT, 'docs/vhdx.md'), encoding='utf-8') as file:
        section = file.read().partition('## Storage servers\n')[2]
    lines = [line.split('|') for line in re.split('(?m)^## ', section)[0]
             .splitlines() if line.startswith('| ')]
    expect(lines[0][-2] == ' held by ', '%s', lines[0])
    known = run(os.path.join(ROOT, 'tests/storage/run'), '-l').split() + \
        ['nbd/' + name for name, _ in test_nbd.tests()]
    for line in lines[2:]:
        names = re.findall('`([^`]+)`', line[-2])
        expect(names, 'nothing holds "%s"', line[1])
        for name in names:
            for full in [name] if '/' in name else [
                    '%s/%s' % (protocol, name)
                    for protocol in ('rbd', 'iscsi', 'nfs', 'ssh')]:
                expect(any(test.startswith(full) for test in known),
                       'there is no test %s', full)


def locked(ctx):
    """... and that of QEMU where a child of the image is in use"""
    base, top = ctx.create('base.vhdx', '8M'), ctx.path('top.vhdx')
    run(ours('qemu-img'), 'create', '-q', '-f', 'vhdx', '-F', 'vhdx', '-b',
        base, top)
    socket = ctx.path('sock')
    with server(ours('qemu-nbd'), '-t', '-f', 'vhdx', '-k', socket, top,
                ready=socket):
        # It listens before it has opened the image.
        run(ours('qemu-img'), 'info', f'nbd+unix:///?socket={socket}')
        text = run(ours('qemu-io'), '-f', 'vhdx', '-c', 'write 0 4k', base,
                   status=1)
        expect('Failed to get "write" lock' in text, text)
    ctx.io(base, ['write -q 0 4k'])


def tests():
    return [('vhdx.md', page('vhdx.md')),
            ('vhdx.md-fuse', page('vhdx.md', 'fuse')),
            ('refusals', refusals), ('explained', explained),
            ('locked', locked), ('storage', storage)]
