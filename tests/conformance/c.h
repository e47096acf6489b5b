/* What the conformance cases share. A case is one function; it is run for each kind of socket that it names, in a process
 * of its own, natively and under sipbox, and prints one line per step. What the two runs may not agree on by chance is
 * not printed as it is: ports are numbered in the order in which they appear. */
#ifndef SIPBOX_CONFORMANCE_C_H
#define SIPBOX_CONFORMANCE_C_H
#include "t.h"
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>

/* The kernel's own headers are not musl's: linux/sockios.h, linux/errqueue.h, linux/socket.h. */
#define SIOCINQ 0x541B
#define SIOCOUTQ 0x5411
struct sock_extended_err {
    uint32_t ee_errno;
    uint8_t ee_origin, ee_type, ee_code, ee_pad;
    uint32_t ee_info, ee_data;
};

enum {
    TCP4 = 1 << 0,
    TCP6 = 1 << 1,
    TCPM = 1 << 2, /* AF_INET6, v4-mapped addresses */
    UDP4 = 1 << 3,
    UDP6 = 1 << 4,
    UDPM = 1 << 5,
    UNIXS = 1 << 6,
    UNIXD = 1 << 7,
    UNIXQ = 1 << 8,
    TCP = TCP4 | TCP6 | TCPM,
    UDP = UDP4 | UDP6 | UDPM,
    INET = TCP | UDP,
    LOCAL = UNIXS | UNIXD | UNIXQ,
    V4 = TCP4 | UDP4,
    V6 = TCP6 | UDP6,
    MODES = 1 << 20, /* blocking and non-blocking */
};

struct kind {
    int bit;
    const char *name;
    int family, type;
};

/* The kind and the mode of the case that runs. */
extern const struct kind *kind;
extern bool nonblocking;

struct test {
    const char *group, *name;
    int kinds;
    void (*run)(void);
    struct test *next;
};
void add_test(struct test *test);

/* CASE(name, kinds) { steps }: the group is GROUP, defined by the file. */
#define CASE(title, which)                                                                                            \
    static void case_##title(void);                                                                                  \
    __attribute__((constructor)) static void add_##title(void) {                                                     \
        static struct test test = {GROUP, #title, which, case_##title, NULL};                                        \
        add_test(&test);                                                                                             \
    }                                                                                                                \
    static void case_##title(void)

/* System calls themselves: a C library looks at arguments, copies structures and tries again. */
#define L(x) ((long)(x))
#define socket(d, t, p) syscall(SYS_socket, L(d), L(t), L(p))
#define socketpair(d, t, p, v) syscall(SYS_socketpair, L(d), L(t), L(p), L(v))
#define bind(f, a, l) syscall(SYS_bind, L(f), L(a), L(l))
#define connect(f, a, l) syscall(SYS_connect, L(f), L(a), L(l))
#define listen(f, b) syscall(SYS_listen, L(f), L(b))
#define accept(f, a, l) syscall(SYS_accept, L(f), L(a), L(l))
#define accept4(f, a, l, g) syscall(SYS_accept4, L(f), L(a), L(l), L(g))
#define getsockname(f, a, l) syscall(SYS_getsockname, L(f), L(a), L(l))
#define getpeername(f, a, l) syscall(SYS_getpeername, L(f), L(a), L(l))
#define getsockopt(f, l, n, v, s) syscall(SYS_getsockopt, L(f), L(l), L(n), L(v), L(s))
#define setsockopt(f, l, n, v, s) syscall(SYS_setsockopt, L(f), L(l), L(n), L(v), L(s))
#define shutdown(f, h) syscall(SYS_shutdown, L(f), L(h))
#define sendto(f, b, n, g, a, l) syscall(SYS_sendto, L(f), L(b), L(n), L(g), L(a), L(l))
#define recvfrom(f, b, n, g, a, l) syscall(SYS_recvfrom, L(f), L(b), L(n), L(g), L(a), L(l))
#define send(f, b, n, g) sendto(f, b, n, g, 0, 0)
#define recv(f, b, n, g) recvfrom(f, b, n, g, 0, 0)
#define sendmsg(f, m, g) syscall(SYS_sendmsg, L(f), L(m), L(g))
#define recvmsg(f, m, g) syscall(SYS_recvmsg, L(f), L(m), L(g))
#define sendmmsg(f, m, n, g) syscall(SYS_sendmmsg, L(f), L(m), L(n), L(g))
#define recvmmsg(f, m, n, g, t) syscall(SYS_recvmmsg, L(f), L(m), L(n), L(g), L(t))

/* struct user_msghdr of the kernel: every bit of it can be set. */
struct kmsg {
    void *name;
    int namelen;
    struct iovec *iov;
    unsigned long iovlen;
    void *control;
    unsigned long controllen;
    unsigned flags;
};
struct kmmsg {
    struct kmsg m;
    unsigned len;
};

/* One step: the call, what it returned, and the errno; a SIGPIPE that came with it is told. */
#define R(call)                                                                                                      \
    ({                                                                                                               \
        before_step();                                                                                               \
        long r_ = (long)(call);                                                                                      \
        after_step(#call, r_, errno);                                                                                \
        r_;                                                                                                          \
    })
void before_step(void);
void after_step(const char *call, long result, int error);

/* Sockets of the case's kind. */
int fresh(void);
int fresh_blocking(void);
struct address loopback(int port);
struct address wildcard(int port);
/* The kind's loopback address of another family: IPv6 for AF_INET, IPv4 for AF_INET6. */
struct address other_family(int port);
int bound(void);
int listener(void);
/* A connected pair; pair[0] is the one that called connect() (of the kind's mode, both of them). */
void make_pair(int pair[2]);
/* Two bound datagram sockets that are not connected, and where they are. */
void two_bound(int two[2], struct address at[2]);
int take(int listener);
/* A port that nobody has, of any address. */
int quiet_port(void);
void set_mode(int fd);

/* Lines about a socket. */
void show_address(const char *what, const struct address *a);
void show_names(int fd);
void show_data(const char *what, const void *data, long length);
void show_revents(const char *what, int revents);
/* Waits until one of `wanted` is there (error and hang-up count too), and prints all that poll(2) tells of `fd`. */
void show_poll(int fd, int wanted);
/* What poll(2) tells of `fd` now. */
void show_poll_now(int fd);
void show_error(int fd);
void show_tcp_state(int fd);
void await_tcp_state(int fd, int state);
void show_int_option(const char *name, int fd, int level, int option);
#define OPTION(fd, level, option) show_int_option(#option, fd, level, option)
void show_message(const struct kmsg *m);
void show_flags(const char *what, unsigned flags);
int set_int(int fd, int level, int option, int value);
/* Sends until there is no room left, and none comes any more. */
void fill_up(int fd);
/* Waits for readability, at most for seconds. */
void await(int fd, int events);
/* The number that stands for a port in the output. */
const char *port_name(int port);
/* A page that is there, followed by one that is not: a pointer `room` bytes before the end of the first. */
void *edge(size_t room);
/* Milliseconds since some moment. */
double now_ms(void);

static inline socklen_t *len_of(socklen_t value) {
    static socklen_t lens[4];
    static int next;
    socklen_t *l = &lens[next++ % 4];
    *l = value;
    return l;
}

#endif
