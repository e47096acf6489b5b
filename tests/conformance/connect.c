/* connect(2). */
#include "c.h"
#define GROUP "connect"

CASE(to_own_listener, TCP | MODES) {
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
    show_poll(c, POLLOUT);
    show_names(c);
    int s = take(l);
    show_names(s);
    show_tcp_state(c), show_tcp_state(s), show_tcp_state(l);
    R(send(c, "hello", 5, 0));
    char in[8];
    await(s, POLLIN);
    show_data("received", in, R(recv(s, in, 8, 0)));
}

CASE(nobody_there, TCP | MODES) {
    struct address at = loopback(quiet_port());
    int c = fresh();
    R(connect(c, &at, at.len));
    show_poll_now(c);
    show_error(c);
    show_names(c);
    R(connect(c, &at, at.len));
    show_error(c);
    show_error(c);
}

CASE(refused_then_connected, TCP | MODES) {
    struct address at = loopback(quiet_port());
    int c = fresh(), l = fresh();
    R(connect(c, &at, at.len));
    show_error(c);
    MUST(bind(l, &at, at.len));
    MUST(listen(l, 1));
    R(connect(c, &at, at.len));
    show_poll(c, POLLOUT);
    show_error(c);
    show_names(c);
}

CASE(bound_but_not_listening, TCP | MODES) {
    int b = bound(), c = fresh();
    struct address at = local_of(b);
    R(connect(c, &at, at.len));
    show_error(c);
}

CASE(to_a_wildcard, TCP | MODES) {
    int l = listener(), c = fresh();
    struct address at = local_of(l), to = wildcard(port_of(&at));
    R(connect(c, &to, to.len));
    if (kind->bit & TCP4) show_names(c);
    show_poll_now(c);
    show_error(c);
}

CASE(to_a_wildcard_listener, TCP | MODES) {
    int l = fresh(), c = fresh();
    struct address a = wildcard(0);
    MUST(bind(l, &a, a.len));
    MUST(listen(l, 1));
    a = local_of(l);
    show_address("listens", &a);
    struct address to = loopback(port_of(&a));
    R(connect(c, &to, to.len));
    show_poll(c, POLLOUT);
    show_names(c);
    int s = take(l);
    show_names(s);
}

CASE(to_any_loopback_address, TCP4 | TCPM) {
    int l = fresh(), c = fresh();
    struct address a = wildcard(0);
    MUST(bind(l, &a, a.len));
    MUST(listen(l, 1));
    a = local_of(l);
    struct address to = loopback(port_of(&a));
    if (kind->family == AF_INET) to.v4.sin_addr.s_addr = htonl(0x7f010203);
    else memcpy(to.v6.sin6_addr.s6_addr + 12, "\x7f\x01\x02\x03", 4);
    R(connect(c, &to, to.len));
    show_names(c);
    int s = take(l);
    show_names(s);
}

CASE(from_a_chosen_address, TCP | MODES) {
    int l = listener(), c = bound();
    struct address at = local_of(l);
    show_names(c);
    R(connect(c, &at, at.len));
    show_poll(c, POLLOUT);
    show_names(c);
    int s = take(l);
    show_names(s);
}

CASE(from_another_loopback_address, TCP4 | TCPM) {
    int l = listener(), c = fresh();
    struct address at = local_of(l), from = loopback(0);
    if (kind->family == AF_INET) from.v4.sin_addr.s_addr = htonl(0x7f000005);
    else from.v6.sin6_addr.s6_addr[15] = 5;
    R(bind(c, &from, from.len));
    R(connect(c, &at, at.len));
    show_names(c);
    int s = take(l);
    show_names(s);
}

CASE(twice, TCP) {
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
    R(connect(c, &at, at.len));
    R(connect(c, &at, 2));
    R(connect(c, &at, 1));
    R(connect(c, 8, at.len));
    struct address elsewhere = loopback(quiet_port());
    R(connect(c, &elsewhere, elsewhere.len));
    elsewhere = other_family(9);
    R(connect(c, &elsewhere, elsewhere.len));
}

