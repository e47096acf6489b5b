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
