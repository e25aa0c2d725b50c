"""What was measured: rows of a TSV file, and medians of them.

A row is one value: group, case, how it was measured, format, unit, target,
round, value.  The target is a bound of the ratio to raw, or of chains to
qcow2, with its sense, or empty.  Everything in README.md is worked out from
these rows.  Lines that begin with # hold facts on the machine and failures.
"""
import collections
import statistics

Row = collections.namedtuple(
    'Row', ('group', 'case', 'how', 'format', 'unit', 'target', 'round',
            'value'))
COLUMNS = Row._fields
Spread = collections.namedtuple('Spread', 'median low high')


def spread(values):
    return Spread(statistics.median(values), min(values), max(values))


class Results:
    def __init__(self):
        self.rows = []
        self.facts = []         # (name, text)
        self.failures = []      # text

    def add(self, group, case, how, fmt, unit, target, number, value):
        self.rows.append(Row(group, case, how, fmt, unit, target, number,
                             float(value)))

    def fail(self, text):
        self.failures.append(' '.join(text.split()))

    def cases(self, group):
        """(case, how, unit, target) of a group, in order, each once."""
        return list(dict.fromkeys((r.case, r.how, r.unit, r.target)
                                  for r in self.rows if r.group == group))

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
        """Whether our median meets the target; None if there is none."""
        base = 'qcow2' if group == 'chains' else 'raw'
        ratio = self.ratio(group, case, how, 'ours', base)
        if not target or not ratio:
            return None
        bound = float(target[2:])
        return (ratio.median >= bound if target.startswith('>=')
                else ratio.median <= bound)

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
