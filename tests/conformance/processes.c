/* Processes and their sockets: exec, vfork, clone with and without shared descriptors, pools of threads, orphans, daemons,
 * processes that hide, that filter themselves, that change their root or their user. */
#include "c.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#define GROUP "processes"

/* What an executed program says of descriptor 30; see main.c. */
static void execute_child(void) {
    execl("/proc/self/exe", "conformance", "--child", kind->name, NULL);
    _exit(9);
}
static void place(int fd) {
    MUST(dup2(fd, 30));
}
static void show_end(pid_t child) {
    int status;
    MUST(waitpid(child, &status, 0));
    say(WIFSIGNALED(status) ? "killed by %d" : "exit %d", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

CASE(exec_with_a_connection, INET) {
    int two[2];
    make_pair(two);
    pid_t child = fork();
    if (!child) {
        place(two[1]);
        execute_child();
    }
    show_end(child);
    char in[8];
    await(two[0], POLLIN);
    show_data("data", in, R(recv(two[0], in, 8, 0)));
}

CASE(vfork_and_exec, INET) {
    int two[2];
    make_pair(two);
    place(two[1]);
    pid_t child = vfork();
    if (!child) execute_child();
    show_end(child);
    char in[8];
    await(two[0], POLLIN);
    show_data("data", in, R(recv(two[0], in, 8, 0)));
}

/* The parent is suspended meanwhile, and its memory is the child's. */
static volatile long results[4];
CASE(vfork_and_sockets, TCP | UDP) {
    struct address w = loopback(0);
    int fd = fresh();
    static struct address mine;
    pid_t child = vfork();
    if (!child) {
        results[0] = bind(fd, &w, w.len);
        mine.len = sizeof mine.room;
        results[1] = getsockname(fd, &mine, &mine.len);
        results[2] = kind->type == SOCK_STREAM ? listen(fd, 1) : 0;
        _exit(0);
    }
    show_end(child);
    say("%ld %ld %ld", results[0], results[1], results[2]);
    show_address("child's", &mine);
    show_names(fd);
}

static pid_t clone_process(unsigned long flags) { return (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0L, 0L, 0L, 0L); }

CASE(clone_with_shared_descriptors, TCP | UDP) {
    struct address w = loopback(0);
    pid_t child = clone_process(CLONE_FILES);
    if (!child) {
        int fd = (int)MUST(socket(kind->family, kind->type, 0));
        MUST(dup2(fd, 30));
        MUST(bind(30, &w, w.len));
        if (kind->type == SOCK_STREAM) MUST(listen(30, 4));
        _exit(0);
    }
    show_end(child);
    show_names(30);
    struct address at = local_of(30);
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    R(send(c, "x", 1, 0));
    char in[4];
    int s = kind->type == SOCK_STREAM ? take(30) : 30;
    await(s, POLLIN);
    R(recv(s, in, 4, 0));
    /* What the one closes is closed for the other. */
    child = clone_process(CLONE_FILES);
    if (!child) _exit(close(30) < 0);
    show_end(child);
    struct address a = {.len = sizeof a.room};
    R(getsockname(30, &a, &a.len));
}

CASE(clone_with_its_own_descriptors, TCP | UDP) {
    int fd = bound();
    pid_t child = clone_process(0);
    if (!child) _exit(close(fd) < 0);
    show_end(child);
    show_names(fd);
}

CASE(clone_untraced_and_parent, TCP) {
    int l = listener();
    struct address at = local_of(l);
    pid_t child = clone_process(CLONE_UNTRACED | CLONE_FS | CLONE_IO | CLONE_SYSVSEM);
    if (!child) {
        MUST(connect(fresh_blocking(), &at, at.len));
        _exit(0);
    }
    show_end(child);
    R(accept(l, NULL, NULL) >= 0);
}

/* Threads that serve, and threads that ask. */
enum { POOL = 8, EACH = 25 };
static int pool_listener;
static struct address pool_at;
static volatile int served, asked;
static void *serves(void *unused) {
    (void)unused;
    for (;;) {
        int s = (int)accept(pool_listener, NULL, NULL), n;
        if (s < 0) return NULL;
        if (read_all(s, &n, sizeof n) == sizeof n) {
            n *= 2;
            /* Before the answer: who has it may ask how many there were. */
            __atomic_add_fetch(&served, 1, __ATOMIC_SEQ_CST);
            write_all(s, &n, sizeof n);
        }
        close(s);
    }
}
static void *asks(void *which) {
    for (int i = 0; i < EACH; i++) {
        int n = (int)(intptr_t)which * EACH + i, answer = -1;
        int c = fresh_blocking();
        if (connect(c, &pool_at, pool_at.len) < 0) fail("connect");
        write_all(c, &n, sizeof n);
        if (read_all(c, &answer, sizeof answer) == sizeof answer && answer == 2 * n)
            __atomic_add_fetch(&asked, 1, __ATOMIC_SEQ_CST);
        close(c);
    }
    return NULL;
}
CASE(pool_of_threads, TCP) {
    pool_listener = bound();
    MUST(listen(pool_listener, 100));
    pool_at = local_of(pool_listener);
    pthread_t t, all[POOL];
    for (int i = 0; i < POOL; i++) CHECK(pthread_create(&t, NULL, serves, NULL) == 0);
    for (int i = 0; i < POOL; i++) CHECK(pthread_create(&all[i], NULL, asks, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < POOL; i++) pthread_join(all[i], NULL);
    say("asked %d, served %d", asked, served);
    /* Who waits in accept() is told by shutdown(2). */
    R(shutdown(pool_listener, SHUT_RDWR));
    pthread_join(t, NULL);
}

CASE(pool_of_processes, TCP) {
    pool_listener = bound();
    MUST(listen(pool_listener, 100));
    pool_at = local_of(pool_listener);
    pid_t all[4];
    for (int i = 0; i < 4; i++)
        if (!(all[i] = fork())) {
            serves(NULL);
            exit(0);
        }
    pthread_t some[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&some[i], NULL, asks, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < 4; i++) pthread_join(some[i], NULL);
    say("asked %d", asked);
    for (int i = 0; i < 4; i++) {
        MUST(kill(all[i], SIGTERM));
        show_end(all[i]);
    }
    close(pool_listener);
    R(connect(fresh(), &pool_at, pool_at.len));
}

/* Answers one connection with a byte. */
static void serve_once(int l) {
    int s = (int)MUST(accept(l, NULL, NULL));
    MUST(send(s, "o", 1, 0));
    exit(0);
}

/* A program that takes over the orphans itself: a held call's process gets another parent meanwhile. */
CASE(takes_over_orphans, TCP) {
    R(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    int l = listener(), told[2], orphan = -1;
    struct address at = local_of(l);
    MUST(pipe(told));
    pid_t child = fork();
    if (!child) {
        pid_t grandchild = fork();
        if (!grandchild) serve_once(l);
        MUST(write(told[1], &grandchild, sizeof grandchild));
        exit(0);
    }
    show_end(child);
    MUST(read(told[0], &orphan, sizeof orphan));
    close(l);
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    char in[4];
    R(recv(c, in, 1, 0));
    show_end(orphan);
    R(connect(fresh(), &at, at.len));
}

CASE(outlives_its_parent, TCP) {
    int l = listener();
    struct address at = local_of(l);
    pid_t child = fork();
    if (!child) {
        if (!fork()) {
            usleep(50000);
            serve_once(l);
        }
        exit(0);
    }
    show_end(child);
    close(l);
    usleep(100000);
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    char in[4];
    R(recv(c, in, 4, 0));
    R(recv(c, in, 4, 0));
}

CASE(own_subreaper, TCP) {
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    int l = listener();
    struct address at = local_of(l);
    pid_t child = fork();
    if (!child) {
        if (!fork()) serve_once(l);
        exit(0);
    }
    show_end(child);
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    char in[4];
    R(recv(c, in, 4, 0));
    /* The orphan is this process's now. */
    show_end(-1);
    R(waitpid(-1, NULL, 0));
}

CASE(daemon_that_closes_everything, TCP | UDP) {
    pid_t child = fork();
    char place[200], *dir = getcwd(place, sizeof place);
    CHECK(dir);
    if (!child) {
        setsid();
        if (fork()) _exit(0);
        for (int i = 0; i < 1024; i++) close(i);
        umask(0);
        open("/dev/null", O_RDWR), (void)!dup(0), (void)!dup(0);
        int fd = kind->type == SOCK_STREAM ? listener() : bound();
        struct address at = local_of(fd), from = {.len = sizeof from.room};
        int out = open("daemon.new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        (void)!write(out, &at, sizeof at);
        rename("daemon.new", "daemon");
        (void)!chdir("/");
        alarm(8);
        if (kind->type == SOCK_STREAM) serve_once(fd);
        char in[4];
        MUST(recvfrom(fd, in, 4, 0, &from, &from.len));
        MUST(sendto(fd, "o", 1, 0, &from, from.len));
        _exit(0);
    }
    show_end(child);
    int in_fd = -1;
    for (double end = now_ms() + 5000; in_fd < 0 && now_ms() < end; usleep(1000)) in_fd = open("daemon", O_RDONLY);
    struct address at;
    CHECK(read(in_fd, &at, sizeof at) == sizeof at);
    unlink("daemon");
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    if (kind->type == SOCK_DGRAM) R(send(c, "x", 1, 0));
    char in[4];
    show_data("data", in, R(recv(c, in, 4, 0)));
}

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* close_range(2), with CLOSE_RANGE_CLOEXEC and CLOSE_RANGE_UNSHARE. */
CASE(closed_by_range, INET) {
    int two[2];
    make_pair(two);
    R(syscall(SYS_close_range, two[1], two[1], 4));
    R(fcntl(two[1], F_GETFD));
    int other = (int)MUST(fcntl(two[0], F_DUPFD, 100));
    R(syscall(SYS_close_range, 100, ~0U, 2));
    R(fcntl(other, F_GETFD));
    show_names(two[0]);
    R(syscall(SYS_close_range, two[0], two[0], 0));
    struct address name = {.len = sizeof name.room};
    R(getsockname(two[0], &name, &name.len));
    char in[4];
    if (kind->type == SOCK_STREAM) show_poll(two[1], POLLIN), R(recv(two[1], in, 4, 0));
    show_names(two[1]);
    R(syscall(SYS_close_range, 2, 1, 0));
}

CASE(undumpable, TCP | UDP) {
    int two[2];
    R(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    make_pair(two);
    show_names(two[0]), show_names(two[1]);
    R(send(two[0], "x", 1, 0));
    await(two[1], POLLIN);
    struct address from = {.len = sizeof from.room};
    char in[4];
    R(recvfrom(two[1], in, 4, 0, &from, &from.len));
    pid_t child = fork();
    if (!child) {
        show_names(two[0]);
        exit(0);
    }
    show_end(child);
    R(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    R(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
}

CASE(says_that_it_is_undumpable, TCP4) {
    R(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    R(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
}

/* A filter that gives `action` to one system call. */
static long filter_call(int number, unsigned action, unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    return syscall(SYS_seccomp, (long)SECCOMP_SET_MODE_FILTER, (long)flags, &program);
}

CASE(own_filter_refuses, TCP | UDP) {
    int two[2];
    make_pair(two);
    R(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    R(filter_call(SYS_getpeername, SECCOMP_RET_ERRNO | EDOM, 0));
    show_names(two[0]);
    R(filter_call(SYS_getsockname, SECCOMP_RET_ERRNO | EBUSY, SECCOMP_FILTER_FLAG_TSYNC));
    show_names(two[0]);
    R(send(two[0], "x", 1, 0));
    R(connect(two[0], NULL, 0));
}

CASE(own_filter_kills, TCP | UDP) {
    pid_t child = fork();
    if (!child) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        int fd = bound();
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        MUST(filter_call(SYS_getsockname, SECCOMP_RET_KILL_PROCESS, 0));
        struct address a = {.len = sizeof a.room};
        getsockname(fd, &a, &a.len);
        exit(0);
    }
    show_end(child);
}

static volatile sig_atomic_t trapped;
static void on_trap(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    trapped = info->si_syscall;
}
CASE(own_filter_traps, TCP | UDP) {
    int fd = bound();
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSYS, &action, NULL));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    R(filter_call(SYS_listen, SECCOMP_RET_TRAP, 0));
    listen(fd, 1);
    say("trapped: %s", trapped == SYS_listen ? "listen" : "nothing");
    show_names(fd);
}

CASE(strict_mode, TCP) {
    int two[2];
    make_pair(two);
    pid_t child = fork();
    if (!child) {
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
        (void)!write(two[0], "strict", 6);
        syscall(SYS_exit, 5);
    }
    show_end(child);
    char in[8];
    await(two[1], POLLIN);
    show_data("data", in, R(recv(two[1], in, 8, 0)));
}

CASE(own_listener_of_notifications, TCP4) {
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    long fd = filter_call(SYS_getppid, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    say("%s", fd >= 0 ? "a listener" : errname(errno));
}

CASE(root_and_user, TCP4) {
    R(chroot("."));
    R(setuid(getuid()));
    R(setgid(getgid()));
    R(setresuid(getuid() + 1, -1, -1));
    R(setresgid(-1, 65534, -1));
    R(setgid(getgid() + 1));
    R(setuid(0));
    R(setuid(-1));
    int file = MUST(memfd_create("file", 0));
    R(fchown(file, getuid(), -1));
    R(fchown(file, 0, -1));
    R(fchown(file, -1, getgid() + 1));
    show_names(bound());
}

/* Whether there is such a file comes before whose it may be. */
CASE(new_owners, TCP4) {
    int file = MUST(open("file", O_RDWR | O_CREAT, 0600)), here = MUST(open(".", O_PATH | O_DIRECTORY));
    int named = MUST(open("file", O_PATH));
    MUST(symlink("file", "link"));
    MUST(symlink("nowhere", "dangling"));
    char long_[4200];
    memset(long_, 'x', sizeof long_ - 1);
    long_[sizeof long_ - 1] = 0;
    uid_t mine = getuid(), others[] = {mine, -1, 0, mine + 1};
    for (int i = 0; i < 4; i++) {
        uid_t to = others[i];
        const char *paths[] = {"file", "./file", "link", "dangling", "nowhere", "file/x", "", long_, "/proc/self/cwd/file", "/proc/self/fd/99", (char *)8};
        for (int p = 0; p < 11; p++) {
            R(chown(paths[p], to, -1));
            R(lchown(paths[p], to, -1));
            R(fchownat(AT_FDCWD, paths[p], to, -1, 0));
            R(fchownat(here, paths[p], to, -1, AT_SYMLINK_NOFOLLOW));
            R(fchownat(99, paths[p], to, -1, AT_EMPTY_PATH));
            R(fchownat(file, paths[p], to, -1, AT_EMPTY_PATH));
            R(fchownat(file, paths[p], -1, to == mine ? getgid() : to, 0));
            R(fchownat(AT_FDCWD, paths[p], to, -1, AT_SYMLINK_FOLLOW));
        }
        R(fchown(file, to, -1));
        R(fchown(named, to, -1));
        R(fchown(99, to, -1));
        R(fchown(-1, -1, to == mine ? getgid() : to));
    }
    struct stat s;
    MUST(fstat(file, &s));
    say("%s", s.st_uid == getuid() && s.st_gid == getgid() ? "its own" : "another's");
    show_names(bound());
    unlink("link"), unlink("dangling"), unlink("file");
}

/* A thread with files and a directory of its own, as those of file servers are. */
static void *apart(void *arg) {
    int shared = *(int *)arg;
    R(unshare(0));
    R(unshare(CLONE_FS | CLONE_FILES));
    R(unshare(CLONE_SYSVSEM));
    R(mkdir("apart", 0700));
    R(chdir("apart"));
    MUST(close(shared));
    R(getsockname(shared, NULL, NULL));
    /* The number is another socket here. */
    int own = bound();
    R(own == shared);
    show_names(own);
    struct sockaddr_un name = {AF_UNIX, "name"};
    int local = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    R(bind(local, &name, sizeof name));
    return NULL;
}

CASE(thread_of_its_own, UDP4) {
    int shared = bound(), other = bound();
    pthread_t thread;
    struct address at = local_of(shared);
    pthread_create(&thread, NULL, apart, &shared);
    pthread_join(thread, NULL);
    show_names(shared);
    char in[8];
    R(sendto(other, "x", 1, 0, &at, at.len));
    await(shared, POLLIN);
    R(recvfrom(shared, in, sizeof in, 0, NULL, NULL));
    R(access("apart/name", F_OK));
    R(access("name", F_OK));
    R(unlink("apart/name"));
    R(rmdir("apart"));
    R(unshare(CLONE_NEWNET | CLONE_FS) == 0);
}

/* As a service that says by SIGSTOP that it is ready: whoever waits for that continues it. */
CASE(stopped_until_a_child_continues_it, UDP4) {
    int one = bound();
    pid_t child = fork();
    if (!child) {
        char path[64], state = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)getppid());
        for (int i = 0; i < 2000 && state != 'T'; i++) {
            FILE *f = fopen(path, "r");
            if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1) exit(1);
            fclose(f);
            usleep(2000);
        }
        struct address at = local_of(one);
        int other = bound();
        MUST(sendto(other, "x", 1, 0, &at, at.len));
        MUST(kill(getppid(), SIGCONT));
        exit(state == 'T' ? 7 : 8);
    }
    R(raise(SIGSTOP));
    char in[8];
    await(one, POLLIN);
    R(recvfrom(one, in, sizeof in, 0, NULL, NULL));
    show_end(child);
}

CASE(new_user_namespace, TCP4) {
    pid_t child = fork();
    if (!child) {
        if (unshare(CLONE_NEWUSER) < 0) {
            say("unshare: %s", errname(errno));
        } else {
            R(chroot("."));
            show_names(bound());
        }
        exit(0);
    }
    show_end(child);
}

CASE(limits_of_itself, TCP4) {
    struct rlimit old, new;
    R(syscall(SYS_prlimit64, 0L, (long)RLIMIT_NOFILE, NULL, &old));
    new = (struct rlimit){64, old.rlim_max};
    R(syscall(SYS_prlimit64, (long)getpid(), (long)RLIMIT_NOFILE, &new, NULL));
    R(syscall(SYS_prlimit64, (long)getpid(), (long)RLIMIT_NOFILE, NULL, &old));
    say("%lu", (unsigned long)old.rlim_cur);
    R(syscall(SYS_prlimit64, (long)getpid(), 99L, &new, NULL));
    R(syscall(SYS_prlimit64, (long)getpid(), (long)RLIMIT_NOFILE, 8L, NULL));
    R(syscall(SYS_prlimit64, 1L << 22, (long)RLIMIT_NOFILE, &new, NULL));
}
