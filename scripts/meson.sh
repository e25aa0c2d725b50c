# shellcheck shell=bash
# Sourced: makes a meson that is new enough for QEMU's line available.
#
# QEMU 10 wants meson 1.5. Where the system's is older, the package of the
# system's backports is unpacked into the build folder, not installed, and
# found there through PYTHONPATH.

if [ "$major" -ge 10 ] && ! dpkg --compare-versions "$(meson --version)" ge 1.5; then
    if [ ! -d "$BUILD/meson/usr" ]; then
        backports=$(. /etc/os-release && echo "$VERSION_CODENAME-backports")
        say "taking meson from $backports into the build folder"
        mkdir -p "$BUILD/meson/package"
        "$top/scripts/apt-private" "$backports" deb apt-get update
        (cd "$BUILD/meson/package" &&
         "$top/scripts/apt-private" "$backports" deb apt-get download meson)
        dpkg-deb -x "$BUILD"/meson/package/meson_*.deb "$BUILD/meson"
    fi
    export PYTHONPATH=$BUILD/meson/usr/lib/python3/dist-packages
fi
