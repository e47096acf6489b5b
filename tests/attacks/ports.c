/* Ports that sockets of the program leave behind: what still points there is to reach nobody else who gets them. */
#include "attack.h"
#include <netinet/udp.h>

static int udp(void) { return (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)); }

/* At a port that is nobody's at any address of this machine: else no service could take it afterwards. */
static struct address bound(int fd) {
    int type;
    socklen_t size = sizeof type;
    MUST(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size));
    for (;;) {
        int everywhere = (int)MUST(socket(AF_INET, type, 0));
        struct address any = any_v4(0), mine;
        MUST(bind(everywhere, &any.any, any.len));
        any = local_of(everywhere);
        close(everywhere);
        mine = loopback_v4(port_of(&any));
        if (bind(fd, &mine.any, mine.len) == 0) return local_of(fd);
        /* Somebody was quicker. */
        CHECK(errno == EADDRINUSE);
    }
}

/* The port in a list of the kernel's of the socket with this inode, or 0. */
static unsigned listed_port(const char *list_of, unsigned long inode) {
    FILE *list = fopen(list_of, "r");
    CHECK(list);
    char line[512];
    unsigned port, found = 0;
    unsigned long other;
    while (!found && fgets(line, sizeof line, list))
        if (sscanf(line, " %*d: %*[0-9A-F]:%x %*s %*s %*s %*s %*s %*s %*s %lu", &port, &other) == 2 && other == inode) found = port;
    fclose(list);
    return found;
}

/* The port that the kernel knows this socket by. (Its list may miss a socket when others go while it is read.) */
static int kernel_port(int fd, const char *list_of) {
    struct stat s;
    MUST(fstat(fd, &s));
    unsigned found = 0;
    for (int i = 0; i < 100 && !found; i++) found = listed_port(list_of, s.st_ino);
    CHECK(found);
    return (int)found;
}

/* A service outside takes the port, on the wildcard address. */
static void taken(const char *how, int port) { note("a service that asks for it: %s", ask_outside(how, port)); }

static void says(int fd) {
    /* The first call may say what became of an earlier one. */
    for (int i = 0; i < 3; i++) send(fd, token(), token_length(), MSG_NOSIGNAL);
}

/* A socket that stays connected to one of the program's own, which is closed. */
static void connected(void) {
    int peer = udp(), fd = udp();
    struct address to = bound(peer);
    MUST(connect(fd, &to.any, to.len));
    int port = kernel_port(peer, "/proc/self/net/udp");
    close(peer);
    taken("udp", port);
    says(fd);
}

