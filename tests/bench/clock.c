/*
 * A clock for programs that run in valgrind: a library to preload, by which
 * CLOCK_MONOTONIC goes 256 times as slowly as it does.  What a program does
 * on slow storage and on quick it does then as if it ran by itself.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define SLOWER  256
#define NS      1000000000

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *,
                        const struct timespec *);

static void __attribute__((constructor)) find(void)
{
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
    int ret = real_clock(clock, ts);

    if (clock == CLOCK_MONOTONIC) {
        uint64_t ns = ((uint64_t)ts->tv_sec * NS + ts->tv_nsec) / SLOWER;

        ts->tv_sec = ns / NS;
        ts->tv_nsec = ns % NS;
    }
    return ret;
}

/* Those of QEMU wait by this clock. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                           const struct timespec *until)
{
    uint64_t ns = ((uint64_t)until->tv_sec * NS + until->tv_nsec) * SLOWER;
    struct timespec real = { ns / NS, ns % NS };

    return real_wait(cond, mutex, &real);
}
