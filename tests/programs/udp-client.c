/* The other side of udp-server.
 *   udp-client connected HOST PORT COUNT      connect(), send, recv
 *   udp-client unconnected HOST PORT COUNT    sendto, recvfrom; the reply must come from the address that was asked
 *   udp-client calls HOST PORT                sendmsg, sendmmsg, recvmsg, recvmmsg, MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, reconnecting
 *   udp-client once HOST PORT                 datagrams from sockets that are done with at once: connected, unconnected,
 *                                             connected and shut down, and some that are turned away and back between two
 *   udp-client many COUNT HOST:PORT...        several servers from one unconnected socket */
#include "t.h"

static const char *nth(int i) {
    static char text[64];
    snprintf(text, sizeof text, "datagram %d of %d", i, (int)getpid());
    return text;
}

/* The reply to `text` from the server at `to`. */
static void check_reply(const char *in, ssize_t n, const struct address *to, const char *text) {
    char wanted[256];
    int len = snprintf(wanted, sizeof wanted, "%d:%s", port_of(to), text);
    if (n != len || memcmp(in, wanted, (size_t)len)) fail("wanted \"%s\", got \"%.*s\"", wanted, (int)n, in);
}

static int new_socket(int family) {
    int fd = (int)MUST(socket(family, SOCK_DGRAM, 0));
    give_up_after(fd, 10);
    return fd;
}

static void connected(struct address to, int count) {
    int fd = new_socket(to.any.sa_family);
    MUST_FAIL(send(fd, "x", 1, 0), EDESTADDRREQ);
    MUST(connect(fd, &to.any, to.len));
    struct address local = local_of(fd), peer = peer_of(fd);
    CHECK(same_address(&peer, &to));
    CHECK(port_of(&local) != 0);
    char in[512];
    for (int i = 0; i < count; i++) {
        const char *text = nth(i);
        CHECK(MUST(send(fd, text, strlen(text), 0)) == (long)strlen(text));
        check_reply(in, MUST(recv(fd, in, sizeof in, 0)), &to, text);
    }
    struct address from = {.len = sizeof from.room};
    MUST(send(fd, "bye", 3, 0));
    check_reply(in, MUST(recvfrom(fd, in, sizeof in, 0, &from.any, &from.len)), &to, "bye");
    CHECK(same_address(&from, &to));
    MUST(close(fd));
    say("connected: %d datagrams there and back between %s and %s", count + 1, text_of(&local), text_of(&to));
}

static void unconnected(struct address to, int count) {
    int fd = new_socket(to.any.sa_family);
    char in[512];
    for (int i = 0; i <= count; i++) {
        const char *text = i < count ? nth(i) : "bye";
        struct address from = {.len = sizeof from.room};
        CHECK(MUST(sendto(fd, text, strlen(text), 0, &to.any, to.len)) == (long)strlen(text));
        check_reply(in, MUST(recvfrom(fd, in, sizeof in, 0, &from.any, &from.len)), &to, text);
        if (!same_address(&from, &to)) fail("sent to %s, the reply came from %s", text_of(&to), text_of(&from));
    }
    MUST_FAIL(getpeername(fd, &(struct address){.len = 0}.any, &(socklen_t){sizeof to.room}), ENOTCONN);
    MUST(close(fd));
    say("unconnected: %d datagrams there and back, all from %s", count + 1, text_of(&to));
}

