/*
 * VHDX unit tests: what comes after a failed flush
 *
 * Nothing more is written until the image is reopened or activated.  Then
 * writing goes on if nothing can be missing.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "block/vhdx/ring.h"
#include "vhdx-test-fail.h"
#include "vhdx-test-hold.h"

/* A new image whose first block is all 1, and flushed. */
static BlockBackend *open_written(void)
{
    BlockBackend *blk;

    create_image();
    blk = open_image();
    blk_set_force_allow_inactivate(blk);
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    return blk;
}

/*
 * A flush of @blk, in which all is flushed but a block of @fill at @at, fails:
 * no more can be written.  @good flushes work before it.
 */
static void latch(BlockBackend *blk, int64_t at, int fill, unsigned good)
{
    g_assert_cmpint(write_fill(blk, at, BLOCK, fill), >=, 0);
    good_flushes = good;
    flush_errors = 1;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    g_assert_cmpint(write_fill(blk, 9 * BLOCK, 4096, 9), ==, -EIO);
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    check_fill(blk, at, BLOCK, fill);
}

static int reopen(BlockBackend *blk)
{
    QDict *options = qdict_new();

    qdict_put_int(options, "cache-size", MiB);
    return bdrv_reopen(blk_bs(blk), options, true, NULL);
}

static int inactivate_activate(BlockBackend *blk)
{
    int ret = bdrv_inactivate_all();

    if (ret == 0) {
        bdrv_activate_all(&error_abort);
    }
    return ret;
}

/* The file has no entry of the log that is newer than the newest in memory. */
static void check_log(BlockBackend *blk)
{
    BDRVVHDXState *s = blk_bs(blk)->opaque;
    g_autofree char *file = NULL;
    uint64_t start = s->header.log_offset;

    g_assert_true(g_file_get_contents(image_path, &file, NULL, NULL));
    for (uint64_t at = start; at < start + s->header.log_length;
         at += VHDX_LOG_SECTOR) {
        if (!memcmp(file + at, "loge", 4)) {
            g_assert_cmpuint(ldq_le_p(file + at + 16), <=,
                             vhdx_ring_sequence(s));
        }
    }
}

/* Writing goes on after @again, and nothing is missing. */
static void test_go_on(int (*again)(BlockBackend *blk))
{
    BlockBackend *blk = open_written();

    latch(blk, BLOCK, 2, 0);
    /* As long as flushes fail what has not been flushed is not given up. */
    flush_errors = 2;
    g_assert_cmpint(again(blk), <, 0);
    check_log(blk);
    g_assert_cmpint(again(blk), <, 0);
    check_fill(blk, BLOCK, BLOCK, 2);
    g_assert_cmpint(again(blk), ==, 0);
    check_fill(blk, BLOCK, BLOCK, 2);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, BLOCK, 3), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);

    /*
     * Again, with nothing else under way.  By now no space is taken for zeros,
     * so the flush before the entry works.
     */
    latch(blk, 4 * BLOCK, 5, 1);
    g_assert_cmpint(again(blk), ==, 0);
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, BLOCK, 4), >=, 0);
    blk_unref(blk);

    blk = open_image();
    for (int i = 0; i < 5; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i + 1);
    }
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * Zeros in a new block may be lost, and what requests have written there is not
 * in memory: the block gets no name, however well flushes work now.
 */
static void test_zeros_lost(int (*again)(BlockBackend *blk))
{
    BlockBackend *blk = open_written();
    latch(blk, BLOCK, 2, 0);
    g_assert_cmpint(again(blk), ==, 0);
    /* From here on new blocks are zeroed. */
    latch(blk, 2 * BLOCK, 3, 0);
    g_assert_cmpint(again(blk), <, 0);
    g_assert_cmpint(again(blk), <, 0);
    check_fill(blk, 2 * BLOCK, BLOCK, 3);
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, BLOCK, 4), ==, -EIO);
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    blk_unref(blk);

    blk = open_image();
    check_fill(blk, 0, BLOCK, 1);
    check_fill(blk, BLOCK, BLOCK, 2);
    check_fill(blk, 2 * BLOCK, BLOCK, 0);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * The same, and a write to the new block is under way when a flush fails that
 * has nothing else to do than to flush data.
 */
static void test_zeros_lost_meanwhile(void)
{
    BlockBackend *blk = open_written();
    Write *held;

    /* As above, new blocks are zeroed. */
    latch(blk, BLOCK, 2, 0);
    g_assert_cmpint(reopen(blk), ==, 0);
    g_assert_cmpint(write_fill(blk, 0, 4096, 3), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    held = hold_write(blk, 2 * BLOCK + 64 * KiB, 4096, 3);
    g_assert_cmpint(write_fill(blk, 0, 4096, 4), >=, 0);
    flush_errors = 1;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    g_assert_cmpint(flush_errors, ==, 0);
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, BLOCK, 5), ==, -EIO);
    (void)release_write(held);
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    blk_unref(blk);

    blk = open_image();
    check_fill(blk, 0, 4096, 4);
    check_fill(blk, 4096, BLOCK - 4096, 1);
    check_fill(blk, BLOCK, BLOCK, 2);
    check_fill(blk, 2 * BLOCK, DISK_SIZE - 2 * BLOCK, 0);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * A write to a new block, whose place has to be zeroed, was under way when a
 * flush failed.  It fails as well: with its block, of which the zeros may be
 * lost next time, writing could not be resumed.
 */
