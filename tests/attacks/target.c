/* What the attacks are after: receivers of all kinds, outside of sipbox. Every line on standard output is something that
 * reached it. "sync WORD" on standard input: WORD comes back when everything that had arrived is said.
 *   target ADDRESS [DIRECTORY DOOR]     DOOR: an address of this machine that the network can reach */
#include "t.h"
#include <stddef.h>
#include <sys/stat.h>

enum { MOST = 64 };
static struct pollfd polled[MOST];
static enum kind { NONE, LISTENER, DATAGRAM, STREAM, INPUT, IGMP } kinds[MOST];
static int count;
static volatile unsigned long canary = 42;
static const char *directory = "", *door = "";

static void watch(int fd, enum kind kind) {
    for (int i = 0; i < MOST; i++) {
        if (i < count && kinds[i] != NONE) continue;
        polled[i] = (struct pollfd){fd, POLLIN, 0};
        kinds[i] = kind;
        if (i >= count) count = i + 1;
        return;
    }
    close(fd);
}

static int unix_socket(int type, const char *name, bool abstract) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path + abstract, sizeof at.sun_path - 1, "%s", name);
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    if (!abstract) unlink(name);
    MUST(bind(fd, (struct sockaddr *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1)));
    if (!abstract) MUST(chmod(name, 0777));
    if (type == SOCK_STREAM) MUST(listen(fd, 64));
    return fd;
}

/* A helper as D-Bus services are: "connect" on an AF_UNIX stream gives a connected TCP socket. */
static void serve(int fd, const char *words, struct address me) {
    if (strncmp(words, "connect", 7)) return;
    int socket_ = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    if (connect(socket_, &me.any, me.len) == 0) send_fd(fd, socket_);
    close(socket_);
}

static void unhook(int i) {
    close(polled[i].fd);
    polled[i].fd = -1;
    kinds[i] = NONE;
}

static void handle(int i, struct address me) {
    char words[2048];
    struct address from = {.len = sizeof from.room};
    switch (kinds[i]) {
    case LISTENER: {
        int fd = accept4(polled[i].fd, &from.any, &from.len, SOCK_CLOEXEC);
        if (fd < 0) return;
        say("accepted a connection");
        watch(fd, STREAM);
        return;
    }
    case IGMP:
    case DATAGRAM: {
        ssize_t n = recvfrom(polled[i].fd, words, sizeof words - 1, MSG_DONTWAIT, &from.any, &from.len);
        if (n >= 0) say("received a datagram of %zd bytes: %.*s", n, kinds[i] == IGMP ? 0 : (int)n, words);
        return;
    }
    case STREAM: {
        ssize_t n = recv(polled[i].fd, words, sizeof words - 1, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            unhook(i);
            return;
        }
        words[n] = 0;
        say("received on a stream: %s", words);
        serve(polled[i].fd, words, me);
        return;
    }
    default: return;
    }
}

/* Whoever listens on a UDP port of his that the network can reach is told so. */
static void knock(void) {
    char path[256], text[64] = "";
    snprintf(path, sizeof path, "%s/knock", directory);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    int port = n > 0 ? atoi(text) : 0;
    if (!port) return;
    const char *doors[] = {"127.0.0.1", door, "127.64.0.1"};
    int from = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    for (int i = 0; i < 3; i++) {
        struct address to = any_v4(port);
        inet_pton(AF_INET, doors[i], &to.v4.sin_addr);
        sendto(from, "knock", 5, 0, &to.any, to.len);
    }
    close(from);
}

/* A client that calls the port. */
static bool call(int type, int port) {
    struct address there = loopback_v4(port);
    int fd = (int)MUST(socket(AF_INET, type, 0));
    bool called = connect(fd, &there.any, there.len) == 0 && send(fd, "hello", 5, MSG_NOSIGNAL) == 5;
    if (called)
        watch(fd, type == SOCK_STREAM ? STREAM : DATAGRAM);
    else {
        int why = errno;
        close(fd);
        errno = why;
    }
    return called;
}

/* A service that starts on the wildcard address, at the port that somebody asks for. */
static bool begin_at(const char *how, int port) {
    bool stream = !strcmp(how, "tcp");
    int one = 1, service = (int)MUST(socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0));
    struct address here = any_v4(port);
    if (stream || !strcmp(how, "udp-shared")) MUST(setsockopt(service, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    bool taken = bind(service, &here.any, here.len) == 0 && (!stream || listen(service, 8) == 0);
    if (taken)
        watch(service, stream ? LISTENER : DATAGRAM);
    else {
        int why = errno;
        close(service);
        errno = why;
    }
    return taken;
}

/* As one that is started again until it has its port, for a while; datagrams are awaited by nobody, so once is enough. */
static bool serve_at(const char *how, int port) {
    for (int tries = strcmp(how, "tcp") ? 1 : 300; !begin_at(how, port); usleep(10000))
        if (--tries == 0) return false;
    return true;
}

/* What somebody asks for, and what became of it. */
static void take(void) {
    char path[256], answer[280], text[64] = "", how[16] = "";
    snprintf(path, sizeof path, "%s/knock.take", directory);
    int fd = open(path, O_RDONLY), port = 0;
    if (fd < 0) return;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0 || sscanf(text, "%15s %d", how, &port) != 2) return;
    unlink(path);
    bool calls = !strncmp(how, "call-", 5);
    bool done = calls ? call(strcmp(how, "call-tcp") ? SOCK_DGRAM : SOCK_STREAM, port) : serve_at(how, port);
    int why = errno;
    snprintf(answer, sizeof answer, "%s/knock.new", directory);
    fd = (int)MUST(open(answer, O_WRONLY | O_CREAT | O_TRUNC, 0666));
    dprintf(fd, "%s", done ? "has it" : errname(why));
    close(fd);
    snprintf(path, sizeof path, "%s/knock.taken", directory);
    MUST(rename(answer, path));
}

