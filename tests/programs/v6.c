/* IPv6, TCP and UDP.
 *   v6 server PORT only|dual [CONNECTIONS]   echoes TCP and UDP on [::]:PORT (dual: IPv4 callers appear as ::ffff:a.b.c.d)
 *   v6 client ADDRESS PORT                   ADDRESS is IPv6, IPv4 or IPv4-mapped; a mapped one is used on an AF_INET6 socket */
#include "t.h"

static void server(int port, bool only, int left) {
    struct address at = any_v6(port);
    int flag = only, one = 1, got = -1;
    socklen_t len = sizeof got;
    int tcp = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0)), udp = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    for (int *fd = (int[]){tcp, udp, -1}; *fd >= 0; fd++) {
        MUST(setsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &flag, sizeof flag));
        MUST(getsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &got, &len));
        CHECK(got == flag);
    }
    MUST(setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    MUST(bind(tcp, &at.any, at.len));
    MUST(bind(udp, &at.any, at.len));
    MUST_FAIL(setsockopt(tcp, IPPROTO_IPV6, IPV6_V6ONLY, &flag, sizeof flag), EINVAL); /* too late once bound */
    MUST(listen(tcp, 16));
    struct address local = local_of(tcp);
    CHECK(local.any.sa_family == AF_INET6 && local.len == sizeof local.v6 && port_of(&local) == port);
    say("listening on %s", text_of(&local));
    if (only) {
        /* The other family's port is free. */
        int v4 = listen_on(any_v4(port), 1);
        MUST(close(v4));
    }
    while (left != 0) {
        struct pollfd p[2] = {{.fd = tcp, .events = POLLIN}, {.fd = udp, .events = POLLIN}};
        MUST(poll(p, 2, -1));
        struct address peer = {.len = sizeof peer.room};
        char in[2048];
        if (p[0].revents) {
            int fd = (int)MUST(accept(tcp, &peer.any, &peer.len));
            CHECK(peer.any.sa_family == AF_INET6 && peer.len == sizeof peer.v6);
            size_t n = read_all(fd, in, sizeof in);
            write_all(fd, in, n);
            MUST(close(fd));
            say("tcp %s", text_of(&peer));
            if (left > 0) left--;
        }
        if (p[1].revents) {
            peer.len = sizeof peer.room;
            long n = MUST(recvfrom(udp, in, sizeof in, 0, &peer.any, &peer.len));
            CHECK(peer.any.sa_family == AF_INET6 && peer.len == sizeof peer.v6);
            MUST(sendto(udp, in, (size_t)n, 0, &peer.any, peer.len));
            say("udp %s", text_of(&peer));
        }
    }
}

static void client(struct address to) {
    char in[64];
    int udp = (int)MUST(socket(to.any.sa_family, SOCK_DGRAM, 0));
    give_up_after(udp, 10);
    struct address from = {.len = sizeof from.room};
    MUST(sendto(udp, "datagram", 8, 0, &to.any, to.len));
    CHECK(MUST(recvfrom(udp, in, sizeof in, 0, &from.any, &from.len)) == 8 && !memcmp(in, "datagram", 8));
    CHECK(from.len == to.len && same_address(&from, &to));
    MUST(close(udp));

    int tcp = (int)MUST(socket(to.any.sa_family, SOCK_STREAM, 0));
    if (connect(tcp, &to.any, to.len) < 0) {
        fprintf(stderr, "connect to %s: %s\n", text_of(&to), errname(errno));
        exit(3);
    }
    struct address local = local_of(tcp), peer = peer_of(tcp);
    CHECK(local.any.sa_family == to.any.sa_family && local.len == to.len && peer.len == to.len);
    CHECK(same_address(&peer, &to));
    write_all(tcp, "stream", 6);
    MUST(shutdown(tcp, SHUT_WR));
    CHECK(read_all(tcp, in, sizeof in) == 6 && !memcmp(in, "stream", 6));
    MUST(close(tcp));
    say("v6: datagram and stream echoed, %s to %s", text_of(&local), text_of(&to));
}

int main(int argc, char **argv) {
    if (argc >= 4 && !strcmp(argv[1], "server")) {
        server(port_arg(argv[2]), !strcmp(argv[3], "only"), argc > 4 ? atoi(argv[4]) : -1);
    } else if (argc == 4 && !strcmp(argv[1], "client")) {
        client(resolve(argv[2], argv[3], SOCK_STREAM));
    } else {
        fprintf(stderr, "usage: v6 server PORT only|dual [CONNECTIONS] | client ADDRESS PORT\n");
        return 2;
    }
    return 0;
}
