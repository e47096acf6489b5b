/* bench-connects HOST PORT COUNT: COUNT connections one after the other, each used once and closed.
 * Prints how long the first connect() took, the median of all, and that of connect() to close() with one byte said and echoed between, in
 * microseconds. */
#include "../programs/t.h"

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: bench-connects HOST PORT COUNT\n");
        return 2;
    }
    struct address to = resolve(argv[1], argv[2], SOCK_STREAM);
    int count = atoi(argv[3]);
    double *samples = calloc((size_t)count, sizeof *samples), *wholes = calloc((size_t)count, sizeof *wholes);
    CHECK(samples && wholes && count > 0);
    for (int i = 0; i < count; i++) {
        int fd = (int)MUST(socket(to.any.sa_family, SOCK_STREAM, 0));
        double start = seconds_now();
        int r = connect(fd, &to.any, to.len);
        samples[i] = (seconds_now() - start) * 1e6;
        MUST(r);
        char byte = 'x';
        write_all(fd, &byte, 1);
        CHECK(read_all(fd, &byte, 1) == 1);
        MUST(close(fd));
        wholes[i] = (seconds_now() - start) * 1e6;
    }
    double first = samples[0];
    qsort(samples, (size_t)count, sizeof *samples, compare);
    qsort(wholes, (size_t)count, sizeof *wholes, compare);
    say("first %.1f us, median %.1f us, whole %.1f us", first, samples[count / 2], wholes[count / 2]);
    return 0;
}
