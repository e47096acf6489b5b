/* What a program gets from whoever starts it, printed so that two runs can be compared.
 *   passthrough exit N | env NAME | args ... | cat | fds | state */
#include "t.h"
#include <dirent.h>
#include <sys/stat.h>

/* The open file descriptors. */
static void fds(void) {
    DIR *d = opendir("/proc/self/fd");
    CHECK(d);
    bool open[1024] = {false};
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d) && atoi(e->d_name) < 1024) open[atoi(e->d_name)] = true;
    for (int i = 0; i < 1024; i++)
        if (open[i]) say("fd %d", i);
}

/* Signal dispositions and mask, umask, directory, limits, niceness. */
static void state(void) {
    sigset_t mask;
    MUST(sigprocmask(SIG_BLOCK, NULL, &mask));
    for (int n = 1; n < 32; n++) {
        struct sigaction action;
        if (sigaction(n, NULL, &action) < 0) continue;
        if (sigismember(&mask, n)) say("signal %d blocked", n);
        if (action.sa_handler == SIG_IGN) say("signal %d ignored", n);
    }
    mode_t m = umask(0);
    say("umask %03o", (unsigned)m);
    char here[4096];
    CHECK(getcwd(here, sizeof here));
    say("directory %s", here);
    struct rlimit files;
    MUST(getrlimit(RLIMIT_NOFILE, &files));
    say("files %lu %lu", (unsigned long)files.rlim_cur, (unsigned long)files.rlim_max);
    say("user %d %d group %d %d", (int)getuid(), (int)geteuid(), (int)getgid(), (int)getegid());
    say("nice %d", getpriority(PRIO_PROCESS, 0));
    say("leader of its session %d", getsid(0) == getpid());
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "exit") && argc == 3) return atoi(argv[2]);
    if (!strcmp(mode, "env") && argc == 3) {
        const char *value = getenv(argv[2]);
        say("%s=%s", argv[2], value ? value : "(unset)");
    } else if (!strcmp(mode, "args")) {
        for (int i = 2; i < argc; i++) say("arg %d: [%s]", i - 1, argv[i]);
    } else if (!strcmp(mode, "cat")) {
        char buffer[65536];
        ssize_t n;
        while ((n = read(0, buffer, sizeof buffer)) > 0) write_all(1, buffer, (size_t)n);
        CHECK(n == 0);
    } else if (!strcmp(mode, "fds")) {
        fds();
    } else if (!strcmp(mode, "state")) {
        state();
    } else {
        fprintf(stderr, "usage: passthrough exit N | env NAME | args ... | cat | fds | state\n");
        return 2;
    }
    return 0;
}
