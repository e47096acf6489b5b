/* bind(2). */
#include "c.h"
#define GROUP "bind"

CASE(port_zero, INET | MODES) {
    int fd = fresh();
    struct address a = loopback(0);
    R(bind(fd, &a, a.len));
    show_names(fd);
    R(bind(fd, &a, a.len));
    show_poll_now(fd);
}

CASE(wildcard, INET) {
    int fd = fresh();
    struct address a = wildcard(0);
    R(bind(fd, &a, a.len));
    show_names(fd);
}

CASE(wildcard_mapped, TCPM | UDPM) {
    int fd = fresh();
    struct address a = wildcard(0);
    MUST(inet_pton(AF_INET6, "::ffff:0.0.0.0", &a.v6.sin6_addr));
    R(bind(fd, &a, a.len));
    show_names(fd);
}

CASE(chosen_port, INET) {
    struct address a = loopback(quiet_port());
    int fd = fresh(), other = fresh();
    R(bind(fd, &a, a.len));
    show_names(fd);
    R(bind(other, &a, a.len));
    R(close(fd));
    R(bind(other, &a, a.len));
    show_names(other);
}

CASE(another_loopback_address, V4 | TCPM | UDPM) {
    struct address a = loopback(quiet_port()), b = a;
    if (kind->family == AF_INET) b.v4.sin_addr.s_addr = htonl(0x7f000002);
    else b.v6.sin6_addr.s6_addr[15] = 2;
    int fd = fresh(), other = fresh();
    R(bind(fd, &a, a.len));
    R(bind(other, &b, b.len));
    show_names(other);
}

CASE(foreign_address, INET) {
    struct address a = loopback(0);
    if (kind->family == AF_INET) a.v4.sin_addr.s_addr = inet_addr("198.51.100.7");
    else if (kind->bit & (TCPM | UDPM)) MUST(inet_pton(AF_INET6, "::ffff:198.51.100.7", &a.v6.sin6_addr));
    else MUST(inet_pton(AF_INET6, "2001:db8::77", &a.v6.sin6_addr));
    int fd = fresh();
    R(bind(fd, &a, a.len));
    show_names(fd);
    a = loopback(0);
    R(bind(fd, &a, a.len));
}

CASE(multicast_and_broadcast, V4) {
    struct address a = loopback(0);
    a.v4.sin_addr.s_addr = inet_addr("239.1.2.3");
    R(bind(fresh(), &a, a.len));
    a.v4.sin_addr.s_addr = INADDR_BROADCAST;
    R(bind(fresh(), &a, a.len));
}

CASE(lengths, INET) {
    struct address a = loopback(0);
    R(bind(fresh(), &a, 0));
    R(bind(fresh(), &a, 1));
    R(bind(fresh(), &a, 2));
    R(bind(fresh(), &a, 8));
    R(bind(fresh(), &a, 15));
    R(bind(fresh(), &a, 16));
    R(bind(fresh(), &a, 23));
    R(bind(fresh(), &a, 24));
    R(bind(fresh(), &a, 27));
    R(bind(fresh(), &a, 28));
    R(bind(fresh(), &a, 128));
    R(bind(fresh(), &a, 129));
    R(bind(fresh(), &a, -1));
    R(bind(fresh(), &a, 0x80000000));
    R(bind(fresh(), &a, 0x100000010));
}

CASE(pointers, INET) {
    struct address a = loopback(0);
    int fd = fresh();
    R(bind(fd, NULL, a.len));
    R(bind(fd, 8, a.len));
    R(bind(fd, -1, a.len));
    R(bind(fd, NULL, 0));
    R(bind(fd, 8, 129));
    char *room = edge(a.len);
    memcpy(room, &a, a.len);
    R(bind(fd, room, a.len + 1));
    R(bind(fd, room + 1, a.len));
    R(bind(fd, room, a.len));
    show_names(fd);
}

CASE(wrong_family, INET) {
    struct address a = other_family(0);
    R(bind(fresh(), &a, a.len));
    R(bind(fresh(), &a, 28));
    a = loopback(0);
    a.any.sa_family = 99;
    R(bind(fresh(), &a, a.len));
    a.any.sa_family = AF_UNIX;
    R(bind(fresh(), &a, a.len));
    a.any.sa_family = 0xffff;
    R(bind(fresh(), &a, a.len));
}

CASE(unspecified_family, INET) {
    struct address a = wildcard(0);
    a.any.sa_family = AF_UNSPEC;
    int fd = fresh();
    R(bind(fd, &a, a.len));
    show_names(fd);
    a = loopback(0);
    a.any.sa_family = AF_UNSPEC;
    R(bind(fresh(), &a, a.len));
    R(bind(fresh(), &a, 2));
}

