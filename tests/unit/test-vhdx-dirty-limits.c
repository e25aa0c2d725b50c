/*
 * VHDX unit tests: dirty bitmaps that an image can't have
 *
 * A command asks before it makes a persistent bitmap.  Who does not ask, as a
 * migration, is told when they are to be stored.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/dirty-bitmap.h"
#include "vhdx-test-node.h"

#define GRANULE     (64 * KiB)

static void refused(BlockBackend *blk, const char *name, uint32_t granularity,
                    const char *text)
{
    Error *err = NULL;

    g_assert_false(bdrv_can_store_new_dirty_bitmap(blk_bs(blk), name,
                                                   granularity, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_asked(void)
{
    BlockBackend *blk;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    refused(blk, "\xff", GRANULE, "Name is not UTF-8");
    refused(blk, "small", 256, "Granularity of 256 bytes is not from 512 to "
            "2147483648");
    g_assert_true(bdrv_can_store_new_dirty_bitmap(blk_bs(blk), "right", GRANULE,
                                                  &error_abort));
    blk_unref(blk);
    blk = open_image(image_path, 0);
    refused(blk, "right", GRANULE, "The image is read-only");
    check_image(blk, 0);
    blk_unref(blk);
}

/* The node has @count bitmaps, with names of @length bytes. */
static void brought(int count, int length, const char *text)
{
    BdrvDirtyBitmap *bitmap;
    Error *err = NULL;
    BlockBackend *blk;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    for (int i = 0; i < count; i++) {
        g_autofree char *name = g_strdup_printf("%0*d", length, i);

        bitmap = bdrv_create_dirty_bitmap(blk_bs(blk), GRANULE, name,
                                          &error_abort);
        bdrv_dirty_bitmap_set_persistence(bitmap, true);
    }
    write_blocks(blk, 0, 4);
    blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &error_abort);
    g_assert_cmpint(bdrv_reopen_set_read_only(blk_bs(blk), true, &err), <, 0);
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
    /* All but one can go, and what is left be stored. */
    for (int i = 0; i < count - 1; i++) {
        bdrv_release_dirty_bitmap(bdrv_dirty_bitmap_first(blk_bs(blk)));
    }
    blk_unref(blk);

    blk = open_image(image_path, 0);
    bitmap = bdrv_dirty_bitmap_first(blk_bs(blk));
    g_assert_nonnull(bitmap);
    g_assert_null(bdrv_dirty_bitmap_next(bitmap));
    g_assert_cmpint(bdrv_get_dirty_count(bitmap), ==, 4 * BLOCK);
    check_blocks(blk, 0, 4);
    check_image(blk, 0);
    blk_unref(blk);
}

static void test_too_many(void)
{
    brought(1025, 8, "There are 1025 persistent bitmaps, and an image can have "
            "1024");
}

static void test_names_too_long(void)
{
    brought(1010, 1023, "The names of the persistent bitmaps take 1050400 "
            "bytes, and 1048576 are allowed");
}

int main(int argc, char **argv)
{
    int ret;

    test_node_init();
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhdx/dirty-limits/asked", test_asked);
    g_test_add_func("/vhdx/dirty-limits/too-many", test_too_many);
    g_test_add_func("/vhdx/dirty-limits/names-too-long", test_names_too_long);
    ret = g_test_run();
    test_node_finish();
    return ret;
}
