/* getsockopt(2), setsockopt(2). */
#include "c.h"
#define GROUP "option"

#define SET_AND_SHOW(level, name, value)                                                                             \
    do {                                                                                                             \
        R(set_int(fd, level, name, value));                                                                          \
        OPTION(fd, level, name);                                                                                     \
    } while (0)

CASE(common, INET | LOCAL) {
    int fd = fresh();
    SET_AND_SHOW(SOL_SOCKET, SO_REUSEADDR, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_REUSEPORT, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_KEEPALIVE, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_BROADCAST, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_OOBINLINE, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_DONTROUTE, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_PRIORITY, 3);
    SET_AND_SHOW(SOL_SOCKET, SO_PRIORITY, 7);
    SET_AND_SHOW(SOL_SOCKET, SO_RCVLOWAT, 5);
    SET_AND_SHOW(SOL_SOCKET, SO_SNDLOWAT, 5);
    SET_AND_SHOW(SOL_SOCKET, SO_SNDBUF, 10000);
    SET_AND_SHOW(SOL_SOCKET, SO_RCVBUF, 10000);
    SET_AND_SHOW(SOL_SOCKET, SO_SNDBUF, -1);
    SET_AND_SHOW(SOL_SOCKET, SO_TIMESTAMP, 1);
    SET_AND_SHOW(SOL_SOCKET, SO_BUSY_POLL, 0);
    OPTION(fd, SOL_SOCKET, SO_INCOMING_CPU);
    OPTION(fd, SOL_SOCKET, SO_PEEK_OFF);
    OPTION(fd, SOL_SOCKET, SO_MARK);
}

CASE(named, INET) {
    int fd = fresh();
    R(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    R(set_int(fd, SOL_SOCKET, SO_MARK, 1));
    R(set_int(fd, SOL_SOCKET, SO_DEBUG, 1));
    R(set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, 1));
    R(set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1));
    R(set_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1));
    R(set_int(fd, IPPROTO_TCP, 19, 1)); /* TCP_REPAIR */
}

CASE(unknown, INET | LOCAL) {
    int fd = fresh(), value = 1;
    R(set_int(fd, SOL_SOCKET, 9999, 1));
    R(set_int(fd, 999, 1, 1));
    R(set_int(fd, -1, -1, 1));
    R(getsockopt(fd, SOL_SOCKET, 9999, &value, len_of(4)));
    R(getsockopt(fd, 999, 1, &value, len_of(4)));
    R(set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    R(set_int(fd, IPPROTO_IP, IP_TTL, 5));
    R(set_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 5));
}

CASE(tcp, TCP) {
    int fd = fresh();
    SET_AND_SHOW(IPPROTO_TCP, TCP_NODELAY, 1);
    SET_AND_SHOW(IPPROTO_TCP, TCP_CORK, 1);
    SET_AND_SHOW(IPPROTO_TCP, TCP_KEEPIDLE, 33);
    SET_AND_SHOW(IPPROTO_TCP, TCP_KEEPINTVL, 44);
    SET_AND_SHOW(IPPROTO_TCP, TCP_KEEPCNT, 5);
    SET_AND_SHOW(IPPROTO_TCP, TCP_KEEPCNT, 500);
    SET_AND_SHOW(IPPROTO_TCP, TCP_SYNCNT, 2);
    SET_AND_SHOW(IPPROTO_TCP, TCP_LINGER2, 7);
    SET_AND_SHOW(IPPROTO_TCP, TCP_DEFER_ACCEPT, 3);
    SET_AND_SHOW(IPPROTO_TCP, TCP_USER_TIMEOUT, 1234);
    SET_AND_SHOW(IPPROTO_TCP, TCP_QUICKACK, 0);
    SET_AND_SHOW(IPPROTO_TCP, TCP_MAXSEG, 1000);
    SET_AND_SHOW(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096);
    char name[16] = "";
    R(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, len_of(16)));
    say("%s", name);
}

CASE(ip, V4 | TCPM | UDPM) {
    int fd = fresh();
    SET_AND_SHOW(IPPROTO_IP, IP_TTL, 33);
    SET_AND_SHOW(IPPROTO_IP, IP_TTL, 256);
    SET_AND_SHOW(IPPROTO_IP, IP_TTL, 0);
    SET_AND_SHOW(IPPROTO_IP, IP_TTL, -1);
    SET_AND_SHOW(IPPROTO_IP, IP_TOS, 0x10);
    SET_AND_SHOW(IPPROTO_IP, IP_RECVTTL, 1);
    SET_AND_SHOW(IPPROTO_IP, IP_RECVTOS, 1);
    SET_AND_SHOW(IPPROTO_IP, IP_PKTINFO, 1);
    SET_AND_SHOW(IPPROTO_IP, IP_RECVERR, 1);
    SET_AND_SHOW(IPPROTO_IP, IP_MTU_DISCOVER, 2);
    SET_AND_SHOW(IPPROTO_IP, IP_FREEBIND, 1);
    SET_AND_SHOW(IPPROTO_IP, IP_MULTICAST_TTL, 3);
    SET_AND_SHOW(IPPROTO_IP, IP_MULTICAST_LOOP, 0);
    OPTION(fd, IPPROTO_IP, IP_MTU);
}

CASE(ipv6, TCP6 | UDP6) {
    int fd = fresh();
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 256);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_TCLASS, 0x20);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_RECVERR, 1);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4);
    SET_AND_SHOW(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0);
}

