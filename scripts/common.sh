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
    flock 9
    export BUILD_LOCKED=$BUILD
}

# Sets suite, source, sanitizers and qemu_options to what ./configure was told.
load_config() {
    [ -f "$BUILD/config" ] || "$top/configure" --build-dir="$BUILD"
    . "$BUILD/config"
}

# The QEMU line of a source tree: 7.2 for version 7.2.22.
qemu_line() { cut -d. -f1,2 "$1/VERSION"; }
