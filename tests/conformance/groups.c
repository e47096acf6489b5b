/* Several sockets with one port, and what is started again on it. */
#include "c.h"
#define GROUP "groups"
#include <sys/resource.h>

static int of(int family, int type, int option) {
    int fd = (int)MUST(socket(family, type, 0));
    if (option) MUST(set_int(fd, SOL_SOCKET, option, 1));
    if (family == AF_INET6) MUST(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    return fd;
}

/* Until all have heard that something was closed: what is started again is another start then, and not a quick change. */
static void a_moment(void) { usleep(100000); }

static struct address own_v6(int port) {
    struct address a = any_v6(port);
    a.v6.sin6_addr = in6addr_loopback;
    return a;
}

/* A server of both families, as nginx, redis and PostgreSQL have them, started again and again. */
CASE(both_families_started_again, TCP4) {
    int port = quiet_port();
    for (int round = 0; round < 4; round++) {
        struct address at[] = {any_v4(port), any_v6(port)}, to[] = {loopback_v4(port), own_v6(port)};
        int l[2], c[2];
        for (int i = 0; i < 2; i++) {
            l[i] = of(at[i].any.sa_family, SOCK_STREAM, SO_REUSEADDR);
            R(bind(l[i], &at[i], at[i].len));
            R(listen(l[i], 8));
        }
        for (int i = 0; i < 2; i++) {
            c[i] = (int)MUST(socket(to[i].any.sa_family, SOCK_STREAM, 0));
            R(connect(c[i], &to[i], to[i].len));
            await(l[i], POLLIN);
            /* The server's end goes first: TIME_WAIT is its own. */
            MUST(close((int)R(accept(l[i], NULL, NULL))));
            MUST(close(c[i]));
        }
        MUST(close(l[0]));
        MUST(close(l[1]));
        a_moment();
    }
}

/* Clients of both families that stay, while their server of both is started again. */
CASE(both_families_started_again_beside_clients, UDP4) {
    int port = quiet_port(), client[2];
    struct address at[] = {any_v4(port), any_v6(port)}, to[] = {loopback_v4(port), own_v6(port)};
    for (int round = 0; round < 3; round++) {
        int server[2];
        for (int i = 0; i < 2; i++) {
            server[i] = of(at[i].any.sa_family, SOCK_DGRAM, 0);
            R(bind(server[i], &at[i], at[i].len));
        }
        for (int i = 0; i < 2; i++) {
            if (!round) {
                client[i] = (int)MUST(socket(to[i].any.sa_family, SOCK_DGRAM, 0));
                R(connect(client[i], &to[i], to[i].len));
            }
            char in[8];
            struct address from = {.len = sizeof from.room};
            R(send(client[i], "x", 1, 0));
            await(server[i], POLLIN);
            R(recvfrom(server[i], in, sizeof in, MSG_DONTWAIT, &from, &from.len));
            show_address("from", &from);
            R(sendto(server[i], "back", 4, 0, &from, from.len));
            await(client[i], POLLIN);
            R(recv(client[i], in, sizeof in, MSG_DONTWAIT));
        }
        R(close(server[0]));
        R(close(server[1]));
        a_moment();
    }
}

/* Three servers on three addresses of the loopback. */
CASE(three_addresses_started_again, UDP4) {
    enum { SERVERS = 3 };
    int port = quiet_port(), client[SERVERS], server[SERVERS];
    struct address at[SERVERS];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < SERVERS; i++) {
            at[i] = loopback_v4(port);
            at[i].v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (unsigned)i);
            server[i] = of(AF_INET, SOCK_DGRAM, 0);
            R(bind(server[i], &at[i], at[i].len));
        }
        for (int i = 0; i < SERVERS; i++) {
            char in[8] = {(char)('0' + i)};
            if (!round) {
                client[i] = of(AF_INET, SOCK_DGRAM, 0);
                R(connect(client[i], &at[i], at[i].len));
            }
            R(send(client[i], in, 1, 0));
            await(server[i], POLLIN);
            show_data("data", in, R(recv(server[i], in, sizeof in, MSG_DONTWAIT)));
        }
        for (int i = 0; i < SERVERS; i++) R(close(server[i]));
        a_moment();
    }
}

static int received(const int *member, int members) {
    int got = 0;
    char in[8];
    for (int i = 0; i < members; i++) {
        struct address from = {.len = sizeof from.room};
        for (; recvfrom(member[i], in, sizeof in, MSG_DONTWAIT, &from, &from.len) > 0; from.len = sizeof from.room) {
            /* The answer finds its way. */
            got += sendto(member[i], "back", 4, 0, &from, from.len) == 4;
        }
    }
    return got;
}

