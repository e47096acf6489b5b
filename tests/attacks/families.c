/* Sockets of other families, types and protocols. */
#include "attack.h"
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>

static uint16_t checksum(const void *data, size_t length) {
    uint32_t sum = 0;
    for (const uint8_t *at = data; length > 0; at += 2, length -= length > 1 ? 2 : 1)
        sum += (uint32_t)at[0] << 8 | (length > 1 ? at[1] : 0);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

/* A whole IP packet with a UDP datagram in it, from an address that nobody has to own. */
static size_t packet(uint8_t *out, const struct address *to) {
    struct iphdr *ip = (struct iphdr *)out;
    struct udphdr *udp = (struct udphdr *)(ip + 1);
    size_t length = sizeof *ip + sizeof *udp + token_length();
    *ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .tot_len = htons((uint16_t)length)};
    inet_pton(AF_INET, to->v4.sin_addr.s_addr == htonl(INADDR_LOOPBACK) ? "127.0.0.1" : env("T_HERE"), &ip->saddr);
    ip->daddr = to->v4.sin_addr.s_addr;
    ip->check = checksum(ip, sizeof *ip);
    *udp = (struct udphdr){.source = htons(5), .dest = to->v4.sin_port, .len = htons((uint16_t)(length - sizeof *ip))};
    memcpy(udp + 1, token(), token_length());
    return length;
}

static void raw(void) {
    EACH_TARGET(t) {
        uint8_t bytes[1500];
        size_t length = packet(bytes, &t);
        static const int protocols[] = {IPPROTO_RAW, IPPROTO_UDP};
        for (int i = 0; i < 2; i++) {
            int fd = (int)TRY("SOCK_RAW", socket(AF_INET, SOCK_RAW, protocols[i]));
            if (fd < 0) continue;
            /* Without IPPROTO_RAW the kernel makes the IP header. */
            size_t skip = i ? sizeof(struct iphdr) : 0;
            TRY("sendto", sendto(fd, bytes + skip, length - skip, 0, &t.any, t.len));
            close(fd);
        }
        int six = (int)TRY("SOCK_RAW", socket(AF_INET6, SOCK_RAW, IPPROTO_UDP));
        if (six >= 0) close(six);
    }
}

static void packets(void) {
    static const int types[] = {SOCK_RAW, SOCK_DGRAM, SOCK_PACKET};
    for (int i = 0; i < 3; i++) {
        int fd = (int)TRY("AF_PACKET", socket(AF_PACKET, types[i], htons(ETH_P_IP)));
        if (fd < 0 || types[i] != SOCK_DGRAM) continue;
        uint8_t bytes[1500];
        struct address to = target("T_LO");
        size_t length = packet(bytes, &to);
        struct sockaddr_ll lo = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6};
        lo.sll_ifindex = (int)if_nametoindex("lo");
        TRY("sendto", sendto(fd, bytes, length, 0, (struct sockaddr *)&lo, sizeof lo));
    }
    int old = (int)TRY("SOCK_PACKET of AF_INET", socket(AF_INET, SOCK_PACKET, htons(ETH_P_ALL)));
    if (old >= 0) through();
}

/* An answer of the kernel's: it names an interface of the host. The supervisor's own names lo and sipbox0. */
static int names_the_host(const char *answer, ssize_t n) {
    const struct nlmsghdr *h = (const struct nlmsghdr *)answer;
    for (; NLMSG_OK(h, (size_t)n); h = NLMSG_NEXT(h, n)) {
        if (h->nlmsg_type != RTM_NEWLINK) continue;
        const struct rtattr *a = IFLA_RTA(NLMSG_DATA(h));
        long left = (long)IFLA_PAYLOAD(h);
        for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
            const char *name = RTA_DATA(a);
            if (a->rta_type == IFLA_IFNAME && strcmp(name, "lo") && strcmp(name, "sipbox0")) return 1;
            if (a->rta_type == IFLA_STATS) return 1;
        }
    }
    return 0;
}

static void netlink(void) {
    int fd = (int)TRY("AF_NETLINK", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct {
        struct nlmsghdr h;
        struct rtgenmsg g;
    } ask = {{sizeof ask, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
    char answer[8192];
    ssize_t n = -1;
    if (fd >= 0 && send(fd, &ask, sizeof ask, 0) > 0) n = recv(fd, answer, sizeof answer, 0);
    if (n > 0 && names_the_host(answer, n)) through();
    for (int protocol = 1; protocol < 23; protocol++) {
        int other = socket(AF_NETLINK, SOCK_DGRAM, protocol);
        if (other >= 0) {
            note("protocol %d: done", protocol);
            close(other);
        }
    }
}

/* Everything that socket() and socketpair() could ever give. */
static void all_others(void) {
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, SOCK_DCCP, SOCK_PACKET};
    int given = 0, tried = 0;
    for (int family = 0; family < 64; family++) {
        if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK) continue;
        for (int i = 0; i < 7; i++) {
            for (int protocol = 0; protocol < 8; protocol++) {
                int fd = socket(family, types[i], protocol), pair[2];
                tried++;
                if (fd >= 0) {
                    given++;
                    close(fd);
                }
                if (socketpair(family, types[i], protocol, pair) == 0) given++;
            }
        }
    }
    note(given ? "some of %d given" : "none of %d given", tried);
    if (given) through();
}

static void protocols(void) {
    static const struct {
        const char *name;
        int type, protocol;
    } wanted[] = {{"MPTCP", SOCK_STREAM, IPPROTO_MPTCP}, {"SCTP", SOCK_STREAM, IPPROTO_SCTP},
                  {"SCTP", SOCK_SEQPACKET, IPPROTO_SCTP}, {"UDP-Lite", SOCK_DGRAM, IPPROTO_UDPLITE},
                  {"DCCP", SOCK_DCCP, IPPROTO_DCCP}, {"SMC", SOCK_STREAM, 256}, {"L2TP", SOCK_DGRAM, 115}};
    static const int families[] = {AF_INET, AF_INET6};
    for (int f = 0; f < 2; f++) {
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            int fd = (int)TRY(wanted[i].name, socket(families[f], wanted[i].type, wanted[i].protocol));
            if (fd < 0) continue;
            /* Not when it is another protocol by that name: TCP, or UDP. */
            int given = 0;
            MUST(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &given, &(socklen_t){sizeof given}));
            if (given != IPPROTO_TCP && given != IPPROTO_UDP) through();
            close(fd);
        }
    }
}

/* ICMP echo without privileges: data to any host. */
static void ping(void) {
    static const int types[] = {SOCK_DGRAM, SOCK_RAW};
    for (int i = 0; i < 2; i++) {
        struct address t = target("T_LO");
        int fd = (int)TRY(i ? "raw ICMP" : "ICMP", socket(AF_INET, types[i], IPPROTO_ICMP));
        if (fd < 0) continue;
        uint8_t echo[16] = {8};
        uint16_t sum = checksum(echo, sizeof echo);
        memcpy(echo + 2, &sum, 2);
        give_up_after(fd, 1);
        if (sendto(fd, echo, sizeof echo, 0, &t.any, t.len) > 0 && recv(fd, echo, sizeof echo, 0) > 0) through();
    }
}

ATTACKS({"raw", raw}, {"packet", packets}, {"netlink", netlink}, {"families", all_others}, {"protocols", protocols},
        {"ping", ping})
