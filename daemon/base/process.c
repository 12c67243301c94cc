/*
 * The families that every Prometheus client library has about its own process, under the names
 * that dashboards expect. Nothing here allocates memory, and only what needs a descriptor is left
 * out when there is none.
 */
#include "base/metrics.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Fields of /proc/self/stat, numbered as proc(5) does. */
enum {
    STAT_THREADS = 20,
    STAT_START_TICKS = 22,
    STAT_VIRTUAL_BYTES = 23,
    STAT_RESIDENT_PAGES = 24,
};

static double timespec_seconds(clockid_t clock)
{
    struct timespec time;

    if (clock_gettime(clock, &time) < 0)
        return NAN;
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Field `number`, 3 or higher, of /proc/self/stat. False if it cannot be read. */
static bool read_stat(size_t number, uint64_t *ret_value)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    if (size <= 0)
        return false;
    text[size] = '\0';
    /* The second field is the program's name in parentheses, which may hold anything. */
    const char *field = strrchr(text, ')');
    for (size_t i = 2; field != NULL && i < number; i++)
        field = strchr(field + 1, ' ');
    if (field == NULL)
        return false;
    char *end;
    errno = 0;
    *ret_value = strtoull(field + 1, &end, 10);
    return errno == 0 && end > field + 1;
}

static void collect_cpu(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    double seconds = timespec_seconds(CLOCK_PROCESS_CPUTIME_ID);

    if (!isnan(seconds))
        metrics_double(writer, seconds, NULL);
}

/* Counts the entries of /proc/self/fd. False if it cannot be read. */
static bool count_descriptors(uint64_t *ret_count)
{
    struct stat status;

    /* Since Linux 6.2 the size of the directory is the answer, and takes no descriptor. */
    if (stat("/proc/self/fd", &status) == 0 && status.st_size > 0) {
        *ret_count = (uint64_t)status.st_size;
        return true;
    }
    int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        struct rlimit limit;
        /* There is none left: this tells their number too, when it matters most. */
        if (errno != EMFILE || getrlimit(RLIMIT_NOFILE, &limit) < 0)
            return false;
        *ret_count = limit.rlim_cur;
        return true;
    }
    _Alignas(struct dirent64) char buffer[8192];
    uint64_t count = 0;
    ssize_t size;
    /* opendir(3) would allocate. */
    while ((size = getdents64(fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t at = 0; at < size;) {
            const struct dirent64 *entry = (const void *)(buffer + at);
            count += entry->d_name[0] != '.';
            at += entry->d_reclen;
        }
    }
    (void)close(fd);
    if (size < 0)
        return false;
    *ret_count = count - 1; /* without `fd` itself */
    return true;
}

static void collect_descriptors(struct metrics_writer *writer, const struct metric_family *family,
                                void *context)
{
    uint64_t count;

    if (count_descriptors(&count))
        metrics_u64(writer, count, NULL);
}

/* The soft limit of the resource `argument`; +Inf if there is none. */
static void collect_limit(struct metrics_writer *writer, const struct metric_family *family,
                          void *context)
{
    struct rlimit limit;

    if (getrlimit((__rlimit_resource_t)family->argument, &limit) < 0)
        return;
    if (limit.rlim_cur == RLIM_INFINITY)
        metrics_double(writer, INFINITY, NULL);
    else
        metrics_u64(writer, limit.rlim_cur, NULL);
}

/* Field `argument` of /proc/self/stat, as it is. */
static void collect_stat(struct metrics_writer *writer, const struct metric_family *family,
                         void *context)
{
    uint64_t value;

    if (read_stat(family->argument, &value))
        metrics_u64(writer, value, NULL);
}

static void collect_resident(struct metrics_writer *writer, const struct metric_family *family,
                             void *context)
{
    uint64_t pages;

    if (read_stat(STAT_RESIDENT_PAGES, &pages))
        metrics_u64(writer, pages * (uint64_t)sysconf(_SC_PAGESIZE), NULL);
}

static void collect_heap(struct metrics_writer *writer, const struct metric_family *family,
                         void *context)
{
    struct mallinfo2 info = mallinfo2();

    metrics_u64(writer, info.uordblks + info.hblkhd, NULL);
}

static void collect_start(struct metrics_writer *writer, const struct metric_family *family,
                          void *context)
{
    /* Worked out once: it must not move when somebody sets the clock. */
    static double start_seconds;
    uint64_t ticks;

    if (start_seconds == 0) {
        if (!read_stat(STAT_START_TICKS, &ticks))
            return;
        double age =
            timespec_seconds(CLOCK_BOOTTIME) - (double)ticks / (double)sysconf(_SC_CLK_TCK);
        /* Ticks are hundredths of a second: more digits would be invented. */
        start_seconds = round((timespec_seconds(CLOCK_REALTIME) - age) * 100) / 100;
    }
    metrics_double(writer, start_seconds, NULL);
}

const struct metric_family metrics_process[] = {
    {"process_cpu_seconds_total", METRIC_COUNTER,
     "Total user and system CPU time spent in seconds.", collect_cpu, 0},
    {"process_open_fds", METRIC_GAUGE, "Number of open file descriptors.", collect_descriptors, 0},
    {"process_max_fds", METRIC_GAUGE, "Maximum number of open file descriptors.", collect_limit,
     RLIMIT_NOFILE},
    {"process_virtual_memory_bytes", METRIC_GAUGE, "Virtual memory size in bytes.", collect_stat,
     STAT_VIRTUAL_BYTES},
    {"process_virtual_memory_max_bytes", METRIC_GAUGE,
     "Maximum amount of virtual memory available in bytes.", collect_limit, RLIMIT_AS},
    {"process_resident_memory_bytes", METRIC_GAUGE, "Resident memory size in bytes.",
     collect_resident, 0},
    {"process_heap_bytes", METRIC_GAUGE, "Heap memory in use, in bytes, as malloc counts it.",
     collect_heap, 0},
    {"process_threads", METRIC_GAUGE, "Number of threads of the process.", collect_stat,
     STAT_THREADS},
    {"process_start_time_seconds", METRIC_GAUGE,
     "Start time of the process since the Unix epoch in seconds.", collect_start, 0},
};
const size_t metrics_process_count = ELEMENTSOF(metrics_process);
