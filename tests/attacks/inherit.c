/* Descriptors that were open before sipbox started: sockets of all kinds, left open by a careless parent. */
#include "attack.h"
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/ethernet.h>

enum { FIRST = 20 };

static void leave_open(int fd, int *next) {
    if (fd < 0) return;
    MUST(dup2(fd, *next));
    close(fd);
    ++*next;
}

/* As systemd does with LISTEN_FDS: a listener, and a datagram socket. */
static void hand_in(void) {
    for (int i = 0; i < 2; i++) {
        struct address here = loopback_v4(0);
        int fd = (int)MUST(socket(AF_INET, i ? SOCK_DGRAM : SOCK_STREAM, 0));
        MUST(bind(fd, &here.any, here.len));
        if (!i) MUST(listen(fd, 8));
        here = local_of(fd);
        char port[16];
        snprintf(port, sizeof port, "%d", port_of(&here));
        setenv(i ? "T_HANDED_UDP" : "T_HANDED_TCP", port, 1);
        int next = FIRST + 20 + i;
        leave_open(fd, &next);
        MUST(dup2(FIRST + 20 + i, 3 + i));
        close(FIRST + 20 + i);
    }
    char self[16];
    snprintf(self, sizeof self, "%d", getpid());
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_PID", self, 1);
}

/* Run outside: opens what it can, and goes on as the rest of the command line. */
static int hold(char **argv) {
    int next = FIRST;
    EACH_TARGET(t) {
        int stream = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), datagram = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
        MUST(connect(stream, &t.any, t.len));
        MUST(connect(datagram, &t.any, t.len));
        leave_open(stream, &next);
        leave_open(datagram, &next);
    }
    leave_open(socket(AF_INET, SOCK_DGRAM, 0), &next);
    leave_open(socket(AF_INET, SOCK_STREAM, 0), &next);
    leave_open(socket(AF_INET, SOCK_RAW, IPPROTO_UDP), &next);
    leave_open(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP)), &next);
    leave_open(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), &next);
    char **last = argv;
    while (last[1]) last++;
    if (!strcmp(*last, "handed-in")) hand_in();
    execvp(argv[0], argv);
    fail("exec %s", argv[0]);
}

static void use(void) {
    int left = 0;
    signal(SIGPIPE, SIG_IGN);
    for (int fd = 3; fd < 256; fd++) {
        struct stat s;
        if (fstat(fd, &s) || !S_ISSOCK(s.st_mode)) continue;
        left++;
        write(fd, token(), token_length());
        EACH_TARGET(t) {
            sendto(fd, token(), token_length(), MSG_NOSIGNAL, &t.any, t.len);
            if (connect(fd, &t.any, t.len) == 0) send(fd, token(), token_length(), MSG_NOSIGNAL);
        }
    }
    note(left ? "%d sockets were left open" : "no socket was left open", left);
}

static bool readable(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 500) == 1;
}

/* The sockets of LISTEN_FDS: who calls their ports, and where they lead when they are used for something else. */
static void handed(void) {
    struct address from = {.len = sizeof from.room};
    char in[64];
    signal(SIGPIPE, SIG_IGN);
    note("a call of the listener's port: %s", ask_outside("call-tcp", atoi(env("T_HANDED_TCP"))));
    if (readable(3)) {
        int fd = (int)TRY("accept", accept(3, NULL, NULL));
        if (fd >= 0) write(fd, token(), token_length());
    }
    ask_outside("call-udp", atoi(env("T_HANDED_UDP")));
    if (readable(4) && recvfrom(4, in, sizeof in, 0, &from.any, &from.len) > 0) {
        note("a datagram came");
        sendto(4, token(), token_length(), 0, &from.any, from.len);
    }
    EACH_TARGET(t) {
        TRY("sendto", sendto(4, token(), token_length(), 0, &t.any, t.len));
        if (TRY("connect", connect(4, &t.any, t.len)) == 0) send(4, token(), token_length(), 0);
        clear_error(4);
        shutdown(3, SHUT_RDWR);
        if (TRY("connect of the listener", connect(3, &t.any, t.len)) == 0) write(3, token(), token_length());
    }
}

int main(int argc, char **argv) {
    static const struct attack all[] = {{"inherited", use}, {"handed-in", handed}};
    if (argc > 2 && !strcmp(argv[1], "hold")) return hold(argv + 2);
    return attack_main(argc, argv, all, sizeof all / sizeof *all);
}
