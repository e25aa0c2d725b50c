"""
The tags of rules: the table in tests/model/README.md has each, and it stands
in the driver, at the mutation in tests/crash/mutations, and in the model; for
what there is not, a second table there has the reason. Another has those that
the checker of traces tells. The rules in docs/design.md have tags of the table
"""
import re
from collections import namedtuple
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MODELS = 'tests/model'
TABLE = MODELS + '/README.md'
CONFIGS = MODELS + '/configs'
DESIGN = 'docs/design.md'
MUTATIONS = 'tests/crash/mutations'
DRIVER = 'block/vhdx'

# Two words at the least, so that no index into an array looks like one
TAG = re.compile(r'\[([a-z]+(?:-[a-z]+)+)\]')

# A tag that the checker of traces tells
TOLD = re.compile(r'"([a-z]+(?:-[a-z]+)+)"')

Rule = namedtuple('Rule', 'line tag functions mutations defects')


def names(column):
    """What a column of the table lists, or nothing"""
    return [] if column == '-' else column.replace('`', '').split(', ')


def read_lines(top, title):
    """The lines of tables in a section: their number and columns"""
    inside = False
    for number, line in enumerate((top / TABLE).read_text().splitlines(), 1):
        if line.startswith('## '):
            inside = line == f'## {title}'
        elif inside and line.startswith('| '):
            yield number, [word.strip() for word in line.strip('|').split('|')]


def read_table(top):
    """The rules of the table, and the mutations that have no counterpart"""
    rules, without = [], set()
    for number, columns in read_lines(top, 'Rules, code, planted defects'):
        tag = TAG.fullmatch(columns[0])
        if tag and len(columns) == 5:
            rules.append(Rule(number, tag[1], *map(names, columns[2:])))
    for _, columns in read_lines(top, 'Mutations without a counterpart'):
        if columns[0] != 'mutations':
            without.update(names(columns[0]))
    return rules, without


def read_reasons(top):
    """What rules are without, and for which there is a reason: tag, kind"""
    found = set()
    for _, columns in read_lines(top, 'Tags without a mutation or a model'):
        tag = TAG.fullmatch(columns[0])
        if tag and len(columns) == 3 and len(columns[2]) > 1:
            found.add((tag[1], columns[1]))
    return found


def reason_faults(top, rules):
    """Where there is none, or one that is not needed"""
    needed = {(rule.tag, kind) for rule in rules
              for kind, column in (('code', rule.functions),
                                   ('mutation', rule.mutations),
                                   ('model', rule.defects)) if not column}
    reasons = read_reasons(top)
    for tag, kind in sorted(needed - reasons):
        yield f'{TABLE}: [{tag}] has no {kind}, and no reason for that'
    for tag, kind in sorted(reasons - needed):
        yield f'{TABLE}: [{tag}] has a reason to have no {kind}, but need not'


def design_faults(top, known):
    """What is wrong with the tags of the rules in the design"""
    inside = False
    for number, line in enumerate((top / DESIGN).read_text().splitlines(), 1):
        if not inside or not line.startswith('| '):
            inside = line == '| rule | where | tags |' or (
                inside and line.startswith('|'))
            continue
        tags = line.strip('|').split('|')[-1]
        if not TAG.search(tags) and tags.strip() != 'no order':
            yield f'{DESIGN}:{number}: a rule without a tag'
        for tag in TAG.findall(tags):
            if tag not in known:
                yield f'{DESIGN}:{number}: {TABLE} has no line for [{tag}]'


def read_traced(top):
    """The table of what is told of traces: functions of the model by tag"""
    traced = {}
    for _, columns in read_lines(top, 'Traces of the driver'):
        tag = TAG.fullmatch(columns[0])
        if tag and len(columns) == 3:
            traced[tag[1]] = names(columns[2])
    return traced


