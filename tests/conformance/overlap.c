/* Sockets of one port whose addresses overlap: who hears what comes (the one whose address is nearer), and who may be there at all. */
#include "c.h"
#define GROUP "overlap"

static struct address at_port(struct address a, int port) {
    if (a.any.sa_family == AF_INET) a.v4.sin_port = htons((uint16_t)port);
    else a.v6.sin6_port = htons((uint16_t)port);
    return a;
}

/* Another address of the kind's loopback: IPv6 has only one. */
static struct address second(int port) {
    struct address a = loopback(port);
    if (a.any.sa_family == AF_INET) a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    else if (IN6_IS_ADDR_V4MAPPED(&a.v6.sin6_addr)) a.v6.sin6_addr.s6_addr[15] = 2;
    return a;
}

static void a_moment(void) { usleep(100000); }

static int of_option(int option) {
    int fd = fresh();
    MUST(set_int(fd, SOL_SOCKET, option, 1));
    return fd;
}

static void who_hears(const char *what, int from, const struct address *to, const int *members, int count) {
    MUST(sendto(from, what, 1, 0, to, to->len));
    for (int i = 0; i < count; i++) {
        char in[8];
        struct address source = {.len = sizeof source.room};
        while (recvfrom(members[i], in, sizeof in, MSG_DONTWAIT, &source, &source.len) > 0) {
            say("%s: member %d", what, i);
            show_address("from", &source);
            MUST(sendto(members[i], "back", 4, 0, &source, source.len));
        }
    }
    char in[8];
    struct address source = {.len = sizeof source.room};
    await(from, POLLIN);
    R(recvfrom(from, in, sizeof in, MSG_DONTWAIT, &source, &source.len));
}

/* Datagrams go to whose address is nearer, whoever came first; the other has the rest, and all when that one is gone. */
static void datagrams(struct address one, struct address two) {
    int port = quiet_port(), members[2] = {of_option(SO_REUSEADDR), of_option(SO_REUSEADDR)}, early = fresh(), late = fresh();
    struct address to = loopback(port), beside = second(port);
    one = at_port(one, port), two = at_port(two, port);
    R(bind(members[0], &one, one.len));
    MUST(sendto(early, "0", 1, 0, &to, to.len));
    R(bind(members[1], &two, two.len));
    show_names(members[0]), show_names(members[1]);
    char in[8];
    R(recv(members[0], in, 8, MSG_DONTWAIT));
    who_hears("early", early, &to, members, 2);
    who_hears("late", late, &to, members, 2);
    int wild = one.any.sa_family == AF_INET ? one.v4.sin_addr.s_addr == 0 : IN6_IS_ADDR_UNSPECIFIED(&one.v6.sin6_addr);
    if (kind->bit != UDP6) who_hears("beside", late, &beside, members, 2);
    R(close(members[wild]));
    who_hears("alone", late, &to, members + !wild, 1);
}
CASE(datagrams_of_wildcard_and_address, UDP) { datagrams(wildcard(0), loopback(0)); }
CASE(datagrams_of_address_and_wildcard, UDP) { datagrams(loopback(0), wildcard(0)); }

/* Connections go to the listener whose address is nearer. */
static void connections(struct address one, struct address two) {
    int port = quiet_port(), l[2] = {of_option(SO_REUSEPORT), of_option(SO_REUSEPORT)};
    struct address to = loopback(port), beside = second(port);
    one = at_port(one, port), two = at_port(two, port);
    R(bind(l[0], &one, one.len));
    R(bind(l[1], &two, two.len));
    for (int i = 0; i < 2; i++) R(listen(l[i], 8));
    int took[2] = {0};
    for (int i = 0; i < 12; i++) {
        int c = fresh_blocking();
        const struct address *at = i % 3 == 2 && kind->bit != TCP6 ? &beside : &to;
        MUST(connect(c, at, at->len));
        struct pollfd in[2] = {{l[0], POLLIN, 0}, {l[1], POLLIN, 0}};
        CHECK(poll(in, 2, 5000) == 1);
        int which = in[1].revents != 0, s = (int)MUST(accept(l[which], NULL, NULL));
        took[which]++;
        if (i < 3) show_names(s), show_names(c);
        close(c), close(s);
    }
    say("%d and %d accepted", took[0], took[1]);
}
CASE(connections_of_wildcard_and_address, TCP) { connections(wildcard(0), loopback(0)); }
CASE(connections_of_address_and_wildcard, TCP) { connections(loopback(0), wildcard(0)); }

