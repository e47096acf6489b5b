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

int main(int argc, char **argv) {
    static const struct attack all[] = {{"inherited", use}};
    if (argc > 2 && !strcmp(argv[1], "hold")) return hold(argv + 2);
    return attack_main(argc, argv, all, sizeof all / sizeof *all);
}
