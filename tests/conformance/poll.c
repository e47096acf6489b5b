/* poll(2), select(2), epoll(7) of sockets in every state. */
#include "c.h"
#define GROUP "poll"

static void show_epoll(int ep, int timeout) {
    struct epoll_event e[4];
    int n = (int)MUST(epoll_wait(ep, e, 4, timeout));
    say("epoll: %d", n);
    for (int i = 0; i < n; i++) show_revents(" event", (int)(e[i].events & 0x3fff));
}
static int watch(int fd, unsigned events) {
    int ep = (int)MUST(epoll_create1(0));
    struct epoll_event e = {.events = events};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    return ep;
}
enum { ALL = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP };

CASE(fresh_in_epoll, INET | MODES) {
    int fd = fresh(), ep = watch(fd, ALL);
    show_epoll(ep, 0);
    struct address a = loopback(0);
    R(bind(fd, &a, a.len));
    show_epoll(ep, 0);
}

CASE(registered_before_connect, TCP | MODES) {
    int l = listener(), c = fresh(), ep = watch(c, ALL | EPOLLET);
    show_epoll(ep, 0);
    struct address at = local_of(l);
    R(connect(c, &at, at.len));
    show_epoll(ep, 1000);
    show_epoll(ep, 0);
    int s = take(l);
    R(send(s, "x", 1, 0));
    show_epoll(ep, 1000);
    show_epoll(ep, 0);
    R(close(s));
    show_epoll(ep, 1000);
    show_epoll(ep, 0);
    struct epoll_event e = {.events = EPOLLIN};
    R(epoll_ctl(ep, EPOLL_CTL_MOD, c, &e));
    R(epoll_ctl(ep, EPOLL_CTL_ADD, c, &e));
    R(epoll_ctl(ep, EPOLL_CTL_DEL, c, NULL));
}

CASE(refused_in_epoll, TCP) {
    nonblocking = true;
    int c = fresh(), ep = watch(c, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    show_epoll(ep, 0);
    struct address at = loopback(quiet_port());
    R(connect(c, &at, at.len));
    show_epoll(ep, 1000);
    show_error(c);
    show_poll_now(c);
}

CASE(listener, TCP | MODES) {
    int l = listener(), c = fresh_blocking(), ep = watch(l, ALL), et = watch(l, EPOLLIN | EPOLLET);
    show_epoll(ep, 0);
    show_epoll(et, 0);
    struct address at = local_of(l);
    MUST(connect(c, &at, at.len));
    show_epoll(ep, 1000);
    show_epoll(et, 1000);
    show_epoll(et, 0);
    show_poll_now(l);
    MUST(accept(l, NULL, NULL));
    show_epoll(ep, 0);
    show_epoll(et, 0);
    MUST(connect(fresh_blocking(), &at, at.len));
    show_epoll(et, 1000);
}

CASE(accepted, TCP) {
    int two[2];
    make_pair(two);
    int ep = watch(two[1], ALL);
    show_epoll(ep, 0);
    MUST(send(two[0], "x", 1, 0));
    await(two[1], POLLIN);
    show_epoll(ep, 0);
    R(shutdown(two[0], SHUT_WR));
    await(two[1], 0x2000);
    show_epoll(ep, 0);
    R(shutdown(two[1], SHUT_WR));
    show_epoll(ep, 0);
}

CASE(edges_of_data, TCP | UDP) {
    int two[2];
    make_pair(two);
    int ep = watch(two[1], EPOLLIN | EPOLLET);
    show_epoll(ep, 0);
    MUST(send(two[0], "one", 3, 0));
    show_epoll(ep, 1000);
    show_epoll(ep, 0);
    MUST(send(two[0], "two", 3, 0));
    show_epoll(ep, 1000);
    char in[2];
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[1], in, 2, 0, &from, &from.len));
    show_epoll(ep, 0);
}

CASE(one_shot, INET) {
    int two[2];
    make_pair(two);
    int ep = watch(two[1], EPOLLIN | EPOLLONESHOT);
    MUST(send(two[0], "one", 3, 0));
    show_epoll(ep, 1000);
    show_epoll(ep, 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT};
    R(epoll_ctl(ep, EPOLL_CTL_MOD, two[1], &e));
    show_epoll(ep, 0);
}

CASE(datagrams, UDP | MODES) {
    int two[2];
    struct address at[2];
    two_bound(two, at);
    show_poll_now(two[1]);
    MUST(sendto(two[0], "x", 1, 0, &at[1], at[1].len));
    show_poll(two[1], POLLIN);
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    show_poll_now(two[1]);
    R(shutdown(two[1], SHUT_RDWR));
    show_poll_now(two[1]);
}

CASE(selected, INET) {
    int two[2];
    make_pair(two);
    MUST(send(two[0], "x", 1, 0));
    await(two[1], POLLIN);
    fd_set in, out, other;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&other);
    FD_SET(two[1], &in);
    FD_SET(two[0], &in);
    FD_SET(two[1], &out);
    FD_SET(two[1], &other);
    struct timeval none = {0, 0};
    R(select(two[1] + 1, &in, &out, &other, &none));
    say("%d %d %d %d", !!FD_ISSET(two[1], &in), !!FD_ISSET(two[0], &in), !!FD_ISSET(two[1], &out), !!FD_ISSET(two[1], &other));
}

CASE(closed_descriptor, TCP) {
    int fd = fresh(), ep = watch(fd, ALL), other = (int)MUST(dup(fd));
    R(close(fd));
    struct pollfd p = {fd, POLLIN, 0};
    R(poll(&p, 1, 0));
    show_revents("poll", p.revents);
    show_epoll(ep, 0);
    R(close(other));
    show_epoll(ep, 0);
}

CASE(woken_by_a_connection, TCP) {
    int l = listener();
    struct address at = local_of(l);
    pid_t child = fork();
    if (!child) {
        usleep(10000);
        MUST(connect(fresh_blocking(), &at, at.len));
        exit(0);
    }
    struct pollfd p = {l, POLLIN, 0};
    R(poll(&p, 1, 5000));
    show_revents("poll", p.revents);
    MUST(accept(l, NULL, NULL));
    expect_success(child);
}

static volatile sig_atomic_t told;
static void on_told(int number) { told = number; }

/* pselect(2), ppoll(2): a signal that only they let through ends them, what is ready comes first. */
CASE(waits_with_a_mask, INET) {
    int two[2];
    make_pair(two);
    sigset_t blocked, none;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
    signal(SIGUSR1, on_told);
    struct timespec moment = {5, 0}, now = {0, 0};
    fd_set in;
    struct pollfd p = {two[1], POLLIN, 0};
    for (int round = 0; round < 2; round++) {
        raise(SIGUSR1);
        FD_ZERO(&in);
        FD_SET(two[1], &in);
        told = 0;
        R(pselect(two[1] + 1, &in, NULL, NULL, &moment, &none));
        say("handled %d, readable %d", told == SIGUSR1, !!FD_ISSET(two[1], &in));
        told = 0;
        raise(SIGUSR1);
        R(ppoll(&p, 1, &moment, &none));
        say("handled %d, readable %d", told == SIGUSR1, !!(p.revents & POLLIN));
        R(ppoll(&p, 1, &now, &blocked));
        MUST(send(two[0], "x", 1, 0));
        await(two[1], POLLIN);
    }
}