/* Whoever has a socket here is given connections: a process outside that means well, or was fooled. */
static void pass(struct address me) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof to.sun_path, "%.90s/knock.pass", directory);
    int over = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    if (connect(over, (struct sockaddr *)&to, sizeof to) == 0) {
        unlink(to.sun_path);
        static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
        for (int i = 0; i < 2; i++) {
            int fd = (int)MUST(socket(AF_INET, types[i], 0));
            MUST(connect(fd, &me.any, me.len));
            send_fd(over, fd);
            close(fd);
        }
    }
    close(over);
}

/* A free port that the kernel does not choose by itself (ip_local_port_range): a socket of the attack's that got the same number would be
 * connected to itself, within the box as without it. */
static void choose_port(struct address *me) {
    for (int port = 10000 + getpid() % 20000;; port++) {
        int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        me->v4.sin_port = htons((uint16_t)port);
        bool free_ = bind(fd, &me->any, me->len) == 0;
        CHECK(free_ || errno == EADDRINUSE);
        close(fd);
        if (free_) return;
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    watch(STDIN_FILENO, INPUT);
    struct address me = any_v4(0);
    if (inet_pton(AF_INET, argv[1], &me.v4.sin_addr) != 1) return 2;
    choose_port(&me);
    int tcp = listen_on(me, 64), one = 1;
    me = local_of(tcp);
    /* Datagrams to a broadcast or multicast address come in by the wildcard address only. */
    bool apart = argc < 4;
    struct address heard = apart ? any_v4(port_of(&me)) : me;
    int udp = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(bind(udp, &heard.any, heard.len));
    if (apart) {
        struct ip_mreqn group = {.imr_address = me.v4.sin_addr};
        inet_pton(AF_INET, "239.255.7.7", &group.imr_multiaddr);
        MUST(setsockopt(udp, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
        MUST(setsockopt(udp, SOL_SOCKET, SO_BROADCAST, &one, sizeof one));
        /* What a membership makes the kernel send. */
        watch((int)MUST(socket(AF_INET, SOCK_RAW, IPPROTO_IGMP)), IGMP);
    }
    watch(tcp, LISTENER);
    watch(udp, DATAGRAM);
    int own = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(connect(own, &me.any, me.len));
    if (!apart) {
        directory = argv[2], door = argv[3];
        char path[256], name[64];
        snprintf(path, sizeof path, "%s/target.sock", directory);
        watch(unix_socket(SOCK_STREAM, path, false), LISTENER);
        snprintf(path, sizeof path, "%s/target.dgram", directory);
        watch(unix_socket(SOCK_DGRAM, path, false), DATAGRAM);
        snprintf(name, sizeof name, "sipbox-attacks-%d", getpid());
        watch(unix_socket(SOCK_STREAM, name, true), LISTENER);
        snprintf(name, sizeof name, "sipbox-attacks-%d-dgram", getpid());
        watch(unix_socket(SOCK_DGRAM, name, true), DATAGRAM);
    }
    say("ready %s %d %lx %d", text_of(&me), getpid(), (unsigned long)&canary, own);
    char line[256];
    size_t have = 0;
    for (;;) {
        poll(polled, (nfds_t)count, 5);
        if (canary != 42) {
            say("its memory was changed");
            canary = 42;
        }
        bool more = false;
        for (int i = 0; i < count; i++) {
            if (kinds[i] == NONE || kinds[i] == INPUT || !(polled[i].revents & (POLLIN | POLLHUP | POLLERR))) continue;
            handle(i, me);
            more = true;
        }
        if (!apart) {
            knock();
            take();
            pass(me);
        }
        /* Only when all was quiet: what came before the question is answered first. */
        if (more || !(polled[0].revents & (POLLIN | POLLHUP))) continue;
        ssize_t n = read(STDIN_FILENO, line + have, sizeof line - 1 - have);
        if (n <= 0) return 0;
        have += (size_t)n;
        line[have] = 0;
        char *end = strchr(line, '\n');
        if (!end) continue;
        *end = 0;
        if (!strncmp(line, "sync ", 5)) say("synced %s", line + 5);
        have = 0;
    }
}
