/*
 * VHDX unit tests: dirty bitmaps that are stored
 *
 * A guest writes, bitmaps are stored, and a power cut comes before any write or
 * flush of the file.  Of what it leaves, a bitmap may count only if it has each
 * granule that differs from what it was when the bitmap began, and each that a
 * command has put into it.  That it counts where it should is looked at, too.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-dirty.h"

/* What there is to be made of a cut, beside nothing and all of it */
#define MIXTURES    2

/* -- What a cut leaves -- */

/*
 * The bitmap misses nothing of what has @changed, and nothing of what commands
 * have put into it.  Returns whether it counts.
 */
static bool check_bitmap(BdrvDirtyBitmap *bitmap, const bool *changed,
                         bool commands)
{
    commands &= !strcmp(bdrv_dirty_bitmap_name(bitmap), "b");
    if (bdrv_dirty_bitmap_inconsistent(bitmap)) {
        return false;
    }
    for (unsigned i = 0; i < GRANULES; i++) {
        if (changed[i] || (commands && needed[i])) {
            g_assert_true(bdrv_dirty_bitmap_get(bitmap, i * GRANULE));
        }
    }
    return true;
}

static void check_file(const char *path, bool commands)
{
    BlockBackend *blk = file_open(path, 0);
    g_autofree uint8_t *disk = g_malloc(DISK_SIZE);
    BdrvDirtyBitmap *bitmap;
    bool changed[GRANULES];

    g_assert_cmpint(blk_pread(blk, 0, DISK_SIZE, disk, 0), >=, 0);
    for (unsigned i = 0; i < GRANULES; i++) {
        const uint8_t *granule = disk + i * GRANULE;

        changed[i] = granule[0] != begin[i] ||
                     memcmp(granule, granule + 1, GRANULE - 1);
    }
    FOR_EACH_DIRTY_BITMAP(blk_bs(blk), bitmap) {
        counts[check_bitmap(bitmap, changed, commands)]++;
    }
    check_is_clean(blk);
    blk_unref(blk);
}

static void cut_begin(void)
{
    cuts_begin();
    cut_writes = 1;
}

/* From here on nobody is told that "b" has not got its bits. */
static void cut_commanded(void)
{
    cut_note();
    needed_from = cuts->len - 1;
}

/* Look at every cut, and what there is now. */
static void cut_check(void)
{
    GRand *rand = g_rand_new_with_seed(7);

    cut_note();
    cut_writes = 0;
    g_test_message("%u cuts", cuts->len);
    for (guint i = 0; i < cuts->len; i++) {
        State *s = &g_array_index(cuts, Cut, i).files[PARENT];

        for (int how = NONE; how < SOME + MIXTURES; how++) {
            cut_make(cut_paths[PARENT], s, MIN(how, SOME), rand);
            check_file(cut_paths[PARENT], i >= needed_from);
        }
    }
    g_rand_free(rand);
    cuts_end();
}

/* The closed image has @name, with the granules that differ and no other. */
static void check_exact(const char *name)
{
    BlockBackend *blk = file_open(paths[PARENT], 0);
    BdrvDirtyBitmap *bitmap = bitmap_get(blk, name);

    g_assert_nonnull(bitmap);
    g_assert_true(bdrv_dirty_bitmap_get_persistence(bitmap));
    g_assert_true(bdrv_dirty_bitmap_readonly(bitmap));
    g_assert_false(bdrv_dirty_bitmap_inconsistent(bitmap));
    for (unsigned i = 0; i < GRANULES; i++) {
        check_fill(blk, i * GRANULE, GRANULE, content[i]);
        g_assert_cmpint(bdrv_dirty_bitmap_get(bitmap, i * GRANULE), ==,
                        content[i] != begin[i] || needed[i]);
    }
    blk_unref(blk);
}

/* -- Storing -- */

