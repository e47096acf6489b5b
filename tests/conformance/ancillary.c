/* Control data of datagrams (cmsg(3), ip(7), ipv6(7)). */
#include "c.h"
#define GROUP "ancillary"

static char room[1024];

/* One datagram between two sockets, received with its control data. */
static void receive_with(int fd, size_t length) {
    static char in[64];
    static struct address name;
    memset(room, 0, sizeof room);
    struct iovec v = {in, sizeof in};
    struct kmsg m = {.name = &name, .namelen = sizeof name.room, .iov = &v, .iovlen = 1, .control = room, .controllen = length};
    await(fd, POLLIN);
    show_data("data", in, R(recvmsg(fd, &m, 0)));
    show_message(&m);
}

static void two_with(int two[2], struct address at[2], int level, int option) {
    two_bound(two, at);
    R(set_int(two[1], level, option, 1));
}

#define RECEIVES(name, kinds, level, option)                                                                         \
    CASE(name, kinds) {                                                                                              \
        int two[2];                                                                                                  \
        struct address at[2];                                                                                        \
        two_with(two, at, level, option);                                                                            \
        R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));                                                          \
        receive_with(two[1], sizeof room);                                                                           \
        R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));                                                          \
        receive_with(two[1], 20);                                                                                    \
        R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));                                                          \
        receive_with(two[1], 8);                                                                                     \
        R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));                                                          \
        receive_with(two[1], 0);                                                                                     \
        R(set_int(two[1], level, option, 0));                                                                        \
        R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));                                                          \
        receive_with(two[1], sizeof room);                                                                           \
    }
RECEIVES(packet_info, UDP4, IPPROTO_IP, IP_PKTINFO)
RECEIVES(ttl, UDP4 | UDPM, IPPROTO_IP, IP_RECVTTL)
RECEIVES(tos, UDP4 | UDPM, IPPROTO_IP, IP_RECVTOS)
RECEIVES(original_destination, UDP4, IPPROTO_IP, IP_ORIGDSTADDR)
RECEIVES(packet_info_v6, UDP6 | UDPM, IPPROTO_IPV6, IPV6_RECVPKTINFO)
RECEIVES(hop_limit, UDP6 | UDPM, IPPROTO_IPV6, IPV6_RECVHOPLIMIT)
RECEIVES(traffic_class, UDP6 | UDPM, IPPROTO_IPV6, IPV6_RECVTCLASS)
RECEIVES(timestamp, UDP, SOL_SOCKET, SO_TIMESTAMP)
RECEIVES(timestamp_ns, UDP, SOL_SOCKET, SO_TIMESTAMPNS)

/* SOF_TIMESTAMPING_RX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE. */
CASE(timestamping, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    R(set_int(two[1], SOL_SOCKET, 37, 1 << 3 | 1 << 4));
    /* The kernel begins to stamp a moment later (net_enable_timestamp). */
    for (int i = 0; i < 200; i++) {
        char in[8];
        struct iovec v = {in, sizeof in};
        struct kmsg m = {.iov = &v, .iovlen = 1, .control = room, .controllen = sizeof room};
        MUST(sendto(two[0], "early", 5, 0, &at[1], at[1].len));
        await(two[1], POLLIN);
        MUST(recvmsg(two[1], &m, 0));
        if (m.controllen) break;
        usleep(5000);
    }
    R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));
    receive_with(two[1], sizeof room);
    R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));
    receive_with(two[1], 24);
    R(set_int(two[1], SOL_SOCKET, 37, 0));
    R(sendto(two[0], "info", 4, 0, &at[1], at[1].len));
    receive_with(two[1], sizeof room);
    show_int_option("SO_TIMESTAMPING", two[1], SOL_SOCKET, 37);
}

CASE(several, UDP4) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IP, IP_PKTINFO);
    R(set_int(two[1], IPPROTO_IP, IP_RECVTTL, 1));
    R(set_int(two[1], IPPROTO_IP, IP_RECVTOS, 1));
    R(set_int(two[0], IPPROTO_IP, IP_TTL, 17));
    R(set_int(two[0], IPPROTO_IP, IP_TOS, 0x28));
    for (size_t length = 16; length <= 80; length += 8) {
        R(sendto(two[0], "x", 1, 0, &at[1], at[1].len));
        receive_with(two[1], length);
    }
}

CASE(packet_info_of_a_wildcard, UDP4) {
    int a = fresh(), b = bound();
    struct address w = wildcard(0), from = local_of(b);
    MUST(bind(a, &w, w.len));
    w = local_of(a);
    R(set_int(a, IPPROTO_IP, IP_PKTINFO, 1));
    struct address to = loopback(port_of(&w));
    R(sendto(b, "x", 1, 0, &to, to.len));
    receive_with(a, sizeof room);
    (void)from;
}

