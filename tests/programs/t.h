/* What the test programs share: checks that name what deviated, addresses as text, addresses from the command line. */
#ifndef SIPBOX_TESTS_T_H
#define SIPBOX_TESTS_T_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static inline const char *errname(int e) {
    switch (e) {
    case 0: return "0";
    case EACCES: return "EACCES";
    case EADDRINUSE: return "EADDRINUSE";
    case EADDRNOTAVAIL: return "EADDRNOTAVAIL";
    case EAFNOSUPPORT: return "EAFNOSUPPORT";
    case EAGAIN: return "EAGAIN";
    case EALREADY: return "EALREADY";
    case EBADF: return "EBADF";
    case ECONNABORTED: return "ECONNABORTED";
    case ECONNREFUSED: return "ECONNREFUSED";
    case ECONNRESET: return "ECONNRESET";
    case EDOM: return "EDOM";
    case EDESTADDRREQ: return "EDESTADDRREQ";
    case EFAULT: return "EFAULT";
    case EHOSTUNREACH: return "EHOSTUNREACH";
    case EINPROGRESS: return "EINPROGRESS";
    case EINTR: return "EINTR";
    case EINVAL: return "EINVAL";
    case EISCONN: return "EISCONN";
    case EMFILE: return "EMFILE";
    case EMSGSIZE: return "EMSGSIZE";
    case ENETUNREACH: return "ENETUNREACH";
    case ENOBUFS: return "ENOBUFS";
    case ENODEV: return "ENODEV";
    case ENOENT: return "ENOENT";
    case ENOPROTOOPT: return "ENOPROTOOPT";
    case ENOSYS: return "ENOSYS";
    case ENOTCONN: return "ENOTCONN";
    case ENOTTY: return "ENOTTY";
    case ENOTSOCK: return "ENOTSOCK";
    case EOPNOTSUPP: return "EOPNOTSUPP";
    case EPERM: return "EPERM";
    case EPIPE: return "EPIPE";
    case EPROTONOSUPPORT: return "EPROTONOSUPPORT";
    case EPROTOTYPE: return "EPROTOTYPE";
    case ESOCKTNOSUPPORT: return "ESOCKTNOSUPPORT";
    case ETIMEDOUT: return "ETIMEDOUT";
    case EBADMSG: return "EBADMSG";
    case EBUSY: return "EBUSY";
    case ECHILD: return "ECHILD";
    case EEXIST: return "EEXIST";
    case EIO: return "EIO";
    case ELOOP: return "ELOOP";
    case ENETDOWN: return "ENETDOWN";
    case ENFILE: return "ENFILE";
    case ENOEXEC: return "ENOEXEC";
    case ENOKEY: return "ENOKEY";
    case ENOMEM: return "ENOMEM";
    case ENOTDIR: return "ENOTDIR";
    case ENOTUNIQ: return "ENOTUNIQ";
    case ENXIO: return "ENXIO";
    case EROFS: return "EROFS";
    case ESRCH: return "ESRCH";
    case ETOOMANYREFS: return "ETOOMANYREFS";
    case EXDEV: return "EXDEV";
    default: {
        static char other[24];
        snprintf(other, sizeof other, "errno-%d", e);
        return other;
    }
    }
}

/* Ends the program with status 1: something is not as Linux does it. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void fail(const char *format, ...) {
    int e = errno;
    va_list ap;
    va_start(ap, format);
    fflush(stdout);
    fprintf(stderr, "FAIL: ");
    vfprintf(stderr, format, ap);
    fprintf(stderr, " (errno %s)\n", errname(e));
    va_end(ap);
    exit(1);
}

/* A call that must not fail; its value. */
#define MUST(call)                                                                                                   \
    ({                                                                                                               \
        long must_ = (long)(call);                                                                                   \
        if (must_ < 0) fail("%s:%d: %s", __FILE__, __LINE__, #call);                                                 \
        must_;                                                                                                       \
    })

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) fail("%s:%d: not true: %s", __FILE__, __LINE__, #condition);                               \
    } while (0)

/* A call that must fail with this errno. */
#define MUST_FAIL(call, wanted)                                                                                      \
    do {                                                                                                             \
        errno = 0;                                                                                                   \
        long got_ = (long)(call);                                                                                    \
        if (got_ != -1 || errno != (wanted))                                                                         \
            fail("%s:%d: %s gave %ld, wanted -1 %s", __FILE__, __LINE__, #call, got_, #wanted);                      \
    } while (0)

static inline void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void say(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    };
    socklen_t len;
};

