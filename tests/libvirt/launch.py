"""How a run is started and what is left of it removed, for run and demo.

What is started as root goes on as an unprivileged user in mount and network
namespaces of its own; the process that was started stays to end what is left
and to remove the files.
"""
import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.abspath(sys.argv[0])
USER = 'nobody'
# a file in the folder of the run, for the line that comes last
LAST_LINE = 'last-line'
# the longest socket is a domain's monitor, 48 characters below this folder;
# a socket's path has at most 107
FOLDER_LIMIT = 59
# all areas together, on a machine that is busy
LIMIT = 1800


def arguments(areas):
    parser = argparse.ArgumentParser()
    parser.add_argument('--build', required=True,
                        help="libvirt's meson build folder")
    parser.add_argument('--source', required=True, help="libvirt's source")
    parser.add_argument('--qemu-img', required=True,
                        help='beside it: qemu-io and qemu-nbd')
    parser.add_argument('--emulator', required=True)
    parser.add_argument('--work', required=True,
                        help='where to work; a short path')
    parser.add_argument('--keep', action='store_true',
                        help='leave all files there')
    parser.add_argument('--inside', help=argparse.SUPPRESS)
    if areas:
        parser.add_argument('areas', nargs='*', metavar='AREA',
                            help='all by default: ' + ' '.join(areas))
    options = parser.parse_args()
    for name in ('build', 'source', 'qemu_img', 'emulator', 'work'):
        setattr(options, name, os.path.abspath(getattr(options, name)))
    for area in options.areas if areas else ():
        if area not in areas:
            parser.error('no area %s; there are: %s' % (area,
                                                        ' '.join(areas)))
    return options


def unprivileged(options):
    """What makes a command an unprivileged user's, for root."""
    user = pwd.getpwnam(USER)
    own = ['unshare', '-m', '-n']
    change = ['setpriv', '--reuid', USER, '--regid', str(user.pw_gid),
              '--clear-groups', '--no-new-privs']
    reads = 'test -r "$1" && test -r "$2" && test -r "$3" && test -x "$4"'
    readable = subprocess.run(
        change + ['sh', '-c', reads, '-', PROGRAM,
                  options.build + '/src/libvirtd', options.source + '/src',
                  options.emulator],
        check=False).returncode == 0
    if readable:
        return own + change, (user.pw_uid, user.pw_gid)
    # A clone in root's home: in a user namespace where root is that user,
    # libvirtd runs as in a session, and may read these folders.
    return own + ['-U', '--map-user=%d' % user.pw_uid,
                  '--map-group=%d' % user.pw_gid], None


def left_behind(folder):
    """Processes that have this folder in their command line."""
    found = []
    for number in os.listdir('/proc'):
        try:
            with open('/proc/%s/cmdline' % number, 'rb') as file:
                words = file.read().decode(errors='replace')
        except (OSError, ValueError):
            continue
        if folder in words:
            found.append((int(number), words.split('\0')[0]))
    return found


def end_processes(folder):
    """End what still runs; how many there were."""
    found = left_behind(folder)
    for number, name in found:
        print('# still running: %s (%d)' % (name, number))
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass
    end = time.monotonic() + 10
    while left_behind(folder) and time.monotonic() < end:
        time.sleep(0.05)
    return len(found)


def keep_logs(folder, target):
    """The logs of a run in which a step failed."""
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith('.log'):
                os.makedirs(target, exist_ok=True)
                path = os.path.join(root, name)
                shutil.copyfile(path, os.path.join(
                    target, os.path.relpath(path, folder).replace('/', '-')))
    print('# logs are in ' + target)


def run_folder(work):
    """A folder for one run, whose path is short enough for sockets."""
    folder = tempfile.mkdtemp(prefix='s', dir=work)
    if len(folder) > FOLDER_LIMIT:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix='vhdx-')
    return folder


def run_child(options, folder):
    """The run itself, as another user if we are root; its exit status."""
    command = []
    if os.getuid() == 0:
        command, owner = unprivileged(options)
        if owner:
            os.chown(folder, *owner)
    child = subprocess.Popen(
        command + [sys.executable, '-B', PROGRAM, '--inside', folder]
        + sys.argv[1:], stdin=subprocess.DEVNULL)
    try:
        return child.wait(LIMIT)
    except subprocess.TimeoutExpired:
        print('# no end within %d s' % LIMIT)
        return 1
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def outside(options):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs = os.path.join(options.work, 'logs')
    made = os.path.isdir(logs) or not os.path.isdir(options.work)
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(options.work, exist_ok=True)
    folder = run_folder(options.work)
    status, last = 1, ''
    try:
        status = run_child(options, folder)
    finally:
        if end_processes(folder):
            status = status or 1
        last = last_line(folder)
        if options.keep:
            print('# files are in ' + folder)
        else:
            if status:
                keep_logs(folder, logs)
            shutil.rmtree(folder)
            if made and not os.listdir(options.work):
                os.rmdir(options.work)
        print(last, end='')
    return status


def last_line(folder):
    """What the run wants to be said at the very end."""
    try:
        with open(os.path.join(folder, LAST_LINE), encoding='utf-8') as file:
            return file.read()
    except FileNotFoundError:
        return ''


def main(inside, areas=()):
    """inside() gets the options; the status to exit with."""
    options = arguments(areas)
    if options.inside:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return inside(options)
    return outside(options)
