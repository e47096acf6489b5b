/* Socket options and control data that move a socket off its address, or send packets of their own. */
#include "attack.h"

#ifndef IP_UNICAST_IF
#define IP_UNICAST_IF 50
#endif
enum { BINDTOIFINDEX = 62, ATTACH_REUSEPORT_CBPF = 51, ATTACH_REUSEPORT_EBPF = 52, IPV6_ADDRFORM_ = 1 };

static int udp(void) { return (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)); }

static void to_targets(int fd) {
    EACH_TARGET(t) sendto(fd, token(), token_length(), 0, &t.any, t.len);
}

/* The interface by which the other namespace is reached. */
static int interface(void) { return atoi(env("T_INDEX")); }

static void device(void) {
    int fd = udp(), index = interface(), mark = 7;
    uint32_t unicast = htonl((uint32_t)index);
    TRY("SO_BINDTODEVICE", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, env("T_INTERFACE"), strlen(env("T_INTERFACE"))));
    to_targets(fd);
    TRY("SO_BINDTOIFINDEX", setsockopt(fd, SOL_SOCKET, BINDTOIFINDEX, &index, sizeof index));
    to_targets(fd);
    TRY("SO_MARK", setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark));
    to_targets(fd);
    int other = udp();
    setsockopt(other, IPPROTO_IP, IP_UNICAST_IF, &unicast, sizeof unicast);
    to_targets(other);
    note("IP_UNICAST_IF and sendto: %s", errname(errno));
}

static void transparent(void) {
    int one = 1, fd = udp(), stream = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    TRY("IP_TRANSPARENT", setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof one));
    TRY("IPV6_TRANSPARENT", setsockopt((int)MUST(socket(AF_INET6, SOCK_DGRAM, 0)), IPPROTO_IPV6, 75, &one, sizeof one));
    struct address other = any_v4(7777);
    inet_pton(AF_INET, "203.0.113.5", &other.v4.sin_addr);
    setsockopt(fd, IPPROTO_IP, 15 /* IP_FREEBIND */, &one, sizeof one);
    setsockopt(stream, IPPROTO_IP, 15, &one, sizeof one);
    TRY("bind to an address of somebody else", bind(fd, &other.any, other.len));
    TRY("bind to an address of somebody else", bind(stream, &other.any, other.len));
    to_targets(fd);
}

static void repair(void) {
    struct address t = target("T_LO");
    int one = 1, off = 0, fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    if (TRY("TCP_REPAIR", setsockopt(fd, IPPROTO_TCP, 19, &one, sizeof one)) == 0) through();
    connect(fd, &t.any, t.len);
    setsockopt(fd, IPPROTO_TCP, 19, &off, sizeof off);
    send(fd, token(), token_length(), MSG_NOSIGNAL);
}

/* Loose source routing: the packet goes by way of another host. */
static void source_route(void) {
    struct address t = target("T_NS");
    uint8_t options[8] = {131, 7, 4};
    memcpy(options + 3, &t.v4.sin_addr, 4);
    int fd = udp();
    if (TRY("IP_OPTIONS", setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, sizeof options)) == 0) through();
    to_targets(fd);
}

static void multicast(void) {
    struct ip_mreqn group = {.imr_ifindex = interface()};
    inet_pton(AF_INET, "239.255.7.7", &group.imr_multiaddr);
    struct group_req request = {.gr_interface = (uint32_t)interface()};
    struct address to = any_v4(port_of(&(struct address[]){target("T_NS")}[0]));
    to.v4.sin_addr = group.imr_multiaddr;
    memcpy(&request.gr_group, &to.v4, sizeof to.v4);
    int fd = udp();
    TRY("IP_ADD_MEMBERSHIP", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
    TRY("MCAST_JOIN_GROUP", setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof request));
    setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &group, sizeof group);
    TRY("sendto the group", sendto(fd, token(), token_length(), 0, &to.any, to.len));
    struct ipv6_mreq six = {.ipv6mr_interface = (unsigned)interface()};
    inet_pton(AF_INET6, "ff15::7:7", &six.ipv6mr_multiaddr);
    int v6 = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    TRY("IPV6_ADD_MEMBERSHIP", setsockopt(v6, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &six, sizeof six));
    TRY("IPV6_JOIN_ANYCAST", setsockopt(v6, IPPROTO_IPV6, 27, &six, sizeof six));
}

