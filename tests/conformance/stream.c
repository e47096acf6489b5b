/* The life of a connection: shutdown(2), close(2), resets, out-of-band data, what waits in its queues. */
#include "c.h"
#define GROUP "stream"

CASE(shutdown_write, TCP | UNIXS | MODES) {
    int two[2];
    make_pair(two);
    R(shutdown(two[0], SHUT_WR));
    show_poll(two[1], 0x2000);
    show_poll_now(two[0]);
    char in[8];
    R(recv(two[1], in, 8, 0));
    R(send(two[1], "back", 4, 0));
    await(two[0], POLLIN);
    show_data("data", in, R(recv(two[0], in, 8, 0)));
    R(shutdown(two[1], SHUT_WR));
    show_poll(two[0], 0x2000);
    R(recv(two[0], in, 8, 0));
    show_poll_now(two[0]);
    R(shutdown(two[0], SHUT_WR));
    R(shutdown(two[0], SHUT_RDWR));
}

CASE(shutdown_read, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    R(shutdown(two[1], SHUT_RD));
    show_poll_now(two[1]);
    show_poll_now(two[0]);
    R(send(two[1], "out", 3, 0));
    char in[8];
    await(two[0], POLLIN);
    show_data("data", in, R(recv(two[0], in, 8, 0)));
}

CASE(states, TCP) {
    int l = listener(), c = fresh_blocking();
    struct address at = local_of(l);
    show_tcp_state(l), show_tcp_state(c);
    MUST(connect(c, &at, at.len));
    int s = take(l);
    show_tcp_state(c), show_tcp_state(s);
    R(shutdown(c, SHUT_WR));
    await(s, POLLIN);
    show_tcp_state(s);
    await_tcp_state(c, 5);
    R(shutdown(s, SHUT_WR));
    await_tcp_state(s, 7);
    show_tcp_state(c);
}

CASE(closed_by_the_peer, TCP | UNIXS | MODES) {
    int two[2];
    make_pair(two);
    MUST(send(two[1], "bye", 3, 0));
    R(close(two[1]));
    show_poll(two[0], 0x2000);
    char in[8];
    show_data("data", in, R(recv(two[0], in, 8, 0)));
    R(recv(two[0], in, 8, 0));
    if (kind->bit & TCP) {
        R(send(two[0], "x", 1, 0));
        show_poll(two[0], POLLHUP);
    }
    R(send(two[0], "x", 1, 0));
    R(send(two[0], "x", 1, MSG_NOSIGNAL));
    show_error(two[0]);
    show_error(two[0]);
    R(recv(two[0], in, 8, 0));
    show_poll_now(two[0]);
}

CASE(closed_with_unread_data, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    MUST(send(two[0], "unread", 6, 0));
    await(two[1], POLLIN);
    R(close(two[1]));
    show_poll(two[0], POLLHUP);
    show_error(two[0]);
    char in[8];
    R(recv(two[0], in, 8, 0));
    R(send(two[0], "x", 1, MSG_NOSIGNAL));
}

CASE(reset, TCP) {
    int two[2];
    make_pair(two);
    struct linger now = {1, 0};
    R(setsockopt(two[1], SOL_SOCKET, SO_LINGER, &now, sizeof now));
    R(close(two[1]));
    show_poll(two[0], POLLHUP);
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[0], in, 8, 0, &from, &from.len));
    R(recvfrom(two[0], in, 8, 0, &from, &from.len));
    R(send(two[0], "x", 1, 0));
    show_names(two[0]);
    struct address to = loopback(quiet_port());
    R(connect(two[0], &to, to.len));
    show_tcp_state(two[0]);
}

CASE(reset_and_sent, TCP) {
    int two[2];
    make_pair(two);
    struct linger now = {1, 0};
    MUST(setsockopt(two[1], SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(two[1]);
    await(two[0], POLLHUP);
    struct iovec v = {"x", 1};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, 0));
    R(sendmsg(two[0], &m, 0));
    show_error(two[0]);
}

CASE(linger, TCP) {
    int two[2];
    make_pair(two);
    struct linger five = {1, 5};
    R(setsockopt(two[0], SOL_SOCKET, SO_LINGER, &five, sizeof five));
    MUST(send(two[0], "abc", 3, 0));
    char in[8];
    await(two[1], POLLIN);
    R(recv(two[1], in, 8, 0));
    R(close(two[0]));
    show_poll(two[1], 0x2000);
    R(recv(two[1], in, 8, 0));
}

