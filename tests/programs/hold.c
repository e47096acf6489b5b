/* Holds sockets open, for measurements: prints "holding 0", waits for a line on standard input, opens N sockets, prints
 * "holding N", and keeps them until standard input ends.
 *   hold N bound                 UDP sockets bound to ports of their own
 *   hold N connected HOST PORT   TCP connections
 *   hold serve PORT              accepts any number and keeps them */
#include "t.h"

static void raise_limit(void) {
    struct rlimit files;
    MUST(getrlimit(RLIMIT_NOFILE, &files));
    files.rlim_cur = files.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &files));
}

static void until_input_ends(void) {
    char byte;
    while (read(0, &byte, 1) > 0) {}
}

int main(int argc, char **argv) {
    raise_limit();
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        int listener = listen_on(any_v4(port_arg(argv[2])), 1024);
        struct address local = local_of(listener);
        say("listening on %s", text_of(&local));
        for (;;) MUST(accept(listener, NULL, NULL));
    }
    if (argc < 3) {
        fprintf(stderr, "usage: hold N bound | N connected HOST PORT | serve PORT\n");
        return 2;
    }
    int count = atoi(argv[1]);
    bool connected = !strcmp(argv[2], "connected");
    struct address to = {0};
    if (connected && argc == 5) to = resolve(argv[3], argv[4], SOCK_STREAM);
    else if (connected || strcmp(argv[2], "bound")) return 2;
    say("holding 0");
    char line[8];
    CHECK(MUST(read(0, line, sizeof line)) > 0);
    for (int i = 0; i < count; i++) {
        if (connected) {
            int fd = (int)MUST(socket(to.any.sa_family, SOCK_STREAM, 0));
            MUST(connect(fd, &to.any, to.len));
        } else {
            int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
            struct address at = any_v4(0);
            MUST(bind(fd, &at.any, at.len));
        }
    }
    say("holding %d", count);
    until_input_ends();
    return 0;
}
