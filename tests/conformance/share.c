/* Sockets that several descriptors, processes and threads of control have: dup(2), fork(2), SCM_RIGHTS, exec. */
#include "c.h"
#define GROUP "share"

CASE(duplicates, INET) {
    int two[2];
    make_pair(two);
    int other = (int)MUST(dup(two[1])), third = (int)MUST(fcntl(two[1], F_DUPFD_CLOEXEC, 40));
    R(close(two[1]));
    show_names(other), show_names(third);
    MUST(send(two[0], "x", 1, 0));
    await(third, POLLIN);
    char in[8];
    struct address from = {.len = sizeof from.room};
    R(recvfrom(other, in, 8, 0, &from, &from.len));
    R(fcntl(third, F_GETFD));
    R(close(other));
    R(close(third));
    if (kind->type == SOCK_STREAM) show_poll(two[0], 0x2000);
}

CASE(replaced_descriptor, TCP) {
    int two[2], l = listener();
    make_pair(two);
    R(dup2(l, two[0]) == two[0]);
    show_poll(two[1], 0x2000);
    struct address at = local_of(two[0]);
    R(connect(fresh(), &at, at.len));
    R(accept(two[0], NULL, NULL));
}

CASE(listener_of_a_parent, TCP) {
    int l = listener();
    struct address at = local_of(l);
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (!child) {
            struct address from = {.len = sizeof from.room};
            int s = (int)MUST(accept(l, &from, &from.len));
            MUST(send(s, "child", 5, 0));
            exit(0);
        }
    }
    char in[8];
    for (int i = 0; i < 3; i++) {
        int c = fresh_blocking();
        MUST(connect(c, &at, at.len));
        show_data("data", in, R(read_all(c, in, 5)));
        R(recv(c, in, 8, 0));
    }
    while (wait(NULL) > 0) {}
}

CASE(server_in_a_child, TCP | UDP) {
    int ready[2];
    MUST(pipe(ready));
    pid_t child = fork();
    if (!child) {
        int l = kind->type == SOCK_STREAM ? listener() : bound();
        struct address at = local_of(l), from = {.len = sizeof from.room};
        MUST(write(ready[1], &at, sizeof at));
        int s = kind->type == SOCK_STREAM ? (int)MUST(accept(l, NULL, NULL)) : l;
        char in[8];
        long n = MUST(recvfrom(s, in, 8, 0, &from, &from.len));
        if (kind->type == SOCK_STREAM) MUST(send(s, in, n, 0));
        else MUST(sendto(s, in, n, 0, &from, from.len));
        exit(0);
    }
    struct address at;
    CHECK(read_all(ready[0], &at, sizeof at) == sizeof at);
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    R(send(c, "ping", 4, 0));
    char in[8];
    show_data("data", in, R(recv(c, in, 8, 0)));
    show_names(c);
    expect_success(child);
}

CASE(passed, INET) {
    int two[2], over[2];
    make_pair(two);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, over));
    pid_t child = fork();
    if (!child) {
        close(two[0]), close(two[1]), close(over[0]);
        int got = receive_fd(over[1]);
        show_names(got);
        MUST(send(got, "passed", 6, 0));
        exit(0);
    }
    send_fd(over[0], two[1]);
    close(two[1]);
    expect_success(child);
    char in[8];
    await(two[0], POLLIN);
    show_data("data", in, R(recv(two[0], in, 8, 0)));
    if (kind->type == SOCK_STREAM) R(recv(two[0], in, 8, 0));
}

CASE(listener_passed, TCP) {
    int over[2], l = listener();
    struct address at = local_of(l);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, over));
    pid_t child = fork();
    if (!child) {
        close(l);
        int got = receive_fd(over[1]);
        int s = (int)MUST(accept(got, NULL, NULL));
        MUST(send(s, "hi", 2, 0));
        exit(0);
    }
    send_fd(over[0], l);
    close(l);
    int c = fresh_blocking();
    R(connect(c, &at, at.len));
    char in[8];
    show_data("data", in, R(recv(c, in, 8, 0)));
    expect_success(child);
    R(connect(fresh(), &at, at.len));
}

CASE(connected_by_a_child, TCP) {
    int l = listener(), c = fresh();
    struct address at = local_of(l);
    pid_t child = fork();
    if (!child) {
        MUST(connect(c, &at, at.len));
        exit(0);
    }
    expect_success(child);
    show_names(c);
    R(connect(c, &at, at.len));
    R(send(c, "x", 1, 0));
    int s = take(l);
    char in[8];
    R(recv(s, in, 8, 0));
}

