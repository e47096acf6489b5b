/* Signals and calls that wait: EINTR, SA_RESTART, time limits, stopping and continuing, who of several threads is told,
 * cancellation, exec and exit while others wait. */
#include "signals.h"
#include <pthread.h>
#include <setjmp.h>

static int unix_listener(struct address *at, int backlog) {
    int l = (int)MUST(socket(AF_UNIX, kind->type, 0));
    *at = loopback(0);
    MUST(bind(l, at, at->len));
    MUST(listen(l, backlog));
    return l;
}
static int any_listener(struct address *at) {
    if (kind->bit & LOCAL) return unix_listener(at, 8);
    int l = listener();
    *at = local_of(l);
    return l;
}

CASE(accept_interrupted, TCP | UNIXS | UNIXQ) {
    struct address at;
    int l = any_listener(&at);
    alarms(0);
    R(accept(l, NULL, NULL));
    R(accept4(l, NULL, NULL, SOCK_CLOEXEC));
    calm();
    int c = fresh();
    R(connect(c, &at, at.len));
    R(accept(l, NULL, NULL) >= 0);
}

CASE(accept_restarted, TCP | UNIXS | UNIXQ) {
    struct address at;
    int l = any_listener(&at);
    pid_t child = later();
    if (!child) {
        MUST(connect(fresh(), &at, at.len));
        exit(0);
    }
    alarms(SA_RESTART);
    R(accept(l, NULL, NULL) >= 0);
    calm();
    expect_success(child);
}

CASE(accept_limited, TCP | UNIXS | UNIXQ) {
    struct address at;
    int l = any_listener(&at);
    limit(l, SO_RCVTIMEO, 3000);
    alarms(SA_RESTART);
    R(accept(l, NULL, NULL));
    calm();
    limit(l, SO_RCVTIMEO, 30);
    R(accept(l, NULL, NULL));
}

CASE(recvfrom_interrupted, UDP | TCP | LOCAL) {
    int two[2];
    make_pair(two);
    char in[8];
    struct address from = {.len = sizeof from.room};
    alarms(0);
    R(recvfrom(two[0], in, 8, 0, &from, &from.len));
    R(recv(two[0], in, 8, 0));
    R(recvfrom(two[0], in, 8, MSG_PEEK, &from, &from.len));
    calm();
    R(send(two[1], "still", 5, 0));
    show_data("data", in, R(recvfrom(two[0], in, 8, 0, &from, &from.len)));
}

CASE(recvfrom_restarted, UDP | TCP | LOCAL) {
    int two[2];
    make_pair(two);
    pid_t child = later();
    if (!child) {
        MUST(send(two[1], "late", 4, 0));
        exit(0);
    }
    char in[8];
    struct address from = {.len = sizeof from.room};
    alarms(SA_RESTART);
    show_data("data", in, R(recvfrom(two[0], in, 8, 0, &from, &from.len)));
    calm();
    expect_success(child);
}

CASE(recvfrom_limited, UDP | TCP | LOCAL) {
    int two[2];
    make_pair(two);
    limit(two[0], SO_RCVTIMEO, 3000);
    char in[8];
    struct address from = {.len = sizeof from.room};
    alarms(SA_RESTART);
    R(recvfrom(two[0], in, 8, 0, &from, &from.len));
    calm();
    limit(two[0], SO_RCVTIMEO, 30);
    R(recvfrom(two[0], in, 8, 0, &from, &from.len));
}

CASE(recvmsg_interrupted, UDP | TCP | LOCAL) {
    int two[2];
    make_pair(two);
    char in[8];
    struct address from = {.len = sizeof from.room};
    struct iovec iov = {in, sizeof in};
    struct kmsg m = {.name = &from, .namelen = sizeof from.room, .iov = &iov, .iovlen = 1};
    alarms(0);
    R(recvmsg(two[0], &m, 0));
    say("namelen %d, flags %#x", m.namelen == sizeof from.room, m.flags);
    calm();
    R(send(two[1], "still", 5, 0));
    show_data("data", in, R(recvmsg(two[0], &m, 0)));
}

