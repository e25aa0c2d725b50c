# Sourced: the steps of the patch series for libvirt.
#
# Step N is the hook patch of this name, if this libvirt line has one, together
# with the files of ours that belong to it; its message is in
# patches/messages-libvirt/.

. "$top/scripts/libvirt.sh"
. "$top/scripts/series.sh"

steps=(1-conf 2-reader 3-storage_file 4-backing 4-storage 5-capabilities
       6-blockdev 7-qemu 8-apparmor 9-docs)
messages=$top/patches/messages-libvirt
repo=$LIBVIRT/series-repo
ours=$top/patches/libvirt

# The step that a file of ours belongs to.
step_of() {
    case $1 in
    src/storage_file/storage_file_vhdx* | tests/virstoragefilevhdx*) echo 2-reader ;;
    src/storage_file/storage_source_vhdx* | tests/virstoragesourcevhdx*)
        echo 3-storage_file ;;
    tests/storagevol*) echo 4-storage ;;
    tests/qemucapabilities*) echo 5-capabilities ;;
    tests/qemublock* | tests/qemuxml*) echo 6-blockdev ;;
    tests/*) echo 7-qemu ;;
    *) die "no step of the series has the file $1" ;;
    esac
}

# Do to the tree in $repo what one step does. A folder of test data that this
# line has under another name gets none of our files.
apply_step() {
    local file folder hook
    while read -r file; do
        folder=$(dirname "$file")
        case $folder in
        tests/qemuxml*) [ -d "$repo/$folder" ] || continue ;;
        esac
        [ "$(step_of "$file")" = "$1" ] || continue
        mkdir -p "$repo/$folder"
        cp "$ours/$file" "$repo/$file"
    done < <(find "$ours" -type f -printf '%P\n' 2>/dev/null | sort)
    hook=$(libvirt_hooks "$(libvirt_line "$repo")")/$1.patch
    [ ! -f "$hook" ] || apply_hook "$hook"
}
