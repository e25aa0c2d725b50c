"""How QEMU's build compiles a file of the driver, for scripts that do so"""
import functools
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('BUILD', TOP / 'build')).resolve()


class CompileError(Exception):
    """With what the compiler said"""


@functools.lru_cache(maxsize=None)
def command_of_qemu():
    """The folder and the words for a file of the block layer, without it"""
    commands = json.loads((BUILD / 'qemu/compile_commands.json').read_text())
    entry = next(entry for entry in commands
                 if entry['file'].endswith('block/qcow2.c'))
    words, skip = [], False
    for word in shlex.split(entry['command']):
        if skip:
            skip = False
        elif word in ('-o', '-MF', '-MQ', '-c'):
            skip = True
        elif not re.match(r'-O|-g|-MD|-U_FORTIFY|-D_FORTIFY|-W|.*ccache$',
                          word):
            words.append(word)
    return entry['directory'], words


def compile_file(tree, source, *flags):
    """Compile @source with the headers of @tree; returns what is printed"""
    folder, words = command_of_qemu()
    own = [f'-iquote{tree / "include"}']
    done = subprocess.run([words[0], *own, *words[1:], '-O0', '-g0', '-w',
                           '-D_FORTIFY_SOURCE=0', *flags, str(source)],
                          cwd=folder, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CompileError(f'{source} does not compile:\n{done.stderr}')
    return done.stdout
