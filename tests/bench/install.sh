#!/bin/sh
# Installs what `make bench` compares sipbox with, beside what tests/install.sh has: tunnels that people use today.
# Idempotent; quick when everything is there; starts no service. A peer that cannot be had is said, and so does its row of the table.
set -eu

PACKAGES="stunnel4 nebula openvpn wireguard-tools"
DUMBPIPE=0.40.1
BORINGTUN=0.7.1
DIR=/opt/sipbox-tests/peers

. "$(dirname "$0")/../packages.sh"

# shellcheck disable=SC2086
install_packages $PACKAGES || say "not all packages could be installed" >&2

# --- Crates, built once, by one compiler at a time and behind everything else --------------------
# A build needs the crate's own versions of what it stands on (--locked) and its own directory.
crate() {
    name=$1 version=$2
    [ ! -x "$DIR/$name-$version/bin/$name" ] || return 0
    say "$name $version by cargo install into $DIR (once; this takes minutes)"
    as_root mkdir -p "$DIR"
    as_root chown "$(id -u)" "$DIR"
    build=$(mktemp -d)
    if env -u CARGO_PROFILE_RELEASE_INCREMENTAL CARGO_TARGET_DIR="$build" nice -n 19 \
        cargo install --quiet --locked --jobs 1 --root "$DIR/$name-$version" --version "=$version" "$name" >"$build/log" 2>&1; then
        chmod -R a+rX "$DIR"
    else
        tail -n 20 "$build/log" >&2
        say "$name $version could not be built: its rows are empty" >&2
    fi
    rm -rf "$build"
}
crate boringtun-cli $BORINGTUN
crate dumbpipe $DUMBPIPE
