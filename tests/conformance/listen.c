/* listen(2). */
#include "c.h"
#define GROUP "listen"

CASE(unbound, TCP | MODES) {
    int l = fresh();
    R(listen(l, 1));
    show_names(l);
    OPTION(l, SOL_SOCKET, SO_ACCEPTCONN);
    show_tcp_state(l);
    show_poll_now(l);
    struct address at = local_of(l), to = loopback(port_of(&at));
    int c = fresh();
    R(connect(c, &to, to.len));
    int s = take(l);
    show_names(s);
}

CASE(twice, TCP) {
    int l = bound();
    R(listen(l, 1));
    R(listen(l, 5));
    R(listen(l, 0));
    show_names(l);
}

CASE(backlogs, TCP) {
    R(listen(bound(), 0));
    R(listen(bound(), -1));
    R(listen(bound(), 0x7fffffff));
    R(listen(bound(), 0x80000000));
}

CASE(datagram, UDP | UNIXD) { R(listen(bound(), 1)); }

CASE(connected, TCP) {
    int two[2];
    make_pair(two);
    R(listen(two[0], 1));
    R(listen(two[1], 1));
}

CASE(shut_down, TCP) {
    int l = listener();
    struct address at = local_of(l);
    R(shutdown(l, SHUT_WR));
    show_poll_now(l);
    OPTION(l, SOL_SOCKET, SO_ACCEPTCONN);
    R(shutdown(l, SHUT_RD));
    show_poll_now(l);
    OPTION(l, SOL_SOCKET, SO_ACCEPTCONN);
    show_tcp_state(l);
    R(accept(l, NULL, NULL));
    int c = fresh();
    R(connect(c, &at, at.len));
    show_names(l);
    R(listen(l, 1));
    at = local_of(l);
    show_names(l);
    at = loopback(port_of(&at));
    c = fresh();
    R(connect(c, &at, at.len));
    int s = take(l);
    show_names(s);
}

CASE(shut_down_and_connected, TCP) {
    int l = listener(), other = listener();
    struct address at = local_of(other);
    R(shutdown(l, SHUT_RDWR));
    R(connect(l, &at, at.len));
    show_names(l);
}

CASE(closed_with_a_queue, TCP) {
    int l = listener(), c = fresh_blocking();
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
    R(close(l));
    show_poll(c, POLLIN);
    char in[4];
    R(recv(c, in, 4, 0));
    R(recv(c, in, 4, 0));
}

CASE(by_a_child, TCP) {
    int l = bound();
    struct address at = local_of(l);
    pid_t child = fork();
    if (!child) {
        R(listen(l, 1));
        exit(0);
    }
    expect_success(child);
    int c = fresh();
    R(connect(c, &at, at.len));
    int s = take(l);
    show_names(s);
}

CASE(two_share_a_port, TCP) {
    int a = fresh(), b = fresh();
    MUST(set_int(a, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(set_int(b, SOL_SOCKET, SO_REUSEPORT, 1));
    struct address at = loopback(0);
    R(bind(a, &at, at.len));
    at = local_of(a);
    R(bind(b, &at, at.len));
    R(listen(a, 64));
    R(listen(b, 64));
    set_mode(a);
    int got = 0;
    for (int i = 0; i < 40; i++) {
        int c = fresh_blocking();
        MUST(connect(c, &at, at.len));
    }
    for (int i = 0; i < 40; i++) {
        struct pollfd p[2] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
        MUST(poll(p, 2, 5000));
        int from = p[0].revents ? a : b;
        got |= from == a ? 1 : 2;
        MUST(accept(from, NULL, NULL));
    }
    say("both took some: %s", got == 3 ? "yes" : "no");
    R(close(a));
    for (int i = 0; i < 5; i++) R(connect(fresh_blocking(), &at, at.len));
    for (int i = 0; i < 5; i++) R(accept(b, NULL, NULL) > 0);
}

CASE(duplicate_closed, TCP) {
    int l = listener(), other = (int)MUST(dup(l));
    struct address at = local_of(l);
    R(close(l));
    R(connect(fresh(), &at, at.len));
    int s = take(other);
    show_names(s);
}