CASE(out_of_band, TCP | MODES) {
    int two[2], mark = -1, n = -1;
    make_pair(two);
    R(send(two[0], "ab", 2, 0));
    R(send(two[0], "!", 1, MSG_OOB));
    R(send(two[0], "cd", 2, 0));
    show_poll(two[1], POLLPRI);
    await(two[1], POLLIN);
    R(ioctl(two[1], SIOCATMARK, &mark));
    R(ioctl(two[1], SIOCINQ, &n));
    say("mark %d, queue %d", mark, n);
    char in[8];
    show_data("data", in, R(recv(two[1], in, 8, 0)));
    R(ioctl(two[1], SIOCATMARK, &mark));
    say("mark %d", mark);
    show_data("urgent", in, R(recv(two[1], in, 8, MSG_OOB | MSG_PEEK)));
    show_data("urgent", in, R(recv(two[1], in, 8, MSG_OOB)));
    R(recv(two[1], in, 8, MSG_OOB));
    show_data("data", in, R(recv(two[1], in, 8, 0)));
    show_poll_now(two[1]);
}

CASE(out_of_band_by_message, TCP) {
    int two[2];
    make_pair(two);
    char in[8];
    struct iovec v = {"a!", 2}, r = {in, 8};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, MSG_OOB));
    await(two[1], POLLPRI);
    struct address from = {.len = sizeof from.room};
    show_data("urgent", in, R(recvfrom(two[1], in, 8, MSG_OOB, &from, &from.len)));
    m = (struct kmsg){.iov = &r, .iovlen = 1};
    show_data("data", in, R(recvmsg(two[1], &m, 0)));
    show_flags("flags", m.flags);
    m = (struct kmsg){.iov = &v, .iovlen = 1};
    R(sendmsg(two[0], &m, MSG_OOB));
    await(two[1], POLLPRI);
    m = (struct kmsg){.iov = &r, .iovlen = 1};
    R(recvmsg(two[1], &m, MSG_OOB));
    show_flags("flags", m.flags);
}

CASE(out_of_band_inline, TCP) {
    int two[2], mark = -1;
    make_pair(two);
    R(set_int(two[1], SOL_SOCKET, SO_OOBINLINE, 1));
    R(send(two[0], "ab!", 3, MSG_OOB));
    await(two[1], POLLIN);
    char in[8];
    R(recv(two[1], in, 8, MSG_OOB));
    show_data("data", in, R(recv(two[1], in, 8, 0)));
    R(ioctl(two[1], SIOCATMARK, &mark));
    say("mark %d", mark);
    show_data("data", in, R(recv(two[1], in, 8, 0)));
}

CASE(out_of_band_where_there_is_none, UDP | UNIXD) {
    int two[2];
    make_pair(two);
    R(send(two[0], "x", 1, MSG_OOB));
    char in[8];
    R(recv(two[1], in, 8, MSG_OOB | MSG_DONTWAIT));
}

static volatile sig_atomic_t urgent;
static void on_urgent(int signal) { urgent = signal; }
CASE(urgent_signal, TCP) {
    signal(SIGURG, on_urgent);
    int two[2];
    make_pair(two);
    R(fcntl(two[1], F_SETOWN, getpid()));
    R(fcntl(two[1], F_GETOWN) == getpid());
    R(send(two[0], "!", 1, MSG_OOB));
    await(two[1], POLLPRI);
    say("signal: %s", urgent == SIGURG ? "SIGURG" : "none");
}

static volatile sig_atomic_t told;
static void on_io(int signal) { told = signal; }
CASE(io_signal, INET) {
    signal(SIGIO, on_io);
    int two[2];
    make_pair(two);
    R(fcntl(two[1], F_SETOWN, getpid()));
    R(fcntl(two[1], F_SETFL, O_ASYNC));
    R(send(two[0], "x", 1, 0));
    await(two[1], POLLIN);
    say("signal: %s", told == SIGIO ? "SIGIO" : "none");
}

CASE(io_signal_of_a_listener, TCP) {
    signal(SIGIO, on_io);
    int l = listener(), c = fresh_blocking(), on = 1;
    struct address at = local_of(l);
    MUST(fcntl(l, F_SETOWN, getpid()));
    R(ioctl(l, FIOASYNC, &on));
    MUST(connect(c, &at, at.len));
    await(l, POLLIN);
    say("signal: %s", told == SIGIO ? "SIGIO" : "none");
}

static volatile sig_atomic_t chosen;
static void on_chosen(int signal) { chosen = signal; }