/* To several addresses of the loopback: a server that answers from where it was asked. */
CASE(packet_info_of_other_addresses, UDP4) {
    int server = fresh(), once[2];
    struct address at = wildcard(0), to[2], third;
    MUST(bind(server, &at, at.len));
    R(set_int(server, IPPROTO_IP, IP_PKTINFO, 1));
    at = local_of(server);
    for (int i = 0; i < 2; i++) {
        once[i] = bound();
        to[i] = loopback(port_of(&at));
        to[i].v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 4 + (unsigned)i);
        R(sendto(once[i], "x", 1, 0, &to[i], to[i].len));
        receive_with(server, sizeof room);
    }
    int connected = fresh();
    third = to[0];
    third.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 8);
    R(connect(connected, &third, third.len));
    for (int i = 0; i < 2; i++) {
        R(send(connected, "x", 1, 0));
        receive_with(server, sizeof room);
        R(sendto(once[i], "x", 1, 0, &to[i], to[i].len));
        receive_with(server, sizeof room);
    }
}

/* Sends with one control message. */
static long send_with(int fd, const struct address *to, int level, int type, const void *data, size_t length) {
    static char control[256];
    memset(control, 0, sizeof control);
    size_t whole = 16 + length;
    memcpy(control, &whole, 8), memcpy(control + 8, &level, 4), memcpy(control + 12, &type, 4);
    memcpy(control + 16, data, length);
    struct iovec v = {"sent", 4};
    struct kmsg m = {.name = (void *)to, .namelen = (int)to->len, .iov = &v, .iovlen = 1, .control = control, .controllen = (whole + 7) & ~7UL};
    return sendmsg(fd, &m, 0);
}

CASE(sent_ttl, UDP4) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IP, IP_RECVTTL);
    static const int values[] = {1, 77, 255, 256, 0, -1};
    for (size_t i = 0; i < 6; i++)
        if (R(send_with(two[0], &at[1], IPPROTO_IP, IP_TTL, &values[i], 4)) > 0) receive_with(two[1], sizeof room);
    R(send_with(two[0], &at[1], IPPROTO_IP, IP_TTL, &values[1], 1));
    R(send_with(two[0], &at[1], IPPROTO_IP, IP_TTL, &values[1], 8));
    R(send_with(two[0], &at[1], IPPROTO_IP, 200, &values[1], 4));
}

CASE(sent_tos, UDP4) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IP, IP_RECVTOS);
    static const int values[] = {0x10, 0xb8, 255, 256, -1};
    for (size_t i = 0; i < 5; i++)
        if (R(send_with(two[0], &at[1], IPPROTO_IP, IP_TOS, &values[i], 4)) > 0) receive_with(two[1], sizeof room);
    if (R(send_with(two[0], &at[1], IPPROTO_IP, IP_TOS, &values[0], 1)) > 0) receive_with(two[1], sizeof room);
}

CASE(sent_packet_info, UDP4) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    struct in_pktinfo info = {.ipi_ifindex = 0};
    if (R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &info, sizeof info)) > 0) receive_with(two[1], sizeof room);
    info.ipi_spec_dst.s_addr = htonl(INADDR_LOOPBACK);
    if (R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &info, sizeof info)) > 0) receive_with(two[1], sizeof room);
    R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &info, 4));
}

/* From addresses and interfaces that are not there. */
CASE(sent_packet_info_of_others, UDP4) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    static const unsigned from[] = {0xc0000201, 0xe0000001, 0x7f000009};
    for (size_t i = 0; i < 3; i++) {
        struct in_pktinfo info = {.ipi_spec_dst.s_addr = htonl(from[i])};
        R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &info, sizeof info));
        info.ipi_ifindex = 4711;
        R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &info, sizeof info));
    }
    struct in_pktinfo none = {.ipi_ifindex = 4711}, lo = {.ipi_ifindex = 1};
    R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &none, sizeof none));
    R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &lo, sizeof lo));
    none.ipi_ifindex = -1;
    R(send_with(two[0], &at[1], IPPROTO_IP, IP_PKTINFO, &none, sizeof none));
}

CASE(sent_packet_info_of_others_v6, UDP6) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    struct { struct in6_addr from; int interface; } info;
    static const char *const from[] = {"::", "::1", "2001:db8::9", "ff02::1"};
    for (size_t i = 0; i < 4; i++) {
        MUST(inet_pton(AF_INET6, from[i], &info.from));
        static const int interface[] = {0, 1, 4711};
        for (size_t k = 0; k < 3; k++) {
            info.interface = interface[k];
            R(send_with(two[0], &at[1], IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info));
        }
    }
}