CASE(recvmsg_restarted, UDP | TCP | LOCAL) {
    int two[2];
    make_pair(two);
    pid_t child = later();
    if (!child) {
        MUST(send(two[1], "late", 4, 0));
        exit(0);
    }
    char in[8];
    struct iovec iov = {in, sizeof in};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    alarms(SA_RESTART);
    show_data("data", in, R(recvmsg(two[0], &m, 0)));
    calm();
    expect_success(child);
}

CASE(recvmsg_limited, UDP | TCP) {
    int two[2];
    make_pair(two);
    limit(two[0], SO_RCVTIMEO, 3000);
    char in[8];
    struct iovec iov = {in, sizeof in};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    alarms(SA_RESTART);
    R(recvmsg(two[0], &m, 0));
    calm();
}

/* What is there when the signal comes is the result. */
CASE(recv_all_interrupted, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    char in[64] = "";
    struct iovec iov = {in, sizeof in};
    struct kmsg m = {.iov = &iov, .iovlen = 1};
    struct address from = {.len = sizeof from.room};
    MUST(send(two[1], "part", 4, 0));
    alarms(SA_RESTART);
    show_data("data", in, R(recvmsg(two[0], &m, MSG_WAITALL)));
    MUST(send(two[1], "more", 4, 0));
    show_data("data", in, R(recvfrom(two[0], in, sizeof in, MSG_WAITALL, &from, &from.len)));
    calm();
}

/* A listener that takes no more connections. */
static int full_listener(struct address *at) {
    int l;
    if (kind->bit & LOCAL) {
        l = unix_listener(at, 0);
    } else {
        l = bound();
        MUST(listen(l, 0));
        *at = local_of(l);
    }
    MUST(connect(fresh(), at, at->len));
    return l;
}

CASE(connect_interrupted, UNIXS | UNIXQ) {
    struct address at;
    int l = full_listener(&at), c = fresh();
    alarms(0);
    R(connect(c, &at, at.len));
    calm();
    show_poll_now(c);
    int s = take(l);
    R(connect(c, &at, at.len));
    take(l);
    R(connect(c, &at, at.len));
    close(s);
}

CASE(connect_restarted, UNIXS | UNIXQ) {
    struct address at;
    int l = full_listener(&at), c = fresh();
    pid_t child = later();
    if (!child) {
        take(l);
        exit(0);
    }
    alarms(SA_RESTART);
    R(connect(c, &at, at.len));
    calm();
    expect_success(child);
}

CASE(connect_limited, UNIXS | UNIXQ) {
    struct address at;
    full_listener(&at);
    int c = fresh();
    limit(c, SO_SNDTIMEO, 3000);
    alarms(SA_RESTART);
    R(connect(c, &at, at.len));
    calm();
    limit(c, SO_SNDTIMEO, 30);
    R(connect(c, &at, at.len));
    MUST(fcntl(c, F_SETFL, O_NONBLOCK));
    R(connect(c, &at, at.len));
}

/* The kernel drops the SYN, and the one that it repeats after a second comes through. */
CASE(tcp_connect_interrupted, TCP) {
    struct address at;
    int l = full_listener(&at), c = fresh();
    alarms(0);
    R(connect(c, &at, at.len));
    calm();
    show_poll_now(c);
    show_tcp_state(c);
    MUST(fcntl(c, F_SETFL, O_NONBLOCK));
    R(connect(c, &at, at.len));
    take(l);
    show_poll(c, POLLOUT);
    show_error(c);
    R(connect(c, &at, at.len));
    R(connect(c, &at, at.len));
}

CASE(tcp_connect_restarted, TCP) {
    struct address at;
    int l = full_listener(&at), c = fresh();
    pid_t child = later();
    if (!child) {
        take(l);
        exit(0);
    }
    alarms(SA_RESTART);
    R(connect(c, &at, at.len));
    calm();
    expect_success(child);
    R(connect(c, &at, at.len));
}

CASE(tcp_connect_limited, TCP) {
    struct address at;
    full_listener(&at);
    int c = fresh();
    limit(c, SO_SNDTIMEO, 3000);
    alarms(SA_RESTART);
    R(connect(c, &at, at.len));
    R(connect(c, &at, at.len));
    calm();
    limit(c, SO_SNDTIMEO, 30);
    R(connect(c, &at, at.len));
    show_tcp_state(c);
}

