/* interfaces: every interface and address that the program is told of, by each way of asking; the ways must agree. */
#include "t.h"
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>

struct request {
    struct nlmsghdr h;
    struct rtgenmsg g;
};

static struct request links(unsigned sequence) {
    struct request r = {{sizeof r, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0}, {AF_UNSPEC}};
    return r;
}

/* getifaddrs(3), and for each interface and IPv4 address the ioctls. */
static void addresses(void) {
    struct ifaddrs *all;
    CHECK(getifaddrs(&all) == 0);
    int s = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6)) continue;
        int v6 = i->ifa_addr->sa_family == AF_INET6;
        char text[INET6_ADDRSTRLEN];
        inet_ntop(v6 ? AF_INET6 : AF_INET,
                  v6 ? (void *)&((struct sockaddr_in6 *)i->ifa_addr)->sin6_addr
                     : (void *)&((struct sockaddr_in *)i->ifa_addr)->sin_addr,
                  text, sizeof text);
        say("%s %s", i->ifa_name, text);
        /* What it is told is its own, it may bind. */
        int u = (int)MUST(socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0));
        MUST(bind(u, i->ifa_addr, v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)));
        close(u);
        if (v6) continue;
        struct ifreq r = {0};
        strcpy(r.ifr_name, i->ifa_name);
        MUST(ioctl(s, SIOCGIFADDR, &r));
        CHECK(((struct sockaddr_in *)&r.ifr_addr)->sin_addr.s_addr ==
              ((struct sockaddr_in *)i->ifa_addr)->sin_addr.s_addr);
        MUST(ioctl(s, SIOCGIFFLAGS, &r));
        CHECK((r.ifr_flags & IFF_UP) && !(r.ifr_flags & IFF_LOOPBACK) == !!strcmp(i->ifa_name, "lo"));
    }
    freeifaddrs(all);
    struct ifreq list[8];
    struct ifconf conf = {.ifc_len = sizeof list, .ifc_req = list};
    MUST(ioctl(s, SIOCGIFCONF, &conf));
    for (int i = 0; i < conf.ifc_len / (int)sizeof *list; i++) {
        say("conf %s %s", list[i].ifr_name, inet_ntoa(((struct sockaddr_in *)&list[i].ifr_addr)->sin_addr));
    }
    close(s);
}

static void names(void) {
    struct if_nameindex *all = if_nameindex();
    CHECK(all);
    for (struct if_nameindex *i = all; i->if_index; i++) {
        char name[IF_NAMESIZE];
        CHECK(if_nametoindex(i->if_name) == i->if_index && !strcmp(if_indextoname(i->if_index, name), i->if_name));
        say("name %u %s", i->if_index, i->if_name);
    }
    if_freenameindex(all);
    char name[IF_NAMESIZE];
    CHECK(!if_indextoname(4711, name) && errno == ENXIO);
}

/* The socket itself: its port, waiting, looking without taking, and who answers. */
static void by_hand(void) {
    int fd = (int)MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct sockaddr_nl at = {.nl_family = AF_NETLINK, .nl_pid = 4711}, name = {0};
    MUST(bind(fd, (struct sockaddr *)&at, sizeof at));
    socklen_t length = sizeof name;
    MUST(getsockname(fd, (struct sockaddr *)&name, &length));
    CHECK(length == sizeof name && name.nl_family == AF_NETLINK && name.nl_pid == 4711);
    struct request ask = links(77);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK(poll(&p, 1, 0) == 0);
    CHECK(send(fd, &ask, sizeof ask, 0) == sizeof ask);
    CHECK(poll(&p, 1, 10000) == 1 && p.revents == POLLIN);
    char room[8192];
    struct iovec v = {room, 1};
    struct msghdr m = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &v, .msg_iovlen = 1};
    ssize_t whole = recvmsg(fd, &m, MSG_PEEK | MSG_TRUNC);
    CHECK(whole > (ssize_t)sizeof(struct nlmsghdr) && (m.msg_flags & MSG_TRUNC));
    v.iov_len = sizeof room;
    CHECK(recvmsg(fd, &m, 0) == whole && m.msg_namelen == sizeof name && name.nl_pid == 0);
    const struct nlmsghdr *h = (void *)room;
    CHECK(h->nlmsg_type == RTM_NEWLINK && h->nlmsg_seq == 77 && h->nlmsg_pid == 4711 && (h->nlmsg_flags & NLM_F_MULTI));
    CHECK(recv(fd, room, sizeof room, 0) > 0 && h->nlmsg_type == NLMSG_DONE);
    CHECK(recv(fd, room, sizeof room, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    /* Only root may change something, and there is nobody but the kernel. */
    struct request change = {{sizeof change, RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 78, 0}, {AF_UNSPEC}};
    CHECK(sendto(fd, &change, sizeof change, 0, NULL, 0) == sizeof change);
    CHECK(recv(fd, room, sizeof room, 0) > 0 && h->nlmsg_type == NLMSG_ERROR);
    CHECK(((const struct nlmsgerr *)NLMSG_DATA(h))->error == -EPERM);
    at.nl_pid = 1;
    CHECK(sendto(fd, &ask, sizeof ask, 0, (struct sockaddr *)&at, sizeof at) == -1 && errno == ECONNREFUSED);
    CHECK(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) == -1 && errno == EPROTONOSUPPORT);
    close(fd);
}

int main(void) {
    addresses();
    names();
    by_hand();
    return 0;
}
