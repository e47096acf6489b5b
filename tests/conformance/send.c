/* sendto(2), sendmsg(2), sendmmsg(2), write(2). */
#include "c.h"
#include <netinet/udp.h>
#define GROUP "send"

static char big[200000];

static void fill(void) {
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)(i * 7 + i / 251);
}

/* What has arrived. */
static void arrived(int fd) {
    static char in[sizeof big];
    struct address from = {.len = sizeof from.room};
    await(fd, POLLIN);
    long n = R(recvfrom(fd, in, sizeof in, MSG_DONTWAIT, &from, &from.len));
    if (n < 0) return;
    show_data("arrived", in, n);
    if (kind->type == SOCK_DGRAM && kind->family != AF_UNIX) show_address("from", &from);
}
static void nothing(int fd) {
    char in[8];
    R(recv(fd, in, sizeof in, MSG_DONTWAIT));
}

CASE(to_an_address, UDP | MODES) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    R(sendto(two[0], "hello", 5, 0, &at[1], at[1].len));
    arrived(two[1]);
    R(sendto(two[1], "again", 5, MSG_DONTWAIT, &at[0], at[0].len));
    arrived(two[0]);
}

CASE(from_an_unbound_socket, UDP) {
    int a = bound(), b = fresh();
    struct address at = local_of(a);
    R(sendto(b, "hello", 5, 0, &at, at.len));
    show_names(b);
    arrived(a);
    struct address from = local_of(b), to = loopback(port_of(&from));
    R(sendto(a, "answer", 6, 0, &to, to.len));
    arrived(b);
}

CASE(to_a_wildcard, UDP) {
    int a = bound(), b = bound();
    struct address at = local_of(a), to = wildcard(port_of(&at));
    R(sendto(b, "hello", 5, 0, &to, to.len));
    if (kind->bit & (UDP4 | UDP6)) arrived(a);
}

CASE(to_a_wildcard_socket, UDP) {
    int a = fresh(), b = fresh();
    struct address w = wildcard(0);
    MUST(bind(a, &w, w.len));
    w = local_of(a);
    struct address to = loopback(port_of(&w));
    R(sendto(b, "hello", 5, 0, &to, to.len));
    arrived(a);
    w = local_of(b);
    to = loopback(port_of(&w));
    R(sendto(a, "answer", 6, 0, &to, to.len));
    arrived(b);
}

CASE(to_nobody, UDP) {
    int a = bound();
    struct address to = loopback(quiet_port());
    R(sendto(a, "x", 1, 0, &to, to.len));
    R(sendto(a, "x", 1, 0, &to, to.len));
    show_poll_now(a);
    show_error(a);
}

CASE(to_port_zero, UDP) {
    int a = bound();
    struct address to = loopback(0);
    R(sendto(a, "x", 1, 0, &to, to.len));
}

CASE(to_itself, UDP) {
    int a = bound();
    struct address at = local_of(a);
    R(sendto(a, "me", 2, 0, &at, at.len));
    arrived(a);
}

CASE(empty, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    R(sendto(two[0], "", 0, 0, &at[1], at[1].len));
    arrived(two[1]);
    R(sendto(two[0], NULL, 0, 0, &at[1], at[1].len));
    arrived(two[1]);
    R(sendto(two[0], 8, 0, 0, &at[1], at[1].len));
    arrived(two[1]);
    struct kmsg m = {.name = &at[1], .namelen = (int)at[1].len};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
    MUST(connect(two[0], &at[1], at[1].len));
    R(send(two[0], "", 0, 0));
    arrived(two[1]);
}

CASE(empty_on_a_stream, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    R(send(two[0], "", 0, 0));
    R(send(two[0], 8, 0, 0));
    struct kmsg m = {0};
    R(sendmsg(two[0], &m, 0));
    nothing(two[1]);
}

CASE(largest, UDP) {
    fill();
    int two[2];
    struct address at[2];
    two_bound(two, at);
    MUST(set_int(two[0], SOL_SOCKET, SO_SNDBUF, 200000));
    R(sendto(two[0], big, 65507, 0, &at[1], at[1].len));
    arrived(two[1]);
    R(sendto(two[0], big, 65508, 0, &at[1], at[1].len));
    R(sendto(two[0], big, 65527, 0, &at[1], at[1].len));
    R(sendto(two[0], big, 65528, 0, &at[1], at[1].len));
    R(sendto(two[0], big, 65535, 0, &at[1], at[1].len));
    R(sendto(two[0], big, 65536, 0, &at[1], at[1].len));
    R(sendto(two[0], big, sizeof big, 0, &at[1], at[1].len));
    R(sendto(two[0], big, 0x7fffffff, 0, &at[1], at[1].len));
    R(sendto(two[0], big, -1L, 0, &at[1], at[1].len));
    nothing(two[1]);
}

