/*
 * VHDX unit tests: an image is compacted while it is used
 *
 * What a node under the image holds back makes requests and the moving of a
 * block meet in the order that matters.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "vhdx-test-child.h"
#include "vhdx-test-live.h"

/* So often others are let go on when a request takes long. */
#define ATTEMPTS    20

/* So many pieces of a block get written to, in between others. */
#define SCATTERED   28

/* So many flushes there are not. */
#define MANY        1000

/* When so many are given up, the file is cut at once. */
#define CUT_BLOCKS  40

/* -- A block's status, asked for while it moves -- */

typedef struct Status {
    BlockBackend *blk;
    int64_t offset;
    int ret;
    bool done;
} Status;

static void coroutine_fn status_entry(void *opaque)
{
    Status *st = opaque;
    int64_t n;

    GRAPH_RDLOCK_GUARD();
    st->ret = bdrv_co_block_status(blk_bs(st->blk), st->offset, 4096, &n, NULL,
                                   NULL);
    st->done = true;
}

/*
 * The old place has been given back when the node looks at it: it would tell
 * zeros of a block that has data, and who copies the disk would not read it.
 */
static void test_status(void)
{
    Status st = { .offset = 5 * BLOCK };
    Compact c = { 0 };
    uint64_t place = image_with_gap(&st.blk);

    c.blk = st.blk;
    hold_status_at = place;
    qemu_coroutine_enter(qemu_coroutine_create(status_entry, &st));
    while (!held_status) {
        aio_poll(qemu_get_aio_context(), true);
    }
    compact_start(&c);
    run_all();
    aio_co_wake(held_status);
    while (!st.done) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(compact_end(&c), ==, 0);
    g_assert_cmpint(st.ret, >=, 0);
    g_assert_cmpint(st.ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO), ==,
                    BDRV_BLOCK_DATA);
    check_fill(st.blk, 5 * BLOCK, BLOCK, 6);
    check_rest(st.blk);
}

/* -- Requests to a block while it is copied -- */

/* What is written to it then is in the new place. */
static void test_write(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    uint64_t place = image_with_gap(&blk);

    /* What comes before has been copied. */
    hold_copy(&c, blk, place + 900 * KiB);
    g_assert_cmpint(write_fill(blk, 5 * BLOCK + 64 * KiB, 4096, 77), >=, 0);
    g_assert_cmpint(blk_pwrite_zeroes(blk, 5 * BLOCK + 128 * KiB, 4096, 0), >=,
                    0);
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 5 * BLOCK, 64 * KiB, 6);
    check_fill(blk, 5 * BLOCK + 64 * KiB, 4096, 77);
    check_fill(blk, 5 * BLOCK + 68 * KiB, 60 * KiB, 6);
    check_fill(blk, 5 * BLOCK + 128 * KiB, 4096, 0);
    check_fill(blk, 5 * BLOCK + 132 * KiB, 892 * KiB, 6);
    check_rest(blk);
}

static bool requests_held(BlockBackend *blk)
{
    BDRVVHDXState *s = state(blk);

    VHDX_LOCK_GUARD(s);
    return vhdx_request_frozen(s);
}

/* Let all go on that wait. */
static void wake_all(GPtrArray *held)
{
    for (guint i = 0; i < held->len; i++) {
        aio_co_wake(g_ptr_array_index(held, i));
    }
    g_ptr_array_set_size(held, 0);
}

/*
 * What is written to it in many places is copied with requests held off: all of
 * it at the same time, as long as a read takes and a write.
 */
