/* calls: socket calls, right and wrong, one line each with result and errno. Run natively and under sipbox the
 * output must be the same. Everything stays on 127.0.0.1 and ::1; ports chosen by the system are not printed. */
#include "t.h"
#include <sys/mman.h>

#define SHOW(call)                                                                                                   \
    ({                                                                                                               \
        errno = 0;                                                                                                   \
        long r_ = (long)(call);                                                                                      \
        int e_ = errno;                                                                                              \
        if (r_ < 0) say("%s = %ld %s", #call, r_, errname(e_));                                                      \
        else say("%s = ok", #call);                                                                                  \
        r_;                                                                                                          \
    })
#define VALUE(call)                                                                                                  \
    ({                                                                                                               \
        errno = 0;                                                                                                   \
        long r_ = (long)(call);                                                                                      \
        int e_ = errno;                                                                                              \
        if (r_ < 0) say("%s = %ld %s", #call, r_, errname(e_));                                                      \
        else say("%s = %ld", #call, r_);                                                                             \
        r_;                                                                                                          \
    })

static void part(const char *title) { say("-- %s", title); }

/* An address without its port when that was the system's choice. */
static void show_address(const char *what, const struct address *a) {
    char ip[INET6_ADDRSTRLEN] = "?";
    if (a->any.sa_family == AF_INET) inet_ntop(AF_INET, &a->v4.sin_addr, ip, sizeof ip);
    else if (a->any.sa_family == AF_INET6) inet_ntop(AF_INET6, &a->v6.sin6_addr, ip, sizeof ip);
    say("%s: family %d, %s, port %s, length %u", what, a->any.sa_family, ip, port_of(a) ? "given" : "0", a->len);
}

static void show_option(const char *name, int fd, int level, int option) {
    int value = -1;
    socklen_t len = sizeof value;
    int r = getsockopt(fd, level, option, &value, &len);
    if (r < 0) say("getsockopt %s = -1 %s", name, errname(errno));
    else say("getsockopt %s = %d, length %u", name, value, len);
}

static void sockets(void) {
    part("socket");
    SHOW(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP));
    SHOW(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    SHOW(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP));
    SHOW(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
    SHOW(socket(AF_INET6, SOCK_STREAM, 0));
    SHOW(socket(AF_INET6, SOCK_DGRAM, 0));
    SHOW(socket(AF_INET, 99, 0));
    SHOW(socket(AF_INET, 0, 0));
    SHOW(socket(AF_INET, SOCK_SEQPACKET, 0));
    SHOW(socket(AF_INET, SOCK_STREAM | 0x10000000, 0));
    SHOW(socket(99, SOCK_STREAM, 0));
    SHOW(socket(-1, SOCK_STREAM, 0));
    SHOW(socket(AF_UNSPEC, SOCK_STREAM, 0));
    int ends[2];
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    SHOW(socketpair(AF_INET, SOCK_STREAM, 0, ends));
    int fd = (int)SHOW(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    VALUE(!!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    VALUE(!!(fcntl(fd, F_GETFD) & FD_CLOEXEC));
    show_option("SO_TYPE", fd, SOL_SOCKET, SO_TYPE);
    show_option("SO_DOMAIN", fd, SOL_SOCKET, SO_DOMAIN);
    show_option("SO_PROTOCOL", fd, SOL_SOCKET, SO_PROTOCOL);
    show_option("SO_ACCEPTCONN", fd, SOL_SOCKET, SO_ACCEPTCONN);
    show_option("SO_ERROR", fd, SOL_SOCKET, SO_ERROR);
    close(fd);
}

static void binds(void) {
    part("bind");
    struct address a = loopback_v4(0), out = {.len = sizeof out.room};
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), other = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(getsockname(fd, &out.any, &out.len));
    show_address("before bind", &out);
    SHOW(bind(fd, NULL, sizeof a.v4));
    SHOW(bind(fd, (void *)8, sizeof a.v4));
    SHOW(bind(fd, &a.any, 0));
    SHOW(bind(fd, &a.any, 15));
    SHOW(bind(fd, &a.any, 4096));
    SHOW(bind(fd, &a.any, (socklen_t)-1));
    SHOW(bind(-1, &a.any, a.len));
    SHOW(bind(0x7fff, &a.any, a.len));
    int file = (int)MUST(open("/dev/null", O_RDONLY));
    SHOW(bind(file, &a.any, a.len));
    struct address v6 = any_v6(0);
    SHOW(bind(fd, &v6.any, v6.len));
    struct address strange = a;
    strange.any.sa_family = 99;
    SHOW(bind(fd, &strange.any, a.len));
    strange = any_v4(0);
    strange.any.sa_family = AF_UNSPEC; /* an old program's way to say "any" */
    SHOW(bind((int)MUST(socket(AF_INET, SOCK_STREAM, 0)), &strange.any, a.len));
    SHOW(bind(fd, &a.any, a.len));
    SHOW(bind(fd, &a.any, a.len));
    out.len = sizeof out.room;
    SHOW(getsockname(fd, &out.any, &out.len));
    show_address("after bind", &out);
    struct address taken = out;
    SHOW(bind(other, &taken.any, taken.len));
    struct address wide = any_v4(port_of(&taken));
    SHOW(bind(other, &wide.any, wide.len));
    SHOW(listen(fd, 1));
    SHOW(bind(other, &taken.any, taken.len));
    SHOW(bind(other, &a.any, sizeof a.room));
    close(fd);
    SHOW(bind((int)MUST(socket(AF_INET, SOCK_STREAM, 0)), &taken.any, taken.len));

    int one = 1, x = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), y = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(setsockopt(x, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    SHOW(bind(x, &a.any, a.len));
    struct address there = local_of(x);
    SHOW(bind(y, &there.any, there.len));
    MUST(setsockopt(y, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    SHOW(bind(y, &there.any, there.len));
    close(x);
    close(y);
    close(other);
    close(file);
}

static void names(void) {
    part("getsockname and getpeername");
    int listener = listen_on(loopback_v4(0), 4);
    struct address at = local_of(listener);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct address out = {.len = sizeof out.room};
    SHOW(getpeername(fd, &out.any, &out.len));
    SHOW(getpeername(listener, &out.any, &out.len));
    SHOW(connect(fd, &at.any, at.len));
    int conn = (int)SHOW(accept(listener, NULL, NULL));
    memset(&out.room, 0x55, sizeof out.room);
    socklen_t len = 4;
    SHOW(getpeername(fd, &out.any, &len));
    say("cut to 4: length told %u, port right %d, fifth byte untouched %d", len, out.v4.sin_port == at.v4.sin_port,
        ((unsigned char *)&out)[4] == 0x55);
    len = 0;
    SHOW(getsockname(fd, &out.any, &len));
    say("cut to 0: length told %u", len);
    len = (socklen_t)-1;
    SHOW(getsockname(fd, &out.any, &len));
    SHOW(getsockname(fd, &out.any, NULL));
    len = sizeof out.room;
    SHOW(getsockname(fd, NULL, &len));
    SHOW(getsockname(fd, (void *)8, &len));
    SHOW(getsockname(fd, &out.any, (void *)8));
    SHOW(getsockname(-1, &out.any, &len));
    SHOW(getsockname(0x7fff, &out.any, &len));
    struct address local = local_of(fd), peer = peer_of(conn);
    show_address("connected, local", &local);
    VALUE(same_address(&local, &peer));
    local = local_of(conn);
    VALUE(same_address(&local, &at));
    close(conn);
    char byte;
    VALUE(read(fd, &byte, 1));
    SHOW(getpeername(fd, &out.any, &(socklen_t){sizeof out.room}));
    close(fd);
    close(listener);
}

/* Says what a call has written to a room of `size` bytes, with its length right behind it: the length, how much of the name is right, and
 * how many bytes behind that are as they were. */
static void show_room(const char *call, const unsigned char *room, size_t size, const struct address *name) {
    socklen_t told;
    memcpy(&told, room + size, sizeof told);
    size_t right = 0, rest;
    while (right < size && right < name->len && room[right] == ((const unsigned char *)name)[right]) right++;
    for (rest = right; rest < size && room[rest] == 0x55;) rest++;
    say("%s in a room of %zu: length told %u, %zu bytes of the name, %zu as they were", call, size, told, right, rest - right);
}

/* Makes a room of `size` bytes that ends `before` bytes before the second page of two. */
static unsigned char *make_room(unsigned char *pages, size_t size, size_t before) {
    unsigned char *room = pages + 4096 - before - size;
    socklen_t length = (socklen_t)size;
    memset(pages, 0x55, 8192);
    memcpy(room + size, &length, sizeof length);
    return room;
}

static void rooms(void) {
    part("lengths right behind their addresses");
    unsigned char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    int udp = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), listener = listen_on(loopback_v4(0), 4);
    struct address any = loopback_v4(0);
    MUST(bind(udp, &any.any, any.len));
    struct address own = local_of(udp), at = local_of(listener);
    static const size_t sizes[] = {2, 8, 16, 20, 28, 128, 256};
    /* All in one page; the length in the next one; half of it; the end of the room there, too. */
    static const size_t distances[] = {64, 0, 2, (size_t)-1};
    for (size_t d = 0; d < sizeof distances / sizeof *distances; d++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t size = sizes[i];
            char data[4];
            unsigned char *room = make_room(pages, size, distances[d]);
            MUST(getsockname(udp, (void *)room, (void *)(room + size)));
            show_room("getsockname", room, size, &own);
            make_room(pages, size, distances[d]);
            CHECK(MUST(sendto(udp, "abc", 3, 0, &own.any, own.len)) == 3);
            CHECK(MUST(recvfrom(udp, data, sizeof data, 0, (void *)room, (void *)(room + size))) == 3);
            show_room("recvfrom", room, size, &own);
            make_room(pages, size, distances[d]);
            int caller = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
            MUST(connect(caller, &at.any, at.len));
            int s = (int)MUST(accept(listener, (void *)room, (void *)(room + size)));
            struct address peer = local_of(caller);
            show_room("accept", room, size, &peer);
            close(caller), close(s);
        }
    }
    /* A length that can be read and not written, and a room that cannot be read. */
    unsigned char *room = make_room(pages, 128, 0);
    MUST(mprotect(pages + 4096, 4096, PROT_READ));
    SHOW(getsockname(udp, (void *)room, (void *)(room + 128)));
    MUST(mprotect(pages + 4096, 4096, PROT_READ | PROT_WRITE));
    MUST(mprotect(pages, 4096, PROT_NONE));
    SHOW(getsockname(udp, (void *)room, (void *)(room + 128)));
    MUST(munmap(pages, 8192));
    close(udp), close(listener);
}

static void listens(void) {
    part("listen and accept");
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), udp = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    SHOW(accept(fd, NULL, NULL));
    SHOW(accept(udp, NULL, NULL));
    SHOW(listen(udp, 1));
    SHOW(listen(-1, 1));
    SHOW(accept(-1, NULL, NULL));
    SHOW(accept4(fd, NULL, NULL, 0x40));
    SHOW(listen(fd, 1)); /* without bind(): the system chooses a port */
    struct address at = local_of(fd);
    show_address("listening unbound", &at);
    SHOW(listen(fd, 100));
    show_option("SO_ACCEPTCONN", fd, SOL_SOCKET, SO_ACCEPTCONN);
    SHOW(bind(fd, &at.any, at.len));
    struct address to = loopback_v4(port_of(&at));
    SHOW(connect(fd, &to.any, to.len));
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    SHOW(accept(fd, NULL, NULL));
    int a = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), b = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(connect(a, &to.any, to.len));
    SHOW(connect(b, &to.any, to.len));
    struct pollfd p = {.fd = fd, .events = POLLIN};
    VALUE(poll(&p, 1, 5000));
    struct address peer;
    memset(&peer, 0x55, sizeof peer);
    peer.len = 3;
    int c = (int)SHOW(accept4(fd, &peer.any, &peer.len, SOCK_CLOEXEC | SOCK_NONBLOCK));
    say("accept4 cut to 3: length told %u, fourth byte untouched %d", peer.len, ((unsigned char *)&peer)[3] == 0x55);
    VALUE(!!(fcntl(c, F_GETFL) & O_NONBLOCK));
    VALUE(!!(fcntl(c, F_GETFD) & FD_CLOEXEC));
    int d = (int)SHOW(accept(fd, NULL, NULL));
    VALUE(!!(fcntl(d, F_GETFL) & O_NONBLOCK));
    SHOW(accept(fd, NULL, NULL));
    SHOW(shutdown(fd, SHUT_RDWR));
    SHOW(accept(fd, NULL, NULL));
    close(a), close(b), close(c), close(d), close(fd), close(udp);
}

static void connects(void) {
    part("connect");
    int listener = listen_on(loopback_v4(0), 16);
    struct address at = local_of(listener), nobody = loopback_v4(0), out;
    int gone = listen_on(loopback_v4(0), 1);
    nobody = local_of(gone);
    close(gone);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(connect(fd, NULL, sizeof at.v4));
    SHOW(connect(fd, (void *)8, sizeof at.v4));
    SHOW(connect(fd, &at.any, 1));
    SHOW(connect(fd, &at.any, 15));
    SHOW(connect(fd, &at.any, 4096));
    SHOW(connect(-1, &at.any, at.len));
    SHOW(connect(0x7fff, &at.any, at.len));
    int file = (int)MUST(open("/dev/null", O_RDONLY));
    SHOW(connect(file, &at.any, at.len));
    struct address strange = at;
    strange.any.sa_family = 99;
    SHOW(connect(fd, &strange.any, strange.len));
    struct address v6 = any_v6(port_of(&at));
    SHOW(connect(fd, &v6.any, v6.len));
    SHOW(connect(fd, &nobody.any, nobody.len));
    show_option("SO_ERROR after ECONNREFUSED", fd, SOL_SOCKET, SO_ERROR);
    SHOW(connect(fd, &at.any, at.len)); /* the same socket may try again */
    SHOW(connect(fd, &at.any, at.len));
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    SHOW(connect(fd, &nowhere, sizeof nowhere));
    out.len = sizeof out.room;
    SHOW(getpeername(fd, &out.any, &out.len));
    SHOW(connect(fd, &at.any, at.len));
    close(fd);

    fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    int r = connect(fd, &nobody.any, nobody.len);
    say("non-blocking, nobody there: in progress or refused %d",
        r == -1 && (errno == EINPROGRESS || errno == ECONNREFUSED));
    if (errno == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        MUST(poll(&p, 1, 5000));
        CHECK(p.revents & POLLERR);
        CHECK(so_error(fd) == ECONNREFUSED);
    }
    show_option("SO_ERROR the second time", fd, SOL_SOCKET, SO_ERROR);
    close(fd);

    part("connect, UDP");
    int server = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address self = loopback_v4(0);
    MUST(bind(server, &self.any, self.len));
    self = local_of(server);
    fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    SHOW(send(fd, "x", 1, 0));
    SHOW(connect(fd, &self.any, self.len));
    SHOW(connect(fd, &self.any, self.len));
    VALUE(send(fd, "hello", 5, 0));
    char in[16];
    out.len = sizeof out.room;
    VALUE(recvfrom(server, in, sizeof in, 0, &out.any, &out.len));
    struct address local = local_of(fd);
    VALUE(same_address(&local, &out));
    show_address("connected UDP, local", &local);
    VALUE(sendto(server, "answer", 6, 0, &out.any, out.len));
    VALUE(recv(fd, in, sizeof in, 0));
    SHOW(connect(fd, &nowhere, sizeof nowhere));
    SHOW(send(fd, "x", 1, 0));
    SHOW(getpeername(fd, &out.any, &(socklen_t){sizeof out.room}));
    close(fd), close(server), close(listener), close(file);
}

static void datagrams(void) {
    part("datagrams");
    int a = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), b = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address to = loopback_v4(0), out = {.len = sizeof out.room};
    MUST(bind(a, &to.any, to.len));
    to = local_of(a);
    SHOW(sendto(b, "x", 1, 0, NULL, 0));
    SHOW(sendto(b, "x", 1, 0, &to.any, 3));
    SHOW(sendto(b, "x", 1, 0, (void *)8, to.len));
    SHOW(sendto(b, (void *)8, 100, 0, &to.any, to.len));
    SHOW(sendto(b, "x", 1, 0, &to.any, 4096));
    SHOW(sendto(-1, "x", 1, 0, &to.any, to.len));
    struct address v6 = any_v6(port_of(&to));
    SHOW(sendto(b, "x", 1, 0, &v6.any, v6.len));
    struct address zero = to;
    zero.v4.sin_port = 0;
    SHOW(sendto(b, "x", 1, 0, &zero.any, zero.len));
    static char big[70000], in[70000];
    SHOW(sendto(b, big, 65508, 0, &to.any, to.len));
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)(i * 13);
    VALUE(sendto(b, big, 65507, 0, &to.any, to.len));
    VALUE(recvfrom(a, in, sizeof in, 0, &out.any, &out.len));
    VALUE(memcmp(in, big, 65507));
    VALUE(sendto(b, "", 0, 0, &to.any, to.len));
    out.len = sizeof out.room;
    VALUE(recvfrom(a, in, sizeof in, 0, &out.any, &out.len));
    VALUE(sendto(b, "truncate me", 11, 0, &to.any, to.len));
    out.len = sizeof out.room;
    VALUE(recvfrom(a, in, 4, MSG_PEEK | MSG_TRUNC, &out.any, &out.len));
    VALUE(recvfrom(a, in, 4, 0, &out.any, &out.len));
    VALUE(recvfrom(a, in, 4, MSG_DONTWAIT, &out.any, &out.len));
    VALUE(sendto(b, "hello", 5, 0, &to.any, to.len));
    VALUE(recvfrom(a, in, sizeof in, 0, &out.any, (void *)8));
    VALUE(sendto(b, "hello", 5, 0, &to.any, to.len));
    socklen_t len = (socklen_t)-1;
    VALUE(recvfrom(a, in, sizeof in, 0, &out.any, &len));
    while (recv(a, in, sizeof in, MSG_DONTWAIT) >= 0) {} /* whether a failed call took the datagram is not compared */
    VALUE(sendto(b, "hello", 5, 0, &to.any, to.len));
    memset(&out.room, 0x55, sizeof out.room);
    len = 5;
    VALUE(recvfrom(a, in, sizeof in, 0, &out.any, &len));
    say("address cut to 5: length told %u, sixth byte untouched %d", len, ((unsigned char *)&out)[5] == 0x55);
    VALUE(sendto(b, "no address wanted", 17, 0, &to.any, to.len));
    VALUE(recvfrom(a, in, sizeof in, 0, NULL, NULL));

    struct iovec iov[2] = {{"gather ", 7}, {"these", 5}};
    struct msghdr m = {.msg_name = &to.any, .msg_namelen = to.len, .msg_iov = iov, .msg_iovlen = 2};
    VALUE(sendmsg(b, &m, 0));
    struct iovec into[2] = {{in, 3}, {in + 100, 100}};
    m = (struct msghdr){.msg_name = &out.any, .msg_namelen = sizeof out.room, .msg_iov = into, .msg_iovlen = 2};
    VALUE(recvmsg(a, &m, 0));
    say("recvmsg: name length %u, flags %#x, scattered right %d", m.msg_namelen, (unsigned)m.msg_flags,
        !memcmp(in, "gat", 3) && !memcmp(in + 100, "her these", 9));
    m = (struct msghdr){.msg_name = &to.any, .msg_namelen = to.len, .msg_iov = (void *)8, .msg_iovlen = 2};
    SHOW(sendmsg(b, &m, 0));
    m = (struct msghdr){.msg_name = &to.any, .msg_namelen = to.len, .msg_iov = iov, .msg_iovlen = 4096};
    SHOW(sendmsg(b, &m, 0));
    SHOW(sendmsg(b, (void *)8, 0));
    SHOW(recvmsg(a, (void *)8, MSG_DONTWAIT));
    int one = 1;
    SHOW(setsockopt(a, IPPROTO_IP, IP_PKTINFO, &one, sizeof one));
    VALUE(sendto(b, "info", 4, 0, &to.any, to.len));
    char control[256];
    into[0] = (struct iovec){in, sizeof in};
    m = (struct msghdr){.msg_name = &out.any, .msg_namelen = sizeof out.room, .msg_iov = into, .msg_iovlen = 1,
                        .msg_control = control, .msg_controllen = sizeof control};
    VALUE(recvmsg(a, &m, 0));
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            struct address dst = loopback_v4(1);
            dst.v4.sin_addr = info.ipi_addr;
            show_address("IP_PKTINFO", &dst);
        }
    close(a), close(b);
}

static void streams(void) {
    part("streams");
    int listener = listen_on(loopback_v4(0), 4), c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct address at = local_of(listener), out = {.len = sizeof out.room};
    SHOW(send(c, "x", 1, MSG_NOSIGNAL)); /* this one is spoilt: Linux remembers a shutdown() that it refused */
    SHOW(shutdown(c, SHUT_WR));
    SHOW(shutdown(c, 99));
    SHOW(shutdown(-1, SHUT_WR));
    char in[64];
    SHOW(recv(c, in, 1, 0));
    close(c);
    c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(c, &at.any, at.len));
    int s = (int)MUST(accept(listener, NULL, NULL));
    /* With an address, on a stream: ignored or refused. */
    VALUE(sendto(c, "abc", 3, 0, &at.any, at.len));
    memset(&out.room, 0x55, sizeof out.room);
    VALUE(recvfrom(s, in, sizeof in, 0, &out.any, &out.len));
    say("recvfrom on a stream: length told %u, address untouched %d", out.len, out.any.sa_family == 0x5555);
    struct iovec iov = {"def", 3};
    struct msghdr m = {.msg_name = &at.any, .msg_namelen = at.len, .msg_iov = &iov, .msg_iovlen = 1};
    VALUE(sendmsg(c, &m, MSG_NOSIGNAL));
    VALUE(recv(s, in, sizeof in, MSG_PEEK));
    VALUE(recv(s, in, sizeof in, 0));
    SHOW(shutdown(c, SHUT_WR));
    VALUE(recv(s, in, sizeof in, 0));
    SHOW(send(c, "x", 1, MSG_NOSIGNAL));
    VALUE(send(s, "still open this way", 19, 0));
    VALUE(recv(c, in, sizeof in, 0));
    SHOW(shutdown(c, SHUT_WR));
    struct linger now = {1, 0};
    MUST(setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(s);
    SHOW(recv(c, in, sizeof in, 0));
    VALUE(recv(c, in, sizeof in, 0));
    close(c);
    close(listener);

    part("IPv6");
    int one = 1, v6 = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    show_option("IPV6_V6ONLY", v6, IPPROTO_IPV6, IPV6_V6ONLY);
    struct address self = any_v6(0);
    self.v6.sin6_addr = in6addr_loopback;
    SHOW(bind(v6, &self.any, sizeof self.v4));
    SHOW(bind(v6, &self.any, 24));
    SHOW(bind(v6, &self.any, self.len));
    SHOW(setsockopt(v6, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    SHOW(listen(v6, 4));
    self = local_of(v6);
    show_address("bound to ::1", &self);
    c = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    SHOW(connect(c, &self.any, self.len));
    out.len = sizeof out.room;
    s = (int)SHOW(accept(v6, &out.any, &out.len));
    show_address("accepted", &out);
    struct address local = local_of(c);
    VALUE(same_address(&local, &out));
    close(c), close(s), close(v6);
    c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(connect(c, &self.any, self.len));
    close(c);

    int dual = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0)), zero = 0;
    MUST(setsockopt(dual, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero));
    struct address wide = any_v6(0);
    SHOW(bind(dual, &wide.any, wide.len));
    SHOW(listen(dual, 4));
    wide = local_of(dual);
    show_address("dual-stack listener", &wide);
    struct address four = loopback_v4(port_of(&wide));
    c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(bind((int)MUST(socket(AF_INET, SOCK_STREAM, 0)), &four.any, four.len));
    SHOW(connect(c, &four.any, four.len));
    out.len = sizeof out.room;
    s = (int)SHOW(accept(dual, &out.any, &out.len));
    show_address("an IPv4 caller", &out);
    local = local_of(s);
    show_address("called as", &local);
    close(c), close(s), close(dual);
}

static void unusual(void) {
    part("options");
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), value = 1;
    socklen_t len = sizeof value;
    SHOW(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));
    SHOW(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    SHOW(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
    show_option("TCP_NODELAY", fd, IPPROTO_TCP, TCP_NODELAY);
    SHOW(setsockopt(fd, SOL_SOCKET, 9999, &value, sizeof value));
    SHOW(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, (void *)8, sizeof value));
    SHOW(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, 1));
    SHOW(setsockopt(-1, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));
    SHOW(getsockopt(fd, SOL_SOCKET, SO_ERROR, (void *)8, &len));
    SHOW(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, (void *)8));
    SHOW(getsockopt(-1, SOL_SOCKET, SO_ERROR, &value, &len));
    len = 2;
    SHOW(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len));
    say("SO_ERROR cut to 2: length told %u", len);
    len = (socklen_t)-1;
    SHOW(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len));
    close(fd);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    alarm(60); /* a call that should have failed must not wait for ever */
    sockets();
    binds();
    names();
    rooms();
    listens();
    connects();
    datagrams();
    streams();
    unusual();
    return 0;
}
