/* socket(2), and sockets to which nothing has happened yet; descriptors that are no sockets. */
#include "c.h"
#define GROUP "socket"

CASE(created, INET | LOCAL) {
    int fd = (int)R(socket(kind->family, kind->type, 0));
    R(fcntl(fd, F_GETFL) & O_NONBLOCK);
    R(fcntl(fd, F_GETFD));
    OPTION(fd, SOL_SOCKET, SO_TYPE);
    OPTION(fd, SOL_SOCKET, SO_DOMAIN);
    OPTION(fd, SOL_SOCKET, SO_PROTOCOL);
    OPTION(fd, SOL_SOCKET, SO_ACCEPTCONN);
    show_error(fd);
    R(close(fd));
}

CASE(created_with_flags, INET | LOCAL) {
    int fd = (int)R(socket(kind->family, kind->type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    R(fcntl(fd, F_GETFL) & O_NONBLOCK);
    R(fcntl(fd, F_GETFD));
    R(socket(kind->family, kind->type | 0x10000000, 0));
    R(socket(kind->family, kind->type | 0x40, 0));
    R(close(fd));
}

CASE(protocols, INET | LOCAL) {
    R(socket(kind->family, kind->type, IPPROTO_TCP));
    R(socket(kind->family, kind->type, IPPROTO_UDP));
    R(socket(kind->family, kind->type, -1));
    R(socket(kind->family, kind->type, 255));
    R(socket(kind->family, kind->type, 1000));
}

CASE(types, TCP4 | TCP6 | UNIXS) {
    R(socket(kind->family, 0, 0));
    R(socket(kind->family, 7, 0));
    R(socket(kind->family, 11, 0));
    R(socket(kind->family, -1, 0));
    R(socket(kind->family, SOCK_RDM, 0));
    R(socket(kind->family, SOCK_RAW, IPPROTO_ICMP));
}

CASE(sctp_and_others, V4 | V6) {
    R(socket(kind->family, SOCK_SEQPACKET, 0));
    R(socket(kind->family, SOCK_DCCP, 0));
    R(socket(kind->family, SOCK_STREAM, IPPROTO_SCTP));
}

CASE(families, TCP4) {
    R(socket(-1, SOCK_STREAM, 0));
    R(socket(AF_UNSPEC, SOCK_STREAM, 0));
    R(socket(99, SOCK_STREAM, 0));
    R(socket(AF_INET + 256, SOCK_STREAM, 0));
    R(socket(AF_AX25, SOCK_STREAM, 0));
}

CASE(pair_of_this_family, INET | LOCAL) {
    int two[2] = {-7, -7};
    R(socketpair(kind->family, kind->type, 0, two));
    say("%d %d", two[0], two[1]);
    R(socketpair(kind->family, kind->type | SOCK_NONBLOCK, 0, (void *)8));
}

CASE(no_descriptor_is_left, INET | LOCAL) {
    struct rlimit limit = {4, 4};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    R(socket(kind->family, kind->type, 0));
    R(socket(kind->family, kind->type, 0));
}

CASE(names, INET | MODES) {
    int fd = fresh();
    show_names(fd);
}

CASE(receives, INET) {
    int fd = fresh();
    char in[8];
    R(recv(fd, in, 8, MSG_DONTWAIT));
    R(recv(fd, in, 0, MSG_DONTWAIT));
    R(recv(fd, in, 8, MSG_DONTWAIT | MSG_OOB));
    R(recv(fd, in, 8, MSG_DONTWAIT | MSG_ERRQUEUE));
    R(recvfrom(fd, in, 8, MSG_DONTWAIT, in, len_of(8)));
    struct kmsg m = {0};
    R(recvmsg(fd, &m, MSG_DONTWAIT));
}

CASE(sends, TCP) {
    int fd = fresh();
    R(send(fd, "x", 1, 0));
    R(send(fd, "x", 1, MSG_NOSIGNAL));
    struct address to = loopback(9);
    R(sendto(fd, "x", 1, 0, &to, to.len));
    struct iovec v = {"x", 1};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(fd, &m, 0));
    R(sendmsg(fd, &m, MSG_NOSIGNAL));
    R(write(fd, "x", 1));
}

CASE(sends_without_address, UDP) {
    int fd = fresh();
    R(send(fd, "x", 1, 0));
    R(write(fd, "x", 1));
    struct iovec v = {"x", 1};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(fd, &m, 0));
    R(send(fd, "", 0, 0));
}

