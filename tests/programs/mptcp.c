/* A program that asks for MPTCP and falls back to TCP, as RFC 8684's users do.
 *   mptcp server PORT [CONNECTIONS]    mptcp client HOST PORT */
#include "t.h"

static int stream(int family) {
    int fd = socket(family, SOCK_STREAM, IPPROTO_MPTCP);
    if (fd >= 0) {
        say("socket(IPPROTO_MPTCP): made");
        return fd;
    }
    say("socket(IPPROTO_MPTCP): %s, so TCP", errname(errno));
    CHECK(errno == EPROTONOSUPPORT || errno == ENOPROTOOPT || errno == EINVAL);
    return (int)MUST(socket(family, SOCK_STREAM, IPPROTO_TCP));
}

int main(int argc, char **argv) {
    if (argc >= 3 && !strcmp(argv[1], "server")) {
        struct address at = any_v4(port_arg(argv[2]));
        int one = 1, fd = stream(AF_INET), left = argc > 3 ? atoi(argv[3]) : -1;
        MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
        MUST(bind(fd, &at.any, at.len));
        MUST(listen(fd, 8));
        struct address local = local_of(fd);
        say("listening on %s", text_of(&local));
        for (; left != 0; left--) {
            char in[256];
            int c = (int)MUST(accept(fd, NULL, NULL));
            size_t n = read_all(c, in, sizeof in);
            write_all(c, in, n);
            MUST(close(c));
        }
    } else if (argc == 4 && !strcmp(argv[1], "client")) {
        struct address to = resolve(argv[2], argv[3], SOCK_STREAM);
        int fd = stream(to.any.sa_family);
        char in[64];
        MUST(connect(fd, &to.any, to.len));
        write_all(fd, "many paths or one", 17);
        MUST(shutdown(fd, SHUT_WR));
        CHECK(read_all(fd, in, sizeof in) == 17 && !memcmp(in, "many paths or one", 17));
        say("mptcp: echoed");
    } else {
        fprintf(stderr, "usage: mptcp server PORT [CONNECTIONS] | client HOST PORT\n");
        return 2;
    }
    return 0;
}
