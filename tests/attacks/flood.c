/* Too much of everything: what the supervisor cannot serve it must refuse, and after it the way out is as shut as before. */
#include "attack.h"
#include <pthread.h>

static void try_all(void) {
    EACH_TARGET(t) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        long r = fd < 0 ? -1 : connect(fd, &t.any, t.len);
        if (r == 0) send(fd, token(), token_length(), MSG_NOSIGNAL);
        note("connect: %s", r ? "refused" : "done");
        if (fd >= 0) close(fd);
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd >= 0) sendto(fd, token(), token_length(), 0, &t.any, t.len);
        if (fd >= 0) close(fd);
    }
}

static volatile bool going = true;

static void *notify(void *unused) {
    struct address a = target("T_LO");
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    for (int i = 0; i < 2000 && going; i++) {
        struct address name = {.len = sizeof name.room};
        getsockname(fd, &name.any, &name.len);
        if (getenv("T_UNDER") || i == 0) sendto(fd, token(), token_length(), MSG_DONTWAIT, &a.any, a.len);
    }
    close(fd);
    return unused;
}

static void notifications(void) {
    pthread_t threads[64];
    for (int i = 0; i < 64; i++) CHECK(pthread_create(&threads[i], NULL, notify, NULL) == 0);
    for (int i = 0; i < 64; i++) pthread_join(threads[i], NULL);
    note("128000 calls of 64 threads");
    try_all();
}

/* Calls that wait: each holds a descriptor and a task of the supervisor. */
static _Atomic int answered;

static void *waits(void *fd) {
    struct address from = {.len = sizeof from.room};
    char byte;
    recvfrom(*(int *)fd, &byte, 1, 0, &from.any, &from.len);
    answered++;
    return NULL;
}

static void held(void) {
    static pthread_t threads[400];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), started = 0;
    struct address a = loopback_v4(0);
    MUST(bind(fd, &a.any, a.len));
    a = local_of(fd);
    for (int i = 0; i < 400; i++) started += pthread_create(&threads[started], &small, waits, &fd) == 0;
    note("%d calls held", started);
    try_all();
    int from = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    /* A full queue drops what comes, so it goes on until all have one. */
    while (answered < started) {
        sendto(from, "x", 1, 0, &a.any, a.len);
        usleep(100);
    }
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    note("all answered");
}

/* Descriptors in messages that nobody takes: each is held by the supervisor for the length of a call. */
static void *pass(void *fd) {
    enum { MOST = 253 };
    _Alignas(16) char room[CMSG_SPACE(MOST * sizeof(int))];
    struct cmsghdr *c = (struct cmsghdr *)room;
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(MOST * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    for (int i = 0; i < MOST; i++) memcpy(CMSG_DATA(c) + i * sizeof(int), fd, sizeof(int));
    char byte = 'x';
    struct iovec data = {&byte, 1};
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    struct timeval soon = {.tv_usec = 300000};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon));
    for (int i = 0; i < 40; i++) {
        struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1};
        m.msg_control = room, m.msg_controllen = sizeof room;
        if (sendmsg(pair[0], &m, 0) < 0 && errno == EAGAIN) break;
    }
    close(pair[0]);
    close(pair[1]);
    return NULL;
}

static void descriptors(void) {
    pthread_t threads[32];
    int fd = (int)MUST(open("/dev/null", O_RDONLY));
    for (int i = 0; i < 32; i++) CHECK(pthread_create(&threads[i], NULL, pass, &fd) == 0);
    for (int i = 0; i < 20; i++) try_all();
    for (int i = 0; i < 32; i++) pthread_join(threads[i], NULL);
    note("descriptors in flight");
    try_all();
}

