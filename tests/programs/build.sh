#!/bin/sh
# Builds the test programs into DIRECTORY (default: target/test-programs of the workspace). Only what is out of date.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/test-programs}
mkdir -p "$out"
out=$(cd "$out" && pwd)

# One build at a time: tests may ask from several processes.
exec 9>"$out/.lock"
flock 9

newer() { # newer TARGET SOURCE...: TARGET is there and not older than its sources
    made=$1
    shift
    [ -e "$made" ] || return 1
    for input in "$@"; do
        [ ! "$input" -nt "$made" ] || return 1
    done
}

flags="-std=gnu11 -O2 -g1 -Wall -Wextra -Wno-missing-field-initializers -Werror"

# Into a name of its own, then renamed: a program that runs is never overwritten.
build() { # build COMPILER SOURCE TARGET EXTRA...
    compiler=$1 source=$2 target=$3
    shift 3
    newer "$target" "$source" "$here/t.h" "$here/../attacks/attack.h" "$here/build.sh" && return 0
    # shellcheck disable=SC2086
    "$compiler" $flags -I"$here" "$@" -o "$target.new" "$source"
    mv "$target.new" "$target"
}

# Static (musl): nothing in them that LD_PRELOAD could reach.
for name in static-echo static-client epoll-server epoll-client udp-server udp-client; do
    build musl-gcc "$here/$name.c" "$out/$name" -static
done
# Dynamic (glibc).
for name in fdgames swaps mptcp v6 signals passthrough hold calls orphan partial way-out line; do
    build gcc "$here/$name.c" "$out/$name" -pthread
done
# With both C libraries, which ask in different ways; musl-gcc does not find the kernel's headers by itself.
build gcc "$here/interfaces.c" "$out/interfaces"
kernel="-idirafter /usr/include -idirafter /usr/include/$(gcc -print-multiarch)"
# shellcheck disable=SC2086
build musl-gcc "$here/interfaces.c" "$out/interfaces-musl" -static $kernel
# The conformance cases: one static program of many files.
newer "$out/conformance" "$here"/../conformance/*.[ch] "$here/t.h" "$here/build.sh" || {
    # shellcheck disable=SC2086
    musl-gcc $flags -I"$here" -I"$here/../conformance" -static -o "$out/conformance.new" "$here"/../conformance/*.c $kernel
    mv "$out/conformance.new" "$out/conformance"
}
# The attacks: static (musl), not position-independent (their 32-bit calls need low addresses), with the kernel's headers.
for source in "$here"/../attacks/*.c; do
    # shellcheck disable=SC2086
    build musl-gcc "$source" "$out/attack-$(basename "$source" .c)" -static -no-pie -pthread -Wno-format-truncation -Wno-unused-result $kernel
done
for source in "$here"/../bench/*.c; do
    [ -e "$source" ] || continue
    build gcc "$source" "$out/bench-$(basename "$source" .c)"
done

# Go, without cgo: static, with its own resolver and its preemption signals.
go=$(ls -d /opt/sipbox-tests/go-*/go/bin/go 2>/dev/null | tail -n 1 || true)
[ -n "$go" ] || go=$(command -v go || true)
if [ -n "$go" ]; then
    export CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-trimpath GOCACHE="$out/.go-cache" GOTELEMETRY=off
    for name in http-server http-client interfaces; do
        newer "$out/go-$name" "$here/go/$name/main.go" "$here/go/go.mod" && continue
        (cd "$here/go" && "$go" build -o "$out/go-$name.new" "./$name")
        mv "$out/go-$name.new" "$out/go-$name"
    done
else
    echo "build.sh: no Go: the Go pair is not built" >&2
fi

for name in asyncio_pair.py counted_pair.py datagram_pair.py flow_pair.py moving_pair.py streams_pair.py cpython_suite.py; do
    newer "$out/$name" "$here/$name" && continue
    cp "$here/$name" "$out/$name.new"
    mv "$out/$name.new" "$out/$name"
done
chmod -R a+rX "$out"
