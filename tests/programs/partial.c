/* partial: calls that end in the middle, each as Linux ends it. Fails with a line where one differs.
 *   partial waitall | nosignal | timeout | whole | datagram | reopened */
#include "t.h"

static void pair(int ends[2]) {
    int listener = listen_on(loopback_v4(0), 4);
    struct address at = local_of(listener);
    ends[0] = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(ends[0], &at.any, at.len));
    ends[1] = (int)MUST(accept(listener, NULL, NULL));
    close(listener);
}

static char big[4 << 20];

static long send_message(int fd, size_t length, int flags) {
    struct iovec piece = {big, length};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1};
    return sendmsg(fd, &m, flags);
}

/* MSG_WAITALL that may not wait gives what is there, and loses nothing. */
static void waitall(void) {
    int ends[2];
    pair(ends);
    MUST(send(ends[0], "hello", 5, 0));
    struct pollfd p = {.fd = ends[1], .events = POLLIN};
    CHECK(MUST(poll(&p, 1, 5000)) == 1);
    char in[100];
    struct iovec piece = {in, sizeof in};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1};
    CHECK(MUST(recvmsg(ends[1], &m, MSG_WAITALL | MSG_DONTWAIT)) == 5 && !memcmp(in, "hello", 5));
}

/* A send that had to wait keeps its MSG_NOSIGNAL. */
static void nosignal(void) {
    int ends[2];
    pair(ends);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        close(ends[0]);
        usleep(200000);
        struct linger reset = {1, 0};
        MUST(setsockopt(ends[1], SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
        _exit(0);
    }
    close(ends[1]);
    for (int i = 0; i < 64; i++) {
        long n = send_message(ends[0], sizeof big, MSG_NOSIGNAL);
        if (n < 0) {
            CHECK(errno == EPIPE || errno == ECONNRESET);
            expect_success(child);
            return;
        }
    }
    fail("the peer's end was never noticed");
}

/* SO_SNDTIMEO ends a send that waits. */
static void timeout(void) {
    int ends[2];
    pair(ends);
    struct timeval half = {.tv_usec = 500000};
    MUST(setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &half, sizeof half));
    alarm(10);
    long n;
    while ((n = send_message(ends[0], sizeof big, 0)) > 0) {}
    CHECK(n < 0 && errno == EAGAIN);
}

/* A blocking send is a whole one. */
static void whole(void) {
    int ends[2];
    pair(ends);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        close(ends[0]);
        size_t sum = 0;
        for (ssize_t n; (n = read(ends[1], big, sizeof big)) > 0;) sum += (size_t)n;
        _exit(sum == sizeof big ? 0 : 1);
    }
    close(ends[1]);
    CHECK(MUST(send_message(ends[0], sizeof big, 0)) == sizeof big);
    close(ends[0]);
    expect_success(child);
}

/* A datagram socket raises no SIGPIPE. */
static void datagram(void) {
    int a = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), b = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address at = loopback_v4(0);
    MUST(bind(b, &at.any, at.len));
    at = local_of(b);
    MUST(connect(a, &at.any, at.len));
    MUST(shutdown(a, SHUT_WR));
    MUST_FAIL(sendto(a, "x", 1, 0, &at.any, at.len), EPIPE);
}

/* A receiver that is opened again on its port hears a sender that knew the first one. */
static void reopened(void) {
    int sender = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address at = loopback_v4(0);
    for (int i = 0; i < 3; i++) {
        int receiver = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
        MUST(bind(receiver, &at.any, at.len));
        at = local_of(receiver);
        struct timeval limit = {.tv_usec = 300000};
        MUST(setsockopt(receiver, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
        char in[8];
        struct address from;
        /* A datagram may be lost: the second one at the latest arrives. */
        for (int tries = 0;; tries++) {
            CHECK(tries < 5);
            MUST(sendto(sender, "x", 1, 0, &at.any, at.len));
            from.len = sizeof from.room;
            if (recvfrom(receiver, in, sizeof in, 0, &from.any, &from.len) == 1) break;
            CHECK(errno == EAGAIN);
        }
        close(receiver);
    }
}

int main(int argc, char **argv) {
    const struct { const char *name; void (*run)(void); } parts[] = {
        {"waitall", waitall}, {"nosignal", nosignal}, {"timeout", timeout},
        {"whole", whole},     {"datagram", datagram}, {"reopened", reopened},
    };
    for (size_t i = 0; argc == 2 && i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(argv[1], parts[i].name)) continue;
        parts[i].run();
        say("%s: as on Linux", argv[1]);
        return 0;
    }
    fprintf(stderr, "usage: partial waitall|nosignal|timeout|whole|datagram|reopened\n");
    return 2;
}
