/* The calls as they are: nothing of the targets may be reached by them. */
#include "attack.h"
#include <sys/file.h>
#include <sys/sendfile.h>

static int udp(void) { return (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)); }
static int tcp(void) { return (int)MUST(socket(AF_INET, SOCK_STREAM, 0)); }

static void connects(int fd, const struct address *to) {
    if (TRY("connect", connect(fd, &to->any, to->len)) == 0) send(fd, token(), token_length(), MSG_NOSIGNAL);
    close(fd);
}

static void tcp_connect(void) {
    EACH_TARGET(t) connects(tcp(), &t);
}

static void tcp_connect_mapped(void) {
    EACH_TARGET(t) {
        struct address six = mapped(t);
        connects((int)MUST(socket(AF_INET6, SOCK_STREAM, 0)), &six);
    }
}

static void udp_connect(void) {
    EACH_TARGET(t) connects(udp(), &t);
}

static void udp_sendto(void) {
    EACH_TARGET(t) {
        int fd = udp();
        TRY("sendto", sendto(fd, token(), token_length(), 0, &t.any, t.len));
        close(fd);
        struct address six = mapped(t);
        fd = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
        TRY("sendto", sendto(fd, token(), token_length(), 0, &six.any, six.len));
        /* The old form: AF_UNSPEC means AF_INET there. */
        struct address old = t;
        old.any.sa_family = AF_UNSPEC;
        int four = udp();
        TRY("sendto", sendto(four, token(), token_length(), 0, &old.any, old.len));
        close(four);
        close(fd);
    }
}

static void messages(int flags, int type) {
    EACH_TARGET(t) {
        struct iovec data = {(void *)token(), token_length()};
        struct mmsghdr many[2] = {0};
        for (int i = 0; i < 2; i++)
            many[i].msg_hdr = (struct msghdr){.msg_name = &t.any, .msg_namelen = t.len, .msg_iov = &data, .msg_iovlen = 1};
        int fd = (int)MUST(socket(AF_INET, type, 0));
        TRY("sendmsg", sendmsg(fd, &many[0].msg_hdr, flags));
        close(fd);
        fd = (int)MUST(socket(AF_INET, type, 0));
        TRY("sendmmsg", sendmmsg(fd, many, 2, (unsigned)flags));
        close(fd);
    }
}

static void udp_messages(void) { messages(0, SOCK_DGRAM); }

