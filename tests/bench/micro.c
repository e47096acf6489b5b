/* bench-micro socket|bind|getsockname COUNT: the median cost of one call (socket: with its close) in nanoseconds. */
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

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: bench-micro socket|bind|getsockname COUNT\n");
        return 2;
    }
    int count = atoi(argv[2]);
    int64_t *samples = calloc((size_t)count, sizeof *samples);
    CHECK(samples && count > 0);
    struct address any = loopback_v4(0), out;
    /* The row "socket" is about sockets that the filter alone decides: that program makes no other call. */
    int bound = -1;
    if (!strcmp(argv[1], "getsockname")) {
        bound = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(bind(bound, &any.any, any.len));
    }
    for (int i = 0; i < count; i++) {
        int64_t start, end;
        if (!strcmp(argv[1], "socket")) {
            start = now();
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            close(fd);
            end = now();
            CHECK(fd >= 0);
        } else if (!strcmp(argv[1], "bind")) {
            int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
            start = now();
            int r = bind(fd, &any.any, any.len);
            end = now();
            MUST(r);
            close(fd);
        } else {
            out.len = sizeof out.room;
            start = now();
            int r = getsockname(bound, &out.any, &out.len);
            end = now();
            MUST(r);
        }
        samples[i] = end - start;
    }
    qsort(samples, (size_t)count, sizeof *samples, compare);
    say("median %lld ns", (long long)samples[count / 2]);
    return 0;
}
