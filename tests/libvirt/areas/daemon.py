"""The daemon, what its pools can hold, and the emulator it finds."""
from report import expect_in, step


def run(bench):
    with step('libvirtd starts and answers'):
        expect_in('Running hypervisor: QEMU', bench.daemon().virsh(
            'version', '--daemon'))

    virsh = bench.daemon().virsh

    with step('pool capabilities: volumes of a dir pool may be vhdx'):
        expect_in('<value>vhdx</value>', of_pools(virsh, 'dir'))

    with step('pool capabilities: vhdx in fs and netfs pools'):
        for kind in ('fs', 'netfs'):
            expect_in('<value>vhdx</value>', of_pools(virsh, kind))

    with step('a dir pool is made and runs'):
        pool = bench.pool('daemon')
        pool.running()

    with step('the emulator is probed'):
        text = virsh('domcapabilities', '--emulatorbin', bench.tools.emulator,
                     '--virttype', 'qemu', '--machine', 'pc')
        expect_in(['<path>%s</path>' % bench.tools.emulator,
                   '<domain>qemu</domain>'], text)


def of_pools(virsh, kind):
    """The pool capabilities of this kind."""
    text = virsh('pool-capabilities')
    pool = text[text.index("<pool type='%s'" % kind):]
    return pool[:pool.index('</pool>')]