/* Datagrams of many clients to a group: none is lost, whoever of it gets them. */
static void group(int option, struct address at, bool connected) {
    enum { MEMBERS = 3, CLIENTS = 60 };
    int port = quiet_port(), member[MEMBERS], client[CLIENTS];
    struct address to = loopback(port);
    at.v4.sin_port = htons((uint16_t)port);
    for (int i = 0; i < MEMBERS; i++) {
        member[i] = fresh();
        MUST(set_int(member[i], SOL_SOCKET, option, 1));
        R(bind(member[i], &at, at.len));
    }
    for (int i = 0; i < CLIENTS; i++) {
        client[i] = fresh();
        if (connected) MUST(connect(client[i], &to, to.len));
        MUST(connected ? send(client[i], "x", 1, 0) : sendto(client[i], "x", 1, 0, &to, to.len));
    }
    say("%d of %d received", received(member, MEMBERS), CLIENTS);
    if (option == SO_REUSEADDR) return; /* the last that came has it all */
    /* Who stays has it all. */
    R(close(member[0]));
    R(close(member[2]));
    for (int i = 0; i < CLIENTS; i++) MUST(connected ? send(client[i], "x", 1, 0) : sendto(client[i], "x", 1, 0, &to, to.len));
    say("%d of %d received", received(member + 1, 1), CLIENTS);
}
CASE(group_of_reuseport, UDP) { group(SO_REUSEPORT, loopback(0), false); }
CASE(group_of_reuseport_connected, UDP) { group(SO_REUSEPORT, loopback(0), true); }
CASE(group_of_reuseport_on_the_wildcard, UDP) { group(SO_REUSEPORT, wildcard(0), true); }
CASE(group_of_reuseaddr, UDP) { group(SO_REUSEADDR, loopback(0), true); }

/* A client whose source port is one, with two servers. */
CASE(one_source_two_listeners, TCP) {
    int l[] = {listener(), listener()}, c[2];
    struct address at[] = {local_of(l[0]), local_of(l[1])}, from = loopback(quiet_port());
    for (int i = 0; i < 2; i++) {
        c[i] = fresh_blocking();
        MUST(set_int(c[i], SOL_SOCKET, SO_REUSEADDR, 1));
        R(bind(c[i], &from, from.len));
        R(connect(c[i], &at[i], at[i].len));
    }
    for (int i = 0; i < 2; i++) {
        int s = take(l[i]);
        show_names(s);
        R(send(s, "x", 1, 0));
        show_poll(c[i], POLLIN);
    }
}

/* And again while the connection before, which was reset, is still in the queue. */
CASE(one_source_again, TCP) {
    int l = listener(), c = -1;
    struct address at = local_of(l), from = loopback(quiet_port());
    for (int i = 0; i < 2; i++) {
        c = fresh_blocking();
        MUST(set_int(c, SOL_SOCKET, SO_REUSEADDR, 1));
        R(bind(c, &from, from.len));
        R(connect(c, &at, at.len));
        struct linger at_once = {.l_onoff = 1};
        if (!i) {
            MUST(setsockopt(c, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
            R(close(c));
        }
    }
    int first = take(l), second = take(l);
    show_poll(first, POLLIN);
    R(send(second, "x", 1, 0));
    show_poll(c, POLLIN);
}

static void many_files(void) {
    struct rlimit files;
    MUST(getrlimit(RLIMIT_NOFILE, &files));
    files.rlim_cur = files.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &files));
}

/* What the kernel chooses is nobody's: not one that was asked for by its number. */
CASE(ports_that_are_chosen_are_free, UDP) {
    enum { ASKED = 1000, CHOSEN = 500 };
    static bool taken[65536];
    many_files();
    int twice = 0;
    for (int i = 0; i < ASKED; i++) {
        struct address at = loopback(40000 + i);
        int fd = fresh();
        taken[40000 + i] = bind(fd, &at, at.len) == 0;
    }
    for (int i = 0; i < CHOSEN; i++) {
        int fd = fresh();
        struct address at = loopback(0);
        MUST(bind(fd, &at, at.len));
        at = local_of(fd);
        twice += taken[port_of(&at)];
        taken[port_of(&at)] = true;
    }
    say("%d ports twice", twice);
}

/* Many other sockets have come since a server was closed. */
CASE(started_again_among_many, TCP4) {
    enum { LISTENERS = 40, OTHERS = 3000 };
    many_files();
    int refused = 0;
    for (int round = 0; round < 2; round++) {
        int l[LISTENERS];
        for (int i = 0; i < LISTENERS; i++) {
            struct address at = loopback_v4(21000 + i);
            at.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 76);
            l[i] = of(AF_INET, SOCK_STREAM, SO_REUSEADDR);
            refused += bind(l[i], &at, at.len) != 0;
            refused += listen(l[i], 1) != 0;
        }
        for (int i = 0; i < LISTENERS; i++) close(l[i]);
        a_moment();
        for (int i = 0; !round && i < OTHERS; i++) {
            struct address at = loopback_v4(0);
            MUST(bind(of(AF_INET, SOCK_STREAM, 0), &at, at.len));
        }
    }
    say("%d of %d refused", refused, 2 * LISTENERS);
}

