/* way-out: tries to reach what is not the program's. Exit 0: it was stopped; 9: it got through.
 *   way-out memory PID      writes the memory of a process of the same user
 *   way-out signal PID      signals one
 *   way-out unix PATH       connects to a socket of somebody else, also by a race of bind() against rename()
 *   way-out hub ADDRESS     plants the address of the user's hub, and makes the supervisor look for it */
#include "t.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>

static int through(const char *how) {
    say("got through: %s", how);
    return 9;
}

static int memory(const char *pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/mem", pid);
    return open(path, O_RDWR) >= 0 ? through(path) : 0;
}

static volatile bool racing = true;
static char mine[108], link_name[128];
static const char *foreign;

static void *swap(void *unused) {
    while (racing) {
        if (symlink(foreign, link_name) == 0) rename(link_name, mine);
    }
    return unused;
}

static bool connects(const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    bool done = connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
    close(fd);
    return done;
}

static int unix_socket(const char *path) {
    foreign = path;
    if (connects(path)) return through("plain connect");
    snprintf(mine, sizeof mine, "/tmp/way-out-%d", getpid());
    snprintf(link_name, sizeof link_name, "%s.l", mine);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, swap, NULL) == 0);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", mine);
    bool won = false;
    for (int i = 0; i < 1500 && !won; i++) {
        int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        unlink(mine);
        won = bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && connects(path);
        close(fd);
    }
    racing = false;
    pthread_join(thread, NULL);
    unlink(mine);
    unlink(link_name);
    return won ? through("race of bind and rename") : 0;
}

static int hub(const char *address) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    CHECK(runtime);
    char path[256];
    snprintf(path, sizeof path, "%s/sipbox", runtime);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/sipbox/hub.lock", runtime);
    unlink(path);
    int lock = (int)MUST(open(path, O_RDWR | O_CREAT, 0600));
    MUST(flock(lock, LOCK_EX));
    snprintf(path, sizeof path, "%s/sipbox/hub.addr", runtime);
    unlink(path);
    int file = (int)MUST(open(path, O_WRONLY | O_CREAT, 0600));
    MUST(write(file, address, strlen(address)));
    struct address to = {.len = sizeof to.v4};
    to.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(7000)};
    inet_pton(AF_INET, "198.18.0.9", &to.v4.sin_addr);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST_FAIL(connect(fd, &to.any, to.len), ENETUNREACH);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    if (!strcmp(argv[1], "memory")) return memory(argv[2]);
    if (!strcmp(argv[1], "signal")) return kill(atoi(argv[2]), 0) == 0 ? through("kill") : 0;
    if (!strcmp(argv[1], "unix")) return unix_socket(argv[2]);
    if (!strcmp(argv[1], "hub")) return hub(argv[2]);
    return 2;
}
