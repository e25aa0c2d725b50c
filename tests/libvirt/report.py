"""Steps, what they expect, and the lines that tell how they went.

A step is a block of code under step(); it fails by an exception, and the area
goes on with the next one.  A step that has checked nothing fails, too.
"""
import contextlib
import subprocess
import sys
import traceback

_steps = {'number': 0, 'passed': 0, 'failed': 0, 'skipped': 0}
_checks = [0]


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def note_check():
    """Something was looked at that could have been wrong."""
    _checks[0] += 1


def expect(condition, text, *values):
    note_check()
    if not condition:
        raise Failure(text % values if values else text)


def expect_in(wanted, text):
    """Each of these strings stands in the text."""
    for part in [wanted] if isinstance(wanted, str) else wanted:
        expect(part in text, "'%s' is missing in:\n%s", part,
               str(text).strip())


def expect_equal(got, wanted, what):
    expect(got == wanted, '%s: %r, expected %r', what, got, wanted)


def _line(kind, result, name, why=''):
    _steps[kind] += 1
    first, *rest = why.splitlines() or ['']
    print('%s %d %s%s' % (result, _steps['number'], name,
                          ': ' + first if first else ''))
    for line in rest:
        print('# ' + line)
    sys.stdout.flush()


@contextlib.contextmanager
def step(name):
    _steps['number'] += 1
    _checks[0] = 0
    try:
        yield
        expect(_checks[0] > 0, 'nothing was checked')
        _line('passed', 'ok', name)
    except Skip as why:
        _line('skipped', 'ok', name, '# SKIP %s' % why)
    except (Failure, OSError, subprocess.SubprocessError) as why:
        _line('failed', 'not ok', name, str(why))
    except Exception:       # a fault of the step: the others still run
        _line('failed', 'not ok', name,
              'error in the step\n' + traceback.format_exc())


def area_failed(name):
    """An area that ended before its last step."""
    _steps['number'] += 1
    kind, error, _ = sys.exc_info()
    _line('failed', 'not ok', name, 'ended early: ' + (
        str(error) if issubclass(kind, Failure) else traceback.format_exc()))


def summary(path):
    """Leave the line of counts in a file; the status to exit with."""
    with open(path, 'w', encoding='utf-8') as file:
        file.write('smoke: %(passed)d passed, %(failed)d failed, '
                   '%(skipped)d skipped\n' % _steps)
    return 1 if _steps['failed'] or not _steps['passed'] else 0