/* "192.0.2.1:80", "[2001:db8::1]:80"; four results may be in use at once. */
static inline const char *text_of(const struct address *a) {
    static char texts[4][80];
    static int next;
    char *out = texts[next++ % 4], ip[INET6_ADDRSTRLEN];
    if (a->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, ip, sizeof ip);
        snprintf(out, 80, "%s:%d", ip, ntohs(a->v4.sin_port));
    } else if (a->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, ip, sizeof ip);
        snprintf(out, 80, "[%s]:%d", ip, ntohs(a->v6.sin6_port));
    } else {
        snprintf(out, 80, "family-%d", a->any.sa_family);
    }
    return out;
}

static inline int port_of(const struct address *a) {
    return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

static inline bool same_address(const struct address *a, const struct address *b) {
    if (a->any.sa_family != b->any.sa_family || port_of(a) != port_of(b)) return false;
    if (a->any.sa_family == AF_INET) return a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    return memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0;
}

static inline struct address local_of(int fd) {
    struct address a = {.len = sizeof a.room};
    MUST(getsockname(fd, &a.any, &a.len));
    return a;
}

static inline struct address peer_of(int fd) {
    struct address a = {.len = sizeof a.room};
    MUST(getpeername(fd, &a.any, &a.len));
    return a;
}

/* A name or a literal of either family, and a port. */
static inline struct address resolve(const char *host, const char *port, int type) {
    struct addrinfo hints = {.ai_socktype = type}, *found;
    int e = getaddrinfo(host, port, &hints, &found);
    if (e) {
        fprintf(stderr, "resolve %s: %s\n", host, gai_strerror(e));
        exit(4);
    }
    struct address a = {.len = found->ai_addrlen};
    memcpy(&a.room, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return a;
}

static inline struct address any_v4(int port) {
    struct address a = {.len = sizeof a.v4};
    a.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    return a;
}

static inline struct address any_v6(int port) {
    struct address a = {.len = sizeof a.v6};
    a.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    return a;
}

static inline struct address loopback_v4(int port) {
    struct address a = any_v4(port);
    a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline int listen_on(struct address a, int backlog) {
    int one = 1, fd = (int)MUST(socket(a.any.sa_family, SOCK_STREAM, 0));
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    MUST(bind(fd, &a.any, a.len));
    MUST(listen(fd, backlog));
    return fd;
}

static inline int port_arg(const char *text) {
    char *end;
    long port = strtol(text, &end, 10);
    if (*end || port < 0 || port > 65535) {
        fprintf(stderr, "not a port: %s\n", text);
        exit(2);
    }
    return (int)port;
}

static inline void write_all(int fd, const void *data, size_t len) {
    const char *at = data;
    while (len > 0) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("write of %zu bytes gave %zd", len, n);
        at += n;
        len -= (size_t)n;
    }
}

/* Reads exactly len bytes; fewer only at the end of the stream. */
static inline size_t read_all(int fd, void *data, size_t len) {
    size_t have = 0;
    while (have < len) {
        ssize_t n = read(fd, (char *)data + have, len - have);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("read gave %zd after %zu bytes", n, have);
        if (n == 0) break;
        have += (size_t)n;
    }
    return have;
}

static inline int so_error(int fd) {
    int e = -1;
    socklen_t len = sizeof e;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len));
    CHECK(len == sizeof e);
    return e;
}

static inline void give_up_after(int fd, int seconds) {
    struct timeval t = {.tv_sec = seconds};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
}

static inline double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* An fd goes to another process (SCM_RIGHTS). */
static inline void send_fd(int over, int fd) {
    char byte = 'F', room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    CHECK(MUST(sendmsg(over, &m, 0)) == 1);
}

static inline int receive_fd(int over) {
    char byte, room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    CHECK(MUST(recvmsg(over, &m, 0)) == 1);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    CHECK(c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS);
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* The status of a child that must have ended well. */
static inline void expect_success(pid_t child) {
    int status;
    CHECK(MUST(waitpid(child, &status, 0)) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) fail("child %d ended with wait status %#x", child, status);
}

#endif
