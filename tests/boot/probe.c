/*
 * Tries from the inside of a service's sandbox what the sandbox forbids, and writes what came of it
 * as one JSON object: of each probe "OK", the name of its errno, or a value. test_sandbox.py runs
 * it in place of the service and knows what has to come of it.
 *
 *   boot-test-probe NAME         all probes; what they leave behind is named NAME
 *   boot-test-probe --refused    one system call that no sandbox here lets pass
 *   boot-test-probe --foreign    one system call of another architecture
 *   boot-test-probe --share      makes the System V segment that others look for
 *
 * It is run as root without any sandbox, too, to show that nothing else forbids the same. So no
 * probe may do harm where it succeeds: system calls get arguments that the kernel refuses, with
 * another errno than a filter does, and files are opened but not written to.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/reboot.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    SEGMENT_KEY = 0x73746f63,
    // A process that cannot be there: it is above the kernel's highest limit.
    NO_PID = 0x7fffffff,
    // Numbers of operations that no kernel knows.
    NO_OPERATION = 9999,
};

// --- output -------------------------------------------------------------------------------------

static const char *separator = "{";

static void report_text(const char *name, const char *value)
{
    printf("%s\n\"%s\": \"", separator, name);
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            fputs("\\n", stdout);
        else if (*c == '\t')
            fputs("\\t", stdout);
        else if (*c == '"' || *c == '\\')
            printf("\\%c", *c);
        else
            putchar(*c);
    }
    putchar('"');
    separator = ",";
}

static void report(const char *kind, const char *of, int error)
{
    char name[256];
    snprintf(name, sizeof(name), "%s%s%s", kind, *of ? " " : "", of);
    report_text(name, error == 0 ? "OK" : strerrorname_np(error));
}

// --- files --------------------------------------------------------------------------------------

static int try_open(const char *path, int flags, mode_t mode)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, mode);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

static void probe_read(const char *path)
{
    report("read", path, try_open(path, O_RDONLY, 0));
}

// Whether it could be written to; it is not.
static void probe_write(const char *path)
{
    report("write", path, try_open(path, O_WRONLY, 0));
}

// A file in this directory, with a name of this run.
static void file_in(const char *directory, const char *name, char *ret, size_t size)
{
    snprintf(ret, size, "%s/boot-test-made-%s", strcmp(directory, "/") == 0 ? "" : directory, name);
}

static void probe_make(const char *directory, const char *name)
{
    char path[256];

    file_in(directory, name, path, sizeof(path));
    int error = try_open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (error == 0)
        unlink(path);
    report("make", directory, error);
}

/* An empty file is ENOEXEC where programs may be run, and nothing is run. */
static void probe_execute_file(const char *of, const char *path)
{
    char *const arguments[] = {(char *)path, NULL};

    execve(path, arguments, arguments + 1);
    report("execute", of, errno);
}

static void probe_execute_in(const char *directory, const char *name)
{
    char path[256];

    file_in(directory, name, path, sizeof(path));
    int error = try_open(path, O_WRONLY | O_CREAT | O_EXCL, 0700);
    if (error != 0) {
        report("execute", directory, error);
        return;
    }
    probe_execute_file(directory, path);
    unlink(path);
}

static void probe_modes(const char *name)
{
    char path[256], mode[16] = "none";
    struct stat status;

    file_in("/tmp", name, path, sizeof(path));
    report("set-user-ID", "", try_open(path, O_WRONLY | O_CREAT | O_EXCL, S_ISUID | 0700));
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 && fstat(fd, &status) == 0)
        snprintf(mode, sizeof(mode), "%04o", (unsigned)(status.st_mode & 07777));
    report_text("mode", mode);
    if (fd >= 0)
        close(fd);
    unlink(path);
}

