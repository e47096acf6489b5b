#!/bin/sh
# Installs what `make bench` compares sipbox with, beside what tests/install.sh has: tunnels that people use today.
# Idempotent; quick when everything is there; starts no service. A peer that cannot be had is said, and so does its row of the table.
set -eu

PACKAGES="stunnel4 nebula openvpn wireguard-tools"
DUMBPIPE=0.40.1
BORINGTUN=0.7.1
DIR=/opt/sipbox-tests/peers

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

say() {
    echo "install: $*"
}

# --- Debian packages: no service may start while they are unpacked ------------------------------
missing=""
for package in $PACKAGES; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
POLICY=/usr/sbin/policy-rc.d
restore_services() {
    trap - EXIT
    as_root rm -f $POLICY
    if [ -e $POLICY.sipbox-saved ]; then as_root mv $POLICY.sipbox-saved $POLICY; fi
}
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@"
}
if [ -n "$missing" ]; then
    say "Debian packages:$missing"
    if [ -e $POLICY ]; then as_root mv $POLICY $POLICY.sipbox-saved; fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null
    as_root chmod 755 $POLICY
    trap restore_services EXIT
    trap 'exit 130' INT TERM
    apt_get update >/dev/null || say "apt-get update failed; going on with the lists that are there"
    log=$(mktemp)
    # shellcheck disable=SC2086
    apt_get install -y --no-install-recommends $missing >"$log" 2>&1 || { cat "$log" >&2; say "not all packages could be installed" >&2; }
    rm -f "$log"
    restore_services
fi

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