CASE(ignored, TCP) {
    int l = listener();
    struct address at = local_of(l);
    signal(SIGALRM, SIG_IGN);
    every(20);
    /* The death of a child is no signal to who does not handle it. */
    pid_t child = later();
    if (!child) {
        if (!fork()) {
            rest(100);
            MUST(connect(fresh(), &at, at.len));
        }
        exit(0);
    }
    R(accept(l, NULL, NULL) >= 0);
    every(0);
    expect_success(child);
}

CASE(blocked, TCP) {
    int l = listener();
    struct address at = local_of(l);
    handle(SIGALRM, 0);
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    MUST(sigprocmask(SIG_BLOCK, &set, &before));
    pid_t child = later();
    if (!child) {
        MUST(connect(fresh(), &at, at.len));
        exit(0);
    }
    every(40);
    R(accept(l, NULL, NULL) >= 0);
    say("before: %d", signals);
    MUST(sigprocmask(SIG_SETMASK, &before, NULL));
    say("after: %d", signals > 0);
    every(0);
    expect_success(child);
}

static sigjmp_buf out;
static void on_jump(int number) {
    (void)number;
    siglongjmp(out, 1);
}
CASE(jump_out, TCP | UDP) {
    int fd = kind->type == SOCK_STREAM ? listener() : bound();
    char in[4];
    struct address from = {.len = sizeof from.room};
    struct sigaction action = {.sa_handler = on_jump};
    for (volatile int i = 0; i < 2; i++) {
        if (sigsetjmp(out, 1) == 0) {
            MUST(sigaction(SIGALRM, &action, NULL));
            every(40);
            if (kind->type == SOCK_STREAM) R(accept(fd, NULL, NULL));
            else R(recvfrom(fd, in, 4, 0, &from, &from.len));
        }
        every(0);
        say("out");
    }
    show_names(fd);
}

static int nested;
static void on_nested(int number) {
    (void)number;
    struct address a = {.len = sizeof a.room};
    if (signals++ == 0) say("in the handler: getsockname = %ld", getsockname(nested, &a, &a.len));
}
CASE(calls_in_a_handler, TCP) {
    nested = listener();
    struct address at = local_of(nested);
    struct sigaction action = {.sa_handler = on_nested, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGALRM, &action, NULL));
    pid_t child = later();
    if (!child) {
        MUST(connect(fresh(), &at, at.len));
        exit(0);
    }
    every(40);
    R(accept(nested, NULL, NULL) >= 0);
    every(0);
    expect_success(child);
}

/* A child that waits in accept(), with further threads maybe, and what becomes of it. */
static int waited_on;
static void *accepts(void *unused) {
    (void)unused;
    MUST(accept(waited_on, NULL, NULL));
    return NULL;
}
static void *sleeps(void *unused) {
    (void)unused;
    for (;;) pause();
    return NULL;
}
static pthread_t start(void *(*run)(void *)) {
    pthread_t t;
    CHECK(pthread_create(&t, NULL, run, NULL) == 0);
    return t;
}
static pid_t waiting_child(struct address *at, int accepting, int sleeping) {
    waited_on = listener();
    *at = local_of(waited_on);
    pid_t child = (pid_t)MUST(fork());
    if (child) {
        rest(100);
        return child;
    }
    alarm(8);
    for (int i = 0; i < sleeping; i++) start(sleeps);
    pthread_t all[8];
    for (int i = 0; i < accepting; i++) all[i] = start(accepts);
    MUST(accept(waited_on, NULL, NULL));
    for (int i = 0; i < accepting; i++) pthread_join(all[i], NULL);
    exit(0);
}
static void show_status(pid_t child, int options) {
    int status = 0;
    for (double end = now_ms() + 3000; now_ms() < end; usleep(2000)) {
        pid_t got = waitpid(child, &status, options | WNOHANG);
        if (got < 0) return say("waitpid: %s", errname(errno));
        if (got == 0) continue;
        if (WIFSTOPPED(status)) say("stopped by %d", WSTOPSIG(status));
        else if (WIFCONTINUED(status)) say("continued");
        else if (WIFSIGNALED(status)) say("killed by %d", WTERMSIG(status));
        else say("exit %d", WEXITSTATUS(status));
        return;
    }
    say("nothing in time");
    kill(child, SIGKILL);
}
static void stop_and_continue(int accepting, int sleeping, int signal) {
    struct address at;
    pid_t child = waiting_child(&at, accepting, sleeping);
    for (int i = 0; i < 2; i++) {
        R(kill(child, signal));
        show_status(child, WUNTRACED | WCONTINUED);
        rest(20);
        R(kill(child, SIGCONT));
        show_status(child, WUNTRACED | WCONTINUED);
        rest(20);
    }
    for (int i = 0; i <= accepting; i++) MUST(connect(fresh(), &at, at.len));
    show_status(child, 0);
}

