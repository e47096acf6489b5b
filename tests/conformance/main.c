/* conformance [GROUP[.CASE] [KIND]]: runs the cases, each in a process of its own, and prints what they see.
 * conformance --groups: the names of the groups. */
#include "c.h"

static const struct kind kinds[] = {
    {TCP4, "tcp4", AF_INET, SOCK_STREAM},          {TCP6, "tcp6", AF_INET6, SOCK_STREAM},
    {TCPM, "tcp-mapped", AF_INET6, SOCK_STREAM},   {UDP4, "udp4", AF_INET, SOCK_DGRAM},
    {UDP6, "udp6", AF_INET6, SOCK_DGRAM},          {UDPM, "udp-mapped", AF_INET6, SOCK_DGRAM},
    {UNIXS, "unix-stream", AF_UNIX, SOCK_STREAM},  {UNIXD, "unix-dgram", AF_UNIX, SOCK_DGRAM},
    {UNIXQ, "unix-seqpacket", AF_UNIX, SOCK_SEQPACKET},
};
const struct kind *kind;
bool nonblocking;

/* A case that takes longer hangs. */
enum { SECONDS = 10 };

static struct test *first, **last = &first;
void add_test(struct test *test) {
    *last = test;
    last = &test->next;
}

static volatile sig_atomic_t piped;
static void on_pipe(int signal) { piped = signal; }
void before_step(void) {
    piped = 0;
    errno = 0;
}
void after_step(const char *call, long result, int error) {
    const char *also = piped ? ", SIGPIPE" : "";
    if (result < 0) say("%s = %ld %s%s", call, result, errname(error), also);
    else say("%s = %ld%s", call, result, also);
}

static int ports[64], known_ports;
const char *port_name(int port) {
    static char names[4][16];
    static int next;
    char *out = names[next++ % 4];
    if (port == 0) return "0";
    int i = 0;
    while (i < known_ports && ports[i] != port) i++;
    if (i == known_ports && known_ports < 64) ports[known_ports++] = port;
    snprintf(out, 16, "P%d", i + 1);
    return out;
}

int set_int(int fd, int level, int option, int value) { return (int)setsockopt(fd, level, option, &value, sizeof value); }