/* More of them than any process may have: in one message, and in the many of one call that waits for its first. */
static void *crowd_of(void *room) {
    struct mmsghdr *many = calloc(1024, sizeof *many);
    CHECK(many);
    static char byte;
    static struct iovec data = {&byte, 1};
    struct msghdr *header = room;
    header->msg_iov = &data, header->msg_iovlen = 1;
    for (int i = 0; i < 1024; i++) many[i].msg_hdr = *header;
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    while (send(pair[0], "x", 1, MSG_DONTWAIT) == 1);
    struct timeval soon = {.tv_sec = 2};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon));
    sendmmsg(pair[0], many, 1024, 0);
    free(many);
    close(pair[0]);
    close(pair[1]);
    return NULL;
}

static void *takes_one(void *listener) { return (void *)(long)accept(*(int *)listener, NULL, NULL); }

static void crowd(void) {
    enum { MOST = 253, PARTS = 100, CALLS = 4 };
    static _Alignas(16) char room[PARTS * CMSG_SPACE(MOST * sizeof(int))];
    struct msghdr header = {.msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    for (int part = 0; part < PARTS; part++, c = CMSG_NXTHDR(&header, c)) {
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(MOST * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        for (int i = 0; i < MOST; i++) memcpy(CMSG_DATA(c) + i * sizeof(int), &(int){2}, sizeof(int));
        if (part + 1 == PARTS) break;
    }
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct address at = loopback_v4(0);
    MUST(bind(listener, &at.any, at.len));
    MUST(listen(listener, 4));
    at = local_of(listener);
    pthread_t innocent, calls[CALLS];
    CHECK(pthread_create(&innocent, NULL, takes_one, &listener) == 0);
    static _Alignas(16) char one[CMSG_SPACE(sizeof(int))];
    *(struct cmsghdr *)one = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA((struct cmsghdr *)one), &(int){2}, sizeof(int));
    /* All of the parts in each message, then the first of them alone; and what is left by single ones. */
    for (int round = 0; round < 2; round++) {
        struct msghdr all[CALLS];
        for (int i = 0; i < CALLS; i++) {
            all[i] = header;
            if (round) all[i].msg_controllen = CMSG_SPACE(MOST * sizeof(int));
            if (i == CALLS - 1) {
                all[i] = (struct msghdr){.msg_control = one, .msg_controllen = sizeof one};
                usleep(300000);
            }
            CHECK(pthread_create(&calls[i], NULL, crowd_of, &all[i]) == 0);
        }
        for (int i = 0; i < 100; i++) {
            int fd = socket(AF_INET, SOCK_DGRAM, 0);
            struct address own = loopback_v4(0);
            if (fd < 0 || bind(fd, &own.any, own.len)) {
                note("ANOTHER CALL FAILED: %s", errname(errno));
                through();
            }
            if (fd >= 0) close(fd);
            usleep(5000);
        }
        for (int i = 0; i < CALLS; i++) pthread_join(calls[i], NULL);
    }
    int caller = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(caller, &at.any, at.len));
    void *taken;
    pthread_join(innocent, &taken);
    if ((long)taken < 0) {
        note("ACCEPT() FAILED");
        through();
    }
    note("the calls of others are answered");
    try_all();
}

/* Sockets until no more are given. */
static void sockets(void) {
    /* More than a run has, if it may have as many descriptors. */
    enum { MANY = 70000, THAT_SEND = 8000 };
    struct rlimit most;
    MUST(getrlimit(RLIMIT_NOFILE, &most));
    most.rlim_cur = most.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &most));
    static int all[MANY];
    int given = 0;
    while (given < MANY) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd < 0) break;
        struct address a = loopback_v4(0);
        if (given < THAT_SEND) bind(fd, &a.any, a.len);
        all[given++] = fd;
    }
    note(given < MANY ? "an end was reached" : "70000 sockets");
    for (int i = 0; i < given && i < THAT_SEND; i++)
        EACH_TARGET(t) sendto(all[i], token(), token_length(), MSG_DONTWAIT, &t.any, t.len);
    for (int i = THAT_SEND; i < given; i++) close(all[i]);
    try_all();
}

