/*
 * A record of what a program does to one file
 *
 * LD_PRELOAD library.  Calls of the C library that change the file, make it
 * stable or read it are passed on, and noted in a record:
 *
 *   VHDX_TRACE_FILE    the file; any descriptor whose device and inode are
 *                      those of this path counts, however it was opened
 *   VHDX_TRACE_RECORD  where the record goes; it is appended to
 *   VHDX_TRACE_DELAY   microseconds, optional: each change, once done, is held
 *                      back for a random time up to this, as slow storage
 *                      would; requests then overlap that otherwise would not
 *
 * A change has two notes: one with its data before the call is passed on, and
 * one when it has returned.  A read has just the latter.  Each is appended by
 * one write, so that notes of several threads do not mix, and that all that
 * has been noted is there after the program was killed.
 *
 * Stamps are numbers from a counter that all threads share.  The stamp of a
 * beginning is taken before the call, that of an end after it.  So, if the end
 * of A has a lower stamp than the beginning of B, A was complete when B began;
 * and a flush covers just those writes.  The clock (CLOCK_MONOTONIC) is read
 * before the stamp is taken: what somebody else saw happen before that time
 * has left a lower stamp.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC   0x31435254      /* "TRC1" */
#define EXPORT  __attribute__((visibility("default")))

/* record.py has the same numbers. */
enum { READ = 1, WRITE, TRUNCATE, FALLOCATE, FLUSH, RANGE, COPY };
enum { BEGIN = 1, END };

typedef struct Note {
    uint32_t magic;
    uint16_t kind;
    uint16_t phase;
    uint32_t thread;
    uint32_t flags;
    uint64_t number;            /* of the call: the stamp of its beginning */
    uint64_t stamp;
    uint64_t clock;             /* nanoseconds */
    uint64_t offset;
    uint64_t length;            /* data of so many bytes follows a WRITE's */
    int64_t result;             /* ... or -errno; of an END */
} Note;

static struct {
    pthread_once_t once;
    const char *path;
    int fd;                     /* the record, or -1 */
    uint32_t delay;
    uint64_t stamps;
    dev_t dev;
    ino_t ino;
    bool known;                 /* dev and ino are set */
} trace = { .once = PTHREAD_ONCE_INIT, .fd = -1 };

static void die(const char *what)
{
    perror(what);
    abort();
}

static void trace_init(void)
{
    const char *path = getenv("VHDX_TRACE_RECORD");
    const char *delay = getenv("VHDX_TRACE_DELAY");

    trace.path = getenv("VHDX_TRACE_FILE");
    if (!path || !trace.path) {
        return;
    }
    trace.delay = delay ? atoi(delay) : 0;
    trace.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (trace.fd < 0) {
        die(path);
    }
}

/* Whether @fd is the file; it need not be there from the beginning. */
static bool traced(int fd)
{
    int saved = errno;
    struct stat st;
    bool same;

    pthread_once(&trace.once, trace_init);
    if (trace.fd < 0) {
        return false;
    }
    if (!__atomic_load_n(&trace.known, __ATOMIC_ACQUIRE) &&
        stat(trace.path, &st) == 0) {
        trace.dev = st.st_dev;
        trace.ino = st.st_ino;
        __atomic_store_n(&trace.known, true, __ATOMIC_RELEASE);
    }
    same = __atomic_load_n(&trace.known, __ATOMIC_ACQUIRE) &&
           fstat(fd, &st) == 0 && st.st_dev == trace.dev &&
           st.st_ino == trace.ino;
    errno = saved;
    return same;
}

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Append @note and the data of @iov. */
static void append(Note *note, const struct iovec *iov, int count)
{
    struct iovec all[IOV_MAX];
    size_t bytes = sizeof(*note);
    char *flat = NULL;

    note->magic = MAGIC;
    note->thread = syscall(SYS_gettid);
    note->clock = now();
    note->stamp = __atomic_fetch_add(&trace.stamps, 1, __ATOMIC_SEQ_CST);
    if (note->phase == BEGIN) {
        note->number = note->stamp;
    }
    all[0] = (struct iovec) { note, sizeof(*note) };
    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    if (count < IOV_MAX) {
        if (count) {
            memcpy(all + 1, iov, count * sizeof(*iov));
        }
    } else {
        char *p = flat = malloc(bytes - sizeof(*note));

        if (!flat) {
            die("malloc");
        }
        for (int i = 0; i < count; i++) {
            memcpy(p, iov[i].iov_base, iov[i].iov_len);
            p += iov[i].iov_len;
        }
        all[1] = (struct iovec) { flat, bytes - sizeof(*note) };
        count = 1;
    }
    /* By its number, as the name is one that is caught below. */
    if (syscall(SYS_writev, trace.fd, all, count + 1) != (ssize_t)bytes) {
        die("record");
    }
    free(flat);
}

