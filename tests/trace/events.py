"""What the driver traces, as its file trace-events declares it.

A Trace reads the lines of the log backend; an Event is one of them, whose
arguments have their declared names.  A line that no declaration fits fails.
Each image's write states are followed, by the picture in change.c.
"""
import os
import re

from harness import ROOT, Failure, expect

DRIVER = os.path.join(ROOT, 'block', 'vhdx')
DECLARED = re.compile(r'^vhdx_(\w+)\((.*?)\) (".*)$')
# A number of a format, with the length that C has before it
NUMBER = re.compile(r'%(?:l|ll)?([dux])')
CLOSE = 'data -> reading', 'metadata -> reading'
BROKEN = ('reading -> broken', 'metadata -> broken', 'data -> broken')
RESUMED = ('broken -> reading', 'broken -> metadata')
# What comes with other steps; the checker of tests/model wants it.
SMALL = ('file_flush', 'file_flush_end', 'space_take', 'space_return',
         'space_cut_begin', 'space_cut_undo', 'block_move')
EDGES = ('reading -> metadata', 'metadata -> data', 'data -> metadata') + \
    CLOSE + BROKEN + RESUMED


class Declaration:
    def __init__(self, name, arguments, text, files):
        self.name, self.files = name, files
        words = [a.split() for a in arguments.split(',')]
        self.names = [w[-1].lstrip('*') for w in words]
        text = re.sub(r'"\s*PRI([dux])(?:32|64)\s*("|$)', r'\1', text)
        self.kinds, pattern = [], ''
        for part in re.split(r'(%p|%s|%[lh]*[dux])', text.strip('"')):
            if not part.startswith('%'):
                pattern += re.escape(part)
                continue
            self.kinds.append(part[-1])
            pattern += {'p': '(0x[0-9a-f]+)', 's': '(.*)', 'd': r'(-?\d+)',
                        'u': r'(\d+)', 'x': '([0-9a-f]+)'}[part[-1]]
        expect(len(self.kinds) == len(self.names),
               'vhdx_%s: its text does not have its arguments', name)
        self.pattern = re.compile(pattern)

    def read(self, line):
        found = self.pattern.fullmatch(line)
        expect(found, 'vhdx_%s is not as declared: %s', self.name, line)
        values = [int(v, 16 if kind == 'x' else 10) if kind in 'dux' else v
                  for kind, v in zip(self.kinds, found.groups())]
        return Event(self.name, dict(zip(self.names, values)))


class Event:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def __getattr__(self, name):
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self):
        return self.name + ''.join(
            ' %s=%s' % (k, hex(v) if k in ('offset', 'bytes', 'length') else v)
            for k, v in self.values.items() if k != 's')


def declarations():
    """All events by name; 'files' are those that the comment above says."""
    found, files = {}, []
    with open(os.path.join(DRIVER, 'trace-events'), encoding='ascii') as file:
        for line in file:
            if line.startswith('#'):
                files = re.findall(r'[\w-]+\.c\b', line)
            elif line.strip():
                match = DECLARED.match(line.strip())
                expect(match, 'not a declaration: %s', line)
                found[match[1]] = Declaration(*match.groups(), files)
    return found


class Trace:
    """What a program traces to a file; read() gives what is new in it, without
    small steps but where it is to have them."""
    def __init__(self, path):
        self.path, self.at = path, 0
        self.small = False
        self.states = {}
        self.known = declarations()
        if os.path.exists(path):
            os.unlink(path)

    def options(self, pattern='vhdx_*'):
        return ['--trace', 'enable=%s,file=%s' % (pattern, self.path)]

    def read(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding='utf-8') as file:
            file.seek(self.at)
            lines = file.read()
            self.at = file.tell()
        events = [self._event(line) for line in lines.splitlines()]
        for event in events:
            self._follow(event)
        return [e for e in events if self.small or e.name not in SMALL]

    def _event(self, line):
        name, _, rest = line.partition(' ')
        declared = self.known.get(name[len('vhdx_'):])
        expect(declared, 'not of the driver: %s', line)
        return declared.read(rest)

    def _follow(self, event):
        """The state goes on from where it was, to where it may go.  What is
        loaded anew is read only."""
        if event.name == 'open':
            self.states[event.s] = 'reading'
        if event.name == 'write_state':
            way = '%s -> %s' % (event.values['from'], event.to)
            expect(way in EDGES and
                   event.values['from'] == self.states[event.s],
                   'state %s: %s', self.states[event.s], way)
            self.states[event.s] = event.to


def fits(event, wanted):
    """'wanted' is "name argument=value ...", with the arguments that count."""
    name, *values = wanted.split()
    if name != event.name:
        return False
    for word in values:
        key, _, value = word.partition('=')
        expect(key in event.values, '%s has no %s', name, key)
        have = event.values[key]
        if have != (int(value, 0) if isinstance(have, int) else value):
            return False
    return True


def shows(events, *wanted):
    """Just these, in this order."""
    if len(events) != len(wanted) or \
            not all(fits(e, w) for e, w in zip(events, wanted)):
        raise Failure('traced\n  %s\ninstead of\n  %s' %
                      ('\n  '.join(map(str, events)), '\n  '.join(wanted)))
