/* static-client HOST PORT [TEXT | @BYTES]: connects (blocking), sends, reads the echo back and compares.
 * Prints the local and the peer's address and the text. Exit status: 0; 1 a deviation; 3 connect failed; 4 no such name. */
#include "t.h"

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: static-client HOST PORT [TEXT | @BYTES]\n");
        return 2;
    }
    const char *text = argc > 3 ? argv[3] : "hello over SIP";
    struct address to = resolve(argv[1], argv[2], SOCK_STREAM);
    int fd = (int)MUST(socket(to.any.sa_family, SOCK_STREAM, 0));
    MUST_FAIL(getpeername(fd, &(struct address){.len = sizeof to.room}.any, &(socklen_t){sizeof to.room}), ENOTCONN);
    if (connect(fd, &to.any, to.len) < 0) {
        fprintf(stderr, "connect to %s: %s (%s)\n", text_of(&to), errname(errno), strerror(errno));
        return 3;
    }
    struct address local = local_of(fd), peer = peer_of(fd);
    say("local %s", text_of(&local));
    say("peer %s", text_of(&peer));
    CHECK(same_address(&peer, &to));
    CHECK(port_of(&local) != 0);

    size_t total;
    if (text[0] == '@') {
        total = strtoul(text + 1, NULL, 10);
        static unsigned char out[16384], in[16384];
        for (size_t done = 0; done < total;) {
            size_t n = total - done < sizeof out ? total - done : sizeof out;
            for (size_t i = 0; i < n; i++) out[i] = (unsigned char)((done + i) * 31 >> 3);
            write_all(fd, out, n);
            CHECK(read_all(fd, in, n) == n);
            CHECK(memcmp(in, out, n) == 0);
            done += n;
        }
        say("echo: %zu bytes, all as sent", total);
    } else {
        char in[4096];
        total = strlen(text);
        CHECK(total < sizeof in);
        write_all(fd, text, total);
        CHECK(read_all(fd, in, total) == total);
        CHECK(memcmp(in, text, total) == 0);
        say("echo: %.*s", (int)total, in);
    }
    MUST(shutdown(fd, SHUT_WR));
    char more;
    CHECK(read(fd, &more, 1) == 0); /* the server closes: the end of the stream, not a reset */
    MUST(close(fd));
    return 0;
}