/* The port is shared with the service from the beginning, as both allow it. */
static void shared(void) {
    int peer = udp(), fd = udp(), other = udp(), one = 1;
    MUST(setsockopt(peer, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    struct address to = bound(peer);
    taken("udp-shared", kernel_port(peer, "/proc/self/net/udp"));
    MUST(sendto(other, "x", 1, 0, &to.any, to.len));
    connect(fd, &to.any, to.len);
    close(peer);
    for (int i = 0; i < 3; i++) sendto(other, token(), token_length(), MSG_NOSIGNAL, &to.any, to.len);
    says(fd);
}

/* Known already, and closed a moment ago. */
static void sent_to(void) {
    int peer = udp(), fd = udp(), one = 1;
    MUST(setsockopt(peer, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    struct address to = bound(peer);
    MUST(sendto(fd, "x", 1, 0, &to.any, to.len));
    taken("udp-shared", kernel_port(peer, "/proc/self/net/udp"));
    close(peer);
    for (int i = 0; i < 3; i++) sendto(fd, token(), token_length(), MSG_NOSIGNAL, &to.any, to.len);
}

/* Many other ports that the program's sockets pointed to for a moment: who keeps such ports keeps a number of them. */
static void push_out(void) {
    enum { OTHERS = 100 };
    int fd[OTHERS][2];
    for (int i = 0; i < OTHERS; i++) {
        fd[i][0] = udp();
        fd[i][1] = udp();
        struct address to = bound(fd[i][0]);
        MUST(connect(fd[i][1], &to.any, to.len));
    }
    for (int i = 0; i < OTHERS; i++) {
        close(fd[i][0]);
        close(fd[i][1]);
    }
    /* Whoever keeps them has to hear of it. */
    usleep(300000);
    int last[] = {udp(), udp()};
    struct address to = bound(last[0]);
    MUST(connect(last[1], &to.any, to.len));
}

/* Held back by the kernel, which keeps the destination with it: it goes there later, wherever the socket points by then. */
static void held_back(void (*hold)(int fd, struct address to), void (*let_go)(int fd)) {
    int peer = udp(), fd = udp();
    struct address to = bound(peer), nowhere = {.any.sa_family = AF_UNSPEC, .len = sizeof nowhere.v4};
    int port = kernel_port(peer, "/proc/self/net/udp");
    hold(fd, to);
    close(peer);
    connect(fd, &nowhere.any, nowhere.len);
    push_out();
    taken("udp", port);
    let_go(fd);
}

static void cork(int fd, int on) { MUST(setsockopt(fd, IPPROTO_UDP, UDP_CORK, &on, sizeof on)); }

static void hold_connected(int fd, struct address to) {
    MUST(connect(fd, &to.any, to.len));
    MUST(send(fd, token(), token_length(), MSG_MORE));
}

static void hold_addressed(int fd, struct address to) { MUST(sendto(fd, token(), token_length(), MSG_MORE, &to.any, to.len)); }

static void hold_corked(int fd, struct address to) {
    cork(fd, 1);
    MUST(sendto(fd, token(), token_length(), 0, &to.any, to.len));
}

static void push(int fd) { send(fd, "", 0, MSG_NOSIGNAL); }
static void uncork(int fd) { cork(fd, 0); }

static void held_connected(void) { held_back(hold_connected, push); }
static void held_addressed(void) { held_back(hold_addressed, push); }
static void held_corked(void) { held_back(hold_corked, uncork); }

/* Others of the program get the very port of a connected socket, as both say SO_REUSEADDR: by choice (IP_LOCAL_PORT_RANGE), or by chance. */
static void confused(void) {
    enum { RANGE = 51, MANY = 30000 };
    int peer = udp(), fd = udp(), one = 1;
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    struct address to = bound(peer), any = loopback_v4(0);
    int port = kernel_port(peer, "/proc/self/net/udp");
    MUST(connect(fd, &to.any, to.len));
    unsigned mine = (unsigned)kernel_port(fd, "/proc/self/net/udp"), range = mine << 16 | mine;
    for (int i = 0, chosen = 0; i < (chosen ? 100 : MANY); i++) {
        int other = udp();
        chosen = setsockopt(other, IPPROTO_IP, RANGE, &range, sizeof range) == 0;
        MUST(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
        bind(other, &any.any, any.len);
        close(other);
    }
    close(peer);
    push_out();
    taken("udp", port);
    says(fd);
}

/* A connect() whose first segment was lost, for the queue of the listener was full: the kernel repeats it after a second. */
static void waiting(void) {
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), fd[4];
    struct address to = bound(listener);
    MUST(listen(listener, 0));
    for (int i = 0; i < 4; i++) {
        fd[i] = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        MUST_FAIL(connect(fd[i], &to.any, to.len), EINPROGRESS);
        /* Once the first is in the queue that is full, and not only on its way there. */
        struct pollfd queued = {listener, POLLIN, 0};
        MUST(poll(&queued, 1, -1));
    }
    int port = kernel_port(listener, "/proc/self/net/tcp");
    close(listener);
    taken("tcp", port);
    struct pollfd p = {fd[3], POLLOUT, 0};
    /* After 1, 3 and 7 seconds. */
    MUST(poll(&p, 1, 10000));
    says(fd[3]);
}

ATTACKS({"port-left-behind", connected}, {"port-shared", shared}, {"port-sent-to", sent_to}, {"port-waited-for", waiting},
        {"port-held-back", held_connected}, {"port-held-back-addressed", held_addressed}, {"port-held-back-corked", held_corked},
        {"port-confused", confused})
