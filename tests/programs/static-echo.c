/* static-echo PORT [CONNECTIONS [ADDRESS]]: a blocking TCP echo server, one thread. Ends well after CONNECTIONS, if given
 * and not 0. ADDRESS is where it listens (default: 0.0.0.0). */
#include "t.h"

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: static-echo PORT [CONNECTIONS [ADDRESS]]\n");
        return 2;
    }
    int left = argc > 2 && atoi(argv[2]) > 0 ? atoi(argv[2]) : -1;
    struct address at = any_v4(port_arg(argv[1]));
    if (argc > 3) CHECK(inet_pton(AF_INET, argv[3], &at.v4.sin_addr) == 1);
    int listener = listen_on(at, 64);
    struct address local = local_of(listener);
    say("listening on %s", text_of(&local));
    while (left != 0) {
        struct address peer = {.len = sizeof peer.room};
        int fd = (int)MUST(accept(listener, &peer.any, &peer.len));
        CHECK(peer.len == sizeof peer.v4);
        struct address again = peer_of(fd);
        CHECK(same_address(&peer, &again));
        static char buffer[65536];
        size_t total = 0;
        ssize_t n;
        while ((n = read(fd, buffer, sizeof buffer)) > 0) {
            write_all(fd, buffer, (size_t)n);
            total += (size_t)n;
        }
        if (n < 0) say("peer %s: %s after %zu bytes", text_of(&peer), errname(errno), total);
        else say("peer %s said %zu bytes", text_of(&peer), total);
        MUST(close(fd));
        if (left > 0) left--;
    }
    return 0;
}
