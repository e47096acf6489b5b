/* line ONE OTHER MICROSECONDS LOSS: carries every frame between two network interfaces, each after this time, but for LOSS of a thousand.
 * Ends when its standard input ends. Frames keep what the kernel notes of them (segmentation and checksums that are still to be done), so that
 * large ones of the hosts' TCP pass as they are (packet(7), PACKET_VNET_HDR). */
#include "t.h"
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>

#ifndef PACKET_VNET_HDR
#define PACKET_VNET_HDR 15
#endif
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

enum { ROOM = 4096, LARGEST = 70000 };

struct frame {
    uint64_t due; /* nanoseconds */
    int to;
    size_t length;
    unsigned char *bytes;
};

/* All frames wait equally long: the first in is the first out. */
static struct frame queue[ROOM];
static size_t first, count;

static uint64_t now(void) {
    struct timespec t;
    MUST(clock_gettime(CLOCK_MONOTONIC, &t));
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_on(const char *name) {
    int fd = (int)MUST(socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0));
    int one = 1;
    MUST(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one));
    MUST(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one));
    int room = 8 << 20;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room));
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    at.sll_ifindex = (int)if_nametoindex(name);
    CHECK(at.sll_ifindex > 0);
    MUST(bind(fd, (struct sockaddr *)&at, sizeof at));
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: line ONE OTHER MICROSECONDS LOSS\n");
        return 2;
    }
    uint64_t delay = strtoull(argv[3], NULL, 10) * 1000;
    unsigned loss = (unsigned)atoi(argv[4]);
    int ends[2] = {open_on(argv[1]), open_on(argv[2])};
    unsigned seed = 1; /* the same losses in each run */
    static unsigned char buffer[LARGEST];
    say("carrying between %s and %s", argv[1], argv[2]);
    for (;;) {
        while (count > 0 && queue[first].due <= now()) {
            struct frame *f = &queue[first];
            /* What the interface refuses (ENOBUFS, it is down) is lost, as on any line. */
            ssize_t ignored = write(f->to, f->bytes, f->length);
            (void)ignored;
            free(f->bytes);
            first = (first + 1) % ROOM;
            count--;
        }
        struct timespec wait, *limit = NULL;
        if (count > 0) {
            uint64_t at = now(), left = queue[first].due > at ? queue[first].due - at : 0;
            wait = (struct timespec){.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
            limit = &wait;
        }
        struct pollfd polled[3] = {{.fd = ends[0], .events = POLLIN}, {.fd = ends[1], .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        if (ppoll(polled, 3, limit, NULL) < 0) {
            CHECK(errno == EINTR);
            continue;
        }
        if (polled[2].revents) return 0;
        for (int i = 0; i < 2; i++) {
            ssize_t n;
            for (int turns = 0; turns < 64 && (n = read(ends[i], buffer, sizeof buffer)) > 0; turns++) {
                if (count == ROOM || (unsigned)rand_r(&seed) % 1000 < loss) continue;
                struct frame *f = &queue[(first + count) % ROOM];
                *f = (struct frame){.due = now() + delay, .to = ends[1 - i], .length = (size_t)n, .bytes = malloc((size_t)n)};
                CHECK(f->bytes != NULL);
                memcpy(f->bytes, buffer, (size_t)n);
                count++;
            }
        }
    }
}