CASE(stopped, TCP4 | TCP6) { stop_and_continue(0, 0, SIGSTOP); }
CASE(stopped_from_the_terminal, TCP4) {
    /* In a process group that is not orphaned. */
    stop_and_continue(0, 0, SIGTSTP);
}
CASE(stopped_with_a_sleeping_thread, TCP4) { stop_and_continue(0, 1, SIGSTOP); }
CASE(stopped_with_threads_that_wait, TCP4) { stop_and_continue(4, 2, SIGSTOP); }
CASE(stopped_threads_from_the_terminal, TCP4) { stop_and_continue(2, 1, SIGTSTP); }

/* With a time limit the call ends after a stop even without a handler (signal(7)). */
CASE(stopped_and_limited, TCP4 | UDP4) {
    int fd = kind->type == SOCK_STREAM ? listener() : bound();
    limit(fd, SO_RCVTIMEO, 5000);
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        char in[4];
        struct address from = {.len = sizeof from.room};
        long r = kind->type == SOCK_STREAM ? accept(fd, NULL, NULL) : recvfrom(fd, in, 4, 0, &from, &from.len);
        say("%ld %s", r, errname(errno));
        exit(0);
    }
    /* On a busy machine the child may not wait yet when it is stopped: its call then begins afterwards, and is stopped the next time. */
    int status = 0, stops = 0;
    pid_t got = 0;
    do {
        rest(100);
        MUST(kill(child, SIGSTOP));
        MUST(waitpid(child, &status, WUNTRACED));
        if (!WIFSTOPPED(status)) fail("the child ended before it was stopped");
        MUST(kill(child, SIGCONT));
        for (double end = now_ms() + 1000; !got && now_ms() < end; usleep(2000)) got = (pid_t)MUST(waitpid(child, &status, WNOHANG));
    } while (!got && ++stops < 4);
    if (!got) kill(child, SIGKILL);
    say(got && WIFEXITED(status) ? "exit %d" : "nothing in time", WEXITSTATUS(status));
}

static void *stops_itself(void *unused) {
    (void)unused;
    rest(100);
    raise(SIGSTOP);
    return NULL;
}
CASE(stopped_by_a_thread, TCP4) {
    waited_on = listener();
    struct address at = local_of(waited_on);
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        alarm(8);
        start(stops_itself);
        MUST(accept(waited_on, NULL, NULL));
        exit(0);
    }
    show_status(child, WUNTRACED);
    MUST(kill(child, SIGCONT));
    MUST(connect(fresh(), &at, at.len));
    show_status(child, 0);
}

static void killed(int accepting, int signal) {
    struct address at;
    struct rlimit none = {0};
    MUST(setrlimit(RLIMIT_CORE, &none));
    pid_t child = waiting_child(&at, accepting, 1);
    MUST(kill(child, signal));
    show_status(child, 0);
    int c = fresh();
    close(waited_on);
    R(connect(c, &at, at.len));
}
CASE(terminated, TCP4) { killed(0, SIGTERM); }
CASE(terminated_threads, TCP4) { killed(3, SIGTERM); }
CASE(dumped, TCP4) { killed(3, SIGQUIT); }
CASE(killed, TCP4) { killed(3, SIGKILL); }

