"""Facts on the machine, without its name."""
import datetime
import os
import platform
import re


def field(path, name):
    with open(path, encoding='utf-8', errors='replace') as file:
        match = re.search(r'^%s\s*:\s*(.*)$' % name, file.read(), re.M)
    return match[1].strip() if match else 'unknown'


def filesystem(folder):
    """Type of the file system that holds the folder."""
    folder = os.path.realpath(folder)
    best = ('', 'unknown')
    with open('/proc/self/mounts', encoding='utf-8') as file:
        for line in file:
            _, mount, kind = line.split()[:3]
            mount = mount.encode().decode('unicode_escape')
            inside = folder == mount or folder.startswith(
                mount.rstrip('/') + '/')
            if inside and len(mount) >= len(best[0]):
                best = (mount, kind)
    return best[1]


def facts(bench, folder):
    raw = bench.formats[0]
    memory = int(field('/proc/meminfo', 'MemTotal').split()[0])
    version = bench.run([raw.tool('qemu-img'), '--version']).split('\n')[0]
    return [
        ('Processor', '%s, %d cores' % (field('/proc/cpuinfo', 'model name'),
                                        os.cpu_count())),
        ('Memory', '%.0f GiB' % (memory / (1 << 20))),
        ('Kernel', '%s %s' % (platform.system(), platform.release())),
        ('File system of the images', filesystem(folder)),
        ('QEMU', re.sub(r'^.*version (\S+).*$', r'\1', version)),
        ('fio', bench.run(['fio', '--version']).strip()),
        ('Date', datetime.date.today().isoformat()),
        ('Load of the machine when it began (1 minute)',
         '%.2f' % os.getloadavg()[0]),
    ]