static void many(int count, int servers, char **places) {
    int fd = new_socket(AF_INET);
    struct address to[16];
    CHECK(servers <= 16);
    for (int s = 0; s < servers; s++) {
        char host[128], *colon;
        snprintf(host, sizeof host, "%s", places[s]);
        CHECK((colon = strrchr(host, ':')));
        *colon = 0;
        to[s] = resolve(host, colon + 1, SOCK_DGRAM);
    }
    /* One datagram to each before any reply is read: the replies may come in any order, each from its own server. */
    for (int i = 0; i <= count; i++) {
        char text[64], in[512];
        snprintf(text, sizeof text, "%s", i < count ? nth(i) : "bye");
        bool answered[16] = {false};
        for (int s = 0; s < servers; s++) MUST(sendto(fd, text, strlen(text), 0, &to[s].any, to[s].len));
        for (int r = 0; r < servers; r++) {
            struct address from = {.len = sizeof from.room};
            ssize_t n = MUST(recvfrom(fd, in, sizeof in, 0, &from.any, &from.len));
            int s = 0;
            while (s < servers && !same_address(&to[s], &from)) s++;
            if (s == servers) fail("a reply from %s, which was not asked", text_of(&from));
            CHECK(!answered[s]);
            answered[s] = true;
            check_reply(in, n, &to[s], text);
        }
    }
    MUST(close(fd));
    say("many: %d servers answered %d datagrams each to one socket, each from its own address", servers, count + 1);
}

static void calls(struct address to) {
    int fd = new_socket(to.any.sa_family);
    char a[] = "sendmsg in ", b[] = "two pieces", in[512], rest[512];
    struct iovec out[2] = {{a, strlen(a)}, {b, strlen(b)}}, into[2] = {{in, 8}, {rest, sizeof rest}};
    struct msghdr m = {.msg_name = &to.any, .msg_namelen = to.len, .msg_iov = out, .msg_iovlen = 2};
    CHECK(MUST(sendmsg(fd, &m, 0)) == (long)(strlen(a) + strlen(b)));
    struct address from = {.len = sizeof from.room};
    m = (struct msghdr){.msg_name = &from.any, .msg_namelen = sizeof from.room, .msg_iov = into, .msg_iovlen = 2};
    long n = MUST(recvmsg(fd, &m, 0));
    CHECK(m.msg_namelen == to.len && same_address(&from, &to) && !(m.msg_flags & MSG_TRUNC));
    memmove(in + 8, rest, (size_t)n - 8);
    check_reply(in, n, &to, "sendmsg in two pieces");

    struct mmsghdr batch[3] = {0};
    struct iovec piece[3];
    char texts[3][16], answers[3][64];
    struct address sources[3];
    for (int i = 0; i < 3; i++) {
        snprintf(texts[i], sizeof texts[i], "batch %d", i);
        piece[i] = (struct iovec){texts[i], strlen(texts[i])};
        batch[i].msg_hdr = (struct msghdr){.msg_name = &to.any, .msg_namelen = to.len, .msg_iov = &piece[i], .msg_iovlen = 1};
    }
    CHECK(MUST(sendmmsg(fd, batch, 3, 0)) == 3);
    for (int i = 0; i < 3; i++) CHECK(batch[i].msg_len == strlen(texts[i]));
    for (int got = 0; got < 3;) {
        for (int i = got; i < 3; i++) {
            piece[i] = (struct iovec){answers[i], sizeof answers[i]};
            batch[i].msg_hdr = (struct msghdr){
                .msg_name = &sources[i].any, .msg_namelen = sizeof sources[i].room, .msg_iov = &piece[i], .msg_iovlen = 1};
        }
        got += (int)MUST(recvmmsg(fd, batch + got, (unsigned)(3 - got), MSG_WAITFORONE, NULL));
    }
    for (int i = 0; i < 3; i++) {
        CHECK(same_address(&sources[i], &to));
        check_reply(answers[i], batch[i].msg_len, &to, texts[i]);
    }

    MUST_FAIL(recvfrom(fd, in, sizeof in, MSG_DONTWAIT, &from.any, &(socklen_t){sizeof from.room}), EAGAIN);

    MUST(sendto(fd, "peek and truncate", 17, 0, &to.any, to.len));
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK(MUST(poll(&p, 1, 10000)) == 1 && p.revents == POLLIN);
    from = (struct address){.len = sizeof from.room};
    long whole = MUST(recvfrom(fd, in, sizeof in, MSG_PEEK, &from.any, &from.len));
    CHECK(same_address(&from, &to));
    check_reply(in, whole, &to, "peek and truncate");
    socklen_t small = 4; /* the address is cut, its true length told */
    CHECK(MUST(recvfrom(fd, in, 5, MSG_PEEK | MSG_TRUNC, &from.any, &small)) == whole && small == to.len);
    into[0] = (struct iovec){in, 5};
    m = (struct msghdr){.msg_name = &from.any, .msg_namelen = sizeof from.room, .msg_iov = into, .msg_iovlen = 1};
    CHECK(MUST(recvmsg(fd, &m, 0)) == 5 && (m.msg_flags & MSG_TRUNC));

    CHECK(MUST(sendto(fd, "", 0, 0, &to.any, to.len)) == 0);
    n = MUST(recvfrom(fd, in, sizeof in, 0, NULL, NULL));
    check_reply(in, n, &to, "");

    /* Connected, dissolved, and unconnected again. */
    MUST(connect(fd, &to.any, to.len));
    MUST(send(fd, "connected now", 13, 0));
    check_reply(in, MUST(read(fd, in, sizeof in)), &to, "connected now");
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    MUST(connect(fd, &nowhere, sizeof nowhere));
    MUST_FAIL(getpeername(fd, &from.any, &(socklen_t){sizeof from.room}), ENOTCONN);
    MUST_FAIL(send(fd, "x", 1, 0), EDESTADDRREQ);
    MUST(sendto(fd, "bye", 3, 0, &to.any, to.len));
    from = (struct address){.len = sizeof from.room};
    check_reply(in, MUST(recvfrom(fd, in, sizeof in, 0, &from.any, &from.len)), &to, "bye");
    CHECK(same_address(&from, &to));
    MUST(close(fd));
    say("calls: all as Linux does them");
}

