"""Storage servers on the loopback device, each for one test.

A Storage says what its protocol can do and how images there are named.  'new'
gives the name of one that is not there yet; where names are not for us to
make, as on a LUN, it has room for so many bytes.
"""
import contextlib
import json
import os
import signal
import subprocess
import time

from harness import Failure, foreign, ours, run

PATIENCE = 90


class Storage:
    creates = True      # an image by its name
    grows = True        # a file gets longer ...
    shrinks = True      # ... and shorter
    discards = True     # space is given back
    reopens = True      # what was opened read-only gets writable
    reserves = False    # there is preallocation=falloc

    def __init__(self, ctx):
        self.ctx = ctx
        self.stack = contextlib.ExitStack()
        self.count = 0
        self.conf = ''      # the server's configuration
        self.server = None  # the process that may be killed

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start(self):
        raise NotImplementedError

    def url(self, name):
        raise NotImplementedError

    def new(self, most=0):
        self.count += 1
        del most
        return self.url('image%d' % self.count)

    def write(self, name, *lines):
        """A file with these lines; its path."""
        path = self.ctx.path(name)
        with open(path, 'w', encoding='utf-8') as file:
            file.writelines(line + '\n' for line in lines)
        return path

    def serve(self, *command, ready, end=signal.SIGTERM):
        """A program in the background for as long as the storage is there."""
        command = [str(word) for word in command]
        path = self.ctx.path('log.' + os.path.basename(command[0]))
        log = self.stack.enter_context(open(path, 'ab'))
        process = self.stack.enter_context(subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        self.stack.callback(stop, process, end)
        wait(ready, process, path)
        return process

    def kill(self):
        self.server.kill()
        self.server.wait()


def stop(process, end=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(end)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait(ready, process, log):
    """Until the program serves, or has ended."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            with open(log, errors='replace', encoding='utf-8') as file:
                raise Failure('%s does not serve:\n%s' % (
                    process.args[0], file.read()[-2000:]))
        time.sleep(0.05)


def works(*command):
    """Whether a program ends well, within some seconds."""
    try:
        return subprocess.run([str(word) for word in command], timeout=20,
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL,
                              check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class Rbd(Storage):
    """A Ceph cluster of one monitor and one OSD."""
    objects = 'memstore'
    auth = 'none'

    def start(self):
        for name in 'mon', 'osd', 'run':
            os.mkdir(self.ctx.path(name))
        self.conf = self.write(
            'ceph.conf', '[global]',
            'fsid = 6f0ff2f5-3ff0-4bd6-8b2a-d2a2e5a7c001',
            'mon host = v2:127.0.0.1:16789', 'public addr = 127.0.0.1',
            *('auth %s required = %s' % (which, self.auth)
              for which in ('cluster', 'service', 'client')),
            'osd pool default size = 1', 'osd pool default min size = 1',
            'osd pool default pg autoscale mode = off',
            'osd crush chooseleaf type = 0', 'mon allow pool size one = true',
            'run dir = ' + self.ctx.path('run'),
            'admin socket = ' + self.ctx.path('run/$name.asok'),
            'log file = ' + self.ctx.path('log.$name'),
            'mon data = ' + self.ctx.path('mon'),
            'osd data = ' + self.ctx.path('osd'),
            'osd objectstore = ' + self.objects,
            'memstore device bytes = 4294967296',
            'bluestore block size = 8589934592',
            'osd memory target = 939524096',
            'osd class update on start = false',
            # who is killed keeps the lock for 30 s by default
            'osd client watch timeout = 2',
            '[client]', 'log file =',
            *self.keyrings())
        self.tool('monmaptool', '--create', '--fsid',
                  '6f0ff2f5-3ff0-4bd6-8b2a-d2a2e5a7c001', '--addv', 'a',
                  '[v2:127.0.0.1:16789]', self.ctx.path('monmap'))
        self.keys()
        self.tool('ceph-mon', '-i', 'a', '--mkfs', '--monmap',
                  self.ctx.path('monmap'), *self.mon_key())
        self.serve(foreign('ceph-mon'), '-c', self.conf, '-i', 'a', '-f',
                   ready=lambda: works('ceph', '-c', self.conf,
                                       '--connect-timeout', 10, 'mon', 'stat'))
        self.make_osd()
        self.start_server()
        self.tool('ceph', 'osd', 'pool', 'create', 'rbd', '8')
        self.tool('rbd', 'pool', 'init', 'rbd')

    def keyrings(self):
        return []

    def keys(self):
        pass

    def mon_key(self):
        return []

    def make_osd(self):
        uuid = '6f0ff2f5-3ff0-4bd6-8b2a-d2a2e5a7c002'
        self.tool('ceph', 'osd', 'new', uuid)
        self.tool('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', uuid)

    def start_server(self):
        self.server = self.serve(
            foreign('ceph-osd'), '-c', self.conf, '-i', '0', '-f',
            ready=lambda: '1 up' in self.tool('ceph', 'osd', 'stat'))

    def tool(self, name, *args):
        return run(foreign(name), '-c', self.conf, *args)

    def url(self, name):
        return 'rbd:rbd/%s:conf=%s' % (name, self.conf)

    def used(self, url):
        """Bytes that the image takes in the cluster."""
        name = url.split('/')[1].split(':')[0]
        out = self.tool('rbd', 'du', '--format', 'json', name)
        return json.loads(out[out.index('{'):])['images'][0]['used_size']


class RbdWithKeys(Rbd):
    """The same with cephx: who has no key is refused."""
    objects = 'bluestore'
    auth = 'cephx'

    def keyrings(self):
        return [line for user in ('admin', 'vhdx') for line in (
            '[client.%s]' % user,
            'keyring = ' + self.ctx.path(user + '.keyring'))]

    def keys(self):
        mon = self.ctx.path('mon.keyring')
        admin = self.ctx.path('admin.keyring')
        tool = foreign('ceph-authtool')
        run(tool, '--create-keyring', mon, '--gen-key', '-n', 'mon.',
            '--cap', 'mon', 'allow *')
        run(tool, '--create-keyring', admin, '--gen-key', '-n', 'client.admin',
            '--cap', 'mon', 'allow *', '--cap', 'osd', 'allow *')
        run(tool, mon, '--import-keyring', admin)

    def mon_key(self):
        return ['--keyring', self.ctx.path('mon.keyring')]

    def make_osd(self):
        uuid = '6f0ff2f5-3ff0-4bd6-8b2a-d2a2e5a7c002'
        key = run(foreign('ceph-authtool'), '--gen-print-key').strip()
        secret = self.write('secret', json.dumps({'cephx_secret': key}))
        self.tool('ceph', 'osd', 'new', uuid, '-i', secret)
        run(foreign('ceph-authtool'), '--create-keyring',
            self.ctx.path('osd/keyring'), '-n', 'osd.0', '--add-key', key)
        self.tool('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', uuid)

    def start(self):
        super().start()
        self.tool('ceph', 'auth', 'get-or-create', 'client.vhdx', 'mon',
                  'profile rbd', 'osd', 'profile rbd pool=rbd', '-o',
                  self.ctx.path('vhdx.keyring'))

    def url(self, name, user='vhdx'):
        return 'rbd:rbd/%s:id=%s:conf=%s' % (name, user, self.conf)


class Iscsi(Storage):
    """A target; each image has a LUN of its own."""
    creates = grows = shrinks = False
    reserves = True     # a LUN has its length already
    target = 'iqn.2026-11.test:disk'

    def start(self):
        os.makedirs('/run/tgtd', exist_ok=True)
        self.serve(foreign('tgtd'), '-D', '-C', 7, '--iscsi',
                   'portal=127.0.0.1:3260', end=signal.SIGKILL,
                   ready=lambda: works(foreign('tgtadm'), '-C', 7, '--op',
                                       'show', '--mode', 'sys'))
        self.tell('target', 'new', '-T', self.target)
        self.tell('target', 'bind', '-I', 'ALL')

    def tell(self, mode, operation, *args):
        run(foreign('tgtadm'), '-C', 7, '--lld', 'iscsi', '--mode', mode,
            '--op', operation, '--tid', 1, *args)

    def file(self, url):
        """What is behind a LUN"""
        return self.ctx.path('lun' + url.split('/')[-1])

    def url(self, name):
        return 'iscsi://127.0.0.1:3260/%s/%s' % (self.target, name)

    def new(self, most=0):
        self.count += 1
        url = self.url(self.count)
        with open(self.file(url), 'wb') as file:
            # an odd number of sectors
            file.truncate(most + 3 * 512)
        self.tell('logicalunit', 'new', '--lun', self.count, '-b',
                  self.file(url))
        self.tell('logicalunit', 'update', '--lun', self.count, '--params',
                  'thin_provisioning=1')
        return url

    def used(self, url):
        return os.stat(self.file(url)).st_blocks * 512


def used_in_folder(storage, url):
    """Bytes that an image takes in the folder that is served"""
    name = url.split('/')[-1].split('?')[0]
    return os.stat(storage.ctx.path('data/' + name)).st_blocks * 512


class Nfs(Storage):
    used = used_in_folder
    discards = reopens = False

    def start(self):
        os.mkdir(self.ctx.path('data'))
        os.mkdir(self.ctx.path('var'))
        self.conf = self.write(
            'ganesha.conf',
            'NFS_CORE_PARAM { Protocols = 3,4; NFS_Port = 2049;',
            'MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false;',
            'mount_path_pseudo = false; }',
            'NFSV4 { Graceless = true; RecoveryBackend = fs;',
            'RecoveryRoot = %s; }' % self.ctx.path('var'),
            'EXPORT { Export_Id = 1; Path = %s;' % self.ctx.path('data'),
            'Pseudo = /exp; Access_Type = RW; Squash = No_Root_Squash;',
            'SecType = sys; Protocols = 3,4; Attr_Expiration_Time = 0;',
            'FSAL { Name = VFS; } }')
        self.serve(foreign('rpcbind'), '-f',
                   ready=lambda: works('rpcinfo', '-p', '127.0.0.1'))
        self.start_server()

    def start_server(self):
        self.server = self.serve(
            foreign('ganesha.nfsd'), '-F', '-f', self.conf, '-L',
            self.ctx.path('log.ganesha'), '-p', self.ctx.path('ganesha.pid'),
            '-N', 'NIV_EVENT',
            ready=lambda: works('rpcinfo', '-t', '127.0.0.1', 100003, 3))

    def url(self, name):
        return 'nfs://127.0.0.1%s/data/%s' % (self.ctx.folder, name)


class Ssh(Storage):
    used = used_in_folder
    shrinks = discards = reopens = False

    def start(self):
        os.mkdir(self.ctx.path('data'))
        os.makedirs('/run/sshd', exist_ok=True)
        for name in 'host', 'user':
            run(foreign('ssh-keygen'), '-q', '-t', 'ed25519', '-N', '', '-f',
                self.ctx.path(name))
        conf = self.write(
            'sshd_config', 'Port 2222', 'ListenAddress 127.0.0.1',
            'HostKey ' + self.ctx.path('host'),
            'AuthorizedKeysFile ' + self.ctx.path('user.pub'),
            'PidFile ' + self.ctx.path('sshd.pid'), 'PermitRootLogin yes',
            'StrictModes no', 'UsePAM no', 'PasswordAuthentication no',
            'KbdInteractiveAuthentication no',
            'Subsystem sftp internal-sftp')
        self.serve(foreign('sshd'), '-D', '-e', '-f', conf,
                   ready=lambda: os.path.exists(self.ctx.path('sshd.pid')))
        agent = self.ctx.path('agent')
        self.serve(foreign('ssh-agent'), '-D', '-a', agent,
                   ready=lambda: os.path.exists(agent))
        os.environ['SSH_AUTH_SOCK'] = agent
        run(foreign('ssh-add'), '-q', self.ctx.path('user'))

    def url(self, name):
        return 'ssh://root@127.0.0.1:2222%s/data/%s?host_key_check=no' % (
            self.ctx.folder, name)


class NbdTls(Storage):
    """An export of a server's memory, for who has the key"""
    creates = grows = shrinks = reopens = False
    size = 64 << 20
    user = 'vhdx'

    def start(self):
        os.mkdir(self.ctx.path('keys'))
        for name, key in ((self.path(''), 'c0ffee' * 8),
                          ('wrong.psk', '00' * 24)):
            self.write(name, '%s:%s' % (self.user, key))
        os.mkdir(self.ctx.path('wrong'))
        os.rename(self.ctx.path('wrong.psk'), self.path('', 'wrong'))
        self.serve(foreign('nbdkit'), '-f', '-i', '127.0.0.1', '-p', 10809,
                   '-P', self.ctx.path('nbdkit.pid'), '--tls=require',
                   '--tls-psk=' + self.path(''), 'memory', self.size,
                   ready=lambda: os.path.exists(self.ctx.path('nbdkit.pid')))

    def path(self, name, folder='keys'):
        """Where QEMU looks for a key"""
        return self.ctx.path(os.path.join(folder, name or 'keys.psk'))

    def creds(self, folder='keys'):
        """The options that give QEMU the key"""
        return ['--object', 'tls-creds-psk,id=tls,endpoint=client,username=%s,'
                'dir=%s' % (self.user, self.ctx.path(folder))]

    def node(self, tls=True):
        """... and of the node"""
        return {'driver': 'nbd', 'server': {
            'type': 'inet', 'host': '127.0.0.1', 'port': '10809'},
            **({'tls-creds': 'tls'} if tls else {})}

    def url(self, name='', tls=True):
        del name
        return 'json:' + json.dumps({'driver': 'vhdx', 'file': self.node(tls)})


class Https(Storage):
    """A web server with a certificate of a CA that nobody knows yet."""
    creates = grows = shrinks = discards = False

    def start(self):
        os.mkdir(self.ctx.path('ca'))
        os.mkdir(self.ctx.path('data'))
        path = self.ctx.path
        tool = foreign('openssl')
        curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
                 '-nodes']
        run(tool, 'req', '-x509', *curve, '-keyout', path('ca.key'), '-out',
            path('ca/ca.pem'), '-subj', '/CN=Test CA')
        run(tool, 'req', *curve, '-keyout', path('key.pem'), '-out',
            path('request.pem'), '-subj', '/CN=localhost')
        extensions = self.write(
            'extensions', 'subjectAltName=DNS:localhost,IP:127.0.0.1',
            'extendedKeyUsage=serverAuth')
        run(tool, 'x509', '-req', '-in', path('request.pem'), '-CA',
            path('ca/ca.pem'), '-CAkey', path('ca.key'), '-CAcreateserial',
            '-extfile', extensions, '-out', path('cert.pem'))
        conf = self.write(
            'nginx.conf', 'daemon off;', 'pid %s;' % path('nginx.pid'),
            'error_log %s;' % path('log.error'), 'worker_processes 1;',
            'user root;', 'events {}', 'http {',
            'access_log off;',
            *('%s_temp_path %s;' % (name, path('tmp-' + name)) for name in (
                'client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi')),
            'server { listen 127.0.0.1:8443 ssl;',
            'ssl_certificate %s;' % path('cert.pem'),
            'ssl_certificate_key %s;' % path('key.pem'),
            'root %s; }' % path('data'), '}')
        self.serve(foreign('nginx'), '-c', conf,
                   ready=lambda: os.path.exists(path('nginx.pid')))

    def trust(self):
        """Let the CA be known: QEMU's library reads this folder.  The tests
        have mounts of their own."""
        run(foreign('mount'), '--bind', self.ctx.path('ca'), '/etc/ssl/certs')
        self.stack.callback(run, foreign('umount'), '/etc/ssl/certs')

    def url(self, name):
        return 'https://localhost:8443/' + name


def info(url):
    """What qemu-img tells of an image."""
    return json.loads(run(ours('qemu-img'), 'info', '-f', 'vhdx',
                          '--output=json', url))