/* Which thread. */
static struct {
    int fd, number;
    long result;
    int error;
    volatile int running;
} workers[4];
static volatile int ended;
static void *worker(void *which) {
    int i = (int)(intptr_t)which;
    me = i + 1;
    workers[i].running = 1;
    errno = 0;
    workers[i].result = accept(workers[i].fd, NULL, NULL);
    workers[i].error = errno;
    __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
    return NULL;
}
static pthread_t work(int i, int fd) {
    workers[i].fd = fd;
    pthread_t t;
    CHECK(pthread_create(&t, NULL, worker, (void *)(intptr_t)i) == 0);
    while (!workers[i].running) usleep(1000);
    return t;
}
static void release_workers(const struct address *at, pthread_t *all, int n) {
    int left = n - ended;
    for (int i = 0; i < left; i++) MUST(connect(fresh(), at, at->len));
    for (int i = 0; i < n; i++) {
        pthread_join(all[i], NULL);
        say("thread %d: %s %s", i + 1, workers[i].result < 0 ? "-1" : "a socket", errname(workers[i].error));
    }
}
static void await_ended(int n) {
    for (double end = now_ms() + 3000; ended < n && now_ms() < end;) usleep(1000);
    rest(100);
    say("ended: %d, handled: %d", ended, signals);
}

CASE(one_thread_told, TCP4) {
    int l = listener();
    struct address at = local_of(l);
    handle(SIGUSR1, 0);
    pthread_t all[3];
    for (int i = 0; i < 3; i++) all[i] = work(i, l);
    rest(100);
    CHECK(pthread_kill(all[1], SIGUSR1) == 0);
    await_ended(1);
    say("by thread %d", handled_by);
    release_workers(&at, all, 3);
}

CASE(one_thread_told_and_restarted, TCP4) {
    int l = listener();
    struct address at = local_of(l);
    handle(SIGUSR1, SA_RESTART);
    pthread_t all[2];
    for (int i = 0; i < 2; i++) all[i] = work(i, l);
    rest(100);
    for (int n = 1; n <= 5; n++) {
        CHECK(pthread_kill(all[1], SIGUSR1) == 0);
        for (double end = now_ms() + 3000; signals < n && now_ms() < end;) usleep(1000);
    }
    await_ended(0);
    release_workers(&at, all, 2);
}

/* The initial thread comes first, also when others wait, too. */
CASE(initial_thread_first, TCP4) {
    int l = listener(), own = listener();
    struct address at = local_of(l);
    handle(SIGALRM, 0);
    pthread_t all[3];
    for (int i = 0; i < 3; i++) all[i] = work(i, l);
    rest(100);
    every(200);
    R(accept(own, NULL, NULL));
    every(0);
    say("by thread %d, ended %d", handled_by, ended);
    release_workers(&at, all, 3);
}

CASE(initial_thread_blocks, TCP4) {
    int l = listener();
    struct address at = local_of(l);
    handle(SIGUSR1, 0);
    pthread_t all[1] = {work(0, l)};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    rest(100);
    MUST(kill(getpid(), SIGUSR1));
    await_ended(1);
    say("by thread %d", handled_by);
    release_workers(&at, all, 1);
}

CASE(one_of_several, TCP4) {
    int l = listener();
    struct address at = local_of(l);
    handle(SIGUSR1, 0);
    pthread_t all[4];
    for (int i = 0; i < 4; i++) all[i] = work(i, l);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    rest(100);
    for (int n = 1; n <= 4; n++) {
        MUST(kill(getpid(), SIGUSR1));
        await_ended(n);
    }
    release_workers(&at, all, 4);
}

static void *waits_for_signals(void *unused) {
    (void)unused;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    int number = 0;
    sigwait(&set, &number);
    say("sigwait: %d", number);
    return NULL;
}
CASE(waited_for_elsewhere, TCP4) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    int l = listener();
    struct address at = local_of(l);
    pthread_t all[2], waiter = start(waits_for_signals);
    for (int i = 0; i < 2; i++) all[i] = work(i, l);
    rest(100);
    MUST(kill(getpid(), SIGUSR1));
    pthread_join(waiter, NULL);
    await_ended(0);
    release_workers(&at, all, 2);
}

