/* udp-server PORT [BYES]: answers every datagram "TEXT" with "PORT:TEXT" from one unconnected socket.
 * A datagram "bye" is answered and counted; the program ends well after BYES of them, if given. */
#include "t.h"

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: udp-server PORT [BYES]\n");
        return 2;
    }
    int port = port_arg(argv[1]), byes = argc > 2 ? atoi(argv[2]) : -1;
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct address at = any_v4(port), seen[256];
    int known = 0, datagrams = 0;
    MUST(bind(fd, &at.any, at.len));
    struct address local = local_of(fd);
    CHECK(port_of(&local) == port || port == 0);
    port = port_of(&local);
    say("listening on %s", text_of(&local));
    while (byes != 0) {
        static char in[65536], out[65536 + 8];
        struct address peer = {.len = sizeof peer.room};
        ssize_t n = MUST(recvfrom(fd, in, sizeof in, 0, &peer.any, &peer.len));
        CHECK(peer.len == sizeof peer.v4);
        datagrams++;
        int i = 0;
        while (i < known && !same_address(&seen[i], &peer)) i++;
        if (i == known && known < 256) {
            seen[known++] = peer;
            say("new client %s", text_of(&peer));
        }
        int head = snprintf(out, sizeof out, "%d:", port);
        memcpy(out + head, in, (size_t)n);
        CHECK(MUST(sendto(fd, out, (size_t)(head + n), 0, &peer.any, peer.len)) == head + n);
        if (n == 3 && memcmp(in, "bye", 3) == 0 && byes > 0) byes--;
    }
    say("answered %d datagrams of %d clients", datagrams, known);
    return 0;
}
