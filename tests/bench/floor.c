/* bench-floor COUNT [named]: the median cost of one trapped system call, in nanoseconds, with the least that a supervisor can do:
 * a thread of its own in NOTIF_RECV, an answer that is a value, synchronous wake-up, WAIT_KILLABLE_RECV.
 * named: and with what no right answer to getsockname can do without: the socket's cookie (an fd number means nothing),
 * the length from the program's memory, the check that the caller is still there, the address into its memory. */
#include "../programs/t.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
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

static int install(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getsockname, 0, 1),
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
    send_fd(over, install());
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

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

static void answer_by_name(int listener, int pidfd, const struct seccomp_notif *request) {
    int fd = (int)MUST(syscall(SYS_pidfd_getfd, pidfd, (int)request->data.args[0], 0));
    uint64_t cookie;
    socklen_t cookie_len = sizeof cookie, given;
    MUST(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &cookie_len));
    struct iovec here = {&given, sizeof given}, there = {(void *)request->data.args[2], sizeof given};
    CHECK(MUST(process_vm_readv((pid_t)request->pid, &here, 1, &there, 1, 0)) == sizeof given);
    MUST(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->id));
    struct sockaddr_in name = {.sin_family = AF_INET};
    here = (struct iovec){&name, sizeof name};
    there = (struct iovec){(void *)request->data.args[1], sizeof name};
    CHECK(MUST(process_vm_writev((pid_t)request->pid, &here, 1, &there, 1, 0)) == sizeof name);
    close(fd);
}

int main(int argc, char **argv) {
    bool named = argc == 3 && !strcmp(argv[2], "named");
    if ((argc != 2 && !named) || atoi(argv[1]) <= 0) {
        fprintf(stderr, "usage: bench-floor COUNT [named]\n");
        return 2;
    }
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) measured(ends[1], atoi(argv[1]));
    int listener = receive_fd(ends[0]);
    /* Linux before 6.6 lacks it; then the floor is that of such a kernel. */
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
    int pidfd = (int)MUST(syscall(SYS_pidfd_open, child, 0));
    for (;;) {
        struct seccomp_notif request = {0};
        struct seccomp_notif_resp answer = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) {
            if (errno == EINTR) continue;
            break; /* ENOENT: nobody is left under the filter */
        }
        answer.id = request.id;
        if (named) answer_by_name(listener, pidfd, &request);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0) CHECK(errno == ENOENT);
    }
    expect_success(child);
    return 0;
}
