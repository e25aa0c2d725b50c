/*
 * VHDX unit tests: stored dirty bitmaps that others have changed
 *
 * Another program has written to the image, and knows nothing of the bitmaps;
 * or these are damaged.  Then they do not count, and what the disk holds can be
 * used all the same.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-dirty.h"

/* What another program may have changed, but for the bitmaps */
typedef enum Foreign { FILE_GUID, DATA_GUID, SIZE, NOTHING } Foreign;

/* Let the disk be longer, with the GUIDs that there are. */
static void size_change(uint8_t *meta)
{
    for (uint8_t *entry = meta + 32;; entry += 32) {
        uint8_t *item = meta + get_le(entry + 16, 4);

        if (guid_is(entry, GUID_DISK_SIZE)) {
            put_le(item, get_le(item, 8) + MiB, 8);
            return;
        }
    }
}

/* Where page @page of the metadata region is in the file */
static uint64_t page_offset(unsigned page)
{
    BlockBackend *blk = file_open(paths[PARENT], 0);
    uint64_t at = ((BDRVVHDXState *)blk_bs(blk)->opaque)->metadata.offset;

    blk_unref(blk);
    return at + page * PAGE;
}

static void file_change(Foreign what)
{
    uint64_t meta = page_offset(0);
    g_autoptr(GBytes) bytes = file_content(paths[PARENT], NULL);
    gsize size;
    g_autofree uint8_t *data = g_memdup2(g_bytes_get_data(bytes, &size),
                                         g_bytes_get_size(bytes));

    if (what == SIZE) {
        size_change(data + meta);
    }
    for (int i = 0; i < 2; i++) {
        VHDXHeader header;

        g_assert_true(vhdx_header_decode(data + VHDX_HEADER_OFFSET(i),
                                         &header));
        if (what == FILE_GUID) {
            header.file_write_guid.id[3] ^= 1;
        } else if (what == DATA_GUID) {
            header.data_write_guid.id[3] ^= 1;
        }
        vhdx_header_encode(&header, data + VHDX_HEADER_OFFSET(i));
    }
    g_assert_true(g_file_set_contents(paths[PARENT], (char *)data, size, NULL));
}

static void check_foreign(Foreign what)
{
    BlockBackend *blk;

    create_with("b");
    file_change(what);
    blk = file_open(paths[PARENT], BDRV_O_RDWR);
    g_assert_cmpint(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "b")), ==,
                    what != NOTHING);
    fill(blk, 6, 1);
    bitmap_add(blk, "new");
    blk_unref(blk);
    /* Storing it does not make it count again. */
    blk = file_open(paths[PARENT], BDRV_O_RDWR);
    g_assert_cmpint(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "b")), ==,
                    what != NOTHING);
    g_assert_false(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "new")));
    blk_unref(blk);
    finish();
}

static void test_foreign(void)
{
    check_foreign(NOTHING);
    check_foreign(FILE_GUID);
    check_foreign(DATA_GUID);
    check_foreign(SIZE);
}

/* Change the byte at @at of the image. */
static void file_damage(uint64_t at)
{
    FILE *file = fopen(paths[PARENT], "r+");
    int byte;

    g_assert_nonnull(file);
    g_assert_cmpint(fseek(file, at, SEEK_SET), ==, 0);
    byte = fgetc(file);
    g_assert_cmpint(fseek(file, at, SEEK_SET), ==, 0);
    g_assert_cmpint(fputc(byte ^ 0x10, file), >=, 0);
    g_assert_cmpint(fclose(file), ==, 0);
}

/* Opened for writing, read and closed, the file is as it was. */
static void check_untouched(bool counts)
{
    g_autoptr(GBytes) before = file_content(paths[PARENT], NULL);
    g_autoptr(GBytes) after = NULL;
    BlockBackend *blk = file_open(paths[PARENT], BDRV_O_RDWR);

    g_assert_cmpint(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "b")), ==,
                    !counts);
    check_fill(blk, 3 * GRANULE, GRANULE, 1);
    blk_unref(blk);
    after = file_content(paths[PARENT], NULL);
    g_assert_true(g_bytes_equal(before, after));
}

