/* orphan TCP-PORT UDP-PORT: a program whose supervisor is killed. Makes sockets, prints "ready", waits for a line on standard
 * input (the supervisor is gone by then), tries to reach 127.0.0.1 in every way, and prints what each call answered.
 * Exit status 0 if none of them reached anything. */
#include "t.h"
#include <sys/syscall.h>

static int leaks;

static void tried(const char *what, long result, int error, bool may_work) {
    say("%s = %s", what, result < 0 ? errname(error) : "done");
    if (result >= 0 && !may_work) leaks++;
}
#define TRY(call)                                                                                                    \
    ({                                                                                                               \
        errno = 0;                                                                                                   \
        long r_ = (long)(call);                                                                                      \
        tried(#call, r_, errno, false);                                                                              \
        r_;                                                                                                          \
    })

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: orphan TCP-PORT UDP-PORT\n");
        return 2;
    }
    alarm(60);
    struct address tcp = loopback_v4(port_arg(argv[1])), udp = loopback_v4(port_arg(argv[2])), own = loopback_v4(0);
    int stream = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), datagram = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    int listener = listen_on(loopback_v4(0), 4);
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK));
    say("ready in process %d", (int)getpid());
    char line[16];
    MUST(read(0, line, sizeof line));
    TRY(connect(stream, &tcp.any, tcp.len));
    TRY(connect(datagram, &udp.any, udp.len));
    TRY(sendto(datagram, "leak", 4, 0, &udp.any, udp.len));
    struct iovec iov = {"leak", 4};
    struct msghdr m = {.msg_name = &udp.any, .msg_namelen = udp.len, .msg_iov = &iov, .msg_iovlen = 1};
    TRY(sendmsg(datagram, &m, 0));
    struct mmsghdr batch = {.msg_hdr = m};
    TRY(sendmmsg(datagram, &batch, 1, 0));
    TRY(sendto(stream, "leak", 4, MSG_FASTOPEN | MSG_NOSIGNAL, &tcp.any, tcp.len));
    TRY(bind(stream, &own.any, own.len));
    TRY(getsockname(stream, &own.any, &own.len));
    TRY(accept(listener, NULL, NULL));
    /* A fresh socket may be had (the filter alone decides that) but leads nowhere. */
    errno = 0;
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    tried("socket(AF_INET, SOCK_STREAM, 0)", fresh, errno, true);
    if (fresh >= 0) TRY(connect(fresh, &tcp.any, tcp.len));
    return leaks != 0;
}
