/* Signals that come while a call waits. */
#ifndef SIGNALS_H
#define SIGNALS_H
#include "c.h"
#define GROUP "signals"

static volatile sig_atomic_t signals;
static volatile sig_atomic_t handled_by;
static _Thread_local int me;
static inline void on_signal(int number) {
    (void)number;
    signals++;
    handled_by = me;
}
static inline void handle(int number, int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
}
/* SIGALRM again and again: one of them comes when the call waits. */
static inline void every(int milliseconds) {
    struct timeval t = {.tv_usec = milliseconds * 1000};
    struct itimerval timer = {.it_value = t, .it_interval = t};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    /* The case's own limit is the same timer. */
    if (!milliseconds) signal(SIGALRM, SIG_DFL), alarm(8);
}
static inline void alarms(int flags) {
    signals = 0;
    handle(SIGALRM, flags);
    every(40);
}
static inline void calm(void) {
    every(0);
    say("handled: %s", signals ? "yes" : "no");
}
static inline void rest(int milliseconds) {
    for (double end = now_ms() + milliseconds; now_ms() < end;) usleep(1000);
}
static inline void limit(int fd, int option, int milliseconds) {
    struct timeval t = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
    MUST(setsockopt(fd, SOL_SOCKET, option, &t, sizeof t));
}
/* A child that does something when the parent has waited for a while. */
static inline pid_t later(void) {
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        /* Its parent's timer is not its own. */
        rest(250);
    }
    return child;
}

#endif
