/* AF_UNIX: whoever listens there may open sockets for others. */
#include "attack.h"
#include <glob.h>
#include <pthread.h>
#include <stddef.h>

static socklen_t name(struct sockaddr_un *out, const char *text, bool abstract) {
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(out->sun_path + abstract, sizeof out->sun_path - 1, "%s", text);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text) + 1);
}

static void talk(int type, const char *text, bool abstract) {
    struct sockaddr_un to;
    socklen_t length = name(&to, text, abstract);
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    if (TRY("connect", connect(fd, (struct sockaddr *)&to, length)) == 0) send(fd, token(), token_length(), MSG_NOSIGNAL);
    close(fd);
    if (type == SOCK_STREAM) return;
    fd = (int)MUST(socket(AF_UNIX, type, 0));
    TRY("sendto", sendto(fd, token(), token_length(), 0, (struct sockaddr *)&to, length));
    struct iovec data = {(void *)token(), token_length()};
    struct mmsghdr m = {.msg_hdr = {.msg_name = &to, .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1}};
    TRY("sendmsg", sendmsg(fd, &m.msg_hdr, 0));
    TRY("sendmmsg", sendmmsg(fd, &m, 1, 0));
    close(fd);
}

static void path_stream(void) { talk(SOCK_STREAM, env("T_UNIX"), false); }
static void path_datagram(void) { talk(SOCK_DGRAM, env("T_DGRAM"), false); }
static void abstract_stream(void) { talk(SOCK_STREAM, env("T_ABSTRACT"), true); }
static void abstract_datagram(void) { talk(SOCK_DGRAM, env("T_ABSTRACT_DGRAM"), true); }

/* A daemon that opens sockets for others. */
static void helper(void) {
    struct sockaddr_un to;
    socklen_t length = name(&to, env("T_UNIX"), false);
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    if (TRY("connect", connect(fd, (struct sockaddr *)&to, length))) return;
    MUST(write(fd, "connect", 7));
    int got = receive_fd(fd);
    write(got, token(), token_length());
    through();
}

static void in_own_directory(char *out, size_t size, const char *suffix) { snprintf(out, size, "%s.%s", env("T_KNOCK"), suffix); }

/* Other names of the same file: a symbolic link, a hard link, a renamed one, one by the directory of a process. */
static void other_names(void) {
    char link_[200], hard[200], long_[300];
    in_own_directory(link_, sizeof link_, "symlink");
    in_own_directory(hard, sizeof hard, "hardlink");
    unlink(link_), unlink(hard);
    MUST(symlink(env("T_UNIX"), link_));
    talk(SOCK_STREAM, link_, false);
    if (link(env("T_UNIX"), hard) == 0) talk(SOCK_STREAM, hard, false);
    snprintf(long_, sizeof long_, "/proc/self/root%s", env("T_UNIX"));
    if (strlen(long_) < 107) talk(SOCK_STREAM, long_, false);
    unlink(link_), unlink(hard);
}

static volatile bool racing;
static char mine[108], other[128];
static const char *foreign;

/* The foreign socket's file takes the place of the own one's, again and again. */
static void *swap_link(void *unused) {
    while (racing)
        if (symlink(foreign, other) == 0) rename(other, mine);
    return unused;
}

static void *swap_file(void *unused) {
    while (racing)
        if (link(foreign, other) == 0) rename(other, mine);
    return unused;
}

/* Between bind() and the supervisor's look at what was bound, and between connect()'s look and its deed. */
static void race(int type, const char *victim, void *(*swap)(void *)) {
    foreign = victim;
    in_own_directory(mine, sizeof mine, "race");
    snprintf(other, sizeof other, "%s.l", mine);
    racing = true;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, swap, NULL) == 0);
    struct sockaddr_un at, to;
    socklen_t length = name(&at, mine, false), far = name(&to, victim, false);
    int won = 0;
    for (int i = 0; i < 3000 && !won; i++) {
        int fd = (int)MUST(socket(AF_UNIX, type, 0)), client = (int)MUST(socket(AF_UNIX, type, 0));
        unlink(mine);
        if (bind(fd, (struct sockaddr *)&at, length) == 0 && type == SOCK_STREAM) listen(fd, 4);
        struct sockaddr *names[] = {(struct sockaddr *)&at, (struct sockaddr *)&to};
        socklen_t lengths[] = {length, far};
        for (int j = 0; j < 2; j++) {
            if (type == SOCK_DGRAM) {
                sendto(client, token(), token_length(), MSG_DONTWAIT, names[j], lengths[j]);
            } else if (connect(client, names[j], lengths[j]) == 0) {
                send(client, token(), token_length(), MSG_NOSIGNAL);
                close(client);
                client = (int)MUST(socket(AF_UNIX, type, 0));
            }
        }
        close(client);
        close(fd);
    }
    racing = false;
    pthread_join(thread, NULL);
    unlink(mine), unlink(other);
    note("3000 rounds");
}

