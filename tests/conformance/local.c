/* AF_UNIX sockets by their names: paths in all their forms, abstract names, and who is at the other end. */
#define GROUP "local"
#include "c.h"
#include <sys/stat.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static struct address named(const char *text, size_t length) {
    struct address a = {.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)};
    struct sockaddr_un *u = (struct sockaddr_un *)&a.room;
    u->sun_family = AF_UNIX;
    memcpy(u->sun_path, text, length);
    return a;
}

static struct address path(const char *text) { return named(text, strlen(text) + 1); }

static struct address abstract(const char *what) {
    char text[64];
    int n = snprintf(text, sizeof text, "%csipbox-conformance-%s-%d", 0, what, getpid());
    return named(text, (size_t)n);
}

static void show_peer(const char *who, int fd, pid_t expected) {
    struct ucred peer = {-2, 0, 0};
    socklen_t length = sizeof peer;
    R(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    say("%s: %s, user %s, group %s, length %u", who, peer.pid == expected ? "the right process" : peer.pid ? "another process" : "nobody",
        peer.uid == geteuid() ? "its own" : "another", peer.gid == getegid() ? "its own" : "another", length);
}

CASE(peer_credentials, UNIXS | UNIXQ) {
    int l = fresh();
    struct address at = path("peer");
    MUST(bind(l, &at.any, at.len));
    show_peer("bound", l, 0);
    MUST(listen(l, 4));
    show_peer("listener", l, getpid());
    int ready[2], told[2];
    char byte;
    MUST(pipe(ready));
    MUST(pipe(told));
    pid_t child = fork();
    if (!child) {
        int c = fresh();
        R(connect(c, &at.any, at.len));
        show_peer("who listens", c, getppid());
        MUST(write(told[1], "x", 1));
        MUST(read(ready[0], &byte, 1));
        exit(0);
    }
    int s = take(l);
    MUST(read(told[0], &byte, 1));
    show_peer("who connected", s, child);
    MUST(write(ready[1], "x", 1));
    expect_success(child);
    show_peer("who connected and has ended", s, child);
    unlink("peer");
}

CASE(peer_credentials_cut, UNIXS) {
    int two[2];
    make_pair(two);
    show_peer("a pair", two[0], getpid());
    struct ucred peer = {0};
    for (socklen_t length = 0; length < 20; length += 4) {
        socklen_t l = length;
        R(getsockopt(two[0], SOL_SOCKET, SO_PEERCRED, &peer, &l));
        say("%u of %u", l, length);
    }
    R(getsockopt(two[0], SOL_SOCKET, SO_PEERCRED, &peer, len_of((socklen_t)-1)));
    R(getsockopt(two[0], SOL_SOCKET, SO_PEERCRED, &peer, 8));
    R(getsockopt(two[0], SOL_SOCKET, SO_PEERCRED, 8, len_of(12)));
}

static pid_t behind_pidfd(int fd) {
    char name[64], text[1024] = "";
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    int info = (int)MUST(open(name, O_RDONLY));
    MUST(read(info, text, sizeof text - 1));
    close(info);
    char *line = strstr(text, "Pid:");
    return line ? atoi(line + 4) : -1;
}

CASE(peer_pidfd, UNIXS) {
    int l = fresh(), c = fresh(), fd = -1;
    struct address at = path("pidfd");
    MUST(bind(l, &at.any, at.len));
    MUST(listen(l, 4));
    if (R(getsockopt(c, SOL_SOCKET, SO_PEERPIDFD, &fd, len_of(4))) == -1 && errno == ENOPROTOOPT) return;
    R(connect(c, &at.any, at.len));
    int s = take(l);
    int both[] = {s, c};
    for (int i = 0; i < 2; i++) {
        socklen_t length = 4;
        R(getsockopt(both[i], SOL_SOCKET, SO_PEERPIDFD, &fd, &length) != 0);
        say("%s, length %u, close-on-exec %d", behind_pidfd(fd) == getpid() ? "this process" : "another", length,
            fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    unlink("pidfd");
}

/* Two connected sockets whose listener has the name. */
static void try_stream(const char *as, struct address to) {
    int c = fresh_blocking();
    say("%s", as);
    R(connect(c, &to.any, to.len));
    close(c);
}

CASE(forms_of_a_path, UNIXS | UNIXQ) {
    char text[108];
    int l = fresh();
    struct address at = path("form");
    MUST(bind(l, &at.any, at.len));
    MUST(listen(l, 32));
    MUST(symlink("form", "form.link"));
    MUST(symlink("nowhere", "form.dangling"));
    MUST(symlink("form.loop", "form.loop"));
    MUST(mkdir("form.dir", 0700));
    MUST(link("form", "form.dir/hard"));
    try_stream("as it is", at);
    try_stream("without its NUL", named("form", 4));
    try_stream("with more behind it", named("form\0tail", 9));
    try_stream("by dots", path("./form.dir/../form"));
    try_stream("a symbolic link", path("form.link"));
    try_stream("a hard link", path("form.dir/hard"));
    try_stream("a dangling link", path("form.dangling"));
    try_stream("a loop of links", path("form.loop"));
    try_stream("a directory", path("form.dir"));
    try_stream("a directory that is not there", path("form.none/x"));
    try_stream("a file as a directory", path("form/x"));
    try_stream("with a slash behind it", path("form/"));
    try_stream("/proc/self/cwd", path("/proc/self/cwd/form"));
    try_stream("/proc/thread-self/cwd", path("/proc/thread-self/cwd/form"));
    int dir = (int)MUST(open(".", O_RDONLY | O_DIRECTORY)), file = (int)MUST(open("form", O_PATH));
    snprintf(text, sizeof text, "/proc/self/fd/%d/form", dir);
    try_stream("by a descriptor of its directory", path(text));
    snprintf(text, sizeof text, "/dev/fd/%d/form", dir);
    try_stream("/dev/fd", path(text));
    snprintf(text, sizeof text, "/proc/self/fd/%d", file);
    try_stream("by a descriptor of its own", path(text));
    MUST(rename("form", "form.new"));
    try_stream("renamed", path("form.new"));
    try_stream("its old name", at);
    MUST(chdir("form.dir"));
    try_stream("from another directory", path("../form.new"));
    MUST(chmod("../form.new", 0));
    if (geteuid()) try_stream("without the right to write", path("../form.new"));
    MUST(chdir(".."));
    unlink("form.new"), unlink("form.dir/hard"), rmdir("form.dir"), unlink("form.link"), unlink("form.dangling"), unlink("form.loop");
}

CASE(moved_between_directories, UNIXS) {
    MUST(mkdir("move.a", 0700));
    MUST(mkdir("move.b", 0700));
    MUST(close((int)MUST(open("move.a/file", O_CREAT | O_WRONLY, 0600))));
    R(link("move.a/file", "move.b/link"));
    R(rename("move.a/file", "move.b/file"));
    R(rename("move.a", "move.b/dir"));
    unlink("move.b/link"), unlink("move.b/file"), unlink("move.a/file"), rmdir("move.b/dir"), rmdir("move.a"), rmdir("move.b");
}

CASE(abstract_stream, UNIXS | UNIXQ) {
    struct address at = abstract("stream");
    try_stream("nobody has it", at);
    int l = fresh();
    R(bind(l, &at.any, at.len));
    try_stream("bound", at);
    MUST(listen(l, 4));
    try_stream("it listens", at);
    struct address longer = at;
    longer.len++;
    try_stream("one byte longer", longer);
    close(l);
    try_stream("closed", at);
}

CASE(abstract_datagrams, UNIXD) {
    struct address at = abstract("datagram"), mine = abstract("sender"), from = {.len = sizeof from.room};
    int fd = fresh(), c = fresh();
    R(sendto(c, "none", 4, 0, &at, at.len));
    R(bind(fd, &at.any, at.len));
    R(bind(c, &mine.any, mine.len));
    R(sendto(c, "first", 5, 0, &at, at.len));
    char in[16];
    show_data("data", in, R(recvfrom(fd, in, sizeof in, 0, &from, &from.len)));
    say("from its name: %d", from.len == mine.len && !memcmp(&from.room, &mine.room, mine.len));
    struct iovec v = {"second", 6};
    struct kmsg m = {.name = &at, .namelen = (int)at.len, .iov = &v, .iovlen = 1};
    R(sendmsg(c, &m, 0));
    show_data("data", in, R(recv(fd, in, sizeof in, 0)));
    R(connect(c, &at.any, at.len));
    R(send(c, "third", 5, 0));
    show_data("data", in, R(recv(fd, in, sizeof in, 0)));
    pid_t child = fork();
    if (!child) {
        int other = fresh();
        R(sendto(other, "child", 5, 0, &at, at.len));
        exit(0);
    }
    expect_success(child);
    show_data("data", in, R(recv(fd, in, sizeof in, 0)));
    close(fd);
    R(send(c, "x", 1, 0));
    R(sendto(fresh(), "x", 1, 0, &at, at.len));
}

CASE(name_of_the_kernels_choice, UNIXD) {
    int fd = fresh(), c = fresh();
    sa_family_t family = AF_UNIX;
    R(bind(fd, &family, sizeof family));
    struct address at = {.len = sizeof at.room};
    MUST(getsockname(fd, &at, &at.len));
    say("length %u, first byte %d", at.len, ((const char *)&at.room)[offsetof(struct sockaddr_un, sun_path)]);
    R(sendto(c, "auto", 4, 0, &at, at.len));
    char in[16];
    show_data("data", in, R(recv(fd, in, sizeof in, 0)));
}

CASE(datagrams_by_links, UNIXD) {
    int fd = fresh(), c = fresh();
    struct address at = path("dgram"), by = path("dgram.link"), proc = path("/proc/self/cwd/dgram");
    MUST(bind(fd, &at.any, at.len));
    MUST(symlink("dgram", "dgram.link"));
    char in[16];
    R(sendto(c, "link", 4, 0, &by, by.len));
    show_data("data", in, R(recv(fd, in, sizeof in, 0)));
    R(sendto(c, "proc", 4, 0, &proc, proc.len));
    show_data("data", in, R(recv(fd, in, sizeof in, 0)));
    unlink("dgram"), unlink("dgram.link");
    R(sendto(c, "gone", 4, 0, &at, at.len));
}

CASE(wrong_type, LOCAL) {
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    int fd = fresh();
    struct address at = path("type");
    MUST(bind(fd, &at.any, at.len));
    if (kind->type != SOCK_DGRAM) MUST(listen(fd, 4));
    for (int i = 0; i < 3; i++) {
        int c = (int)MUST(socket(AF_UNIX, types[i], 0));
        R(connect(c, &at.any, at.len));
    }
    unlink("type");
}