/* The first one, for which the metadata region moves, and some more stores */
static void test_store(void)
{
    BlockBackend *blk;

    create();
    cut_begin();
    blk = image_open(BDRV_O_RDWR);
    bitmap_add(blk, "b");
    fill(blk, 0, 1);
    fill(blk, 40, 2);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    fill(blk, 41, 3);
    blk_unref(blk);
    for (unsigned i = 0; i < 3; i++) {
        blk = image_open(BDRV_O_RDWR);
        fill(blk, 60 + i, 4);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        fill(blk, 0, 5 + i);
        blk_unref(blk);
    }
    cut_check();
    check_exact("b");
    g_assert_cmpuint(counts[true], >, 8);
    g_assert_cmpuint(counts[false], >, 40);
    finish();
}

/* More of them than the region has room for, each with a page of bits */
static void test_grow(void)
{
    BlockBackend *blk;

    create_with("b");
    blk = image_open(BDRV_O_RDWR);
    for (int i = 0; i < 300; i++) {
        g_autofree char *name = g_strdup_printf("n%d", i);

        bdrv_set_dirty_bitmap(bitmap_add(blk, name), 0, GRANULE);
    }
    begin[3] = 1;
    cut_begin();
    /* There are many writes, and a cut keeps a copy of the file. */
    cut_writes = 37;
    fill(blk, 7, 9);
    blk_unref(blk);
    cut_check();
    begin[3] = 0;
    check_exact("b");
    blk = file_open(paths[PARENT], 0);
    g_assert_cmpuint(((BDRVVHDXState *)blk_bs(blk)->opaque)->metadata.length,
                     >, 2 * MiB);
    for (int i = 0; i < 300; i++) {
        g_autofree char *name = g_strdup_printf("n%d", i);

        g_assert_true(bdrv_dirty_bitmap_get(bitmap_get(blk, name), 0));
        g_assert_true(bdrv_dirty_bitmap_get(bitmap_get(blk, name),
                                            7 * GRANULE));
        g_assert_false(bdrv_dirty_bitmap_get(bitmap_get(blk, name), GRANULE));
    }
    blk_unref(blk);
    g_assert_cmpuint(counts[true], >=, 301);
    finish();
}

/*
 * The disk ends in the middle of a word of bits, and all of the last page of
 * bits is set: QEMU's bitmap has more bits than the disk has granules.
 */
static void test_end(void)
{
    const uint64_t size = DISK_SIZE - 3 * GRANULE - 512;
    g_autoptr(GBytes) before = NULL, after = NULL;
    BlockBackend *blk;

    create();
    blk = image_open(BDRV_O_RDWR | BDRV_O_RESIZE);
    g_assert_cmpint(blk_truncate(blk, size, true, PREALLOC_MODE_OFF, 0,
                                 &error_abort), ==, 0);
    bdrv_set_dirty_bitmap(bitmap_add(blk, "all"), 0, size);
    bdrv_set_dirty_bitmap(bitmap_add(blk, "some"), 0, size);
    blk_unref(blk);

    before = file_content(paths[PARENT], NULL);
    blk = image_open(BDRV_O_RDWR);
    blk_unref(blk);
    after = file_content(paths[PARENT], NULL);
    g_assert_true(g_bytes_equal(before, after));

    for (int i = 0; i < 2; i++) {
        blk = image_open(BDRV_O_RDWR);
        bdrv_reset_dirty_bitmap(bitmap_get(blk, "some"), i * GRANULE, GRANULE);
        blk_unref(blk);
        blk = file_open(paths[PARENT], 0);
        g_assert_false(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "all")));
        g_assert_cmpint(bdrv_get_dirty_count(bitmap_get(blk, "all")), ==,
                        DISK_SIZE - 3 * GRANULE);
        g_assert_false(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "some")));
        g_assert_cmpint(bdrv_get_dirty_count(bitmap_get(blk, "some")), ==,
                        DISK_SIZE - (4 + i) * GRANULE);
        check_is_clean(blk);
        blk_unref(blk);
    }
    finish();
}

