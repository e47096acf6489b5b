/* recvfrom(2), recvmsg(2), recvmmsg(2), read(2). */
#include "c.h"
#define GROUP "receive"
#include <pthread.h>

/* Two datagram sockets; the first has sent `text` to the second, and it is there. */
static struct address sent_to(int two[2], const char *text, size_t length) {
    struct address at[2];
    two_bound(two, at);
    MUST(sendto(two[0], text, length, 0, &at[1], at[1].len));
    await(two[1], POLLIN);
    return at[1];
}
static void again(int two[2], const struct address *to, const char *text) {
    MUST(sendto(two[0], text, strlen(text), 0, to, to->len));
    await(two[1], POLLIN);
}

CASE(nothing_there, INET) {
    nonblocking = true;
    int two[2];
    make_pair(two);
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recv(two[1], in, 8, 0));
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    struct kmsg m = {0};
    R(recvmsg(two[1], &m, 0));
    struct kmmsg mm = {0};
    R(recvmmsg(two[1], &mm, 1, 0, NULL));
    R(recvmmsg(two[1], &mm, 0, 0, NULL));
    R(read(two[1], in, 8));
    R(recv(two[1], in, 0, 0));
    R(recv(two[1], in, 8, MSG_PEEK));
    R(recv(two[1], in, 8, MSG_ERRQUEUE));
    R(recvmsg(two[1], &m, MSG_ERRQUEUE));
    R(recvfrom(two[1], in, 8, MSG_ERRQUEUE, &from, len_of(128)));
    R(recv(two[1], in, 8, MSG_OOB));
}

