"""libvirtd in session mode from its build tree, in folders of its own."""
import os
import re
import signal
import subprocess
import uuid
from xml.etree import ElementTree

from report import expect, expect_in, Failure
from tools import run, wait_for

class Pool:
    """A storage pool, and the folder that it stands for."""
    def __init__(self, session, name, folder):
        self.session = session
        self.name = name
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def virsh(self, command, *args, **how):
        """A volume command on this pool."""
        return self.session.virsh(command, '--pool', self.name, *args, **how)

    def create(self, name, size, *args, form='vhdx', **how):
        return self.session.virsh('vol-create-as', self.name, name, size,
                                  '--format', form, *args, **how)

    def create_xml(self, name, capacity, more='', form='vhdx', target='',
                   command=('vol-create',), **how):
        """vol-create from XML; 'more' stands beside <target>, 'target' in
        it."""
        path = os.path.join(self.session.folder, 'volume.xml')
        with open(path, 'w', encoding='utf-8') as file:
            file.write("<volume><name>%s</name><capacity>%s</capacity>%s"
                       "<target><format type='%s'/>%s</target></volume>"
                       % (name, capacity, more, form, target))
        return self.session.virsh(command[0], self.name, path, *command[1:],
                                  **how)

    def refresh(self, **how):
        return self.session.virsh('pool-refresh', self.name, **how)

    def info(self, name):
        """vol-info in bytes, as a dictionary."""
        text = self.virsh('vol-info', '--bytes', name)
        return dict(re.findall(r'^(\w+):\s+(\d+) bytes', text, re.M))

    def capacity(self, name):
        return int(self.info(name)['Capacity'])

    def xml(self, name):
        return ElementTree.fromstring(self.virsh('vol-dumpxml', name))

    def form(self, name):
        return self.xml(name).find('target/format').get('type')

    def cluster_size(self, name):
        return int(self.xml(name).findtext('target/clusterSize', '0'))

    def names(self):
        """The volumes that the pool lists."""
        text = self.session.virsh('vol-list', self.name)
        return [line.split()[0] for line in text.splitlines()
                if line.strip()]

    def absent(self, name):
        """Neither a file nor a volume of that name."""
        expect(not os.path.lexists(self.path(name)), '%s is there', name)
        expect(name not in self.names(), '%s is listed', name)

    def running(self):
        expect_in('running', re.search(
            r'State:.*', self.session.virsh('pool-info', self.name))[0])


