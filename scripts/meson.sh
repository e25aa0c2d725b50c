# shellcheck shell=bash
# Sourced: makes a meson and Python packages that are new enough for QEMU's line
# available.
#
# QEMU 10 wants meson 1.5, and QEMU 11 some Python packages. What the system
# lacks is taken from a newer suite of the archive and unpacked into the build
# folder, not installed, and found there through PYTHONPATH.

python_wants() {
    /usr/bin/python3 -c 'import sys
from importlib.metadata import distribution
for name in sys.argv[1:]:
    distribution(name)' "$@" 2> /dev/null
}

# unpack_python PACKAGE SUITE...: of the first suite that has it
unpack_python() {
    local package=$1 suite folder=$BUILD/meson/$1
    shift
    if [ ! -d "$folder" ]; then
        for suite in "$@"; do
            rm -rf "$folder.new"
            mkdir -p "$folder.new"
            "$top/scripts/apt-private" "$suite" deb apt-get update || continue
            if (cd "$folder.new" && "$top/scripts/apt-private" "$suite" deb \
                    apt-get download "$package"); then
                say "taking $package from $suite into the build folder"
                dpkg-deb -x "$folder.new/$package"_*.deb "$folder.new"
                mv "$folder.new" "$folder"
                break
            fi
        done
        [ -d "$folder" ] || die "no $package can be had in $*"
    fi
    PYTHONPATH+=${PYTHONPATH:+:}$folder/usr/lib/python3/dist-packages
}

if [ "$major" -ge 10 ]; then
    system=$(. /etc/os-release && echo "$VERSION_CODENAME")
    export PYTHONPATH=
    dpkg --compare-versions "$(meson --version)" ge 1.5 ||
        unpack_python meson "$system-backports"
    if [ "$major" -ge 11 ]; then
        python_wants setuptools ||
            for package in python3-setuptools python3-pkg-resources; do
                unpack_python $package "$system"
            done
        python_wants wheel || unpack_python python3-wheel "$system"
        python_wants pycotap || unpack_python python3-pycotap \
            "$system" "$system-backports"
        python_wants qemu.qmp || unpack_python python3-qemu-qmp \
            "$system" "$system-backports" trixie-backports
    fi
    [ -n "$PYTHONPATH" ] || unset PYTHONPATH
fi
