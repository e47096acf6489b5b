/* bench-floor COUNT: the median cost of one trapped system call, in nanoseconds, with the least that a supervisor can do: a thread of
 * its own in NOTIF_RECV, an answer that is a value, synchronous wake-up, WAIT_KILLABLE_RECV.
 * bench-floor COUNT CALL [SOCKETS]: what `bench-micro CALL COUNT [SOCKETS]` measures under a supervisor in C that decides nothing, and does for the call only what
 * no right answer can do without: it reads the program's memory, finds the socket (an fd number means nothing: the cookie does), makes the
 * kernel's call with it, and writes the program's memory. No name is another than the kernel's, and nothing is looked up. It has a second
 * thread, which waits: NOTIF_RECV blocks the first one, and somebody must look after calls that wait; every system call on a descriptor then
 * counts who uses it (fdget of the kernel), as it need not for a process with one thread. Program and
 * supervisor are kept on one processor: where a descriptor is installed (ADDFD) the kernel wakes each on an idle other one, which costs
 * more than all the rest, and no supervisor can choose that for its program. With FREE in the environment they are where the kernel
 * puts them. */
#include "../programs/t.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Traps one call, with `addressed` only where its fifth argument is not null; and another one, which may be the same. */
static int install(int number, bool addressed, int other) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)other, 2, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, (unsigned char)addressed, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (fd < 0) fd = (int)MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
    return fd;
}

static void measured(int over, int count) {
    int64_t *samples = calloc((size_t)count, sizeof *samples);
    CHECK(samples);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    send_fd(over, install(__NR_getsockname, false, __NR_getsockname));
    struct address out;
    for (int i = 0; i < count; i++) {
        out.len = sizeof out.room;
        int64_t start = now();
        long r = getsockname(fd, &out.any, &out.len);
        samples[i] = now() - start;
        CHECK(r == 0);
    }
    qsort(samples, (size_t)count, sizeof *samples, compare);
    say("median %lld ns", (long long)samples[count / 2]);
    exit(0);
}

/* The listener, the caller, and its call. */
static int listener, pidfd;
static struct seccomp_notif request;

static uint64_t argument(int i) {
    return request.data.args[i];
}

static struct iovec at(uint64_t place, size_t length) {
    return (struct iovec){(void *)place, length};
}

static void take(const struct iovec *here, const struct iovec *there, unsigned long count) {
    MUST(process_vm_readv((pid_t)request.pid, here, count, there, count, 0));
}

static void put(const struct iovec *here, const struct iovec *there, unsigned long count) {
    MUST(process_vm_writev((pid_t)request.pid, here, count, there, count, 0));
}

/* The socket, after the memory was read: that it is still there is the proof that the memory was the caller's. */
static int fetched(void) {
    int fd = (int)MUST(syscall(SYS_pidfd_getfd, pidfd, (int)argument(0), 0));
    uint64_t cookie;
    socklen_t length = sizeof cookie;
    MUST(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length));
    return fd;
}

/* The program's room for an address, and its length, which lies right behind it: they are read and written as one piece. */
static struct address room;

static void take_room(uint64_t from, uint64_t length_from) {
    CHECK(length_from == from + offsetof(struct address, len));
    struct iovec here = {&room, sizeof room}, there = at(from, sizeof room);
    take(&here, &there, 1);
    CHECK(room.len == sizeof room.room);
}

/* A name, with its length, where the program wants that. */
static void fill_room(const struct address *name) {
    memcpy(&room.any, &name->any, name->len);
    room.len = name->len;
}

static void put_name(const struct address *name, uint64_t to) {
    fill_room(name);
    struct iovec here = {&room, sizeof room}, there = at(to, sizeof room);
    put(&here, &there, 1);
}

static long on_bind(void) {
    struct address name = {.len = (socklen_t)argument(2)};
    struct iovec here = {&name.room, name.len}, there = at(argument(1), name.len);
    take(&here, &there, 1);
    int fd = fetched();
    MUST(bind(fd, &name.any, name.len));
    /* The port that the kernel chose. */
    name.len = sizeof name.room;
    MUST(getsockname(fd, &name.any, &name.len));
    close(fd);
    return 0;
}

