# shellcheck shell=bash
# Sourced: the steps of the patch series for QEMU.
#
# A line of the table is a step. Its name comes first, which is also that of its
# message in patches/messages; then what it brings:
#
#   NAME      files of the driver: NAME.c, NAME.h or NAME itself
#   DIR/NAME  files of our tests; the name may be a pattern
#   docs/NAME a document
#   +HOOK     what is changed in files of QEMU: patches/qemu-LINE/HOOK.patch
#
# The tree after a step is QEMU's with all that the steps up to it bring, where
# lists name no file that is still to come (scripts/series-tree). The driver
# grows from its lowest layer to its highest, beside the old one, until the step
# "driver" puts it in the old one's place.
#
# Steps 0 are mends of QEMU itself; a QEMU line that has one already has no hook
# for it, and needs no such step.

. "$top/scripts/series.sh"

table='
0-flush       +0-flush
0-drain       +0-drain
0-nbd         +0-nbd
0-bitmaps     +0-bitmaps
0-iotests     +0-iotests
format        crc crc-isal format meson.build layers.txt +2-build
              unit/test-vhdx-log.c unit/vhdx-test-{log,util}.h +3-unit-tests
tables        tables dirty-area unit/test-vhdx-{dirty-area,format,metadata,params,region-table}.c
              unit/vhdx-test-tables.h
geometry      geometry locator replay-index
              unit/test-vhdx-{geometry,locator,replay-index}.c
parent-path   parent-path parent-name parent-file unit/test-vhdx-parent-path.c
              unit/vhdx-test-image.h
state         compat state lock call change file parent parent-int
              parent-children parent-perm trace trace-events +2-trace
              unit/test-vhdx-change.c unit/vhdx-test-abort.h
replay        replay replay-int replay-load
cache         cache-buffer cache cache-write
bat           bat-entry bat bitmap unit/test-vhdx-bat.c
metadata      metadata
space-scan    request space-map space-scan space-int
space         space space-freed unit/test-vhdx-space-map.c
ring          ring header
log           commit-int commit-pages commit metadata-write log link begin
io            extent mixed read alloc-int alloc-place alloc-child alloc early io
dirty-bitmaps region dirty-load dirty-collect dirty-store dirty-bitmaps
resize        log-move bat-clear placed resize resize-int resize-child
compact       move move-int move-live compact compact-int compact-drop
              compact-child compact-gain compact-parts compact-slide
              compact-live subformat
check-tables  check-report check-tables
check         check check-int check-entry check-bat check-dirty
chain         flatten child chain
open          open reopen
driver        options create-parent create info amend amend-job vhdx +1-qapi +2-driver +4-iotests
              unit/test-vhdx-create.c unit/vhdx-test-create.h
sectors       convert +2-sectors
docs          docs/vhdx-dirty-bitmaps.rst +5-docs
unit-tests    unit/test-vhdx-{cache,chain,child,child-reads,compact-calls,contract}.c
              unit/test-vhdx-{dirty,dirty-foreign,dirty-limits,dirty-moved}.c
              unit/test-vhdx-{early,every-call,flush-failed}.c
              unit/test-vhdx-{live,live-amend,live-images,open,order}.c
              unit/test-vhdx-{replay,replay-content,space,space-freed}.c
              unit/test-vhdx-threads.c
              unit/vhdx-test-{child,compact,cut,dirty,fail,filter,hold,live,memory}.h
              unit/vhdx-test-{model,node,open,request,runs}.h
              unit/vhdx-test-contracts.h.inc
crash         crash/*vhdx*
fuzz          fuzz/*vhdx* +4-fuzz
iotests       iotests/*vhdx* +4-own-iotests
'
mapfile -t steps < <(grep -o '^[^ ]\+' <<< "$table")
messages=$top/patches/messages
repo=$BUILD/series-repo
leave_out=()

# A hook that does something else in another line may have a message of its own.
message_of() {
    local own
    own=$(qemu_hooks "$(qemu_line "$repo")")
    own=$messages/$1.${own##*-}
    [ -f "$own" ] || own=$messages/$1
    echo "$own"
}

# The newest QEMU that there are hooks for, and what is newer, gets no switches
# between versions.
is_newest() { [ "$(qemu_hooks "$(qemu_line "$repo")")" = "$(qemu_hooks 999)" ]; }

# Print what a step brings, word by word.
brought() {
    local words
    words=$(awk -v step="$1" '/^[^ ]/ { this = $1; $1 = "" }
                              this == step' <<< "$table" | tr '\n' ' ')
    # Braces are for the shell, patterns for whoever looks for files.
    (set -f; eval "printf '%s\n' $words")
}

# Print the files that a word of the table stands for, from the repository's top.
files_of() {
    local pattern path found=0
    case $1 in
    docs/*) ;;
    */*) set -- "tests/$1" ;;
    *) set -- "block/vhdx/$1" "block/vhdx/$1.c" "block/vhdx/$1.h" \
              "include/block/vhdx/$1.h" ;;
    esac
    for pattern in "$@"; do
        for path in "$top"/$pattern; do
            [ ! -f "$path" ] || { echo "${path#"$top/"}"; found=1; }
        done
    done
    [ $found -eq 1 ] || die "the table of steps names $1, which is not there"
}

# Copy the files that a word of the table stands for to where QEMU has such.
copy_files() {
    local files file target
    files=$(files_of "$1")
    for file in $files; do
        case $file in
        tests/iotests/*) target=tests/qemu-iotests/tests/${file##*/} ;;
        tests/*) target=tests/unit/${file##*/} ;;
        docs/*) target=docs/interop/${file##*/} ;;
        *) target=$file ;;
        esac
        mkdir -p "$repo/${target%/*}"
        cp "$top/$file" "$repo/$target"
    done
}

# Make the tree in $repo, which is that of the step before, that of a step.
# QEMU's files and the lists are made anew from what they are in the end.
apply_step() {
    local step word hook hooks options=()
    hooks=$(qemu_hooks "$(qemu_line "$repo")")
    ! is_newest || options=(--newest)
    in_repo checkout -q -f pristine -- .
    for step in "${steps[@]}"; do
        [ "$step" != driver ] ||
            find "$repo/block" -maxdepth 1 -type f -name 'vhdx*' -delete
        while read -r word; do
            case $word in
            +*) hook=$hooks/${word#+}.patch
                [ ! -f "$hook" ] || apply_hook "$hook" ;;
            meson.build | layers.txt | trace-events) copy_files "$word" ;;
            *) [ "$step" != "$1" ] || copy_files "$word" ;;
            esac
        done < <(brought "$step")
        [ "$step" != "$1" ] || break
    done
    "$top/scripts/series-tree" "${options[@]}" "$repo"
}
