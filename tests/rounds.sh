#!/bin/sh
# The rounds of `make test`. All are run, whatever an earlier one found; the status is 0 only when all passed.
# Arguments: the end-to-end tests that are run once more in a network of the program's own.
set -u
cd "$(dirname "$0")/.."

failed=""
round() { # round NAME ARGUMENT...: the tests that the arguments choose
    name=$1
    shift
    echo "round: $name"
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --cargo-profile tests --no-fail-fast --test-threads 4 "$@" || failed="$failed, $name"
    else
        cargo test --profile tests --no-fail-fast "$@" -- --test-threads 4 || failed="$failed, $name"
    fi
}

# The sipbox that they start.
cargo build --release -p supervisor || exit 1

apart=""
for name in "$@"; do
    apart="$apart --test $name"
done

round "everything" --workspace
export SIPBOX_TEST_OVER=kamailio
round "programs over Kamailio" -p tests --test programs
unset SIPBOX_TEST_OVER
export SIPBOX_TEST_FLOW=quic
round "programs over encrypted flows" -p tests --test programs
unset SIPBOX_TEST_FLOW
export SIPBOX_TEST_ISOLATION=netns
# shellcheck disable=SC2086
round "programs in networks of their own" -p tests $apart
unset SIPBOX_TEST_ISOLATION

if [ -n "$failed" ]; then
    echo "rounds with failures: ${failed#, }"
    exit 1
fi
echo "all rounds passed"