/* Two sockets, one port: who may have it. */
static void share(struct address one, struct address two, int option_one, int option_two) {
    int port = quiet_port();
    int a = fresh(), b = fresh();
    if (option_one) MUST(set_int(a, SOL_SOCKET, option_one, 1));
    if (option_two) MUST(set_int(b, SOL_SOCKET, option_two, 1));
    if (one.any.sa_family == AF_INET) one.v4.sin_port = htons((uint16_t)port);
    else one.v6.sin6_port = htons((uint16_t)port);
    if (two.any.sa_family == AF_INET) two.v4.sin_port = htons((uint16_t)port);
    else two.v6.sin6_port = htons((uint16_t)port);
    R(bind(a, &one, one.len));
    R(bind(b, &two, two.len));
    if (kind->type == SOCK_STREAM) {
        R(listen(a, 1));
        R(listen(b, 1));
    }
    int c = fresh();
    if (option_two) MUST(set_int(c, SOL_SOCKET, option_two, 1));
    R(bind(c, &two, two.len));
    close(a), close(b), close(c);
}
#define SHARE(name, one, two, x, y)                                                                                  \
    CASE(name, INET) { share(one(0), two(0), x, y); }
SHARE(same_address, loopback, loopback, 0, 0)
SHARE(same_address_reuse_one, loopback, loopback, SO_REUSEADDR, 0)
SHARE(same_address_reuse_other, loopback, loopback, 0, SO_REUSEADDR)
SHARE(same_address_reuse, loopback, loopback, SO_REUSEADDR, SO_REUSEADDR)
SHARE(same_address_reuseport, loopback, loopback, SO_REUSEPORT, SO_REUSEPORT)
SHARE(same_address_reuse_mixed, loopback, loopback, SO_REUSEPORT, SO_REUSEADDR)
SHARE(specific_then_wildcard, loopback, wildcard, 0, 0)
SHARE(wildcard_then_specific, wildcard, loopback, 0, 0)
SHARE(specific_then_wildcard_reuse, loopback, wildcard, SO_REUSEADDR, SO_REUSEADDR)
SHARE(wildcard_then_specific_reuse, wildcard, loopback, SO_REUSEADDR, SO_REUSEADDR)
SHARE(wildcard_then_specific_reuseport, wildcard, loopback, SO_REUSEPORT, SO_REUSEPORT)
SHARE(wildcards, wildcard, wildcard, 0, 0)
SHARE(wildcards_reuseport, wildcard, wildcard, SO_REUSEPORT, SO_REUSEPORT)

static struct address plain_v4(int port) { return loopback_v4(port); }

/* A socket of the kind against one of AF_INET. */
static void against_v4(struct address one, struct address two, int v6only, int reuse) {
    int port = quiet_port(), a = fresh(), b = (int)MUST(socket(AF_INET, kind->type, 0));
    if (v6only >= 0) R(set_int(a, IPPROTO_IPV6, IPV6_V6ONLY, v6only));
    if (reuse) MUST(set_int(a, SOL_SOCKET, reuse, 1)), MUST(set_int(b, SOL_SOCKET, reuse, 1));
    one.v6.sin6_port = two.v4.sin_port = htons((uint16_t)port);
    R(bind(a, &one, one.len));
    R(bind(b, &two, two.len));
    show_names(a), show_names(b);
    if (kind->type == SOCK_STREAM) {
        R(listen(a, 1));
        R(listen(b, 1));
    }
}
#define V6_KINDS (TCP6 | TCPM | UDP6 | UDPM)
CASE(dual_wildcard_against_v4_wildcard, TCP6 | UDP6) { against_v4(any_v6(0), any_v4(0), 0, 0); }
CASE(v6only_wildcard_against_v4_wildcard, TCP6 | UDP6) { against_v4(any_v6(0), any_v4(0), 1, 0); }
CASE(dual_wildcard_against_v4_loopback, TCP6 | UDP6) { against_v4(any_v6(0), plain_v4(0), 0, 0); }
CASE(v6only_wildcard_against_v4_loopback, TCP6 | UDP6) { against_v4(any_v6(0), plain_v4(0), 1, 0); }
CASE(v6_loopback_against_v4_wildcard, TCP6 | UDP6) { against_v4(loopback(0), any_v4(0), -1, 0); }
CASE(mapped_against_v4_loopback, TCPM | UDPM) { against_v4(loopback(0), plain_v4(0), -1, 0); }
CASE(mapped_against_v4_wildcard, TCPM | UDPM) { against_v4(loopback(0), any_v4(0), -1, 0); }
CASE(dual_wildcard_against_v4_wildcard_reuse, TCP6 | UDP6) { against_v4(any_v6(0), any_v4(0), 0, SO_REUSEADDR); }
CASE(dual_wildcard_against_v4_wildcard_reuseport, TCP6 | UDP6) { against_v4(any_v6(0), any_v4(0), 0, SO_REUSEPORT); }
CASE(mapped_against_v4_loopback_reuseport, TCPM | UDPM) { against_v4(loopback(0), plain_v4(0), -1, SO_REUSEPORT); }

