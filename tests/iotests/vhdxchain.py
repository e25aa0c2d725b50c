# Chains of differencing images, for tests of the commands that change them
#
# A chain is made by the driver, in a folder of its own, and each disk has a
# twin in memory that gets the same writes.  What locators say is read without
# the driver.
#
# SPDX-License-Identifier: LGPL-2.1-or-later

import os
import random
import shutil
import struct
import uuid

from vhdximage import (ITEMS, KIB, LOCATOR, METADATA, MIB, NIL, Guest, Image,
                       create, crash, io, qemu_io)
import iotests
from iotests import qemu_img, qemu_img_check, qemu_img_info

# Disks that are no child are all the same one: no command warns then.
DISK_ID = '9a4ad6a5-0c53-4e0a-8d8a-6d0f7c2c1b11'
OPTIONS = ('-f', 'vhdx', '-d', 'unmap', '-t', 'writeback')
NOT_ITS = 'does not match its parent'


def file_node(path, driver='file'):
    return {'driver': driver, 'filename': path}


def failing_file(path, event, number, errno):
    '''
    A file node that fails with the @number'th write or flush, and with all
    after it, by @event, which raw raises for each
    '''
    kind = 'write' if event == 'write_aio' else 'flush'
    node = {'driver': 'blkdebug', 'image': file_node(path),
            'inject-error': [{'event': event, 'state': number, 'iotype': kind,
                              'errno': errno}]}
    if number > 1:
        node['set-state'] = [{'event': event, 'state': n, 'new_state': n + 1}
                             for n in range(1, number)]
    return {'driver': 'raw', 'file': node}