CASE(options_of_the_sender_v6, UDP6 | UDPM) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IPV6, IPV6_RECVHOPLIMIT);
    R(set_int(two[1], IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
    static const int hops[] = {9, 255, -1, 256, 1, -2}, classes[] = {0x28, 255, 0, 256, -1, -2};
    for (size_t i = 0; i < 6; i++) {
        R(set_int(two[0], IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops[i]));
        R(set_int(two[0], IPPROTO_IPV6, IPV6_TCLASS, classes[i]));
        OPTION(two[0], IPPROTO_IPV6, IPV6_UNICAST_HOPS);
        OPTION(two[0], IPPROTO_IPV6, IPV6_TCLASS);
        R(sendto(two[0], "x", 1, 0, &at[1], at[1].len));
        receive_with(two[1], sizeof room);
    }
    R(setsockopt(two[0], IPPROTO_IPV6, IPV6_TCLASS, &classes[0], 3));
    R(setsockopt(two[0], IPPROTO_IPV6, IPV6_TCLASS, NULL, 4));
    R(setsockopt(two[0], IPPROTO_IPV6, IPV6_TCLASS, NULL, -1));
    R(setsockopt(two[0], IPPROTO_IPV6, IPV6_UNICAST_HOPS, (char *)edge(3), 4));
}

CASE(sent_hop_limit, UDP6) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IPV6, IPV6_RECVHOPLIMIT);
    static const int values[] = {1, 77, 255, 256, -1, -2};
    for (size_t i = 0; i < 6; i++)
        if (R(send_with(two[0], &at[1], IPPROTO_IPV6, IPV6_HOPLIMIT, &values[i], 4)) > 0) receive_with(two[1], sizeof room);
    R(send_with(two[0], &at[1], IPPROTO_IPV6, IPV6_HOPLIMIT, &values[1], 1));
    R(send_with(two[0], &at[1], IPPROTO_IPV6, 200, &values[1], 4));
}

CASE(sent_traffic_class, UDP6) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IPV6, IPV6_RECVTCLASS);
    static const int values[] = {0, 0x10, 255, 256, -2};
    for (size_t i = 0; i < 5; i++)
        if (R(send_with(two[0], &at[1], IPPROTO_IPV6, IPV6_TCLASS, &values[i], 4)) > 0) receive_with(two[1], sizeof room);
}

CASE(sent_on_a_stream, TCP4) {
    int two[2], value = 5;
    make_pair(two);
    struct address none = {.len = 0};
    R(send_with(two[0], &none, IPPROTO_IP, IP_TTL, &value, 4));
    R(send_with(two[0], &none, SOL_SOCKET, SCM_RIGHTS, &value, 4));
    R(send_with(two[0], &none, SOL_SOCKET, 99, &value, 4));
}

CASE(options_of_the_sender, UDP4) {
    int two[2];
    struct address at[2];
    two_with(two, at, IPPROTO_IP, IP_RECVTTL);
    R(set_int(two[0], IPPROTO_IP, IP_TTL, 9));
    R(sendto(two[0], "x", 1, 0, &at[1], at[1].len));
    receive_with(two[1], sizeof room);
}

CASE(on_a_connected_socket, UDP4) {
    int two[2];
    make_pair(two);
    R(set_int(two[1], IPPROTO_IP, IP_PKTINFO, 1));
    MUST(send(two[0], "x", 1, 0));
    receive_with(two[1], sizeof room);
}

CASE(timestamp_by_ioctl, UDP) {
    int two[2];
    make_pair(two);
    struct timeval t = {0};
    R(ioctl(two[1], 0x8906, &t));
    MUST(send(two[0], "x", 1, 0));
    char in[4];
    await(two[1], POLLIN);
    R(recv(two[1], in, 4, 0));
    R(ioctl(two[1], 0x8906, &t) <= 0);
}

/* linux/udp.h, udp(7). */
enum { UDP_CUT = 103, UDP_JOIN = 104 };
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

static void send_cut(int fd, const struct address *to, unsigned short piece) {
    char control[24] = {0};
    size_t length = 18;
    int level = SOL_UDP, type = UDP_CUT;
    memcpy(control, &length, sizeof length);
    memcpy(control + 8, &level, sizeof level);
    memcpy(control + 12, &type, sizeof type);
    memcpy(control + 16, &piece, sizeof piece);
    struct iovec v = {"aaaabbbbcc", 10};
    struct kmsg m = {.name = (void *)to, .namelen = (int)to->len, .iov = &v, .iovlen = 1, .control = control, .controllen = sizeof control};
    R(sendmsg(fd, &m, 0));
}

/* UDP_GRO: what UDP_SEGMENT cut comes together, with the length of its pieces. */
CASE(coalesced, UDP) {
    int two[2];
    struct address at[2];
    two_with(two, at, SOL_UDP, UDP_JOIN);
    send_cut(two[0], &at[1], 4);
    receive_with(two[1], sizeof room);
    send_cut(two[0], &at[1], 4);
    receive_with(two[1], 0);
    R(sendto(two[0], "whole", 5, 0, &at[1], at[1].len));
    receive_with(two[1], sizeof room);
    R(set_int(two[1], SOL_UDP, UDP_JOIN, 0));
    send_cut(two[0], &at[1], 4);
    for (int i = 0; i < 3; i++) receive_with(two[1], sizeof room);
    show_poll_now(two[1]);
}
