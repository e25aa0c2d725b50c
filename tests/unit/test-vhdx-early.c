/*
 * VHDX unit tests: log entries beside their data
 *
 * Where a flush is sure to follow a write to a new block, the entry that names
 * the block is written at the same time as the data.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/ring.h"
#include "vhdx-test-live.h"

/* Two pages of a log entry: its descriptor, and one page of the BAT */
#define ENTRY_SIZE  (8 * KiB)

#define MANY        1000

/* The disk whose block that is has a BAT that is not kept in memory. */
#define FAR_PAGE    200
#define PAGE_DISK   (512 * (uint64_t)BLOCK)

static int64_t write_ns(BlockBackend *blk)
{
    VHDX_LOCK_GUARD(state(blk));
    return vhdx_ring_write_ns(state(blk));
}

/* Where block 0 is in the file; other blocks follow as they are written. */
static int64_t first_place;

/* A new image whose log is open and has an entry; @ns as in early.h */
static BlockBackend *open_new(int64_t ns)
{
    BlockBackend *blk;

    create_image();
    blk = open_image();
    state(blk)->early_ns = INT64_MAX;
    g_assert_cmpint(write_fill(blk, 0, 4096, 1), >=, 0);
    first_place = last_write;
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_null(state(blk)->early);
    state(blk)->early_ns = ns;
    return blk;
}

/* See that it has @fill in the page at @at, and no errors, once it is closed */
static void end_with(BlockBackend *blk, int64_t at, int fill)
{
    check_fill(blk, at, 4096, fill);
    blk_unref(blk);
    blk = open_image();
    check_fill(blk, 0, 4096, 1);
    check_fill(blk, at, 4096, fill);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/* The block can be stable before its data is there, and reads as zeros. */
static void test_beside(void)
{
    BlockBackend *blk = open_new(0);
    Write *held = hold_write(blk, BLOCK, 4096, 2);

    while (!state(blk)->early) {
        aio_poll(qemu_get_aio_context(), true);
    }
    check_fill(blk, BLOCK, 4096, 0);
    g_assert_cmpint(write_fill(blk, 4096, 4096, 3), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_null(state(blk)->early);
    check_fill(blk, BLOCK, 4096, 0);

    /* That was not for the data. */
    g_assert_cmpint(release_write(held), >=, 0);
    good_flushes = MANY;
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(good_flushes, ==, MANY - 1);
    end_with(blk, BLOCK, 2);
}

/* A write and a flush: one flush of the file, and nothing more is written. */
static void test_one_flush(void)
{
    BlockBackend *blk = open_new(0);
    int64_t entry;

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_nonnull(state(blk)->early);
    entry = last_write;
    good_flushes = MANY;
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(good_flushes, ==, MANY - 1);
    g_assert_cmpint(last_write, ==, entry);
    end_with(blk, BLOCK, 2);
}

/* Another change of the page makes the entry stable before its own. */
static void test_page_again(void)
{
    BlockBackend *blk = open_new(0);

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_nonnull(state(blk)->early);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), >=, 0);
    good_flushes = MANY;
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(good_flushes, ==, MANY - 2);
    check_fill(blk, BLOCK, 4096, 2);
    end_with(blk, 2 * BLOCK, 3);
}

/* After an error the image has what it had before, and is sound. */
static void end_broken(BlockBackend *blk)
{
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, 4096, 4), ==, -EIO);
    blk_unref(blk);
    end_with(open_image(), 0, 1);
}

/* The flush that makes it stable fails: no other entry comes after it. */
static void test_page_again_fails(void)
{
    BlockBackend *blk = open_new(0);
    int64_t last;

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_nonnull(state(blk)->early);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), >=, 0);
    last = last_write;
    flush_errors = 1;
    good_flushes = 0;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    g_assert_cmpint(flush_errors, ==, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(last_write, ==, last);
    end_broken(blk);
}

/*
 * It is made stable before the file is cut off, at the end of a compaction.  If
 * that fails the file keeps its length.
 */