static void test_write_scattered(void)
{
    g_autoptr(GPtrArray) held = g_ptr_array_new();
    Compact c = { 0 };
    BlockBackend *blk;
    uint64_t place = image_with_gap(&blk);
    Write *after;

    hold_copy(&c, blk, place + 900 * KiB);
    for (int i = 0; i < SCATTERED; i++) {
        g_assert_cmpint(write_fill(blk, 5 * BLOCK + i * 32 * KiB, 4096, 80 + i),
                        >=, 0);
    }
    held_reads = held;
    aio_co_wake(held_read);
    while (!requests_held(blk)) {
        wake_all(held);
        aio_poll(qemu_get_aio_context(), true);
    }
    run_all();
    after = start_write(blk, 3 * BLOCK, 4096, 4);
    run_all();
    g_assert_cmpint(after->ret, ==, -EINPROGRESS);
    g_assert_cmpint(held->len, ==, SCATTERED);
    held_reads = NULL;
    wake_all(held);
    g_assert_cmpint(end_write(after), >=, 0);
    g_assert_cmpint(compact_end(&c), ==, 0);
    for (int i = 0; i < SCATTERED; i++) {
        check_fill(blk, 5 * BLOCK + i * 32 * KiB, 4096, 80 + i);
        check_fill(blk, 5 * BLOCK + i * 32 * KiB + 4096, 28 * KiB, 6);
    }
    check_rest(blk);
}

/*
 * The same of a write that was under way before, and is when the block is to
 * move: the move waits for it.
 */
static void test_write_before(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    Write *held;

    image_with_gap(&blk);
    held = hold_write(blk, 5 * BLOCK, 4096, 99);
    c.blk = blk;
    compact_start(&c);
    run_all();
    g_assert_false(c.done);
    g_assert_cmpint(release_write(held), >=, 0);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 5 * BLOCK, 4096, 99);
    check_fill(blk, 5 * BLOCK + 4096, BLOCK - 4096, 6);
    check_rest(blk);
}

/*
 * Requests to block 2 take their time, @turns more of them after "0", which is
 * @held.  Each begins before the one before it ends, and others go on as well.
 * Returns the last one, whose name is the number of turns.
 */
static Write *keep_waiting(Compact *c, Write *held, int turns)
{
    for (int i = 1; i <= turns; i++) {
        g_autofree char *tag = g_strdup_printf("%d", i);
        g_autofree char *before = g_strdup_printf("%d", i - 1);
        Write *next;

        g_assert_cmpint(write_fill(c->blk, 3 * BLOCK, 4096, 49 + i), >=, 0);
        next = hold_write_as(c->blk, tag, 2 * BLOCK + i * 4096, 4096, 50 + i);
        /* Those that began before it are waited for first, with no limit. */
        g_assert_cmpint(release_write_as(held, before), >=, 0);
        run_all();
        g_assert_false(c->done);
        held = next;
    }
    return held;
}

/* They have ended, and so has the compaction. */
static void check_waited(Compact *c, int turns, int fill)
{
    BlockBackend *blk = c->blk;

    g_assert_cmpint(compact_end(c), ==, 0);
    for (int i = 0; i <= turns; i++) {
        check_fill(blk, 2 * BLOCK + i * 4096, 4096, 50 + i);
    }
    check_fill(blk, 3 * BLOCK, 4096, fill);
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, BLOCK, 3), >=, 0);
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, 4096, 4), >=, 0);
    check_rest(blk);
}

/*
 * Whoever is under way when requests are held off takes too long: others are
 * let go on, and it is tried again.
 */
static void test_patience(void)
{
    Compact c = { .hold_ns = SCALE_MS };
    Write *held;

    image_with_gap(&c.blk);
    held = hold_write_as(c.blk, "0", 2 * BLOCK, 4096, 50);
    compact_start(&c);
    run_all();
    held = keep_waiting(&c, held, 3);
    g_assert_cmpint(write_fill(c.blk, 3 * BLOCK, 4096, 99), >=, 0);
    g_assert_cmpint(release_write_as(held, "3"), >=, 0);
    check_waited(&c, 3, 99);
}

/* There is always one: after a while it is waited for, others held off. */
static void test_patience_ends(void)
{
    Compact c = { .hold_ns = SCALE_MS };
    Write *held, *after;

    image_with_gap(&c.blk);
    held = hold_write_as(c.blk, "0", 2 * BLOCK, 4096, 50);
    compact_start(&c);
    run_all();
    held = keep_waiting(&c, held, ATTEMPTS);
    after = start_write(c.blk, 3 * BLOCK, 4096, 99);
    run_all();
    g_assert_cmpint(after->ret, ==, -EINPROGRESS);
    g_assert_cmpint(release_write_as(held, stringify(ATTEMPTS)), >=, 0);
    g_assert_cmpint(end_write(after), >=, 0);
    check_waited(&c, ATTEMPTS, 99);
}

