# shellcheck shell=bash
# Sourced: the steps of the patch series for QEMU.
#
# Step N of the series is the hook patch N-*.patch of this QEMU line, together
# with the files of ours that belong to it; its message is in
# patches/messages/. Steps 0 are mends of the block layer itself; a QEMU line
# that has one already has no patch for it, and needs no such step.

. "$top/scripts/series.sh"

steps=(0-flush 0-drain 0-nbd 1-qapi 2-driver 2-sectors 3-unit-tests 4-iotests 5-docs)
messages=$top/patches/messages
repo=$BUILD/series-repo
leave_out=()

# Do to the tree in $repo what one step does.
apply_step() {
    local hook
    hook=$top/patches/qemu-$(qemu_line "$repo")/$1.patch
    [ -f "$hook" ] || return 0
    case $1 in
    2-driver)
        rm -f "$repo"/block/vhdx*
        cp -r "$top"/block/vhdx "$repo/block/"
        cp -r "$top"/include/block/vhdx "$repo/include/block/" ;;
    3-unit-tests)
        cp "$top"/tests/{unit,crash,fuzz}/*vhdx* "$repo/tests/unit/" ;;
    4-iotests)
        cp "$top"/tests/iotests/*vhdx* "$repo/tests/qemu-iotests/tests/" ;;
    esac
    apply_hook "$hook"
}