static void symlink_race(void) { race(SOCK_STREAM, env("T_UNIX"), swap_link); }
static void file_race(void) { race(SOCK_STREAM, env("T_UNIX"), swap_file); }
static void datagram_race(void) { race(SOCK_DGRAM, env("T_DGRAM"), swap_file); }

/* The foreign datagram socket's own name is taken, its file goes on under another: what was bound by that very name must
 * not be what is remembered. */
static void namesake(void) {
    char saved[128];
    in_own_directory(saved, sizeof saved, "saved");
    foreign = saved;
    unlink(saved);
    if (TRY("link", link(env("T_DGRAM"), saved))) return;
    snprintf(mine, sizeof mine, "%s", env("T_DGRAM"));
    snprintf(other, sizeof other, "%s.l", saved);
    racing = true;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, swap_file, NULL) == 0);
    struct sockaddr_un at, to;
    socklen_t length = name(&at, mine, false), far = name(&to, saved, false);
    for (int i = 0; i < 3000; i++) {
        int fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
        unlink(mine);
        bind(fd, (struct sockaddr *)&at, length);
        sendto(fd, token(), token_length(), MSG_DONTWAIT, (struct sockaddr *)&to, far);
        close(fd);
    }
    racing = false;
    pthread_join(thread, NULL);
    rename(saved, mine);
    unlink(other);
    note("3000 rounds");
}

/* Sockets that a process outside passes in: it found the program's own socket, and connected to it. */
static void passed(void) {
    struct sockaddr_un at;
    char path[108];
    in_own_directory(path, sizeof path, "pass");
    socklen_t length = name(&at, path, false);
    unlink(path);
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(fd, (struct sockaddr *)&at, length));
    MUST(chmod(path, 0777));
    MUST(listen(fd, 1));
    int over = (int)MUST(accept(fd, NULL, NULL)), got = 0;
    give_up_after(over, 5);
    for (int i = 0; i < 2; i++) {
        char byte;
        _Alignas(8) char room[CMSG_SPACE(sizeof(int))];
        struct iovec data = {&byte, 1};
        struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1};
        m.msg_control = room, m.msg_controllen = sizeof room;
        if (recvmsg(over, &m, 0) != 1) break;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (!c || c->cmsg_type != SCM_RIGHTS) {
            note("dropped, %s", m.msg_flags & MSG_CTRUNC ? "MSG_CTRUNC" : "no flag");
            continue;
        }
        int given;
        memcpy(&given, CMSG_DATA(c), sizeof given);
        got++;
        send(given, token(), token_length(), MSG_NOSIGNAL);
        close(given);
    }
    if (got) note("%d taken", got);
}

/* The sockets by which the runs of this user say what they are doing. */
static void status(void) {
    char pattern[200], answer[64];
    snprintf(pattern, sizeof pattern, "%s/sipbox/run-*.sock", env("XDG_RUNTIME_DIR"));
    glob_t found = {0};
    if (glob(pattern, 0, NULL, &found)) note("none found");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct sockaddr_un to;
        socklen_t length = name(&to, found.gl_pathv[i], false);
        int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        if (TRY("connect", connect(fd, (struct sockaddr *)&to, length)) == 0 && write(fd, "j", 1) == 1 && read(fd, answer, sizeof answer) > 0)
            through();
        close(fd);
    }
    globfree(&found);
}