CASE(twice_without_blocking, TCP) {
    nonblocking = true;
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
    await(c, POLLOUT);
    R(connect(c, &at, at.len));
    R(connect(c, &at, at.len));
    show_error(c);
}

CASE(so_error_then_twice, TCP) {
    nonblocking = true;
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
    await(c, POLLOUT);
    show_error(c);
    R(connect(c, &at, at.len));
    R(connect(c, &at, at.len));
}

CASE(queue_is_full, TCP) {
    nonblocking = true;
    int l = bound(), c[4];
    MUST(listen(l, 0));
    struct address at = local_of(l);
    for (int i = 0; i < 3; i++) c[i] = fresh();
    R(connect(c[0], &at, at.len));
    await(c[0], POLLOUT);
    R(connect(c[1], &at, at.len));
    show_poll_now(c[1]);
    show_error(c[1]);
    show_tcp_state(c[1]);
    R(connect(c[1], &at, at.len));
    show_names(c[1]);
    char in[4];
    R(recv(c[1], in, 4, 0));
    R(send(c[1], in, 4, 0));
    R(listen(c[1], 1));
    R(bind(c[1], &at, at.len));
    int s = take(l);
    show_names(s);
    /* The SYN comes again after a second, and then there is room. */
    show_poll(c[1], POLLOUT);
    R(connect(c[1], &at, at.len));
    R(connect(c[1], &at, at.len));
}

CASE(under_way_and_shut_down, TCP) {
    nonblocking = true;
    int l = bound(), c[2] = {fresh(), fresh()};
    MUST(listen(l, 0));
    struct address at = local_of(l);
    R(connect(c[0], &at, at.len));
    await(c[0], POLLOUT);
    R(connect(c[1], &at, at.len));
    R(shutdown(c[1], SHUT_RDWR));
    show_poll_now(c[1]);
    show_error(c[1]);
    show_tcp_state(c[1]);
    at = loopback(quiet_port());
    R(connect(c[1], &at, at.len));
}

CASE(under_way_and_dissolved, TCP) {
    nonblocking = true;
    int l = bound(), c[2] = {fresh(), fresh()};
    MUST(listen(l, 0));
    struct address at = local_of(l), none = {.len = 16};
    R(connect(c[0], &at, at.len));
    await(c[0], POLLOUT);
    R(connect(c[1], &at, at.len));
    R(connect(c[1], &none, none.len));
    show_poll_now(c[1]);
    show_error(c[1]);
    show_names(c[1]);
}