static long on_getsockname(void) {
    take_room(argument(1), argument(2));
    struct address name = {.len = sizeof name.room};
    int fd = fetched();
    MUST(getsockname(fd, &name.any, &name.len));
    put_name(&name, argument(1));
    close(fd);
    return 0;
}

static char data[65536];

static long on_sendto(void) {
    struct address name = {.len = (socklen_t)argument(5)};
    struct iovec here[] = {{&name.room, name.len}, {data, argument(2)}};
    struct iovec there[] = {at(argument(4), name.len), at(argument(1), argument(2))};
    take(here, there, 2);
    int fd = fetched();
    long n = MUST(sendto(fd, data, argument(2), (int)argument(3), &name.any, name.len));
    close(fd);
    return n;
}

static long on_recvfrom(void) {
    take_room(argument(4), argument(5));
    struct address name = {.len = sizeof name.room};
    int fd = fetched();
    long n = MUST(recvfrom(fd, data, argument(2), MSG_DONTWAIT, &name.any, &name.len));
    fill_room(&name);
    struct iovec here[] = {{data, (size_t)n}, {&room, sizeof room}};
    struct iovec there[] = {at(argument(1), (size_t)n), at(argument(4), sizeof room)};
    put(here, there, 2);
    close(fd);
    return n;
}

static long on_recvmsg(void) {
    /* The header with its iovec, where that was the last time, and what is between: one piece, if they are near. */
    enum { NEAR = 512 };
    static uint64_t last;
    static char span[NEAR];
    uint64_t at_header = argument(1), start = at_header < last ? at_header : last;
    uint64_t end = last + sizeof(struct iovec) > at_header + sizeof(struct msghdr) ? last + sizeof(struct iovec) : at_header + sizeof(struct msghdr);
    struct msghdr header;
    struct iovec slice;
    if (end - start <= NEAR) {
        struct iovec here = {span, end - start}, there = at(start, end - start);
        take(&here, &there, 1);
        memcpy(&header, span + (at_header - start), sizeof header);
        memcpy(&slice, span + (last - start), sizeof slice);
    } else {
        struct iovec here = {&header, sizeof header}, there = at(at_header, sizeof header);
        take(&here, &there, 1);
    }
    if ((uint64_t)header.msg_iov != last) {
        last = (uint64_t)header.msg_iov;
        struct iovec here = {&slice, sizeof slice}, there = at(last, sizeof slice);
        take(&here, &there, 1);
    }
    int fd = fetched();
    struct address name = {.len = sizeof name.room};
    struct iovec into = {data, slice.iov_len};
    struct msghdr own = {.msg_name = &name.any, .msg_namelen = sizeof name.room, .msg_iov = &into, .msg_iovlen = 1};
    long n = MUST(recvmsg(fd, &own, MSG_DONTWAIT));
    name.len = own.msg_namelen;
    struct iovec from[] = {{data, (size_t)n}, {&name.any, name.len}, {&name.len, sizeof name.len}};
    struct iovec to[] = {at((uint64_t)slice.iov_base, (size_t)n), at((uint64_t)header.msg_name, name.len),
                         at(at_header + offsetof(struct msghdr, msg_namelen), sizeof name.len)};
    /* msg_controllen and msg_flags are what they were. */
    CHECK(own.msg_controllen == header.msg_controllen && own.msg_flags == header.msg_flags);
    put(from, to, 3);
    close(fd);
    return n;
}

