"""scripts/quick-map: which tests are near to a file"""
import os
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MAP = 'scripts/quick-map'
WORKLOADS = 'tests/crash/vhdx-crash-workloads.c'
KINDS = ('unit', 'iotests', 'crash')
# A test is near to itself.
OWN = (('unit', re.compile(r'tests/unit/test-vhdx-([\w-]+)\.c')),
       ('iotests', re.compile(r'tests/iotests/(vhdx-[\w-]+?)(?:\.out)?')))


class MapError(Exception):
    """A line that can't be read"""


def read(top=TOP):
    """The lines: number, pattern, names by kind of test"""
    lines = []
    for number, line in enumerate((top / MAP).read_text().splitlines(), 1):
        if line.strip() and not line.startswith('#'):
            words = re.split(r'  +', line.strip())
            if len(words) != 1 + len(KINDS):
                raise MapError(f'{MAP}:{number}: {1 + len(KINDS)} columns are '
                               'wanted')
            lines.append((number, words[0], {
                kind: [] if names == '-' else names.split()
                for kind, names in zip(KINDS, words[1:])}))
    return lines


def tests_for(files, lines):
    """The tests that are near to @files, by kind"""
    found = {kind: set() for kind in KINDS}
    for path in files:
        for kind, pattern in OWN:
            own = pattern.fullmatch(path)
            if own and (TOP / path).exists():
                found[kind].add(own[1])
        for _, pattern, tests in lines:
            if fnmatchcase(path, pattern):
                for kind, names in tests.items():
                    found[kind].update(names)
    return {kind: sorted(names) for kind, names in found.items()}


def existing(top=TOP):
    """The tests that there are, by kind"""
    crash = (top / WORKLOADS).read_text()
    return {
        'unit': {path.stem[len('test-vhdx-'):] for path in
                 (top / 'tests/unit').glob('test-vhdx-*.c')},
        'iotests': {path.stem for path in
                    (top / 'tests/iotests').glob('vhdx-*.out')},
        'crash': set(re.findall(r'\.name = "([\w-]+)"', crash))}


def changed():
    """
    Files that differ from where the branch left main, and untracked ones; on
    main itself, where there are none, those of the last commit. BASE names
    another commit.
    """
    def git(*words):
        done = subprocess.run(['git', *words], cwd=TOP, check=False, text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
        return done.stdout.split('\n') if done.returncode == 0 else []
    base = os.environ.get('BASE') or (git('merge-base', 'HEAD', 'main') or
                                      ['HEAD'])[0]
    files = {*git('diff', '--name-only', base),
             *git('ls-files', '-o', '--exclude-standard')}
    if files <= {''}:
        files = set(git('diff', '--name-only', 'HEAD~1'))
    return sorted(files - {''})


def faults(top=TOP):
    """What is wrong with the list, a line each"""
    try:
        lines = read(top)
    except MapError as error:
        yield str(error)
        return
    there = existing(top)
    for number, _, tests in lines:
        for kind, names in tests.items():
            for name in names:
                if name not in there[kind]:
                    yield f'{MAP}:{number}: there is no test {kind}: {name}'
    for folder, form in (('block/vhdx', '*.c'), ('block/vhdx', '*.h'),
                         ('include/block/vhdx', '*.h')):
        for path in sorted((top / folder).glob(form)):
            name = str(path.relative_to(top))
            if not any(fnmatchcase(name, pattern) for _, pattern, _ in lines):
                yield f'{MAP}: no line fits {name}'