static Note begin(int kind, uint64_t offset, uint64_t length, uint32_t flags,
                  const struct iovec *iov, int count)
{
    int saved = errno;
    Note note = {
        .kind = kind,
        .phase = BEGIN,
        .flags = flags,
        .offset = offset,
        .length = length,
    };

    append(&note, iov, count);
    errno = saved;
    return note;
}

/* The call has returned @result; below zero, and errno is set. */
static void end(Note *note, int64_t result)
{
    int saved = errno;
    uint64_t x = note->number * 0x9e3779b97f4a7c15ULL;

    if (trace.delay && note->kind != READ) {
        usleep((x >> 33) % trace.delay);
    }
    note->phase = END;
    note->result = result < 0 ? -saved : result;
    append(note, NULL, 0);
    errno = saved;
}

static uint64_t iov_bytes(const struct iovec *iov, int count)
{
    uint64_t bytes = 0;

    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

/* The function of this name that would be called without us. */
#define REAL(name)  ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

/* A call that changes the file: noted before and after. */
#define CHANGE(call, kind, offset, bytes, flags, iov, count) do {       \
        Note note_;                                                     \
        int64_t ret_;                                                   \
        if (!traced(fd)) {                                              \
            return call;                                                \
        }                                                               \
        note_ = begin(kind, offset, bytes, flags, iov, count);          \
        ret_ = call;                                                    \
        end(&note_, ret_);                                              \
        return ret_;                                                    \
    } while (0)

/* -- Writes -- */

#define PWRITE(name, type)                                              \
    EXPORT ssize_t name(int fd, const void *buf, size_t bytes,          \
                        type offset)                                    \
    {                                                                   \
        struct iovec iov = { (void *)buf, bytes };                      \
        CHANGE(REAL(name)(fd, buf, bytes, offset), WRITE, offset,       \
               bytes, 0, &iov, 1);                                      \
    }

#define PWRITEV(name, type)                                             \
    EXPORT ssize_t name(int fd, const struct iovec *iov, int count,     \
                        type offset)                                    \
    {                                                                   \
        CHANGE(REAL(name)(fd, iov, count, offset), WRITE, offset,       \
               iov_bytes(iov, count), 0, iov, count);                   \
    }

#define PWRITEV2(name, type)                                            \
    EXPORT ssize_t name(int fd, const struct iovec *iov, int count,     \
                        type offset, int flags)                         \
    {                                                                   \
        CHANGE(REAL(name)(fd, iov, count, offset, flags), WRITE,        \
               offset, iov_bytes(iov, count), flags, iov, count);       \
    }

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

EXPORT ssize_t write(int fd, const void *buf, size_t bytes)
{
    struct iovec iov = { (void *)buf, bytes };
    CHANGE(REAL(write)(fd, buf, bytes), WRITE, lseek(fd, 0, SEEK_CUR),
           bytes, 0, &iov, 1);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    CHANGE(REAL(writev)(fd, iov, count), WRITE, lseek(fd, 0, SEEK_CUR),
           iov_bytes(iov, count), 0, iov, count);
}

/* -- Length and allocation -- */

#define FTRUNCATE(name, type)                                           \
    EXPORT int name(int fd, type length)                                \
    {                                                                   \
        CHANGE(REAL(name)(fd, length), TRUNCATE, length, 0, 0,          \
               NULL, 0);                                                \
    }

