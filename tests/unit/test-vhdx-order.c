/*
 * VHDX unit tests: requests that meet in a certain order
 *
 * blkdebug under the image holds one write back while others run.  The node
 * below it can fail a write when it is done already, and hold back a read or a
 * change of the file's length.  So these cases come out the same each time;
 * test-vhdx-threads.c looks for others by chance.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-fail.h"
#include "vhdx-test-hold.h"

/*
 * Two writes share a new block.  One fails when it is written, and its range is
 * zeroed then.  What it left must not show when the other succeeds.
 */
static void test_zero_after_failed_write(bool unmap)
{
    BlockBackend *blk;
    struct stat st;
    Write *held;

    /* With block 0 in place, block 1 comes behind it. */
    create_image();
    blk = open_image();
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    blk_unref(blk);
    g_assert_cmpint(stat(image_path, &st), ==, 0);

    blk = open_image();
    g_assert_cmpint(write_fill(blk, 0, 512, 1), >=, 0);
    held = hold_write(blk, BLOCK + BLOCK / 2, 4096, 2);
    fail_at = st.st_size;
    g_assert_cmpint(write_fill(blk, BLOCK, 64 * KiB, 3), ==, -EIO);
    g_assert_cmpint(blk_pwrite_zeroes(blk, BLOCK, 64 * KiB,
                                      unmap ? BDRV_REQ_MAY_UNMAP : 0), >=, 0);
    g_assert_cmpint(release_write(held), >=, 0);

    check_fill(blk, BLOCK, BLOCK / 2, 0);
    check_fill(blk, BLOCK + BLOCK / 2, 4096, 2);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

static void test_zero_failed(void)
{
    test_zero_after_failed_write(false);
}

static void test_unmap_failed(void)
{
    test_zero_after_failed_write(true);
}

/* The place of a freed block is not used again while a write to it lasts. */
static void test_write_to_freed(void)
{
    BlockBackend *blk;
    Write *held;

    create_image();
    blk = open_image();
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    held = hold_write(blk, 0, 4096, 2);
    g_assert_cmpint(blk_pwrite_zeroes(blk, 0, BLOCK, BDRV_REQ_MAY_UNMAP), >=,
                    0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    for (int i = 1; i < 16; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 2 + i), >=, 0);
    }
    g_assert_cmpint(release_write(held), >=, 0);
    for (int i = 1; i < 16; i++) {
        check_fill(blk, i * BLOCK, BLOCK, 2 + i);
    }
    check_fill(blk, 4096, BLOCK - 4096, 0);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/* A write that finds its new block freed again leaves no trace in others. */
static void test_write_to_freed_new(void)
{
    BlockBackend *blk;
    Write *held;

    create_image();
    blk = open_image();
    g_assert_cmpint(write_fill(blk, 0, 512, 1), >=, 0);
    held = hold_write(blk, BLOCK, 4096, 2);
    /* This one shares the place, and makes it that of the block. */
    g_assert_cmpint(write_fill(blk, BLOCK + 4096, 4096, 3), >=, 0);
    check_fill(blk, BLOCK + 4096, 4096, 3);
    g_assert_cmpint(blk_pwrite_zeroes(blk, BLOCK, BLOCK, BDRV_REQ_MAY_UNMAP),
                    >=, 0);
    g_assert_cmpint(write_fill(blk, BLOCK + 8192, 4096, 4), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    for (int i = 2; i < 16; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 3 + i), >=, 0);
    }
    g_assert_cmpint(release_write(held), >=, 0);
    for (int i = 2; i < 16; i++) {
        check_fill(blk, i * BLOCK, BLOCK, 3 + i);
    }
    check_fill(blk, BLOCK + 4096, 4096, 0);
    check_fill(blk, BLOCK + 8192, 4096, 4);
    check_fill(blk, BLOCK + 12288, BLOCK - 12288, 0);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/* Let the first block's write wait for the file to get longer. */
static Write *hold_growth(BlockBackend *blk)
{
    Write *w;

    hold_truncate = true;
    w = start_write(blk, 0, 4096, 1);
    while (!held_truncate) {
        aio_poll(qemu_get_aio_context(), true);
    }
    hold_truncate = false;
    return w;
}

/* Start a write that waits for what is held back. */
static Write *start_waiting(BlockBackend *blk, int64_t at, size_t bytes,
                            int fill)
{
    Write *w = start_write(blk, at, bytes, fill);

    while (aio_poll(qemu_get_aio_context(), false)) {
        /* It goes on until it waits as well. */
    }
    g_assert_cmpint(w->ret, ==, -EINPROGRESS);
    return w;
}

/*
 * Two writes find that a block is new, and both wait for the file to get
 * longer.  Both then get a place, of which they must share one; the other one,
 * never used, serves the next block and needs no zeroing for that.
 */
static void test_race_for_new(void)
{
    BlockBackend *blk;
    Write *first, *second;
    int64_t place;

    create_image();
    blk = open_image();
    first = hold_growth(blk);
    second = start_waiting(blk, 64 * KiB, 4096, 2);
    aio_co_wake(held_truncate);
    g_assert_cmpint(end_write(first), >=, 0);
    g_assert_cmpint(end_write(second), >=, 0);
    check_fill(blk, 0, 4096, 1);
    check_fill(blk, 64 * KiB, 4096, 2);
    place = QEMU_ALIGN_DOWN(last_write, BLOCK);

    zeroings = 0;
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 3), >=, 0);
    g_assert_cmpint(last_write, ==, place + BLOCK);
    g_assert_cmpint(zeroings, ==, 0);

    check_fill(blk, 4096, 60 * KiB, 0);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * The same where the file can get longer by just one block.  Who comes second
 * finds no space, but its block has a place.  A third one's block has none.
 */