CASE(with_timeout, INET | LOCAL) {
    int two[2];
    make_pair(two);
    struct timeval t = {0, 40000};
    MUST(setsockopt(two[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    char in[8];
    struct address from = {.len = sizeof from.room};
    double start = now_ms();
    R(recv(two[1], in, 8, 0));
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    struct iovec v = {in, 8};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    struct kmmsg mm = {.m = m};
    R(recvmmsg(two[1], &mm, 1, 0, NULL));
    say("waited: %s", now_ms() - start >= 150 ? "yes" : "no");
}

CASE(source, UDP) {
    int two[2];
    struct address at = sent_to(two, "hello", 5);
    char in[16];
    struct address from = {.len = sizeof from.room};
    show_data("data", in, R(recvfrom(two[1], in, sizeof in, 0, &from, &from.len)));
    show_address("from", &from);
    static const int given[] = {0, 1, 2, 8, 15, 16, 20, 27, 28, 29, 128};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        again(two, &at, "x");
        memset(&from, 0x55, sizeof from);
        socklen_t len = (socklen_t)given[i];
        R(recvfrom(two[1], in, sizeof in, 0, &from, &len));
        unsigned end = (unsigned)given[i] < len ? (unsigned)given[i] : len;
        say("given %d, told %u, family %x, byte behind %x", given[i], len, from.any.sa_family, ((unsigned char *)&from)[end]);
    }
    /* The data in what the name leaves of its room, and then on the length, which counts as the data has made it. */
    struct { char room[128]; socklen_t len; } both = {.len = 128};
    again(two, &at, "hello");
    show_data("in the room", both.room + 64, R(recvfrom(two[1], both.room + 64, 32, 0, (void *)both.room, &both.len)));
    say("told %u", both.len);
    memset(both.room, 0x55, 128);
    both.len = 4;
    again(two, &at, "data");
    R(recvfrom(two[1], &both.len, 4, 0, (void *)both.room, &both.len));
    say("told %u, the address is %s", both.len, both.room[7] == 0x55 ? "cut" : "whole");
}

CASE(source_pointers, UDP) {
    int two[2];
    struct address at = sent_to(two, "x", 1), from;
    char in[16];
    R(recvfrom(two[1], in, sizeof in, 0, &from, NULL));
    again(two, &at, "x");
    R(recvfrom(two[1], in, sizeof in, 0, &from, 8));
    again(two, &at, "x");
    R(recvfrom(two[1], in, sizeof in, 0, 8, len_of(16)));
    again(two, &at, "x");
    R(recvfrom(two[1], in, sizeof in, 0, 8, len_of(0)));
    again(two, &at, "x");
    R(recvfrom(two[1], in, sizeof in, 0, &from, len_of(-1)));
    again(two, &at, "x");
    R(recvfrom(two[1], in, sizeof in, 0, NULL, 8));
    R(recv(two[1], in, sizeof in, MSG_DONTWAIT));
}

CASE(data_pointers, UDP) {
    int two[2];
    struct address at = sent_to(two, "hello", 5), from;
    char in[16];
    R(recvfrom(two[1], 8, 16, 0, &from, len_of(128)));
    R(recvfrom(two[1], in, 16, MSG_DONTWAIT, &from, len_of(128)));
    again(two, &at, "hello");
    R(recvfrom(two[1], NULL, 16, 0, &from, len_of(128)));
    again(two, &at, "hello");
    char *room = edge(3);
    R(recvfrom(two[1], room, 16, 0, &from, len_of(128)));
    again(two, &at, "hello");
    R(recvfrom(two[1], room, 3, 0, &from, len_of(128)));
    again(two, &at, "hello");
    R(recvfrom(two[1], NULL, 0, 0, &from, len_of(128)));
    again(two, &at, "hello");
    R(recvfrom(two[1], NULL, 0, MSG_TRUNC, &from, len_of(128)));
}

CASE(data_pointers_on_a_stream, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    char in[16];
    MUST(send(two[0], "hello", 5, 0));
    await(two[1], POLLIN);
    R(recvfrom(two[1], 8, 16, 0, in, len_of(16)));
    struct iovec v[2] = {{(void *)8, 16}, {in, 16}};
    struct kmsg m = {.iov = v, .iovlen = 2};
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    R(recvmsg(two[1], 8, MSG_DONTWAIT));
    m.iov = (void *)8;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    m.iov = v + 1, m.iovlen = 1;
    show_data("still there", in, R(recvmsg(two[1], &m, MSG_DONTWAIT)));
}

CASE(data_pointers_keep_a_stream_whole, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    char *good = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *room = edge(3);
    MUST(mprotect(good + 4096, 4096, PROT_READ));
    MUST(send(two[0], "0123456789", 10, 0));
    await(two[1], POLLIN);
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[1], room, 16, 0, &from, &from.len));
    struct iovec v[3] = {{room, 3}, {NULL, 0}, {(void *)8, 100}};
    struct kmsg m = {.iov = v, .iovlen = 3};
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    v[0] = (struct iovec){good + 4093, 100};
    m.iovlen = 1;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    v[0] = (struct iovec){good + 4096, 1};
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    v[0] = (struct iovec){good + 4093, 3};
    v[1] = (struct iovec){good + 8192, 4096};
    m.iovlen = 2;
    show_data("all of it, nothing lost", good + 8192, R(recvmsg(two[1], &m, MSG_DONTWAIT)) - 3);
    MUST(send(two[0], "abc", 3, 0));
    await(two[1], POLLIN);
    v[0] = (struct iovec){good + 4093, 100};
    m.iovlen = 1;
    show_data("no more than is there", good + 4093, R(recvmsg(two[1], &m, MSG_DONTWAIT)));
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
}