/* F_SETSIG and F_SETOWN_EX, for one thread and for a group. */
CASE(signal_of_choice, INET) {
    struct { int type, pid; } owner = {0, getpid()}, is = {-1, -1};
    signal(SIGUSR1, on_chosen);
    int two[2], signal_ = 10;
    make_pair(two);
    for (int type = 0; type < 3; type++) {
        owner.type = type;
        owner.pid = type == 2 ? getpgrp() : getpid();
        /* A group is told as a whole: only this process is to be. */
        if (type == 2) MUST(setpgid(0, 0)), owner.pid = getpgrp();
        R(fcntl(two[1], 15, &owner));
        R(fcntl(two[1], 16, &is));
        say("type %d, the right one: %s", is.type, is.pid == owner.pid ? "yes" : "no");
        R(fcntl(two[1], 10, signal_));
        R(fcntl(two[1], 11));
        R(fcntl(two[1], F_SETFL, O_ASYNC));
        chosen = 0;
        R(send(two[0], "x", 1, 0));
        await(two[1], POLLIN);
        say("signal: %s", chosen == SIGUSR1 ? "SIGUSR1" : "none");
        char in[8];
        R(recv(two[1], in, 8, 0));
        R(fcntl(two[1], F_SETFL, 0));
    }
    R(fcntl(two[1], F_SETOWN, 0));
    R(fcntl(two[1], F_GETOWN));
}

CASE(owner_by_ioctl, INET) {
    signal(SIGIO, on_io);
    int two[2], self = getpid(), on = 1, is = -1;
    make_pair(two);
    R(ioctl(two[1], 0x8902 /* SIOCSPGRP */, &self));
    R(ioctl(two[1], 0x8904 /* SIOCGPGRP */, &is));
    say("the right one: %s", is == self ? "yes" : "no");
    R(ioctl(two[1], 0x8902, 8));
    R(ioctl(two[1], FIOASYNC, &on));
    told = 0;
    R(send(two[0], "x", 1, 0));
    await(two[1], POLLIN);
    say("signal: %s", told == SIGIO ? "SIGIO" : "none");
}

/* A datagram to a socket that is not connected, and one that is taken by a trapped call. */
CASE(io_signal_of_an_open_socket, UDP) {
    signal(SIGIO, on_io);
    int two[2];
    struct address at[2], from;
    two_bound(two, at);
    MUST(fcntl(two[1], F_SETOWN, getpid()));
    MUST(fcntl(two[1], F_SETFL, O_ASYNC | O_NONBLOCK));
    char in[8];
    for (int i = 0; i < 2; i++) {
        told = 0;
        from.len = sizeof from.room;
        R(sendto(two[0], "x", 1, 0, &at[1], at[1].len));
        await(two[1], POLLIN);
        say("signal: %s", told == SIGIO ? "SIGIO" : "none");
        R(recvfrom(two[1], in, 8, 0, &from, &from.len));
        R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    }
}

CASE(spliced, TCP | UNIXS) {
    int two[2], pipes[2];
    make_pair(two);
    MUST(pipe(pipes));
    char in[32];
    MUST(write(pipes[1], "through a pipe", 14));
    R(syscall(SYS_splice, L(pipes[0]), 0L, L(two[0]), 0L, 14L, 0L));
    await(two[1], POLLIN);
    R(syscall(SYS_splice, L(two[1]), 0L, L(pipes[1]), 0L, 32L, 0L));
    show_data("data", in, R(read(pipes[0], in, sizeof in)));
    int file = (int)MUST(open("spliced", O_RDWR | O_CREAT | O_TRUNC, 0600));
    MUST(write(file, "of a file", 9));
    off_t at = 3;
    R(syscall(SYS_sendfile, L(two[0]), L(file), &at, 100L));
    await(two[1], POLLIN);
    show_data("data", in, R(recv(two[1], in, sizeof in, 0)));
    unlink("spliced");
}

CASE(queues, TCP) {
    int two[2], n = -1;
    make_pair(two);
    R(ioctl(two[1], FIONREAD, &n));
    say("%d", n);
    MUST(send(two[0], "12345", 5, 0));
    await(two[1], POLLIN);
    R(ioctl(two[1], FIONREAD, &n));
    say("%d", n);
    R(ioctl(two[0], SIOCOUTQ, &n));
    int l = listener();
    R(ioctl(l, SIOCINQ, &n));
    R(ioctl(l, SIOCOUTQ, &n));
    R(ioctl(two[1], FIONREAD, 8));
}

CASE(queues_of_datagrams, UDP) {
    int two[2], n = -1;
    make_pair(two);
    MUST(send(two[0], "12345", 5, 0));
    MUST(send(two[0], "123", 3, 0));
    await(two[1], POLLIN);
    R(ioctl(two[1], FIONREAD, &n));
    say("%d", n);
    char in[8];
    R(recv(two[1], in, 8, 0));
    R(ioctl(two[1], SIOCINQ, &n));
    say("%d", n);
}

CASE(blocking_by_ioctl, INET) {
    int two[2], on = 1;
    make_pair(two);
    R(ioctl(two[1], FIONBIO, &on));
    R(!!(fcntl(two[1], F_GETFL) & O_NONBLOCK));
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
    on = 0;
    R(ioctl(two[1], FIONBIO, &on));
    struct timeval t = {0, 20000};
    MUST(setsockopt(two[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    R(recvfrom(two[1], in, 8, 0, &from, &from.len));
}
