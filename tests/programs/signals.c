/* Signals and socket calls that wait.
 *   signals eintr      accept() and recvfrom() end with EINTR when the handler was installed without SA_RESTART
 *   signals restart    ... go on when it was installed with SA_RESTART
 *   signals timeout    ... end with EAGAIN when SO_RCVTIMEO runs out
 *   signals sigint     waits in accept(); ends with status 5 on SIGINT
 *   signals connect    connect() to 198.18.0.9, whose session takes long, is interrupted: the socket is on its way then
 *   signals die N      dies of signal N
 *   signals again      a second signal for the process meets a thread in accept() while the one that handled the first computes
 *   signals storm      a timer every millisecond while sockets are made, bound, connected and used */
#include "t.h"

#include <pthread.h>

static volatile sig_atomic_t alarms, interrupts;
static void on_alarm(int n) {
    (void)n;
    alarms++;
}
static void on_interrupt(int n) {
    (void)n;
    interrupts++;
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
}

static void every(int milliseconds) {
    struct timeval t = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
    struct itimerval timer = {.it_value = t, .it_interval = t};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
}

static int bound_udp(void) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address at = loopback_v4(0);
    MUST(bind(fd, &at.any, at.len));
    return fd;
}

static void eintr(void) {
    handle(SIGALRM, on_alarm, 0);
    int listener = listen_on(loopback_v4(0), 4), udp = bound_udp();
    every(200);
    MUST_FAIL(accept(listener, NULL, NULL), EINTR);
    CHECK(alarms >= 1);
    struct address from = {.len = sizeof from.room};
    char in[16];
    int before = alarms;
    MUST_FAIL(recvfrom(udp, in, sizeof in, 0, &from.any, &from.len), EINTR);
    CHECK(alarms > before);
    struct iovec iov = {in, sizeof in};
    struct msghdr m = {.msg_name = &from.any, .msg_namelen = sizeof from.room, .msg_iov = &iov, .msg_iovlen = 1};
    before = alarms;
    MUST_FAIL(recvmsg(udp, &m, 0), EINTR);
    CHECK(alarms > before);
    every(0);
    say("eintr: accept, recvfrom and recvmsg ended with EINTR, the handler ran each time");
}

/* In a child, after a while: what the parent waits for. */
static pid_t later(struct address tcp, struct address udp) {
    pid_t child = (pid_t)MUST(fork());
    if (child) return child;
    struct timespec while_ = {.tv_nsec = 500000000};
    nanosleep(&while_, NULL);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, &tcp.any, tcp.len));
    write_all(fd, "x", 1);
    MUST(close(fd));
    nanosleep(&while_, NULL);
    fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(sendto(fd, "datagram", 8, 0, &udp.any, udp.len));
    MUST(close(fd));
    exit(0);
}

static void restart(void) {
    int listener = listen_on(loopback_v4(0), 4), udp = bound_udp();
    pid_t child = later(local_of(listener), local_of(udp));
    handle(SIGALRM, on_alarm, SA_RESTART);
    every(100);
    int fd = (int)MUST(accept(listener, NULL, NULL));
    CHECK(alarms >= 2);
    char in[16];
    CHECK(MUST(read(fd, in, sizeof in)) == 1);
    int before = alarms;
    struct address from = {.len = sizeof from.room};
    CHECK(MUST(recvfrom(udp, in, sizeof in, 0, &from.any, &from.len)) == 8);
    CHECK(alarms >= before + 2);
    every(0);
    expect_success(child);
    say("restart: accept and recvfrom went on over several signals");
}