CASE(v6only, V6_KINDS) {
    int fd = fresh();
    OPTION(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    R(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    OPTION(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    R(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 77));
    OPTION(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    struct address a = loopback(0);
    R(bind(fd, &a, a.len));
    OPTION(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    R(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
    R(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
}

CASE(v6only_of_others, V4 | LOCAL) {
    int fd = fresh(), value = 1;
    OPTION(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    R(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, 2));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, 8, 4));
}

CASE(v6only_lengths, TCP6 | UDP6) {
    int fd = fresh();
    long value = 1;
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, 0));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, 3));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, 8));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, -1));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, NULL, 4));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, 8, 4));
    socklen_t len = 2;
    value = -1;
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &len));
    say("%lx, length %u", value, len);
    len = 0;
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &len));
    len = 8;
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &len));
    say("length %u", len);
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, NULL));
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, 8, len_of(4)));
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, len_of(-1)));
}

CASE(flow_and_scope, TCP6 | UDP6) {
    struct address a = loopback(0);
    a.v6.sin6_flowinfo = htonl(0x12345);
    a.v6.sin6_scope_id = 1;
    int fd = fresh();
    R(bind(fd, &a, a.len));
    show_names(fd);
}

CASE(connected, INET) {
    int two[2];
    make_pair(two);
    struct address a = loopback(0);
    R(bind(two[0], &a, a.len));
    R(bind(two[1], &a, a.len));
}

CASE(listening, TCP) {
    int fd = fresh();
    R(listen(fd, 1));
    struct address a = loopback(0);
    R(bind(fd, &a, a.len));
}

CASE(by_duplicate_and_child, INET) {
    int fd = fresh(), other = (int)MUST(dup(fd));
    struct address a = loopback(0);
    R(bind(other, &a, a.len));
    R(close(other));
    R(bind(fd, &a, a.len));
    show_names(fd);
    struct address at = local_of(fd);
    pid_t child = fork();
    if (!child) {
        show_names(fd);
        exit(0);
    }
    expect_success(child);
    R(close(fd));
    fd = fresh();
    R(bind(fd, &at, at.len));
}

CASE(port_kept_by_child, INET) {
    int fd = bound(), tell[2];
    struct address at = local_of(fd);
    MUST(pipe(tell));
    pid_t child = fork();
    if (!child) {
        close(tell[1]);
        char byte;
        exit(read(tell[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(fd);
    R(bind(fresh(), &at, at.len));
    close(tell[1]), close(tell[0]);
    expect_success(child);
    R(bind(fresh(), &at, at.len));
}

CASE(after_the_connection, TCP) {
    int l = bound();
    MUST(set_int(l, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(listen(l, 1));
    struct address at = local_of(l);
    int c = fresh_blocking();
    MUST(connect(c, &at, at.len));
    int s = take(l);
    /* The server's end is closed first: it is in TIME_WAIT afterwards. */
    R(close(l));
    R(close(s));
    show_poll(c, 0x2000);
    R(close(c));
    int again = fresh();
    MUST(set_int(again, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(again, &at, at.len));
    R(listen(again, 1));
}

CASE(in_time_wait, TCP) {
    int l = listener();
    struct address at = local_of(l);
    int c = fresh_blocking();
    MUST(connect(c, &at, at.len));
    int s = take(l);
    close(l), close(s);
    await(c, POLLIN);
    close(c);
    R(bind(fresh(), &at, at.len));
}

CASE(with_a_connection_left, TCP) {
    int l = bound();
    MUST(set_int(l, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(listen(l, 1));
    struct address at = local_of(l);
    int c = fresh_blocking();
    MUST(connect(c, &at, at.len));
    take(l);
    R(close(l));
    R(bind(fresh(), &at, at.len));
    int again = fresh();
    MUST(set_int(again, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(again, &at, at.len));
    R(listen(again, 1));
}

CASE(after_a_reset, TCP) {
    int l = listener();
    struct address at = local_of(l);
    int c = fresh_blocking();
    MUST(connect(c, &at, at.len));
    int s = take(l);
    struct linger now = {1, 0};
    MUST(setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(l), close(s);
    R(bind(fresh(), &at, at.len));
}

CASE(low_port, INET) {
    struct address a = loopback(81);
    R(bind(fresh(), &a, a.len));
}