void set_mode(int fd) {
    int flags = (int)MUST(fcntl(fd, F_GETFL));
    MUST(fcntl(fd, F_SETFL, nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

int fresh_blocking(void) {
    int fd = (int)MUST(socket(kind->family, kind->type, 0));
    return fd;
}
int fresh(void) {
    int fd = fresh_blocking();
    set_mode(fd);
    return fd;
}

static struct address unix_address(void) {
    static int counter;
    struct address a = {.len = sizeof(struct sockaddr_un)};
    struct sockaddr_un *u = (struct sockaddr_un *)&a.room;
    u->sun_family = AF_UNIX;
    snprintf(u->sun_path, sizeof u->sun_path, "c.%d.%d", getpid(), counter++);
    /* Numbers of processes come again, and who had this one may have been killed. */
    unlink(u->sun_path);
    return a;
}

static struct address v6_address(const char *text, int port) {
    struct address a = any_v6(port);
    MUST(inet_pton(AF_INET6, text, &a.v6.sin6_addr));
    return a;
}

struct address loopback(int port) {
    switch (kind->bit) {
    case TCP4: case UDP4: return loopback_v4(port);
    case TCP6: case UDP6: return v6_address("::1", port);
    case TCPM: case UDPM: return v6_address("::ffff:127.0.0.1", port);
    default: return unix_address();
    }
}
struct address wildcard(int port) { return kind->family == AF_INET ? any_v4(port) : any_v6(port); }
struct address other_family(int port) { return kind->family == AF_INET ? v6_address("::1", port) : loopback_v4(port); }

int bound(void) {
    int fd = fresh();
    struct address a = loopback(0);
    MUST(bind(fd, &a.any, a.len));
    return fd;
}

int listener(void) {
    int fd = bound();
    MUST(listen(fd, 8));
    return fd;
}

void await(int fd, int events) {
    struct pollfd p = {fd, (short)events, 0};
    if (MUST(poll(&p, 1, 5000)) == 0) fail("waited in vain for events %#x", (unsigned)events);
}

int take(int listener) {
    await(listener, POLLIN);
    int fd = (int)MUST(accept4(listener, NULL, NULL, nonblocking ? SOCK_NONBLOCK : 0));
    return fd;
}

void make_pair(int pair[2]) {
    if (kind->bit & LOCAL) {
        MUST(socketpair(AF_UNIX, kind->type, 0, pair));
        set_mode(pair[0]), set_mode(pair[1]);
        return;
    }
    if (kind->type == SOCK_DGRAM) {
        struct address at[2];
        two_bound(pair, at);
        MUST(connect(pair[0], &at[1].any, at[1].len));
        MUST(connect(pair[1], &at[0].any, at[0].len));
        return;
    }
    int l = listener();
    struct address at = local_of(l);
    pair[0] = fresh_blocking();
    MUST(connect(pair[0], &at.any, at.len));
    set_mode(pair[0]);
    pair[1] = take(l);
    close(l);
}

void two_bound(int two[2], struct address at[2]) {
    for (int i = 0; i < 2; i++) {
        two[i] = fresh();
        struct address a = loopback(0);
        MUST(bind(two[i], &a.any, a.len));
        at[i] = kind->family == AF_UNIX ? a : local_of(two[i]);
    }
}

int quiet_port(void) {
    /* Above those that the system hands out by itself: no other process takes it meanwhile. */
    enum { FIRST = 61000, MANY = 4500 };
    static int tries;
    while (tries < MANY) {
        struct address a = any_v6(FIRST + (getpid() * 7 + tries++) % MANY);
        int fd = (int)MUST(socket(AF_INET6, kind->type, 0));
        long taken = bind(fd, &a, a.len);
        close(fd);
        if (taken == 0) return port_of(&a);
    }
    fail("no free port above %d", FIRST);
}

static const char *address_text(const struct address *a) {
    static char texts[4][200];
    static int next;
    char *out = texts[next++ % 4], ip[INET6_ADDRSTRLEN];
    if (a->any.sa_family == AF_INET && a->len >= sizeof a->v4) {
        inet_ntop(AF_INET, &a->v4.sin_addr, ip, sizeof ip);
        snprintf(out, 200, "%s:%s", ip, port_name(port_of(a)));
    } else if (a->any.sa_family == AF_INET6 && a->len >= sizeof a->v6) {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, ip, sizeof ip);
        snprintf(out, 200, "[%s]:%s flow %u scope %u", ip, port_name(port_of(a)), ntohl(a->v6.sin6_flowinfo),
                 a->v6.sin6_scope_id);
    } else {
        snprintf(out, 200, "family %d", a->any.sa_family);
    }
    return out;
}

void show_address(const char *what, const struct address *a) { say("%s: %s, length %u", what, address_text(a), a->len); }

void show_names(int fd) {
    struct address a = {.len = sizeof a.room};
    errno = 0;
    if (getsockname(fd, &a.any, &a.len) < 0) say("getsockname: %s", errname(errno));
    else show_address("local", &a);
    a = (struct address){.len = sizeof a.room};
    errno = 0;
    if (getpeername(fd, &a.any, &a.len) < 0) say("getpeername: %s", errname(errno));
    else show_address("peer", &a);
}

void show_data(const char *what, const void *data, long length) {
    char out[400];
    size_t at = 0;
    const unsigned char *bytes = data;
    for (long i = 0; i < length && i < 64 && at < 300; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, bytes[i] >= ' ' && bytes[i] < 127 ? "%c" : "\\x%02x", bytes[i]);
    out[at] = 0;
    unsigned sum = 0;
    for (long i = 0; i < length; i++) sum = sum * 31 + bytes[i];
    if (length > 64) say("%s: %ld bytes, %s..., sum %08x", what, length, out, sum);
    else say("%s: \"%s\"", what, out);
}

void show_revents(const char *what, int revents) {
    static const struct {
        int bit;
        const char *name;
    } names[] = {{POLLIN, "IN"},       {POLLPRI, "PRI"},       {POLLOUT, "OUT"},       {POLLERR, "ERR"},
                 {POLLHUP, "HUP"},     {POLLNVAL, "NVAL"},     {POLLRDNORM, "RDNORM"}, {POLLRDBAND, "RDBAND"},
                 {POLLWRNORM, "WRNORM"}, {POLLWRBAND, "WRBAND"}, {0x2000, "RDHUP"}};
    char out[120] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (revents & names[i].bit) {
            if (*out) strcat(out, "|");
            strcat(out, names[i].name);
        }
    say("%s: %s", what, *out ? out : "nothing");
}

enum { ALL_EVENTS = POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | 0x2000 };

void show_poll(int fd, int wanted) {
    struct pollfd p = {fd, (short)wanted, 0};
    if (MUST(poll(&p, 1, 5000)) == 0) say("poll: none of %#x in time", (unsigned)wanted);
    show_poll_now(fd);
}
void show_poll_now(int fd) {
    struct pollfd p = {fd, ALL_EVENTS, 0};
    MUST(poll(&p, 1, 0));
    show_revents("poll", p.revents);
}

void show_error(int fd) {
    int value = -1;
    socklen_t len = sizeof value;
    errno = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len) < 0) say("SO_ERROR: -1 %s", errname(errno));
    else say("SO_ERROR: %s, length %u", errname(value), len);
}

