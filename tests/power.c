/* Writes down what a program does to the files under $POWER_ROOT, into $POWER_LOG, so that a disk can be rebuilt as it would
   be had the power gone at any moment. Preloaded; `tests/power.py` reads the log.

   A record: kind (1 byte), inode (8), number (8), length of a text (4), length of data (4), the text, the data.
   O opened or made: its path          W written: at number, data      T cut or grown: to number       S synced
   M directory made: its path          R renamed: path, new path       U unlinked: its path            D directory removed */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096
static char watched[FDS];
static int sink = -1;
static const char *root;
static size_t root_length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    root = getenv("POWER_ROOT");
    const char *log = getenv("POWER_LOG");
    if (!root || !log) return;
    root_length = strlen(root);
    sink = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int inside(const char *path) {
    return sink >= 0 && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static void tell(char kind, uint64_t inode, uint64_t number, const char *text, const void *data, size_t size) {
    uint32_t lengths[2] = {(uint32_t)strlen(text), (uint32_t)size};
    int before = errno;
    struct iovec parts[6] = {{&kind, 1}, {&inode, 8}, {&number, 8}, {lengths, 8}, {(void *)text, lengths[0]}, {(void *)data, size}};
    pthread_mutex_lock(&lock);
    if (syscall(SYS_writev, sink, parts, 6) < 0) abort();
    pthread_mutex_unlock(&lock);
    errno = before;
}

static uint64_t inode_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_ino;
}

/* The absolute path of a name in a directory. */
static int absolute(int at, const char *path, char *found) {
    char base[PATH_MAX], link[64];
    if (path[0] == '/') return snprintf(found, PATH_MAX, "%s", path) < PATH_MAX;
    if (at == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    return snprintf(found, PATH_MAX, "%s/%s", base, path) < PATH_MAX;
}

static int opened(int fd, int at, const char *path, int flags) {
    char whole[PATH_MAX];
    if (fd < 0 || fd >= FDS) return fd;
    watched[fd] = 0;
    if (sink >= 0 && absolute(at, path, whole) && inside(whole)) {
        watched[fd] = 1;
        tell('O', inode_of(fd), 0, whole, "", 0);
        if (flags & O_TRUNC) tell('T', inode_of(fd), 0, "", "", 0);
    }
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags) return opened(syscall(SYS_openat, AT_FDCWD, path, flags, mode), AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(syscall(SYS_openat, AT_FDCWD, path, flags, mode), AT_FDCWD, path, flags); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(syscall(SYS_openat, at, path, flags, mode), at, path, flags); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(syscall(SYS_openat, at, path, flags, mode), at, path, flags); }
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open(path, flags); }

int close(int fd) {
    if (fd >= 0 && fd < FDS) watched[fd] = 0;
    return syscall(SYS_close, fd);
}

static ssize_t wrote(int fd, const void *data, ssize_t size, off_t at) {
    if (size > 0 && fd >= 0 && fd < FDS && watched[fd]) tell('W', inode_of(fd), at, "", data, size);
    return size;
}

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t done = syscall(SYS_write, fd, data, size);
    if (done > 0 && fd >= 0 && fd < FDS && watched[fd]) wrote(fd, data, done, lseek(fd, 0, SEEK_CUR) - done);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return wrote(fd, data, syscall(SYS_pwrite64, fd, data, size, at), at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return wrote(fd, data, syscall(SYS_pwrite64, fd, data, size, at), at); }

static int synced(int fd, int done) {
    if (!done && fd >= 0 && fd < FDS && watched[fd]) tell('S', inode_of(fd), 0, "", "", 0);
    return done;
}
int fsync(int fd) { return synced(fd, syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { return synced(fd, syscall(SYS_fdatasync, fd)); }

static int cut(int fd, off_t size, int done) {
    if (!done && fd >= 0 && fd < FDS && watched[fd]) tell('T', inode_of(fd), size, "", "", 0);
    return done;
}
int ftruncate(int fd, off_t size) { return cut(fd, size, syscall(SYS_ftruncate, fd, size)); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size, syscall(SYS_ftruncate, fd, size)); }

static int renamed(int from, const char *old, int to, const char *new, int done) {
    char a[PATH_MAX], b[PATH_MAX];
    if (!done && absolute(from, old, a) && absolute(to, new, b) && (inside(a) || inside(b))) tell('R', 0, 0, a, b, strlen(b));
    return done;
}
int rename(const char *old, const char *new) { return renamed(AT_FDCWD, old, AT_FDCWD, new, syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0)); }
int renameat(int from, const char *old, int to, const char *new) { return renamed(from, old, to, new, syscall(SYS_renameat2, from, old, to, new, 0)); }

static int named(char kind, int at, const char *path, int done) {
    char whole[PATH_MAX];
    if (!done && absolute(at, path, whole) && inside(whole)) tell(kind, 0, 0, whole, "", 0);
    return done;
}
int unlink(const char *path) { return named('U', AT_FDCWD, path, syscall(SYS_unlinkat, AT_FDCWD, path, 0)); }
int unlinkat(int at, const char *path, int flags) { return named(flags & AT_REMOVEDIR ? 'D' : 'U', at, path, syscall(SYS_unlinkat, at, path, flags)); }
int rmdir(const char *path) { return named('D', AT_FDCWD, path, syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR)); }
int mkdir(const char *path, mode_t mode) { return named('M', AT_FDCWD, path, syscall(SYS_mkdirat, AT_FDCWD, path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { return named('M', at, path, syscall(SYS_mkdirat, at, path, mode)); }
