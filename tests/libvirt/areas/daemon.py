"""The daemon, what its pools can hold, and the emulator it finds."""
from report import expect_in, step


def run(bench):
    with step('libvirtd starts and answers'):
        virsh = bench.daemon().virsh
        expect_in('Running hypervisor: QEMU', virsh(
            'version', '--daemon'))

    with step('pool capabilities: volumes of a dir pool may be vhdx'):
        text = virsh('pool-capabilities')
        pool = text[text.index("<pool type='dir'"):]
        expect_in('<value>vhdx</value>', pool[:pool.index('</pool>')])

    with step('pool capabilities: vhdx in fs and netfs pools'):
        for kind in ('fs', 'netfs'):
            pool = text[text.index("<pool type='%s'" % kind):]
            expect_in('<value>vhdx</value>', pool[:pool.index('</pool>')])

    with step('a dir pool is made and runs'):
        pool = bench.pool('daemon')
        pool.running()

    with step('the emulator is probed'):
        text = virsh('domcapabilities', '--emulatorbin', bench.tools.emulator,
                     '--virttype', 'qemu', '--machine', 'pc')
        expect_in(['<path>%s</path>' % bench.tools.emulator,
                   '<domain>qemu</domain>'], text)
