from servers import Nfs
import writable


def location(_, url):
    return {'path': url[len('nfs://127.0.0.1'):],
            'server': {'type': 'inet', 'host': '127.0.0.1'}}


def tests():
    return writable.tests(Nfs, 201, 202) + [
        ('qmp', writable.by_qmp(Nfs, location)),
        ('refused', writable.refused(
            Nfs, 'subformat=fixed,preallocation=falloc', 'falloc')),
        ('server-killed', writable.restarted(Nfs))]
