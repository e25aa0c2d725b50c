# shellcheck shell=bash
# Shared by every script here: strict mode, where things are, and how to speak.
#
# A build folder (BUILD, by default build/) holds everything that is made:
#   config      the choices of ./configure, as shell assignments
#   pristine    QEMU's source as the distribution has it, never changed
#   src         a copy of it with our driver and hooks laid over it
#   qemu        QEMU's own build folder
#   bin         links to the programs
#   results     one file of counts for each part of the tests
#
# Only the distribution's programs are wanted, so PATH is set anew: another
# Python further up in PATH would lack the packages that are installed.

set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8
# Python must leave nothing in the source trees.
export PYTHONDONTWRITEBYTECODE=1

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$(realpath -m "${BUILD:-$top/build}")
export BUILD

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Two runs of make must not change one build folder at the same time. What a
# script that holds the lock calls does not take it again.
lock_build() {
    [ "${BUILD_LOCKED:-}" != "$BUILD" ] || return 0
    mkdir -p "$BUILD"
    exec 9> "$BUILD/lock"
    flock -n 9 || { say "waiting for who works in $BUILD"; flock 9; }
    export BUILD_LOCKED=$BUILD
}

# Sets suite, only_line, source, sanitizers, fuzzing and qemu_options to what
# ./configure was told.
load_config() {
    [ -f "$BUILD/config" ] || "$top/configure" --build-dir="$BUILD"
    suite='' only_line='' source='' sanitizers=no fuzzing=no qemu_options=()
    # shellcheck source=/dev/null
    . "$BUILD/config"
}

# The QEMU line of a source tree: 7.2 for version 7.2.22.
qemu_line() { cut -d. -f1,2 "$1/VERSION"; }

# The hooks for a QEMU line: its own, or for a line that is newer than all that
# we have hooks for, those of the newest.
qemu_hooks() {
    local newest
    newest=$(printf '%s\n' "$top"/patches/qemu-* | sort -V | tail -n 1)
    if [ -d "$top/patches/qemu-$1" ]; then
        echo "$top/patches/qemu-$1"
    elif dpkg --compare-versions "$1" gt "${newest##*-}"; then
        echo "$newest"
    else
        die "no hooks for QEMU $1 in patches/"
    fi
}

# What QEMU's line wants of Python, where the system lacks it, is found by the
# programs that this one starts.
python_packages() {
    local major
    major=$(qemu_line "$BUILD/src")
    major=${major%%.*}
    . "$top/scripts/meson.sh"
}

# Build these targets in BUILD/qemu, which is configured. Paths below the
# repository do not count for the compiler's cache: a second clone, or another
# build folder, finds what the first one compiled.
ninja_build() {
    python_packages
    CCACHE_BASEDIR=$top CCACHE_NOHASHDIR=1 \
        ninja -C "$BUILD/qemu" -j "$(nproc)" "$@"
}

# Leave links to these targets in BUILD/bin.
link_programs() {
    local target
    mkdir -p "$BUILD/bin"
    for target in "$@"; do
        ln -sf "../qemu/$target" "$BUILD/bin/"
    done
}

# limited SECONDS PROGRAM...: run a program, and end it when it takes longer,
# which is said and has exit status 124 or 137.
limited() {
    local rc=0
    timeout --foreground -k 10 "$@" || rc=$?
    case $rc in
    124 | 137) say "$(basename "$2") does not end within $1 seconds" ;;
    esac
    return $rc
}

# Whether TEST names this unit test, without test-vhdx-, or none.
wanted_test() {
    [[ -z ${TEST:-} || " $TEST " = *" ${1#test-vhdx-} "* ]]
}

# run_tap PROGRAM: run a test program of glib's, in the folder that it is in,
# and set p, f and s to how many of its cases passed, failed and were skipped.
# A program that ends early loses the cases it had planned: they have failed;
# so has one that takes more than TEST_SECONDS (default: 1800). RUNNER is a
# command that runs programs of another processor, TAP_SKIP a case that can't be
# tried there, and SLOW is set where time does not matter.
run_tap() {
    local name log plan rc=0 runner
    read -ra runner <<< "${RUNNER:-}"
    name=$(basename "$1")
    log=$BUILD/results/$name.tap
    mkdir -p "$BUILD/results"
    (cd "$(dirname "$1")" &&
     limited "${TEST_SECONDS:-1800}" "${runner[@]}" "./$name" --tap -k \
     ${SLOW:+-m slow} ${TAP_SKIP:+-s "$TAP_SKIP"}) 2>&1 | tee "$log" || rc=$?
    plan=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$log" | head -n 1)
    s=$(grep -ciE '^ok .*# *skip' "$log" || true)
    p=$(grep -c '^ok ' "$log" || true)
    p=$((p - s))
    f=$((${plan:-0} - p - s))
    if [ -z "$plan" ] || { [ $rc -ne 0 ] && [ $f -le 0 ]; }; then
        say "$name ended with exit status $rc"
        f=1
    fi
}

# unmount_below DIR: print what is mounted there, and unmount it.
unmount_below() {
    local point
    while read -r point; do
        echo "$point"
        fusermount3 -u -z "$point" >&2 || umount -l "$point"
    done < <(awk -v dir="$(realpath "$1")/" \
                 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo)
}

# check WHAT COMMAND...: run a command as a test, and count it in passed or
# failed.
check() {
    local what=$1
    shift
    if "$@"; then
        echo "ok $what"
        passed=$((passed + 1))
    else
        echo "not ok $what"
        failed=$((failed + 1))
    fi
}
