/* What a program may do to itself and its children to lose its filter, or to come between it and the supervisor. */
#include "attack.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>

/* Another try at the targets, from wherever this is called; by the plainest means. */
static void try_all(void) {
    EACH_TARGET(t) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd >= 0 && connect(fd, &t.any, t.len) == 0) send(fd, token(), token_length(), MSG_NOSIGNAL);
        close(fd);
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd >= 0) sendto(fd, token(), token_length(), 0, &t.any, t.len);
        close(fd);
    }
}

static long load(unsigned operation, unsigned flags, uint32_t action) {
    struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, action)};
    struct sock_fprog program = {1, all};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, operation, flags, &program);
}

/* A listener of its own, to answer CONTINUE to its own calls. */
static void own_listener(void *unused) {
    (void)unused;
    struct sock_filter connects[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, connects};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    say("listener %s", listener < 0 ? errname(errno) : "done");
    if (listener < 0) {
        try_all();
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        try_all();
        _exit(0);
    }
    for (int i = 0; i < 4; i++) {
        struct seccomp_notif n = {0};
        struct pollfd p = {listener, POLLIN, 0};
        if (poll(&p, 1, 500) != 1 || ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n)) break;
        struct seccomp_notif_resp r = {.id = n.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
    }
    waitpid(child, NULL, 0);
}

static void allow_all(void *unused) {
    (void)unused;
    load(SECCOMP_SET_MODE_FILTER, 0, SECCOMP_RET_ALLOW);
    load(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_RET_ALLOW);
    load(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_RET_LOG);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_DISABLED, 0, 0, 0);
    try_all();
}

static void listener(void) {
    apart(own_listener, NULL);
    note("own listeners tried");
}

static void filters(void) {
    apart(allow_all, NULL);
    note("own filters loaded");
}

/* Whoever is left behind has the writing end of this: its end of file says that all are done. */
static int left[2];

static void wait_for_all(void) {
    char byte;
    close(left[1]);
    while (read(left[0], &byte, 1) > 0) {}
}

static int cloned(void *unused) {
    (void)unused;
    try_all();
    return 0;
}

static void children(void) {
    static char stack[1 << 16] __attribute__((aligned(16)));
    static const int flags[] = {CLONE_UNTRACED, CLONE_VFORK | CLONE_VM, CLONE_FILES | CLONE_FS, CLONE_PARENT, CLONE_IO,
                                CLONE_SYSVSEM | CLONE_FILES};
    MUST(pipe(left));
    for (int i = 0; i < 6; i++) {
        int child = clone(cloned, stack + sizeof stack, flags[i] | SIGCHLD, NULL);
        if (child > 0 && !(flags[i] & CLONE_PARENT)) waitpid(child, NULL, __WALL);
        note("clone: %s", child < 0 ? errname(errno) : "done");
    }
    /* vfork, which the C library has as a call of its own. */
    long r = syscall(SYS_vfork);
    if (r == 0) _exit(0);
    pid_t daemon_ = fork();
    if (daemon_ == 0) {
        setsid();
        if (fork() == 0) {
            for (int fd = 0; fd < 64; fd++)
                if (fd != left[1]) close(fd);
            try_all();
        }
        _exit(0);
    }
    waitpid(daemon_, NULL, 0);
    wait_for_all();
}

/* A process that outlives the parent that exits at once: still below the supervisor, and still filtered. */
static void orphan(void) {
    MUST(pipe(left));
    pid_t parent = (pid_t)MUST(fork());
    if (parent == 0) {
        setsid();
        pid_t before = getpid();
        if (fork() > 0) _exit(0);
        while (getppid() == before) usleep(1000);
        try_all();
        _exit(0);
    }
    MUST(waitpid(parent, NULL, 0));
    wait_for_all();
    note("left behind");
}

/* A program that has no file. */
static void memfd(void) {
    int fd = (int)MUST(syscall(SYS_memfd_create, "attack", 0)), from = (int)MUST(open("/proc/self/exe", O_RDONLY));
    char piece[4096];
    for (ssize_t n; (n = read(from, piece, sizeof piece)) > 0;) write_all(fd, piece, (size_t)n);
    if (fork() == 0) {
        char *argv[] = {"attack", "again", NULL};
        syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
        _exit(1);
    }
    int status;
    wait(&status);
    note("exec of a memfd: %s", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "done" : "failed");
}

static void again(void) { try_all(); }

/* A set-user-ID program runs without its privilege; su(1) is one. */
static void set_uid(void) {
    const char *helper = getenv("T_SETUID");
    if (!helper) absent("no set-user-ID program");
    if (fork() == 0) {
        execl(helper, helper, "who", NULL);
        _exit(100);
    }
    int status;
    wait(&status);
    if (WEXITSTATUS(status) == 9) through();
    note(WEXITSTATUS(status) == 9 ? "it runs as root" : WEXITSTATUS(status) == 0 ? "it runs without its privilege" : "it did not run");
}

static void who(void) {
    if (geteuid() == 0 && getuid() != 0) through();
    if (getuid() == 0) {
        unsigned long long held = 0;
        char line[128];
        FILE *status = fopen("/proc/self/status", "r");
        while (status && fgets(line, sizeof line, status)) sscanf(line, "CapEff: %llx", &held);
        if (held >> 21 & 1) through();
    }
}

/* Descriptors opened once more by /proc/self/fd: a socket cannot be, a file keeps its mode. */
static void reopen(void) {
    int pair[2], fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    char path[64];
    int opened = 0;
    for (int i = 0; i < 256; i++) {
        struct stat s;
        if (fstat(i, &s) || !S_ISSOCK(s.st_mode)) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", i);
        if (open(path, O_RDWR) >= 0) opened++;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", supervisor(), i);
        if (open(path, O_RDWR) >= 0) opened++;
    }
    note("sockets reopened: %d", opened);
    (void)fd;
    if (!getenv("T_UNDER")) try_all();
    if (opened) through();
}

/* The C library of the supervisor and what it reads at its start are not the program's to choose: a second sipbox started by
 * the program has no listener to give. */
static void preload(void) {
    const char *sipbox = getenv("T_SIPBOX");
    CHECK(sipbox);
    char path[128];
    snprintf(path, sizeof path, "/proc/%d/exe", getppid());
    pid_t child = fork();
    if (child == 0) {
        setenv("LD_PRELOAD", "/proc/self/exe", 1);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1), dup2(null, 2);
        execl(sipbox, "sipbox", "run", "--", "/proc/self/exe", "again", NULL);
        _exit(100);
    }
    int status;
    waitpid(child, &status, 0);
    note("a second sipbox: %s", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "runs" : "does not start");
    if (!getenv("T_UNDER")) try_all();
}

ATTACKS({"listener", listener}, {"filters", filters}, {"children", children}, {"orphan", orphan}, {"memfd", memfd},
        {"again", again}, {"set-uid", set_uid}, {"who", who}, {"reopen", reopen}, {"preload", preload})