CASE(iovecs, UDP | TCP | UNIXS) {
    int two[2];
    make_pair(two);
    static struct iovec v[1026];
    static char in[4096];
    for (int i = 0; i < 1026; i++) v[i] = (struct iovec){in + 2 * i, i % 3 == 0 ? 0 : 1};
    struct kmsg m = {.iov = v, .iovlen = 1024};
    MUST(send(two[0], "0123456789", 10, 0));
    await(two[1], POLLIN);
    memset(in, '.', sizeof in);
    show_data("spread", in, R(recvmsg(two[1], &m, MSG_DONTWAIT)) + 20);
    MUST(send(two[0], "0123456789", 10, 0));
    await(two[1], POLLIN);
    m.iovlen = 1025;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    m.iovlen = -1UL;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    m.iovlen = 1UL << 32;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    m.iovlen = 3;
    v[1].iov_len = -1UL;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    v[1].iov_len = 1UL << 63;
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    v[1] = (struct iovec){(void *)8, 0};
    v[2] = (struct iovec){in, 4};
    show_data("behind an empty one", in, R(recvmsg(two[1], &m, MSG_DONTWAIT)) > 0 ? 4 : 0);
    MUST(send(two[0], "odd", 3, 0));
    await(two[1], POLLIN);
    char room[64] __attribute__((aligned(8))), place[80] __attribute__((aligned(8)));
    struct iovec *odd = (struct iovec *)(room + 3), one = {in + 1, 40};
    memcpy(odd, &one, sizeof one);
    m = (struct kmsg){.iov = odd, .iovlen = 1};
    memcpy(place + 5, &m, sizeof m);
    show_data("misaligned", in + 1, R(recvmsg(two[1], place + 5, MSG_DONTWAIT)));
}

/* Another thread takes pages away and puts them back. */
static char *changing;
static volatile bool changed_enough;
static void *changes(void *unused) {
    (void)unused;
    while (!changed_enough) {
        munmap(changing + 4096, 4096);
        mmap(changing + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    }
    return NULL;
}

CASE(pages_that_come_and_go, UDP | TCP | UNIXS) {
    int two[2], whole = 0, other = 0;
    make_pair(two);
    changing = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, changes, NULL) == 0);
    char *at = changing + 4092, in[8];
    struct address from = {.len = sizeof from.room};
    double end = now_ms() + 300;
    while (now_ms() < end) {
        MUST(send(two[0], "01234567", 8, 0));
        await(two[1], POLLIN);
        struct iovec v = {at, 8};
        struct kmsg m = {.name = &from, .namelen = sizeof from.room, .iov = &v, .iovlen = 1};
        long n = recvmsg(two[1], &m, 0);
        if (n == 8) whole++;
        else if (n >= 0 || errno != EFAULT) other++;
        /* What a fault left. */
        if (n < 0) recv(two[1], in, 8, MSG_DONTWAIT);
        struct kmsg sends = {.iov = &v, .iovlen = 1};
        n = sendmsg(two[0], &sends, MSG_DONTWAIT);
        if (n == 8) recv(two[1], in, 8, 0);
        else if (n >= 0 || errno != EFAULT) other++;
    }
    changed_enough = true;
    pthread_join(thread, NULL);
    say("some whole: %s, nothing but whole or a fault: %s", whole > 0 ? "yes" : "no", other == 0 ? "yes" : "no");
}

CASE(control_lengths, UDP | TCP | UNIXS | UNIXD) {
    int two[2];
    make_pair(two);
    char control[256], in[8];
    static const unsigned long lengths[] = {0, 1, 15, 16, 17, 256, 1UL << 20, 0x7fffffff, 0x80000000, 1UL << 32, 1UL << 40, -1UL};
    if (kind->family == AF_UNIX) MUST(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    else if (kind->type == SOCK_DGRAM) MUST(set_int(two[1], SOL_SOCKET, SO_TIMESTAMP, 1));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        MUST(send(two[0], "x", 1, 0));
        await(two[1], POLLIN);
        struct iovec v = {in, 8};
        struct kmsg m = {.iov = &v, .iovlen = 1, .control = control, .controllen = lengths[i]};
        R(recvmsg(two[1], &m, MSG_DONTWAIT));
        say("controllen %#lx: now %#lx", lengths[i], m.controllen);
        show_flags("flags", m.flags);
        m = (struct kmsg){.iov = &v, .iovlen = 1, .control = (void *)8, .controllen = lengths[i]};
        MUST(send(two[0], "y", 1, 0));
        await(two[1], POLLIN);
        R(recvmsg(two[1], &m, MSG_DONTWAIT));
        R(recv(two[1], in, 8, MSG_DONTWAIT));
    }
}