/* Makes a file that stays, for others to see whether it is taken away. */
static void leave_behind(const char *name)
{
    char path[256];

    file_in("/dev/shm", name, path, sizeof(path));
    report("leave", "/dev/shm", try_open(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
}

static void probe_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int error = errno;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (fd >= 0) {
        error = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
        close(fd);
    }
    report("connect", path, error);
}

static void probe_files(const char *name)
{
    static const char *const read[] = {
        "/var/lib/dpkg/status",
        "/home/boot-test/file",
        "/tmp/boot-test-file",
        "/var/tmp/boot-test-file",
        "/dev/boot-test-file",
        "/dev/shm",
        "/dev/shm/boot-test-file",
        "/dev/boot-test-device",
        "/usr/lib/modules/boot-test-file",
        "/etc/boot-test-file",
        "/usr/bin/boot-test-file",
        "/usr/local/lib/boot-test-file",
        "/run/stockd/boot-test-file",
        "/run/boot-test-file",
        "/proc/1/status",
        "/proc/meminfo",
        "/proc/kmsg",
        "/credentials/boot-test",
        "/lib/ld-linux.so.2",
        "/lib64/ld-linux-x86-64.so.2",
        "/run/systemd/journal/socket",
        "/run/systemd/resolve/boot-test-file",
        "/run/resolvconf/boot-test-file",
        "/run/NetworkManager/boot-test-file",
        "/run/avahi-daemon/boot-test-file",
        "/run/nscd/boot-test-file",
    };
    static const char *const written[] = {
        "/proc/sys/net/ipv4/ip_default_ttl", "/etc/boot-test-file",
        "/usr/lib/boot-test-file",           "/usr/local/lib/boot-test-file",
        "/run/stockd/boot-test-file",        "/sys/fs/cgroup/cgroup.procs"};
    static const char *const made[] = {"/",        "/etc",    "/usr", "/run",           "/home",
                                       "/root",    "/var",    "/dev", "/sys/fs/cgroup", "/tmp",
                                       "/var/tmp", "/dev/shm"};
    static const char *const executed[] = {"/tmp", "/var/tmp"};
    static const char *const connected[] = {"/run/dbus/system_bus_socket", "/run/systemd/private",
                                            "/run/systemd/notify", "/run/systemd/journal/stdout"};

    for (size_t i = 0; i < sizeof(read) / sizeof(*read); i++)
        probe_read(read[i]);
    for (size_t i = 0; i < sizeof(written) / sizeof(*written); i++)
        probe_write(written[i]);
    for (size_t i = 0; i < sizeof(made) / sizeof(*made); i++)
        probe_make(made[i], name);
    for (size_t i = 0; i < sizeof(executed) / sizeof(*executed); i++)
        probe_execute_in(executed[i], name);
    probe_execute_file("/usr/bin", "/usr/bin/boot-test-file");
    for (size_t i = 0; i < sizeof(connected) / sizeof(*connected); i++)
        probe_connect(connected[i]);
    probe_modes(name);
    leave_behind(name);
}

// --- what the process is ------------------------------------------------------------------------

static void report_file(const char *path)
{
    static char text[128 * 1024];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t n;

    while (fd >= 0 && size < sizeof(text) - 1 &&
           (n = read(fd, text + size, sizeof(text) - 1 - size)) > 0)
        size += (size_t)n;
    text[size] = '\0';
    if (fd >= 0)
        close(fd);
    report_text(path, text);
}

static void probe_process(void)
{
    static const char *const spaces[] = {"ipc", "uts", "mnt", "user"};
    static const char *const files[] = {"/proc/self/status", "/proc/self/mountinfo",
                                        "/proc/self/uid_map", "/proc/self/limits",
                                        "/proc/self/oom_score_adj"};
    char path[64], value[64];
    int count = 0;

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        report_file(files[i]);
    for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++) {
        snprintf(path, sizeof(path), "/proc/self/ns/%s", spaces[i]);
        ssize_t n = readlink(path, value, sizeof(value) - 1);
        value[n > 0 ? n : 0] = '\0';
        report_text(path, value);
    }
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));)
        count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    if (proc)
        closedir(proc);
    snprintf(value, sizeof(value), "%d", count);
    report_text("processes", value);
}

/* How many descriptors there can be. */
static void probe_descriptors(void)
{
    char value[16];
    int highest = 0, fd;

    // Where there is no limit worth the name it is not looked for.
    while (highest < 100000 && (fd = dup(0)) >= 0)
        highest = fd;
    close_range(3, ~0U, 0);
    snprintf(value, sizeof(value), "%d", highest + 1);
    report_text("descriptors", value);
}

// --- memory and sockets -------------------------------------------------------------------------