class ChainCase(iotests.QMPTestCase):
    '''Disks have names, "base" is the file base.vhdx'''
    folder = os.path.join(iotests.test_dir, 'chain')
    size = 12 * MIB

    def setUp(self):
        os.mkdir(self.folder)
        self.random = random.Random(11)
        self.twins = {}
        self.count = 0
        self.vm = None

    def tearDown(self):
        # A guest that has aborted is no reason to leave the files.
        try:
            if self.vm:
                self.vm.shutdown()
        finally:
            shutil.rmtree(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name + '.vhdx')

    # -- Disks and their twins --

    def make(self, name, parent=None, size=None, **options):
        '''Create a disk; @parent is a disk, which it reads as'''
        options.setdefault('block_size', '1M')
        self.twins[name] = bytearray(size or self.size)
        if parent:
            options.setdefault('backing_file', parent + '.vhdx')
            options['backing_fmt'] = 'vhdx'
            self.twins[name] = self.twin_sized(parent, size)
        else:
            options.setdefault('disk_id', DISK_ID)
        create(self.path(name), size or len(self.twins[name]), **options)

    def twin_sized(self, name, size):
        twin = bytearray(self.twins[name])
        size = size or len(twin)
        return twin[:size] + bytes(max(0, size - len(twin)))

    def chain(self, *names, **options):
        '''Disks one over the other, each with something of its own'''
        for name, parent in zip(names, (None, *names)):
            self.make(name, parent, **options)
            self.mix(name)

    def commands(self, name, *ranges):
        '''Commands that write to @ranges of a disk, for qemu-io'''
        done = []
        for at, length in ranges:
            self.count += 1
            byte = self.count % 250 + 1
            self.twins[name][at:at + length] = bytes([byte]) * length
            done.append(f'write -q -P {byte} {at} {length}')
        return done

    def zero(self, name, at, length):
        '''The same for zeros'''
        self.twins[name][at:at + length] = bytes(length)
        return [f'write -q -z -u {at} {length}']

    def fill(self, name, *ranges):
        io(self.path(name), *self.commands(name, *ranges), options=OPTIONS)

    def any_commands(self, name, count=12):
        '''Requests anywhere, of sectors and of whole blocks'''
        size, done = len(self.twins[name]), []
        for number in range(count):
            at = self.random.randrange(size // 512) * 512
            length = min(self.random.choice((512, 3 * KIB, 70 * KIB, MIB)),
                         size - at)
            if number % 4 == 3:
                at -= at % MIB
                length = min(MIB, size - at)
            if number % 6 == 5:
                done += self.zero(name, at, length)
            else:
                done += self.commands(name, (at, length))
        return done

    def mix(self, name):
        io(self.path(name), *self.any_commands(name), options=OPTIONS)

    def take(self, name, other):
        '''A disk has become what another one is'''
        self.twins[name] = bytearray(self.twins[other])

    # -- What has to be --

    def same(self, name, twin=None, options=('-f', 'vhdx')):
        '''A disk reads as its twin, or that of another one'''
        twin = self.twins[twin or name]
        raw = os.path.join(self.folder, 'twin.raw')
        with open(raw, 'wb') as file:
            file.write(twin)
        done = qemu_img('compare', *options, '-F', 'raw', self.path(name),
                        raw, check=False)
        self.assertIn('Images are identical', done.stdout, name)
        os.remove(raw)
        self.assertEqual(qemu_img_info(*options, self.path(name))
                         ['virtual-size'], len(twin))

    def sound(self, *names, leaks=False):
        '''With @leaks, space may be lost, as after a cut'''
        keys = ['corruptions', 'check-errors'] + ['leaks'] * (not leaks)
        for name in names:
            result = qemu_img_check('-f', 'vhdx', self.path(name))
            self.assertEqual([result.get(key, 0) for key in keys],
                             [0] * len(keys), name)

    def mend(self, *names):
        '''Put logs in place, give back lost space; then they are sound'''
        for name in names:
            qemu_img('check', '-q', '-r', 'all', '-f', 'vhdx', self.path(name))
        self.sound(*names)

    def whole(self, *names):
        '''Each is sound and reads as it has to, and is linked to the last'''
        for name in names:
            self.same(name)
        self.sound(*names)
        for child, parent in zip(names[1:], names):
            self.linked(child, parent)

    def whole_killed(self, *names):
        '''The same with logs to be replayed, and when that is done'''
        for name in names:
            self.same(name)
        self.mend(*names)
        self.whole(*names)

    def refused(self, name, *texts):
        out = qemu_io(self.path(name), 'read 0 512', options=['-r'])
        for text in texts or [NOT_ITS]:
            self.assertIn(text, out, name)

    def header(self, name):
        with Image(self.path(name)) as image:
            return image.header(image.current())

    def data_write(self, name):
        return self.header(name)['data_write_guid']

    def locator(self, name, log=False):
        '''
        The keys and values of a disk's locator, as they stand in its file,
        which has no log, or with @log one; None where it has none
        '''
        with Image(self.path(name)) as image:
            self.assertEqual(image.header(image.current())['log_guid'] != NIL,
                             log)
            flags = image.item('file parameters', 'II')[1]
            found = [item for item in image.items()
                     if item[0] == ITEMS['parent locator']]
            self.assertEqual(len(found), flags >> 1 & 1)
            if not found:
                return None
            item = image.read(image.region(METADATA)[1] + found[0][1],
                              found[0][2])
        self.assertEqual(item[:16], LOCATOR.bytes_le)
        pairs = {}
        for at in range(20, 20 + 12 * struct.unpack_from('<H', item, 18)[0],
                        12):
            key, value, *lengths = struct.unpack_from('<IIHH', item, at)
            key, value = (item[start:start + length].decode('utf-16-le')
                          for start, length in zip((key, value), lengths))
            self.assertNotIn(key, pairs)
            pairs[key] = value
        return pairs

    def linkages(self, name):
        found = self.locator(name)
        return tuple(uuid.UUID(found.get(key, '{%s}' % NIL).strip('{}'))
                     for key in ('parent_linkage', 'parent_linkage2'))

    def linked(self, child, parent):
        '''By its first linkage, and with no second one'''
        self.assertEqual(self.linkages(child), (self.data_write(parent), NIL),
                         (child, parent))
        self.assertEqual(self.locator(child).get('relative_path'),
                         f'.\\{parent}.vhdx')

    def told(self, name):
        '''DataWriteGuid and linkages as the driver tells them, logs or not'''
        data = qemu_img_info('-U', self.path(name))['format-specific']['data']
        parent = data.get('parent', {})
        return (data['data-write-uuid'], parent.get('linkage'),
                parent.get('linkage2'))

    def belongs(self, child, parent):
        '''One of the linkages is the parent's DataWriteGuid; logs or not'''
        self.assertIn(self.told(parent)[0], self.told(child)[1:])

    # -- Damage, cuts --

    def stuff(self, name):
        '''Leave no room in the metadata region'''
        with Image(self.path(name)) as image:
            items = image.items()
            end = max(item[1] + item[2] for item in items)
            items.append([uuid.UUID(int=7), end,
                          image.region(METADATA)[2] - end, 0])
            image.set_items(items)

    def damage(self, name):
        '''Let the locator be no locator'''
        with Image(self.path(name)) as image:
            at = image.find_item('parent locator')[1]
            image.write(image.region(METADATA)[1] + at, bytes(16))

    def copy(self, *names, to):
        '''Copy the files of disks as they are now into another folder'''
        os.makedirs(to, exist_ok=True)
        for name in names:
            shutil.copyfile(self.path(name), f'{to}/{name}.vhdx')

    def killed(self, name, *commands):
        crash(self.path(name), *commands, options=OPTIONS)

    # -- Emulator --

    def launch(self, *args):
        self.vm = Guest(*args)
        self.vm.launch()

    def qmp(self, command, **arguments):
        self.assert_qmp(self.vm.qmp(command, **arguments), 'return', {})

    def qmp_fails(self, text, command, **arguments):
        result = self.vm.qmp(command, **arguments)
        self.assertIn(text, result.get('error', {}).get('desc', str(result)))

    def add(self, name, backing=(), node=None, **options):
        """@backing: the node's name, None for none, () to leave it open"""
        self.qmp('blockdev-add', **self.node(name, backing, node, **options))

    def node(self, name, backing=(), node=None, **options):
        options.setdefault('file', file_node(self.path(name)))
        if backing != ():
            options['backing'] = backing
        return {'driver': 'vhdx', 'node-name': node or name,
                'discard': 'unmap', **options}

    def add_chain(self, *names, **options):
        '''The last one is writable'''
        for name, parent in zip(names, (None, *names)):
            self.add(name, parent if parent else (),
                     **{'read-only': name != names[-1], **options})

    def export(self, node):
        '''Let a node be in use, as a guest's disk is'''
        self.qmp('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': self.socket()}})
        self.qmp('block-export-add', type='nbd', id='export', writable=True,
                 **{'node-name': node, 'name': 'disk'})

    def socket(self):
        return os.path.join(iotests.sock_dir, 'nbd.sock')

    def guest(self, *commands):
        '''Commands to the export'''
        io(f'nbd+unix:///disk?socket={self.socket()}', *commands,
           options=('-f', 'raw', '-d', 'unmap', '-t', 'writeback'))

    def job(self, command, ready=False, **arguments):
        '''Start a block job; with @ready, wait until it is in step'''
        self.qmp(command, **{'job-id': 'job', **arguments})
        if ready:
            event = self.vm.events_wait([('BLOCK_JOB_READY', None),
                                         ('BLOCK_JOB_COMPLETED', None)])
            self.assertEqual(event['event'], 'BLOCK_JOB_READY', event)

    def job_end(self, complete=False, error=None):
        if complete:
            self.qmp('block-job-complete', device='job')
        event = self.vm.event_wait('BLOCK_JOB_COMPLETED')
        if error:
            self.assertIn(error, event['data'].get('error', 'no error'))
        else:
            self.assert_qmp_absent(event, 'data/error')

    def end(self, *texts):
        '''With messages that have all @texts, or none'''
        self.vm.shutdown()
        self.judge(texts)

    def kill(self, *texts):
        '''As a power cut of the program, not of the disk'''
        self.vm.kill()
        self.judge(texts)

    def judge(self, texts):
        log, self.vm = self.vm.get_log(), None
        for text in texts:
            self.assertIn(text, log)
        if not texts:
            self.assertNotIn('qemu-system', log)
