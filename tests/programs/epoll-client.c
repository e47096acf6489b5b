/* epoll-client HOST PORT lt|et SOCKETS [BYTES]: opens SOCKETS non-blocking sockets, registers each with epoll *before* connect(),
 * then lets every one send BYTES and read them back. Level- or edge-triggered.
 * Checks what connect() says the first, second and third time, and SO_ERROR. Exit status: 0; 1 a deviation; 3 connect failed. */
#include "t.h"

struct conn {
    int fd, number;
    bool connected, shut;
    size_t sent, back;
};

static size_t bytes = 20000;
static bool edge;

static unsigned char byte_at(const struct conn *c, size_t i) { return (unsigned char)(i * 7 + (size_t)c->number); }

/* True when all has come back and the other side has closed. */
static bool pump(struct conn *c, int ep, uint32_t events) {
    unsigned char buffer[4096];
    while ((events & EPOLLOUT || edge) && c->sent < bytes) {
        size_t n = bytes - c->sent < sizeof buffer ? bytes - c->sent : sizeof buffer;
        for (size_t i = 0; i < n; i++) buffer[i] = byte_at(c, c->sent + i);
        ssize_t w = send(c->fd, buffer, n, MSG_NOSIGNAL);
        if (w < 0) {
            CHECK(errno == EAGAIN);
            break;
        }
        c->sent += (size_t)w;
    }
    if (c->sent == bytes && !c->shut) {
        MUST(shutdown(c->fd, SHUT_WR));
        c->shut = true;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (edge ? EPOLLET : 0u), .data.ptr = c};
        MUST(epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e)); /* ENOENT if the file under the fd was exchanged */
    }
    for (;;) {
        ssize_t r = recv(c->fd, buffer, sizeof buffer, 0);
        if (r < 0) {
            CHECK(errno == EAGAIN);
            return false;
        }
        if (r == 0) {
            CHECK(c->back == bytes);
            return true;
        }
        for (ssize_t i = 0; i < r; i++) CHECK(buffer[i] == byte_at(c, c->back + (size_t)i));
        c->back += (size_t)r;
        CHECK(c->back <= bytes);
    }
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: epoll-client HOST PORT lt|et SOCKETS [BYTES]\n");
        return 2;
    }
    struct address to = resolve(argv[1], argv[2], SOCK_STREAM);
    edge = strcmp(argv[3], "et") == 0;
    int count = atoi(argv[4]), done = 0, at_once = 0, in_progress = 0;
    if (argc > 5) bytes = strtoul(argv[5], NULL, 10);
    int ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    struct conn *conns = calloc((size_t)count, sizeof *conns);
    CHECK(conns);
    for (int i = 0; i < count; i++) {
        struct conn *c = &conns[i];
        c->number = i;
        c->fd = (int)MUST(socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | (edge ? EPOLLET : 0u), .data.ptr = c};
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e));
    }
    if (edge) {
        /* A fresh socket polls as OUT|HUP: those edges go before the first connect(), as event loops do it. */
        struct epoll_event fresh[64];
        while (MUST(epoll_wait(ep, fresh, 64, 0)) > 0) CHECK(fresh[0].events == (EPOLLOUT | EPOLLHUP));
    }
    for (int i = 0; i < count; i++) {
        struct conn *c = &conns[i];
        int r = connect(c->fd, &to.any, to.len);
        if (r == 0) {
            at_once++;
        } else if (errno == EINPROGRESS) {
            in_progress++;
            /* Linux: EALREADY while the handshake runs; 0 to the first connect() after it; EISCONN then. */
            r = connect(c->fd, &to.any, to.len);
            CHECK(r == 0 || errno == EALREADY || errno == EISCONN || errno == ECONNREFUSED || errno == EHOSTUNREACH ||
                  errno == ENETUNREACH);
            if (r < 0 && errno != EALREADY && errno != EISCONN) {
                fprintf(stderr, "connect to %s: %s (told to the second connect)\n", text_of(&to), errname(errno));
                return 3;
            }
        } else {
            fprintf(stderr, "connect to %s: %s\n", text_of(&to), errname(errno));
            return 3;
        }
    }
    say("%d connected at once, %d in progress", at_once, in_progress);
    while (done < count) {
        struct epoll_event events[32];
        int n = (int)MUST(epoll_wait(ep, events, 32, 20000));
        if (n == 0) fail("nothing happened for 20 s: %d of %d done", done, count);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c->connected) {
                if (!(events[i].events & (EPOLLOUT | EPOLLERR))) continue;
                int e = so_error(c->fd);
                if (e) {
                    CHECK(events[i].events & (EPOLLERR | EPOLLHUP));
                    CHECK(so_error(c->fd) == 0); /* told once */
                    fprintf(stderr, "connect to %s: %s (by SO_ERROR)\n", text_of(&to), errname(e));
                    return 3;
                }
                CHECK(!(events[i].events & EPOLLHUP));
                int r = connect(c->fd, &to.any, to.len);
                CHECK(r == 0 || errno == EISCONN);
                MUST_FAIL(connect(c->fd, &to.any, to.len), EISCONN);
                struct address peer = peer_of(c->fd);
                CHECK(same_address(&peer, &to));
                c->connected = true;
            }
            if (pump(c, ep, events[i].events)) {
                MUST(epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL));
                MUST(close(c->fd));
                done++;
            }
        }
    }
    say("%d sockets, %zu bytes each, %s-triggered: all as sent", count, bytes, edge ? "edge" : "level");
    return 0;
}
