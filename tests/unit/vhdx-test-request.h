/*
 * VHDX unit tests: requests
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_REQUEST_H
#define TESTS_UNIT_VHDX_TEST_REQUEST_H

#include "qapi/error.h"
#include "qemu/option.h"
#include "block/block_int.h"
#include "block/vhdx/compat.h"

typedef struct DiscardCall {
    Coroutine *co;
    int ret;
} DiscardCall;

static inline void discard_done(void *opaque, int ret)
{
    DiscardCall *call = opaque;

    call->ret = ret;
    aio_co_wake(call->co);
}

/* blk_co_pdiscard() has flags in one version, this way none. */
static inline int coroutine_fn co_discard(BlockBackend *blk, int64_t offset,
                                          int64_t bytes)
{
    DiscardCall call = { .co = qemu_coroutine_self() };

    blk_aio_pdiscard(blk, offset, bytes, discard_done, &call);
    qemu_coroutine_yield();
    return call.ret;
}

static inline void discard_ended(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

/* The same outside of coroutines. */
static inline int discard_wait(BlockBackend *blk, int64_t offset,
                               int64_t bytes)
{
    int ret = INT_MAX;

    blk_aio_pdiscard(blk, offset, bytes, discard_ended, &ret);
    while (ret == INT_MAX) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return ret;
}

/* Write @bytes bytes that are all @fill at @at. */
static inline int write_fill(BlockBackend *blk, int64_t at, size_t bytes,
                             int fill)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, fill, bytes);
    return blk_pwrite(blk, at, bytes, buf, 0);
}

/* There are @bytes bytes at @at that are all @fill. */
static inline void check_fill(BlockBackend *blk, int64_t at, size_t bytes,
                              int fill)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    g_autofree uint8_t *want = g_malloc(bytes);

    if (!bytes) {
        return;
    }
    memset(want, fill, bytes);
    g_assert_cmpint(blk_pread(blk, at, bytes, buf, 0), >=, 0);
    g_assert_cmpmem(buf, bytes, want, bytes);
}

static inline void check_is_clean(BlockBackend *blk)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==, 0);
    g_assert_cmpint(result.corruptions + result.check_errors, ==, 0);
}

static inline void amend_progress(BlockDriverState *bs, int64_t offset,
                                  int64_t total, void *opaque)
{
    g_assert_cmpint(offset, <=, total);
}

/* As qemu-img amend does with -o @options.  Returns 0 or -errno. */
static inline int amend_image(BlockBackend *blk, const char *options,
                              Error **errp)
{
    QemuOpts *opts = qemu_opts_create(blk_bs(blk)->drv->amend_opts, NULL, 0,
                                      &error_abort);
    int ret;

    qemu_opts_do_parse(opts, options, NULL, &error_abort);
    ret = bdrv_amend_options(blk_bs(blk), opts, amend_progress, NULL, false,
                             errp);
    qemu_opts_del(opts);
    return ret;
}

#endif