#define FALLOCATE_(name, type)                                          \
    EXPORT int name(int fd, int mode, type offset, type bytes)          \
    {                                                                   \
        CHANGE(REAL(name)(fd, mode, offset, bytes), FALLOCATE, offset,  \
               bytes, mode, NULL, 0);                                   \
    }

/* These return the number of an error, and leave errno alone. */
#define POSIX_FALLOCATE(name, type)                                     \
    EXPORT int name(int fd, type offset, type bytes)                    \
    {                                                                   \
        Note note;                                                      \
        int ret;                                                        \
        if (!traced(fd)) {                                              \
            return REAL(name)(fd, offset, bytes);                       \
        }                                                               \
        note = begin(FALLOCATE, offset, bytes, 0, NULL, 0);             \
        ret = REAL(name)(fd, offset, bytes);                            \
        errno = ret;                                                    \
        end(&note, ret ? -1 : 0);                                       \
        return ret;                                                     \
    }

FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)
FALLOCATE_(fallocate, off_t)
FALLOCATE_(fallocate64, off64_t)
POSIX_FALLOCATE(posix_fallocate, off_t)
POSIX_FALLOCATE(posix_fallocate64, off64_t)

/* Data that is not seen here: whoever reads the record has to refuse it. */
EXPORT ssize_t copy_file_range(int in, off64_t *in_offset, int fd,
                               off64_t *offset, size_t bytes,
                               unsigned int flags)
{
    CHANGE(REAL(copy_file_range)(in, in_offset, fd, offset, bytes, flags),
           COPY, offset ? *offset : 0, bytes, flags, NULL, 0);
}

/* -- Flushes -- */

EXPORT int fdatasync(int fd)
{
    CHANGE(REAL(fdatasync)(fd), FLUSH, 0, 0, 0, NULL, 0);
}

EXPORT int fsync(int fd)
{
    CHANGE(REAL(fsync)(fd), FLUSH, 0, 0, 0, NULL, 0);
}

/* No flush: neither the length of the file nor the disk's cache is in it. */
EXPORT int sync_file_range(int fd, off64_t offset, off64_t bytes,
                           unsigned int flags)
{
    CHANGE(REAL(sync_file_range)(fd, offset, bytes, flags), RANGE, offset,
           bytes, flags, NULL, 0);
}

/* -- Reads -- */

static ssize_t count_read(int fd, uint64_t offset, uint64_t bytes,
                          ssize_t ret)
{
    if (traced(fd)) {
        Note note = { .kind = READ, .offset = offset, .length = bytes };

        end(&note, ret);
    }
    return ret;
}

#define PREAD(name, type)                                               \
    EXPORT ssize_t name(int fd, void *buf, size_t bytes, type offset)   \
    {                                                                   \
        return count_read(fd, offset, bytes,                            \
                          REAL(name)(fd, buf, bytes, offset));          \
    }

#define PREADV(name, type)                                              \
    EXPORT ssize_t name(int fd, const struct iovec *iov, int count,     \
                        type offset)                                    \
    {                                                                   \
        return count_read(fd, offset, iov_bytes(iov, count),            \
                          REAL(name)(fd, iov, count, offset));          \
    }

#define PREADV2(name, type)                                             \
    EXPORT ssize_t name(int fd, const struct iovec *iov, int count,     \
                        type offset, int flags)                         \
    {                                                                   \
        return count_read(fd, offset, iov_bytes(iov, count),            \
                          REAL(name)(fd, iov, count, offset, flags));   \
    }

/* What pread is called by in a program built with _FORTIFY_SOURCE */
#define PREAD_CHK(name, type)                                           \
    EXPORT ssize_t name(int fd, void *buf, size_t bytes, type offset,   \
                        size_t size)                                    \
    {                                                                   \
        return count_read(fd, offset, bytes,                            \
                          REAL(name)(fd, buf, bytes, offset, size));    \
    }

PREAD(pread, off_t)
PREAD(pread64, off64_t)
PREAD_CHK(__pread_chk, off_t)
PREAD_CHK(__pread64_chk, off64_t)
PREADV(preadv, off_t)
PREADV(preadv64, off64_t)
PREADV2(preadv2, off_t)
PREADV2(preadv64v2, off64_t)
