/* Sockets that wander: fork, dup, dup2, exec, SCM_RIGHTS. An fd number means nothing; the socket does.
 *   fdgames server PORT [CONNECTIONS]   the listener is passed to a child, each connection to a grandchild; answers "TEXT" by "<TEXT>"
 *   fdgames client HOST PORT            every game with TCP
 *   fdgames udp-client HOST PORT        a UDP socket passed to a child (against udp-server) */
#include "t.h"

static void pair(int ends[2]) { MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)); }

/* The process that answers: it was handed the connection and nothing else. */
static void answer(int over) {
    int fd = receive_fd(over);
    MUST(close(over));
    struct address peer = peer_of(fd);
    char text[4096];
    size_t n = read_all(fd, text, sizeof text);
    write_all(fd, "<", 1);
    write_all(fd, text, n);
    write_all(fd, ">", 1);
    say("process %d answered %s: %zu bytes", (int)getpid(), text_of(&peer), n);
    exit(0);
}

/* The process that accepts: it was handed the listener. */
static void accept_all(int over, int count) {
    int received = receive_fd(over);
    MUST(close(over));
    int listener = (int)MUST(dup2(received, 77));
    MUST(close(received));
    struct address local = local_of(listener);
    CHECK(port_of(&local) != 0);
    say("process %d accepts on %s", (int)getpid(), text_of(&local));
    for (; count != 0; count--) {
        int ends[2];
        pair(ends);
        pid_t child = (pid_t)MUST(fork()); /* before accept(): the child can only get the connection by SCM_RIGHTS */
        if (child == 0) {
            MUST(close(ends[0]));
            MUST(close(listener));
            answer(ends[1]);
        }
        MUST(close(ends[1]));
        struct address peer = {.len = sizeof peer.room};
        int fd = (int)MUST(accept(listener, &peer.any, &peer.len));
        int moved = (int)MUST(dup2(fd, 100));
        MUST(close(fd));
        struct address again = peer_of(moved);
        CHECK(same_address(&peer, &again));
        send_fd(ends[0], moved);
        MUST(close(moved));
        MUST(close(ends[0]));
        expect_success(child);
    }
    exit(0);
}

static void server(int port, int count) {
    int ends[2];
    pair(ends);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(close(ends[0]));
        accept_all(ends[1], count);
    }
    MUST(close(ends[1]));
    int listener = listen_on(any_v4(port), 16);
    struct address local = local_of(listener);
    send_fd(ends[0], listener);
    MUST(close(listener)); /* the only one who holds it now is the child */
    MUST(close(ends[0]));
    say("listening on %s", text_of(&local));
    expect_success(child);
}

static void expect_reply(int fd, const char *text) {
    char wanted[4096], in[4096];
    size_t len = (size_t)snprintf(wanted, sizeof wanted, "<%s>", text);
    CHECK(read_all(fd, in, sizeof in) == len);
    CHECK(memcmp(in, wanted, len) == 0);
}

/* One socket under two numbers: connected by one, asked about and used by the other. */
static void game_dup(struct address to) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    int other = (int)MUST(dup(fd)), third = (int)MUST(fcntl(fd, F_DUPFD_CLOEXEC, 200));
    CHECK(third >= 200);
    MUST(connect(other, &to.any, to.len));
    MUST(close(other));
    struct address a = local_of(fd), b = local_of(third), peer = peer_of(third);
    CHECK(same_address(&a, &b) && same_address(&peer, &to));
    MUST(close(fd));
    write_all(third, "dup", 3);
    MUST(shutdown(third, SHUT_WR));
    expect_reply(third, "dup");
    MUST(close(third));
    say("dup: connected under one number, used under another");
}

/* Parent and child write to one connection; the child's close does not end it. */
static void game_fork(struct address to) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, &to.any, to.len));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        write_all(fd, "child ", 6);
        MUST(close(fd));
        exit(0);
    }
    expect_success(child);
    write_all(fd, "parent", 6);
    MUST(shutdown(fd, SHUT_WR));
    expect_reply(fd, "child parent");
    MUST(close(fd));
    say("fork: both wrote to one connection");
}