static void probe_memory(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);

    void *both =
        mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    report("map", "writable and executable", both == MAP_FAILED ? errno : 0);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        report("map", "writable", errno);
        return;
    }
    memset(page, 0, size);
    report("map", "writable", 0);
    report("protect", "executable", mprotect(page, size, PROT_READ | PROT_EXEC) == 0 ? 0 : errno);
}

static void probe_sockets(void)
{
    static const struct {
        const char *name;
        int family, type;
    } sockets[] = {
        {"AF_INET", AF_INET, SOCK_STREAM},        {"AF_INET6", AF_INET6, SOCK_STREAM},
        {"AF_UNIX", AF_UNIX, SOCK_STREAM},        {"AF_NETLINK", AF_NETLINK, SOCK_RAW},
        {"AF_PACKET", AF_PACKET, SOCK_RAW},       {"AF_VSOCK", AF_VSOCK, SOCK_STREAM},
        {"AF_ALG", AF_ALG, SOCK_SEQPACKET},       {"AF_KEY", AF_KEY, SOCK_RAW},
        {"AF_BLUETOOTH", AF_BLUETOOTH, SOCK_RAW},
    };

    for (size_t i = 0; i < sizeof(sockets) / sizeof(*sockets); i++) {
        int fd = socket(sockets[i].family, sockets[i].type | SOCK_CLOEXEC, 0);
        report("socket", sockets[i].name, fd < 0 ? errno : 0);
        if (fd >= 0)
            close(fd);
    }
}

// --- system calls -------------------------------------------------------------------------------

