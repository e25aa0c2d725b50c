/*
 * VHDX unit tests: a compaction while requests go on
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_COMPACT_H
#define TESTS_UNIT_VHDX_TEST_COMPACT_H

#include "qapi/error.h"
#include "block/block_int.h"
#include "block/vhdx/compact-live.h"
#include "vhdx-test-request.h"

typedef struct Compact {
    BlockBackend *blk;
    bool zeroes;
    bool done;
    unsigned batches;               /* that have begun */
    unsigned cancel_at;             /* cancelled before this one; 0: never */
    void (*at_cancel)(void);        /* called then, if it is set */
    unsigned asked;                 /* so often whether a batch is to stop */
    unsigned stop_at;               /* ... which it is this time; 0: never */
    int64_t hold_ns;                /* how long requests are held off */
    const char *why;                /* that it fails, or NULL: any error */
    int ret;
} Compact;

static int coroutine_fn GRAPH_RDLOCK
compact_pause(BlockDriverState *bs, void *opaque)
{
    Compact *c = opaque;

    c->batches++;
    if (c->batches != c->cancel_at) {
        return 0;
    }
    if (c->at_cancel) {
        c->at_cancel();
    }
    return -ECANCELED;
}

static bool coroutine_fn compact_stop(BlockDriverState *bs, void *opaque)
{
    Compact *c = opaque;

    c->asked++;
    return c->asked == c->stop_at;
}

static void coroutine_fn compact_entry(void *opaque)
{
    Compact *c = opaque;
    VHDXCompactUser user = {
        .pause = compact_pause,
        .move = {
            .stop = compact_stop,
            .hold_ns = c->hold_ns,
            .opaque = c,
        },
        .status = amend_progress,
        .opaque = c,
    };
    Error *err = NULL;

    GRAPH_RDLOCK_GUARD();
    c->ret = vhdx_co_compact_live(blk_bs(c->blk), c->zeroes, &user, &err);
    g_assert_cmpint(c->ret < 0, ==, err != NULL);
    if (c->why) {
        g_assert_nonnull(err);
        g_assert_nonnull(strstr(error_get_pretty(err), c->why));
    }
    error_free(err);
    c->done = true;
}

static inline void compact_start(Compact *c)
{
    qemu_coroutine_enter(qemu_coroutine_create(compact_entry, c));
}

static inline int compact_end(Compact *c)
{
    while (!c->done) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return c->ret;
}

static inline int compact_once(BlockBackend *blk, bool zeroes)
{
    Compact c = { .blk = blk, .zeroes = zeroes };

    compact_start(&c);
    return compact_end(&c);
}

#endif