CASE(blocking_with_timeout, TCP) {
    int l = bound(), c[2] = {fresh(), fresh()};
    MUST(listen(l, 0));
    struct address at = local_of(l);
    struct timeval t = {0, 100000};
    R(connect(c[0], &at, at.len));
    MUST(setsockopt(c[1], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
    double start = now_ms();
    R(connect(c[1], &at, at.len));
    say("waited: %s", now_ms() - start >= 90 ? "yes" : "no");
    show_tcp_state(c[1]);
    R(connect(c[1], &at, at.len));
    show_names(c[1]);
}

CASE(itself, TCP | MODES) {
    int c = bound();
    struct address at = local_of(c);
    R(connect(c, &at, at.len));
    show_poll_now(c);
    show_error(c);
    show_names(c);
    R(send(c, "me", 2, MSG_NOSIGNAL));
    char in[4];
    show_data("received", in, R(recv(c, in, 4, MSG_DONTWAIT)));
}

CASE(unspecified, INET) {
    int c = fresh();
    struct address none = {.len = 16};
    R(connect(c, &none, none.len));
    R(connect(c, &none, 2));
    R(connect(c, &none, 1));
    show_names(c);
}

CASE(unspecified_when_bound, INET) {
    int c = bound();
    struct address none = {.len = 16};
    R(connect(c, &none, none.len));
    show_names(c);
    struct address a = loopback(0);
    R(bind(c, &a, a.len));
}

CASE(unspecified_when_connected, INET) {
    int two[2];
    make_pair(two);
    struct address none = {.len = 16};
    R(connect(two[0], &none, none.len));
    show_names(two[0]);
    show_poll_now(two[0]);
    char in[4];
    if (kind->type == SOCK_STREAM) {
        show_poll(two[1], POLLIN);
        R(recv(two[1], in, 4, 0));
    }
    int l = kind->type == SOCK_STREAM ? listener() : bound();
    struct address at = local_of(l);
    R(connect(two[0], &at, at.len));
    show_names(two[0]);
}

CASE(unspecified_when_listening, TCP) {
    int l = listener();
    struct address at = local_of(l), none = {.len = 16};
    R(connect(l, &none, none.len));
    show_names(l);
    OPTION(l, SOL_SOCKET, SO_ACCEPTCONN);
    R(connect(fresh(), &at, at.len));
    R(accept(l, NULL, NULL));
}

CASE(while_listening, TCP) {
    int l = listener();
    struct address at = local_of(l);
    R(connect(l, &at, at.len));
    at = loopback(quiet_port());
    R(connect(l, &at, at.len));
}

CASE(lengths, INET | MODES) {
    int l = kind->type == SOCK_STREAM ? listener() : bound();
    struct address at = local_of(l);
    R(connect(fresh(), &at, 0));
    R(connect(fresh(), &at, 1));
    R(connect(fresh(), &at, 2));
    R(connect(fresh(), &at, 15));
    R(connect(fresh(), &at, 16));
    R(connect(fresh(), &at, 23));
    R(connect(fresh(), &at, 24));
    R(connect(fresh(), &at, 27));
    R(connect(fresh(), &at, 28));
    R(connect(fresh(), &at, 128));
    R(connect(fresh(), &at, 129));
    R(connect(fresh(), &at, -1));
}

CASE(pointers, INET) {
    struct address at = loopback(9);
    int c = fresh();
    R(connect(c, NULL, at.len));
    R(connect(c, 8, at.len));
    R(connect(c, -4096, at.len));
    char *room = edge(at.len);
    memcpy(room, &at, at.len);
    R(connect(c, room, at.len + 4));
    R(connect(c, room + 4, at.len));
}

CASE(wrong_family, INET) {
    struct address a = other_family(9);
    R(connect(fresh(), &a, 28));
    a = loopback(9);
    a.any.sa_family = 99;
    R(connect(fresh(), &a, a.len));
    a.any.sa_family = AF_UNIX;
    R(connect(fresh(), &a, a.len));
}

CASE(port_zero, INET) {
    struct address a = loopback(0);
    int c = fresh();
    R(connect(c, &a, a.len));
    show_names(c);
}

CASE(addresses_of_no_host, TCP4 | TCP6) {
    struct address a = loopback(7);
    if (a.any.sa_family == AF_INET6) {
        inet_pton(AF_INET6, "ff05::1", &a.v6.sin6_addr);
        R(connect(fresh(), &a, a.len));
        return;
    }
    for (const char *const *to = (const char *const[]){"224.0.0.1", "239.1.2.3", "255.255.255.255", "127.255.255.255", NULL}; *to; to++) {
        a.v4.sin_addr.s_addr = inet_addr(*to);
        R(connect(fresh(), &a, a.len));
    }
}

CASE(v6only_to_mapped, TCPM | UDPM) {
    int l = kind->type == SOCK_STREAM ? listener() : bound(), c = fresh();
    MUST(set_int(c, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
}

CASE(v4_to_dual_listener, TCP4) {
    int l = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0)), c = fresh();
    struct address a = any_v6(0);
    MUST(bind(l, &a, a.len));
    MUST(listen(l, 1));
    a = local_of(l);
    struct address to = loopback(port_of(&a));
    R(connect(c, &to, to.len));
    int s = (int)MUST(accept(l, NULL, NULL));
    show_names(c), show_names(s);
}

CASE(mapped_to_v4_listener, TCPM) {
    int l = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), c = fresh();
    struct address a = loopback_v4(0);
    MUST(bind(l, &a, a.len));
    MUST(listen(l, 1));
    a = local_of(l);
    struct address to = loopback(port_of(&a));
    R(connect(c, &to, to.len));
    int s = (int)MUST(accept(l, NULL, NULL));
    show_names(c), show_names(s);
}

CASE(v6_to_v6only_listener, TCP6) {
    int l = fresh(), c = fresh(), d = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(set_int(l, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    struct address a = any_v6(0);
    MUST(bind(l, &a, a.len));
    MUST(listen(l, 1));
    a = local_of(l);
    struct address to = loopback(port_of(&a)), v4 = loopback_v4(port_of(&a));
    R(connect(c, &to, to.len));
    R(connect(d, &v4, v4.len));
    int s = take(l);
    show_names(c), show_names(s);
}

CASE(datagram, UDP | MODES) {
    int a = bound(), b = fresh();
    struct address at = local_of(a);
    R(connect(b, &at, at.len));
    show_names(b);
    R(connect(b, &at, at.len));
    R(send(b, "one", 3, 0));
    struct address from = {.len = sizeof from.room};
    char in[8];
    await(a, POLLIN);
    show_data("received", in, R(recvfrom(a, in, 8, 0, &from, &from.len)));
    show_address("from", &from);
    R(sendto(a, "two", 3, 0, &from, from.len));
    await(b, POLLIN);
    show_data("received", in, R(recv(b, in, 8, 0)));
}

CASE(datagram_to_nobody, UDP) {
    struct address at = loopback(quiet_port());
    int c = fresh();
    R(connect(c, &at, at.len));
    show_names(c);
    R(send(c, "x", 1, 0));
    show_poll(c, POLLIN);
    R(send(c, "x", 1, 0));
    R(send(c, "x", 1, 0));
    show_poll(c, POLLIN);
    show_error(c);
    show_error(c);
    char in[4];
    R(recv(c, in, 4, MSG_DONTWAIT));
    R(send(c, "x", 1, 0));
    await(c, POLLIN);
    R(recv(c, in, 4, 0));
    R(recv(c, in, 4, MSG_DONTWAIT));
}

CASE(datagram_filters, UDP) {
    int a = bound(), b = bound(), c = bound();
    struct address at[3] = {local_of(a), local_of(b), local_of(c)};
    R(connect(a, &at[1], at[1].len));
    R(sendto(c, "no", 2, 0, &at[0], at[0].len));
    R(sendto(b, "yes", 3, 0, &at[0], at[0].len));
    char in[8];
    await(a, POLLIN);
    show_data("received", in, R(recv(a, in, 8, 0)));
    R(recv(a, in, 8, MSG_DONTWAIT));
    /* Now to the other one. */
    R(connect(a, &at[2], at[2].len));
    R(sendto(b, "no", 2, 0, &at[0], at[0].len));
    R(sendto(c, "yes", 3, 0, &at[0], at[0].len));
    await(a, POLLIN);
    show_data("received", in, R(recv(a, in, 8, 0)));
    R(recv(a, in, 8, MSG_DONTWAIT));
}

CASE(datagram_queued_before, UDP) {
    int a = bound(), b = bound(), c = bound();
    struct address at[3] = {local_of(a), local_of(b), local_of(c)}, from = {.len = sizeof from.room};
    R(sendto(c, "early", 5, 0, &at[0], at[0].len));
    await(a, POLLIN);
    R(connect(a, &at[1], at[1].len));
    char in[8];
    show_data("received", in, R(recvfrom(a, in, 8, MSG_DONTWAIT, &from, &from.len)));
    show_address("from", &from);
}

CASE(datagram_itself, UDP) {
    int a = bound();
    struct address at = local_of(a);
    R(connect(a, &at, at.len));
    R(send(a, "me", 2, 0));
    await(a, POLLIN);
    char in[8];
    show_data("received", in, R(recv(a, in, 8, 0)));
    show_names(a);
}

CASE(datagram_wildcard, UDP) {
    int a = fresh(), b = bound();
    struct address w = wildcard(0), at = local_of(b);
    MUST(bind(a, &w, w.len));
    show_names(a);
    R(connect(a, &at, at.len));
    show_names(a);
    struct address none = {.len = 16};
    R(connect(a, &none, 16));
    show_names(a);
}

CASE(datagram_to_wildcard, UDP) {
    int a = bound(), b = fresh();
    struct address at = local_of(a), to = wildcard(port_of(&at));
    R(connect(b, &to, to.len));
    if (kind->bit & UDP4) show_names(b);
}