/* A bitmap that is not of the disk's size, which a failed resize may leave */
static void test_size(void)
{
    BlockBackend *blk;

    create_with("b");
    blk = image_open(BDRV_O_RDWR);
    fill(blk, GRANULES - 1, 1);
    bdrv_dirty_bitmap_truncate(blk_bs(blk), DISK_SIZE - GRANULE);
    blk_unref(blk);
    blk = file_open(paths[PARENT], 0);
    g_assert_true(bdrv_dirty_bitmap_inconsistent(bitmap_get(blk, "b")));
    blk_unref(blk);
    finish();
}

/* -- Commands -- */

static void test_merge(void)
{
    BlockBackend *blk;
    BdrvDirtyBitmap *other;

    create_with("b");
    cut_begin();
    blk = image_open(BDRV_O_RDWR);
    other = bdrv_create_dirty_bitmap(blk_bs(blk), GRANULE, "other",
                                     &error_abort);
    bdrv_set_dirty_bitmap(other, 50 * GRANULE, GRANULE);
    needed[50] = true;
    g_assert_true(bdrv_merge_dirty_bitmap(bitmap_get(blk, "b"), other, NULL,
                                          &error_abort));
    cut_commanded();
    blk_unref(blk);
    cut_check();
    check_exact("b");
    finish();
}

/* One that was stored as disabled records no write, and later it does. */
static void test_enable(void)
{
    BlockBackend *blk;

    create_with("b");
    blk = image_open(BDRV_O_RDWR);
    bdrv_disable_dirty_bitmap(bitmap_get(blk, "b"));
    fill(blk, 4, 1);
    begin[4] = 1;
    blk_unref(blk);
    check_exact("b");

    cut_begin();
    blk = image_open(BDRV_O_RDWR);
    g_assert_false(bdrv_dirty_bitmap_enabled(bitmap_get(blk, "b")));
    g_assert_cmpint(bdrv_dirty_bitmap_changing(bitmap_get(blk, "b"),
                                               &error_abort), ==, 0);
    bdrv_enable_dirty_bitmap(bitmap_get(blk, "b"));
    cut_note();
    counts[true] = 0;
    for (int how = NONE; how < SOME; how++) {
        cut_make(cut_paths[PARENT],
                 &g_array_index(cuts, Cut, cuts->len - 1).files[PARENT], how,
                 NULL);
        check_file(cut_paths[PARENT], false);
    }
    /* It would be disabled, and who uses it thinks that it is not. */
    g_assert_cmpuint(counts[true], ==, 0);
    fill(blk, 5, 1);
    blk_unref(blk);
    cut_check();
    check_exact("b");
    blk = file_open(paths[PARENT], 0);
    g_assert_true(bdrv_dirty_bitmap_enabled(bitmap_get(blk, "b")));
    blk_unref(blk);
    finish();
}

static void test_remove(void)
{
    BlockBackend *blk;

    create_with("b");
    blk = image_open(BDRV_O_RDWR);
    bitmap_add(blk, "a");
    begin[3] = 1;
    fill(blk, 9, 1);
    blk_unref(blk);
    check_exact("a");
    begin[3] = 0;

    cut_begin();
    blk = image_open(BDRV_O_RDWR);
    g_assert_cmpint(bdrv_remove_persistent_dirty_bitmap(blk_bs(blk), "a",
                                                        &error_abort), ==, 0);
    bdrv_release_dirty_bitmap(bitmap_get(blk, "a"));
    cut_note();
    for (int how = NONE; how < SOME; how++) {
        BlockBackend *left;

        cut_make(cut_paths[PARENT],
                 &g_array_index(cuts, Cut, cuts->len - 1).files[PARENT], how,
                 NULL);
        left = file_open(cut_paths[PARENT], 0);
        g_assert_null(bitmap_get(left, "a"));
        g_assert_true(bdrv_dirty_bitmap_inconsistent(bitmap_get(left, "b")));
        blk_unref(left);
    }
    fill(blk, 10, 1);
    blk_unref(blk);
    begin[3] = 1;
    cut_check();
    begin[3] = 0;
    check_exact("b");

    blk = image_open(BDRV_O_RDWR);
    g_assert_cmpint(bdrv_remove_persistent_dirty_bitmap(blk_bs(blk), "b",
                                                        &error_abort), ==, 0);
    bdrv_release_dirty_bitmap(bitmap_get(blk, "b"));
    blk_unref(blk);
    blk = file_open(paths[PARENT], 0);
    g_assert_null(bdrv_dirty_bitmap_first(blk_bs(blk)));
    check_is_clean(blk);
    blk_unref(blk);
    finish();
}