static void test_race_for_last(void)
{
    BlockBackend *blk;
    Write *first, *second, *third;
    struct stat st;

    create_image();
    g_assert_cmpint(stat(image_path, &st), ==, 0);
    blk = open_image();
    first = hold_growth(blk);
    length_limit = st.st_size + BLOCK;
    second = start_waiting(blk, 64 * KiB, 4096, 2);
    third = start_waiting(blk, BLOCK, 4096, 3);
    aio_co_wake(held_truncate);
    g_assert_cmpint(end_write(first), >=, 0);
    g_assert_cmpint(end_write(second), >=, 0);
    g_assert_cmpint(end_write(third), ==, -ENOSPC);
    /* It has one still when they are over. */
    g_assert_cmpint(write_fill(blk, 8192, 4096, 4), >=, 0);
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 4), ==, -ENOSPC);
    length_limit = 0;
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 5), >=, 0);

    check_fill(blk, 0, 4096, 1);
    check_fill(blk, 64 * KiB, 4096, 2);
    check_fill(blk, 8192, 4096, 4);
    check_fill(blk, BLOCK, 4096, 5);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * A block that has kept its place is written to by two, who find that out at
 * the same time: they share it.
 */
static void test_race_for_kept(void)
{
    const uint64_t entry_at = 2 * MiB + 3 * 8;
    BlockBackend *blk;
    Write *first, *second;
    struct stat st;
    uint64_t entry, after;
    int fd;

    create_image();
    blk = open_image();
    for (int i = 0; i < 4; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 1 + i), >=, 0);
    }
    blk_unref(blk);
    fd = open(image_path, O_RDWR);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(pread(fd, &entry, 8, entry_at), ==, 8);
    g_assert_cmphex(le64_to_cpu(entry) & 7, ==, 6);
    entry = cpu_to_le64((le64_to_cpu(entry) & ~7ULL) | 3);
    g_assert_cmpint(pwrite(fd, &entry, 8, entry_at), ==, 8);

    length_limit = st.st_size;
    blk = open_image();
    first = start_write(blk, 3 * BLOCK, 4096, 7);
    second = start_write(blk, 3 * BLOCK + 64 * KiB, 4096, 8);
    g_assert_cmpint(end_write(first), >=, 0);
    g_assert_cmpint(end_write(second), >=, 0);
    check_fill(blk, 3 * BLOCK, 4096, 7);
    check_fill(blk, 3 * BLOCK + 4096, 60 * KiB, 0);
    check_fill(blk, 3 * BLOCK + 64 * KiB, 4096, 8);
    check_fill(blk, 3 * BLOCK + 68 * KiB, BLOCK - 68 * KiB, 0);
    check_is_clean(blk);
    blk_unref(blk);
    g_assert_cmpint(pread(fd, &after, 8, entry_at), ==, 8);
    g_assert_cmphex(le64_to_cpu(after), ==,
                    (le64_to_cpu(entry) & ~7ULL) | 6);
    length_limit = 0;
    close(fd);
    unlink(image_path);
}

/* -- Inactivation and activation with requests under way -- */

/* Long enough for whoever does not wait for what is held back to go ahead */
#define HOLD_NS     (200 * SCALE_MS)

static QEMUTimer *timer_start(QEMUTimerCB *cb, void *opaque)
{
    QEMUTimer *timer = aio_timer_new(qemu_get_aio_context(),
                                     QEMU_CLOCK_REALTIME, SCALE_NS, cb,
                                     opaque);

    timer_mod(timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + HOLD_NS);
    return timer;
}

