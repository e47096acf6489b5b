/* bench-least HERE THERE PORT PROGRAM [ARGUMENT..]: PROGRAM under the least supervisor with which its TCP connections can go to a program of another
 * host: connect() and accept() are trapped, and do what no right answer can do without (as in bench-floor); the bytes go by UDP between
 * HERE and THERE, in the clear. Nothing is encrypted, acknowledged, repeated, held back or decided, and one thread does it all: what a
 * tunnel with trapped calls costs beside its protocol. Every connect() goes to PORT on the other host's loopback, whatever it says. */
#include "../programs/t.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

/* The UDP port of both hosts; connections at once; the most that a packet carries. */
enum { UDP_PORT = 7999, MOST = 64, ROOM = 1400 };
enum kind { OPEN, MORE, END };
struct packet {
    unsigned char kind, connection, data[ROOM];
};
/* A socket to the program, and which directions have ended. */
static struct {
    int fd;
    bool said, opened, ended, heard_end;
} all[MOST];

static int notify, gate, udp, ep;
static struct address there_is, gate_is;
static struct seccomp_notif request;

static int install(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_connect, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_accept4, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (fd < 0) fd = (int)MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
    return fd;
}

static void watch(int fd, uint64_t as) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = as};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
}

static void tell(enum kind kind, int connection, const struct packet *with, size_t length) {
    struct packet packet = {.kind = (unsigned char)kind, .connection = (unsigned char)connection};
    if (length) memcpy(packet.data, with->data, length);
    MUST(send(udp, &packet, 2 + length, 0));
}

/* The socket. Whoever calls is looked up once, as long as nobody else does. */
static int fetched(void) {
    static int pidfd = -1;
    static uint32_t caller;
    if (caller != request.pid) {
        if (pidfd >= 0) close(pidfd);
        pidfd = (int)MUST(syscall(SYS_pidfd_open, request.pid, 0));
        caller = request.pid;
    }
    int fd = (int)MUST(syscall(SYS_pidfd_getfd, pidfd, (int)request.data.args[0], 0));
    uint64_t cookie;
    socklen_t length = sizeof cookie;
    MUST(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length));
    return fd;
}

static void answer(int error) {
    struct seccomp_notif_resp response = {.id = request.id, .error = error};
    if (ioctl(notify, SECCOMP_IOCTL_NOTIF_SEND, &response) < 0) CHECK(errno == ENOENT);
}

static void on_connect(void) {
    struct address name = {.len = (socklen_t)request.data.args[2]};
    struct iovec here = {&name.room, name.len}, there = {(void *)request.data.args[1], name.len};
    MUST(process_vm_readv((pid_t)request.pid, &here, 1, &there, 1, 0));
    int fd = fetched();
    MUST(connect(fd, &gate_is.any, gate_is.len));
    close(fd);
    answer(0);
}

static void on_accept(void) {
    struct address name = {.len = sizeof name.room};
    int fd = fetched();
    int new = accept4(fd, &name.any, &name.len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    close(fd);
    if (new < 0) {
        CHECK(errno == EAGAIN);
        return answer(-EAGAIN);
    }
    socklen_t given;
    struct iovec length = {&given, sizeof given}, at_length = {(void *)request.data.args[2], sizeof given};
    MUST(process_vm_readv((pid_t)request.pid, &length, 1, &at_length, 1, 0));
    struct iovec here[] = {{&name.any, name.len}, {&name.len, sizeof name.len}};
    struct iovec there[] = {{(void *)request.data.args[1], name.len}, at_length};
    CHECK(given >= name.len);
    MUST(process_vm_writev((pid_t)request.pid, here, 2, there, 2, 0));
    struct seccomp_notif_addfd add = {.id = request.id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (unsigned)new, .newfd_flags = O_CLOEXEC};
    MUST(ioctl(notify, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
    close(new);
}

/* false: the program has ended. */
static bool on_call(void) {
    memset(&request, 0, sizeof request);
    if (ioctl(notify, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) return errno == EINTR;
    if (request.data.nr == __NR_connect) on_connect();
    else on_accept();
    return true;
}

static void give_up(int n) {
    close(all[n].fd);
    all[n].fd = 0;
}

static void began(int n, int fd, bool said) {
    int one = 1;
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    if (all[n].fd) give_up(n);
    all[n] = (typeof(all[n])){.fd = fd, .said = said};
    watch(fd, (uint64_t)n);
}

static void on_bytes(int n) {
    struct packet packet;
    ssize_t length = recv(all[n].fd, packet.data, ROOM, MSG_DONTWAIT);
    if (length < 0) return;
    if (length == 0) {
        tell(END, n, NULL, 0);
        MUST(epoll_ctl(ep, EPOLL_CTL_DEL, all[n].fd, NULL));
        all[n].ended = true;
        if (all[n].heard_end) give_up(n);
        return;
    }
    tell(all[n].said ? MORE : OPEN, n, &packet, (size_t)length);
    all[n].said = true;
}

static void on_packet(struct address *listener) {
    struct packet packet;
    ssize_t length = recv(udp, &packet, sizeof packet, MSG_DONTWAIT);
    if (length < 2) return;
    int n = packet.connection % MOST;
    if (packet.kind == OPEN) {
        int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        MUST(connect(fd, &listener->any, listener->len));
        began(n, fd, true);
    }
    if (packet.kind == END) {
        shutdown(all[n].fd, SHUT_WR);
        all[n].heard_end = true;
        if (all[n].ended) give_up(n);
    } else {
        write_all(all[n].fd, packet.data, (size_t)length - 2);
    }
}

static int udp_between(const char *here, const char *there) {
    struct address own = resolve(here, "7999", SOCK_DGRAM);
    there_is = resolve(there, "7999", SOCK_DGRAM);
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    MUST(bind(fd, &own.any, own.len));
    MUST(connect(fd, &there_is.any, there_is.len));
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: bench-least HERE THERE PORT PROGRAM [ARGUMENT..]\n");
        return 2;
    }
    struct address listener = loopback_v4(port_arg(argv[3]));
    int ends[2], last = 0;
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    udp = udp_between(argv[1], argv[2]);
    gate = listen_on(loopback_v4(0), 128);
    gate_is = local_of(gate);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        close(gate);
        close(udp);
        int made = install();
        send_fd(ends[1], made);
        close(made);
        execvp(argv[4], argv + 4);
        fail("%s", argv[4]);
    }
    notify = receive_fd(ends[0]);
    ioctl(notify, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
    ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    /* After the numbers of the connections. */
    enum { CALL = MOST, GATE, UDP };
    watch(notify, CALL);
    watch(gate, GATE);
    watch(udp, UDP);
    for (;;) {
        struct epoll_event events[16];
        int count = epoll_wait(ep, events, 16, -1);
        if (count < 0 && errno == EINTR) continue;
        MUST(count);
        for (int i = 0; i < count; i++) {
            uint64_t which = events[i].data.u64;
            if (which == CALL) {
                if (!on_call()) {
                    expect_success(child);
                    return 0;
                }
            } else if (which == GATE) {
                began(last, (int)MUST(accept4(gate, NULL, NULL, SOCK_CLOEXEC)), false);
                on_bytes(last);
                last = (last + 1) % MOST;
            } else if (which == UDP) {
                on_packet(&listener);
            } else if (all[which].fd) {
                on_bytes((int)which);
            }
        }
    }
}
