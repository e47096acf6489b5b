/* Sockets of rtnetlink (netlink(7)): their names. */
#include "c.h"
#define GROUP "netlink"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

static int routes(void) { return (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)); }

static long name(int fd, unsigned port, unsigned groups) {
    struct sockaddr_nl at = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
    return bind(fd, &at, sizeof at);
}

/* Its own process' number, any other one, or one of these. */
static void show_name(int fd, unsigned chosen) {
    struct sockaddr_nl at;
    socklen_t length = sizeof at;
    R(getsockname(fd, &at, &length));
    const char *port = !at.nl_pid ? "none" : at.nl_pid == chosen ? "the chosen one" : "another";
    say("port %s, groups %#x, length %d", port, at.nl_groups, (int)length);
}

CASE(bound_by_itself, UNIXS) {
    int fd = routes();
    R(name(fd, 0, 0));
    show_name(fd, 0);
}

CASE(bound_to_a_port, UNIXS) {
    int fd = routes(), other = routes();
    R(name(fd, 70001, 0));
    show_name(fd, 70001);
    R(name(fd, 70001, 0));
    R(name(fd, 70002, 0));
    R(name(fd, 0, 0));
    /* Somebody has it. */
    R(name(other, 70001, 0));
    R(name(other, 70003, 0));
    show_name(other, 70003);
    R(close(fd));
    int third = routes();
    R(name(third, 70001, 0));
    show_name(third, 70001);
}

CASE(bound_to_groups, UNIXS) {
    int fd = routes();
    R(name(fd, 70001, RTMGRP_LINK | RTMGRP_IPV4_IFADDR));
    show_name(fd, 70001);
    R(name(fd, 70001, RTMGRP_LINK));
    show_name(fd, 70001);
    R(name(fd, 70001, 0));
    show_name(fd, 70001);
    int other = routes();
    R(name(other, 0, RTMGRP_IPV6_IFADDR));
    show_name(other, 0);
    show_poll_now(fd);
}

CASE(names_of_many_that_are_closed, UNIXS) {
    int refused = 0;
    for (int i = 0; i < 2500; i++) {
        int fd = routes();
        refused += name(fd, 80000 + (unsigned)i, 0) != 0;
        MUST(close(fd));
    }
    R(refused);
}

CASE(bad_names, UNIXS) {
    int fd = routes();
    struct sockaddr_nl at = {.nl_family = AF_NETLINK, .nl_pid = 70001};
    R(bind(fd, &at, 11));
    R(bind(fd, &at, 200));
    R(bind(fd, &at, 0));
    R(bind(fd, &at, -1));
    R(bind(fd, edge(8), sizeof at));
    at.nl_family = AF_INET;
    R(bind(fd, &at, sizeof at));
}