CASE(error_lengths, INET | LOCAL) {
    int fd = fresh();
    long value = -1;
    socklen_t len;
    for (int given = 0; given <= 8; given += 2) {
        value = -1, len = (socklen_t)given;
        R(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len));
        say("%lx, length %u", value, len);
    }
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, len_of(-1)));
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, NULL));
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, NULL, len_of(4)));
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, NULL, len_of(0)));
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, 8, len_of(4)));
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, 8));
    R(set_int(fd, SOL_SOCKET, SO_ERROR, 1));
    R(set_int(fd, SOL_SOCKET, SO_TYPE, 1));
    R(set_int(fd, SOL_SOCKET, SO_ACCEPTCONN, 1));
}

CASE(pointers, INET) {
    int fd = fresh(), value;
    R(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 8, 4));
    R(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, NULL, 4));
    R(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, 1));
    R(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, -1));
    R(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 8, len_of(4)));
    R(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, 8));
    R(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, len_of(-1)));
}

CASE(timeouts, INET | LOCAL) {
    int fd = fresh();
    struct timeval t = {1, 500000}, bad = {0, 1000000}, negative = {-1, 0};
    R(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    R(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bad, sizeof bad));
    R(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &negative, sizeof negative));
    R(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, 8));
    struct timeval out = {9, 9};
    R(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &out, len_of(sizeof out)));
    say("%ld.%06ld", (long)out.tv_sec, (long)out.tv_usec);
    R(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &out, len_of(sizeof out)));
    say("%ld.%06ld", (long)out.tv_sec, (long)out.tv_usec);
}

CASE(timeouts_after_connect, TCP) {
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    struct timeval t = {3, 0}, out;
    MUST(setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
    R(connect(c, &at, at.len));
    R(getsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &out, len_of(sizeof out)));
    say("%ld.%06ld", (long)out.tv_sec, (long)out.tv_usec);
    OPTION(c, IPPROTO_TCP, TCP_SYNCNT);
    OPTION(c, SOL_SOCKET, SO_REUSEADDR);
    R(!!(fcntl(c, F_GETFL) & O_NONBLOCK));
}

CASE(states, INET) {
    int two[2];
    make_pair(two);
    OPTION(two[0], SOL_SOCKET, SO_ACCEPTCONN);
    OPTION(two[0], SOL_SOCKET, SO_TYPE);
    OPTION(two[1], SOL_SOCKET, SO_DOMAIN);
    OPTION(two[1], SOL_SOCKET, SO_PROTOCOL);
    OPTION(two[1], SOL_SOCKET, SO_REUSEADDR);
    OPTION(two[1], SOL_SOCKET, SO_KEEPALIVE);
    if (kind->family == AF_INET6) OPTION(two[1], IPPROTO_IPV6, IPV6_V6ONLY);
}

CASE(membership, UDP4) {
    struct ip_mreq group = {{inet_addr("239.1.2.3")}, {htonl(INADDR_LOOPBACK)}};
    int fd = bound();
    R(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
    R(setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &group, sizeof group));
}

CASE(peek_offset, UDP) {
    int two[2];
    make_pair(two);
    R(set_int(two[1], SOL_SOCKET, SO_PEEK_OFF, 2));
    MUST(send(two[0], "abcdef", 6, 0));
    await(two[1], POLLIN);
    char in[8];
    show_data("data", in, R(recv(two[1], in, 2, MSG_PEEK)));
    show_data("data", in, R(recv(two[1], in, 8, MSG_PEEK)));
    show_data("data", in, R(recv(two[1], in, 8, 0)));
}

CASE(low_water_mark, TCP) {
    int two[2];
    make_pair(two);
    R(set_int(two[1], SOL_SOCKET, SO_RCVLOWAT, 4));
    MUST(send(two[0], "ab", 2, 0));
    show_poll_now(two[1]);
    MUST(send(two[0], "cd", 2, 0));
    show_poll(two[1], POLLIN);
}

CASE(upper_protocol, TCP) {
    int two[2], fd = fresh();
    make_pair(two);
    R(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 4));
    R(setsockopt(two[0], IPPROTO_TCP, TCP_ULP, "tls", 0));
    R(setsockopt(two[0], IPPROTO_TCP, TCP_ULP, NULL, 4));
    R(setsockopt(two[0], IPPROTO_TCP, TCP_ULP, "nonesuch", 9));
    R(setsockopt(two[0], IPPROTO_TCP, TCP_ULP, "tls", 3));
    R(setsockopt(two[0], IPPROTO_TCP, TCP_ULP, "tls", 4));
    R(setsockopt(bound(), IPPROTO_TCP, TCP_ULP, "tls", 4));
}

/* Kept; when the port comes is not looked at. */
CASE(bind_address_no_port, INET) {
    int fd = fresh();
    R(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, NULL, 0));
    OPTION(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    R(set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 5));
    OPTION(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    struct address at = loopback(0);
    R(bind(fd, &at, at.len));
    OPTION(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    int other = kind->type == SOCK_STREAM ? listener() : bound();
    struct address to = local_of(other);
    R(connect(fd, &to, to.len) == 0 || errno == EINPROGRESS);
    OPTION(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    char zero = 0;
    R(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &zero, 1));
    OPTION(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    R(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 8, 4));
    R(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &zero, -1));
}

CASE(v6only_of_a_connection, TCP6 | TCPM) {
    int two[2];
    make_pair(two);
    for (int i = 0; i < 2; i++) {
        R(set_int(two[i], IPPROTO_IPV6, IPV6_V6ONLY, 0));
        R(set_int(two[i], IPPROTO_IPV6, IPV6_V6ONLY, 1));
        OPTION(two[i], IPPROTO_IPV6, IPV6_V6ONLY);
    }
}