/* Natively what was sent arrives, whatever becomes of the socket. */
static void once(struct address to) {
    int connected = new_socket(to.any.sa_family), unconnected = new_socket(to.any.sa_family);
    int shut = new_socket(to.any.sa_family), turned = new_socket(to.any.sa_family);
    MUST(connect(connected, &to.any, to.len));
    MUST(send(connected, "bye", 3, 0));
    MUST(close(connected));
    MUST(sendto(unconnected, "bye", 3, 0, &to.any, to.len));
    MUST(close(unconnected));
    MUST(connect(shut, &to.any, to.len));
    MUST(send(shut, "bye", 3, 0));
    MUST(shutdown(shut, SHUT_WR));
    char in[512];
    check_reply(in, MUST(recv(shut, in, sizeof in, 0)), &to, "bye");
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    for (int i = 0; i < 2; i++) {
        MUST(connect(turned, &to.any, to.len));
        MUST(send(turned, "bye", 3, 0));
        MUST(connect(turned, &nowhere, sizeof nowhere));
    }
    /* The same with a port that it keeps. */
    MUST(close(turned));
    turned = new_socket(to.any.sa_family);
    struct address any = any_v4(0);
    MUST(bind(turned, &any.any, any.len));
    for (int i = 0; i < 2; i++) {
        MUST(connect(turned, &to.any, to.len));
        MUST(send(turned, "bye", 3, 0));
    }
    say("once: all sent");
}

int main(int argc, char **argv) {
    if (argc == 5 && !strcmp(argv[1], "connected")) connected(resolve(argv[2], argv[3], SOCK_DGRAM), atoi(argv[4]));
    else if (argc == 5 && !strcmp(argv[1], "unconnected")) unconnected(resolve(argv[2], argv[3], SOCK_DGRAM), atoi(argv[4]));
    else if (argc == 4 && !strcmp(argv[1], "calls")) calls(resolve(argv[2], argv[3], SOCK_DGRAM));
    else if (argc == 4 && !strcmp(argv[1], "once")) once(resolve(argv[2], argv[3], SOCK_DGRAM));
    else if (argc >= 4 && !strcmp(argv[1], "many")) many(atoi(argv[2]), argc - 3, argv + 3);
    else {
        fprintf(stderr, "usage: udp-client connected|unconnected HOST PORT COUNT | calls|once HOST PORT | many COUNT HOST:PORT...\n");
        return 2;
    }
    return 0;
}
