/* A descriptor number that means another socket than a moment ago, by calls that nobody traps. */
#include "c.h"
#define GROUP "swap"

/* Two UDP sockets of IPv4; the second has received from the first, with its address, twice. */
struct before {
    int sender, number, kept;
    struct address to;
};
static void receive(int number) {
    char in[16];
    struct address from = {.len = sizeof from.room};
    long length = R(recvfrom(number, in, sizeof in, MSG_DONTWAIT, &from, &from.len));
    show_data("data", in, length);
    if (length >= 0 && from.len > 0) show_address("from", &from);
    if (length >= 0) say("length of the address %u", from.len);
}
static int own(struct address name) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(bind(fd, &name.any, name.len));
    return fd;
}
static void send_to(const struct before *b, const char *text) {
    MUST(sendto(b->sender, text, strlen(text), 0, &b->to, b->to.len));
    await(b->kept, POLLIN);
}
static struct before begin(void) {
    struct before b = {.sender = own(loopback_v4(0)), .number = own(loopback_v4(0))};
    b.to = local_of(b.number);
    b.kept = (int)MUST(dup(b.number));
    for (int i = 0; i < 2; i++) {
        send_to(&b, "before");
        receive(b.number);
    }
    return b;
}
/* The number is another socket's, until the end. */
static void swap(const struct before *b, int other) { MUST(dup2(other, b->number)); }
static void back(const struct before *b) {
    send_to(b, "kept");
    swap(b, b->kept);
    receive(b->number);
    receive(b->number);
}

CASE(another_with_data, INET | LOCAL) {
    int two[2];
    make_pair(two);
    struct before b = begin();
    MUST(send(two[0], "other", 5, 0));
    await(two[1], POLLIN);
    swap(&b, two[1]);
    receive(b.number);
    receive(b.number);
    back(&b);
}

CASE(another_without_data, INET | LOCAL) {
    int two[2];
    make_pair(two);
    struct before b = begin();
    swap(&b, two[1]);
    receive(b.number);
    shutdown(two[0], SHUT_WR);
    if (kind->type == SOCK_STREAM) await(two[1], POLLIN);
    receive(b.number);
    back(&b);
}

CASE(a_fresh_one, INET | LOCAL) {
    struct before b = begin();
    swap(&b, fresh());
    receive(b.number);
    back(&b);
}

CASE(a_listener, TCP) {
    int other = listener();
    struct before b = begin();
    swap(&b, other);
    receive(b.number);
    back(&b);
}

/* Another socket that is not connected, whom the same sender has sent to. */
CASE(the_same_sender, UDP4 | UDPM) {
    struct before b = begin();
    int other = bound();
    struct address to = local_of(other);
    if (kind->family == AF_INET6) to = loopback_v4(port_of(&to));
    MUST(sendto(b.sender, "other", 5, 0, &to, to.len));
    await(other, POLLIN);
    swap(&b, other);
    receive(b.number);
    receive(b.number);
    back(&b);
}

/* Who sends from every address is at another one for each of two sockets; the second of them spoke to it before the first one heard it, or
 * after. */
static struct address mapped(int port) {
    struct address a = any_v6(port);
    memcpy(&a.v6.sin6_addr, "\0\0\0\0\0\0\0\0\0\0\377\377\177\0\0\1", 16);
    return a;
}
static void two_addresses(bool later) {
    struct address any = wildcard(0), four = mapped(0), six, at_one, at_other;
    int sender = fresh(), one = fresh(), other = bound();
    MUST(bind(sender, &any.any, any.len));
    MUST(bind(one, &four.any, four.len));
    at_one = local_of(one), at_other = local_of(other), any = local_of(sender);
    four = mapped(port_of(&any)), six = loopback(port_of(&any));
    MUST(sendto(one, "four", 4, 0, &four, four.len));
    if (!later) MUST(sendto(other, "six", 3, 0, &six, six.len));
    for (int i = 0; i < 4; i++) {
        MUST(sendto(sender, "before", 6, 0, &at_one, at_one.len));
        await(one, POLLIN);
        receive(one);
    }
    if (later) MUST(sendto(other, "six", 3, 0, &six, six.len));
    MUST(sendto(sender, "other", 5, 0, &at_other, at_other.len));
    await(other, POLLIN);
    MUST(dup2(other, one));
    receive(one);
}
CASE(a_sender_with_two_addresses, UDP6) { two_addresses(false); }
CASE(a_sender_with_another_address_later, UDP6) { two_addresses(true); }

CASE(no_internet_socket, UDP4) {
    int ends[2], netlink = (int)MUST(socket(AF_NETLINK, SOCK_RAW, 0));
    MUST(pipe(ends));
    struct before b = begin();
    for (int i = 0; i < 2; i++) {
        swap(&b, netlink);
        receive(b.number);
        swap(&b, ends[0]);
        receive(b.number);
        close(b.number);
        receive(b.number);
        back(&b);
    }
}

/* The last one: once there was urgent data, no more is guessed. */
CASE(urgent_data, TCP | UNIXS) {
    int two[2];
    make_pair(two);
    struct before b = begin();
    MUST(send(two[0], "data!", 5, MSG_OOB));
    await(two[1], POLLPRI);
    swap(&b, two[1]);
    receive(b.number);
    char in[8];
    show_data("urgent", in, R(recv(b.number, in, sizeof in, MSG_OOB)));
    back(&b);
}
