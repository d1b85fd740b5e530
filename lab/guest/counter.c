/*
 * The lab's guest program: a counter that shows whether a snapshot is consistent.
 *
 * Every tick it writes a number to its memory (started = n), to the head sector and one slot sector of each disk,
 * and to its memory again (done = n). So in any snapshot of one instant, for every disk:
 *     done <= number in the head sector <= started
 * and after a revert the guest itself compares each head sector with the number it remembers (MISMATCH lines).
 *
 * The layouts are read by lab/counter.ts; all integers are little-endian.
 *
 * Kernel arguments: counter.ms=100   tick period
 *                   counter.disks=N  wait (at most 30 s) until there are N disks
 *                   dirty.mib=N dirty.rate=PAGES_PER_SECOND  a second process that dirties memory
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define SECTOR 512
#define SLOTS 64
#define AREA ((1 + SLOTS) * SECTOR)
#define MAX_DISKS 26

typedef uint32_t u32;
typedef uint64_t u64;

/* One of the two records in the memory page. The one not in use is written, its checksum last, so that
 * at any instant at least one of them is complete; the reader takes the complete one with the larger seq. */
struct record {
    u64 seq, started, done, mono_ns, real_ns;
    u32 disks, reserved;
    u64 spare;
    u64 sum; /* FNV-1a 64 of the 56 bytes before */
};

struct page {
    char magic[8]; /* "XLSNAPCT" */
    u32 version, page_size;
    unsigned char boot[16];
    unsigned char pad[32];
    struct record rec[2]; /* at 64 and 128 */
};

struct sector {
    char magic[8]; /* "XLSNAPSC" */
    u32 version, disk;
    unsigned char boot[16];
    u64 number, real_ns;
    u64 index; /* the sector this was written to: 0 is the head */
    unsigned char pad[SECTOR - 56 - 8];
    u64 sum; /* FNV-1a 64 of the 504 bytes before */
};

struct dirty_page {
    char magic[8]; /* "XLSNAPDP" */
    u32 version, index;
    unsigned char boot[16];
    u64 generation;
    u64 fill[(PAGE - 48) / 8];
    u64 sum; /* of the words before, see dirty_sum */
};

_Static_assert(sizeof(struct record) == 64, "record");
_Static_assert(sizeof(struct sector) == SECTOR, "sector");
_Static_assert(sizeof(struct dirty_page) == PAGE, "dirty page");

struct disk {
    char name[16];
    int fd;
    u64 last; /* number in the head sector as this program left it */
    int used; /* there is such a number */
    u64 first; /* first number that this program wrote, 0 before that */
};

static int console = 1;
static unsigned char boot_id[16];

static u64 fnv(const void *data, size_t n)
{
    const unsigned char *p = data;
    u64 h = 0xcbf29ce484222325ULL;
    while (n--)
        h = (h ^ *p++) * 0x100000001b3ULL;
    return h;
}

static u64 now(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (u64)t.tv_sec * 1000000000ULL + (u64)t.tv_nsec;
}

/* One line, one write: two processes share the console. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(line, sizeof line - 1, format, ap);
    va_end(ap);
    if (n < 0)
        return;
    if (n > (int)sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    for (int o = 0; o < n;) {
        ssize_t r = write(console, line + o, (size_t)(n - o));
        if (r < 0 && errno != EINTR && errno != EAGAIN)
            return;
        if (r > 0)
            o += (int)r;
    }
}

static const char *read_file(const char *path, char *buf, size_t size)
{
    buf[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return buf;
    ssize_t n = read(fd, buf, size - 1);
    close(fd);
    buf[n > 0 ? n : 0] = 0;
    buf[strcspn(buf, "\n")] = 0;
    return buf;
}

static long argument(const char *cmdline, const char *key, long otherwise)
{
    size_t n = strlen(key);
    for (const char *p = cmdline; (p = strstr(p, key)); p += n)
        if ((p == cmdline || p[-1] == ' ') && p[n] == '=')
            return strtol(p + n + 1, NULL, 10);
    return otherwise;
}

static void sleep_until(u64 t)
{
    struct timespec ts = { .tv_sec = (time_t)(t / 1000000000ULL), .tv_nsec = (long)(t % 1000000000ULL) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
        ;
}

/* ---- the second process: memory that changes at a known rate ---- */

