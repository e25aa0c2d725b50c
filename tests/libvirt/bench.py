"""What all areas share: the programs, a daemon, pools and domains."""
import os

from report import Failure, expect, step
from session import Session
from tools import Tools

AREAS = ('daemon', 'volumes', 'damaged', 'resize', 'clone', 'domain',
         'hotplug', 'chains', 'blockjobs', 'snapshots', 'merge', 'branches',
         'backup', 'restart', 'migration', 'apparmor', 'mutated')


class Bench:
    def __init__(self, options):
        self.folder = options.inside
        self.build = options.build
        self.source = options.source
        self.tools = Tools(options.qemu_img, options.emulator)
        self.session = None
        self.sessions = []

    def new_session(self, name):
        """Another daemon, with folders of its own."""
        session = Session(os.path.join(self.folder, name), self.build,
                          self.tools)
        self.sessions.append(session)
        session.start()
        return session

    def daemon(self):
        """The daemon of all areas; the first that asks starts it."""
        if not self.session:
            if self.sessions:
                raise Failure('libvirtd did not start')
            self.session = self.new_session('a')
        return self.session

    def pool(self, name):
        return self.daemon().pool(name)

    def close(self):
        """End the daemons; a step of its own, as this may fail."""
        with step('no domain is left, and libvirtd ends'):
            expect(self.sessions, 'none was started')
            for session in self.sessions:
                session.close()