/* The policy allows what is in one directory: other sockets are moved, linked and pointed to there. */
static void moved(void) {
    char directory[200], at[300];
    snprintf(directory, sizeof directory, "%s.open", env("T_KNOCK"));
    mkdir(directory, 0777);
    chmod(directory, 0777);
    snprintf(at, sizeof at, "%s/x", directory);
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
    for (int i = 0; i < 2; i++) {
        const char *from = env(types[i] == SOCK_STREAM ? "T_UNIX" : "T_DGRAM");
        unlink(at);
        MUST(symlink(from, at));
        talk(types[i], at, false);
        unlink(at);
        MUST(link(from, at));
        talk(types[i], at, false);
        unlink(at);
        MUST(rename(from, at));
        talk(types[i], at, false);
        /* Its old name leads to it again. */
        MUST(link(at, from));
        talk(types[i], at, false);
        unlink(at);
    }
}

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#define SCM_PIDFD 4
#endif

/* Who is said to have sent the next message: got through if it is somebody who did not. */
static void look_at_sender(int fd, pid_t forged) {
    char in[64];
    _Alignas(8) char room[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(int))];
    struct iovec data = {in, sizeof in};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    if (recvmsg(fd, &m, MSG_DONTWAIT) < 0) return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int pid = 0, given = -1;
        if (c->cmsg_type == SCM_CREDENTIALS) memcpy(&pid, CMSG_DATA(c), sizeof pid);
        if (c->cmsg_type == SCM_PIDFD) {
            memcpy(&given, CMSG_DATA(c), sizeof given);
            char path[64], line[128];
            snprintf(path, sizeof path, "/proc/self/fdinfo/%d", given);
            FILE *info = fopen(path, "r");
            while (info && fgets(line, sizeof line, info)) sscanf(line, "Pid: %d", &pid);
            if (info) fclose(info);
        }
        if (pid != forged) continue;
        note("a message of process %s", forged == supervisor() ? "SUPERVISOR" : "INIT");
        /* A descriptor of it is more than its number. */
        if (given >= 0) note("its descriptor");
        through();
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int given;
        if (c->cmsg_type != SCM_PIDFD && c->cmsg_type != SCM_RIGHTS) continue;
        memcpy(&given, CMSG_DATA(c), sizeof given);
        if (given >= 0) close(given);
    }
}

/* Messages that somebody else is to have sent: said so, by who is gone, and so many that nobody can remember all of them. */
static void posed(void) {
    enum { MANY = 20000 };
    static const int types[] = {SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
    const pid_t forged[] = {supervisor(), 1};
    for (int i = 0; i < 3; i++) {
        int two[2], one = 1;
        MUST(socketpair(AF_UNIX, types[i], 0, two));
        MUST(setsockopt(two[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
        setsockopt(two[1], SOL_SOCKET, SO_PASSPIDFD, &one, sizeof one);
        for (int f = 0; f < 2; f++) {
            struct ucred as = {forged[f], getuid(), getgid()};
            _Alignas(8) char room[CMSG_SPACE(sizeof as)] = {0};
            struct iovec data = {"posed", 5};
            struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_CREDENTIALS, c->cmsg_len = CMSG_LEN(sizeof as);
            memcpy(CMSG_DATA(c), &as, sizeof as);
            if (TRY("sendmsg", sendmsg(two[0], &m, MSG_NOSIGNAL)) > 0) look_at_sender(two[1], forged[f]);
            m.msg_controllen = 0;
            pid_t child = (pid_t)MUST(fork());
            if (child == 0) _exit(sendmsg(two[0], &m, MSG_NOSIGNAL) != 5);
            MUST(waitpid(child, NULL, 0));
            look_at_sender(two[1], forged[f]);
        }
        /* By one process that ends while the other looks. */
        pid_t child = (pid_t)MUST(fork());
        if (child == 0) {
            struct iovec data = {"x", 1};
            struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1};
            for (int n = 0; n < MANY; n++) sendmsg(two[0], &m, MSG_NOSIGNAL | (n % 2 ? MSG_DONTWAIT : 0));
            _exit(0);
        }
        int status;
        while (waitpid(child, &status, WNOHANG) == 0) look_at_sender(two[1], supervisor());
        for (int n = 0; n < MANY; n++) look_at_sender(two[1], supervisor());
        close(two[0]), close(two[1]);
    }
}

ATTACKS({"posed", posed}, {"status", status}, {"moved", moved}, {"passed", passed}, {"path-stream", path_stream}, {"path-datagram", path_datagram}, {"abstract-stream", abstract_stream},
        {"abstract-datagram", abstract_datagram}, {"helper", helper}, {"other-names", other_names},
        {"symlink-race", symlink_race}, {"file-race", file_race}, {"datagram-race", datagram_race}, {"namesake", namesake})
