/*
 * VHDX unit tests: dirty bitmaps that a migration moves
 *
 * One that leaves with the guest is not stored: the file keeps its name, and
 * what others write there it does not know.  One that comes is there before the
 * image is activated, and is the one that is used, whatever the file has under
 * its name.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/dirty-bitmap.h"
#include "vhdx-test-node.h"

#define GRANULE     (64 * KiB)

static BdrvDirtyBitmap *add(BlockBackend *blk, const char *name)
{
    BdrvDirtyBitmap *bitmap = bdrv_create_dirty_bitmap(blk_bs(blk), GRANULE,
                                                       name, &error_abort);

    bdrv_dirty_bitmap_set_persistence(bitmap, true);
    return bitmap;
}

/* An image that has been closed, with bitmaps "a" and "b" of its first block */
static void create_with_both(void)
{
    BlockBackend *blk;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    add(blk, "a");
    add(blk, "b");
    write_blocks(blk, 0, 1);
    blk_unref(blk);
}

/* The file has bitmap @name with the blocks from @first to 1, if it counts. */
static void check_stored(const char *name, bool counts, int first)
{
    BlockBackend *blk = open_image(image_path, 0);
    BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(blk_bs(blk), name);

    g_assert_nonnull(bitmap);
    g_assert_cmpint(bdrv_dirty_bitmap_inconsistent(bitmap), ==, !counts);
    if (counts) {
        g_assert_cmpint(bdrv_get_dirty_count(bitmap), ==, (2 - first) * BLOCK);
        g_assert_cmpint(bdrv_dirty_bitmap_next_dirty(bitmap, 0, DISK_SIZE), ==,
                        first * BLOCK);
    }
    check_blocks(blk, 0, 2);
    check_image(blk, 0);
    blk_unref(blk);
}

static void test_leaves(void)
{
    BlockBackend *blk;

    create_with_both();
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 1, 2);
    bdrv_dirty_bitmap_skip_store(bdrv_find_dirty_bitmap(blk_bs(blk), "a"),
                                 true);
    blk_unref(blk);
    check_stored("a", false, 0);
    check_stored("b", true, 0);
}

static void test_comes(void)
{
    BlockBackend *blk;

    create_with_both();
    blk = open_image(image_path, BDRV_O_RDWR);
    blk_set_force_allow_inactivate(blk);
    g_assert_cmpint(bdrv_inactivate_all(), ==, 0);
    g_assert_null(bdrv_dirty_bitmap_first(blk_bs(blk)));
    add(blk, "a");
    bdrv_activate_all(&error_abort);
    write_blocks(blk, 1, 2);
    blk_unref(blk);
    check_stored("a", true, 1);
    check_stored("b", true, 0);
}

int main(int argc, char **argv)
{
    int ret;

    test_node_init();
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhdx/dirty-moved/leaves", test_leaves);
    g_test_add_func("/vhdx/dirty-moved/comes", test_comes);
    ret = g_test_run();
    test_node_finish();
    return ret;
}