/* Answers by itself. */
static long on_accept(void) {
    struct address name = {.len = sizeof name.room};
    take_room(argument(1), argument(2));
    int fd = fetched();
    /* The program's listener may be one that waits. */
    struct pollfd one = {.fd = fd, .events = POLLIN};
    CHECK(MUST(poll(&one, 1, 0)) == 1);
    int new = (int)MUST(accept4(fd, &name.any, &name.len, SOCK_CLOEXEC));
    close(fd);
    uint64_t cookie;
    socklen_t length = sizeof cookie;
    MUST(getsockopt(new, SOL_SOCKET, SO_COOKIE, &cookie, &length));
    put_name(&name, argument(1));
    struct seccomp_notif_addfd add = {.id = request.id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (unsigned)new};
    MUST(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
    close(new);
    return -1;
}

static long on_connect(void) {
    struct address name = {.len = (socklen_t)argument(2)}, own = loopback_v4(0);
    struct iovec here = {&name.room, name.len}, there = at(argument(1), name.len);
    take(&here, &there, 1);
    int fd = fetched(), family;
    socklen_t length = sizeof family;
    MUST(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length));
    MUST(fcntl(fd, F_GETFL));
    /* Its name is known before its peer sees it. */
    MUST(bind(fd, &own.any, own.len));
    MUST(getsockname(fd, &own.any, &own.len));
    /* The socket is one that waits, and the supervisor must not: a time limit does it, and no flag that others could see. */
    struct timeval before, tick = {0, 1};
    length = sizeof before;
    MUST(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &before, &length));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof tick));
    MUST(connect(fd, &name.any, name.len));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &before, sizeof before));
    close(fd);
    return 0;
}

static const struct {
    const char *name;
    int number;
    bool addressed;
    long (*answer)(void);
    int besides; /* another one that is trapped, too */
} calls[] = {
    {"bind", __NR_bind, false, on_bind, __NR_bind},
    {"getsockname", __NR_getsockname, false, on_getsockname, __NR_getsockname},
    {"sendto", __NR_sendto, true, on_sendto, __NR_sendto},
    {"recvfrom", __NR_recvfrom, true, on_recvfrom, __NR_recvfrom},
    {"recvmsg", __NR_recvmsg, false, on_recvmsg, __NR_recvmsg},
    /* The supervisor gives up what it accepted when it runs again: with the next trapped call, whichever that is. */
    {"accept", __NR_accept, false, on_accept, __NR_connect},
    {"connect", __NR_connect, false, on_connect, __NR_connect},
};

static long answered(void) {
    size_t i = 0;
    while (calls[i].number != request.data.nr) i++;
    return calls[i].answer();
}

/* Becomes bench-micro, which is beside this program. */
static void become_micro(const char *self, const char *call, const char *count, const char *sockets) {
    char path[4096];
    const char *slash = strrchr(self, '/');
    snprintf(path, sizeof path, "%.*sbench-micro", slash ? (int)(slash + 1 - self) : 0, self);
    execlp(path, path, call, count, sockets, (char *)NULL); /* without SOCKETS that ends the list */
    perror(path);
    _exit(127);
}

/* Keeps this process, and what it becomes and forks, on the processor where it is. */
static void stay_here(void) {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)MUST(sched_getcpu()), &here);
    MUST(sched_setaffinity(0, sizeof here, &here));
}

static void *stand_by(void *nothing) {
    for (;;) pause();
    return nothing;
}

int main(int argc, char **argv) {
    size_t which = 0, known = sizeof calls / sizeof *calls;
    while (argc >= 3 && which < known && strcmp(argv[2], calls[which].name)) which++;
    if (argc < 2 || argc > 4 || atoi(argv[1]) <= 0 || which == known) {
        fprintf(stderr, "usage: bench-floor COUNT [CALL [SOCKETS]]\n");
        return 2;
    }
    bool bare = argc == 2;
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    if (!bare && !getenv("FREE")) stay_here();
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        if (bare) measured(ends[1], atoi(argv[1]));
        int made = install(calls[which].number, calls[which].addressed, calls[which].besides);
        send_fd(ends[1], made);
        close(made);
        become_micro(argv[0], argv[2], argv[1], argv[3]);
    }
    listener = receive_fd(ends[0]);
    /* Linux before 6.6 lacks it; then the floor is that of such a kernel. */
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
    pidfd = (int)MUST(syscall(SYS_pidfd_open, child, 0));
    pthread_t second;
    if (!bare) CHECK(pthread_create(&second, NULL, stand_by, NULL) == 0);
    for (;;) {
        memset(&request, 0, sizeof request);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) {
            if (errno == EINTR) continue;
            break; /* ENOENT: nobody is left under the filter */
        }
        struct seccomp_notif_resp answer = {.id = request.id};
        if (!bare) answer.val = answered();
        if (answer.val < 0) continue;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0) CHECK(errno == ENOENT);
    }
    expect_success(child);
    return 0;
}
