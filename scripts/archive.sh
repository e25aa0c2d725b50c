# shellcheck shell=bash
# Sourced after common.sh: apt sources for a suite of the archive that serves this
# system.
#
# Which archive that is, apt says itself (indextargets knows every style of
# sources file): the first entry whose release is this system's, whose
# component is main, and whose index names Debian as its origin. Entries of
# third parties fail one of these. The archive of security updates is found in
# the same way.

# archive_sources TYPE SUITE: print them, with the suite's updates where it is a
# release, security's among them. Backports and sid are suites of their own and
# have none. The system's own apt files are read and never written.
archive_sources() {
    local system uri security lists
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    uri_of() {
        apt-get "${lists[@]}" indextargets --format '$(ORIGIN) $(REPO_URI)' \
            'Created-By: Packages' 'Component: main' "Codename: $1" |
            sed -n 's/^Debian //p' | head -n 1
    }
    stanza() {
        printf 'Types: %s\nURIs: %s\nSuites: %s\nComponents: main\n' "$@"
        [ ! -f "$key" ] || printf 'Signed-By: %s\n' "$key"
    }

    system=$(. /etc/os-release && echo "${VERSION_CODENAME:-none}")
    lists=()
    uri=$(uri_of "$system")
    if [ -z "$uri" ]; then
        # No index on this machine yet, and perhaps not the right to get one.
        lists=(-o "Dir::State::lists=$BUILD/apt/system")
        mkdir -p "$BUILD/apt/system/partial"
        apt-get -q "${lists[@]}" update >&2
        uri=$(uri_of "$system")
    fi
    [ -n "$uri" ] || die "no apt source of this system is Debian's archive for" \
                         "'$system'; give QEMU's source with --qemu-source=DIR"
    case $2 in
    sid | unstable | experimental | *-*) stanza "$1" "$uri" "$2" ;;
    *)  stanza "$1" "$uri" "$2 $2-updates"
        security=$(uri_of "$system-security")
        if [ -n "$security" ]; then
            echo
            stanza "$1" "$security" "$2-security"
        else
            say "no apt source of this system has Debian's security updates" >&2
        fi ;;
    esac
}
