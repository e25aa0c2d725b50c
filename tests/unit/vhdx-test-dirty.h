/*
 * VHDX unit tests: an image with dirty bitmaps
 *
 * What each granule holds is known, and what it was when bitmaps began.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_DIRTY_H
#define TESTS_UNIT_VHDX_TEST_DIRTY_H

#include "block/dirty-bitmap.h"
#include "block/vhdx/state.h"
#include "vhdx-test-cut.h"
#include "vhdx-test-util.h"

#define GRANULE     (64 * KiB)
#define GRANULES    (DISK_SIZE / GRANULE)

/* What each granule is full of: now, and when bitmaps began */
static uint8_t content[GRANULES];
static uint8_t begin[GRANULES];

/* What a command has put into bitmap "b", for cuts from that on */
static bool needed[GRANULES];
static guint needed_from;

/* How many cuts have left a bitmap that counts, and one that does not */
static unsigned counts[2];

static inline void create(void)
{
    g_assert_true(g_file_set_contents(paths[CHILD], "", 0, NULL));
    bdrv_img_create(paths[PARENT], "vhdx", NULL, NULL, (char *)"block_size=1M",
                    DISK_SIZE, BDRV_O_RDWR, true, &error_abort);
    memset(content, 0, sizeof(content));
    memset(begin, 0, sizeof(begin));
    memset(needed, 0, sizeof(needed));
    needed_from = G_MAXUINT;
    counts[false] = counts[true] = 0;
}

static inline BlockBackend *image_open(int flags)
{
    return blk_new_open(NULL, NULL, noted(PARENT), flags, &error_abort);
}

static inline BlockBackend *file_open(const char *path, int flags)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    return blk_new_open(path, NULL, options, flags, &error_abort);
}

static inline BdrvDirtyBitmap *bitmap_add(BlockBackend *blk, const char *name)
{
    BdrvDirtyBitmap *bitmap = bdrv_create_dirty_bitmap(blk_bs(blk), GRANULE,
                                                       name, &error_abort);

    bdrv_dirty_bitmap_set_persistence(bitmap, true);
    return bitmap;
}

static inline BdrvDirtyBitmap *bitmap_get(BlockBackend *blk, const char *name)
{
    return bdrv_find_dirty_bitmap(blk_bs(blk), name);
}

static inline void fill(BlockBackend *blk, unsigned granule, int with)
{
    g_assert_cmpint(write_fill(blk, granule * GRANULE, GRANULE, with), >=, 0);
    content[granule] = with;
}

/* Let it get read-only, or writable.  Returns 0 or -errno. */
static inline int set_read_only(BlockBackend *blk, bool read_only)
{
    uint64_t writes = BLK_PERM_WRITE | BLK_PERM_RESIZE;
    int ret;

    blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &error_abort);
    ret = bdrv_reopen_set_read_only(blk_bs(blk), read_only, NULL);
    if ((ret < 0) == read_only) {
        blk_set_perm(blk, BLK_PERM_CONSISTENT_READ | writes, BLK_PERM_ALL,
                     &error_abort);
    }
    return ret;
}

/* An image that has been closed, with bitmap @name, as of which all is zero */
static inline void create_with(const char *name)
{
    BlockBackend *blk;

    create();
    blk = image_open(BDRV_O_RDWR);
    bitmap_add(blk, name);
    fill(blk, 3, 1);
    blk_unref(blk);
}

static inline void finish(void)
{
    for (int i = 0; i < FILES; i++) {
        unlink(paths[i]);
        unlink(cut_paths[i]);
    }
}

#endif