static u64 mix(u64 x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static u64 dirty_sum(const struct dirty_page *p)
{
    const u64 *w = (const u64 *)p;
    u64 h = 0xcbf29ce484222325ULL;
    for (size_t i = 0; i < PAGE / 8 - 1; i++)
        h = (h ^ w[i]) * 0x100000001b3ULL;
    return h;
}

static void dirty_fill(struct dirty_page *p, u32 index, u64 generation)
{
    memcpy(p->magic, "XLSNAPDP", 8);
    p->version = 1;
    p->index = index;
    memcpy(p->boot, boot_id, 16);
    p->generation = generation;
    u64 x = mix(((u64)index << 32) ^ generation);
    for (size_t i = 0; i < sizeof p->fill / 8; i++)
        p->fill[i] = x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    p->sum = dirty_sum(p);
}

static void dirty(long mib, long rate)
{
    const size_t pages = (size_t)mib << 8;
    struct dirty_page *mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED) {
        say("DIRTY-FAILED mib=%ld errno=%d", mib, errno);
        _exit(1);
    }
    for (size_t i = 0; i < pages; i++)
        dirty_fill(&mem[i], (u32)i, 1);
    mlock(mem, pages * PAGE);
    say("DIRTY-UP mib=%ld rate=%ld", mib, rate);
    u64 written = 0, generation = 2, bad = 0, start = now(CLOCK_MONOTONIC), shown = start;
    size_t next = 0;
    for (;;) {
        u64 t = now(CLOCK_MONOTONIC);
        u64 due = (u64)((double)(t - start) * (double)rate / 1e9);
        if (due > written + (u64)rate) { /* far behind (slow machine, or stopped for long): start counting again */
            start = t - (u64)((double)written * 1e9 / (double)rate);
            due = written + 1;
        }
        for (; written < due; written++) {
            struct dirty_page *p = &mem[next];
            if (p->index != next || p->generation != generation - 1 || p->sum != dirty_sum(p)) {
                bad++;
                say("DIRTY-MISMATCH page=%zu index=%u generation=%llu want=%llu", next, p->index,
                    (unsigned long long)p->generation, (unsigned long long)generation - 1);
            }
            dirty_fill(p, (u32)next, generation);
            if (++next == pages) {
                next = 0;
                generation++;
            }
        }
        if (t - shown >= 1000000000ULL) {
            shown = t;
            say("DIRTY pages=%llu generation=%llu bad=%llu", (unsigned long long)written, (unsigned long long)generation,
                (unsigned long long)bad);
        }
        sleep_until(t + 10000000ULL);
    }
}

/* ---- disks ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct disk *)a)->name, ((const struct disk *)b)->name);
}

static int find_disks(struct disk *disks)
{
    int n = 0;
    DIR *d = opendir("/sys/block");
    struct dirent *e;
    while (d && (e = readdir(d)) && n < MAX_DISKS) {
        char path[512], ro[8];
        if (strncmp(e->d_name, "xvd", 3) || strlen(e->d_name) != 4)
            continue;
        snprintf(path, sizeof path, "/sys/block/%s/ro", e->d_name);
        if (*read_file(path, ro, sizeof ro) == '1')
            continue;
        snprintf(disks[n].name, sizeof disks[n].name, "%s", e->d_name);
        n++;
    }
    if (d)
        closedir(d);
    qsort(disks, (size_t)n, sizeof *disks, by_name);
    return n;
}

/* 1: a counter sector, 0: anything else, -1: could not be read */
static int read_head(const struct disk *d, struct sector *buf)
{
    if (pread(d->fd, buf, SECTOR, 0) != SECTOR)
        return -1;
    return !memcmp(buf->magic, "XLSNAPSC", 8) && buf->sum == fnv(buf, SECTOR - 8);
}

/* Says what is wrong with a disk: the head sector and all slots, since a snapshot may have been taken between the
 * comparison and the write of one tick, after which the head sector alone would look right. */
static int check(const struct disk *d, const struct sector *area)
{
    if (!d->used)
        return 0;
    const struct sector *head = area;
    int good = !memcmp(head->magic, "XLSNAPSC", 8) && head->sum == fnv(head, SECTOR - 8);
    if (!good || head->number != d->last) {
        say("MISMATCH vdev=%s disk=%lld memory=%llu sector=0", d->name, good ? (long long)head->number : -1LL,
            (unsigned long long)d->last);
        return 1;
    }
    for (u64 i = 0; i < SLOTS; i++) {
        const struct sector *slot = &area[1 + i];
        int there = !memcmp(slot->magic, "XLSNAPSC", 8);
        /* the largest number up to the last one that belongs here */
        u64 back = (d->last - i) % SLOTS, want = back > d->last ? 0 : d->last - back;
        int ours = d->first && want >= d->first;
        if (ours ? !there || slot->number != want : there && slot->number > d->last) {
            say("MISMATCH vdev=%s disk=%lld memory=%llu sector=%llu", d->name, there ? (long long)slot->number : -1LL,
                (unsigned long long)want, (unsigned long long)(1 + i));
            return 1;
        }
    }
    return 0;
}

static int write_sector(const struct disk *d, struct sector *buf, u64 n, u64 index)
{
    memset(buf, 0, SECTOR);
    memcpy(buf->magic, "XLSNAPSC", 8);
    buf->version = 1;
    buf->disk = (u32)(d->name[3] - 'a');
    memcpy(buf->boot, boot_id, 16);
    buf->number = n;
    buf->real_ns = now(CLOCK_REALTIME);
    buf->index = index;
    buf->sum = fnv(buf, SECTOR - 8);
    return pwrite(d->fd, buf, SECTOR, (off_t)(index * SECTOR)) == SECTOR ? 0 : -1;
}

/* ---- the memory page ---- */