/* It is given up, and so it stays. */
static void test_discard(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    uint64_t place = image_with_gap(&blk);

    hold_copy(&c, blk, place);
    g_assert_cmpint(discard_wait(blk, 5 * BLOCK, BLOCK), >=, 0);
    g_assert_cmpint(write_fill(blk, 7 * BLOCK, BLOCK, 8), >=, 0);
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 0);
    check_fill(blk, 7 * BLOCK, BLOCK, 8);
    check_rest(blk);
}

/*
 * It is given up, cut off with the end of the file, and written anew: where the
 * guest has not written it is zeros, as the file is in what it has grown by.
 */
static void test_cut(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    g_autofree char *options = g_strdup_printf("block_size=%" PRIu64,
                                               (uint64_t)BLOCK);
    uint64_t place;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, CUT_BLOCKS * BLOCK,
                    BDRV_O_RDWR, true, &error_abort);
    blk = open_image();
    for (int i = 0; i < CUT_BLOCKS; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
    place = QEMU_ALIGN_DOWN(last_write, BLOCK);
    g_assert_cmpint(discard_wait(blk, 0, 2 * BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);

    /* The last block is being copied to where the second one was. */
    hold_write_at = place - (CUT_BLOCKS - 2) * BLOCK + 900 * KiB;
    c.blk = blk;
    compact_start(&c);
    while (!held_write) {
        g_assert_false(c.done);
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(discard_wait(blk, 0, CUT_BLOCKS * BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    for (int i = 2; i < CUT_BLOCKS; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 4096, 100 + i), >=, 0);
    }
    /* They are where they were. */
    g_assert_cmpint(last_write, ==, place);
    aio_co_wake(held_write);
    g_assert_cmpint(compact_end(&c), ==, 0);
    for (int i = 2; i < CUT_BLOCKS; i++) {
        check_fill(blk, i * BLOCK, 4096, 100 + i);
        check_fill(blk, i * BLOCK + 4096, BLOCK - 4096, 0);
    }
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * A flush fails, with which the copy may be gone: the block stays, and the
 * guest goes on.
 */
static void test_flush(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    uint64_t place = image_with_gap(&blk);

    hold_copy(&c, blk, place);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 3), >=, 0);
    flush_errors = 1;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, -EIO);
    /* What is free behind it is given back. */
    g_assert_cmpuint(file_size(), ==, place + BLOCK);
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, 4096, 4), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    check_rest(blk);
}

/* Nobody else moves things about before a batch has ended. */
static void test_resize(void)
{
    Compact c = { 0 }, second = { 0 };
    BlockBackend *blk;
    uint64_t place = image_with_gap(&blk);

    blk_set_perm(blk, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                 BLK_PERM_RESIZE, BLK_PERM_ALL, &error_abort);
    hold_copy(&c, blk, place);
    c.cancel_at = c.batches + 1;
    /* A second one is refused. */
    second.blk = blk;
    compact_start(&second);
    g_assert_cmpint(compact_end(&second), ==, -EBUSY);
    aio_co_wake(held_read);
    g_assert_cmpint(blk_truncate(blk, DISK_SIZE + BLOCK, true,
                                 PREALLOC_MODE_OFF, 0, NULL), ==, 0);
    g_assert_cmpint(compact_end(&c), ==, -ECANCELED);
    c = (Compact) { .blk = blk };
    compact_start(&c);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    check_rest(blk);
}

/* A block of zeros that gets data while it is looked at keeps its place. */
static void test_zeroes(void)
{
    Compact c = { .zeroes = true };
    BlockBackend *blk;
    uint64_t place;

    place = image_with_gap(&blk);
    g_assert_cmpint(write_fill(blk, 5 * BLOCK, BLOCK, 0), >=, 0);
    hold_copy(&c, blk, place + 900 * KiB);
    g_assert_cmpint(write_fill(blk, 5 * BLOCK, 4096, 9), >=, 0);
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 5 * BLOCK, 4096, 9);
    check_fill(blk, 5 * BLOCK + 4096, BLOCK - 4096, 0);
    check_rest(blk);
}

static int64_t write_before;

/* Nothing was changed by a batch, which a commit would follow. */
static void check_no_commit(void)
{
    g_assert_cmpint(last_write, ==, write_before);
    g_assert_cmpuint(good_flushes, ==, MANY);
}