static void probe_calls(void)
{
    static const struct timespec no_time = {.tv_sec = 0, .tv_nsec = -1};
    static const struct sched_param no_priority = {.sched_priority = 1000};
    static const struct {
        const char *name;
        long number;
        long arguments[5];
    } calls[] = {
#define CALL(call, ...)                                                                            \
    {                                                                                              \
#call, SYS_##call,                                                                         \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
        // Other processes
        CALL(ptrace, NO_OPERATION, NO_PID),
        CALL(process_vm_readv, NO_PID, 0, 0, 0, 0),
        CALL(process_vm_writev, NO_PID, 0, 0, 0, 0),
        CALL(kcmp, NO_PID, NO_PID, 0, 0, 0),
        CALL(pidfd_open, NO_PID, 0),
        CALL(kill, NO_PID, 0),
        CALL(clone, CLONE_SIGHAND),
        CALL(clone3, 0, 0),
        CALL(wait4, NO_PID, 0, NO_OPERATION, 0),
        CALL(setpgid, 0, -1),
        // Who it is
        CALL(setuid, -1),
        CALL(setgid, -1),
        CALL(setresuid, -1, -1, -1),
        CALL(setgroups, -1, 0),
        CALL(capset, 0, 0),
        CALL(prctl, NO_OPERATION),
        CALL(personality, 0x0008),
        CALL(keyctl, NO_OPERATION),
        CALL(add_key, 0, 0, 0, 0, 0),
        CALL(request_key, 0, 0, 0, 0),
        // Namespaces and mounts; 0x1 is no flag of unshare
        CALL(unshare, CLONE_NEWUSER | 0x1),
        CALL(setns, -1, 0),
        CALL(mount, 0, 0, 0, 0, 0),
        CALL(umount2, 0, 0x1000),
        CALL(pivot_root, 0, 0),
        CALL(chroot, 0),
        CALL(fsopen, 0, 0),
        CALL(open_tree, -1, 0, 0),
        CALL(move_mount, -1, 0, -1, 0, 0),
        // Files
        CALL(mknodat, -1, 0, 0, 0),
        CALL(fchmod, -1, 0),
        CALL(fchmodat, -1, 0, 0),
        CALL(fchown, -1, 0, 0),
        CALL(fchownat, -1, 0, 0, 0, 0),
        CALL(linkat, -1, 0, -1, 0, 0),
        CALL(symlinkat, 0, -1, 0),
        CALL(mkdirat, -1, 0, 0),
        CALL(renameat2, -1, 0, -1, 0, 0),
        CALL(truncate, 0, 0),
        CALL(setxattr, 0, 0, 0, 0, 0),
        CALL(utimensat, -1, 0, 0, NO_OPERATION),
        CALL(inotify_init1, NO_OPERATION),
        CALL(fanotify_init, NO_OPERATION, NO_OPERATION),
        CALL(name_to_handle_at, -1, 0, 0, 0, 0),
        CALL(open_by_handle_at, -1, 0, 0),
        CALL(openat2, -1, 0, 0, 0),
        CALL(chdir, 0),
        // Kinds of memory, and other ways to do what is refused
        CALL(memfd_create, 0, 0),
        CALL(memfd_secret, NO_OPERATION),
        CALL(userfaultfd, NO_OPERATION),
        CALL(io_uring_setup, 0, 0),
        CALL(bpf, NO_OPERATION, 0, 0),
        CALL(perf_event_open, 0, 0, 0, 0, 0),
        CALL(mlock, 0, 0),
        CALL(mbind, 0, 0, NO_OPERATION, 0, 0),
        CALL(execveat, -1, 0, 0, 0, 0),
        CALL(pkey_mprotect, 1, 1, 0, 0),
        // Messages between processes
        CALL(shmget, 0, 0, 0),
        CALL(semget, SEGMENT_KEY + 1, 0, 0),
        CALL(msgget, SEGMENT_KEY + 1, 0),
        CALL(mq_open, 0, 0, 0, 0),
        // The machine
        CALL(reboot, 0, 0, 0, 0),
        CALL(kexec_load, 0, 0, 0, -1),
        CALL(swapon, 0, 0),
        CALL(init_module, 0, 0, 0),
        CALL(finit_module, -1, 0, 0),
        CALL(delete_module, 0, 0),
        CALL(clock_settime, CLOCK_REALTIME, (long)&no_time),
        CALL(settimeofday, 0, 0),
        CALL(sethostname, 0, -1),
        CALL(setdomainname, 0, -1),
        CALL(syslog, 10, 0, 0),
        CALL(quotactl, NO_OPERATION, 0, 0, 0),
        // What takes from others
        CALL(sched_setscheduler, 0, SCHED_FIFO, (long)&no_priority),
        CALL(sched_setaffinity, NO_PID, 0, 0),
        CALL(setpriority, NO_OPERATION, 0, 0),
        CALL(ioprio_set, NO_OPERATION, 0, 0),
        CALL(setrlimit, NO_OPERATION, 0),
        CALL(timer_create, NO_OPERATION, 0, 0),
#undef CALL
    };

    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        const long *a = calls[i].arguments;
        long r = syscall(calls[i].number, a[0], a[1], a[2], a[3], a[4]);
        report("call", calls[i].name, r < 0 ? errno : 0);
    }
    // In control runs it has taken effect.
    (void)syscall(SYS_personality, 0);
}

static void probe_shared(void)
{
    // The one that --share has made, outside.
    report("System V segment", "", shmget(SEGMENT_KEY, 0, 0) < 0 ? errno : 0);
    // The manager puts this key into the keyring of a session, if the service has one of its own.
    long key =
        syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "invocation_id", 0);
    report("key of the session", "", key < 0 ? errno : 0);
}

// --- what may end the process -------------------------------------------------------------------

/* What a wrong action of a filter would end, in a run of its own. */
static void refused_call(void)
{
    report("call", "mount", syscall(SYS_mount, 0, 0, 0, 0, 0) < 0 ? errno : 0);
}

static void foreign_call(void)
{
#if defined(__x86_64__)
    // getpid, as programs of 32 bits call it.
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    report("foreign call", "", r < 0 ? (int)-r : 0);
#else
    report("foreign call", "", ENOSYS);
#endif
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    if (strcmp(argv[1], "--share") == 0)
        return shmget(SEGMENT_KEY, 4096, IPC_CREAT | 0666) < 0;
    if (strcmp(argv[1], "--refused") == 0) {
        refused_call();
    } else if (strcmp(argv[1], "--foreign") == 0) {
        foreign_call();
    } else {
        probe_process();
        probe_files(argv[1]);
        probe_memory();
        probe_sockets();
        probe_calls();
        probe_shared();
        probe_descriptors();
    }
    puts("\n}");
    return fflush(stdout) != 0;
}
