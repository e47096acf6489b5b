/* accept(2). */
#include "c.h"
#define GROUP "accept"

CASE(nothing_there, TCP) {
    nonblocking = true;
    int l = listener();
    R(accept(l, NULL, NULL));
    R(accept4(l, NULL, NULL, SOCK_NONBLOCK));
    R(accept4(l, NULL, NULL, 0x80));
    show_poll_now(l);
}

CASE(with_timeout, TCP) {
    int l = listener();
    struct timeval t = {0, 60000};
    MUST(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    double start = now_ms();
    R(accept(l, NULL, NULL));
    say("waited: %s", now_ms() - start >= 55 ? "yes" : "no");
}

static int knock(int l) {
    struct address at = local_of(l);
    int c = fresh_blocking();
    MUST(connect(c, &at.any, at.len));
    await(l, POLLIN);
    return c;
}

CASE(flags, TCP | MODES) {
    int l = listener();
    for (int i = 0; i < 4; i++) {
        knock(l);
        int flags = (i & 1 ? SOCK_NONBLOCK : 0) | (i & 2 ? SOCK_CLOEXEC : 0);
        int s = (int)R(accept4(l, NULL, NULL, flags));
        R(!!(fcntl(s, F_GETFL) & O_NONBLOCK));
        R(fcntl(s, F_GETFD));
    }
    knock(l);
    int s = (int)R(accept(l, NULL, NULL));
    R(!!(fcntl(s, F_GETFL) & O_NONBLOCK));
    R(fcntl(s, F_GETFD));
}

CASE(address, TCP) {
    int l = listener();
    for (socklen_t given = 0; given <= 40; given += 4) {
        knock(l);
        struct address a;
        memset(&a, 0x55, sizeof a);
        socklen_t len = given;
        R(accept(l, &a, &len) > 0);
        say("given %u, told %u, family %x, byte behind %x", given, len, a.any.sa_family,
            ((unsigned char *)&a)[given < len ? given : len]);
    }
}

CASE(bad_address, TCP) {
    int l = listener();
    struct address a;
    knock(l);
    R(accept(l, &a, NULL));
    knock(l);
    R(accept(l, &a, 8));
    knock(l);
    R(accept(l, 8, len_of(16)));
    knock(l);
    R(accept(l, 8, len_of(0)));
    knock(l);
    R(accept(l, &a, len_of(-1)));
    knock(l);
    R(accept(l, NULL, 8));
    R(recv(l, &a, 1, MSG_DONTWAIT));
    nonblocking = true;
    set_mode(l);
    /* What a failed accept() took is gone. */
    R(accept(l, NULL, NULL));
}

CASE(not_a_listener, INET | LOCAL) {
    R(accept(fresh(), NULL, NULL));
    R(accept(bound(), NULL, NULL));
    int two[2];
    make_pair(two);
    R(accept(two[0], NULL, NULL));
    R(accept4(two[1], NULL, NULL, SOCK_CLOEXEC));
    R(accept4(two[1], NULL, NULL, 7));
}

CASE(reset_in_the_queue, TCP) {
    int l = listener(), c = knock(l);
    struct linger now = {1, 0};
    MUST(setsockopt(c, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    R(close(c));
    struct address a = {.len = sizeof a.room};
    int s = (int)R(accept(l, &a, &a.len));
    show_address("from", &a);
    show_poll(s, POLLIN);
    char in[4];
    R(recv(s, in, 4, 0));
    R(recv(s, in, 4, 0));
    show_names(s);
}

CASE(closed_in_the_queue, TCP) {
    int l = listener(), c = knock(l);
    R(send(c, "bye", 3, 0));
    R(close(c));
    struct address a = {.len = sizeof a.room};
    int s = (int)R(accept(l, &a, &a.len));
    show_address("from", &a);
    char in[8];
    await(s, POLLIN);
    show_data("received", in, R(recv(s, in, 8, 0)));
    R(recv(s, in, 8, 0));
    show_names(s);
}

CASE(no_descriptor_left, TCP) {
    int l = listener(), c = knock(l);
    struct rlimit limit = {(rlim_t)c + 1, 64}, more = {64, 64};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    R(accept(l, NULL, NULL));
    MUST(setrlimit(RLIMIT_NOFILE, &more));
    nonblocking = true;
    set_mode(l);
    R(accept(l, NULL, NULL));
}

CASE(inherited_options, TCP) {
    int l = listener(), idle = 77, size = 20000;
    MUST(set_int(l, IPPROTO_TCP, TCP_NODELAY, 1));
    MUST(set_int(l, SOL_SOCKET, SO_KEEPALIVE, 1));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_KEEPIDLE, &idle, 4));
    MUST(setsockopt(l, SOL_SOCKET, SO_SNDBUF, &size, 4));
    struct linger linger = {1, 9};
    MUST(setsockopt(l, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    knock(l);
    int s = (int)R(accept(l, NULL, NULL));
    OPTION(s, IPPROTO_TCP, TCP_NODELAY);
    OPTION(s, SOL_SOCKET, SO_KEEPALIVE);
    OPTION(s, IPPROTO_TCP, TCP_KEEPIDLE);
    OPTION(s, SOL_SOCKET, SO_SNDBUF);
    OPTION(s, SOL_SOCKET, SO_REUSEADDR);
    OPTION(s, SOL_SOCKET, SO_LINGER);
    OPTION(s, SOL_SOCKET, SO_ACCEPTCONN);
}

CASE(in_order, TCP) {
    int l = listener();
    struct address from[3];
    for (int i = 0; i < 3; i++) from[i] = local_of(knock(l));
    for (int i = 0; i < 3; i++) {
        struct address a = {.len = sizeof a.room};
        R(accept(l, &a, &a.len) > 0);
        say("the %dth caller: %s", i, same_address(&a, &from[i]) ? "yes" : "no");
    }
}
