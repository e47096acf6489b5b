# Debian packages, for the scripts that install: sourced by them.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

say() {
    echo "install: $*"
}

# While packages are unpacked no service may start: a policy-rc.d that says so, taken away (or put back) after.
POLICY=/usr/sbin/policy-rc.d
forbid_services() {
    if [ -e $POLICY ]; then as_root mv $POLICY $POLICY.sipbox-saved; fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null
    as_root chmod 755 $POLICY
    trap restore_services EXIT
    trap 'exit 130' INT TERM
}
restore_services() {
    trap - EXIT
    as_root rm -f $POLICY
    if [ -e $POLICY.sipbox-saved ]; then as_root mv $POLICY.sipbox-saved $POLICY; fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@"
}

# install_packages PACKAGE...: what is not there yet. 1 when apt-get failed, and has said why.
install_packages() {
    missing=""
    for package in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "Debian packages:$missing"
    forbid_services
    apt_get update >/dev/null || say "apt-get update failed; going on with the lists that are there"
    log=$(mktemp)
    failed=0
    # shellcheck disable=SC2086
    apt_get install -y --no-install-recommends $missing >"$log" 2>&1 || failed=1
    if [ $failed = 1 ]; then cat "$log" >&2; fi
    rm -f "$log"
    restore_services
    return $failed
}
