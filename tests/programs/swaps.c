/* swaps COUNT: one thread receives COUNT times by a descriptor number that another one gives to one socket after the other: two of UDP, two of
 * AF_UNIX, a pipe, none. Whatever the number means at the moment: what comes is somebody's, whole, from whom it says, and nothing is lost. */
#include "t.h"
#include <pthread.h>

enum { UDP_ONE, UDP_TWO, DATAGRAMS, STREAM, PIPE, ALL, NUMBER = 200 };
static int ends[ALL][2]; /* one sends to the other */
static struct address from[ALL];
static long sent[ALL], received[ALL];
static volatile bool going = true;

static int bound_udp(struct address name) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(bind(fd, &name.any, name.len));
    return fd;
}

static void *swap(void *unused) {
    for (unsigned i = 0; going; i++) {
        /* Long enough for a few calls, now and then. */
        if (i % 64 == 0) usleep(20);
        if (i % 7 == 6) close(NUMBER);
        else dup2(ends[i % ALL][1], NUMBER);
    }
    return unused;
}

/* A message says whose it is, and the how many-th. */
static void send_one(int whose) {
    char text[16];
    int length = snprintf(text, sizeof text, "%d%014ld", whose, sent[whose]);
    CHECK(length == 15);
    CHECK(MUST(write(ends[whose][0], text, 15)) == 15);
    sent[whose]++;
}

static void take(const char *text, ssize_t length, const struct address *name) {
    CHECK(length == 15);
    int whose = text[0] - '0';
    CHECK(whose >= 0 && whose < ALL);
    CHECK(strtol(text + 1, NULL, 10) == received[whose]);
    received[whose]++;
    if (name && whose <= UDP_TWO) CHECK(same_address(name, &from[whose]));
    else if (name) CHECK(name->len == 0);
}

/* What has not come by the number. */
static void drain(void) {
    for (int whose = 0; whose < ALL; whose++)
        while (received[whose] < sent[whose]) {
            char text[16] = "";
            take(text, MUST(read(ends[whose][1], text, 15)), NULL);
        }
}

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 1000, came = 0, refused[4] = {0};
    for (int i = UDP_ONE; i <= UDP_TWO; i++) {
        ends[i][1] = bound_udp(loopback_v4(0));
        ends[i][0] = bound_udp(i ? any_v4(0) : loopback_v4(0));
        struct address to = local_of(ends[i][1]);
        MUST(connect(ends[i][0], &to.any, to.len));
        from[i] = local_of(ends[i][0]);
    }
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends[DATAGRAMS]));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends[STREAM]));
    MUST(pipe(ends[PIPE]));
    int in = ends[PIPE][0];
    ends[PIPE][0] = ends[PIPE][1], ends[PIPE][1] = in;
    pthread_t swapper;
    CHECK(pthread_create(&swapper, NULL, swap, NULL) == 0);
    for (long i = 0; i < count; i++) {
        if (i % 3 == 0) send_one((int)(i / 3 % ALL));
        char text[16] = "";
        struct address name = {.len = sizeof name.room};
        ssize_t length = recvfrom(NUMBER, text, 15, MSG_DONTWAIT, &name.any, &name.len);
        if (length >= 0) take(text, length, &name), came++;
        else if (errno == EAGAIN) refused[0]++;
        else if (errno == EBADF) refused[1]++;
        else if (errno == ENOTSOCK) refused[2]++;
        else fail("recvfrom");
        if (i % 64 == 63) drain();
    }
    going = false;
    pthread_join(swapper, NULL);
    drain();
    for (int whose = 0; whose < ALL; whose++) CHECK(received[whose] == sent[whose]);
    say("%ld calls: %ld came, %ld nothing there, %ld not open, %ld no socket", count, came, refused[0], refused[1], refused[2]);
    return 0;
}