static int tcp_state(int fd) {
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0) return -1;
    return info.tcpi_state;
}
static const char *const tcp_states[] = {"?",         "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
                                         "TIME_WAIT", "CLOSE",       "CLOSE_WAIT", "LAST_ACK", "LISTEN",  "CLOSING"};
void show_tcp_state(int fd) {
    int state = tcp_state(fd);
    say("TCP state: %s", state < 0 ? errname(errno) : state < 12 ? tcp_states[state] : "unknown");
}
void await_tcp_state(int fd, int state) {
    for (double end = now_ms() + 5000; tcp_state(fd) != state && now_ms() < end;) usleep(500);
    show_tcp_state(fd);
}

double now_ms(void) { return seconds_now() * 1000; }

void show_int_option(const char *name, int fd, int level, int option) {
    int value = -1;
    socklen_t len = sizeof value;
    errno = 0;
    if (getsockopt(fd, level, option, &value, &len) < 0) say("%s: -1 %s", name, errname(errno));
    else say("%s: %d, length %u", name, value, len);
}

void show_flags(const char *what, unsigned flags) {
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{MSG_OOB, "OOB"},     {MSG_PEEK, "PEEK"},         {MSG_CTRUNC, "CTRUNC"},         {MSG_TRUNC, "TRUNC"},
                 {MSG_EOR, "EOR"},     {MSG_ERRQUEUE, "ERRQUEUE"}, {MSG_CMSG_CLOEXEC, "CLOEXEC"}};
    char out[120] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (flags & names[i].bit) {
            if (*out) strcat(out, "|");
            strcat(out, names[i].name);
            flags &= ~names[i].bit;
        }
    if (flags) say("%s: %s and %#x", what, out, flags);
    else say("%s: %s", what, *out ? out : "none");
}

static void show_control(int level, int type, const unsigned char *data, size_t length) {
    char ip[INET6_ADDRSTRLEN], other[INET6_ADDRSTRLEN];
    int number = 0;
    if (length >= sizeof number) memcpy(&number, data, sizeof number);
    if (level == IPPROTO_IP && type == IP_PKTINFO && length == sizeof(struct in_pktinfo)) {
        struct in_pktinfo info;
        memcpy(&info, data, sizeof info);
        inet_ntop(AF_INET, &info.ipi_spec_dst, ip, sizeof ip);
        inet_ntop(AF_INET, &info.ipi_addr, other, sizeof other);
        say("control IP_PKTINFO: interface %d, local %s, destination %s", info.ipi_ifindex, ip, other);
    } else if (level == IPPROTO_IPV6 && type == IPV6_PKTINFO && length == 20) {
        inet_ntop(AF_INET6, data, ip, sizeof ip);
        memcpy(&number, data + 16, sizeof number);
        say("control IPV6_PKTINFO: interface %d, destination %s", number, ip);
    } else if (level == IPPROTO_IP && (type == IP_ORIGDSTADDR || type == IP_RECVERR)) {
        struct address a = {.len = sizeof a.v4};
        size_t skip = type == IP_RECVERR ? sizeof(struct sock_extended_err) : 0;
        if (skip && length >= skip) {
            struct sock_extended_err e;
            memcpy(&e, data, sizeof e);
            say("control IP_RECVERR: %s, origin %u, type %u, code %u", errname((int)e.ee_errno), e.ee_origin, e.ee_type,
                e.ee_code);
        }
        if (length >= skip + sizeof a.v4) {
            memcpy(&a.v4, data + skip, sizeof a.v4);
            show_address(skip ? "control IP_RECVERR offender" : "control IP_ORIGDSTADDR", &a);
        }
    } else if (level == IPPROTO_IPV6 && type == IPV6_RECVERR && length >= sizeof(struct sock_extended_err)) {
        struct sock_extended_err e;
        struct address a = {.len = sizeof a.v6};
        memcpy(&e, data, sizeof e);
        say("control IPV6_RECVERR: %s, origin %u, type %u, code %u", errname((int)e.ee_errno), e.ee_origin, e.ee_type,
            e.ee_code);
        if (length >= sizeof e + sizeof a.v6) {
            memcpy(&a.v6, data + sizeof e, sizeof a.v6);
            show_address("control IPV6_RECVERR offender", &a);
        }
    } else if (level == SOL_SOCKET && (type == SO_TIMESTAMP || type == SO_TIMESTAMPNS || type == 63 || type == 64)) {
        long seconds = 0;
        memcpy(&seconds, data, sizeof seconds);
        long age = time(NULL) - seconds;
        say("control timestamp %d: %zu bytes, %s", type, length, age >= 0 && age < 10 ? "now" : "another time");
    } else if (level == SOL_SOCKET && type == SCM_RIGHTS) {
        say("control SCM_RIGHTS: %zu descriptors, the first %d", length / 4, number);
    } else if (level == SOL_SOCKET && type == SCM_CREDENTIALS) {
        struct ucred c;
        memcpy(&c, data, sizeof c);
        say("control SCM_CREDENTIALS: pid %s, uid %s, gid %s", c.pid == getpid() ? "own" : "other",
            c.uid == getuid() ? "own" : "other", c.gid == getgid() ? "own" : "other");
    } else if (length == 1) {
        say("control %d/%d: byte %u", level, type, data[0]);
    } else if (length == 4) {
        say("control %d/%d: %d", level, type, number);
    } else {
        say("control %d/%d: %zu bytes", level, type, length);
    }
}