/* ... and one that is given up meanwhile has none to lose. */
static void test_zeroes_discard(void)
{
    Compact c = { .zeroes = true };
    BlockBackend *blk;
    uint64_t place;

    place = image_with_gap(&blk);
    g_assert_cmpint(write_fill(blk, 5 * BLOCK, BLOCK, 0), >=, 0);
    hold_copy(&c, blk, place + 900 * KiB);
    c.cancel_at = c.batches + 1;
    c.at_cancel = check_no_commit;
    g_assert_cmpint(discard_wait(blk, 5 * BLOCK, BLOCK), >=, 0);
    good_flushes = MANY;
    write_before = last_write;
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, -ECANCELED);
    good_flushes = 0;
    for (int i = 7; i < 10; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i), >=, 0);
    }
    check_fill(blk, 5 * BLOCK, BLOCK, 0);
    for (int i = 7; i < 10; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i);
    }
    check_rest(blk);
}

/* A batch is given up for its user, and done anew. */
static void test_zeroes_stop(void)
{
    Compact c = { .zeroes = true, .stop_at = 3 };
    BlockBackend *blk;

    image_with_gap(&blk);
    g_assert_cmpint(write_fill(blk, 5 * BLOCK, BLOCK, 0), >=, 0);
    c.blk = blk;
    compact_start(&c);
    g_assert_cmpint(compact_end(&c), ==, 0);
    g_assert_cmpuint(c.asked, >=, 2 * c.stop_at);
    /* The head, the log, the two regions, and blocks 2 to 4 */
    g_assert_cmpuint(file_size(), ==, 4 * MiB + 3 * BLOCK);
    check_fill(blk, 5 * BLOCK, BLOCK, 0);
    check_rest(blk);
}

/* -- A child whose entries name places that they do not use -- */

/* A page of the BAT, and a block whose entry is on the second one */
#define PAGE_BYTES      4096
#define SECOND_PAGE     600

/* ... and another one there, in use from the beginning */
#define IN_USE          700

#define CHILD_SIZE      (1024 * BLOCK)

/* What an entry has beside its state: any place in the file */
#define UNUSED_PLACE    (16 * MiB)

/* Let block 0 and SECOND_PAGE have such entries.  Returns where the BAT is. */
static uint64_t name_unused(void)
{
    g_autofree uint8_t *file = NULL;
    uint64_t bat = 0;
    gsize bytes;

    g_assert_true(g_file_get_contents(image_path, (char **)&file, &bytes,
                                      NULL));
    for (int i = 0; i < 2; i++) {
        const uint8_t *entry = file + 3 * 64 * KiB + 16 + 32 * i;

        if (guid_is(entry, GUID_REGION_BAT)) {
            bat = get_le(entry + 16, 8);
        }
    }
    g_assert_cmpint(bat, !=, 0);
    put_le(file + bat, UNUSED_PLACE, 8);
    put_le(file + bat + SECOND_PAGE * 8, UNUSED_PLACE, 8);
    g_assert_true(g_file_set_contents(image_path, (char *)file, bytes, NULL));
    return bat;
}

