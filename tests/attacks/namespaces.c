/* Other namespaces, code in the kernel, devices: whatever gives a network, or somebody else's memory, without a socket call. */
#include "attack.h"
#include <linux/if_tun.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

static void leave(void *unused) {
    (void)unused;
    EACH_TARGET(t) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        sendto(fd, token(), token_length(), 0, &t.any, t.len);
        close(fd);
    }
}

/* Natively: the network of another namespace can be entered. */
static void unshares(void) {
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {{"CLONE_NEWUSER", CLONE_NEWUSER}, {"CLONE_NEWNET", CLONE_NEWNET}, {"CLONE_NEWNS", CLONE_NEWNS}};
    for (int i = 0; i < 3; i++) {
        fflush(stdout);
        int report[2];
        MUST(pipe(report));
        pid_t child = (pid_t)MUST(fork());
        if (child == 0) {
            int e = unshare(kinds[i].flag) == 0 ? 0 : errno;
            write(report[1], &e, sizeof e);
            leave(NULL);
            _exit(0);
        }
        int e;
        CHECK(read(report[0], &e, sizeof e) == sizeof e);
        MUST(waitpid(child, NULL, 0));
        note("unshare %s: %s", kinds[i].name, e ? errname(e) : "done");
        if (e == 0) through();
        long r = syscall(SYS_clone, kinds[i].flag | SIGCHLD, 0, 0, 0, 0);
        int why = errno;
        if (r == 0) _exit(0);
        if (r > 0) waitpid((pid_t)r, NULL, 0);
        note("clone %s: %s", kinds[i].name, r < 0 ? errname(why) : "done");
        if (r > 0) through();
    }
    uint64_t arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long r = syscall(SYS_clone3, arguments, sizeof arguments);
    int why = errno;
    if (r == 0) _exit(0);
    note("clone3: %s", r < 0 ? errname(why) : "done");
    if (r > 0) through();
}

static void setns_(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", env("T_FAR_PID"));
    int fd = (int)TRY("open of ns/net", open(path, O_RDONLY));
    TRY_THROUGH("setns", setns(fd, CLONE_NEWNET));
    int pidfd = (int)syscall(SYS_pidfd_open, atoi(env("T_PID")), 0);
    TRY("setns by pidfd", setns(pidfd, CLONE_NEWNET | CLONE_NEWNS));
}

static void mounts(void) {
    TRY_THROUGH("mount", mount("none", "/mnt", "tmpfs", 0, NULL));
    umount2("/mnt", MNT_DETACH);
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
    struct {
        struct {
            unsigned bytes;
            int type;
        } h;
        unsigned char f[128];
    } handle = {.h = {sizeof handle.f, 0}};
    int at, root = (int)MUST(open("/tmp", O_RDONLY | O_DIRECTORY));
    if (syscall(SYS_name_to_handle_at, root, "", &handle, &at, AT_EMPTY_PATH) == 0)
        TRY_THROUGH("open_by_handle_at", syscall(SYS_open_by_handle_at, root, &handle, O_RDONLY));
}

/* A network interface made of a file: packets of any kind by write(). */
static void tun(void) {
    int fd = (int)TRY("open of /dev/net/tun", open("/dev/net/tun", O_RDWR));
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    if (fd >= 0) TRY_THROUGH("TUNSETIFF", ioctl(fd, TUNSETIFF, &request));
    static const char *const devices[] = {"/dev/vhost-net", "/dev/ppp", "/dev/vsock", "/dev/kvm", "/dev/mem", "/dev/fuse"};
    for (int i = 0; i < 6; i++) {
        int device = open(devices[i], O_RDWR);
        if (device < 0) continue;
        note("open of %s: done", devices[i]);
        close(device);
    }
}

/* The network of the host, set up by ioctl(): no netlink needed. */
static void interfaces(void) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", env("T_INTERFACE"));
    /* Under sipbox there is no such interface to be asked about. */
    if (TRY("SIOCGIFFLAGS", ioctl(fd, SIOCGIFFLAGS, &request))) request.ifr_flags = IFF_UP | IFF_RUNNING;
    TRY_THROUGH("SIOCSIFFLAGS", ioctl(fd, SIOCSIFFLAGS, &request));
    TRY_THROUGH("SIOCGSKNS", ioctl(fd, 0x894c, 0));
    struct ifreq alias = {0};
    snprintf(alias.ifr_name, sizeof alias.ifr_name, "%.12s:1", env("T_INTERFACE"));
    struct address a = any_v4(0);
    inet_pton(AF_INET, "203.0.113.77", &a.v4.sin_addr);
    memcpy(&alias.ifr_addr, &a.v4, sizeof a.v4);
    TRY_THROUGH("SIOCSIFADDR", ioctl(fd, SIOCSIFADDR, &alias));
}