void show_message(const struct kmsg *m) {
    if (m->name) {
        struct address a = {.len = (socklen_t)m->namelen};
        size_t n = (size_t)m->namelen < sizeof a.room ? (size_t)m->namelen : sizeof a.room;
        memcpy(&a.room, m->name, n);
        if (m->namelen > 0) show_address("name", &a);
        else say("name: none, length %d", m->namelen);
    }
    show_flags("flags", m->flags);
    const char *at = m->control;
    size_t left = at ? m->controllen : 0;
    say("control length %zu", left);
    while (left >= sizeof(size_t) * 2) {
        size_t length;
        int level, type;
        memcpy(&length, at, sizeof length);
        memcpy(&level, at + 8, sizeof level);
        memcpy(&type, at + 12, sizeof type);
        if (length < 16 || length > left) {
            say("control length of a message: %zu of %zu", length, left);
            break;
        }
        show_control(level, type, (const unsigned char *)at + 16, length - 16);
        size_t step = (length + 7) & ~(size_t)7;
        if (step >= left) break;
        at += step;
        left -= step;
    }
}

void fill_up(int fd) {
    /* TCP finds more room for a while: an acknowledgement is held back for up to 200 ms (TCP_DELACK_MAX). */
    char block[4096] = "";
    for (int quiet = 0; quiet < 3; quiet++) {
        while (send(fd, block, sizeof block, MSG_DONTWAIT) > 0) quiet = 0;
        while (send(fd, block, 1, MSG_DONTWAIT) > 0) quiet = 0;
        for (double end = now_ms() + 100; now_ms() < end;) usleep(1000);
    }
}

void *edge(size_t room) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(two != MAP_FAILED);
    MUST(munmap(two + page, page));
    return two + page - room;
}

/* One case for one kind, in a process of its own. */
static void run(const struct test *test, const struct kind *k, bool non) {
    say("== %s.%s %s%s", test->group, test->name, k->name, non ? " non-blocking" : "");
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        kind = k, nonblocking = non;
        signal(SIGPIPE, on_pipe);
        alarm(SECONDS);
        dup2(1, 2);
        test->run();
        exit(0);
    }
    int status;
    MUST(waitpid(child, &status, 0));
    if (WIFSIGNALED(status)) say("-- killed by signal %d", WTERMSIG(status));
    else say("-- exit %d", WEXITSTATUS(status));
}

/* conformance --child KIND: what an executed program sees of descriptor 30. */
static int child_program(const char *name) {
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        if (!strcmp(kinds[k].name, name)) kind = &kinds[k];
    show_names(30);
    show_error(30);
    R(send(30, "hello", 5, 0));
    return 3;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--child")) return child_program(argv[2]);
    const char *wanted = argc > 1 ? argv[1] : "";
    if (!strcmp(wanted, "--groups")) {
        for (struct test *t = first, *p = NULL; t; p = t, t = t->next)
            if (!p || strcmp(p->group, t->group)) say("%s", t->group);
        return 0;
    }
    const char *dot = strchr(wanted, '.');
    size_t group = dot ? (size_t)(dot - wanted) : strlen(wanted);
    int ran = 0;
    for (struct test *t = first; t; t = t->next) {
        if (group && (strncmp(t->group, wanted, group) || t->group[group])) continue;
        if (dot && strcmp(t->name, dot + 1)) continue;
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            if (!(t->kinds & kinds[k].bit) || (argc > 2 && strcmp(argv[2], kinds[k].name))) continue;
            for (int non = 0; non <= !!(t->kinds & MODES); non++) {
                run(t, &kinds[k], non);
                ran++;
            }
        }
    }
    if (!ran) fail("no case is called %s", wanted);
    return 0;
}
