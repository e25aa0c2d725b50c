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
