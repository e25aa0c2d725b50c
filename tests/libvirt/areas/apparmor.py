"""The rules that virt-aa-helper makes for a domain, without a kernel that
enforces them."""
import os
import uuid

from areas.damaged import child_of
from domain import XML, disk_xml
from report import Skip, expect, expect_in, step
from tools import run as run_program

PROFILE = 'src/security/apparmor/usr.lib.libvirt.virt-aa-helper.in'


def run(bench):
    tools = bench.tools
    session = bench.daemon()
    folder = session.path('apparmor')
    os.mkdir(folder)
    parent = tools.create(os.path.join(folder, 'parent.vhdx'), '64M')
    child = child_of(tools, os.path.join(folder, 'child.vhdx'), 'parent.vhdx',
                     '64M')
    over = tools.create(os.path.join(folder, 'over.qcow2'), '64M', 'qcow2')
    tools.img('rebase', '-u', '-f', 'qcow2', '-F', 'vhdx', '-b', child, over)

    with step('a child: its parent may be read, not written'):
        rules = rules_for(bench, disk_xml(child))
        expect_in(writable(child) + readable(parent), rules)
    with step('a qcow2 over a child: all three have rules'):
        rules = rules_for(bench, disk_xml(over, form='qcow2'))
        expect_in(writable(over) + readable(child) + readable(parent), rules)
    with step('a child as type vhd: itself only'):
        rules = rules_for(bench, disk_xml(child, form='vhd'))
        expect_in(writable(child), rules)
        expect(parent not in rules, '%s', rules)
    with step("the helper's profile lets it read .vhdx and .avhdx"):
        with open(os.path.join(bench.source, PROFILE),
                  encoding='utf-8') as file:
            text = file.read()
        expect_in(['  /**.vhdx r,', '  /**.avhdx r,'], text)


def writable(path):
    return ['"%s" rwk,' % path]


def readable(path):
    return ['"%s" rk,' % path, 'deny "%s" w,' % path]


def rules_for(bench, disk):
    """The rules of a domain with this disk."""
    session = bench.session
    helper = os.path.join(bench.build, 'src/virt-aa-helper')
    if not os.path.exists(helper):
        raise Skip('libvirt is built without AppArmor')
    number = str(uuid.uuid4())
    path = session.path('apparmor.xml')
    with open(path, 'w', encoding='utf-8') as file:
        file.write((XML % {'name': 'aa', 'disks': disk,
                           'emulator': bench.tools.emulator}).replace(
                               '</name>', '</name><uuid>%s</uuid>' % number))
    # it reads the domain from its standard input
    return run_program(['sh', '-c', '"$1" -d -c -u "libvirt-$2" < "$3"', '-',
                        helper, number, path], env=session.env)