class Session:
    def __init__(self, folder, build, tools):
        self.folder = folder
        self.build = build
        self.tools = tools
        self.process = None
        self.runtime = os.path.join(folder, 'run')
        self.config = os.path.join(folder, 'c')
        self.cache = os.path.join(folder, 'cache')
        self.socket = os.path.join(self.runtime, 'libvirt', 'libvirt-sock')
        self.log = os.path.join(folder, 'libvirtd.log')
        self._mark = 0
        for path in (folder, self.runtime, self.config, self.cache,
                     self.path('home'), self.path('data'), self.path('tmp'),
                     self.path('bin'), self.path('c/libvirt')):
            os.makedirs(path, mode=0o700)
        os.symlink(tools.img_path, self.path('bin/qemu-img'))
        os.symlink(tools.emulator, self.path('bin/qemu-system-x86_64'))
        self.env = {
            'HOME': self.path('home'), 'XDG_RUNTIME_DIR': self.runtime,
            'XDG_CONFIG_HOME': self.config, 'XDG_CACHE_HOME': self.cache,
            'XDG_DATA_HOME': self.path('data'), 'TMPDIR': self.path('tmp'),
            'PATH': '%s:%s/tools:/usr/bin:/bin:/usr/sbin:/sbin'
                    % (self.path('bin'), build),
            'LD_LIBRARY_PATH': os.path.join(build, 'src'),
            'LIBVIRT_DIR_OVERRIDE': '1', 'LIBVIRT_AUTOSTART': '0',
            'LC_ALL': 'C.UTF-8',
        }
        with open(self.path('c/libvirt/qemu.conf'), 'w',
                  encoding='utf-8') as file:
            file.write('stdio_handler = "file"\n'
                       'security_driver = "none"\n'
                       'remember_owner = 0\n'
                       'namespaces = []\n')
        with open(self.path('libvirtd.conf'), 'w', encoding='utf-8') as file:
            file.write('log_outputs = "1:file:%s"\n'
                       'log_filters = "1:qemu.qemu_monitor 1:util.command '
                       '2:storage"\n'
                       'host_uuid = "%s"\n' % (self.log, uuid.uuid4()))

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, limit=60):
        with open(self.path('libvirtd.out'), 'ab') as out:
            self.process = subprocess.Popen(
                [os.path.join(self.build, 'src/libvirtd'),
                 '--config', self.path('libvirtd.conf'),
                 '--pid-file', self.path('libvirtd.pid'),
                 '--timeout', '3600'],
                env=self.env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, cwd=self.folder)
        wait_for('socket of libvirtd',
                 lambda: self._alive() and os.path.exists(self.socket), limit)
        self.virsh('uri')

    def _alive(self):
        if self.process.poll() is not None:
            with open(self.path('libvirtd.out'), encoding='utf-8') as file:
                raise Failure('libvirtd ended with exit status %d: %s'
                              % (self.process.returncode, file.read()[-1000:]))
        return True

    def alive(self):
        """The daemon that was started is still the one that runs."""
        expect(self._alive(), 'libvirtd has ended')

    def stop(self, limit=60):
        """An orderly end of the daemon; its domains go on."""
        if not self.process:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired as why:
            raise Failure('libvirtd does not end within %d s'
                          % limit) from why
        expect(self.process.returncode == 0, 'libvirtd: exit status %d',
               self.process.returncode)
        self.process = None

    def close(self):
        """End the daemon, and domains that a step has left."""
        try:
            if self.process:
                left = self.virsh('list', '--name').split()
                for name in left:
                    self.virsh('destroy', name)
                expect(not left, 'still running: %s', ' '.join(left))
            self.stop()
        finally:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def virsh(self, *args, quiet=True, **how):
        return run([os.path.join(self.build, 'tools/virsh'),
                    *(['-q'] if quiet else []), '-c', 'qemu:///session',
                    *args],
                   env=self.env, cwd=self.folder, **how)

    def version(self):
        """libvirt's version: (9, 0)."""
        return tuple(int(part) for part in
                     self.virsh('--version').strip().split('.')[:2])

    def virsh_many(self, commands):
        """The answers to many commands, each with its errors, by one virsh.

        It writes its lines at once, or errors would be out of order."""
        text = run(['stdbuf', '-oL', os.path.join(self.build, 'tools/virsh'),
                    '-q', '-c', 'qemu:///session'],
                   env=self.env, cwd=self.folder, given=''.join(
                       "echo '@@@'\n%s\n" % command
                       for command in commands))
        answers = [part.removeprefix('virsh # ').strip()
                   .removesuffix('virsh #')
                   for part in text.split('virsh # @@@')[1:]]
        expect(len(answers) == len(commands), '%d answers to %d commands',
               len(answers), len(commands))
        return answers

    def pool(self, name):
        """A new pool in a folder of its own."""
        folder = os.path.join(self.folder, 'pools', name)
        os.makedirs(folder)
        self.virsh('pool-create-as', name, 'dir', '--target', folder)
        return Pool(self, name, folder)

    # What the daemon has given to QEMU and qemu-img stands in its log.

    def mark(self):
        """Later looks at the log see what comes from now on."""
        self._mark = os.path.getsize(self.log)

    def logged(self):
        with open(self.log, 'rb') as file:
            file.seek(self._mark)
            return file.read().decode(errors='replace')

    def ran(self, program):
        """The command lines of this program since mark()."""
        return re.findall(r'About to run (?:\S+=\S* )*((?:\S*/)?%s .*)'
                          % program, self.logged())

    def qmp(self, command):
        """The QMP commands of that name since mark(), as text."""
        found = re.findall(
            r'QEMU_MONITOR_IO_WRITE: mon=\S+ buf=(\{"execute":"%s".*)'
            % re.escape(command), self.logged())
        return found
