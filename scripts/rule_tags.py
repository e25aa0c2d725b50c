"""
The tags of rules: the table in tests/model/README.md has each, and it stands
in the driver, at the mutation in tests/crash/mutations, and in the model. A
second table there has those that the checker of traces tells
"""
import re
from collections import namedtuple
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MODELS = 'tests/model'
TABLE = MODELS + '/README.md'
CONFIGS = MODELS + '/configs'
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


def read_table(top):
    """The rules of the table, and the mutations that have no counterpart"""
    rules, without = [], set()
    text = (top / TABLE).read_text()
    for number, line in enumerate(text.splitlines(), 1):
        columns = [word.strip() for word in line.strip('|').split('|')]
        tag = TAG.fullmatch(columns[0])
        if tag and len(columns) == 5:
            rules.append(Rule(number, tag[1], *map(names, columns[2:])))
    _, _, rest = text.partition('## Mutations without')
    for line in rest.partition('\n## ')[0].splitlines():
        if line.startswith('| ') and not line.startswith('| mutation'):
            without.update(names(line.split('|')[1].strip()))
    return rules, without


def read_traced(top):
    """The table of what is told of traces: functions of the model by tag"""
    traced = {}
    for line in (top / TABLE).read_text().splitlines():
        columns = [word.strip() for word in line.strip('|').split('|')]
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
    yield from trace_faults(top, known)
    listed = [name for rule in rules for name in rule.defects]
    for name in sorted(defects ^ set(listed)):
        yield f'{TABLE} and {CONFIGS} do not agree on {name}'
