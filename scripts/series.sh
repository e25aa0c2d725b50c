# shellcheck shell=bash
# Sourced by series-qemu.sh and series-libvirt.sh: a patch series is made in a
# scratch repository, $repo, with a branch "pristine" (the source as it came)
# and a branch "series". They say what its steps are, where their messages and
# hooks are, and what a step does to the tree.

# The user's own git settings must not change the patches.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME="qemu-vhdx developers"
export GIT_AUTHOR_EMAIL="qemu-vhdx@example.invalid"
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME
export GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL

in_repo() { git -C "$repo" -c gc.auto=0 -c advice.detachedHead=false "$@"; }

# A file as it came, or as the step before has left it, takes the hook.
apply_hook() {
    patch -d "$repo" -p1 --fuzz=0 --no-backup-if-mismatch -s < "$1" ||
        die "$1 does not apply"
}

# commit_pristine PRISTINE FROM TITLE: the source is committed once for each
# place that it comes from.
commit_pristine() {
    [ "$2" != "$(cat "$repo.from" 2>/dev/null)" ] || return 0
    rm -rf "$repo" "$repo.from"
    mkdir "$repo"
    tar -C "$1" --exclude=./.git "${leave_out[@]/#/--exclude=./}" -cf - . |
        tar -C "$repo" -xf -
    in_repo init -q -b pristine
    in_repo add -A -f .
    in_repo commit -q -m "$3"
    echo "$2" > "$repo.from"
}

# Print the file with the message of a step.
message_of() { echo "$messages/$1"; }

# A step that changes nothing in this source is none. $repo.steps has the commit
# and the name of each of the others.
commit_steps() {
    local step
    : > "$repo.steps"
    in_repo checkout -q -f -B series pristine
    in_repo clean -q -f -d -x
    for step in "${steps[@]}"; do
        apply_step "$step"
        in_repo add -A -f .
        ! in_repo diff --cached --quiet || continue
        in_repo commit -q -s -F "$(message_of "$step")"
        echo "$(in_repo rev-parse HEAD) $step" >> "$repo.steps"
    done
}

# write_patches FOLDER OPTION...
write_patches() {
    rm -rf "$1"
    in_repo format-patch -q --no-signature -o "$@" pristine..series
}

# Apply the patches in this folder to a pristine tree, each as a check. A cover
# letter is none.
take_patches() {
    local patch
    in_repo checkout -q -f -B check pristine
    in_repo clean -q -f -d -x
    for patch in "$1"/*.patch; do
        [[ $patch != *0000-cover-letter.patch ]] || continue
        check "git am $(basename "$patch")" in_repo am -q "$patch"
    done
}
