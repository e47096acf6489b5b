/* bench-micro CALL COUNT [SOCKETS [USED]]: the median cost of one system call in nanoseconds, measured COUNT times.
 *   socket       socket() and its close()
 *   bind         bind() of a TCP socket to 127.0.0.1, port 0
 *   getsockname  of a bound socket
 *   sendto       64 bytes to a UDP socket of this program, with its address
 *   recvfrom     64 bytes that are there, with the sender's address
 *   recvmsg      the same
 *   accept       accept() with the peer's address of a connection that waits, and close() of what it gave
 *   connect      connect() of a blocking TCP socket to a listener of this program
 * With SOCKETS, so many UDP sockets are bound before, and getsockname and sendto are about one after the other of them, or of USED among them. */
#include "../programs/t.h"

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int bound(int type) {
    struct address any = loopback_v4(0);
    int fd = (int)MUST(socket(AF_INET, type, 0));
    MUST(bind(fd, &any.any, any.len));
    return fd;
}

/* Closes without leaving a TIME_WAIT behind: there is only one port for each. */
static void reset(int fd) {
    struct linger at_once = {.l_onoff = 1};
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    MUST(close(fd));
}

static int *many;
static int held, used;
/* What is measured, and who it is measured against. */
static int subject, other;
static struct address other_at;
static char data[64];

/* One of the sockets that are used, far from the last one; else the only one. */
static int next_subject(int i) {
    return held ? many[(int64_t)i * 7919 % used * (held / used)] : subject;
}

static int64_t measure_socket(int i) {
    (void)i;
    int64_t start = now();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    close(fd);
    int64_t end = now();
    CHECK(fd >= 0);
    return end - start;
}

static int64_t measure_bind(int i) {
    (void)i;
    struct address any = loopback_v4(0);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    int64_t start = now();
    int r = bind(fd, &any.any, any.len);
    int64_t end = now();
    MUST(r);
    close(fd);
    return end - start;
}

static int64_t measure_getsockname(int i) {
    struct address out = {.len = sizeof out.room};
    int fd = next_subject(i);
    int64_t start = now();
    int r = getsockname(fd, &out.any, &out.len);
    int64_t end = now();
    MUST(r);
    return end - start;
}

static int64_t measure_sendto(int i) {
    char in[64];
    int fd = next_subject(i);
    int64_t start = now();
    ssize_t n = sendto(fd, data, sizeof data, 0, &other_at.any, other_at.len);
    int64_t end = now();
    CHECK(n == sizeof data);
    CHECK(MUST(recv(other, in, sizeof in, 0)) == sizeof data);
    return end - start;
}

static int64_t measure_recvfrom(int i) {
    (void)i;
    char in[64];
    struct address from = {.len = sizeof from.room};
    CHECK(MUST(sendto(subject, data, sizeof data, 0, &other_at.any, other_at.len)) == sizeof data);
    int64_t start = now();
    ssize_t n = recvfrom(other, in, sizeof in, 0, &from.any, &from.len);
    int64_t end = now();
    CHECK(n == sizeof data && from.len == sizeof from.v4);
    return end - start;
}

static int64_t measure_recvmsg(int i) {
    (void)i;
    char in[64];
    struct address from;
    struct iovec slice = {in, sizeof in};
    struct msghdr message = {.msg_name = &from.any, .msg_namelen = sizeof from.room, .msg_iov = &slice, .msg_iovlen = 1};
    CHECK(MUST(sendto(subject, data, sizeof data, 0, &other_at.any, other_at.len)) == sizeof data);
    int64_t start = now();
    ssize_t n = recvmsg(other, &message, 0);
    int64_t end = now();
    CHECK(n == sizeof data && message.msg_namelen == sizeof from.v4);
    return end - start;
}

static int64_t measure_accept(int i) {
    (void)i;
    struct address from = {.len = sizeof from.room};
    int client = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, &other_at.any, other_at.len));
    int64_t start = now();
    int fd = accept(other, &from.any, &from.len);
    close(fd);
    int64_t end = now();
    CHECK(fd >= 0 && from.len == sizeof from.v4);
    reset(client);
    return end - start;
}

static int64_t measure_connect(int i) {
    /* Neither the accept() nor the end of a connection is what is measured here, nor on which processor they leave the caller: both
     * come for some connections together, and both ends live for a while. */
    enum { TOGETHER = 8, ALL = 4 * TOGETHER };
    static int ends[ALL][2];
    int at = i % ALL, first = at - i % TOGETHER, last = first + TOGETHER - 1;
    for (int k = first; i >= ALL && at == first && k <= last; k++) {
        reset(ends[k][1]);
        MUST(close(ends[k][0]));
    }
    ends[at][0] = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    int64_t start = now();
    int r = connect(ends[at][0], &other_at.any, other_at.len);
    int64_t end = now();
    MUST(r);
    for (int k = first; at == last && k <= last; k++) ends[k][1] = (int)MUST(accept(other, NULL, NULL));
    return end - start;
}

static void hold(int count) {
    struct rlimit files;
    MUST(getrlimit(RLIMIT_NOFILE, &files));
    files.rlim_cur = files.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &files));
    many = calloc((size_t)count, sizeof *many);
    CHECK(many);
    for (held = 0; held < count; held++) many[held] = bound(SOCK_DGRAM);
    used = count;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int64_t (*measure)(int i);
        int type; /* of the two sockets that it needs; 0: none */
    } calls[] = {
        /* The row "socket" is about sockets that the filter alone decides: that program makes no other call. */
        {"socket", measure_socket, 0},
        {"bind", measure_bind, 0},
        {"getsockname", measure_getsockname, SOCK_DGRAM},
        {"sendto", measure_sendto, SOCK_DGRAM},
        {"recvfrom", measure_recvfrom, SOCK_DGRAM},
        {"recvmsg", measure_recvmsg, SOCK_DGRAM},
        {"accept", measure_accept, SOCK_STREAM},
        {"connect", measure_connect, SOCK_STREAM},
    };
    size_t which = 0;
    while (argc >= 3 && which < sizeof calls / sizeof *calls && strcmp(argv[1], calls[which].name)) which++;
    if (argc < 3 || argc > 5 || which == sizeof calls / sizeof *calls) {
        fprintf(stderr, "usage: bench-micro CALL COUNT [SOCKETS [USED]]\n");
        return 2;
    }
    int count = atoi(argv[2]);
    int64_t *samples = calloc((size_t)count, sizeof *samples);
    CHECK(samples && count > 0);
    if (argc > 3) hold(atoi(argv[3]));
    if (argc > 4) used = atoi(argv[4]);
    CHECK(used >= 0 && used <= held);
    if (calls[which].type) {
        subject = bound(calls[which].type);
        other = bound(calls[which].type);
        if (calls[which].type == SOCK_STREAM) MUST(listen(other, 16));
        other_at = local_of(other);
    }
    /* The first datagram of a socket finds its way; what is measured is what each further one costs. */
    for (int i = 0; i < used && calls[which].measure == measure_sendto; i++) measure_sendto(i);
    for (int i = 0; i < count; i++) samples[i] = calls[which].measure(i);
    qsort(samples, (size_t)count, sizeof *samples, compare);
    say("median %lld ns", (long long)samples[count / 2]);
    return 0;
}
