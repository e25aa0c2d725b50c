/*
 * Storage that takes its time: a library to preload, which waits in each write
 * for WRITE_US microseconds, and in each flush for FLUSH_US.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void wait_us(const char *name)
{
    const char *us = getenv(name);
    long left = us ? atol(us) : 0;
    struct timespec time = { left / 1000000, left % 1000000 * 1000 };

    if (left) {
        nanosleep(&time, NULL);
    }
}

ssize_t pwrite64(int fd, const void *buf, size_t bytes, off64_t offset)
{
    ssize_t (*next)(int, const void *, size_t, off64_t) =
        dlsym(RTLD_NEXT, "pwrite64");

    wait_us("WRITE_US");
    return next(fd, buf, bytes, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    ssize_t (*next)(int, const struct iovec *, int, off64_t) =
        dlsym(RTLD_NEXT, "pwritev64");

    wait_us("WRITE_US");
    return next(fd, iov, count, offset);
}

int fdatasync(int fd)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");

    wait_us("FLUSH_US");
    return next(fd);
}
