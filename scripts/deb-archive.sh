# shellcheck shell=bash
# Sourced by run-deb: which source is fetched, from a small archive in files that
# has a suite, its updates, those of security, and backports. The system's apt
# knows it by a configuration of its own.

# release CODENAME FILE...: write the index's head, with the sums of what is in it
release() {
    local folder=$archive/$1 file
    {
        printf 'Origin: Debian\nLabel: Debian\nSuite: %s\nCodename: %s\n' "$1" "$1"
        printf 'Date: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n' \
               "$(date -u -R)"
        for file in main/source/Sources main/binary-amd64/Packages; do
            printf ' %s %s %s\n' "$(sha256sum < "$folder/$file" | cut -d' ' -f1)" \
                   "$(stat -c %s "$folder/$file")" $file
        done
    } > "$folder/Release"
}

# publish SUITE [VERSION]: a source package of QEMU, which holds its version
publish() {
    local folder=$archive/$1 version=${2:-} name file
    name=qemu_${version#*:}
    mkdir -p "$folder/main"/{source,binary-amd64}
    # apt does not keep an index that is empty.
    printf 'Package: none\nVersion: 1\nArchitecture: amd64\n' \
        > "$folder/main/binary-amd64/Packages"
    touch "$folder/main/source/Sources"
    if [ -n "$version" ]; then
        mkdir -p "$archive/qemu/debian" "$archive/pool"
        echo "${version#*:}" > "$archive/qemu/VERSION"
        tar -C "$archive" -cJf "$archive/pool/$name.tar.xz" qemu
        # sums TOOL FILE...
        sums() {
            for file in "${@:2}"; do
                printf ' %s %s %s\n' \
                    "$("$1" < "$archive/pool/$file" | cut -d' ' -f1)" \
                    "$(stat -c %s "$archive/pool/$file")" "$file"
            done
        }
        {
            printf 'Format: 3.0 (native)\nSource: qemu\nBinary: qemu-utils\n'
            printf 'Architecture: any\nVersion: %s\n' "$version"
            printf 'Maintainer: nobody <nobody@example.invalid>\n'
            printf 'Checksums-Sha256:\n%s\n' "$(sums sha256sum "$name.tar.xz")"
            printf 'Files:\n%s\n' "$(sums md5sum "$name.tar.xz")"
        } > "$archive/pool/$name.dsc"
        {
            printf 'Package: qemu\nBinary: qemu-utils\nVersion: %s\n' "$version"
            printf 'Architecture: any\nFormat: 3.0 (native)\nDirectory: pool\n'
            printf 'Checksums-Sha256:\n%s\n' \
                   "$(sums sha256sum "$name.dsc" "$name.tar.xz")"
            printf 'Files:\n%s\n\n' "$(sums md5sum "$name.dsc" "$name.tar.xz")"
        } >> "$folder/main/source/Sources"
    fi
    release "$1"
}

# fetched VERSION [OPTION]: fetch-qemu leaves that one
fetched() {
    APT_CONFIG=$work/apt.conf BUILD=$work/build BUILD_LOCKED=$work/build \
        "$top/scripts/fetch-qemu" "${@:2}" >> "$work/log" 2>&1 &&
        [ "$(cat "$work/build/pristine/VERSION")" = "$1" ]
}

not() { ! "$@"; }

run_archive() {
    local work=$DEB/archive archive system name
    archive=$work/dists
    system=$(. /etc/os-release && echo "$VERSION_CODENAME")
    rm -rf "$work"
    mkdir -p "$work"/{build,lists/partial}
    # A folder stands for a place on the network: apt asks for dists/SUITE below.
    ln -s . "$work/debian"
    ln -s . "$work/debian-security"
    ln -s dists/pool "$work/pool"
    for name in "$system" "$suite" "$suite-updates" "$suite-backports" \
                "$system-security" "$suite-security"; do
        publish "$name"
    done
    publish "$suite" 1:7.2.1
    publish "$suite-backports" 1:7.2.9
    cat > "$work/apt.conf" <<END
Dir::Etc::SourceList "$work/system.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Acquire::AllowInsecureRepositories "true";
APT::Get::AllowUnauthenticated "true";
END
    {
        echo "deb file:$work/debian $system main"
        echo "deb file:$work/debian-security $system-security main"
    } > "$work/system.list"
    printf 'suite=%q only_line= source= qemu_options=()\n' "$suite" \
        > "$work/build/config"

    check "a first fetch takes the suite's source, and not that of backports" \
        fetched 7.2.1
    publish "$suite-security" 1:7.2.2
    check "a source that is there stays for the normal build" fetched 7.2.1
    check "--newest sees a security update" fetched 7.2.2 --newest
    publish "$suite-updates" 1:7.2.3
    check "--newest sees another update" fetched 7.2.3 --newest
    touch "$work/build/pristine/kept"
    check "--newest ends where that is there" fetched 7.2.3 --newest
    check "... and leaves it as it is" [ -f "$work/build/pristine/kept" ]
    sed -i 2d "$work/build/pristine.from"
    check "--newest takes a source of no known version" fetched 7.2.3 --newest
    check "... for another" [ ! -f "$work/build/pristine/kept" ]
    mv "$archive" "$archive.away"
    check "without an archive the normal build goes on" fetched 7.2.3
    check "... and --newest fails" not fetched 7.2.3 --newest
    check "... and leaves what is there" fetched 7.2.3
    mv "$archive.away" "$archive"
    rm -rf "$work/build"/pristine*
    check "a first fetch takes updates, too" fetched 7.2.3
}
