/* Other processes of the same user: the supervisor, and any that is not of the run. */
#include "attack.h"
#include <glob.h>
#include <sys/uio.h>

/* The receiver's memory, or the supervisor's. */
static void write_memory(pid_t pid) {
    char path[64];
    unsigned long word = 666, *at = (unsigned long *)strtoul(env("T_CANARY"), NULL, 16);
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = (int)TRY("open of mem", open(path, O_RDWR));
    if (fd >= 0 && pid != atoi(env("T_PID"))) through();
    if (fd >= 0) pwrite(fd, &word, sizeof word, (off_t)at);
}

static void mem_of_supervisor(void) { write_memory(supervisor()); }
static void mem_of_others(void) { write_memory(atoi(env("T_PID"))); }

static void vm_of(pid_t pid) {
    unsigned long word = 666;
    struct iovec from = {&word, sizeof word}, to = {(void *)strtoul(env("T_CANARY"), NULL, 16), sizeof word};
    if (TRY("process_vm_writev", process_vm_writev(pid, &from, 1, &to, 1, 0)) > 0 && pid != atoi(env("T_PID"))) through();
    unsigned long other = 0;
    struct iovec here = {&other, sizeof other};
    if (TRY("process_vm_readv", process_vm_readv(pid, &here, 1, &to, 1, 0)) > 0) through();
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    TRY("process_madvise", syscall(SYS_process_madvise, pidfd, &to, 1, 4 /* MADV_DONTNEED */, 0));
}

static void vm_of_supervisor(void) { vm_of(supervisor()); }
static void vm_of_others(void) { vm_of(atoi(env("T_PID"))); }

static void trace(pid_t pid) {
    if (TRY("PTRACE_ATTACH", ptrace(PTRACE_ATTACH, pid, 0, 0)) == 0) {
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_POKEDATA, pid, (void *)strtoul(env("T_CANARY"), NULL, 16), (void *)666L);
        ptrace(PTRACE_DETACH, pid, 0, 0);
        if (pid != atoi(env("T_PID"))) through();
    }
    if (TRY("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, pid, 0, 0)) == 0) {
        ptrace(PTRACE_INTERRUPT, pid, 0, 0);
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
        through();
    }
}

static void trace_supervisor(void) { trace(supervisor()); }
static void trace_others(void) { trace(atoi(env("T_PID"))); }

static void take_descriptor(pid_t pid) {
    int pidfd = (int)TRY("pidfd_open", syscall(SYS_pidfd_open, pid, 0));
    int wanted = atoi(env("T_FD"));
    for (int number = 0; number < 64; number++) {
        int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
        if (number == 3 || fd >= 0) note("pidfd_getfd: %s", fd < 0 ? errname(errno) : "done");
        if (fd < 0) continue;
        if (pid != atoi(env("T_PID"))) through();
        if (number == wanted) write(fd, token(), token_length());
        close(fd);
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, wanted);
    struct stat s;
    TRY("stat of its descriptor", stat(path, &s));
    TRY("kcmp", syscall(SYS_kcmp, pid, getpid(), 1 /* KCMP_VM */, 0, 0));
}

static void descriptors_of_supervisor(void) { take_descriptor(supervisor()); }
static void descriptors_of_others(void) { take_descriptor(atoi(env("T_PID"))); }

/* What /proc tells of the supervisor: its environment may hold a password, its maps where to aim. */
static void spy(void) {
    static const char *const files[] = {"environ", "maps", "auxv", "fd/1", "root/.", "stack", "personality"};
    for (int i = 0; i < 7; i++) {
        char path[64], byte;
        snprintf(path, sizeof path, "/proc/%d/%s", supervisor(), files[i]);
        int fd = open(path, i == 3 ? O_WRONLY : O_RDONLY);
        bool got = fd >= 0 && (i == 3 || i == 4 || read(fd, &byte, 1) == 1);
        note("%s: %s", files[i], got ? "read" : errname(errno));
        if (got) through();
        if (fd >= 0) close(fd);
    }
}

