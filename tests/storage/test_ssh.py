from servers import Ssh
import writable


def driver(storage, url, new):
    name = {'path': storage.ctx.path('data/' + url.split('/')[-1]
                                     .split('?')[0]),
            'server': {'host': '127.0.0.1', 'port': '2222'}, 'user': 'root',
            'host-key-check': {'mode': 'none'}}
    return {'driver': 'ssh', 'location': name} if new else \
        {'driver': 'ssh', **name}


def tests():
    return writable.tests(Ssh, 201, 202) + [
        ('qmp', writable.by_qmp(Ssh, driver)),
        ('refused', writable.refused(
            Ssh, 'subformat=fixed,preallocation=falloc', 'falloc'))]