CASE(cut, UDP) {
    int two[2];
    struct address at = sent_to(two, "0123456789", 10), from = {.len = sizeof from.room};
    char in[16];
    show_data("data", in, R(recvfrom(two[1], in, 4, MSG_PEEK, &from, &from.len)));
    show_data("data", in, R(recvfrom(two[1], in, 4, MSG_PEEK | MSG_TRUNC, &from, &from.len)) > 0 ? 4 : 0);
    show_data("data", in, R(recvfrom(two[1], in, 4, 0, &from, &from.len)));
    R(recvfrom(two[1], in, 4, MSG_DONTWAIT, &from, &from.len));
    again(two, &at, "0123456789");
    R(recv(two[1], in, 4, MSG_TRUNC));
    again(two, &at, "0123456789");
    R(recv(two[1], in, 0, 0));
    again(two, &at, "0123456789");
    struct iovec v = {in, 4};
    struct kmsg m = {.name = &from, .namelen = sizeof from.room, .iov = &v, .iovlen = 1};
    show_data("data", in, R(recvmsg(two[1], &m, 0)));
    show_message(&m);
    again(two, &at, "0123456789");
    m = (struct kmsg){.name = &from, .namelen = 6, .iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, MSG_TRUNC));
    show_flags("flags", m.flags);
    say("name length %d", m.namelen);
}

CASE(peeked, INET) {
    int two[2];
    make_pair(two);
    MUST(send(two[0], "peek", 4, 0));
    await(two[1], POLLIN);
    char in[16];
    struct address from = {.len = sizeof from.room};
    for (int i = 0; i < 3; i++) show_data("data", in, R(recvfrom(two[1], in, 2 + i, MSG_PEEK, &from, &from.len)));
    show_data("data", in, R(recv(two[1], in, sizeof in, 0)));
    R(recv(two[1], in, sizeof in, MSG_DONTWAIT | MSG_PEEK));
}

