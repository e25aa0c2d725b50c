# shellcheck shell=bash
# Sourced by what builds and tests Debian packages: small systems in folders,
# made by debootstrap, in which the distribution's tools run.

. "$top/scripts/archive.sh"

[ "$(id -u)" -eq 0 ] ||
    die "packages are built and tested in a system in a folder, which takes root"

# What is mounted below is gone with the process.
if [ -z "${DEB_MOUNTS:-}" ]; then
    export DEB_MOUNTS=own
    exec unshare -m --propagation private "$0" "$@"
fi

suite=${SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-}")}
DEB=$BUILD/deb/$suite
mkdir -p "$DEB"
if [ "${DEB_LOCKED:-}" != "$DEB" ]; then
    exec 8> "$DEB/lock"
    flock -n 8 || { say "waiting for who works in $DEB"; flock 8; }
    export DEB_LOCKED=$DEB
fi
"$top/scripts/install-packages"
"$top/scripts/install-packages" deb

# What must be of one build: the tools, and with an emulator these as well.
tools_packages=(qemu-utils qemu-block-extra)
all_packages=("${tools_packages[@]}" qemu-system-x86 qemu-system-common
              qemu-system-gui)
[ "$suite" = bookworm ] ||
    all_packages+=(qemu-system-modules-spice qemu-system-modules-opengl)

# make_root VARIANT: make $root, if it is not there, with the suite's system.
make_root() {
    if [ ! -f "$root/made" ]; then
        say "making a system of $suite in $root"
        rm -rf "$root"
        archive_sources deb "$suite" > "$DEB/sources"
        debootstrap --variant="$1" --include=ca-certificates,eatmydata "$suite" \
            "$root" "$(sed -n 's/^URIs: //p' "$DEB/sources" | head -n 1)" \
            > "$DEB/debootstrap.log" 2>&1 ||
            die "debootstrap failed, see $DEB/debootstrap.log"
        rm -f "$root/etc/apt/sources.list"
        cp "$DEB/sources" "$root/etc/apt/sources.list.d/debian.sources"
        # No service starts in it.
        printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
        chmod 755 "$root/usr/sbin/policy-rc.d"
        touch "$root/made"
    fi
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
}

# in_root COMMAND...: run it there, as one who is nobody's terminal.
in_root() {
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" < /dev/null
}

# apt_in_root ARGUMENT...: nothing there needs to outlive a power cut.
apt_in_root() { in_root eatmydata apt-get -q -y --no-install-recommends "$@"; }