CASE(child_dies, TCP) {
    int l = listener();
    struct address at = local_of(l);
    pid_t child = fork();
    if (!child) {
        int c = fresh_blocking();
        MUST(connect(c, &at, at.len));
        close(l);
        pause();
    }
    int s = take(l);
    MUST(kill(child, SIGKILL));
    MUST(waitpid(child, NULL, 0));
    show_poll(s, 0x2000);
    char in[8];
    R(recv(s, in, 8, 0));
}

CASE(closed_on_exec, TCP) {
    int two[2];
    make_pair(two);
    MUST(fcntl(two[1], F_SETFD, FD_CLOEXEC));
    pid_t child = fork();
    if (!child) {
        close(two[0]);
        execl("/bin/true", "true", NULL);
        exit(1);
    }
    expect_success(child);
    close(two[1]);
    show_poll(two[0], 0x2000);
}

CASE(many_connections, TCP) {
    int l = bound(), good = 0;
    MUST(listen(l, 200));
    struct address at = local_of(l);
    int c[100];
    for (int i = 0; i < 100; i++) {
        c[i] = fresh_blocking();
        MUST(connect(c[i], &at, at.len));
        MUST(send(c[i], &i, sizeof i, 0));
    }
    for (int i = 0; i < 100; i++) {
        struct address from = {.len = sizeof from.room};
        int s = (int)MUST(accept(l, &from, &from.len)), n = -1;
        MUST(recv(s, &n, sizeof n, 0));
        struct address theirs = local_of(c[n]), peer = peer_of(s), mine = local_of(s), seen = peer_of(c[n]);
        good += same_address(&theirs, &from) && same_address(&peer, &from) && same_address(&mine, &seen);
    }
    say("%d of 100 have the names of each other", good);
}

CASE(many_datagram_sockets, UDP) {
    int a = bound(), good = 0, s[50];
    struct address at = local_of(a);
    for (int i = 0; i < 50; i++) {
        s[i] = bound();
        MUST(sendto(s[i], &i, sizeof i, 0, &at, at.len));
    }
    for (int i = 0; i < 50; i++) {
        struct address from = {.len = sizeof from.room};
        int n = -1;
        MUST(recvfrom(a, &n, sizeof n, 0, &from, &from.len));
        struct address theirs = local_of(s[n]);
        good += same_address(&theirs, &from);
    }
    say("%d of 50 have the right source", good);
}

/* Clients that stay, connected and not, while their server is started again. */
static void restarted(struct address at, struct address to, int option) {
    int client = fresh(), other = fresh(), server = -1;
    char in[16];
    struct address from;
    for (int round = 0; round < 3; round++) {
        server = fresh();
        if (option) MUST(set_int(server, SOL_SOCKET, option, 1));
        R(bind(server, &at, at.len));
        if (!round) R(connect(client, &to, to.len));
        R(send(client, "hello", 5, 0));
        from.len = sizeof from.room;
        await(server, POLLIN);
        show_data("data", in, R(recvfrom(server, in, sizeof in, 0, &from, &from.len)));
        show_address("from", &from);
        R(sendto(server, "back", 4, 0, &from, from.len));
        await(client, POLLIN);
        show_data("data", in, R(recv(client, in, sizeof in, 0)));
        R(sendto(other, "other", 5, 0, &to, to.len));
        await(server, POLLIN);
        show_data("data", in, R(recv(server, in, sizeof in, 0)));
        R(close(server));
        R(send(client, "lost", 4, 0));
        show_poll(client, 0x2000);
        R(send(client, "lost", 4, 0));
        R(sendto(other, "lost", 4, 0, &to, to.len));
    }
    R(bind(fresh(), &at, at.len));
    R(send(client, "hello", 5, 0));
    show_error(client);
    R(connect(client, &to, to.len));
    show_names(client);
}

CASE(server_started_again, UDP) {
    struct address at = loopback(quiet_port());
    restarted(at, at, 0);
}

CASE(server_started_again_reuse, UDP) {
    struct address at = loopback(quiet_port());
    restarted(at, at, SO_REUSEADDR);
}

CASE(server_started_again_on_the_wildcard, UDP) {
    int port = quiet_port();
    restarted(wildcard(port), loopback(port), 0);
}

CASE(server_moves_while_a_client_stays, UDP) {
    struct address at = loopback(quiet_port()), elsewhere = loopback(quiet_port());
    int server = fresh(), client = fresh();
    MUST(bind(server, &at, at.len));
    R(connect(client, &at, at.len));
    R(close(server));
    int moved = fresh(), again = fresh(), third = fresh();
    R(bind(moved, &elsewhere, elsewhere.len));
    R(send(client, "x", 1, 0));
    show_poll(client, 0x2000);
    show_poll_now(moved);
    show_error(client);
    R(bind(again, &at, at.len));
    R(bind(third, &at, at.len));
    R(connect(client, &elsewhere, elsewhere.len));
    R(send(client, "moved", 5, 0));
    show_poll(moved, POLLIN);
    show_poll_now(again);
}
