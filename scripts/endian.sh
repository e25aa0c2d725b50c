# shellcheck shell=bash
# Sourced, after common.sh: a build for another processor, whose programs run
# under QEMU's user emulation. Packages of that architecture are not installed,
# as they would not fit beside the system's own where these have security updates:
# they are unpacked to a folder that compiler and emulator take as the root.

# cross_begin ARCHITECTURE LINE: sets BUILD, the environment that pkg-config
# wants, RUNNER, and machine, the two bytes of an ELF header that name it
cross_begin() {
    local multiarch
    arch=$1
    case $arch in
    i386) prefix=i686-linux-gnu multiarch=i386-linux-gnu machine=' 03 00' ;;
    s390x) prefix=s390x-linux-gnu multiarch=$prefix machine=' 00 16' ;;
    *) die "unknown architecture: $arch" ;;
    esac
    root=$endian/$arch/root
    export BUILD=$endian/$arch/$2
    export PKG_CONFIG=pkg-config PKG_CONFIG_SYSROOT_DIR=$root
    export PKG_CONFIG_LIBDIR=$root/usr/lib/$multiarch/pkgconfig
    PKG_CONFIG_LIBDIR+=:$root/usr/share/pkgconfig
    export RUNNER="qemu-$arch-static -L $root"
}

# Unpack what QEMU needs of libraries, with all that these depend on; unit tests
# are there only where it is configured with an emulator.
cross_root() {
    local suite package
    [ ! -d "$root" ] || return 0
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-none}")
    apt() {
        BUILD=$endian APT_ARCHITECTURE=$arch \
            "$top/scripts/apt-private" "$suite" deb "$@"
    }
    say "unpacking libraries of $arch from $suite"
    apt apt-get update
    apt apt-get install -y --no-install-recommends --download-only \
        libglib2.0-dev zlib1g-dev uuid-dev libpixman-1-dev libfdt-dev
    rm -rf "$root.new"
    mkdir -p "$root.new/usr/lib"
    # Packages of before the merge of /lib and /usr/lib, and the loader's place
    for folder in bin lib lib64 sbin; do
        mkdir -p "$root.new/usr/$folder"
        ln -s "usr/$folder" "$root.new/$folder"
    done
    for package in "$endian/apt/$suite-deb-$arch"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -x -C "$root.new" --keep-directory-symlink --no-same-owner
    done
    mv "$root.new" "$root"
}

# cross_configure SUITE LINE: with a source that is there already, if there is one
cross_configure() {
    local from=--qemu-suite=$1 folder
    [ ! -f "$BUILD/config" ] || return 0
    for folder in "$endian"/../pristine "$endian"/../*/pristine; do
        if [ -f "$folder/VERSION" ] && [ "$(qemu_line "$folder")" = "$2" ]; then
            from=--qemu-source=$folder
        fi
    done
    "$top/configure" --build-dir="$BUILD" "$from" -- \
        --cross-prefix="$prefix-" --host-cc=gcc \
        --cc="ccache $prefix-gcc --sysroot=$root" \
        --disable-linux-aio --disable-linux-io-uring --disable-fuse \
        --disable-fuse-lseek
}

# Whether this program is one of that processor
cross_is() {
    [ "$(od -An -tx1 -j18 -N2 "$1")" = "$machine" ]
}