/* Returns where its BAT is in the file. */
static uint64_t open_child(BlockBackend **blk)
{
    uint64_t bat;

    bdrv_img_create(image_path, "vhdx", NULL, NULL,
                    (char *)"block_size=1M,block_state_zero=off", CHILD_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
    child_of_file(image_path);
    bat = name_unused();
    *blk = open_over_zeros(CHILD_SIZE);
    g_assert_cmpint(write_fill(*blk, IN_USE * BLOCK, 4096, 1), >=, 0);
    return bat;
}

static void check_child(BlockBackend *blk)
{
    check_fill(blk, IN_USE * BLOCK, 4096, 1);
    check_fill(blk, IN_USE * BLOCK + 4096, BLOCK - 4096, 0);
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/*
 * Block 0's entry is read to drop its place; meanwhile a block whose turn comes
 * next is written to, and keeps the place that it has got.
 */
static void test_drop_written(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    uint64_t bat = open_child(&blk);

    hold_read_bytes = PAGE_BYTES;
    hold_copy(&c, blk, bat);
    g_assert_cmpint(write_fill(blk, SECOND_PAGE * BLOCK, 4096, 2), >=, 0);
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 0, BLOCK, 0);
    check_fill(blk, SECOND_PAGE * BLOCK, 4096, 2);
    check_fill(blk, SECOND_PAGE * BLOCK + 4096, BLOCK - 4096, 0);
    check_child(blk);
}

/*
 * A write is under way to the place of a new block that is all zeros by then.
 * No entry is to name the place; only the request knows of it.  The scan for
 * free space waits for that to end, so nobody else gets the place before.
 */
static void test_scan_held(void)
{
    Compact c = { .cancel_at = 1 };
    Write *held;

    open_child(&c.blk);
    held = hold_write(c.blk, BLOCK + 64 * KiB, 4096, 2);
    g_assert_cmpint(blk_pwrite_zeroes(c.blk, BLOCK, BLOCK, 0), >=, 0);
    compact_start(&c);
    run_all();
    for (int i = 2; i < 8; i++) {
        g_assert_cmpint(write_fill(c.blk, i * BLOCK, BLOCK, 10 + i), >=, 0);
    }
    g_assert_cmpint(release_write(held), >=, 0);
    g_assert_cmpint(compact_end(&c), ==, -ECANCELED);
    check_fill(c.blk, BLOCK, 64 * KiB, 0);
    check_fill(c.blk, BLOCK + 64 * KiB, 4096, 2);
    check_fill(c.blk, BLOCK + 68 * KiB, BLOCK - 68 * KiB, 0);
    for (int i = 2; i < 8; i++) {
        check_fill(c.blk, i * BLOCK, BLOCK, 10 + i);
    }
    check_child(c.blk);
}

/*
 * The same, with requests that take too long: they are waited for, with others
 * held off.
 */
static void test_scan_patience(void)
{
    Compact c = { .cancel_at = 1, .hold_ns = SCALE_MS };
    Write *before, *held, *after;

    open_child(&c.blk);
    before = hold_write_as(c.blk, "before", IN_USE * BLOCK + 4096, 4096, 0);
    compact_start(&c);
    run_all();
    held = hold_write_as(c.blk, "held", BLOCK + 64 * KiB, 4096, 2);
    g_assert_cmpint(release_write_as(before, "before"), >=, 0);
    run_all();
    g_assert_false(c.done);
    after = start_write(c.blk, 2 * BLOCK, BLOCK, 3);
    run_all();
    g_assert_cmpint(after->ret, ==, -EINPROGRESS);
    g_assert_cmpint(release_write_as(held, "held"), >=, 0);
    g_assert_cmpint(end_write(after), >=, 0);
    g_assert_cmpint(compact_end(&c), ==, -ECANCELED);
    check_fill(c.blk, BLOCK + 64 * KiB, 4096, 2);
    check_fill(c.blk, 2 * BLOCK, BLOCK, 3);
    check_child(c.blk);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_fail_init();

    g_test_add_func("/vhdx/live/status", test_status);
    g_test_add_func("/vhdx/live/write", test_write);
    g_test_add_func("/vhdx/live/write-scattered", test_write_scattered);
    g_test_add_func("/vhdx/live/write-before", test_write_before);
    g_test_add_func("/vhdx/live/patience", test_patience);
    g_test_add_func("/vhdx/live/patience-ends", test_patience_ends);
    g_test_add_func("/vhdx/live/discard", test_discard);
    g_test_add_func("/vhdx/live/cut", test_cut);
    g_test_add_func("/vhdx/live/flush", test_flush);
    g_test_add_func("/vhdx/live/resize", test_resize);
    g_test_add_func("/vhdx/live/zeroes", test_zeroes);
    g_test_add_func("/vhdx/live/zeroes-discard", test_zeroes_discard);
    g_test_add_func("/vhdx/live/zeroes-stop", test_zeroes_stop);
    g_test_add_func("/vhdx/live/drop-written", test_drop_written);
    g_test_add_func("/vhdx/live/scan-held", test_scan_held);
    g_test_add_func("/vhdx/live/scan-patience", test_scan_patience);
    ret = g_test_run();

    test_fail_finish();
    return ret;
}