static void fast_open(void) {
    messages(MSG_FASTOPEN | MSG_NOSIGNAL, SOCK_STREAM);
    EACH_TARGET(t) {
        int fd = tcp(), one = 1;
        TRY("sendto", sendto(fd, token(), token_length(), MSG_FASTOPEN | MSG_NOSIGNAL, &t.any, t.len));
        close(fd);
        fd = tcp();
        TRY("TCP_FASTOPEN_CONNECT", setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
        if (connect(fd, &t.any, t.len) == 0) write(fd, token(), token_length());
        close(fd);
    }
}

/* The wildcard address as a destination is this host. */
static void to_any(void) {
    struct address t = target("T_LO");
    t.v4.sin_addr.s_addr = 0;
    connects(tcp(), &t);
    struct address six = any_v6(port_of(&t));
    connects((int)MUST(socket(AF_INET6, SOCK_STREAM, 0)), &six);
}

/* An association made for one address, taken back, and made for another. */
static void reconnect(void) {
    struct address mine = loopback_v4(0), none = {.len = sizeof none.v4};
    none.any.sa_family = AF_UNSPEC;
    int peer = udp();
    MUST(bind(peer, &mine.any, mine.len));
    mine = local_of(peer);
    EACH_TARGET(t) {
        int fd = udp();
        MUST(connect(fd, &mine.any, mine.len));
        MUST(connect(fd, &none.any, none.len));
        TRY("connect", connect(fd, &t.any, t.len));
        send(fd, token(), token_length(), MSG_NOSIGNAL);
        clear_error(fd);
        TRY("sendto", sendto(fd, token(), token_length(), 0, &t.any, t.len));
        close(fd);
    }
}

/* Data calls that the filter does not see, on sockets that lead nowhere yet. */
static void untrapped(void) {
    int pipes[2], fd = udp(), stream = tcp();
    MUST(pipe(pipes));
    MUST(write(pipes[1], token(), token_length()));
    struct iovec data = {(void *)token(), token_length()};
    signal(SIGPIPE, SIG_IGN);
    TRY("write to UDP", write(fd, token(), token_length()));
    TRY("writev to TCP", writev(stream, &data, 1));
    TRY("splice to UDP", splice(pipes[0], NULL, fd, NULL, token_length(), 0));
    TRY("splice to TCP", splice(pipes[0], NULL, stream, NULL, token_length(), 0));
    TRY("vmsplice to TCP", vmsplice(stream, &data, 1, 0));
    int file = (int)MUST(open("/proc/self/exe", O_RDONLY));
    TRY("sendfile to UDP", sendfile(fd, file, NULL, 100));
    int one = 1;
    TRY("SO_ZEROCOPY", setsockopt(stream, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one));
    TRY("send with MSG_FASTOPEN", send(stream, token(), token_length(), MSG_FASTOPEN | MSG_NOSIGNAL));
    /* The proof that these calls are data calls at all: natively they reach a connected socket. */
    if (getenv("T_UNDER")) return;
    struct address t = target("T_LO");
    MUST(connect(fd, &t.any, t.len));
    write(fd, token(), token_length());
}

/* A send without an address binds a UDP socket by itself: to the wildcard address, where the whole network is heard. */
static void autobind(void) {
    static const int families[] = {AF_INET, AF_INET6};
    for (int f = 0; f < 2; f++) {
        int fd = (int)MUST(socket(families[f], SOCK_DGRAM, 0));
        TRY("send", send(fd, "x", 1, 0));
        struct stat s;
        MUST(fstat(fd, &s));
        char line[512];
        FILE *list = fopen(f ? "/proc/self/net/udp6" : "/proc/self/net/udp", "r");
        CHECK(list);
        bool bound = false;
        while (fgets(line, sizeof line, list)) {
            char ip[40];
            unsigned port;
            unsigned long inode;
            if (sscanf(line, " %*d: %32[0-9A-F]:%x %*s %*s %*s %*s %*s %*s %*s %lu", ip, &port, &inode) != 3) continue;
            if (inode != s.st_ino || strspn(ip, "0") != strlen(ip)) continue;
            bound = true;
            int knock = (int)MUST(open(env("T_KNOCK"), O_WRONLY | O_CREAT | O_TRUNC, 0666));
            dprintf(knock, "%u\n", port);
            close(knock);
            give_up_after(fd, 2);
            if (recv(fd, line, sizeof line, 0) > 0) through();
            unlink(env("T_KNOCK"));
        }
        fclose(list);
        note(bound ? "bound to the wildcard address" : "not bound to the wildcard address");
        close(fd);
    }
}

/* Names as a channel: a real resolver would carry them away. */
static void dns(void) {
    struct address t = target("T_LO");
    t.v4.sin_port = htons(53);
    uint8_t query[] = "\xbe\xef\1\0\0\1\0\0\0\0\0\0\6secret\7example\3com\0\0\1\0\1", answer[512];
    int fd = udp();
    give_up_after(fd, 2);
    if (!getenv("T_UNDER")) {
        t = target("T_LO");
        sendto(fd, query, sizeof query - 1, 0, &t.any, t.len);
        return;
    }
    TRY("sendto port 53", sendto(fd, query, sizeof query - 1, 0, &t.any, t.len));
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    note(n > 3 ? "answer code %d" : "no answer", answer[3] & 15);
}

/* The run's own supervisor has sockets on the run's address; everybody may read where. */
static void supervisors_ports(void) {
    static const char *const lists[] = {"/proc/self/net/udp", "/proc/self/net/tcp"};
    int tried = 0, reached = 0;
    struct address mine = target("T_LO");
    for (int i = 0; i < 2; i++) {
        FILE *list = fopen(lists[i], "r");
        CHECK(list);
        char line[512];
        while (fgets(line, sizeof line, list)) {
            unsigned ip, port, state;
            if (sscanf(line, " %*d: %x:%x %*x:%*x %x", &ip, &port, &state) != 3 || (ip & 0xff) != 127) continue;
            if (port == 53 || (i == 1 && state != 10)) continue;
            /* Without sipbox everybody's sockets are there: only the target's is used. */
            if (!getenv("T_UNDER") && (int)port != port_of(&mine)) continue;
            struct address to = any_v4((int)port);
            to.v4.sin_addr.s_addr = ip;
            int fd = i ? tcp() : udp();
            tried++;
            if (connect(fd, &to.any, to.len) == 0 && send(fd, "x", 1, MSG_NOSIGNAL) == 1) {
                /* UDP: nobody is there, which only the next call says. */
                struct pollfd p = {fd, POLLERR, 0};
                if (i || poll(&p, 1, 50) == 0) reached++;
            }
            close(fd);
        }
        fclose(list);
    }
    CHECK(tried > 0);
    note(reached ? "some were reached" : "none of the listed ports was reached");
    if (reached) through();
}

/* The address of another run, or of a service, cannot be had. */
static void steal_address(void) {
    const char *wanted[] = {"127.64.0.1", "127.100.1.2", "192.0.2.77", env("T_HERE")};
    for (int i = 0; i < 4; i++) {
        struct address a = any_v4(20053);
        CHECK(inet_pton(AF_INET, wanted[i], &a.v4.sin_addr) == 1);
        int one = 1, fd = tcp();
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        bool done = bind(fd, &a.any, a.len) == 0 && listen(fd, 1) == 0;
        /* What it was really bound to stands in the kernel's list. */
        struct stat s;
        MUST(fstat(fd, &s));
        FILE *list = fopen("/proc/self/net/tcp", "r");
        CHECK(list);
        char line[512];
        bool there = false;
        while (done && fgets(line, sizeof line, list)) {
            unsigned ip, port;
            unsigned long inode;
            if (sscanf(line, " %*d: %x:%x %*s %*s %*s %*s %*s %*s %*s %lu", &ip, &port, &inode) == 3 && inode == s.st_ino)
                there |= ip == a.v4.sin_addr.s_addr && port == 20053;
        }
        fclose(list);
        close(fd);
        if (there) through();
    }
    note(through_ ? "had" : "not had");
}

/* The user's hub is found by files that the program may write: the supervisor's SIP is to go elsewhere. */
static void hub(void) {
    struct address t = target("T_LO");
    if (!getenv("T_UNDER")) {
        /* What the supervisor would say there. */
        sendto(udp(), token(), token_length(), 0, &t.any, t.len);
        return;
    }
    char directory[200], path[256];
    snprintf(directory, sizeof directory, "%s/sipbox", env("XDG_RUNTIME_DIR"));
    mkdir(directory, 0700);
    static const char *const names[] = {"hub.addr", "hub.sock", "hub.lock", "hub.secret", "hub.state"};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
        if (i == 1) {
            /* A hub of the program's own, which says where the target is. */
            struct sockaddr_un at = {.sun_family = AF_UNIX};
            snprintf(at.sun_path, sizeof at.sun_path, "%.100s", path);
            int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
            MUST(bind(fd, (struct sockaddr *)&at, sizeof at));
            MUST(listen(fd, 64));
            if (fork() == 0) {
                alarm(20);
                for (int one; (one = accept(fd, NULL, NULL)) >= 0; close(one))
                    dprintf(one, "%s %032d\n", text_of(&t), 7);
                _exit(0);
            }
            continue;
        }
        int fd = (int)MUST(open(path, O_RDWR | O_CREAT, 0600));
        if (i == 0) dprintf(fd, "%s\n", text_of(&t));
        if (i == 2) MUST(flock(fd, LOCK_EX));
        if (i == 3) dprintf(fd, "%032d", 7);
    }
    struct address somebody = any_v4(7000);
    inet_pton(AF_INET, "198.18.0.9", &somebody.v4.sin_addr);
    TRY("connect to a peer", connect(tcp(), &somebody.any, somebody.len));
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
}