CASE(address_on_a_stream, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    MUST(send(two[0], "hello", 5, 0));
    await(two[1], POLLIN);
    char in[2];
    struct address from;
    memset(&from, 0x55, sizeof from);
    from.len = sizeof from.room;
    R(recvfrom(two[1], in, 2, 0, &from, &from.len));
    say("family %x, length %u", from.any.sa_family, from.len);
    R(recvfrom(two[1], in, 2, 0, &from, 8));
    R(recvfrom(two[1], in, 1, 0, 8, len_of(16)));
    MUST(send(two[0], "hello", 5, 0));
    await(two[1], POLLIN);
    R(recvfrom(two[1], in, 2, 0, &from, len_of(-1)));
    struct iovec v = {in, 2};
    struct kmsg m = {.name = &from, .namelen = 100, .iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    say("family %x, length %d", from.any.sa_family, m.namelen);
}

CASE(header, UDP) {
    int two[2];
    struct address at = sent_to(two, "scattered", 9), from;
    char in[64];
    memset(in, '.', sizeof in);
    struct iovec v[4] = {{in, 2}, {in + 10, 0}, {in + 20, 3}, {in + 30, 30}};
    struct kmsg m = {.name = &from, .namelen = sizeof from.room, .iov = v, .iovlen = 4, .flags = 0x7777};
    R(recvmsg(two[1], &m, 0));
    show_data("places", in, sizeof in);
    show_message(&m);
    again(two, &at, "x");
    m = (struct kmsg){.namelen = 55, .iov = v, .iovlen = 4};
    R(recvmsg(two[1], &m, 0));
    say("name length %d", m.namelen);
    again(two, &at, "x");
    m = (struct kmsg){.name = &from, .namelen = 0, .iov = v, .iovlen = 4};
    R(recvmsg(two[1], &m, 0));
    say("name length %d", m.namelen);
    again(two, &at, "x");
    m = (struct kmsg){.iov = NULL, .iovlen = 0};
    R(recvmsg(two[1], &m, 0));
    show_flags("flags", m.flags);
}

CASE(header_pointers, UDP) {
    int two[2];
    struct address at = sent_to(two, "hello", 5), from;
    char in[16];
    struct iovec v = {in, 16};
    R(recvmsg(two[1], 8, 0));
    R(recvmsg(two[1], NULL, 0));
    struct kmsg m = {.iov = (void *)8, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    m = (struct kmsg){.iov = &v, .iovlen = 1025};
    R(recvmsg(two[1], &m, 0));
    m = (struct kmsg){.name = &from, .namelen = -1, .iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    m = (struct kmsg){.name = &from, .namelen = 100000, .iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    say("name length %d", m.namelen);
    again(two, &at, "hello");
    m = (struct kmsg){.name = (void *)8, .namelen = 16, .iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    R(recv(two[1], in, 16, MSG_DONTWAIT));
    again(two, &at, "hello");
    struct iovec bad = {(void *)8, 16};
    m = (struct kmsg){.iov = &bad, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    R(recv(two[1], in, 16, MSG_DONTWAIT));
    struct iovec negative = {in, -1UL};
    m = (struct kmsg){.iov = &negative, .iovlen = 1};
    again(two, &at, "hello");
    R(recvmsg(two[1], &m, 0));
    R(recv(two[1], in, 16, MSG_DONTWAIT));
}

CASE(header_is_read_only, UDP) {
    int two[2];
    struct address at = sent_to(two, "hello", 5);
    char in[16];
    struct iovec v = {in, 16};
    struct kmsg *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *m = (struct kmsg){.iov = &v, .iovlen = 1};
    MUST(mprotect(m, 4096, PROT_READ));
    R(recvmsg(two[1], m, 0));
    R(recv(two[1], in, 16, MSG_DONTWAIT));
    again(two, &at, "hello");
    char *data = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct address from;
    R(recvfrom(two[1], data, 16, 0, &from, len_of(128)));
    again(two, &at, "hello");
    R(recvfrom(two[1], in, 16, 0, data, len_of(128)));
    again(two, &at, "hello");
    R(recvfrom(two[1], in, 16, 0, &from, data));
}

CASE(wait_all, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    pid_t child = fork();
    if (!child) {
        for (int i = 0; i < 4; i++) {
            usleep(5000);
            MUST(send(two[0], "abcd", 4, 0));
        }
        exit(0);
    }
    char in[32];
    show_data("data", in, R(recv(two[1], in, 8, MSG_WAITALL)));
    struct iovec v = {in, 6};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    show_data("data", in, R(recvmsg(two[1], &m, MSG_WAITALL)));
    expect_success(child);
    close(two[0]);
    struct address from = {.len = sizeof from.room};
    show_data("data", in, R(recvfrom(two[1], in, 32, MSG_WAITALL, &from, &from.len)));
    R(recv(two[1], in, 8, MSG_WAITALL));
}

CASE(wait_all_of_a_datagram, UDP) {
    int two[2];
    sent_to(two, "short", 5);
    char in[32];
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[1], in, 32, MSG_WAITALL, &from, &from.len));
}

CASE(wait_all_with_timeout, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    struct timeval t = {0, 40000};
    MUST(setsockopt(two[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    MUST(send(two[0], "abc", 3, 0));
    char in[32];
    R(recv(two[1], in, 8, MSG_WAITALL));
    MUST(send(two[0], "abc", 3, 0));
    struct iovec v = {in, 8};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, MSG_WAITALL));
    R(recvmsg(two[1], &m, MSG_WAITALL));
}

CASE(many, UDP | TCP) {
    int two[2];
    make_pair(two);
    for (int i = 0; i < 3; i++) MUST(send(two[0], "0123456789" + i, 3, 0));
    await(two[1], POLLIN);
    char in[4][8];
    struct iovec v[4];
    struct kmmsg m[4] = {0};
    for (int i = 0; i < 4; i++) {
        v[i] = (struct iovec){in[i], 2};
        m[i].m = (struct kmsg){.iov = &v[i], .iovlen = 1};
    }
    struct timespec none = {0, 0}, bad = {0, 1000000000}, negative = {-1, 0};
    R(recvmmsg(two[1], m, 2, MSG_DONTWAIT, NULL));
    say("%u %u", m[0].len, m[1].len);
    show_flags("flags", m[0].m.flags);
    R(recvmmsg(two[1], m, 4, MSG_WAITFORONE, NULL));
    R(recvmmsg(two[1], m, 1, MSG_DONTWAIT, &none));
    R(recvmmsg(two[1], m, 1, 0, &bad));
    R(recvmmsg(two[1], m, 1, 0, &negative));
    R(recvmmsg(two[1], m, 1, MSG_DONTWAIT, 8));
    R(recvmmsg(two[1], 8, 1, MSG_DONTWAIT, NULL));
    R(recvmmsg(two[1], m, 0, 0, NULL));
}

CASE(many_with_sources, UDP) {
    int a = bound(), b = bound(), c = bound();
    struct address at = local_of(a), from[3];
    MUST(sendto(b, "one", 3, 0, &at, at.len));
    MUST(sendto(c, "two", 3, 0, &at, at.len));
    await(a, POLLIN);
    char in[3][8];
    struct iovec v[3];
    struct kmmsg m[3] = {0};
    for (int i = 0; i < 3; i++) {
        v[i] = (struct iovec){in[i], 8};
        m[i].m = (struct kmsg){.name = &from[i], .namelen = sizeof from[i].room, .iov = &v[i], .iovlen = 1};
    }
    R(recvmmsg(a, m, 3, MSG_WAITFORONE, NULL));
    for (int i = 0; i < 2; i++) {
        show_data("data", in[i], m[i].len);
        show_message(&m[i].m);
    }
}

CASE(many_with_a_bad_one, UDP) {
    int two[2];
    make_pair(two);
    for (int i = 0; i < 3; i++) MUST(send(two[0], "abc" + i, 1, 0));
    await(two[1], POLLIN);
    char in[8];
    struct iovec v[3] = {{in, 8}, {(void *)8, 8}, {in, 8}};
    struct kmmsg m[3] = {{.m = {.iov = &v[0], .iovlen = 1}}, {.m = {.iov = &v[1], .iovlen = 1}}, {.m = {.iov = &v[2], .iovlen = 1}}};
    R(recvmmsg(two[1], m, 3, MSG_DONTWAIT, NULL));
    show_error(two[1]);
    show_data("next", in, R(recv(two[1], in, 8, MSG_DONTWAIT)));
}

CASE(many_with_timeout, UDP) {
    int two[2];
    make_pair(two);
    MUST(send(two[0], "x", 1, 0));
    MUST(send(two[0], "y", 1, 0));
    await(two[1], POLLIN);
    char in[8];
    struct iovec v = {in, 8};
    struct kmmsg m[2] = {{.m = {.iov = &v, .iovlen = 1}}, {.m = {.iov = &v, .iovlen = 1}}};
    struct timespec t = {0, 50000000};
    R(recvmmsg(two[1], m, 2, 0, &t));
    say("some time is left: %s", t.tv_sec == 0 && t.tv_nsec > 0 && t.tv_nsec < 50000000 ? "yes" : "no");
}

CASE(end_of_stream, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    MUST(send(two[0], "last", 4, 0));
    R(shutdown(two[0], SHUT_WR));
    char in[8];
    show_poll(two[1], 0x2000);
    show_data("data", in, R(recv(two[1], in, 8, 0)));
    R(recv(two[1], in, 8, 0));
    R(recv(two[1], in, 8, 0));
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    struct iovec v = {in, 8};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
    show_flags("flags", m.flags);
}

CASE(shut_down_for_reading, INET | UNIXS) {
    int two[2];
    make_pair(two);
    R(shutdown(two[1], SHUT_RD));
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recv(two[1], in, 8, MSG_DONTWAIT));
    R(recvfrom(two[1], in, 8, MSG_DONTWAIT, &from, &from.len));
    struct iovec v = {in, 8};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, MSG_DONTWAIT));
    R(send(two[0], "x", 1, MSG_NOSIGNAL));
    show_poll_now(two[1]);
}

CASE(shut_down_for_reading_and_blocking, UDP) {
    int two[2];
    make_pair(two);
    R(shutdown(two[1], SHUT_RD));
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recv(two[1], in, 8, 0));
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    struct iovec v = {in, 8};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(recvmsg(two[1], &m, 0));
}

CASE(shut_down_unconnected, UDP) {
    int fd = bound();
    R(shutdown(fd, SHUT_RD));
    struct address at = local_of(fd);
    R(sendto(fd, "x", 1, 0, &at, at.len));
    show_poll_now(fd);
}

CASE(error_queue, UDP) {
    struct address to = loopback(quiet_port());
    int fd = fresh();
    R(set_int(fd, kind->family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, kind->family == AF_INET ? IP_RECVERR : IPV6_RECVERR, 1));
    MUST(connect(fd, &to, to.len));
    R(send(fd, "lost", 4, 0));
    show_poll(fd, POLLERR);
    char in[16], control[256];
    struct address name;
    struct iovec v = {in, 16};
    struct kmsg m = {.name = &name, .namelen = sizeof name.room, .iov = &v, .iovlen = 1, .control = control, .controllen = sizeof control};
    show_data("data", in, R(recvmsg(fd, &m, MSG_ERRQUEUE)));
    show_message(&m);
    R(recvmsg(fd, &m, MSG_ERRQUEUE));
    show_error(fd);
}

CASE(error_queue_unconnected, UDP) {
    struct address to = loopback(quiet_port());
    int fd = fresh(), level = kind->family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, name = kind->family == AF_INET ? IP_RECVERR : IPV6_RECVERR;
    R(set_int(fd, level, name, 1));
    R(setsockopt(fd, level, name, &fd, 2));
    OPTION(fd, level, name);
    R(sendto(fd, "lost", 4, 0, &to, to.len));
    show_poll_now(fd);
    char in[16], control[256];
    struct address from;
    struct iovec v = {in, 16};
    struct kmsg m = {.name = &from, .namelen = sizeof from.room, .iov = &v, .iovlen = 1, .control = control, .controllen = sizeof control};
    show_data("data", in, R(recvmsg(fd, &m, MSG_ERRQUEUE)));
    if (kind->bit != UDPM) show_message(&m);
    R(set_int(fd, level, name, 0));
    R(sendto(fd, "lost", 4, 0, &to, to.len));
    R(recvmsg(fd, &m, MSG_ERRQUEUE));
    R(setsockopt(fd, level, name, NULL, 4));
    R(setsockopt(fd, level, name, 8, 4));
    R(setsockopt(fd, level, name, &fd, -1));
}

CASE(blocked_then_sent, UDP | TCP) {
    int two[2];
    make_pair(two);
    pid_t child = fork();
    if (!child) {
        usleep(20000);
        MUST(send(two[0], "late", 4, 0));
        exit(0);
    }
    char in[8];
    struct address from = {.len = sizeof from.room};
    show_data("data", in, R(recvfrom(two[1], in, 8, 0, &from, &from.len)));
    expect_success(child);
}
