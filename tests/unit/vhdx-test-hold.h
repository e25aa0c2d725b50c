/*
 * VHDX unit tests: requests under way, and held back by blkdebug
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_HOLD_H
#define TESTS_UNIT_VHDX_TEST_HOLD_H

#include "block/block_int.h"
#include "vhdx-test-request.h"

static inline void request_ended(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

/* A write, or read, under way. */
typedef struct Write {
    BlockBackend *blk;
    QEMUIOVector qiov;
    uint8_t *buf;
    int ret;
} Write;

static inline Write *start_write(BlockBackend *blk, int64_t at, size_t bytes,
                                 int fill)
{
    Write *w = g_new0(Write, 1);

    w->blk = blk;
    w->buf = g_malloc(bytes);
    w->ret = -EINPROGRESS;
    memset(w->buf, fill, bytes);
    qemu_iovec_init_buf(&w->qiov, w->buf, bytes);
    blk_aio_pwritev(blk, at, &w->qiov, 0, request_ended, &w->ret);
    return w;
}

static inline Write *start_read(BlockBackend *blk, int64_t at, size_t bytes)
{
    Write *r = g_new0(Write, 1);

    r->blk = blk;
    r->buf = g_malloc(bytes);
    r->ret = -EINPROGRESS;
    qemu_iovec_init_buf(&r->qiov, r->buf, bytes);
    blk_aio_preadv(blk, at, &r->qiov, 0, request_ended, &r->ret);
    return r;
}

/* Wait for the end of a write, and return its result. */
static inline int end_write(Write *w)
{
    int ret;

    while (w->ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    ret = w->ret;
    g_free(w->buf);
    g_free(w);
    return ret;
}

/* Wait for the end of a read, see that it gave @fill, and return its result. */
static inline int end_read(Write *r, int fill)
{
    g_autofree uint8_t *want = g_malloc(r->qiov.size);

    while (r->ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    memset(want, fill, r->qiov.size);
    g_assert_cmpmem(r->buf, r->qiov.size, want, r->qiov.size);
    return end_write(r);
}

/*
 * Start a write of @fill and hold it back just before its data is written; @tag
 * tells it from others that are held back.
 */
static inline Write *hold_write_as(BlockBackend *blk, const char *tag,
                                   int64_t at, size_t bytes, int fill)
{
    Write *held;

    g_assert_cmpint(bdrv_debug_breakpoint(blk_bs(blk), "pwritev", tag), ==, 0);
    held = start_write(blk, at, bytes, fill);
    while (!bdrv_debug_is_suspended(blk_bs(blk), tag)) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return held;
}

static inline Write *hold_write(BlockBackend *blk, int64_t at, size_t bytes,
                                int fill)
{
    return hold_write_as(blk, "held", at, bytes, fill);
}

/* Let it go on, and return its result. */
static inline int release_write_as(Write *held, const char *tag)
{
    g_assert_cmpint(held->ret, ==, -EINPROGRESS);
    g_assert_cmpint(bdrv_debug_resume(blk_bs(held->blk), tag), ==, 0);
    return end_write(held);
}

static inline int release_write(Write *held)
{
    return release_write_as(held, "held");
}

#endif
