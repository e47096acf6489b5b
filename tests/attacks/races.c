/* Memory and descriptors that change while the supervisor looks. Each try is one trapped call; the attacker swaps beside it. */
#include "attack.h"
#include <pthread.h>

enum { CALLERS = 2 };

static volatile bool going;
static struct address own, far;
/* What is swapped: an address, a message with its parts, a descriptor number. */
static volatile struct address shared;
static struct msghdr *volatile shared_header;
static struct iovec shared_slices[2];
static struct mmsghdr shared_many[4];
static _Alignas(16) char shared_control[2][CMSG_SPACE(64)];
static int numbers[4], swapped;
static long tries_wanted, tries_each;
static _Atomic long tries, done;

static long wanted(void) { return atol(env("T_TRIES")); }

/* The program's own socket: calls to it are allowed, so the supervisor has something to say yes to. */
static void prepare(int type) {
    struct address a = loopback_v4(0);
    int fd = (int)MUST(socket(AF_INET, type, 0));
    MUST(bind(fd, &a.any, a.len));
    own = local_of(fd);
    if (type == SOCK_STREAM) MUST(listen(fd, 64));
    far = target("T_LO");
    going = true;
    tries_wanted = wanted();
    tries_each = tries_wanted / CALLERS;
    tries = done = 0;
}

static void *swap_address(void *unused) {
    for (unsigned i = 0; going; i++) *(struct address *)&shared = i & 1 ? far : own;
    return unused;
}

static void *swap_port(void *unused) {
    for (unsigned i = 0; going; i++) shared.v4.sin_port = i & 1 ? far.v4.sin_port : own.v4.sin_port;
    return unused;
}

static void *swap_header(void *unused) {
    for (unsigned i = 0; going; i++) {
        struct msghdr *m = (struct msghdr *)shared_header;
        m->msg_name = i & 1 ? &far : &own;
        m->msg_namelen = i & 2 ? far.len : 0;
        m->msg_iovlen = i & 4 ? 1 : 2;
        m->msg_controllen = i & 8 ? 0 : sizeof shared_control[0];
        m->msg_control = shared_control[i >> 4 & 1];
    }
    return unused;
}

static void *swap_slices(void *unused) {
    for (unsigned i = 0; going; i++) {
        shared_slices[0].iov_len = i & 1 ? token_length() : SIZE_MAX / 2;
        shared_slices[1].iov_base = i & 2 ? (void *)token() : (void *)8;
        shared_slices[1].iov_len = i & 4 ? 0 : 1u << 30;
    }
    return unused;
}

static void *swap_number(void *unused) {
    for (unsigned i = 0; going; i++) dup2(numbers[i % 4], swapped);
    return unused;
}

/* Natively a call is so short that the swapping thread may not come to run at all meanwhile. */
static bool more(long i) {
    if (!getenv("T_UNDER")) usleep(100);
    return i < tries_each || (done == 0 && i < tries_each * 20);
}

static void count(bool went) {
    tries++;
    if (went) done++;
}

static void *call_connect(void *unused) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    for (long i = 0; more(i); i++) {
        bool went = connect(fd, (struct sockaddr *)&shared, own.len) == 0;
        if (went) send(fd, token(), token_length(), MSG_DONTWAIT);
        count(went);
    }
    return unused;
}

static void *call_sendto(void *unused) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    for (long i = 0; more(i); i++)
        count(sendto(fd, token(), token_length(), MSG_DONTWAIT, (struct sockaddr *)&shared, own.len) > 0);
    return unused;
}

static void *call_sendmsg(void *unused) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    for (long i = 0; more(i); i++) {
        bool many = i & 1;
        count(many ? sendmmsg(fd, shared_many, 4, MSG_DONTWAIT) > 0
                   : sendmsg(fd, (struct msghdr *)shared_header, MSG_DONTWAIT) > 0);
    }
    return unused;
}

/* The number means an own UDP socket, a TCP socket, an AF_UNIX pair or a file: what is decided about one must not be done to
 * another. */
static void *call_number(void *unused) {
    for (long i = 0; more(i); i++) {
        const struct address *to = i & 1 ? &far : &own;
        bool went = i & 2 ? connect(swapped, &to->any, to->len) == 0
                          : sendto(swapped, token(), token_length(), MSG_DONTWAIT | MSG_NOSIGNAL, &to->any, to->len) > 0;
        if (went && i & 2) send(swapped, token(), token_length(), MSG_DONTWAIT | MSG_NOSIGNAL);
        count(went);
    }
    return unused;
}

static void race(void *(*call)(void *), void *(*swap)(void *)) {
    pthread_t callers[CALLERS], swapper;
    CHECK(pthread_create(&swapper, NULL, swap, NULL) == 0);
    for (int i = 0; i < CALLERS; i++) CHECK(pthread_create(&callers[i], NULL, call, NULL) == 0);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    going = false;
    pthread_join(swapper, NULL);
    fprintf(stderr, "tries %ld, of which went through %ld\n", tries, done);
    /* Both kinds must have been met, or it was no race. */
    note(tries < tries_wanted / CALLERS * CALLERS ? "too few tries" : "all tries made");
    note(done > 0 ? "own socket reached" : "own socket never reached");
}

static void address_connect(void) {
    prepare(SOCK_DGRAM);
    *(struct address *)&shared = own;
    race(call_connect, swap_address);
}

static void address_sendto(void) {
    prepare(SOCK_DGRAM);
    *(struct address *)&shared = own;
    race(call_sendto, swap_port);
}

/* Where all messages of one sendmmsg() but the first go. */
static struct address *others = &own;

static void message(void *(*swap)(void *)) {
    prepare(SOCK_DGRAM);
    shared_slices[0] = shared_slices[1] = (struct iovec){(void *)token(), token_length()};
    for (int i = 0; i < 2; i++) {
        struct cmsghdr *c = (struct cmsghdr *)shared_control[i];
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
    }
    for (int i = 0; i < 4; i++)
        shared_many[i].msg_hdr = (struct msghdr){.msg_name = i ? others : &own, .msg_namelen = own.len, .msg_iov = shared_slices, .msg_iovlen = 1};
    shared_header = &shared_many[0].msg_hdr;
    race(call_sendmsg, swap);
}

static void header(void) { message(swap_header); }
static void slices(void) {
    others = &far;
    message(swap_slices);
}

static void number(void) {
    prepare(SOCK_DGRAM);
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    numbers[0] = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    numbers[1] = (int)MUST(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    numbers[2] = pair[0];
    numbers[3] = (int)MUST(open("/dev/null", O_RDWR));
    swapped = 100;
    MUST(dup2(numbers[0], swapped));
    race(call_number, swap_number);
}

ATTACKS({"address-connect", address_connect}, {"address-sendto", address_sendto}, {"header", header}, {"slices", slices},
        {"number", number})