/* The true hub, told by a state of the program's making that somebody is at the target. */
static void hub_state(void) {
    struct address t = target("T_LO");
    if (!getenv("T_UNDER")) {
        sendto(udp(), token(), token_length(), 0, &t.any, t.len);
        return;
    }
    char path[256];
    snprintf(path, sizeof path, "%s/sipbox", env("XDG_RUNTIME_DIR"));
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/sipbox/hub.state", env("XDG_RUNTIME_DIR"));
    unlink(path);
    int fd = (int)MUST(open(path, O_RDWR | O_CREAT, 0600));
    dprintf(fd, "sipbox-hub-state-1 %064d\nsomebody@sipbox.invalid\t\t%ld\tcall\t1\tudp 0 %s\t1000\t0\t\t\t", 7,
            (long)time(NULL) + 600, text_of(&t));
    dprintf(fd, "sip:somebody@%s\n", text_of(&t));
    close(fd);
    struct address somebody = any_v4(7000);
    inet_pton(AF_INET, "198.18.0.9", &somebody.v4.sin_addr);
    TRY("connect to a peer", connect(tcp(), &somebody.any, somebody.len));
    unlink(path);
}

ATTACKS({"hub", hub}, {"hub-state", hub_state}, {"tcp-connect", tcp_connect}, {"tcp-connect-mapped", tcp_connect_mapped}, {"udp-connect", udp_connect},
        {"udp-sendto", udp_sendto}, {"udp-messages", udp_messages}, {"fast-open", fast_open}, {"to-any", to_any},
        {"reconnect", reconnect}, {"untrapped", untrapped}, {"autobind", autobind}, {"dns", dns},
        {"supervisors-ports", supervisors_ports}, {"steal-address", steal_address})