/* The parent makes the socket and connects it, closes it, and a child that never inherited it goes on. */
static void game_pass_connected(struct address to) {
    int ends[2];
    pair(ends);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        int fd = receive_fd(ends[1]);
        struct address peer = peer_of(fd);
        CHECK(same_address(&peer, &to));
        write_all(fd, "passed on", 9);
        MUST(shutdown(fd, SHUT_WR));
        expect_reply(fd, "passed on");
        exit(0);
    }
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, &to.any, to.len));
    send_fd(ends[0], fd);
    MUST(close(fd));
    expect_success(child);
    MUST(close(ends[0]));
    MUST(close(ends[1]));
    say("SCM_RIGHTS: a connected socket passed on and used");
}

/* The parent makes the socket, the child connects it, and the parent uses it. */
static void game_pass_fresh(struct address to) {
    int ends[2];
    pair(ends);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        int fd = receive_fd(ends[1]);
        MUST(connect(fd, &to.any, to.len));
        MUST(close(fd));
        exit(0);
    }
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    send_fd(ends[0], fd);
    expect_success(child);
    struct address peer = peer_of(fd);
    CHECK(same_address(&peer, &to));
    MUST_FAIL(connect(fd, &to.any, to.len), EISCONN);
    write_all(fd, "connected by the child", 22);
    MUST(shutdown(fd, SHUT_WR));
    expect_reply(fd, "connected by the child");
    MUST(close(fd));
    MUST(close(ends[0]));
    MUST(close(ends[1]));
    say("SCM_RIGHTS: a fresh socket connected by another process");
}

/* The socket stays open across exec, in a program that only knows its number. */
static void game_exec(struct address to, const char *self) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, &to.any, to.len));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", fd);
        execl(self, self, "inherited", number, text_of(&to), (char *)NULL);
        fail("exec %s", self);
    }
    MUST(close(fd));
    expect_success(child);
    say("exec: the connection went on in another program");
}

static void inherited(int fd, const char *to) {
    struct address peer = peer_of(fd);
    CHECK(strcmp(text_of(&peer), to) == 0);
    write_all(fd, "after exec", 10);
    MUST(shutdown(fd, SHUT_WR));
    expect_reply(fd, "after exec");
    exit(0);
}

static void udp_client(struct address to) {
    int ends[2];
    pair(ends);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        int fd = receive_fd(ends[1]);
        struct address from = {.len = sizeof from.room};
        char in[64];
        give_up_after(fd, 10);
        MUST(sendto(fd, "bye", 3, 0, &to.any, to.len));
        for (int i = 0; i < 2; i++) {
            long n = MUST(recvfrom(fd, in, sizeof in, 0, &from.any, &from.len));
            CHECK(n > 3 && same_address(&from, &to));
        }
        exit(0);
    }
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(sendto(fd, "parent", 6, 0, &to.any, to.len));
    send_fd(ends[0], fd);
    MUST(close(fd));
    expect_success(child);
    say("SCM_RIGHTS: a UDP socket passed on; both replies reached the child");
}

int main(int argc, char **argv) {
    if (argc >= 3 && !strcmp(argv[1], "server")) {
        server(port_arg(argv[2]), argc > 3 ? atoi(argv[3]) : -1);
    } else if (argc == 4 && !strcmp(argv[1], "client")) {
        struct address to = resolve(argv[2], argv[3], SOCK_STREAM);
        game_dup(to);
        game_fork(to);
        game_pass_connected(to);
        game_pass_fresh(to);
        game_exec(to, argv[0]);
        say("fdgames: all five as on Linux");
    } else if (argc == 4 && !strcmp(argv[1], "udp-client")) {
        udp_client(resolve(argv[2], argv[3], SOCK_DGRAM));
    } else if (argc == 4 && !strcmp(argv[1], "inherited")) {
        inherited(atoi(argv[2]), argv[3]);
    } else {
        fprintf(stderr, "usage: fdgames server PORT [CONNECTIONS] | client HOST PORT | udp-client HOST PORT\n");
        return 2;
    }
    return 0;
}