/* The library's own accept() is a cancellation point, the bare call is not. */
#undef accept
#undef recvmsg
#undef recvfrom
static void *cancelled_in_accept(void *fd) {
    accept(*(int *)fd, NULL, NULL);
    return NULL;
}
static void *cancelled_in_recvmsg(void *fd) {
    char in[8];
    struct iovec iov = {in, 8};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    recvmsg(*(int *)fd, &m, 0);
    return NULL;
}
static void *cancelled_in_recvfrom(void *fd) {
    char in[8];
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    recvfrom(*(int *)fd, in, 8, 0, (void *)&from, &len);
    return NULL;
}
static void cancel(void *(*run)(void *), int fd) {
    pthread_t t;
    CHECK(pthread_create(&t, NULL, run, &fd) == 0);
    rest(60);
    CHECK(pthread_cancel(t) == 0);
    void *result = NULL;
    double start_ms = now_ms();
    CHECK(pthread_join(t, &result) == 0);
    say("%s, %s", result == PTHREAD_CANCELED ? "cancelled" : "not cancelled", now_ms() - start_ms < 500 ? "soon" : "late");
}
CASE(cancelled, TCP4 | UDP4) {
    int fd = kind->type == SOCK_STREAM ? listener() : bound(), two[2];
    if (kind->type == SOCK_STREAM) cancel(cancelled_in_accept, fd);
    else cancel(cancelled_in_recvfrom, fd);
    make_pair(two);
    cancel(cancelled_in_recvmsg, two[0]);
    cancel(cancelled_in_recvfrom, two[0]);
    MUST(send(two[1], "x", 1, 0));
    char in[4];
    R(recv(two[0], in, 4, 0));
}

/* setuid() is for all threads: the library signals them all, and waits for them. */
CASE(all_threads_signalled, TCP4) {
    int l = listener();
    struct address at = local_of(l);
    pthread_t all[4];
    for (int i = 0; i < 4; i++) all[i] = work(i, l);
    rest(100);
    double start_ms = now_ms();
    R(setuid(getuid()));
    say("%s", now_ms() - start_ms < 1000 ? "soon" : "late");
    await_ended(0);
    release_workers(&at, all, 4);
}

static void *executes(void *unused) {
    (void)unused;
    rest(100);
    execl("/bin/sh", "sh", "-c", "echo executed", NULL);
    return NULL;
}
CASE(exec_of_another_thread, TCP4) {
    int l = listener();
    struct address at = local_of(l);
    MUST(fcntl(l, F_SETFD, FD_CLOEXEC));
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        work(0, l);
        work(1, l);
        start(executes);
        accepts((waited_on = l, NULL));
        exit(1);
    }
    expect_success(child);
    close(l);
    R(connect(fresh(), &at, at.len));
}

static void *leaves(void *unused) {
    (void)unused;
    rest(100);
    exit(7);
}
CASE(exit_of_another_thread, TCP4 | UDP4) {
    int fd = kind->type == SOCK_STREAM ? listener() : bound();
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        start(leaves);
        cancelled_in_recvfrom(&fd);
        cancelled_in_accept(&fd);
    }
    show_status(child, 0);
}

static void *forks(void *result) {
    rest(100);
    pid_t child = fork();
    if (!child) {
        struct address a = {.len = sizeof a.room};
        exit(getsockname(waited_on, &a, &a.len) == 0 ? 3 : 4);
    }
    int status;
    MUST(waitpid(child, &status, 0));
    *(int *)result = WEXITSTATUS(status);
    struct address at = local_of(waited_on);
    MUST(connect(fresh(), &at, at.len));
    return NULL;
}
CASE(fork_beside, TCP4) {
    waited_on = listener();
    int result = 0;
    pthread_t t;
    CHECK(pthread_create(&t, NULL, forks, &result) == 0);
    int s = accept(waited_on, NULL, NULL);
    pthread_join(t, NULL);
    say("%s, the child ended with %d", s >= 0 ? "a socket" : errname(errno), result);
}

/* The initial thread has ended, the others go on. */
static void *remains(void *unused) {
    (void)unused;
    rest(50);
    every(60);
    long r = syscall(SYS_accept, (long)waited_on, 0L, 0L);
    say("accept = %ld %s, handled: %s", r, errname(errno), signals ? "yes" : "no");
    exit(0);
}
CASE(without_the_initial_thread, TCP4) {
    waited_on = listener();
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        handle(SIGALRM, 0);
        start(remains);
        pthread_exit(NULL);
    }
    show_status(child, 0);
}
