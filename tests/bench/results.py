"""What was measured: rows of a TSV file, and medians of them.

A row is one value: group, case, how it was measured, format, unit, target,
round, value.  The target is a bound of the ratio to raw, or of chains to
qcow2, with its sense, or empty.  Everything in README.md is worked out from
these rows.  Lines that begin with # hold facts on the machine and failures.

The median of some rounds is not that of all there could be.  That one lies
between two of the values with a probability of 95 % at least, whatever their
distribution: by chance all of n values are on one side of it, or all but k,
as coins fall.
"""
import collections
import math
import statistics

Row = collections.namedtuple(
    'Row', ('group', 'case', 'how', 'format', 'unit', 'target', 'round',
            'value'))
COLUMNS = Row._fields
Spread = collections.namedtuple('Spread', 'median low high sure')
CHANCE = 0.05


def spread(values):
    """The median and its interval; that is all there is of a few values,
    which are not sure to have it between them."""
    values = sorted(values)
    count, without, chance = len(values), -1, 0
    while without < count // 2:
        chance += 2 * math.comb(count, without + 1) / 2 ** count
        if chance > CHANCE:
            break
        without += 1
    outer = max(without, 0)
    return Spread(statistics.median(values), values[outer],
                  values[-1 - outer], without >= 0)


def within(value, target):
    """Whether a median, of which spread() tells, meets the target, by all of
    its interval; None if that is not decided."""
    if not target or not value or not value.sure:
        return None
    bound = float(target[2:])
    if value.low < bound < value.high:
        return None
    return (value.low >= bound if target.startswith('>=')
            else value.high <= bound)


class Results:
    def __init__(self):
        self.rows = []
        self.facts = []         # (name, text)
        self.failures = []      # text
        self.places = {}        # in tables, by group, case and how

    def add(self, group, case, how, fmt, unit, target, number, value):
        self.rows.append(Row(group, case, how, fmt, unit, target, number,
                             float(value)))

    def fail(self, text):
        self.failures.append(' '.join(text.split()))

    def order(self, cases):
        """Let tables have @cases in this order, behind those before."""
        for case in cases:
            self.places.setdefault((case.group, case.name, case.how),
                                   len(self.places))

    def cases(self, group):
        """(case, how, unit, target) of a group, in order, each once."""
        return list(dict.fromkeys((r.case, r.how, r.unit, r.target)
                                  for r in self.rows if r.group == group))

    def sort(self):
        """Rows of cases that were ordered come in that order."""
        self.rows.sort(key=lambda r: self.places.get(
            (r.group, r.case, r.how), -1))

    def values(self, group, case, how, fmt):
        """Values by round."""
        return {r.round: r.value for r in self.rows
                if (r.group, r.case, r.how, r.format) == (group, case, how,
                                                          fmt)}

    def absolute(self, group, case, how, fmt):
        values = self.values(group, case, how, fmt)
        return spread(values.values()) if values else None

    def ratio(self, group, case, how, fmt, base='raw'):
        """To @base, worked out within each round."""
        of_base = self.values(group, case, how, base)
        values = self.values(group, case, how, fmt)
        both = [values[n] / of_base[n] for n in values if of_base.get(n)]
        return spread(both) if both else None

    def met(self, group, case, how, target):
        """As within(), of our ratio."""
        base = 'qcow2' if group in ('chains', 'bitmaps') else 'raw'
        return within(self.ratio(group, case, how, 'ours', base), target)

    def save(self, path):
        with open(path, 'w', encoding='utf-8') as file:
            for name, text in self.facts:
                file.write('# fact\t%s\t%s\n' % (name, text))
            for text in self.failures:
                file.write('# failure\t%s\n' % text)
            file.write('\t'.join(COLUMNS) + '\n')
            for row in self.rows:
                file.write('\t'.join(str(f) for f in row[:-1])
                           + '\t%.6g\n' % row.value)

    @classmethod
    def load(cls, path):
        self = cls()
        with open(path, encoding='utf-8') as file:
            for line in file:
                fields = line.rstrip('\n').split('\t')
                if fields[0] == '# fact':
                    self.facts.append((fields[1], fields[2]))
                elif fields[0] == '# failure':
                    self.failures.append(fields[1])
                elif fields != list(COLUMNS):
                    self.rows.append(Row(*fields[:6], int(fields[6]),
                                         float(fields[7])))
        return self
