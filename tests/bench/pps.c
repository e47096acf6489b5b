/* bench-pps receive PORT | send HOST PORT BYTES SECONDS: datagrams a second between two unconnected UDP sockets, one
 * sendto() or recvfrom() with an address each.
 * The sender goes as fast as it can, then says the end as often as it takes. The receiver prints how many came in a second,
 * from the first one to the last, and how many of those that were sent. */
#include "../programs/t.h"

/* The first bytes of a datagram: its number, or that all are sent. */
struct head {
    uint64_t number;
    uint64_t sent; /* 0: more are to come */
};

static int receive(int port) {
    static char in[65536];
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address at = any_v4(port);
    MUST(bind(fd, &at.any, at.len));
    say("listening on %d", port);
    uint64_t received = 0;
    double first = 0, last = 0;
    for (;;) {
        struct address from = {.len = sizeof from.room};
        ssize_t n = MUST(recvfrom(fd, in, sizeof in, 0, &from.any, &from.len));
        struct head head;
        CHECK((size_t)n >= sizeof head);
        memcpy(&head, in, sizeof head);
        if (head.sent) {
            CHECK(received > 1 && last > first);
            say("received %.1f pps, %.4f of all", (double)received / (last - first), (double)received / (double)head.sent);
            MUST(sendto(fd, "", 1, 0, &from.any, from.len));
            return 0;
        }
        if (!head.number) continue; /* the one that opened the session */
        last = seconds_now();
        if (!received++) first = last;
    }
}

static int transmit(struct address to, size_t bytes, double seconds) {
    static char out[65536];
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct head head = {0};
    CHECK(bytes >= sizeof head && bytes <= sizeof out);
    /* The session stands before the clock runs. */
    MUST(sendto(fd, &head, sizeof head, 0, &to.any, to.len));
    usleep(300 * 1000);
    double start = seconds_now(), end = start;
    while (end - start < seconds) {
        for (int i = 0; i < 32; i++) {
            head.number++;
            memcpy(out, &head, sizeof head);
            ssize_t n = sendto(fd, out, bytes, 0, &to.any, to.len);
            CHECK(n == (ssize_t)bytes || (n < 0 && errno == ENOBUFS));
        }
        end = seconds_now();
    }
    head.sent = head.number;
    say("sent %.1f pps", (double)head.sent / (end - start));
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    for (int i = 0; i < 100 && MUST(poll(&answer, 1, 50)) == 0; i++)
        MUST(sendto(fd, &head, sizeof head, 0, &to.any, to.len));
    CHECK(answer.revents & POLLIN);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "receive")) return receive(port_arg(argv[2]));
    if (argc == 6 && !strcmp(argv[1], "send"))
        return transmit(resolve(argv[2], argv[3], SOCK_DGRAM), (size_t)atoi(argv[4]), atof(argv[5]));
    fprintf(stderr, "usage: bench-pps receive PORT | send HOST PORT BYTES SECONDS\n");
    return 2;
}