static void signal_it(pid_t pid) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    bool mine = pid != atoi(env("T_VICTIM"));
    static const int signals[] = {0, SIGSTOP, SIGCONT, SIGSEGV, SIGKILL};
    for (int i = 0; i < 5; i++)
        if (TRY("kill", kill(pid, signals[i])) == 0 && mine) through();
    if (TRY("tgkill", syscall(SYS_tgkill, pid, pid, SIGKILL)) == 0 && mine) through();
    if (TRY("pidfd_send_signal", syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)) == 0 && mine) through();
    siginfo_t info = {.si_signo = SIGKILL, .si_code = SI_QUEUE};
    if (TRY("rt_sigqueueinfo", syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &info)) == 0 && mine) through();
}

static void signal_supervisor(void) { signal_it(getenv("T_UNDER") ? getppid() : atoi(env("T_VICTIM"))); }
static void signal_others(void) { signal_it(atoi(env("T_VICTIM"))); }

static pid_t keeper_of(pid_t supervisor_) {
    pid_t found = 0;
    glob_t all = {0};
    MUST(glob("/proc/[0-9]*/stat", 0, NULL, &all) ? -1 : 0);
    for (size_t i = 0; i < all.gl_pathc && !found; i++) {
        char line[256] = "", name[32];
        int fd = open(all.gl_pathv[i], O_RDONLY), pid, parent;
        if (fd < 0) continue;
        read(fd, line, sizeof line - 1);
        close(fd);
        bool is_its = sscanf(line, "%d (%31[^)]) %*c %d", &pid, name, &parent) == 3 && parent == supervisor_;
        if (is_its && strcmp(name, "sipbox-keeper") == 0) found = pid;
    }
    globfree(&all);
    return found;
}

/* The process that is to outlive a supervisor that is killed: another child of it. Natively, the victim. */
static void keeper(void) {
    pid_t found = getenv("T_UNDER") ? 0 : atoi(env("T_VICTIM"));
    /* It may have its name a moment later than the program begins. */
    for (int tries = 0; !found && tries < 500; tries++) {
        found = keeper_of(supervisor());
        if (!found) usleep(20000);
    }
    if (!found) {
        note("NO KEEPER");
        through();
        return;
    }
    write_memory(found);
    take_descriptor(found);
    signal_it(found);
}

/* The kernel is asked to signal: SIGIO of a pipe, with a signal of choice. */
static void owner(void) {
    pid_t pid = getenv("T_UNDER") ? getppid() : atoi(env("T_VICTIM"));
    static const char *const names[] = {"F_SETOWN to the supervisor", "F_SETOWN to another"};
    for (int i = 0; i < 2; i++) {
        int pipes[2];
        MUST(pipe(pipes));
        TRY(names[i], fcntl(pipes[0], F_SETOWN, i ? atoi(env("T_VICTIM")) : pid));
        MUST(fcntl(pipes[0], 10 /* F_SETSIG */, SIGKILL));
        MUST(fcntl(pipes[0], F_SETFL, O_ASYNC | O_NONBLOCK));
        MUST(write(pipes[1], "x", 1));
    }
    usleep(20000);
    if (getenv("T_UNDER")) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/status", pid);
        bool lives = access(path, F_OK) == 0 && getppid() == pid;
        note(lives ? "the supervisor lives" : "the supervisor is dead");
        if (!lives) through();
    }
}

/* Limits of the supervisor: without files or memory it must let nothing pass. */
static void limits(void) {
    pid_t pid = getenv("T_UNDER") ? getppid() : atoi(env("T_VICTIM"));
    static const int resources[] = {RLIMIT_NOFILE, RLIMIT_AS, RLIMIT_CPU};
    for (int i = 0; i < 3; i++) {
        struct rlimit none = {0, 0};
        if (TRY("prlimit", syscall(SYS_prlimit64, pid, resources[i], &none, NULL)) == 0) through();
    }
}

ATTACKS({"keeper", keeper}, {"mem-of-supervisor", mem_of_supervisor}, {"mem-of-others", mem_of_others},
        {"vm-of-supervisor", vm_of_supervisor}, {"vm-of-others", vm_of_others}, {"trace-supervisor", trace_supervisor},
        {"trace-others", trace_others}, {"descriptors-of-supervisor", descriptors_of_supervisor},
        {"descriptors-of-others", descriptors_of_others}, {"spy", spy}, {"signal-supervisor", signal_supervisor},
        {"signal-others", signal_others}, {"owner", owner}, {"limits", limits})