/* Lengths and counts beyond all bounds. */
static void *huge(void *unused) {
    static struct iovec slices[1024];
    static struct mmsghdr many[1024];
    size_t size = 1ul << 30;
    char *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(room != MAP_FAILED);
    for (int i = 0; i < 1024; i++) slices[i] = (struct iovec){room, size};
    for (int i = 0; i < 1024; i++) {
        many[i].msg_hdr = (struct msghdr){.msg_iov = slices, .msg_iovlen = 1024};
        many[i].msg_hdr.msg_control = room;
        many[i].msg_hdr.msg_controllen = 1u << 20;
    }
    int pair[2], fd = (int)MUST(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    for (int i = 0; i < 20; i++) {
        sendmsg(fd, &many[0].msg_hdr, 0);
        recvmsg(fd, &many[0].msg_hdr, 0);
        recvmmsg(fd, many, 1024, MSG_DONTWAIT, NULL);
        sendmmsg(pair[0], many, 1024, MSG_DONTWAIT);
        recvmmsg(pair[1], many, 1024, MSG_DONTWAIT, NULL);
        sendto(fd, room, SIZE_MAX, 0, (struct sockaddr *)room, 16);
        struct address a = {.len = 128};
        recvfrom(fd, room, size, MSG_DONTWAIT, &a.any, &a.len);
    }
    munmap(room, size);
    return unused;
}

static void lengths(void) {
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], NULL, huge, NULL) == 0);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    note("lengths tried");
    try_all();
}

/* What a held call keeps in the supervisor. */
static long resident(pid_t pid) {
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%*d %ld", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * 4096;
}

static void *waits_for_many(void *fd) {
    static struct iovec slices[1024];
    static struct mmsghdr many[1024];
    static char byte;
    for (int i = 0; i < 1024; i++) slices[i] = (struct iovec){&byte, 1};
    for (int i = 0; i < 1024; i++) many[i].msg_hdr = (struct msghdr){.msg_iov = slices, .msg_iovlen = 1024};
    recvmmsg(*(int *)fd, many, 1024, 0, NULL);
    return NULL;
}

static void vectors(void) {
    enum { THREADS = 30 };
    pthread_t threads[THREADS];
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address a = loopback_v4(0);
    MUST(bind(fd, &a.any, a.len));
    long before = resident(supervisor());
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, waits_for_many, &fd) == 0);
    /* Each of them is held when calls that come later are answered. */
    for (int i = 0; i < 200; i++) {
        local_of(fd);
        usleep(2000);
    }
    bool grown = resident(supervisor()) - before > 100l << 20;
    note(grown ? "THE SUPERVISOR GREW" : "the supervisor stays small");
    if (grown && getenv("T_UNDER")) through();
    try_all();
}

/* A connect() that is not to wait in the supervisor: its time limit is taken away from it, again and again. */
static volatile int contested;

static void *no_limit(void *unused) {
    struct timeval none = {0};
    while (going) setsockopt(contested, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    return unused;
}

static void *connects(void *to) {
    struct address *full = to;
    connect(contested, &full->any, full->len);
    return NULL;
}

static void stall(void) {
    struct address full = loopback_v4(0);
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), other = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(bind(listener, &full.any, full.len));
    MUST(listen(listener, 0));
    full = local_of(listener);
    for (int i = 0; i < 3; i++) connect((int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)), &full.any, full.len);
    contested = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    pthread_t spins, waiting;
    CHECK(pthread_create(&spins, NULL, no_limit, NULL) == 0);
    time_t worst = 0;
    for (int i = 0; i < 20 && worst < 6; i++) {
        CHECK(pthread_create(&waiting, NULL, connects, &full) == 0);
        pthread_detach(waiting);
        usleep(4000);
        time_t before = time(NULL);
        local_of(other);
        if (time(NULL) - before > worst) worst = time(NULL) - before;
        contested = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    }
    going = false;
    pthread_join(spins, NULL);
    if (worst >= 6) {
        note("ALL CALLS WAITED");
        through();
    }
    note("calls are answered");
    try_all();
}

ATTACKS({"vectors", vectors}, {"stall", stall}, {"notifications", notifications}, {"held", held}, {"descriptors", descriptors}, {"crowd", crowd},
        {"sockets", sockets}, {"lengths", lengths})
