/* epoll-server PORT [CONNECTIONS]: an echo server on one edge-triggered epoll; every socket is non-blocking.
 * Ends well after CONNECTIONS, if given. */
#include "t.h"

enum { ROOM = 1 << 16 };
struct conn {
    int fd;
    size_t start, end;
    bool eof;
    char data[ROOM];
};

/* Moves what can be moved; true when the connection is done. */
static bool pump(struct conn *c) {
    for (;;) {
        bool moved = false;
        if (c->start < c->end) {
            ssize_t n = send(c->fd, c->data + c->start, c->end - c->start, MSG_NOSIGNAL);
            if (n > 0) {
                c->start += (size_t)n;
                moved = true;
            } else if (errno != EAGAIN) {
                fail("send to a client");
            }
        }
        if (c->start == c->end) {
            c->start = c->end = 0;
            if (c->eof) return true;
        }
        if (!c->eof && c->end < ROOM) {
            ssize_t n = recv(c->fd, c->data + c->end, ROOM - c->end, 0);
            if (n > 0) {
                c->end += (size_t)n;
                moved = true;
            } else if (n == 0) {
                c->eof = moved = true;
            } else if (errno != EAGAIN) {
                fail("recv from a client");
            }
        }
        if (!moved) return false;
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: epoll-server PORT [CONNECTIONS]\n");
        return 2;
    }
    int left = argc > 2 ? atoi(argv[2]) : -1;
    int ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    int one = 1, listener = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    struct address at = any_v4(port_arg(argv[1]));
    MUST(bind(listener, &at.any, at.len));
    /* Registered before listen(): the registration must outlive whatever listen() does. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, listener, &event));
    MUST(listen(listener, 128));
    MUST_FAIL(accept4(listener, NULL, NULL, SOCK_NONBLOCK), EAGAIN);
    struct address local = local_of(listener);
    say("listening on %s", text_of(&local));
    while (left != 0) {
        struct epoll_event events[32];
        int n = epoll_wait(ep, events, 32, -1);
        if (n < 0 && errno == EINTR) continue;
        MUST(n);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                for (;;) {
                    struct address peer = {.len = sizeof peer.room};
                    int fd = accept4(listener, &peer.any, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (fd < 0) {
                        CHECK(errno == EAGAIN);
                        break;
                    }
                    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
                    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
                    say("peer %s", text_of(&peer));
                    c = calloc(1, sizeof *c);
                    CHECK(c);
                    c->fd = fd;
                    event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
                    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
                }
            } else if (pump(c)) {
                MUST(close(c->fd));
                free(c);
                if (left > 0) left--;
            }
        }
    }
    say("served all");
    return 0;
}