static void kernel_code(void) {
    static char attr[128];
    TRY("bpf", syscall(SYS_bpf, 5, attr, sizeof attr));
    *(int *)attr = 1, ((int *)attr)[1] = 4, ((int *)attr)[2] = 4, ((int *)attr)[3] = 1;
    TRY_THROUGH("bpf map", syscall(SYS_bpf, 0, attr, sizeof attr));
    TRY("finit_module", syscall(SYS_finit_module, -1, "", 0));
    TRY("init_module", syscall(SYS_init_module, attr, sizeof attr, ""));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    uint32_t event[32] = {1 /* PERF_TYPE_SOFTWARE */, sizeof event};
    TRY_THROUGH("perf_event_open", syscall(SYS_perf_event_open, event, 0, -1, -1, 0));
    TRY("delete_module", syscall(SYS_delete_module, "sipbox-none", 0));
}

static void keys(void) {
    TRY_THROUGH("add_key", syscall(SYS_add_key, "user", "sipbox-attack", "x", 1, -4 /* KEY_SPEC_USER_KEYRING */));
    TRY("request_key", syscall(SYS_request_key, "user", "sipbox-attack", NULL, 0));
    TRY_THROUGH("keyctl", syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -4, 1));
}

/* A page whose first use waits for the attacker stalls whoever reads it: the supervisor. */
static void faults(void) {
    TRY_THROUGH("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
    int fd = open("/dev/userfaultfd", O_RDWR);
    if (fd >= 0) TRY_THROUGH("USERFAULTFD_IOC_NEW", ioctl(fd, USERFAULTFD_IOC_NEW, O_CLOEXEC));
}

/* Typing into the terminal that started sipbox. */
static void type_into_it(void *report) {
    int fd = posix_openpt(O_RDWR | O_NOCTTY), *said = report;
    if (fd < 0 || grantpt(fd) || unlockpt(fd)) return;
    MUST(setsid());
    int slave = (int)MUST(open(ptsname(fd), O_RDWR));
    ioctl(slave, TIOCSCTTY, 0);
    char kind = 2;
    said[0] = ioctl(slave, TIOCSTI, "x") ? errno : 0;
    said[1] = syscall(SYS_ioctl, slave, 0x100000000ul | TIOCSTI, "x") ? errno : 0;
    said[2] = ioctl(slave, TIOCLINUX, &kind) ? errno : 0;
}

static void typing(void) {
    int *said = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(said != MAP_FAILED);
    said[0] = -1;
    apart(type_into_it, said);
    if (said[0] < 0) absent("no terminals");
    note("TIOCSTI: %s, with more bits: %s, TIOCLINUX: %s", errname(said[0]), errname(said[1]), errname(said[2]));
    if (!said[0] || !said[1]) through();
}

/* Node, capability and time: what only root has, and the program must not have either. */
static void privileges(void) {
    char path[256];
    snprintf(path, sizeof path, "%s.node", env("T_KNOCK"));
    TRY_THROUGH("mknod of /dev/mem", mknod(path, S_IFCHR | 0600, makedev(1, 1)));
    unlink(path);
    TRY("chroot", chroot("/"));
    TRY("iopl", syscall(SYS_iopl, 3));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    TRY("swapoff", syscall(SYS_swapoff, "/nonexistent"));
    TRY("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    FILE *status = fopen("/proc/self/status", "r");
    char line[128];
    unsigned long long held = 0;
    while (status && fgets(line, sizeof line, status)) sscanf(line, "CapEff: %llx", &held);
    if (status) fclose(status);
    static const struct {
        const char *name;
        int bit;
    } dangerous[] = {{"CAP_NET_ADMIN", 12}, {"CAP_NET_RAW", 13},     {"CAP_SYS_MODULE", 16}, {"CAP_SYS_RAWIO", 17},
                     {"CAP_SYS_PTRACE", 19}, {"CAP_SYS_ADMIN", 21}, {"CAP_SYS_BOOT", 22},   {"CAP_MKNOD", 27},
                     {"CAP_BPF", 39}};
    for (size_t i = 0; i < sizeof dangerous / sizeof *dangerous; i++) {
        if (!(held >> dangerous[i].bit & 1)) continue;
        note("has %s", dangerous[i].name);
        through();
    }
}

ATTACKS({"unshare", unshares}, {"setns", setns_}, {"mount", mounts}, {"tun", tun}, {"interfaces", interfaces},
        {"kernel-code", kernel_code}, {"keys", keys}, {"faults", faults}, {"typing", typing}, {"privileges", privileges})
