from servers import Nfs
import writable


def driver(_storage, url, new):
    name = {'path': url[len('nfs://127.0.0.1'):],
            'server': {'type': 'inet', 'host': '127.0.0.1'}}
    return {'driver': 'nfs', 'location': name} if new else \
        {'driver': 'nfs', **name}


def tests():
    return writable.tests(Nfs, 201, 202) + [
        ('qmp', writable.by_qmp(Nfs, driver)),
        ('refused', writable.refused(
            Nfs, 'subformat=fixed,preallocation=falloc', 'falloc')),
        ('server-killed', writable.restarted(Nfs))]