/* Nothing but reads, also of an image whose bitmaps do not count */
static void test_untouched(void)
{
    create_with("b");
    check_untouched(true);
    file_change(FILE_GUID);
    check_untouched(false);
    finish();

    /* Behind the head and the directory: the map, and a page of bits */
    for (unsigned page = 258; page < 260; page++) {
        create_with("b");
        file_damage(page_offset(page));
        check_untouched(false);
        finish();
    }
}

/* Each byte of a page of bits, and of map, directory and head, is damaged. */
static void test_damaged(void)
{
    g_autoptr(GBytes) bytes = NULL;
    g_autofree uint8_t *data = NULL;
    unsigned inconsistent = 0, gone = 0;
    BlockBackend *blk;
    uint64_t head;
    gsize size;

    create_with("b");
    blk = file_open(paths[PARENT], 0);
    head = ((BDRVVHDXState *)blk_bs(blk)->opaque)->metadata.offset + MiB;
    blk_unref(blk);
    bytes = file_content(paths[PARENT], NULL);
    data = g_memdup2(g_bytes_get_data(bytes, &size), g_bytes_get_size(bytes));
    for (uint64_t at = head; at < head + 4 * PAGE; at += 5) {
        BdrvDirtyBitmap *bitmap;

        if (at % PAGE > 100 && at % PAGE < PAGE - 5) {
            continue;
        }
        data[at] ^= 0x10;
        unlink(paths[PARENT]);
        g_assert_true(g_file_set_contents(paths[PARENT], (char *)data, size,
                                          NULL));
        blk = file_open(paths[PARENT], 0);
        check_fill(blk, 3 * GRANULE, GRANULE, 1);
        bitmap = bitmap_get(blk, "b");
        gone += !bitmap;
        inconsistent += bitmap && bdrv_dirty_bitmap_inconsistent(bitmap);
        if (bitmap && !bdrv_dirty_bitmap_inconsistent(bitmap)) {
            g_assert_true(bdrv_dirty_bitmap_get(bitmap, 3 * GRANULE));
            g_assert_cmpint(bdrv_get_dirty_count(bitmap), ==, GRANULE);
        }
        blk_unref(blk);
        data[at] ^= 0x10;
    }
    g_assert_cmpuint(gone, >, 20);
    g_assert_cmpuint(inconsistent, >, 20);
    finish();
}

/*
 * A migration brings bitmaps without asking.  Where the file has an area that
 * can't be used they can't be stored, which is told.
 */
static void test_brought(void)
{
    BlockBackend *blk;

    create_with("b");
    /* The head */
    file_damage(page_offset(256) + 20);
    blk = image_open(BDRV_O_RDWR);
    g_assert_null(bdrv_dirty_bitmap_first(blk_bs(blk)));
    g_assert_cmpint(set_read_only(blk, true), ==, 0);
    g_assert_cmpint(set_read_only(blk, false), ==, 0);
    bitmap_add(blk, "brought");
    g_assert_cmpint(set_read_only(blk, true), <, 0);
    g_assert_cmpint(bdrv_remove_persistent_dirty_bitmap(blk_bs(blk), "brought",
                                                        &error_abort), ==, 0);
    bdrv_release_dirty_bitmap(bitmap_get(blk, "brought"));
    g_assert_cmpint(set_read_only(blk, true), ==, 0);
    blk_unref(blk);
    finish();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_cut_init();
    g_test_add_func("/vhdx/dirty-foreign/writers", test_foreign);
    g_test_add_func("/vhdx/dirty-foreign/untouched", test_untouched);
    g_test_add_func("/vhdx/dirty-foreign/damaged", test_damaged);
    g_test_add_func("/vhdx/dirty-foreign/brought", test_brought);
    ret = g_test_run();
    test_cut_finish();
    return ret;
}
