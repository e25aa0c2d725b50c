/*
 * VHDX unit tests: an image that is compacted while requests go on
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_LIVE_H
#define TESTS_UNIT_VHDX_TEST_LIVE_H

#include "vhdx-test-compact.h"
#include "vhdx-test-fail.h"
#include "vhdx-test-hold.h"

/* All goes on that can. */
static inline void run_all(void)
{
    while (aio_poll(qemu_get_aio_context(), false)) {
        ;
    }
    /* What worker threads do takes its time. */
    for (int i = 0; i < 50; i++) {
        g_usleep(1000);
        while (aio_poll(qemu_get_aio_context(), false)) {
            ;
        }
    }
}

/*
 * An image with blocks 0 to 5, of which 0 and 1 are gone: 4 and 5 are to move.
 * Returns where 5 is in the file.
 */
static inline uint64_t image_with_gap(BlockBackend **blk)
{
    uint64_t place;

    create_image();
    *blk = open_image();
    for (int i = 0; i < 6; i++) {
        g_assert_cmpint(write_fill(*blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
    place = QEMU_ALIGN_DOWN(last_write, BLOCK);
    g_assert_cmpint(discard_wait(*blk, 0, 2 * BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(*blk), ==, 0);
    return place;
}

static inline void check_rest(BlockBackend *blk)
{
    check_fill(blk, 0, 2 * BLOCK, 0);
    for (int i = 2; i < 5; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i + 1);
    }
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

static inline BDRVVHDXState *state(BlockBackend *blk)
{
    return blk_bs(blk)->opaque;
}

static inline uint64_t file_size(void)
{
    struct stat st;

    g_assert_cmpint(stat(image_path, &st), ==, 0);
    return st.st_size;
}

/* Open a child, over a parent of @size bytes that are zeros. */
static inline BlockBackend *open_over_zeros(uint64_t size)
{
    QDict *options = qdict_new(), *parent = qdict_new();
    BlockDriverState *bs;
    BlockBackend *blk;

    qdict_put_str(parent, "driver", "null-co");
    qdict_put_str(parent, "node-name", "parent");
    qdict_put_int(parent, "size", size);
    qdict_put_bool(parent, "read-zeroes", true);
    bs = bdrv_open(NULL, NULL, parent, 0, &error_abort);
    qdict_put_str(options, "backing", "parent");
    blk = open_image_with(options);
    bdrv_unref(bs);
    return blk;
}

/* Start to compact, and let the copy of the block at @place wait. */
static inline void hold_copy(Compact *c, BlockBackend *blk, uint64_t place)
{
    c->blk = blk;
    hold_read_at = place;
    compact_start(c);
    while (!held_read) {
        g_assert_false(c->done);
        aio_poll(qemu_get_aio_context(), true);
    }
}

#endif
