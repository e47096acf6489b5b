#!/bin/sh
# Runs every target of fuzz/ for SECONDS each (default 300), one after the other; ends at the first finding.
set -eu
seconds=${1:-300}
cd "$(dirname "$0")/.."
cargo fuzz --version >/dev/null 2>&1 || {
    echo "fuzz: installing cargo-fuzz"
    cargo install --locked cargo-fuzz
}
# The sanitizers need compiler flags that only nightly takes, or a stable one that is told to.
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    toolchain=+nightly
else
    toolchain=
    export RUSTC_BOOTSTRAP=1
fi
for target in $(cargo $toolchain fuzz list); do
    echo "fuzz: $target for $seconds s"
    cargo $toolchain fuzz run "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048
done
