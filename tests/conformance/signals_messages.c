/* Signals while messages wait to be sent, and while several are waited for: EINTR, SA_RESTART, time limits. */
#include "signals.h"

CASE(recvmmsg_interrupted, UDP | UNIXD) {
    int two[2];
    make_pair(two);
    char in[3][8];
    struct iovec iov[3] = {{in[0], 8}, {in[1], 8}, {in[2], 8}};
    struct kmmsg m[3] = {{.m = {.iov = iov, .iovlen = 1}}, {.m = {.iov = iov + 1, .iovlen = 1}}, {.m = {.iov = iov + 2, .iovlen = 1}}};
    alarms(0);
    R(recvmmsg(two[0], m, 3, 0, NULL));
    MUST(send(two[1], "one", 3, 0));
    R(recvmmsg(two[0], m, 3, 0, NULL));
    calm();
    say("lengths %u %u", m[0].len, m[1].len);
}

/* The last of what is waited for comes when signals have come. */
CASE(recvmmsg_restarted, UDP | UNIXD) {
    int two[2];
    make_pair(two);
    char in[2][8];
    struct iovec iov[2] = {{in[0], 8}, {in[1], 8}};
    struct kmmsg m[2] = {{.m = {.iov = iov, .iovlen = 1}}, {.m = {.iov = iov + 1, .iovlen = 1}}};
    pid_t child = later();
    if (!child) {
        MUST(send(two[1], "one", 3, 0));
        exit(0);
    }
    alarms(SA_RESTART);
    /* MSG_WAITFORONE: one is enough. */
    R(recvmmsg(two[0], m, 2, MSG_WAITFORONE, NULL));
    calm();
    show_data("data", in[0], (long)m[0].len);
    expect_success(child);
}

CASE(sendmsg_interrupted, TCP | UNIXS | UNIXQ | UNIXD) {
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    struct iovec iov = {"data", 4};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    alarms(0);
    R(sendmsg(two[0], &m, 0));
    R(send(two[0], "data", 4, 0));
    calm();
}

CASE(sendmsg_limited, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    limit(two[0], SO_SNDTIMEO, 3000);
    struct iovec iov = {"data", 4};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    alarms(SA_RESTART);
    R(sendmsg(two[0], &m, 0));
    calm();
    limit(two[0], SO_SNDTIMEO, 30);
    R(sendmsg(two[0], &m, 0));
}

CASE(sendmsg_restarted, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    pid_t child = later();
    if (!child) {
        close(two[0]);
        char in[65536];
        long n = 0, got;
        while ((got = recv(two[1], in, sizeof in, 0)) > 0) n += got;
        exit(n == 0);
    }
    struct iovec iov = {"data", 4};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    alarms(SA_RESTART);
    R(sendmsg(two[0], &m, 0));
    calm();
    shutdown(two[0], SHUT_WR);
    expect_success(child);
}

/* More than there is room for: what went is the result. */
CASE(sendmsg_partly, TCP) {
    int two[2];
    make_pair(two);
    set_int(two[0], SOL_SOCKET, SO_SNDBUF, 8192);
    size_t length = 64 << 20;
    char *data = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec iov = {data, length};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    alarms(SA_RESTART);
    long n = sendmsg(two[0], &m, 0);
    say("sendmsg: %s", n > 0 && n < (long)length ? "a part" : errname(errno));
    calm();
}

static struct kmmsg two_of[2];
static void two_messages(void) {
    static struct iovec iov = {"data", 4};
    for (int i = 0; i < 2; i++) two_of[i] = (struct kmmsg){.m = {.iov = &iov, .iovlen = 1}};
}

CASE(sendmmsg_interrupted, TCP | UNIXS | UNIXQ | UNIXD) {
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    two_messages();
    alarms(0);
    R(sendmmsg(two[0], two_of, 2, 0));
    calm();
}

/* There is room for one of two: that it went is the result. */
CASE(sendmmsg_partly, UNIXD) {
    int two[2];
    make_pair(two);
    char block[4096] = "";
    while (send(two[0], block, 8, MSG_DONTWAIT) > 0) {}
    MUST(recv(two[1], block, sizeof block, 0));
    two_messages();
    alarms(0);
    R(sendmmsg(two[0], two_of, 2, 0));
    calm();
    say("lengths %u %u", two_of[0].len, two_of[1].len);
}

CASE(sendmmsg_limited, TCP | UNIXS | UNIXD) {
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    two_messages();
    limit(two[0], SO_SNDTIMEO, 30);
    R(sendmmsg(two[0], two_of, 2, 0));
}

CASE(sendmmsg_restarted, TCP | UNIXS | UNIXQ | UNIXD) {
    int two[2];
    make_pair(two);
    fill_up(two[0]);
    pid_t child = later();
    if (!child) {
        close(two[0]);
        char in[65536];
        long n = 0, got;
        while ((got = recv(two[1], in, sizeof in, 0)) > 0 && in[0] != 'e') n += got;
        exit(n == 0);
    }
    two_messages();
    alarms(SA_RESTART);
    R(sendmmsg(two[0], two_of, 2, 0));
    calm();
    say("lengths %u %u", two_of[0].len, two_of[1].len);
    if (kind->type == SOCK_DGRAM) MUST(send(two[0], "end", 3, 0));
    shutdown(two[0], SHUT_WR);
    expect_success(child);
}

CASE(sendto_full, UNIXD) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    char block[64] = "";
    while (sendto(two[0], block, sizeof block, MSG_DONTWAIT, &at[1], at[1].len) > 0) {}
    alarms(0);
    R(sendto(two[0], "data", 4, 0, &at[1], at[1].len));
    handle(SIGALRM, SA_RESTART);
    pid_t child = later();
    if (!child) exit(recv(two[1], block, sizeof block, 0) < 0);
    R(sendto(two[0], "data", 4, 0, &at[1], at[1].len));
    calm();
    expect_success(child);
}