static void publish(struct page *page, u64 started, u64 done, int disks)
{
    static u64 seq;
    struct record *r = &page->rec[++seq & 1];
    *(volatile u64 *)&r->sum = 0;
    __sync_synchronize();
    r->seq = seq;
    r->started = started;
    r->done = done;
    r->mono_ns = now(CLOCK_MONOTONIC);
    r->real_ns = now(CLOCK_REALTIME);
    r->disks = (u32)disks;
    __sync_synchronize();
    *(volatile u64 *)&r->sum = fnv(r, sizeof *r - 8);
    __sync_synchronize();
}

int main(void)
{
    static struct disk disks[MAX_DISKS];
    char cmdline[2048], type[32], list[MAX_DISKS * 32], hex[33];
    int fd = open("/dev/console", O_WRONLY | O_NOCTTY);
    if (fd >= 0)
        console = fd;
    read_file("/proc/cmdline", cmdline, sizeof cmdline);
    read_file("/sys/hypervisor/guest_type", type, sizeof type);
    for (char *c = type; *c; c++)
        *c |= 0x20;
    long ms = argument(cmdline, "counter.ms", 100), want = argument(cmdline, "counter.disks", 0);
    long mib = argument(cmdline, "dirty.mib", 0), rate = argument(cmdline, "dirty.rate", 1000);
    if (ms < 1)
        ms = 1;
    while (getrandom(boot_id, sizeof boot_id, GRND_INSECURE) != sizeof boot_id)
        ;
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", boot_id[i]);

    int count = find_disks(disks);
    for (int i = 0; count < want && i < 300; i++) {
        usleep(100000);
        count = find_disks(disks);
    }
    struct page *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sector *buf = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || buf == MAP_FAILED) {
        say("COUNTER-FAILED what=mmap errno=%d", errno);
        return 1;
    }
    u64 n = 0;
    list[0] = 0;
    for (int i = 0, o = 0; i < count; i++) {
        struct disk *d = &disks[i];
        char path[32];
        snprintf(path, sizeof path, "/dev/%.15s", d->name);
        d->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
        int r = d->fd < 0 ? -1 : read_head(d, buf);
        if (r < 0)
            say("DISK-ERROR vdev=%s what=open errno=%d", d->name, errno);
        d->used = r == 1;
        d->last = d->used ? buf->number : 0;
        if (d->last > n)
            n = d->last;
        o += snprintf(list + o, sizeof list - (size_t)o, d->used ? "%s%s:%llu" : "%s%s:blank", i ? "," : "", d->name,
                      (unsigned long long)d->last);
    }
    if (mib > 0 && rate > 0) {
        if (fork() == 0)
            dirty(mib, rate);
    }
    memcpy(page->magic, "XLSNAPCT", 8);
    page->version = 1;
    page->page_size = PAGE;
    memcpy(page->boot, boot_id, 16);
    publish(page, n, n, count);
    publish(page, n, n, count);
    mlock(page, PAGE);
    say("GUEST-UP type=%s counter=%llu boot=%s disks=%s ms=%ld", type, (unsigned long long)n, hex, count ? list : "none", ms);

    const u64 every = ms >= 100 ? 1 : (u64)((99 + ms) / ms);
    const u64 period = (u64)ms * 1000000ULL;
    u64 next = now(CLOCK_MONOTONIC), last_mono = next, last_real = now(CLOCK_REALTIME), gap = 0, bad = 0;
    int64_t gap_real = 0;
    for (;;) {
        next += period;
        u64 mono = now(CLOCK_MONOTONIC);
        if (mono > next)
            next = mono;
        else
            sleep_until(next);
        n++;
        publish(page, n, n - 1, count);
        for (int i = 0; i < count; i++) {
            struct disk *d = &disks[i];
            if (d->fd < 0)
                continue;
            if (pread(d->fd, buf, AREA, 0) != AREA)
                say("DISK-ERROR vdev=%s what=read errno=%d", d->name, errno);
            else
                bad += (u64)check(d, buf);
            if (write_sector(d, buf, n, 0) || write_sector(d, buf, n, 1 + n % SLOTS) || fdatasync(d->fd))
                say("DISK-ERROR vdev=%s what=write errno=%d", d->name, errno);
            else {
                d->used = 1;
                d->last = n;
                if (!d->first)
                    d->first = n;
            }
        }
        publish(page, n, n, count);
        mono = now(CLOCK_MONOTONIC);
        u64 real = now(CLOCK_REALTIME);
        if (mono - last_mono > gap)
            gap = mono - last_mono;
        if ((int64_t)(real - last_real) > gap_real)
            gap_real = (int64_t)(real - last_real);
        last_mono = mono;
        last_real = real;
        if (n % every == 0) {
            say("TICK n=%llu disks=%d bad=%llu up=%llu.%03llu clk=%llu.%03llu gap_ms=%.1f gap_real_ms=%.1f", (unsigned long long)n,
                count, (unsigned long long)bad, (unsigned long long)(mono / 1000000000), (unsigned long long)(mono / 1000000 % 1000),
                (unsigned long long)(real / 1000000000), (unsigned long long)(real / 1000000 % 1000), (double)gap / 1e6,
                (double)gap_real / 1e6);
            gap = 0;
            gap_real = 0;
        }
    }
}