/* Both families in one socket, and IPv4 in another one. */
CASE(listeners_of_both_and_of_v4, TCP6) {
    int port = quiet_port(), l[2] = {of_option(SO_REUSEPORT), (int)MUST(socket(AF_INET, SOCK_STREAM, 0))};
    struct address at[2] = {any_v6(port), any_v4(port)}, to[2] = {loopback_v4(port), loopback(port)};
    MUST(set_int(l[1], SOL_SOCKET, SO_REUSEPORT, 1));
    for (int i = 0; i < 2; i++) {
        R(bind(l[i], &at[i], at[i].len));
        R(listen(l[i], 8));
    }
    int took[2] = {0};
    for (int i = 0; i < 12; i++) {
        int c = (int)MUST(socket(to[i % 2].any.sa_family, SOCK_STREAM, 0));
        MUST(connect(c, &to[i % 2], to[i % 2].len));
        struct pollfd in[2] = {{l[0], POLLIN, 0}, {l[1], POLLIN, 0}};
        CHECK(poll(in, 2, 5000) == 1);
        int which = in[1].revents != 0;
        took[which]++;
        close((int)MUST(accept(l[which], NULL, NULL))), close(c);
    }
    say("%d and %d accepted", took[0], took[1]);
}

/* One connection, once: whatever the socket's address is. */
CASE(the_same_connection_twice, TCP) {
    int l = listener(), port = quiet_port(), a = fresh_blocking(), b = fresh_blocking();
    struct address to = local_of(l), near = loopback(port), wild = wildcard(port);
    MUST(set_int(a, SOL_SOCKET, SO_REUSEADDR, 1)), MUST(set_int(b, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(a, &near, near.len));
    R(bind(b, &wild, wild.len));
    R(connect(a, &to, to.len));
    R(connect(b, &to, to.len));
    R(close(a));
    show_names(take(l));
}

/* Who may listen is decided once more by listen(2). */
CASE(two_bound_one_listens, TCP) {
    int port = quiet_port(), a = of_option(SO_REUSEADDR), b = of_option(SO_REUSEADDR), c = of_option(SO_REUSEADDR);
    struct address wild = wildcard(port), near = loopback(port);
    R(bind(a, &wild, wild.len));
    R(bind(b, &near, near.len));
    R(listen(b, 4));
    R(listen(a, 4));
    R(bind(c, &near, near.len));
    R(close(b));
    R(listen(a, 4));
    R(connect(fresh_blocking(), &near, near.len));
    show_names(take(a));
}

/* Options that were taken back since bind(2) are gone for who comes next. */
CASE(options_taken_back, INET) {
    int port = quiet_port(), a = of_option(SO_REUSEADDR), b = of_option(SO_REUSEADDR), c = of_option(SO_REUSEADDR);
    struct address wild = wildcard(port), near = loopback(port);
    R(bind(a, &wild, wild.len));
    R(bind(b, &near, near.len));
    MUST(set_int(b, SOL_SOCKET, SO_REUSEADDR, 0));
    R(bind(c, &wild, wild.len));
    MUST(set_int(b, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(c, &wild, wild.len));
}

/* The third one is in the way of one of the two. */
CASE(in_the_way_of_one, INET) {
    int port = quiet_port(), a = of_option(SO_REUSEPORT), b = of_option(SO_REUSEPORT);
    struct address wild = wildcard(port), near = loopback(port), other = second(port);
    MUST(set_int(b, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(a, &near, near.len));
    R(bind(b, &wild, wild.len));
    int c = of_option(SO_REUSEADDR);
    R(bind(c, &near, near.len));
    if (!(kind->bit & (TCP6 | UDP6))) R(bind(c, &other, other.len));
    R(close(a));
    R(bind(of_option(SO_REUSEADDR), &near, near.len));
}

/* A socket beside the server's answers its clients. */
static void answers_from_beside(bool connected) {
    int port = quiet_port(), server = of_option(SO_REUSEADDR), client = fresh(), beside = of_option(SO_REUSEADDR);
    struct address at = wildcard(port), to = loopback(port);
    R(bind(server, &at, at.len));
    if (connected) MUST(connect(client, &to, to.len));
    R(connected ? send(client, "hello", 5, 0) : sendto(client, "hello", 5, 0, &to, to.len));
    char in[16];
    struct address from = {.len = sizeof from.room};
    await(server, POLLIN);
    R(recvfrom(server, in, sizeof in, MSG_DONTWAIT, &from, &from.len));
    R(bind(beside, &to, to.len));
    R(sendto(beside, "welcome", 7, 0, &from, from.len));
    await(client, POLLIN);
    struct address source = {.len = sizeof source.room};
    show_data("data", in, R(recvfrom(client, in, sizeof in, MSG_DONTWAIT, &source, &source.len)));
    show_address("from", &source);
    R(connect(beside, &from, from.len));
    R(connected ? send(client, "next", 4, 0) : sendto(client, "next", 4, 0, &to, to.len));
    await(beside, POLLIN);
    show_data("data", in, R(recv(beside, in, sizeof in, MSG_DONTWAIT)));
    show_poll_now(server);
}
CASE(answers_from_a_socket_beside, UDP) { answers_from_beside(false); }
CASE(answers_from_a_socket_beside_to_who_is_connected, UDP) { answers_from_beside(true); }

/* A server with a socket for each client, which another client speaks to just when that socket is made. */
CASE(another_client_in_between, UDP) {
    int port = quiet_port(), server = of_option(SO_REUSEADDR), client = fresh(), other = fresh(), own = of_option(SO_REUSEADDR);
    struct address at = wildcard(port), to = loopback(port), from = {.len = sizeof from.room};
    R(bind(server, &at, at.len));
    R(sendto(client, "hello", 5, 0, &to, to.len));
    char in[16];
    await(server, POLLIN);
    R(recvfrom(server, in, sizeof in, MSG_DONTWAIT, &from, &from.len));
    R(bind(own, &to, to.len));
    R(sendto(other, "stray", 5, 0, &to, to.len));
    R(connect(own, &from, from.len));
    R(sendto(client, "next", 4, 0, &to, to.len));
    R(sendto(other, "again", 5, 0, &to, to.len));
    for (int i = 0; i < 2; i++) {
        await(own, POLLIN);
        show_data("own", in, R(recv(own, in, sizeof in, MSG_DONTWAIT)));
    }
    await(server, POLLIN);
    show_data("server", in, R(recv(server, in, sizeof in, MSG_DONTWAIT)));
    R(close(server));
    a_moment();
    server = of_option(SO_REUSEADDR);
    R(bind(server, &at, at.len));
    R(sendto(client, "more", 4, 0, &to, to.len));
    await(own, POLLIN);
    show_data("own", in, R(recv(own, in, sizeof in, MSG_DONTWAIT)));
    show_poll_now(server);
}

/* The port stays when the association ends, for who sends there and for who is connected there. */
CASE(dissolved_and_sent_to, UDP) {
    int server = fresh(), peer = bound(), other = fresh(), near = fresh(), port = quiet_port();
    struct address at = loopback(port), to = local_of(peer), none = {.len = sizeof none.v4};
    a_moment();
    R(bind(server, &at, at.len));
    R(connect(near, &at, at.len));
    for (int i = 0; i < 2; i++) {
        R(sendto(other, "one", 3, 0, &at, at.len));
        R(send(near, "two", 3, 0));
        char in[8];
        for (int k = 0; k < 2; k++) {
            await(server, POLLIN);
            show_data("data", in, R(recv(server, in, sizeof in, MSG_DONTWAIT)));
        }
        if (i) break;
        R(connect(server, &to, to.len));
        R(connect(server, &none, none.len));
        show_names(server);
    }
}
