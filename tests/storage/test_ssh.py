from servers import Ssh
import writable


def location(storage, url):
    return {'path': storage.ctx.path('data/' + url.split('/')[-1]
                                     .split('?')[0]),
            'server': {'host': '127.0.0.1', 'port': '2222'}, 'user': 'root',
            'host-key-check': {'mode': 'none'}}


def tests():
    return writable.tests(Ssh, 201, 202) + [
        ('qmp', writable.by_qmp(Ssh, location)),
        ('refused', writable.refused(
            Ssh, 'subformat=fixed,preallocation=falloc', 'falloc'))]
