/* bench-streams serve PORT | HOST PORT COUNT SECONDS [BYTES]: COUNT connections at once, on each of which the server writes without end
 * once it has been sent a byte.
 * The client reads them all for a time, or until so much has come, and prints the bytes that came on all of them, on the slowest and on the mean one. */
#include "../programs/t.h"

enum { MOST = 4096, PIECE = 64 * 1024 };
static char bytes[PIECE];

static void nonblocking(int fd) {
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
}

static int serve(int port) {
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), events = (int)MUST(epoll_create1(0)), one = 1;
    struct address at = any_v4(port);
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    MUST(bind(listener, &at.any, at.len));
    MUST(listen(listener, MOST));
    nonblocking(listener);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    MUST(epoll_ctl(events, EPOLL_CTL_ADD, listener, &event));
    signal(SIGPIPE, SIG_IGN);
    say("listening on %d", port);
    for (;;) {
        static struct epoll_event ready[64];
        int n = (int)MUST(epoll_wait(events, ready, 64, -1));
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd != listener) {
                if (ready[i].events & EPOLLIN) {
                    event = (struct epoll_event){.events = EPOLLOUT, .data.fd = fd};
                    MUST(epoll_ctl(events, EPOLL_CTL_MOD, fd, &event));
                } else if (write(fd, bytes, sizeof bytes) < 0 && errno != EAGAIN) {
                    close(fd);
                }
                continue;
            }
            int new;
            while ((new = accept(listener, NULL, NULL)) >= 0) {
                nonblocking(new);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = new};
                MUST(epoll_ctl(events, EPOLL_CTL_ADD, new, &event));
            }
            CHECK(errno == EAGAIN);
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) return serve(port_arg(argv[2]));
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: bench-streams serve PORT | HOST PORT COUNT SECONDS [BYTES]\n");
        return 2;
    }
    struct address to = resolve(argv[1], argv[2], SOCK_STREAM);
    int count = atoi(argv[3]), events = (int)MUST(epoll_create1(0));
    static uint64_t came[MOST];
    static int fds[MOST];
    CHECK(count > 0 && count <= MOST);
    for (int i = 0; i < count; i++) {
        int fd = (int)MUST(socket(to.any.sa_family, SOCK_STREAM, 0));
        MUST(connect(fd, &to.any, to.len));
        nonblocking(fd);
        fds[i] = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)i << 32 | (unsigned)fd};
        MUST(epoll_ctl(events, EPOLL_CTL_ADD, fd, &event));
    }
    for (int i = 0; i < count; i++) write_all(fds[i], bytes, 1);
    double end = seconds_now() + atof(argv[4]);
    uint64_t all = 0, least = UINT64_MAX, most = argc == 6 ? strtoull(argv[5], NULL, 10) : UINT64_MAX;
    while (seconds_now() < end && all < most) {
        static struct epoll_event ready[64];
        int n = (int)MUST(epoll_wait(events, ready, 64, 100));
        for (int i = 0; i < n; i++) {
            ssize_t got = read((int)(uint32_t)ready[i].data.u64, bytes, sizeof bytes);
            CHECK(got > 0 || errno == EAGAIN);
            if (got <= 0) continue;
            came[ready[i].data.u64 >> 32] += (uint64_t)got;
            all += (uint64_t)got;
        }
    }
    for (int i = 0; i < count; i++)
        if (came[i] < least) least = came[i];
    say("all %.0f, slowest %.0f, mean %.1f", (double)all, (double)least, (double)all / count);
    return 0;
}
