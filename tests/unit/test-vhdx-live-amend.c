/*
 * VHDX unit tests: an image that is amended while requests go on
 *
 * Who amends lets others go on between steps, and while blocks get places.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/format.h"
#include "vhdx-test-live.h"

/* Somebody who amends @blk */
typedef struct Amend {
    BlockBackend *blk;
    VHDXAmend what;
    unsigned asked;                 /* so often whether it is to stop */
    unsigned pauses;                /* that have begun */
    unsigned cancel_at;             /* cancelled in this one; 0: never */
    unsigned stay_at;               /* stays in this one; 0: in none */
    Coroutine *staying;
    int64_t progress;
    int ret;
    bool done;
} Amend;

static int coroutine_fn GRAPH_RDLOCK
amend_pause(BlockDriverState *bs, void *opaque)
{
    Amend *a = opaque;

    a->pauses++;
    if (a->pauses == a->stay_at) {
        a->staying = qemu_coroutine_self();
        qemu_coroutine_yield();
        a->staying = NULL;
    }
    return a->pauses == a->cancel_at ? -ECANCELED : 0;
}

/* After each block */
static bool coroutine_fn amend_stop(BlockDriverState *bs, void *opaque)
{
    Amend *a = opaque;

    return a->asked++ % 2;
}

static void amend_status(BlockDriverState *bs, int64_t offset, int64_t total,
                         void *opaque)
{
    Amend *a = opaque;

    g_assert_cmpint(offset, >=, a->progress);
    g_assert_cmpint(offset, <=, total);
    a->progress = offset;
}

static void coroutine_fn amend_entry(void *opaque)
{
    Amend *a = opaque;
    VHDXCompactUser user = {
        .pause = amend_pause,
        .move = { .stop = amend_stop, .opaque = a },
        .status = amend_status,
        .opaque = a,
    };
    Error *err = NULL;

    a->what.user = &user;
    a->what.status_cb = amend_status;
    a->what.cb_opaque = a;
    GRAPH_RDLOCK_GUARD();
    a->ret = vhdx_amend_change(blk_bs(a->blk), &a->what, &err);
    /* Who cancels knows why. */
    g_assert_true(!err || a->ret < 0);
    error_free(err);
    a->done = true;
}

static void amend_start(Amend *a)
{
    qemu_coroutine_enter(qemu_coroutine_create(amend_entry, a));
    while (!a->done && !a->staying) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static int amend_end(Amend *a)
{
    if (a->staying) {
        aio_co_wake(a->staying);
    }
    while (!a->done) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return a->ret;
}

/* So many blocks of the disk have a place. */
static int64_t count_present(BlockBackend *blk)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==, 0);
    return result.bfi.allocated_clusters;
}

/*
 * An image gets fixed, part of which was discarded, so that its space has old
 * data.  Reads and writes go on meanwhile: of a block that has a place, and of
 * one that has none yet; a block that has got one may lose it.
 */
static void test_fix(void)
{
    Amend a = { .what.fix = true, .stay_at = 4 };

    image_with_gap(&a.blk);
    amend_start(&a);
    g_assert_nonnull(a.staying);
    g_assert_false(state(a.blk)->params.leave_allocated);
    g_assert_cmpint(count_present(a.blk), >, 4);
    g_assert_cmpint(count_present(a.blk), <, 16);
    check_fill(a.blk, 0, 2 * BLOCK, 0);
    g_assert_cmpint(write_fill(a.blk, 6 * BLOCK, 4096, 7), >=, 0);
    g_assert_cmpint(write_fill(a.blk, 15 * BLOCK, 4096, 8), >=, 0);
    g_assert_cmpint(discard_wait(a.blk, 0, BLOCK), >=, 0);
    g_assert_cmpint(amend_end(&a), ==, 0);

    g_assert_true(state(a.blk)->params.leave_allocated);
    g_assert_cmpint(count_present(a.blk), ==, 16);
    check_fill(a.blk, 5 * BLOCK, BLOCK, 6);
    check_fill(a.blk, 6 * BLOCK, 4096, 7);
    check_fill(a.blk, 6 * BLOCK + 4096, 4096, 0);
    check_fill(a.blk, 7 * BLOCK, 8 * BLOCK, 0);
    check_fill(a.blk, 15 * BLOCK, 4096, 8);
    check_rest(a.blk);
}