static void release_held(void *opaque)
{
    bdrv_debug_resume(blk_bs(opaque), "held");
}

/*
 * A write is held back while the image is inactivated: that waits for it, and
 * nothing is lost.  It is the first one to its block, or goes to a new one
 * after another.
 */
static void test_inactivate(int64_t at)
{
    BlockBackend *blk;
    QEMUTimer *timer;
    Write *held;

    create_image();
    blk = open_image();
    blk_set_force_allow_inactivate(blk);
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    held = hold_write(blk, at, 4096, 2);
    timer = timer_start(release_held, blk);
    g_assert_cmpint(bdrv_inactivate_all(), ==, 0);
    g_assert_true(bdrv_get_flags(blk_bs(blk)) & BDRV_O_INACTIVE);
    g_assert_cmpint(end_write(held), >=, 0);
    timer_free(timer);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    check_fill(blk, at, 4096, 2);
    blk_unref(blk);

    blk = open_image();
    check_fill(blk, at, 4096, 2);
    check_fill(blk, 4096, BLOCK - 4096, 1);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

static void test_inactivate_present(void)
{
    test_inactivate(0);
}

static void test_inactivate_new(void)
{
    test_inactivate(3 * BLOCK);
}

/* What becomes of the reads of an image that is activated. */
typedef struct Activation {
    BlockBackend *blk;
    Write *late;
} Activation;

/* While the image is being activated: another read comes, and one goes on. */
static void release_read(void *opaque)
{
    Activation *a = opaque;

    a->late = start_read(a->blk, BLOCK, 4096);
    aio_co_wake(held_read);
}

/*
 * An image is activated after another process has changed it, and there is a
 * read of it under way all the while.  That one ends well, and one that comes
 * meanwhile sees the change.
 */
static void test_activate(void)
{
    Activation a;
    BlockBackend *other;
    QEMUTimer *timer;
    Write *held;
    uint64_t place;

    create_image();
    a.blk = open_image();
    blk_set_force_allow_inactivate(a.blk);
    g_assert_cmpint(write_fill(a.blk, 0, BLOCK, 1), >=, 0);
    place = QEMU_ALIGN_DOWN(last_write, BLOCK);
    g_assert_cmpint(write_fill(a.blk, BLOCK, BLOCK, 2), >=, 0);
    g_assert_cmpint(write_fill(a.blk, 2 * BLOCK, BLOCK, 3), >=, 0);
    check_fill(a.blk, BLOCK, BLOCK, 2);
    g_assert_cmpint(bdrv_inactivate_all(), ==, 0);
    other = open_image();
    g_assert_cmpint(blk_pwrite_zeroes(other, BLOCK, BLOCK,
                                      BDRV_REQ_MAY_UNMAP), >=, 0);
    blk_unref(other);

    hold_read_at = place;
    held = start_read(a.blk, 0, 4096);
    while (!held_read) {
        aio_poll(qemu_get_aio_context(), true);
    }
    a.late = NULL;
    timer = timer_start(release_read, &a);
    bdrv_activate_all(&error_abort);
    while (!a.late) {
        aio_poll(qemu_get_aio_context(), true);
    }
    timer_free(timer);
    g_assert_cmpint(end_read(held, 1), >=, 0);
    g_assert_cmpint(end_read(a.late, 0), >=, 0);

    check_fill(a.blk, 0, BLOCK, 1);
    g_assert_cmpint(write_fill(a.blk, 5 * BLOCK, BLOCK, 4), >=, 0);
    check_fill(a.blk, 2 * BLOCK, BLOCK, 3);
    check_is_clean(a.blk);
    blk_unref(a.blk);
    unlink(image_path);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_fail_init();

    g_test_add_func("/vhdx/order/zero-after-failed-write", test_zero_failed);
    g_test_add_func("/vhdx/order/unmap-after-failed-write", test_unmap_failed);
    g_test_add_func("/vhdx/order/write-to-freed", test_write_to_freed);
    g_test_add_func("/vhdx/order/write-to-freed-new", test_write_to_freed_new);
    g_test_add_func("/vhdx/order/race-for-new", test_race_for_new);
    g_test_add_func("/vhdx/order/race-for-last", test_race_for_last);
    g_test_add_func("/vhdx/order/race-for-kept", test_race_for_kept);
    g_test_add_func("/vhdx/order/inactivate-present", test_inactivate_present);
    g_test_add_func("/vhdx/order/inactivate-new", test_inactivate_new);
    g_test_add_func("/vhdx/order/activate", test_activate);
    ret = g_test_run();

    test_fail_finish();
    return ret;
}
