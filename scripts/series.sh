# Sourced: the steps of the patch series, and git on a repository of its own.
#
# Step N of the series is the hook patch N-*.patch of this QEMU line, together
# with the files of ours that belong to it; its message is in
# patches/messages/. The repository is scratch: BUILD/series-repo, with a
# branch "pristine" (QEMU as it came) and a branch "series". Steps 0 are mends
# of the block layer itself; a QEMU line that has one already has no patch for
# it, and needs no such step.

steps=(0-flush 0-drain 0-nbd 1-qapi 2-driver 2-sectors 3-unit-tests 4-iotests 5-docs)
repo=$BUILD/series-repo

# The user's own git settings must not change the patches.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME="qemu-vhdx developers"
export GIT_AUTHOR_EMAIL="qemu-vhdx@example.invalid"
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME
export GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL

in_repo() { git -C "$repo" -c gc.auto=0 -c advice.detachedHead=false "$@"; }

hook_patch() { echo "$top/patches/qemu-$(qemu_line "$repo")/$1.patch"; }

# Do to the tree in $repo what one step does.
apply_step() {
    case $1 in
    2-driver)
        rm -f "$repo"/block/vhdx*
        cp "$top"/block/*vhdx* "$repo/block/"
        cp "$top"/include/block/*vhdx* "$repo/include/block/" ;;
    3-unit-tests)
        cp "$top"/tests/{unit,crash,fuzz}/*vhdx* "$repo/tests/unit/" ;;
    4-iotests)
        cp "$top"/tests/iotests/*vhdx* "$repo/tests/qemu-iotests/tests/" ;;
    esac
    patch -d "$repo" -p1 --fuzz=0 --no-backup-if-mismatch -s \
        < "$(hook_patch "$1")"
}