/* -- Failures -- */

/* The guest goes on, and a command adds to the bitmap. */
static unsigned go_on(BlockBackend *blk, BdrvDirtyBitmap *other)
{
    unsigned went_on = 0;

    /* What a failed flush has left open is settled here, or never. */
    bdrv_drained_begin(blk_bs(blk));
    (void)bdrv_flush(blk_bs(blk));
    bdrv_drained_end(blk_bs(blk));
    if (bdrv_merge_dirty_bitmap(bitmap_get(blk, "b"), other, NULL, NULL)) {
        needed[50] = true;
        cut_commanded();
        went_on++;
    }
    for (unsigned i = 21; i >= 20; i--) {
        if (write_fill(blk, i * GRANULE, GRANULE, 30) >= 0) {
            went_on++;
        }
        cut_note();
    }
    (void)blk_flush(blk);
    cut_note();
    return went_on;
}

/*
 * Each operation in turn that @fault counts fails while the image gets
 * read-only.  Where it stays writable the guest goes on, and nobody stores
 * bitmaps again.  Returns how much went on in all.
 */
static unsigned each_fails(unsigned *fault)
{
    bool met = true;
    unsigned went_on = 0;

    for (unsigned i = 1; met && i < 100; i++) {
        BdrvDirtyBitmap *other;
        BlockBackend *blk;
        bool failed;

        create_with("b");
        blk = image_open(BDRV_O_RDWR);
        other = bdrv_create_dirty_bitmap(blk_bs(blk), GRANULE, "other",
                                         &error_abort);
        bdrv_set_dirty_bitmap(other, 50 * GRANULE, GRANULE);
        fill(blk, 20, 1);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        cut_begin();
        *fault = i;
        failed = set_read_only(blk, true) < 0;
        met = *fault == 0;
        *fault = 0;
        if (failed) {
            went_on += go_on(blk, other);
        }
        cut_writes = 0;
        cut_check();
        blk_unref(blk);
        finish();
    }
    g_assert_false(met);
    return went_on;
}

static void test_fails(void)
{
    g_assert_cmpuint(each_fails(&fail_write), >, 9);
    g_assert_cmpuint(each_fails(&fail_flush), >, 9);
    /* Where there is no space bits are rounded up, and that may do. */
    (void)each_fails(&fail_full);
}

/*
 * Each operation in turn that @fault counts fails while a new bitmap is stored,
 * and then it is taken out of the node: by a command that has it removed, with
 * @command, or as it goes with what has made it.  It is gone, or nobody takes
 * it for more than a name.  Returns how often it was taken out.
 */
static unsigned taken_out(unsigned *fault, bool command)
{
    bool met = true;
    unsigned count = 0;

    for (unsigned i = 1; met && i < 100; i++) {
        BdrvDirtyBitmap *bitmap;
        BlockBackend *blk;
        bool out, changed;

        /* The region has room. */
        create_with("b");
        blk = image_open(BDRV_O_RDWR);
        g_assert_cmpint(bdrv_remove_persistent_dirty_bitmap(
                            blk_bs(blk), "b", &error_abort), ==, 0);
        bdrv_release_dirty_bitmap(bitmap_get(blk, "b"));
        bitmap_add(blk, "new");
        fill(blk, 20, 1);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        cut_begin();
        cut_writes = 0;
        *fault = i;
        out = set_read_only(blk, true) < 0;
        met = *fault == 0;
        *fault = 0;
        bdrv_drained_begin(blk_bs(blk));
        (void)bdrv_flush(blk_bs(blk));
        bdrv_drained_end(blk_bs(blk));
        if (out && command) {
            out = bdrv_remove_persistent_dirty_bitmap(blk_bs(blk), "new",
                                                      NULL) == 0;
        }
        if (out) {
            bdrv_release_dirty_bitmap(bitmap_get(blk, "new"));
            count++;
        }
        /* Nothing of this is known to what the file may have. */
        changed = write_fill(blk, 21 * GRANULE, GRANULE, 2) >= 0;
        blk_unref(blk);
        if (out) {
            blk = file_open(paths[PARENT], 0);
            bitmap = bitmap_get(blk, "new");
            g_assert_false(bitmap && command);
            g_assert_false(bitmap && changed &&
                           !bdrv_dirty_bitmap_inconsistent(bitmap));
            check_fill(blk, 20 * GRANULE, GRANULE, 1);
            blk_unref(blk);
        }
        cuts_end();
        finish();
    }
    g_assert_false(met);
    return count;
}