def trace_faults(top, known):
    """What is wrong with that table"""
    traced = read_traced(top)
    checker, model = (
        ''.join(path.read_text() for path in (top / MODELS).glob(pattern))
        for pattern in ('trace-*.h', 'log*.h'))
    model += (top / MODELS / 'requests.h').read_text()
    for tag in sorted(set(traced) ^ set(TOLD.findall(checker))):
        yield f'{TABLE} and the checker of traces do not agree on [{tag}]'
    for tag in sorted(set(traced) - known):
        yield f'{TABLE}: has no line for [{tag}], which is told of traces'
    for tag, functions in traced.items():
        for name in functions:
            if not re.search(rf'^static .*\b{re.escape(name[:-2])}\(', model,
                             re.M):
                yield f'{TABLE}: [{tag}]: the log\'s model has no {name}'


def read_mutations(top):
    """The tag of each mutation, or None"""
    tags, name = {}, None
    for line in (top / MUTATIONS).read_text().splitlines():
        if line.startswith('['):
            name = line.strip('[]')
            tags[name] = None
        elif line.startswith('tag: '):
            tags[name] = line.partition(': ')[2].strip('[]')
    return tags


def read_defects(top):
    """MODEL/DEFECT of all defects that are planted"""
    found = set()
    for line in (top / CONFIGS).read_text().splitlines():
        words = line.split()
        if words and words[0] in ('caught', 'harmless'):
            model = words[1].partition('/')[0]
            found.update(f'{model}/{name}' for name in words[2:])
    return found


def tags_in(paths):
    """All tags in these files"""
    return {tag for path in paths for tag in TAG.findall(path.read_text())}


def tags_of_functions(top):
    """The tags above the functions of the driver, and in them"""
    found = {}
    for path in (top / DRIVER).glob('*.c'):
        # A function ends the text in which its tags stand.
        for text in re.split(r'(?<=\n)}\n', path.read_text()):
            head = re.findall(r'^(?:[\w *]+[ *])?(\w+)\([^;{]*?\)\n\{', text,
                              re.M | re.S)
            if head:
                found.setdefault(head[-1], set()).update(TAG.findall(text))
    return found


def rule_faults(rule, functions, mutations, models):
    """What is wrong with a line of the table"""
    where = f'{TABLE}:{rule.line}: [{rule.tag}]'
    for name in rule.functions:
        if rule.tag not in functions.get(name.removesuffix('()'), ()):
            yield f'{where} does not stand at {name} in {DRIVER}'
    tagged = [name for name, tag in mutations.items() if tag == rule.tag]
    for name in sorted(set(rule.mutations) ^ set(tagged)):
        yield f'{where} and {MUTATIONS} do not agree on {name}'
    for name in rule.defects:
        if rule.tag not in models.get(name.partition('/')[0], ()):
            yield f'{where} does not stand in the model of {name}'


def faults(top=TOP):
    """What is wrong with the tags, a line each"""
    rules, without = read_table(top)
    mutations, defects = read_mutations(top), read_defects(top)
    functions = tags_of_functions(top)
    models = {path.stem: tags_in((top / MODELS).glob(path.stem + '*.[hp]*'))
              for path in (top / MODELS).glob('*.pml')}
    for rule in rules:
        yield from rule_faults(rule, functions, mutations, models)
    known = {rule.tag for rule in rules}
    used = tags_in((top / DRIVER).glob('*.c')).union(*models.values())
    for tag in sorted((used | set(filter(None, mutations.values()))) - known):
        yield f'{TABLE}: has no line for [{tag}]'
    for name, tag in mutations.items():
        if (tag is None) != (name in without):
            yield f'{MUTATIONS}: {name} has a tag or is told of, not both'
    for name in sorted(without - set(mutations)):
        yield f'{TABLE}: there is no mutation {name}'
    yield from reason_faults(top, rules)
    yield from design_faults(top, known)
    yield from trace_faults(top, known)
    listed = [name for rule in rules for name in rule.defects]
    for name in sorted(defects ^ set(listed)):
        yield f'{TABLE} and {CONFIGS} do not agree on {name}'