static void timeout(void) {
    int listener = listen_on(loopback_v4(0), 4), udp = bound_udp();
    struct timeval t = {.tv_usec = 200000};
    for (int *fd = (int[]){listener, udp, -1}; *fd >= 0; fd++)
        MUST(setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    double start = seconds_now();
    MUST_FAIL(accept(listener, NULL, NULL), EAGAIN);
    CHECK(seconds_now() - start > 0.19 && seconds_now() - start < 5);
    start = seconds_now();
    char in[16];
    struct address from = {.len = sizeof from.room};
    MUST_FAIL(recvfrom(udp, in, sizeof in, 0, &from.any, &from.len), EAGAIN);
    CHECK(seconds_now() - start > 0.19 && seconds_now() - start < 5);
    say("timeout: accept and recvfrom ended with EAGAIN after SO_RCVTIMEO");
}

static void sigint(void) {
    handle(SIGINT, on_interrupt, 0);
    int listener = listen_on(loopback_v4(0), 4);
    say("waiting in process %d", (int)getpid());
    MUST_FAIL(accept(listener, NULL, NULL), EINTR);
    CHECK(interrupts == 1);
    say("got SIGINT");
    exit(5);
}

static int held_by[3], connected;
static volatile sig_atomic_t handled[3], computes;
static __thread int which = -1;

static void on_user(int n) {
    (void)n;
    if (which >= 0) handled[which]++;
}

/* Of three the first that handles a signal computes from then on, and could handle more. */
static void *accepts(void *number) {
    which = (int)(long)number;
    for (;;) {
        int fd = accept(held_by[which], NULL, NULL);
        if (fd < 0) CHECK(errno == EINTR);
        else __atomic_add_fetch(&connected, 1, __ATOMIC_SEQ_CST);
        if (fd < 0 && !computes) {
            computes = 1;
            for (;;) __asm__ volatile("");
        }
    }
    return NULL;
}

static int all_handled(void) {
    return handled[0] + handled[1] + handled[2];
}

static void a_while(int milliseconds) {
    struct timespec t = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* The kernel tells the first thread that there is; which sipbox tells is its own affair: here the first to wait is the last to be made. */
static void again(void) {
    handle(SIGUSR1, on_user, 0);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        held_by[i] = listen_on(loopback_v4(0), 4);
        CHECK(!pthread_create(&threads[i], NULL, accepts, (void *)(long)i));
    }
    CHECK(!pthread_sigmask(SIG_BLOCK, &mask, NULL));
    /* All are in accept() again, in the other order. */
    for (int i = 2; i >= 0; i--) {
        struct address at = local_of(held_by[i]);
        MUST(connect((int)MUST(socket(AF_INET, SOCK_STREAM, 0)), &at.any, at.len));
        while (__atomic_load_n(&connected, __ATOMIC_SEQ_CST) < 3 - i) a_while(1);
        a_while(50);
    }
    MUST(kill(getpid(), SIGUSR1));
    while (!computes) a_while(1);
    for (int i = 0; i < 3; i++) {
        if (handled[i]) continue;
        struct address at = local_of(held_by[i]);
        int before = __atomic_load_n(&connected, __ATOMIC_SEQ_CST);
        MUST(connect((int)MUST(socket(AF_INET, SOCK_STREAM, 0)), &at.any, at.len));
        while (__atomic_load_n(&connected, __ATOMIC_SEQ_CST) == before) a_while(1);
        a_while(100);
    }
    int before = all_handled();
    double start = seconds_now();
    MUST(kill(getpid(), SIGUSR1));
    while (all_handled() == before && seconds_now() - start < 20) a_while(1);
    CHECK(all_handled() == before + 1);
    say("again: the second signal was handled, too");
    exit(0);
}

static void storm(void) {
    handle(SIGALRM, on_alarm, SA_RESTART);
    every(1);
    int listener = listen_on(loopback_v4(0), 64);
    struct address at = local_of(listener);
    int rounds = 0;
    for (double end = seconds_now() + 1; seconds_now() < end; rounds++) {
        int a = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        struct address from = loopback_v4(0);
        MUST(bind(a, &from.any, from.len));
        from = local_of(a);
        /* POSIX lets a blocking connect() be interrupted for good only without SA_RESTART. */
        MUST(connect(a, &at.any, at.len));
        struct address peer = {.len = sizeof peer.room};
        int b = (int)MUST(accept(listener, &peer.any, &peer.len));
        CHECK(same_address(&peer, &from));
        write_all(a, "ping", 4);
        char in[4];
        CHECK(read_all(b, in, 4) == 4 && !memcmp(in, "ping", 4));
        MUST(close(a));
        CHECK(read_all(b, in, 4) == 0);
        MUST(close(b));
    }
    every(0);
    CHECK(alarms > 100);
    say("storm: %d connections under %d signals", rounds, (int)alarms);
}

static void still_connecting(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 100) == 0);
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    CHECK(info.tcpi_state == 2 /* SYN_SENT */);
}

static void interrupted_connect(void) {
    struct address at = loopback_v4(7000);
    MUST(inet_pton(AF_INET, "198.18.0.9", &at.v4.sin_addr));
    handle(SIGALRM, on_alarm, 0);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    every(200);
    MUST_FAIL(connect(fd, &at.any, at.len), EINTR);
    every(0);
    still_connecting(fd);
    /* A repeated call joins the one under way, and is interrupted like it. */
    every(200);
    MUST_FAIL(connect(fd, &at.any, at.len), EINTR);
    every(0);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    MUST_FAIL(connect(fd, &at.any, at.len), EALREADY);
    still_connecting(fd);
    MUST(close(fd));
    /* With a time limit, whatever the handler. */
    handle(SIGALRM, on_alarm, SA_RESTART);
    fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct timeval limit = {.tv_usec = 300000};
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    MUST_FAIL(connect(fd, &at.any, at.len), EINPROGRESS);
    still_connecting(fd);
    MUST_FAIL(connect(fd, &at.any, at.len), EALREADY);
    every(100);
    MUST_FAIL(connect(fd, &at.any, at.len), EINTR);
    every(0);
    /* Restarted until the end of it all. */
    fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    int before = alarms;
    every(100);
    MUST_FAIL(connect(fd, &at.any, at.len), ETIMEDOUT);
    every(0);
    CHECK(alarms > before + 5);
    say("connect: interrupted, and on its way all the time");
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "eintr")) eintr();
    else if (!strcmp(mode, "restart")) restart();
    else if (!strcmp(mode, "timeout")) timeout();
    else if (!strcmp(mode, "sigint")) sigint();
    else if (!strcmp(mode, "again")) again();
    else if (!strcmp(mode, "storm")) storm();
    else if (!strcmp(mode, "connect")) interrupted_connect();
    else if (!strcmp(mode, "die") && argc == 3) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(atoi(argv[2]), SIG_DFL);
        raise(atoi(argv[2]));
        fail("still alive after signal %s", argv[2]);
    } else {
        fprintf(stderr, "usage: signals eintr|restart|timeout|sigint|storm|connect | die N\n");
        return 2;
    }
    return 0;
}
