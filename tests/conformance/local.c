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

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

/* One message, and who is said to have sent it. */
static void show_sender(const char *who, int fd, pid_t expected, int flags) {
    char in[64] = "", control[256];
    struct iovec v = {in, sizeof in};
    struct kmsg m = {.iov = &v, .iovlen = 1, .control = control, .controllen = sizeof control};
    long n = R(recvmsg(fd, &m, flags));
    show_data(who, in, n);
    show_flags("flags", m.flags);
    size_t at = 0;
    while (at + sizeof(struct cmsghdr) <= m.controllen) {
        struct cmsghdr *c = (struct cmsghdr *)(control + at);
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred u;
            memcpy(&u, CMSG_DATA(c), sizeof u);
            say("%s: pid %s, uid %s, gid %s", who, u.pid == expected ? "right" : u.pid ? "wrong" : "none", u.uid == getuid() ? "own" : "another",
                u.gid == getgid() ? "own" : "another");
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_PIDFD) {
            int process;
            memcpy(&process, CMSG_DATA(c), sizeof process);
            say("%s: pidfd of %s", who, process >= 0 && behind_pidfd(process) == expected ? "the right process" : "another");
            if (process >= 0) close(process);
        } else {
            say("%s: control %d/%d", who, c->cmsg_level, c->cmsg_type);
        }
        at += (c->cmsg_len + 7) & ~(size_t)7;
    }
}

/* As any program sends: by sendmsg() with nothing but data. */
static long say_so(int fd, const char *text) {
    struct iovec v = {(void *)text, strlen(text)};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    return sendmsg(fd, &m, 0);
}

CASE(credentials_of_senders, LOCAL) {
    int two[2];
    make_pair(two);
    say_so(two[0], "early");
    show_sender("before it is asked for", two[1], getpid(), 0);
    R(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    MUST(say_so(two[0], "one"));
    show_sender("own", two[1], getpid(), 0);
    int done[2];
    char byte;
    MUST(pipe(done));
    pid_t child = fork();
    if (!child) {
        MUST(say_so(two[0], "two"));
        MUST(read(done[0], &byte, 1));
        MUST(send(two[0], "three", 5, 0));
        exit(0);
    }
    show_sender("looked at", two[1], child, MSG_PEEK);
    show_sender("a child's", two[1], child, 0);
    MUST(write(done[1], "x", 1));
    show_sender("by send", two[1], child, 0);
    expect_success(child);
    R(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 0));
    MUST(say_so(two[0], "four"));
    show_sender("not asked for any more", two[1], getpid(), 0);
}