CASE(lengths, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    static const int lengths[] = {0, 1, 2, 8, 15, 16, 23, 24, 27, 28, 29, 128, 129, -1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        say("length %d", lengths[i]);
        R(sendto(two[0], "x", 1, 0, &at[1], lengths[i]));
        struct iovec v = {"y", 1};
        struct kmsg m = {.name = &at[1], .namelen = lengths[i], .iov = &v, .iovlen = 1};
        R(sendmsg(two[0], &m, 0));
    }
}

CASE(wrong_family, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    struct address a = other_family(9);
    R(sendto(two[0], "x", 1, 0, &a, 28));
    a = at[1];
    a.any.sa_family = 99;
    R(sendto(two[0], "x", 1, 0, &a, a.len));
    a.any.sa_family = AF_UNIX;
    R(sendto(two[0], "x", 1, 0, &a, a.len));
    a.any.sa_family = AF_UNSPEC;
    R(sendto(two[0], "x", 1, 0, &a, a.len));
}

CASE(v4_address_on_v6, UDPM) {
    int a = bound(), b = fresh();
    struct address at = local_of(a), v4 = loopback_v4(port_of(&at));
    R(sendto(b, "x", 1, 0, &v4, v4.len));
    arrived(a);
    int c = fresh();
    MUST(set_int(c, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    R(sendto(c, "x", 1, 0, &v4, v4.len));
    R(sendto(c, "x", 1, 0, &at, at.len));
}

CASE(elsewhere_when_connected, UDP) {
    int a = bound(), b = bound(), c = bound();
    struct address at[3] = {local_of(a), local_of(b), local_of(c)};
    R(connect(a, &at[1], at[1].len));
    R(sendto(a, "there", 5, 0, &at[2], at[2].len));
    arrived(c);
    R(sendto(a, "here", 4, 0, &at[1], at[1].len));
    arrived(b);
    R(sendto(a, "here", 4, 0, NULL, 77));
    arrived(b);
    R(sendto(c, "stranger", 8, 0, &at[0], at[0].len));
    nothing(a);
}

CASE(address_on_a_stream, TCP) {
    int two[2];
    make_pair(two);
    struct address to = loopback(quiet_port());
    R(sendto(two[0], "abc", 3, 0, &to, to.len));
    arrived(two[1]);
    R(sendto(two[0], "abc", 3, 0, &to, 3));
    R(sendto(two[0], "abc", 3, 0, &to, 129));
    R(sendto(two[0], "abc", 3, 0, 8, 16));
    struct iovec v = {"def", 3};
    struct kmsg m = {.name = &to, .namelen = (int)to.len, .iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
}

CASE(pointers, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    R(sendto(two[0], 8, 4, 0, &at[1], at[1].len));
    R(sendto(two[0], "data", 4, 0, 8, at[1].len));
    R(sendto(two[0], 8, 4, 0, 8, at[1].len));
    R(sendto(two[0], 8, 70000, 0, &at[1], at[1].len));
    char *room = edge(4);
    memcpy(room, "edge", 4);
    R(sendto(two[0], room, 5, 0, &at[1], at[1].len));
    R(sendto(two[0], room, 4, 0, &at[1], at[1].len));
    arrived(two[1]);
    room = edge(at[1].len);
    memcpy(room, &at[1], at[1].len);
    R(sendto(two[0], "data", 4, 0, room, at[1].len + 1));
    R(sendto(two[0], "data", 4, 0, room, at[1].len));
    arrived(two[1]);
}

CASE(pointers_on_a_stream, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    R(send(two[0], 8, 4, 0));
    char *room = edge(4);
    memcpy(room, "edge", 4);
    R(send(two[0], room, 5, 0));
    struct iovec v[2] = {{room, 4}, {(void *)8, 4}};
    struct kmsg m = {.iov = v, .iovlen = 2};
    R(sendmsg(two[0], &m, 0));
    nothing(two[1]);
    R(sendmsg(two[0], 8, 0));
    m.iov = (void *)8;
    R(sendmsg(two[0], &m, 0));
    m = (struct kmsg){.iov = v, .iovlen = 1, .control = (void *)8, .controllen = 32};
    R(sendmsg(two[0], &m, 0));
    m = (struct kmsg){.iov = v, .iovlen = 1, .name = (void *)8, .namelen = 16};
    R(sendmsg(two[0], &m, 0));
    struct kmsg *half = edge(sizeof *half - 8);
    R(sendmsg(two[0], half, 0));
}

CASE(header_pointers, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    struct iovec v = {"x", 1};
    R(sendmsg(two[0], 8, 0));
    R(sendmsg(two[0], NULL, 0));
    struct kmsg m = {.name = (void *)8, .namelen = (int)at[1].len, .iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    m = (struct kmsg){.name = &at[1], .namelen = (int)at[1].len, .iov = (void *)8, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    m = (struct kmsg){.name = &at[1], .namelen = (int)at[1].len, .iov = (void *)8, .iovlen = 0};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
    m = (struct kmsg){.name = &at[1], .namelen = (int)at[1].len, .iov = &v, .iovlen = 1, .control = (void *)8, .controllen = 32};
    R(sendmsg(two[0], &m, 0));
    m.controllen = 0;
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
    m = (struct kmsg){.name = NULL, .namelen = 16, .iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    m = (struct kmsg){.name = (void *)8, .namelen = 0, .iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
}

CASE(iovecs, UDP | TCP | UNIXS) {
    fill();
    int two[2];
    make_pair(two);
    static struct iovec v[1026];
    for (int i = 0; i < 1026; i++) v[i] = (struct iovec){big + i, i % 3 == 0 ? 0 : 1};
    struct kmsg m = {.iov = v, .iovlen = 1024};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
    m.iovlen = 1025;
    R(sendmsg(two[0], &m, 0));
    m.iovlen = -1UL;
    R(sendmsg(two[0], &m, 0));
    m.iovlen = 1UL << 32;
    R(sendmsg(two[0], &m, 0));
    m.iovlen = 3;
    v[1].iov_len = -1UL;
    R(sendmsg(two[0], &m, 0));
    v[1].iov_len = 1UL << 63;
    R(sendmsg(two[0], &m, 0));
    v[1] = (struct iovec){(void *)8, 0};
    v[2] = (struct iovec){"fine", 4};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
    R(writev(two[0], v, 3));
    arrived(two[1]);
    char room[64] __attribute__((aligned(8)));
    struct iovec *odd = (struct iovec *)(room + 3), one = {"odd", 3};
    memcpy(odd, &one, sizeof one);
    m = (struct kmsg){.iov = odd, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]);
    char place[80] __attribute__((aligned(8)));
    memcpy(place + 5, &m, sizeof m);
    R(sendmsg(two[0], place + 5, 0));
    arrived(two[1]);
}

CASE(name_lengths, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    struct iovec v = {"x", 1};
    struct kmsg m = {.name = &at[1], .namelen = -1, .iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    m.namelen = 129;
    R(sendmsg(two[0], &m, 0));
    m.namelen = 100000;
    R(sendmsg(two[0], &m, 0));
    struct address *room = edge(at[1].len);
    memcpy(room, &at[1], at[1].len);
    m.name = room;
    m.namelen = 128;
    R(sendmsg(two[0], &m, 0));
    m.namelen = (int)at[1].len;
    R(sendmsg(two[0], &m, 0));
}

CASE(control_lengths, UDP | TCP | UNIXS) {
    int two[2];
    make_pair(two);
    struct iovec v = {"x", 1};
    char control[64] = {0};
    struct kmsg m = {.iov = &v, .iovlen = 1, .control = control, .controllen = 1UL << 40};
    R(sendmsg(two[0], &m, 0));
    m.controllen = 0x7fffffff;
    R(sendmsg(two[0], &m, 0));
    m.controllen = 0x80000000;
    R(sendmsg(two[0], &m, 0));
    m.controllen = -1UL;
    R(sendmsg(two[0], &m, 0));
    m.controllen = 8;
    R(sendmsg(two[0], &m, 0));
    m.controllen = 16;
    R(sendmsg(two[0], &m, 0));
    size_t length = 17;
    memcpy(control, &length, sizeof length);
    R(sendmsg(two[0], &m, 0));
    length = 15;
    memcpy(control, &length, sizeof length);
    R(sendmsg(two[0], &m, 0));
    length = -1UL;
    memcpy(control, &length, sizeof length);
    R(sendmsg(two[0], &m, 0));
    length = 16;
    memcpy(control, &length, sizeof length);
    control[8] = 99;
    R(sendmsg(two[0], &m, 0));
    control[8] = SOL_SOCKET;
    control[12] = 77;
    R(sendmsg(two[0], &m, 0));
}

CASE(vanishing_page, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    char *room = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(room, "gone", 4);
    R(sendto(two[0], room, 4, 0, &at[1], at[1].len));
    arrived(two[1]);
    R(mprotect(room, 8192, PROT_NONE));
    R(sendto(two[0], room, 4, 0, &at[1], at[1].len));
    R(mprotect(room, 8192, PROT_READ));
    R(sendto(two[0], room, 4, 0, &at[1], at[1].len));
    arrived(two[1]);
    R(munmap(room, 8192));
    R(sendto(two[0], room, 4, 0, &at[1], at[1].len));
}

CASE(many, UDP | TCP) {
    int two[2];
    make_pair(two);
    struct iovec v[3] = {{"one", 3}, {"two", 3}, {"three", 5}};
    struct kmmsg m[3] = {{.m = {.iov = &v[0], .iovlen = 1}}, {.m = {.iov = &v[1], .iovlen = 1}}, {.m = {.iov = &v[2], .iovlen = 1}}};
    R(sendmmsg(two[0], m, 3, 0));
    say("%u %u %u", m[0].len, m[1].len, m[2].len);
    for (int i = 0; i < (kind->type == SOCK_DGRAM ? 3 : 1); i++) arrived(two[1]);
    R(sendmmsg(two[0], m, 0, 0));
    R(sendmmsg(two[0], 8, 0, 0));
    R(sendmmsg(two[0], 8, 1, 0));
    m[1].m.iov = (void *)8;
    R(sendmmsg(two[0], m, 3, 0));
    arrived(two[1]);
    nothing(two[1]);
    m[0].m.iov = (void *)8;
    R(sendmmsg(two[0], m, 3, 0));
    R(sendmmsg(two[0], m, -1, 0));
    nothing(two[1]);
}

CASE(many_to_addresses, UDP) {
    int a = bound(), b = bound(), c = bound();
    struct address at[2] = {local_of(b), local_of(c)};
    struct iovec v = {"all", 3};
    struct kmmsg m[3] = {0};
    for (int i = 0; i < 3; i++) m[i].m = (struct kmsg){.name = &at[i % 2], .namelen = (int)at[i % 2].len, .iov = &v, .iovlen = 1};
    R(sendmmsg(a, m, 3, 0));
    arrived(b), arrived(c), arrived(b);
    m[1].m.namelen = 3;
    R(sendmmsg(a, m, 3, 0));
    arrived(b);
    nothing(c);
    struct kmmsg *last = edge(sizeof *last);
    last[0] = m[0];
    R(sendmmsg(a, last, 2, 0));
    arrived(b);
}

CASE(flags, UDP | TCP) {
    int two[2];
    make_pair(two);
    R(send(two[0], "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT));
    arrived(two[1]);
    R(send(two[0], "x", 1, MSG_CONFIRM));
    arrived(two[1]);
    R(send(two[0], "x", 1, MSG_DONTROUTE));
    arrived(two[1]);
    R(send(two[0], "x", 1, 0x40000));
    arrived(two[1]);
    R(send(two[0], "x", 1, MSG_EOR));
    arrived(two[1]);
}

CASE(flags_with_an_address, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    R(sendto(two[0], "x", 1, MSG_DONTROUTE, &at[1], at[1].len));
    arrived(two[1]);
    R(sendto(two[0], "x", 1, MSG_OOB, &at[1], at[1].len));
    R(sendto(two[0], "x", 1, MSG_CONFIRM, &at[1], at[1].len));
    arrived(two[1]);
    R(sendto(two[0], "x", 1, MSG_FASTOPEN, &at[1], at[1].len));
}

CASE(more, UDP) {
    int two[2];
    make_pair(two);
    R(send(two[0], "one", 3, MSG_MORE));
    nothing(two[1]);
    R(send(two[0], "two", 3, 0));
    arrived(two[1]);
    struct address to = local_of(two[1]);
    R(sendto(two[0], "a", 1, MSG_MORE, &to, to.len));
    R(sendto(two[0], "b", 1, MSG_MORE, &to, to.len));
    R(sendto(two[0], "c", 1, 0, &to, to.len));
    arrived(two[1]);
    MUST(set_int(two[0], IPPROTO_UDP, 1, 1));
    R(send(two[0], "cork", 4, 0));
    nothing(two[1]);
    R(set_int(two[0], IPPROTO_UDP, 1, 0));
    arrived(two[1]);
}

CASE(more_with_a_new_address, UDP) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    R(sendto(two[0], "one", 3, MSG_MORE, &at[1], at[1].len));
    nothing(two[1]);
    R(sendto(two[0], "two", 3, 0, &at[1], at[1].len));
    arrived(two[1]);
}

CASE(full, TCP | UNIXS) {
    fill();
    nonblocking = true;
    int two[2];
    make_pair(two);
    long total = 0, n;
    while ((n = send(two[0], big, sizeof big, 0)) > 0) total += n;
    say("it is full at last: %s, %s", total > 100000 ? "yes" : "no", errname(errno));
    R(send(two[0], "x", 1, 0));
    show_poll_now(two[0]);
    struct iovec v = {big, 100};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    struct kmmsg mm = {.m = m};
    R(sendmmsg(two[0], &mm, 1, 0));
    while (recv(two[1], big, sizeof big, MSG_DONTWAIT) > 0) {}
    show_poll(two[0], POLLOUT);
    R(sendmsg(two[0], &m, 0));
}

CASE(full_with_timeout, TCP | UNIXS) {
    fill();
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    struct timeval t = {0, 60000};
    MUST(setsockopt(two[0], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
    double start = now_ms();
    R(send(two[0], "x", 1, 0));
    struct iovec v = {big, 100};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    say("waited: %s", now_ms() - start >= 110 ? "yes" : "no");
}

CASE(whole, TCP | UNIXS) {
    fill();
    int two[2];
    make_pair(two);
    pid_t child = fork();
    if (!child) {
        static char in[sizeof big];
        close(two[0]);
        for (int round = 0; round < 2; round++) {
            long n = read_all(two[1], in, sizeof in);
            show_data("all", in, n);
        }
        exit(0);
    }
    close(two[1]);
    struct iovec v[2] = {{big, 150000}, {big + 150000, sizeof big - 150000}};
    struct kmsg m = {.iov = v, .iovlen = 2};
    long first = sendmsg(two[0], &m, 0), second = send(two[0], big, sizeof big, 0);
    expect_success(child);
    say("%ld %ld", first, second);
}

CASE(fast_open, TCP | MODES) {
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    char in[32];
    R(sendto(c, "early", 5, MSG_FASTOPEN, &at, at.len));
    if (nonblocking) await(c, POLLOUT);
    R(sendto(c, "again", 5, MSG_FASTOPEN, &at, at.len));
    R(sendto(c, " late", 5, 0, &at, at.len));
    int s = take(l);
    await(s, POLLIN);
    show_data("data", in, R(recv(s, in, sizeof in, MSG_DONTWAIT)));
    show_names(c);
}

CASE(fast_open_by_messages, TCP) {
    int l = listener();
    struct address at = local_of(l);
    struct iovec v[2] = {{"fir", 3}, {"st", 2}};
    struct kmsg m = {.name = &at, .namelen = (int)at.len, .iov = v, .iovlen = 2};
    struct kmmsg two[2] = {{.m = m}, {.m = m}};
    char in[32];
    int c = fresh();
    R(sendmsg(c, &m, MSG_FASTOPEN));
    int s = take(l);
    show_data("data", in, R(recv(s, in, sizeof in, 0)));
    c = fresh();
    R(sendmmsg(c, two, 2, MSG_FASTOPEN));
    say("lengths %u %u", two[0].len, two[1].len);
    s = take(l);
    show_data("data", in, R(recv(s, in, sizeof in, 0)));
    c = fresh();
    R(sendto(c, "x", 1, MSG_FASTOPEN | MSG_DONTWAIT, &at, at.len));
    await(c, POLLOUT);
    R(send(c, "x", 1, 0));
}

CASE(fast_open_to_nobody, TCP | MODES) {
    struct address at = loopback(quiet_port()), none = {.len = sizeof none.v4}, short_ = at;
    none.any.sa_family = AF_UNSPEC;
    short_.len = 1;
    R(sendto(fresh(), "x", 1, MSG_FASTOPEN, &none, none.len));
    R(sendto(fresh(), "x", 1, MSG_FASTOPEN, &short_, short_.len));
    R(sendto(fresh(), "x", 1, MSG_FASTOPEN, 0, 0));
    int c = fresh();
    R(sendto(c, "x", 1, MSG_FASTOPEN, &at, at.len));
    show_poll(c, POLLOUT);
    show_error(c);
    R(sendto(listener(), "x", 1, MSG_FASTOPEN, &at, at.len));
}

CASE(after_shutdown, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    R(shutdown(two[0], SHUT_WR));
    R(send(two[0], "x", 1, 0));
    R(send(two[0], "x", 1, MSG_NOSIGNAL));
    R(write(two[0], "x", 1));
    struct iovec v = {"x", 1};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    R(sendmsg(two[0], &m, MSG_NOSIGNAL));
    struct kmmsg mm = {.m = m};
    R(sendmmsg(two[0], &mm, 1, 0));
    if (kind->family != AF_UNIX) {
        struct address to = loopback(9);
        R(sendto(two[0], "x", 1, 0, &to, to.len));
    }
}

CASE(after_shutdown_of_a_datagram_socket, UDP) {
    int two[2];
    make_pair(two);
    struct address at = local_of(two[1]);
    R(shutdown(two[0], SHUT_WR));
    R(send(two[0], "x", 1, 0));
    R(sendto(two[0], "x", 1, 0, &at, at.len));
    struct iovec v = {"x", 1};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
}

CASE(broadcast, UDP4) {
    struct address to = loopback(9);
    to.v4.sin_addr.s_addr = inet_addr("127.255.255.255");
    R(sendto(fresh(), "x", 1, 0, &to, to.len));
}

CASE(segments, UDP) {
    fill();
    int two[2];
    struct address at[2];
    two_bound(two, at);
    char control[32] = {0};
    size_t length = 18;
    int level = IPPROTO_UDP, type = 103;
    uint16_t size = 100;
    memcpy(control, &length, 8), memcpy(control + 8, &level, 4), memcpy(control + 12, &type, 4), memcpy(control + 16, &size, 2);
    struct iovec v = {big, 250};
    struct kmsg m = {.name = &at[1], .namelen = (int)at[1].len, .iov = &v, .iovlen = 1, .control = control, .controllen = 24};
    R(sendmsg(two[0], &m, 0));
    arrived(two[1]), arrived(two[1]), arrived(two[1]);
    nothing(two[1]);
}

/* Datagrams that are put together from several calls (udp(7)). */
CASE(corked, UDP) {
    int two[2], fd = fresh();
    struct address at[2];
    char in[32];
    two_bound(two, at);
    R(set_int(two[0], IPPROTO_UDP, UDP_CORK, 1));
    OPTION(two[0], IPPROTO_UDP, UDP_CORK);
    R(sendto(two[0], "ab", 2, 0, &at[1], at[1].len));
    R(sendto(two[0], "cd", 2, 0, &at[1], at[1].len));
    show_poll_now(two[1]);
    R(set_int(two[0], IPPROTO_UDP, UDP_CORK, 0));
    await(two[1], POLLIN);
    show_data("data", in, R(recv(two[1], in, sizeof in, 0)));
    R(sendto(two[0], "ef", 2, MSG_MORE, &at[1], at[1].len));
    R(sendto(two[0], "gh", 2, 0, &at[1], at[1].len));
    await(two[1], POLLIN);
    show_data("data", in, R(recv(two[1], in, sizeof in, 0)));
    R(connect(fd, &at[1], at[1].len));
    R(send(fd, "ij", 2, MSG_MORE));
    R(send(fd, "kl", 2, 0));
    await(two[1], POLLIN);
    show_data("data", in, R(recv(two[1], in, sizeof in, 0)));
    R(setsockopt(fd, IPPROTO_UDP, UDP_CORK, NULL, 4));
    R(setsockopt(fd, IPPROTO_UDP, UDP_CORK, in, 3));
    R(setsockopt(fd, IPPROTO_UDP, UDP_CORK, in, -1));
}

CASE(corked_stream, TCP) {
    int two[2];
    make_pair(two);
    R(set_int(two[0], IPPROTO_UDP, UDP_CORK, 1));
}
