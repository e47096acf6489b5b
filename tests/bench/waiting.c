/* bench-waiting COUNT: so many threads wait in accept() of one listener. Says "waiting" when they do, and ends with its input. */
#include "../programs/t.h"
#include <pthread.h>

static int listener;

static void *wait_here(void *unused) {
    (void)unused;
    MUST(accept(listener, NULL, NULL));
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    listener = listen_on(loopback_v4(0), 16);
    pthread_attr_t small;
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 65536) == 0);
    for (int i = 0; i < atoi(argv[1]); i++) {
        pthread_t t;
        CHECK(pthread_create(&t, &small, wait_here, NULL) == 0);
    }
    say("waiting");
    char end;
    (void)!read(0, &end, 1);
    return 0;
}