/* Several at once, and some of them received without a look at who sent them. */
CASE(credentials_of_many, UNIXD | UNIXQ) {
    int two[2];
    make_pair(two);
    MUST(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    pid_t children[3];
    for (int i = 0; i < 3; i++) {
        children[i] = fork();
        if (!children[i]) {
            char text[] = "from a child";
            text[4] = (char)('0' + i);
            MUST(say_so(two[0], i == 1 ? "short" : text));
            exit(0);
        }
        expect_success(children[i]);
    }
    MUST(say_so(two[0], "the last one"));
    char in[64];
    show_sender("the first", two[1], children[0], 0);
    show_data("read", in, (long)MUST(read(two[1], in, sizeof in)));
    show_sender("the third", two[1], children[2], 0);
    show_sender("own", two[1], getpid(), 0);
}

/* Of a sender that has closed its end and ended, it is known all the same. */
CASE(credentials_of_who_left, LOCAL) {
    int two[2];
    make_pair(two);
    MUST(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    pid_t child = fork();
    if (!child) exit(say_so(two[0], "goodbye") != 7);
    close(two[0]);
    expect_success(child);
    show_sender("who left", two[1], child, 0);
}

/* read() does not say what it takes. */
CASE(credentials_after_read, LOCAL) {
    int two[2];
    make_pair(two);
    MUST(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    char in[64];
    for (int i = 0; i < 3; i++) {
        MUST(say_so(two[0], "own"));
        show_data("read", in, (long)MUST(read(two[1], in, sizeof in)));
    }
    pid_t child = fork();
    if (!child) exit(say_so(two[0], "kid") != 3);
    expect_success(child);
    show_sender("a child's", two[1], child, 0);
    MUST(say_so(two[0], "1st"));
    MUST(say_so(two[0], "2nd"));
    MUST(recv(two[1], in, kind->type == SOCK_STREAM ? 6 : 3, 0));
    struct iovec v = {in, sizeof in};
    struct kmsg m = {.iov = &v, .iovlen = 1};
    recvmsg(two[1], &m, MSG_DONTWAIT);
    child = fork();
    if (!child) exit(say_so(two[0], "3rd") != 3);
    expect_success(child);
    show_sender("another child's", two[1], child, 0);
}

/* What comes before accept() has credentials, also when they are asked for only then. */
CASE(credentials_before_accept, UNIXS | UNIXQ) {
    struct address at = path("early");
    int l = fresh();
    MUST(bind(l, &at.any, at.len));
    MUST(listen(l, 4));
    int sent[2], done[2];
    char byte;
    MUST(pipe(sent));
    MUST(pipe(done));
    pid_t child = fork();
    if (!child) {
        int c = fresh();
        MUST(connect(c, &at.any, at.len));
        MUST(say_so(c, "first"));
        MUST(write(sent[1], "x", 1));
        MUST(read(done[0], &byte, 1));
        exit(say_so(c, "second") != 6);
    }
    MUST(read(sent[0], &byte, 1));
    int s = take(l);
    MUST(set_int(s, SOL_SOCKET, SO_PASSCRED, 1));
    show_sender("before", s, child, 0);
    MUST(write(done[1], "x", 1));
    expect_success(child);
    show_sender("behind", s, child, 0);
    unlink("early");
}

static long with_credentials(int fd, const char *text, pid_t pid, uid_t uid, gid_t gid, size_t length) {
    struct {
        struct cmsghdr h;
        struct ucred u;
        char more[12];
    } c = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS, .cmsg_len = (socklen_t)length}, .u = {pid, uid, gid}};
    struct iovec v = {(void *)text, strlen(text)};
    struct kmsg m = {.iov = &v, .iovlen = 1, .control = &c, .controllen = (length + 7) & ~7UL};
    return sendmsg(fd, &m, 0);
}

/* As dbus and sd_notify do. */
CASE(credentials_given, LOCAL) {
    int two[2];
    make_pair(two);
    MUST(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    const size_t right = sizeof(struct cmsghdr) + sizeof(struct ucred);
    R(with_credentials(two[0], "mine", getpid(), getuid(), getgid(), right));
    show_sender("mine", two[1], getpid(), 0);
    if (getuid()) {
        R(with_credentials(two[0], "x", getppid(), getuid(), getgid(), right));
        R(with_credentials(two[0], "x", getpid(), 0, getgid(), right));
        R(with_credentials(two[0], "x", getpid(), getuid(), 0, right));
    }
    R(with_credentials(two[0], "x", getpid(), getuid(), getgid(), right - 4));
    R(with_credentials(two[0], "x", getpid(), getuid(), getgid(), right + 4));
    R(recv(two[1], "", 0, MSG_DONTWAIT | MSG_TRUNC));
}

CASE(credentials_by_name, UNIXD) {
    struct address at = path("log");
    int l = fresh();
    MUST(set_int(l, SOL_SOCKET, SO_PASSCRED, 1));
    MUST(bind(l, &at.any, at.len));
    pid_t children[3];
    for (int i = 0; i < 3; i++) {
        children[i] = fork();
        if (!children[i]) {
            int c = fresh();
            if (i < 2) exit(sendto(c, "named", 5, 0, &at.any, at.len) != 5);
            MUST(connect(c, &at.any, at.len));
            exit(say_so(c, "connected") != 9);
        }
        expect_success(children[i]);
    }
    for (int i = 0; i < 3; i++) show_sender(i < 2 ? "named" : "connected", l, children[i], 0);
    unlink("log");
}

CASE(pidfd_of_senders, LOCAL) {
    int two[2];
    make_pair(two);
    if (R(set_int(two[1], SOL_SOCKET, SO_PASSPIDFD, 1)) == -1) return;
    MUST(say_so(two[0], "one"));
    show_sender("own", two[1], getpid(), 0);
    MUST(send(two[0], "two", 3, 0));
    show_sender("by send", two[1], getpid(), 0);
    R(set_int(two[1], SOL_SOCKET, SO_PASSCRED, 1));
    MUST(say_so(two[0], "three"));
    show_sender("both", two[1], getpid(), 0);
}

CASE(asks_for_credentials, LOCAL) {
    int s = fresh(), value = 7;
    R(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &value, len_of(3)[0]));
    R(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &value, len_of((socklen_t)-1)[0]));
    R(setsockopt(s, SOL_SOCKET, SO_PASSCRED, 8, 4));
    R(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &value, 8));
    socklen_t length = 4;
    R(getsockopt(s, SOL_SOCKET, SO_PASSCRED, &value, &length));
    say("value %d", value);
    R(setsockopt(-1, SOL_SOCKET, SO_PASSCRED, &value, 4));
    R(setsockopt(1000, SOL_SOCKET, SO_PASSCRED, &value, 4));
}