static void check_resumed(BlockBackend *blk, Write *write)
{
    g_assert_cmpint(end_write(write), ==, -EIO);
    check_fill(blk, BLOCK, BLOCK, 0);

    g_assert_cmpint(reopen(blk), ==, 0);
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    check_fill(blk, BLOCK, 4096, 2);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/* It waits for the file to grow. */
static void test_growth_meanwhile(void)
{
    BlockBackend *blk;
    Write *growing;
    struct stat st;

    create_image();
    /* There is a place for one block. */
    g_assert_cmpint(stat(image_path, &st), ==, 0);
    g_assert_cmpint(truncate(image_path, st.st_size + BLOCK), ==, 0);
    blk = open_image();
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    hold_truncate = true;
    growing = start_write(blk, BLOCK, 4096, 2);
    while (!held_truncate) {
        aio_poll(qemu_get_aio_context(), true);
    }
    hold_truncate = false;
    g_assert_cmpint(blk_pwrite_zeroes(blk, 0, BLOCK, BDRV_REQ_MAY_UNMAP), >=,
                    0);
    flush_errors = 1;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    aio_co_wake(held_truncate);
    check_resumed(blk, growing);
}

/* It has its place, which another block has had. */
static void test_write_meanwhile(void)
{
    BlockBackend *blk = open_written();
    Write *held;

    g_assert_cmpint(blk_pwrite_zeroes(blk, 0, BLOCK, BDRV_REQ_MAY_UNMAP), >=,
                    0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    held = hold_write(blk, BLOCK, 4096, 2);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), >=, 0);
    flush_errors = 1;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    g_assert_cmpint(bdrv_debug_resume(blk_bs(blk), "held"), ==, 0);
    check_resumed(blk, held);
}

/*
 * The flush that fails is that of the first modification: nothing is in memory
 * only.  @again works, even if @errors more flushes were to fail.
 */
static void test_begin_failed(int (*again)(BlockBackend *blk), unsigned errors)
{
    BlockBackend *blk;

    create_image();
    blk = open_image();
    blk_set_force_allow_inactivate(blk);
    flush_errors = 1;
    same_lengths = 0;
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), ==, -EIO);
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), ==, -EIO);
    flush_errors = errors;
    g_assert_cmpint(again(blk), ==, 0);
    flush_errors = 0;
    check_fill(blk, 0, BLOCK, 0);
    g_assert_cmpint(write_fill(blk, BLOCK, BLOCK, 2), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    /* Each flush that has failed may have been for the file's length. */
    g_assert_cmpint(same_lengths, ==, errors ? 2 : 1);
    check_is_clean(blk);
    blk_unref(blk);

    blk = open_image();
    check_fill(blk, 0, BLOCK, 0);
    check_fill(blk, BLOCK, BLOCK, 2);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

static void test_go_on_reopen(void)
{
    test_go_on(reopen);
}

static void test_go_on_activate(void)
{
    test_go_on(inactivate_activate);
}

static void test_zeros_reopen(void)
{
    test_zeros_lost(reopen);
}

static void test_zeros_activate(void)
{
    test_zeros_lost(inactivate_activate);
}

static void test_begin_reopen(void)
{
    test_begin_failed(reopen, 0);
}

static void test_begin_activate(void)
{
    test_begin_failed(inactivate_activate, 100);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_fail_init();

    g_test_add_func("/vhdx/order/flush-failed/reopen", test_go_on_reopen);
    g_test_add_func("/vhdx/order/flush-failed/activate", test_go_on_activate);
    g_test_add_func("/vhdx/order/zeros-lost/reopen", test_zeros_reopen);
    g_test_add_func("/vhdx/order/zeros-lost/activate", test_zeros_activate);
    g_test_add_func("/vhdx/order/zeros-lost/meanwhile",
                    test_zeros_lost_meanwhile);
    g_test_add_func("/vhdx/order/growth-meanwhile", test_growth_meanwhile);
    g_test_add_func("/vhdx/order/write-meanwhile", test_write_meanwhile);
    g_test_add_func("/vhdx/order/begin-failed/reopen", test_begin_reopen);
    g_test_add_func("/vhdx/order/begin-failed/activate", test_begin_activate);
    ret = g_test_run();

    test_fail_finish();
    return ret;
}
