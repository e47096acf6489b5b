/* What the attacks share. An attack tries one way past the filter, to the targets that the environment names:
 *   T_LO, T_NS          ADDRESS:PORT of a receiver of TCP and UDP on 127.0.0.1 and in another network namespace
 *   T_INTERFACE         the interface that leads there; T_HERE, T_BROADCAST: this machine's address on it, and everybody's
 *   T_UNIX, T_DGRAM     paths of its AF_UNIX sockets (stream, datagram); T_ABSTRACT, T_ABSTRACT_DGRAM: abstract names
 *   T_PID, T_CANARY     its process id, and the address of a word in it; T_FD: a connected UDP socket of it
 *   T_KNOCK             what is written there as PORT is a UDP port of the attacker that the receiver knocks at
 *   T_KNOCK.take        what is written there as HOW PORT the receiver does: it binds the wildcard address, or calls; see target.c
 *   T_VICTIM            a process of the same user that only waits
 *   T_TOKEN             what is to be said to the targets
 *   T_UNDER             set under sipbox: the parent is the supervisor; natively the receiver stands in for it
 * It prints what happened as one line. Exit status: 0 tried; 9 the attack itself saw that it got through; 77 this kernel
 * does not have what it needs. What the targets saw is the proof, and is looked at by the test. */
#ifndef SIPBOX_ATTACK_H
#define SIPBOX_ATTACK_H
#include "t.h"
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* musl's own sends one by one, by sendmsg(). */
#define sendmmsg(fd, messages, count, flags) syscall(SYS_sendmmsg, (long)(fd), messages, (long)(count), (long)(flags))

struct attack {
    const char *name;
    void (*run)(void);
};

static char happened_[2048];
static bool through_;

/* A piece of what happened; said once. */
__attribute__((format(printf, 1, 2))) static inline void note(const char *format, ...) {
    char piece[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(piece, sizeof piece, format, ap);
    va_end(ap);
    size_t have = strlen(happened_), more = strlen(piece);
    for (const char *at = happened_; (at = strstr(at, piece)); at++) {
        bool begins = at == happened_ || at[-1] == ' ', ends = !at[more] || at[more] == ',';
        if (begins && ends) return;
    }
    if (have + more + 3 < sizeof happened_) sprintf(happened_ + have, "%s%s", have ? ", " : "", piece);
}

/* The attack saw that it got through. */
static inline void through(void) { through_ = true; }

__attribute__((noreturn)) static inline void absent(const char *what) {
    say("%s", what);
    exit(77);
}

/* A call of the attack: its value, and what became of it. */
#define TRY(what, call)                                                                                              \
    ({                                                                                                               \
        errno = 0;                                                                                                   \
        long try_ = (long)(call);                                                                                    \
        int try_errno_ = errno;                                                                                      \
        note("%s: %s", what, try_ < 0 ? errname(try_errno_) : "done");                                               \
        errno = try_errno_;                                                                                          \
        try_;                                                                                                        \
    })

/* The same, and success is all that the attack wants. */
#define TRY_THROUGH(what, call)                                                                                      \
    do {                                                                                                             \
        if (TRY(what, call) >= 0) through();                                                                         \
    } while (0)

static inline const char *env(const char *name) {
    const char *value = getenv(name);
    if (!value) {
        fprintf(stderr, "%s is not set\n", name);
        exit(2);
    }
    return value;
}

static inline const char *token(void) { return env("T_TOKEN"); }
static inline size_t token_length(void) { return strlen(token()); }

static inline struct address target(const char *variable) {
    char text[80];
    snprintf(text, sizeof text, "%s", env(variable));
    char *colon = strrchr(text, ':');
    CHECK(colon);
    *colon = 0;
    struct address a = any_v4(port_arg(colon + 1));
    CHECK(inet_pton(AF_INET, text, &a.v4.sin_addr) == 1);
    return a;
}

static const char *const TARGETS[] = {"T_LO", "T_NS"};
#define EACH_TARGET(t)                                                                                               \
    for (int t##_i = 0; t##_i < 2; t##_i++)                                                                          \
        for (struct address t = target(TARGETS[t##_i]), *t##_once = &t; t##_once; t##_once = NULL)

static inline struct address mapped(struct address a) {
    struct address b = any_v6(port_of(&a));
    uint8_t *ip = (uint8_t *)&b.v6.sin6_addr;
    ip[10] = ip[11] = 0xff;
    memcpy(ip + 12, &a.v4.sin_addr, 4);
    return b;
}

static inline pid_t supervisor(void) { return getenv("T_UNDER") ? getppid() : atoi(env("T_PID")); }

/* Asks a service outside to do something about a port of this machine; what it says of that. */
static inline const char *ask_outside(const char *how, int port) {
    static char words[16];
    char path[300], answer[300], asked[310];
    snprintf(path, sizeof path, "%s.take", env("T_KNOCK"));
    snprintf(answer, sizeof answer, "%s.taken", env("T_KNOCK"));
    snprintf(asked, sizeof asked, "%s.new", path);
    unlink(answer);
    int fd = (int)MUST(open(asked, O_WRONLY | O_CREAT | O_TRUNC, 0666));
    dprintf(fd, "%s %d\n", how, port);
    close(fd);
    MUST(rename(asked, path));
    while ((fd = open(answer, O_RDONLY)) < 0) usleep(1000);
    memset(words, 0, sizeof words);
    MUST(read(fd, words, sizeof words - 1));
    close(fd);
    unlink(answer);
    return words;
}

/* Does something in a child; its exit status, or 128 and the signal that killed it. */
static inline int apart(void (*what)(void *), void *argument) {
    fflush(stdout);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        what(argument);
        _exit(0);
    }
    int status;
    MUST(waitpid(child, &status, 0));
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What came back for the last send is not to be taken for the answer to the next call. */
static inline void clear_error(int fd) {
    struct pollfd error = {fd, 0, 0};
    int what;
    socklen_t size = sizeof what;
    poll(&error, 1, 200);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &what, &size);
}

static inline int attack_main(int argc, char **argv, const struct attack *attacks, size_t count) {
    for (size_t i = 0; argc >= 2 && i < count; i++) {
        if (strcmp(attacks[i].name, argv[1])) continue;
        alarm(240);
        attacks[i].run();
        say("%s", happened_[0] ? happened_ : "nothing");
        return through_ ? 9 : 0;
    }
    fprintf(stderr, "no such attack\n");
    return 2;
}

#define ATTACKS(...)                                                                                                 \
    int main(int argc, char **argv) {                                                                                \
        static const struct attack all[] = {__VA_ARGS__};                                                            \
        return attack_main(argc, argv, all, sizeof all / sizeof *all);                                               \
    }

#endif
