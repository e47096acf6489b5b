#!/bin/sh
# Four program pairs, both ends under `sipbox run` as an ordinary user: what a person would type, the SIP messages of the
# calling side, and what both programs print. Ends with a summary line; the status says whether everything passed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

if [ -z "${SIPBOX_DEMO:-}" ]; then
    # A directory that an ordinary user can get at, with the programs in it.
    dir=$(mktemp -d /tmp/sipbox-demo.XXXXXX)
    trap 'rm -rf "$dir"' EXIT
    "$root/tests/programs/build.sh" "$root/target/test-programs"
    mkdir -m 755 "$dir/bin"
    cp "${SIPBOX_BIN:-$root/target/release/sipbox}" "$dir/bin/sipbox"
    for program in static-echo static-client udp-server udp-client; do
        cp "$root/target/test-programs/$program" "$dir/bin/"
    done
    chmod 755 "$dir" "$dir"/bin/*
    mkdir -m 700 "$dir/runtime"
    cp "$0" "$dir/demo.sh"
    set -- env -i SIPBOX_DEMO="$dir" HOME="$dir" XDG_RUNTIME_DIR="$dir/runtime" LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        PATH="$dir/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" sh "$dir/demo.sh"
    if [ "$(id -u)" = 0 ]; then
        chown -R sipboxtest:sipboxtest "$dir"
        status=0
        setpriv --reuid=sipboxtest --regid=sipboxtest --clear-groups "$@" || status=$?
    else
        status=0
        "$@" || status=$?
    fi
    exit $status
fi

cd "$SIPBOX_DEMO"
servers="" passed=0 failed=0 summary=""

stop_servers() {
    for pid in $servers; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in $servers; do
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do
            tries=$((tries + 1))
            sleep 0.05
        done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    servers=""
}

# A command as one would type it.
shown() {
    line="\$"
    for word in "$@"; do
        case $word in
            '' | *[\ \;]*) line="$line '$word'" ;;
            *) line="$line $word" ;;
        esac
    done
    echo "$line"
}
trap 'for pid in $servers; do kill -9 "$pid" 2>/dev/null || true; done' EXIT

# wait_for FILE TEXT: until the file contains the text, at most 20 s.
wait_for() {
    tries=0
    until grep -q "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 400 ] || {
            echo "demo: waited in vain for \"$2\"; what there is:"
            cat "$1"
            return 1
        }
        sleep 0.05
    done
}

title() {
    printf '\n== %s\n' "$1"
}

# server NAME READY COMMAND...: starts it in the background and waits until its output says READY.
server() {
    name=$1 ready=$2
    shift 2
    shown "$@"
    : >"$name.log"
    "$@" </dev/null >"$name.log" 2>&1 &
    servers="$servers $!"
    wait_for "$name.log" "$ready"
}

# client COMMAND...: runs it with the ladder and the trace; shows the ladder, then what the program printed.
client() {
    shown "$@"
    shift 2 # sipbox run
    status=0
    timeout 60 sipbox run --ladder --trace "$@" </dev/null >client.out 2>client.err || status=$?
    grep -E -- ' (-->|<--) ' client.err | sed 's#^sipbox: *#  sip    | #; s#  [^ ]* *\[[^]]*\]$##' || true
    sed 's/^/  client | /' client.out
    if [ $status != 0 ]; then
        echo "  the client ended with $status; its standard error:"
        sed 's/^/  stderr | /' client.err
    fi
    return $status
}

# Which flow the client's data took, as far as the trace tells: "direct TCP", "relayed TCP", "TCP".
flow() {
    case $(grep -Eio 'relay|direct' client.err | sort -u | tr 'A-Z\n' 'a-z ') in
        *relay*) echo "relayed $1" ;;
        *direct*) echo "direct $1" ;;
        *) echo "$1" ;;
    esac
}

# pair NAME FUNCTION PROTOCOL
pair() {
    title "$1"
    if "$2"; then
        passed=$((passed + 1))
        summary="$summary, $1 ($(flow "$3"))"
    else
        failed=$((failed + 1))
        summary="$summary, $1 FAILED"
    fi
    stop_servers
}

show_server() {
    tail -n "${2:-4}" "$1.log" | sed 's/^/  server | /'
}

static_pair() {
    server echo 'listening on' sipbox run --as echo -- static-echo 7000 &&
        client sipbox run --to echo -- static-client 198.18.0.9 7000 'hello over SIP' &&
        wait_for echo.log 'said 14 bytes' &&
        show_server echo
}

redis() {
    server redis 'Ready to accept connections' \
        sipbox run --as redis -- redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save '' &&
        client sipbox run --to redis -- redis-cli -h 198.18.0.9 SET greeting 'hello over SIP' &&
        client sipbox run --to redis -- redis-cli -h 198.18.0.9 GET greeting &&
        grep -q 'hello over SIP' client.out &&
        show_server redis 1
}

web() {
    mkdir -p nginx www
    echo 'hello over SIP' >www/index.html
    cat >nginx/nginx.conf <<END
worker_processes 1;
pid $PWD/nginx/pid;
error_log stderr notice;
events { worker_connections 64; }
http {
    access_log /dev/stdout;
    client_body_temp_path $PWD/nginx/body; proxy_temp_path $PWD/nginx/proxy; fastcgi_temp_path $PWD/nginx/fastcgi;
    uwsgi_temp_path $PWD/nginx/uwsgi; scgi_temp_path $PWD/nginx/scgi;
    server { listen 0.0.0.0:8080; root $PWD/www; }
}
END
    server web 'start worker process ' \
        sipbox run --as web -- nginx -e stderr -g 'daemon off;' -p "$PWD/nginx" -c "$PWD/nginx/nginx.conf" &&
        client sipbox run --map web.test:80=web -- curl -sS --fail http://web.test/ &&
        grep -q 'hello over SIP' client.out &&
        wait_for web.log 'GET / HTTP' &&
        show_server web 1
}

udp_pair() {
    server udp 'listening on' sipbox run --as udp -- udp-server 7001 &&
        client sipbox run --to udp -- udp-client unconnected 198.18.0.9 7001 10 &&
        show_server udp
}

pair 'static pair' static_pair TCP
pair 'redis' redis TCP
pair 'nginx + curl' web TCP
pair 'UDP' udp_pair UDP

echo
echo "demo: $passed passed, $failed failed: ${summary#, }"
[ $failed = 0 ]
