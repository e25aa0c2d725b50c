# shellcheck shell=bash
# Sourced after common.sh: which libvirt, and where it is built.
#
# SUITE names the Debian release whose source package is taken; LIBVIRT_SOURCE
# is a folder with libvirt's source that is taken instead. LIBVIRT, a folder
# below BUILD for each, holds:
#   pristine     libvirt's source with the distribution's patches, never changed
#   series-repo  a git repository: this source, and a commit for each step
#   src          a clone of it: the tree with all steps, which is built
#   build        meson's build folder

suite=${SUITE:-bookworm}
source=${LIBVIRT_SOURCE:-}
LIBVIRT=$BUILD/libvirt-$suite
[ -z "$source" ] || LIBVIRT=$BUILD/libvirt-source

# The version of a source tree: 9.0.0.
libvirt_version() {
    sed -n "s/^ *version: '\([0-9.]*\)',/\1/p" "$1/meson.build" | head -n 1
}

# Its line: 9.0.
libvirt_line() { libvirt_version "$1" | cut -d. -f1,2; }

# The hooks for a line: its own, else, to try a new one, the newest that we have.
libvirt_hooks() {
    local own=$top/patches/libvirt-$1
    [ -d "$own" ] || own=$(printf '%s\n' "$top"/patches/libvirt-[0-9]* |
                           sort -V | tail -n 1)
    echo "$own"
}

# All but libvirt's own folder of a submodule, which git has not in upstream's
# tree either: its files do not keep to libvirt's syntax checks.
leave_out=(src/keycodemapdb subprojects/keycodemapdb)

# libvirt_clone FOLDER: make FOLDER/src, a tree of the series with all that is
# needed to build it, unless it is there already, of this source.
libvirt_clone() {
    local folder from
    from=$(cat "$LIBVIRT/series-repo.from")
    [ "$from" != "$(cat "$1/src.from" 2>/dev/null)" ] || return 0
    rm -rf "$1/src" "$1/build" "$1/src.from"
    git clone -q --shared -b series "$LIBVIRT/series-repo" "$1/src"
    for folder in "${leave_out[@]}"; do
        [ -d "$LIBVIRT/pristine/$folder" ] || continue
        mkdir -p "$1/src/$folder"
        cp -a "$LIBVIRT/pristine/$folder/." "$1/src/$folder"
    done
    echo "$from" > "$1/src.from"
}

# libvirt_ninja FOLDER TARGET...: build FOLDER/src in FOLDER/build: what the
# smoke run needs and tests cover, nothing that is found by chance. Paths below
# the repository do not count for the compiler's cache.
libvirt_ninja() {
    local json
    local options=(
        -Dauto_features=disabled -Dsystem=false -Dtests=enabled -Ddocs=disabled
        -Ddriver_libvirtd=enabled -Ddriver_remote=enabled -Ddriver_qemu=enabled
        -Ddriver_test=enabled -Dstorage_dir=enabled -Dstorage_fs=enabled
        -Dcapng=enabled -Dlibnl=enabled -Dapparmor=enabled
        -Dsecdriver_apparmor=enabled -Dwerror=true -Doptimization=0
        -Ddebug=false)
    for json in yajl json_c; do
        ! grep -q "option('$json'" "$1/src/meson_options.txt" ||
            options+=("-D$json=enabled")
    done
    export CC="ccache gcc" CCACHE_BASEDIR=$top CCACHE_NOHASHDIR=1
    if [ ! -f "$1/build/build.ninja" ]; then
        say "configuring libvirt $(libvirt_version "$1/src")"
        meson setup "${options[@]}" "$1/build" "$1/src" > "$1/configure.log" 2>&1 ||
            { tail -n 20 "$1/configure.log"; die "meson fails"; }
    fi
    ninja -C "$1/build" -j "$(nproc)" "${@:2}"
}

# libvirt_tests FOLDER: run all tests of libvirt, its syntax checks too, and add
# them to passed, failed and skipped.
libvirt_tests() {
    local log=$1/tests.log ok bad skip
    meson test -C "$1/build" --no-rebuild --print-errorlogs -t 10 \
        > "$log" 2>&1 || true
    # All but what went well.
    sed -E '/^ *[0-9]+\/[0-9]+ .* (OK|EXPECTEDFAIL) /d' "$log"
    count() { sed -nE "s/^$1: +([0-9]+) *$/\1/p" "$log"; }
    ok=$(($(count Ok) + $(count 'Expected Fail')))
    bad=$(($(count Fail) + $(count 'Unexpected Pass') + $(count Timeout)))
    skip=$(($(count Skipped)))
    [ $ok -gt 0 ] || bad=$((bad + 1))
    say "libvirt's tests: $ok passed, $bad failed, $skip skipped"
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
}
