# shellcheck shell=bash
# Sourced: the steps of the patch series for libvirt.
#
# Step N is the hook patch of this name, if this libvirt line has one, together
# with the files of ours that belong to it; its message is in
# patches/messages-libvirt/.

. "$top/scripts/libvirt.sh"
. "$top/scripts/series.sh"

steps=(1-conf 2-reader 3-backing 3-storage_file 4-storage 5-capabilities
       6-blockdev 7-qemu 8-apparmor 9-docs)
messages=$top/patches/messages-libvirt
repo=$LIBVIRT/series-repo
ours=$top/patches/libvirt

# Set step_of to the step that a file of ours belongs to.
find_step() {
    case $1 in
    src/storage_file/storage_file_vhdx* | tests/virstoragefilevhdx*)
        step_of=2-reader ;;
    src/storage_file/storage_source_vhdx* | tests/virstoragesourcevhdx*)
        step_of=3-storage_file ;;
    tests/storagevol*) step_of=4-storage ;;
    tests/qemucapabilities*) step_of=5-capabilities ;;
    tests/qemublock* | tests/qemuxml*) step_of=6-blockdev ;;
    tests/*) step_of=7-qemu ;;
    *) die "no step of the series has the file $1" ;;
    esac
}

# Do to the tree in $repo what one step does. A folder of test data that this
# line has under another name gets none of our files.
apply_step() {
    local file folder hook step_of
    while read -r file; do
        find_step "$file"
        [ "$step_of" = "$1" ] || continue
        folder=${file%/*}
        case $folder in
        tests/qemuxml*) [ -d "$repo/$folder" ] || continue ;;
        esac
        mkdir -p "$repo/$folder"
        cp "$ours/$file" "$repo/$file"
    done < <(find "$ours" -type f -printf '%P\n' | sort)
    hook=$(libvirt_hooks "$(libvirt_line "$repo")")/$1.patch
    [ ! -f "$hook" ] || apply_hook "$hook"
}

# Make $repo of LIBVIRT's source, with a commit for each step.
commit_series() {
    commit_pristine "$LIBVIRT/pristine" \
        "$(readlink -f "$LIBVIRT/pristine") $(cat "$LIBVIRT/pristine.from")" \
        "libvirt $(libvirt_version "$LIBVIRT/pristine")"
    commit_steps
}