static void broadcast(void) {
    const char *everybody[] = {"255.255.255.255", env("T_BROADCAST")};
    int one = 1, fd = udp();
    TRY("SO_BROADCAST", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one));
    for (int i = 0; i < 2; i++) {
        struct address to = any_v4(port_of(&(struct address[]){target("T_NS")}[0]));
        inet_pton(AF_INET, everybody[i], &to.v4.sin_addr);
        TRY("sendto", sendto(fd, token(), token_length(), 0, &to.any, to.len));
    }
}

/* Which socket of a group gets a packet, decided by a program. */
static void attach(void) {
    struct {
        uint16_t code;
        uint8_t jt, jf;
        uint32_t k;
    } all[] = {{0x06, 0, 0, 0}};
    struct {
        uint16_t length;
        void *filter;
    } program = {1, all};
    int one = 1, fd = udp(), nothing = -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    TRY_THROUGH("SO_ATTACH_REUSEPORT_CBPF", setsockopt(fd, SOL_SOCKET, ATTACH_REUSEPORT_CBPF, &program, sizeof program));
    TRY("SO_ATTACH_REUSEPORT_EBPF", setsockopt(fd, SOL_SOCKET, ATTACH_REUSEPORT_EBPF, &nothing, sizeof nothing));
    TRY("SO_ATTACH_BPF", setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &nothing, sizeof nothing));
}

/* Control data and sticky options that name a source, an interface or a route. */
static void control(void) {
    EACH_TARGET(t) {
        struct in_pktinfo info = {.ipi_ifindex = interface()};
        inet_pton(AF_INET, env("T_HERE"), &info.ipi_spec_dst);
        char room[CMSG_SPACE(sizeof info)] = {0};
        struct iovec data = {(void *)token(), token_length()};
        struct msghdr m = {.msg_name = &t.any, .msg_namelen = t.len, .msg_iov = &data, .msg_iovlen = 1};
        m.msg_control = room, m.msg_controllen = sizeof room;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
        int fd = udp();
        TRY("sendmsg with IP_PKTINFO", sendmsg(fd, &m, 0));
        close(fd);
    }
    struct in6_pktinfo six = {.ipi6_ifindex = (unsigned)interface()};
    int v6 = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    setsockopt(v6, IPPROTO_IPV6, IPV6_PKTINFO, &six, sizeof six);
    EACH_TARGET(t) {
        struct address to = mapped(t);
        TRY("sendto with IPV6_PKTINFO", sendto(v6, token(), token_length(), 0, &to.any, to.len));
    }
}

/* A program's own pair of sockets, whose packets another interface is to carry away. */
static void own_pair(void) {
    struct address mine = loopback_v4(0);
    int from = udp(), to = udp();
    MUST(bind(to, &mine.any, mine.len));
    mine = local_of(to);
    uint32_t index = htonl((uint32_t)interface());
    setsockopt(from, IPPROTO_IP, IP_UNICAST_IF, &index, sizeof index);
    struct linger linger = {1, 0};
    setsockopt(from, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    long sent = sendto(from, token(), token_length(), 0, &mine.any, mine.len);
    note("sendto: %s", sent < 0 ? errname(errno) : "done");
    char got[512];
    give_up_after(to, 1);
    note(recv(to, got, sizeof got, 0) > 0 ? "it stayed here" : "it did not arrive");
    to_targets(from);
}

ATTACKS({"device", device}, {"transparent", transparent}, {"tcp-repair", repair}, {"source-route", source_route},
        {"multicast", multicast}, {"broadcast", broadcast}, {"attach", attach}, {"control", control},
        {"own-pair", own_pair})