/* What is cancelled leaves a dynamic image; done again, it gets fixed. */
static void test_fix_cancelled(void)
{
    Amend a = { .what.fix = true, .cancel_at = 3 };
    Amend again = { .what.fix = true };
    int64_t present;

    image_with_gap(&a.blk);
    amend_start(&a);
    g_assert_cmpint(amend_end(&a), ==, -ECANCELED);
    g_assert_false(state(a.blk)->params.leave_allocated);
    present = count_present(a.blk);
    g_assert_cmpint(present, >, 4);
    g_assert_cmpint(present, <, 16);
    again.blk = a.blk;
    amend_start(&again);
    g_assert_cmpint(amend_end(&again), ==, 0);
    g_assert_cmpint(count_present(a.blk), ==, 16);
    check_fill(a.blk, 5 * BLOCK, BLOCK, 6);
    check_rest(a.blk);
}

/* The disk gets shorter, or longer, while its blocks get places. */
static void test_fix_resized(void)
{
    for (int i = 0; i < 2; i++) {
        Amend a = { .what.fix = true, .stay_at = i ? 3 : 6 };
        int64_t size = (i ? 20 : 7) * BLOCK;

        image_with_gap(&a.blk);
        blk_set_perm(a.blk, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                     BLK_PERM_RESIZE, BLK_PERM_ALL, &error_abort);
        amend_start(&a);
        g_assert_cmpint(blk_truncate(a.blk, size, true, PREALLOC_MODE_OFF, 0,
                                     &error_abort), ==, 0);
        g_assert_cmpint(amend_end(&a), ==, 0);
        g_assert_cmpint(count_present(a.blk), ==, size / BLOCK);
        check_fill(a.blk, 5 * BLOCK, BLOCK, 6);
        check_fill(a.blk, 6 * BLOCK, size - 6 * BLOCK, 0);
        check_rest(a.blk);
    }
}

/* Of what is cancelled between two steps the first one has been done alone. */
static void test_steps(void)
{
    Amend a = {
        .what = { .log_size = 2 * MiB, .disk_id = vhdx_guid_new() },
        .cancel_at = 1,
    };
    VHDXGuid before;

    image_with_gap(&a.blk);
    before = state(a.blk)->params.disk_id;
    amend_start(&a);
    g_assert_cmpint(amend_end(&a), ==, -ECANCELED);
    g_assert_cmpuint(a.pauses, ==, 1);
    g_assert_cmpuint(state(a.blk)->header.log_length, ==, 2 * MiB);
    g_assert_true(vhdx_guid_equal(&state(a.blk)->params.disk_id, &before));
    check_fill(a.blk, 5 * BLOCK, BLOCK, 6);
    check_rest(a.blk);
}

/* The copy of a long block is given up for somebody who waits for its end. */
static void test_beside_compact(void)
{
    const uint64_t block = 8 * MiB;
    Amend a = { .what.disk_id = vhdx_guid_new() };
    Compact c = { 0 };
    uint64_t place;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)"block_size=8M",
                    8 * block, BDRV_O_RDWR, true, &error_abort);
    a.blk = open_image();
    for (int i = 0; i < 2; i++) {
        for (uint64_t at = 0; at < block; at += BLOCK) {
            g_assert_cmpint(write_fill(a.blk, i * block + at, BLOCK, i + 1),
                            >=, 0);
        }
    }
    place = QEMU_ALIGN_DOWN(last_write, MiB) + MiB - block;
    g_assert_cmpint(discard_wait(a.blk, 0, block), >=, 0);
    g_assert_cmpint(blk_flush(a.blk), ==, 0);

    hold_copy(&c, a.blk, place);
    qemu_coroutine_enter(qemu_coroutine_create(amend_entry, &a));
    run_all();
    g_assert_false(a.done);
    /* The end of the block is not among what is being copied. */
    hold_read_at = place + block - BLOCK;
    aio_co_wake(g_steal_pointer(&held_read));
    while (!a.done) {
        g_assert_null(held_read);
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(a.ret, ==, 0);
    hold_read_at = 0;
    if (held_read) {
        aio_co_wake(g_steal_pointer(&held_read));
    }
    g_assert_cmpint(compact_end(&c), ==, 0);
    g_assert_true(vhdx_guid_equal(&state(a.blk)->params.disk_id,
                                  &a.what.disk_id));
    check_fill(a.blk, 0, block, 0);
    check_fill(a.blk, block, block, 2);
    check_is_clean(a.blk);
    blk_unref(a.blk);
    g_assert_cmpuint(file_size(), ==, place);
    unlink(image_path);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_fail_init();

    g_test_add_func("/vhdx/live-amend/fix", test_fix);
    g_test_add_func("/vhdx/live-amend/fix-cancelled", test_fix_cancelled);
    g_test_add_func("/vhdx/live-amend/fix-resized", test_fix_resized);
    g_test_add_func("/vhdx/live-amend/steps", test_steps);
    g_test_add_func("/vhdx/live-amend/beside-compact", test_beside_compact);
    ret = g_test_run();

    test_fail_finish();
    return ret;
}