static void test_taken_out(void)
{
    g_assert_cmpuint(taken_out(&fail_flush, true), >, 2);
    g_assert_cmpuint(taken_out(&fail_flush, false), >, 2);
    g_assert_cmpuint(taken_out(&fail_write, true), >, 2);
    g_assert_cmpuint(taken_out(&fail_write, false), >, 2);
}

/* The image gets read-only and writable again, with a cut anywhere. */
static void test_reopen(void)
{
    BlockBackend *blk;

    create_with("b");
    cut_begin();
    blk = image_open(BDRV_O_RDWR);
    for (unsigned i = 0; i < 2; i++) {
        fill(blk, 30 + i, 1);
        g_assert_cmpint(set_read_only(blk, true), ==, 0);
        g_assert_true(bdrv_dirty_bitmap_readonly(bitmap_get(blk, "b")));
        g_assert_cmpint(set_read_only(blk, false), ==, 0);
        g_assert_false(bdrv_dirty_bitmap_readonly(bitmap_get(blk, "b")));
    }
    blk_unref(blk);
    cut_check();
    check_exact("b");
    finish();
}

/*
 * A bitmap records writes again since the image was read-only: from when it is
 * writable on the file's does not count, which says that it does not.  Where
 * that can't be told there, the first write does.
 */
static void test_enabled_read_only(void)
{
    for (unsigned fails = 0; fails < 2; fails++) {
        BlockBackend *blk;

        create_with("b");
        blk = image_open(BDRV_O_RDWR);
        bdrv_disable_dirty_bitmap(bitmap_get(blk, "b"));
        blk_unref(blk);

        blk = image_open(BDRV_O_RDWR);
        g_assert_cmpint(set_read_only(blk, true), ==, 0);
        bdrv_enable_dirty_bitmap(bitmap_get(blk, "b"));
        cut_begin();
        fail_header = fails;
        g_assert_cmpint(set_read_only(blk, false), ==, 0);
        g_assert_cmpuint(fail_header, ==, 0);
        cut_note();
        counts[true] = 0;
        for (int how = NONE; how < SOME; how++) {
            cut_make(cut_paths[PARENT],
                     &g_array_index(cuts, Cut, cuts->len - 1).files[PARENT],
                     how, NULL);
            check_file(cut_paths[PARENT], false);
        }
        g_assert_true(fails || !counts[true]);
        fill(blk, 5, 1);
        blk_unref(blk);
        cut_check();
        check_exact("b");
        finish();
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_cut_init();
    g_test_add_func("/vhdx/dirty/store", test_store);
    g_test_add_func("/vhdx/dirty/grow", test_grow);
    g_test_add_func("/vhdx/dirty/end", test_end);
    g_test_add_func("/vhdx/dirty/size", test_size);
    g_test_add_func("/vhdx/dirty/merge", test_merge);
    g_test_add_func("/vhdx/dirty/enable", test_enable);
    g_test_add_func("/vhdx/dirty/remove", test_remove);
    g_test_add_func("/vhdx/dirty/fails", test_fails);
    g_test_add_func("/vhdx/dirty/taken-out", test_taken_out);
    g_test_add_func("/vhdx/dirty/reopen", test_reopen);
    g_test_add_func("/vhdx/dirty/enabled-read-only", test_enabled_read_only);
    ret = g_test_run();
    test_cut_finish();
    return ret;
}