static void test_cut_fails(void)
{
    BlockBackend *blk = open_new(0);
    uint64_t length = file_size();
    Write *held = hold_write(blk, BLOCK, 4096, 2);

    while (!state(blk)->early) {
        aio_poll(qemu_get_aio_context(), true);
    }
    flush_errors = 1;
    good_flushes = 0;
    compact_once(blk, false);
    g_assert_cmpint(flush_errors, ==, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(file_size(), ==, length);
    release_write(held);
    end_broken(blk);
}

/*
 * The page of the BAT that was read for the new block can't be read again, as
 * there were others meanwhile: there is no entry beside the data, but later.
 */
static void test_page_lost(void)
{
    uint64_t at = FAR_PAGE * PAGE_DISK;
    QDict *options = qdict_new();
    BlockBackend *blk;
    Write *held;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)"block_size=1M",
                    at + PAGE_DISK, BDRV_O_RDWR, true, &error_abort);
    qdict_put_int(options, "cache-size", VHDX_CACHE_SIZE_MIN);
    blk = open_image_with(options);
    g_assert_cmpint(write_fill(blk, 0, 4096, 1), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    state(blk)->early_ns = 0;
    g_assert_cmpint(bdrv_debug_breakpoint(blk_bs(blk), "write_aio", "held"), ==,
                    0);
    held = start_write(blk, at, 4096, 2);
    while (!bdrv_debug_is_suspended(blk_bs(blk), "held")) {
        aio_poll(qemu_get_aio_context(), true);
    }
    for (int i = 1; i < FAR_PAGE / 2; i++) {
        check_fill(blk, i * PAGE_DISK, 512, 0);
    }
    fail_read_at = state(blk)->bat.offset + FAR_PAGE * 4096;
    g_assert_cmpint(release_write(held), >=, 0);
    g_assert_cmpuint(fail_read_at, ==, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    end_with(blk, at, 2);
}

/* The data fails: the block is there all the same, and can be written to. */
static void test_data_fails(void)
{
    BlockBackend *blk = open_new(0);
    int64_t place = first_place + 2 * BLOCK;

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    fail_at = place;
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), ==, -EIO);
    g_assert_cmpint(fail_at, ==, 0);
    check_fill(blk, 2 * BLOCK + 4096, BLOCK - 4096, 0);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 4), >=, 0);
    g_assert_cmpint(last_write, ==, place);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    end_with(blk, 2 * BLOCK, 4);
}

/* The entry's write fails: the flush writes it again. */
static void test_entry_fails(void)
{
    BlockBackend *blk = open_new(0);

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_nonnull(state(blk)->early);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    fail_at = state(blk)->header.log_offset + 5 * 4096;
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), >=, 0);
    g_assert_cmpint(fail_at, ==, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    end_with(blk, 2 * BLOCK, 3);
}

/* The flush fails: that is one of metadata. */
static void test_flush_fails(void)
{
    BlockBackend *blk = open_new(0);

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_nonnull(state(blk)->early);
    flush_errors = 1;
    good_flushes = 0;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), ==, -EIO);
    blk_unref(blk);
    unlink(image_path);
}

