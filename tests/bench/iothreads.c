/*
 * Requests from several threads to one image, as virtio-blk sends them with
 * iothread-vq-mapping: each thread has an event loop of its own, in which some
 * coroutines read or write 4 KiB, one request after the other.
 *
 *   iothreads OPTIONS THREADS DEPTH read|write REQUESTS BYTES
 *
 * OPTIONS are those of a block device, each request is somewhere in BYTES.
 * Prints how many seconds it took.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/keyval.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "qobject/qdict.h"
#include "block/block_int.h"
#include "block/qdict.h"
#include "system/block-backend.h"
#include "iothread.h"

#define REQUEST     4096

static BlockBackend *blk;
static bool writes;
static uint64_t places;         /* in which a request may be */
static int left, running;       /* requests; coroutines */

static void coroutine_fn requests(void *opaque)
{
    uint64_t at = (uintptr_t)opaque;
    void *buf = blk_blockalign(blk, REQUEST);

    memset(buf, 1, REQUEST);
    while (qatomic_fetch_dec(&left) > 0) {
        int ret;

        /* Any constant that leads all over the disk */
        at = (at + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
        at ^= at >> 31;
        ret = writes ?
              blk_co_pwrite(blk, at % places * REQUEST, REQUEST, buf, 0) :
              blk_co_pread(blk, at % places * REQUEST, REQUEST, buf, 0);
        if (ret < 0) {
            error_report("a request fails: %s", strerror(-ret));
            exit(1);
        }
    }
    qemu_vfree(buf);
    qatomic_dec(&running);
    aio_wait_kick();
}

int main(int argc, char **argv)
{
    QDict *options;
    int threads, depth;
    int64_t start;

    if (argc != 7) {
        return 2;
    }
    threads = atoi(argv[2]);
    depth = atoi(argv[3]);
    writes = strcmp(argv[4], "write") == 0;
    left = atoi(argv[5]);
    if (qemu_strtou64(argv[6], NULL, 0, &places) < 0) {
        return 2;
    }
    places /= REQUEST;
    running = threads * depth;

    bdrv_init();
    qemu_init_main_loop(&error_fatal);
    options = keyval_parse(argv[1], NULL, NULL, &error_fatal);
    qdict_flatten(options);
    blk = blk_new_open(NULL, NULL, options,
                       BDRV_O_RDWR | BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO,
                       &error_fatal);
    start = get_clock();
    for (uintptr_t i = 0; i < running; i++) {
        static IOThread *iothreads[64];

        if (i < threads) {
            iothreads[i] = iothread_new();
        }
        aio_co_enter(iothread_get_aio_context(iothreads[i % threads]),
                     qemu_coroutine_create(requests, (void *)i));
    }
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_read(&running));
    printf("%.6f\n", (get_clock() - start) / 1e9);
    blk_unref(blk);
    return 0;
}