CASE(listens_and_accepts, INET | MODES) {
    int fd = fresh();
    R(accept(fd, NULL, NULL));
    R(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
    R(accept4(fd, NULL, NULL, 1));
}

CASE(shut_down, INET) {
    int fd = fresh();
    R(shutdown(fd, SHUT_RD));
    R(shutdown(fd, SHUT_WR));
    R(shutdown(fd, SHUT_RDWR));
    R(shutdown(fd, 3));
    R(shutdown(fd, -1));
    show_poll_now(fd);
    char in[8];
    R(recv(fd, in, 8, MSG_DONTWAIT));
    R(send(fd, in, 1, MSG_NOSIGNAL));
}

CASE(polled, INET | MODES) {
    int fd = fresh();
    show_poll_now(fd);
    if (kind->type == SOCK_STREAM) show_tcp_state(fd);
}

CASE(asked_by_ioctl, INET) {
    int fd = fresh(), n = -5;
    R(ioctl(fd, SIOCINQ, &n));
    R(ioctl(fd, SIOCOUTQ, &n));
    R(ioctl(fd, SIOCATMARK, &n));
    R(ioctl(fd, 0xdead, &n));
    say("%d", n);
}

/* Every call on something that is no socket, or no descriptor. */
static void all_calls(int fd) {
    struct address a = loopback_v4(9);
    int value = 1;
    char in[8];
    struct kmsg m = {0};
    struct kmmsg mm = {0};
    R(bind(fd, &a, a.len));
    R(connect(fd, &a, a.len));
    R(listen(fd, 1));
    R(accept(fd, NULL, NULL));
    R(accept4(fd, NULL, NULL, 0));
    R(accept4(fd, NULL, NULL, 1));
    R(getsockname(fd, &a, len_of(16)));
    R(getpeername(fd, &a, len_of(16)));
    R(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, len_of(4)));
    R(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, len_of(4)));
    R(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, len_of(4)));
    R(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, 4));
    R(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, 4));
    R(shutdown(fd, SHUT_RD));
    R(send(fd, "x", 1, 0));
    R(sendto(fd, "x", 1, 0, &a, a.len));
    R(recv(fd, in, 8, 0));
    R(recvfrom(fd, in, 8, 0, &a, len_of(16)));
    R(sendmsg(fd, &m, 0));
    R(recvmsg(fd, &m, 0));
    R(sendmmsg(fd, &mm, 1, 0));
    R(recvmmsg(fd, &mm, 1, 0, NULL));
    /* Which mistake is told first. */
    R(bind(fd, (void *)8, a.len));
    R(bind(fd, &a, 4096));
    R(connect(fd, (void *)8, a.len));
    R(connect(fd, &a, -1));
    R(sendto(fd, "x", 1, 0, (void *)8, a.len));
    R(sendto(fd, "x", 1, 0, &a, 4096));
    R(sendmsg(fd, (void *)8, 0));
    R(recvmsg(fd, (void *)8, 0));
    R(sendmmsg(fd, (void *)8, 0, 0));
    R(recvmmsg(fd, (void *)8, 0, 0, (void *)8));
    R(getsockname(fd, (void *)8, (void *)8));
}
CASE(no_descriptor, TCP4) { all_calls(-1); }
CASE(descriptor_out_of_range, TCP4) { all_calls(0x7fffffff); }
CASE(closed_descriptor, TCP4) {
    int fd = fresh();
    close(fd);
    all_calls(fd);
}
CASE(a_file, TCP4) { all_calls((int)MUST(open("/dev/null", O_RDWR))); }
CASE(a_pipe, TCP4) {
    int two[2];
    MUST(pipe(two));
    all_calls(two[0]);
}
CASE(a_path, TCP4) { all_calls((int)MUST(open("/", O_PATH))); }
CASE(an_epoll, TCP4) { all_calls((int)MUST(epoll_create1(0))); }