/* A server that had both families in one socket, and has one for each after its next start. */
CASE(both_in_one_then_apart, TCP6) {
    int port = quiet_port();
    struct address dual = any_v6(port), at[] = {any_v4(port), any_v6(port)}, to[] = {loopback_v4(port), own_v6(port)};
    int l = fresh_blocking(), each[2];
    MUST(set_int(l, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(l, &dual, dual.len));
    R(listen(l, 4));
    for (int i = 0; i < 2; i++) {
        int c = (int)MUST(socket(to[i].any.sa_family, SOCK_STREAM, 0));
        R(connect(c, &to[i], to[i].len));
        MUST(close((int)R(accept(l, NULL, NULL))));
        MUST(close(c));
    }
    MUST(close(l));
    a_moment();
    for (int i = 0; i < 2; i++) {
        each[i] = of(at[i].any.sa_family, SOCK_STREAM, SO_REUSEADDR);
        R(bind(each[i], &at[i], at[i].len));
        R(listen(each[i], 4));
    }
    for (int i = 0; i < 2; i++) {
        int c = (int)MUST(socket(to[i].any.sa_family, SOCK_STREAM, 0));
        R(connect(c, &to[i], to[i].len));
        show_names((int)R(accept(each[i], NULL, NULL)));
    }
}

static void show_datagram(int fd) {
    char in[16];
    struct address from = {.len = sizeof from.room};
    await(fd, POLLIN);
    show_data("data", in, R(recvfrom(fd, in, sizeof in, MSG_DONTWAIT, &from, &from.len)));
    show_address("from", &from);
}

/* A server with a socket for each client, as for DTLS: bound where the client reached it, and connected. */
CASE(a_socket_for_each_client, UDP) {
    int port = quiet_port(), server = fresh(), client = fresh(), own = fresh();
    struct address at = wildcard(port), to = loopback(port);
    MUST(set_int(server, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(set_int(own, SOL_SOCKET, SO_REUSEADDR, 1));
    R(bind(server, &at, at.len));
    R(connect(client, &to, to.len));
    R(send(client, "hello", 5, 0));
    show_datagram(server);
    struct address from = local_of(client);
    R(bind(own, &to, to.len));
    R(connect(own, &from, from.len));
    R(send(own, "welcome", 7, 0));
    show_datagram(client);
    R(send(client, "next", 4, 0));
    show_datagram(own);
    show_poll_now(server);
    R(close(own));
    R(send(client, "again", 5, 0));
    show_datagram(server);
}

/* All of IPv4, by an address of IPv6. */
CASE(mapped_wildcard, TCP6 | UDP6) {
    int port = quiet_port(), server = fresh(), c = (int)MUST(socket(AF_INET, kind->type, 0));
    struct address at = any_v6(port), to = loopback_v4(port);
    at.v6.sin6_addr.s6_addr[10] = at.v6.sin6_addr.s6_addr[11] = 0xff;
    R(bind(server, &at, at.len));
    if (kind->type == SOCK_STREAM) R(listen(server, 1));
    R(connect(c, &to, to.len));
    if (kind->type == SOCK_STREAM) {
        show_names((int)R(take(server)));
    } else {
        R(send(c, "x", 1, 0));
        show_datagram(server);
    }
    to = own_v6(port);
    R(connect(fresh_blocking(), &to, to.len));
}

/* At once, and its client stays. */
CASE(specific_after_the_wildcard, UDP) {
    int port = quiet_port(), server = fresh(), client = fresh(), next = fresh();
    struct address at = wildcard(port), to = loopback(port);
    R(bind(server, &at, at.len));
    R(connect(client, &to, to.len));
    R(send(client, "hello", 5, 0));
    show_datagram(server);
    R(close(server));
    R(bind(next, &to, to.len));
    R(send(client, "next", 4, 0));
    show_datagram(next);
}

/* A socket that is connected to one after the other. */
CASE(connected_here_and_there, UDP) {
    enum { TIMES = 900 };
    int fd = fresh(), heard = 0;
    for (int i = 0; i < TIMES; i++) {
        int peer = fresh();
        struct address at = loopback(0), from = {.len = sizeof from.room};
        char in[8];
        MUST(bind(peer, &at, at.len));
        at = local_of(peer);
        MUST(connect(fd, &at, at.len));
        MUST(send(fd, "x", 1, 0));
        await(peer, POLLIN);
        heard += recvfrom(peer, in, sizeof in, MSG_DONTWAIT, &from, &from.len) == 1;
        MUST(close(peer));
    }
    say("%d of %d heard", heard, TIMES);
}