/* A place that may hold anything, or a block that is there, has none. */
static void test_not_allowed(void)
{
    BlockBackend *blk = open_new(0);

    g_assert_cmpint(write_fill(blk, 4096, 4096, 1), >=, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(discard_wait(blk, 0, BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(write_fill(blk, 0, 4096, 1), >=, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    end_with(blk, 0, 1);
}

static int write_fua(BlockBackend *blk, int64_t at)
{
    g_autofree uint8_t *buf = g_malloc0(4096);

    return blk_pwrite(blk, at, 4096, buf, BDRV_REQ_FUA);
}

/* Let it be known how long the log's writes take, by entries. */
static void write_entries(BlockBackend *blk)
{
    /* Two are there, of the log's opening and of block 0. */
    for (int i = 2; i < 16; i++) {
        g_assert_cmpint(write_ns(blk), ==, 0);
        /* A place that was used is not known to read as zeros. */
        if (i % 2) {
            g_assert_cmpint(discard_wait(blk, BLOCK, BLOCK), >=, 0);
        } else {
            g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
        }
        g_assert_cmpint(blk_flush(blk), ==, 0);
    }
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(write_ns(blk), >, 0);
}

/* Where the log's writes are known to take long, with FUA */
static void test_fua(void)
{
    BlockBackend *blk = open_new(1);
    g_autofree uint8_t *buf = g_malloc0(4096);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, 4096);
    int ret = -EINPROGRESS;

    /* Where there are no flushes, there is no FUA either from 10.0 on. */
    blk_bs(blk)->open_flags &= ~BDRV_O_NO_FLUSH;
    write_entries(blk);
    g_assert_cmpint(bdrv_debug_breakpoint(blk_bs(blk), "pwritev", "held"), ==,
                    0);
    blk_aio_pwritev(blk, 2 * BLOCK, &qiov, BDRV_REQ_FUA, request_ended, &ret);
    while (!state(blk)->early) {
        aio_poll(qemu_get_aio_context(), true);
    }
    good_flushes = MANY;
    g_assert_cmpint(bdrv_debug_resume(blk_bs(blk), "held"), ==, 0);
    while (ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(ret, >=, 0);
    g_assert_null(state(blk)->early);
    g_assert_cmpint(good_flushes, ==, MANY - 1);

    /* Not where they are quick */
    state(blk)->early_ns = INT64_MAX;
    g_assert_cmpint(write_fua(blk, 3 * BLOCK), >=, 0);
    g_assert_cmpint(good_flushes, ==, MANY - 2);
    end_with(blk, 3 * BLOCK, 0);
}

/* Write to the first block so often, with so many writes for a flush. */
static void turns_of_writes(BlockBackend *blk, int turns, int writes)
{
    for (int i = 0; i < turns; i++) {
        for (int n = 0; n < writes; n++) {
            g_assert_cmpint(write_fill(blk, 0, 4096, 1), >=, 0);
        }
        g_assert_cmpint(blk_flush(blk), ==, 0);
    }
}

/* ... and for a guest that has flushed after each write for a while */
static void test_by_turns(void)
{
    static const int turns[] = { 16, 64, 64 };
    BlockBackend *blk = open_new(1);
    int64_t at = 2 * BLOCK;

    write_entries(blk);
    /* That was by turns.  What costs nothing is no reason to be careful, ... */
    turns_of_writes(blk, 1, 2);
    turns_of_writes(blk, 3, 1);
    for (int i = 0; i < ARRAY_SIZE(turns); i++) {
        turns_of_writes(blk, 1, 1);
        g_assert_cmpint(write_fill(blk, at, 4096, 2), >=, 0);
        g_assert_nonnull(state(blk)->early);
        /* ... but a page that changes twice is, for so long. */
        g_assert_cmpint(write_fill(blk, at += BLOCK, 4096, 2), >=, 0);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        turns_of_writes(blk, turns[i] - 2, 1);
        g_assert_cmpint(write_fill(blk, at += BLOCK, 4096, 2), >=, 0);
        g_assert_null(state(blk)->early);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        at += BLOCK;
    }
    at -= BLOCK;
    end_with(blk, at, 2);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_fail_init();
    g_test_add_func("/vhdx/early/beside", test_beside);
    g_test_add_func("/vhdx/early/one-flush", test_one_flush);
    g_test_add_func("/vhdx/early/page-again", test_page_again);
    g_test_add_func("/vhdx/early/page-again-fails", test_page_again_fails);
    g_test_add_func("/vhdx/early/page-lost", test_page_lost);
    g_test_add_func("/vhdx/early/cut-fails", test_cut_fails);
    g_test_add_func("/vhdx/early/data-fails", test_data_fails);
    g_test_add_func("/vhdx/early/entry-fails", test_entry_fails);
    g_test_add_func("/vhdx/early/flush-fails", test_flush_fails);
    g_test_add_func("/vhdx/early/not-allowed", test_not_allowed);
    g_test_add_func("/vhdx/early/fua", test_fua);
    g_test_add_func("/vhdx/early/by-turns", test_by_turns);
    ret = g_test_run();
    test_fail_finish();
    return ret;
}
