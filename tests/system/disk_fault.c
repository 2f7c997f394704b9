/* A disk that fails on demand, by what is in the file named by DISK_FAULT:
 *   "sync"  fdatasync and fsync give EIO
 *   "meta"  the pages at the front of a file, which name all others in LMDB, cannot be written: ENOSPC
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int failing(const char *how) {
    const char *name = getenv("DISK_FAULT");
    char said[8] = "";
    int fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, said, sizeof said - 1);
    close(fd);
    return got > 0 && strcmp(said, how) == 0;
}

static int sync_with(const char *function, int fd) {
    if (failing("sync")) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, function))(fd);
}

int fdatasync(int fd) { return sync_with("fdatasync", fd); }

int fsync(int fd) { return sync_with("fsync", fd); }

static ssize_t write_with(const char *function, int fd, const void *octets, size_t count, off_t offset) {
    struct stat facts;
    /* The in-flight table and others are smaller than the two pages. */
    if (offset < 8192 && fstat(fd, &facts) == 0 && facts.st_size > 16384 && failing("meta")) {
        errno = ENOSPC;
        return -1;
    }
    return ((ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, function))(fd, octets, count, offset);
}

ssize_t pwrite(int fd, const void *octets, size_t count, off_t offset) {
    return write_with("pwrite", fd, octets, count, offset);
}

ssize_t pwrite64(int fd, const void *octets, size_t count, off_t offset) {
    return write_with("pwrite64", fd, octets, count, offset);
}
