/* getsockname(2), getpeername(2). */
#include "c.h"
#define GROUP "names"

/* What a bind() that finds its port taken has sipbox look for: which sockets are gone. */
static void look_for_the_dead(void) {
    struct address a = loopback(0);
    int first = fresh();
    MUST(bind(first, &a, a.len));
    a = local_of(first);
    usleep(60000);
    R(bind(fresh(), &a, a.len));
    MUST(close(first));
}

/* Connections that were reset, and listeners that were shut down, keep their names while they are open. */
CASE(kept_of_what_is_dead, TCP) {
    int two[2], l = listener();
    struct linger now = {1, 0};
    make_pair(two);
    MUST(setsockopt(two[1], SOL_SOCKET, SO_LINGER, &now, sizeof now));
    MUST(close(two[1]));
    await(two[0], POLLIN);
    R(shutdown(l, SHUT_RDWR));
    show_names(two[0]);
    show_names(l);
    look_for_the_dead();
    show_names(two[0]);
    show_names(l);
    show_error(two[0]);
    show_names(two[0]);
}

static void lengths(bool peer) {
    int two[2];
    make_pair(two);
    static const int given[] = {0, 1, 2, 4, 8, 15, 16, 17, 24, 27, 28, 29, 128, 4096, 0x7fffffff};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        struct address a;
        memset(&a, 0x55, sizeof a);
        socklen_t len = (socklen_t)given[i];
        if (peer) R(getpeername(two[0], &a, &len));
        else R(getsockname(two[0], &a, &len));
        unsigned end = (unsigned)given[i] < len ? (unsigned)given[i] : len;
        say("given %d, told %u, family %x, byte behind %x", given[i], len, a.any.sa_family, ((unsigned char *)&a)[end]);
    }
}
CASE(lengths, INET | LOCAL) { lengths(false); }
CASE(lengths_of_peer, INET | LOCAL) { lengths(true); }

CASE(negative_length, INET | LOCAL) {
    int two[2];
    make_pair(two);
    struct address a;
    R(getsockname(two[0], &a, len_of(-1)));
    R(getpeername(two[0], &a, len_of(-1)));
    R(getsockname(two[0], &a, len_of(0x80000000)));
}

CASE(pointers, INET | LOCAL) {
    int two[2];
    make_pair(two);
    struct address a;
    R(getsockname(two[0], NULL, NULL));
    R(getsockname(two[0], &a, NULL));
    R(getsockname(two[0], NULL, len_of(0)));
    R(getsockname(two[0], NULL, len_of(16)));
    R(getsockname(two[0], 8, len_of(16)));
    R(getsockname(two[0], &a, 8));
    R(getpeername(two[0], NULL, NULL));
    R(getpeername(two[0], NULL, len_of(0)));
    R(getpeername(two[0], 8, len_of(16)));
    R(getpeername(two[0], &a, 8));
    char *room = edge(8);
    R(getsockname(two[0], room, len_of(8)));
    R(getsockname(two[0], room, len_of(16)));
    R(getsockname(two[0], room, len_of(0)));
}

CASE(not_connected, INET | LOCAL) {
    struct address a;
    R(getpeername(fresh(), &a, len_of(128)));
    R(getpeername(fresh(), NULL, NULL));
    R(getpeername(bound(), &a, len_of(-1)));
}

CASE(listener, TCP | UNIXS | UNIXQ) {
    struct address a;
    int l = listener();
    if (kind->family != AF_UNIX) show_names(l);
    R(getpeername(l, &a, len_of(128)));
}

CASE(of_the_dead, TCP) {
    int two[2];
    make_pair(two);
    close(two[1]);
    await(two[0], POLLIN);
    show_names(two[0]);
    R(send(two[0], "x", 1, MSG_NOSIGNAL));
    show_poll(two[0], POLLHUP);
    show_names(two[0]);
    show_error(two[0]);
    show_names(two[0]);
}

CASE(half_closed, TCP) {
    int two[2];
    make_pair(two);
    R(shutdown(two[0], SHUT_WR));
    show_names(two[0]);
    R(shutdown(two[1], SHUT_WR));
    await(two[0], POLLIN);
    show_names(two[1]);
    R(shutdown(two[0], SHUT_RD));
    show_names(two[0]);
}

CASE(by_a_child, INET) {
    int two[2];
    make_pair(two);
    show_names(two[0]);
    pid_t child = fork();
    if (!child) {
        show_names(two[0]);
        show_names(two[1]);
        exit(0);
    }
    expect_success(child);
}
