/*
 * VHDX unit tests: space that is given back to the node
 *
 * At the end the file is cut, below it places are punched.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-node.h"

/* -- Cuts -- */

/* The first three tell that the node never gets shorter. */
static const int cut_errors[] = { -EINVAL, -EOPNOTSUPP, -EPERM, -EIO, -EACCES };

static bool only_grows(int error)
{
    return error == -EINVAL || error == -EOPNOTSUPP || error == -EPERM;
}

static void discard(BlockBackend *blk, int first, int end)
{
    g_assert_cmpint(discard_wait(blk, first * BLOCK, (end - first) * BLOCK),
                    ==, 0);
}

/*
 * A cut in use is flushed before anything counts on zeros behind the new end:
 * else a power cut may keep what the file gains there, and old bytes in it.
 */
static void test_cut_flushed(void)
{
    BlockBackend *blk;
    uint64_t size;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 40);
    flush(blk);
    size = file_size(image_path);
    discard(blk, 2, 40);
    flush(blk);
    g_assert_cmpuint(file_size(image_path), <, size);
    g_assert_false(node.cut);
    blk_unref(blk);
}

/*
 * A cut in use fails, with or without effect: what is open is used on, what a
 * kill leaves opens, and old bytes do not come to light.
 */
static void cut_fails(int error, bool effect)
{
    BlockBackend *blk;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 40);
    flush(blk);
    node.shrink = error;
    node.effect = effect;
    discard(blk, 2, 40);
    flush(blk);
    g_assert_cmpint(write_fill(blk, 0, 512, 1), >=, 0);
    flush(blk);
    copy_image();
    check_copy(0, 2);
    /* Space for more than ever before, each block with but a sector in it */
    for (int i = 2; i < 60; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 512, i + 1), >=, 0);
        check_fill(blk, i * BLOCK + 512, BLOCK - 512, 0);
    }
    flush(blk);
    check_blocks(blk, 0, 2);
    blk_unref(blk);

    node.shrink = 0;
    blk = open_image(image_path, BDRV_O_RDWR);
    check_blocks(blk, 0, 2);
    for (int i = 2; i < 60; i++) {
        check_fill(blk, i * BLOCK, 512, i + 1);
        check_fill(blk, i * BLOCK + 512, BLOCK - 512, 0);
    }
    check_image(blk, 0);
    blk_unref(blk);
}

static void test_cut_fails(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cut_errors); i++) {
        cut_fails(cut_errors[i], false);
        cut_fails(cut_errors[i], true);
    }
}

/* Leave an image with four blocks, a log, and junk behind the last block. */
static void leave_tail(void)
{
    g_autofree char *junk = g_malloc(20 * MiB);
    BlockBackend *blk;
    FILE *file;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 4);
    flush(blk);
    copy_image();
    blk_unref(blk);
    g_assert_cmpint(rename(copy_path, image_path), ==, 0);
    g_assert_cmpint(file_size(image_path), >=, 16 * MiB);

    memset(junk, 0x77, 20 * MiB);
    file = fopen(image_path, "r+");
    g_assert_nonnull(file);
    g_assert_cmpint(fseek(file, 8 * MiB, SEEK_SET), ==, 0);
    g_assert_cmpint(fwrite(junk, 1, 20 * MiB, file), ==, 20 * MiB);
    g_assert_cmpint(fclose(file), ==, 0);
}

/* A tail that can't be cut hinders nothing, and is not taken for zeros. */
static void test_tail_stays(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cut_errors); i++) {
        BdrvCheckResult result;
        BlockBackend *blk;

        leave_tail();
        blk = open_image(image_path, BDRV_O_RDWR);
        node.shrink = cut_errors[i];
        /* The first write, which replays the log */
        for (int n = 4; n < 40; n++) {
            g_assert_cmpint(write_fill(blk, n * BLOCK, 512, n + 1), >=, 0);
            check_fill(blk, n * BLOCK + 512, BLOCK - 512, 0);
        }
        check_blocks(blk, 0, 4);
        g_assert_cmpint(discard_wait(blk, 4 * BLOCK, 36 * BLOCK), ==, 0);
        /* What a migration ends with, and what begins on the other side */
        blk_set_force_allow_inactivate(blk);
        g_assert_cmpint(bdrv_inactivate_all(), ==, 0);
        bdrv_activate_all(&error_abort);
        check_blocks(blk, 0, 4);
        g_assert_cmpint(write_fill(blk, 4 * BLOCK, 512, 5), >=, 0);
        blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &error_abort);
        bdrv_reopen_set_read_only(blk_bs(blk), true, &error_abort);
        check_blocks(blk, 0, 4);
        blk_unref(blk);

        leave_tail();
        node.shrink = cut_errors[i];
        blk = open_image(image_path, BDRV_O_RDWR | BDRV_O_CHECK);
        result = check_image(blk, BDRV_FIX_LEAKS);
        g_assert_cmpint(result.leaks > 0, ==, !only_grows(cut_errors[i]));
        g_assert_cmpint(result.leaks_fixed, ==, 0);
        /* qemu-img looks again after a repair, and tells what that finds. */
        g_assert_cmpint(result.corruptions_fixed, >, 0);
        result = check_image(blk, 0);
        g_assert_cmpint(result.leaks > 0, ==, !only_grows(cut_errors[i]));
        node.shrink = 0;
        blk_unref(blk);
    }
}

/* -- Punching -- */

/* Write a sector to each of @count new blocks, and discard every other one. */
static BlockBackend *make_holes(int count)
{
    BlockBackend *blk;

    create_sized("block_size=1M", (uint64_t)(count + 100) * BLOCK);
    blk = open_image(image_path, BDRV_O_RDWR);
    for (int i = 0; i < count; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 512, 1 + i % 255), >=, 0);
    }
    flush(blk);
    g_assert_cmpint(node.punched, ==, 0);
    for (int i = 1; i < count - 1; i += 2) {
        g_assert_cmpint(discard_wait(blk, i * BLOCK, BLOCK), ==, 0);
    }
    return blk;
}

/*
 * A flush punches no more than its share, also one with nothing else to do.
 * Meanwhile the space can be used, and what is used is not punched later.
 */
static void test_punch_share(void)
{
    const int count = 600;
    BlockBackend *blk = make_holes(count);
    uint64_t size = file_size(image_path);
    unsigned before, flushes = 0;

    do {
        before = node.punched;
        flush(blk);
        g_assert_cmpint(node.punched - before, <=, 64);
        if (!flushes++) {
            for (int i = count; i < count + 100; i++) {
                g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 77), >=, 0);
            }
        }
    } while (node.punched != before);
    /* Of the 100 places that are used again, 64 had been punched before. */
    g_assert_cmpint(node.punched, ==, count / 2 - 1 - 36);
    g_assert_cmpint(file_size(image_path), ==, size);
    blk_unref(blk);
    blk = open_image(image_path, 0);
    for (int i = 0; i < count; i += 2) {
        check_fill(blk, i * BLOCK, 512, 1 + i % 255);
    }
    for (int i = count; i < count + 100; i++) {
        check_fill(blk, i * BLOCK, BLOCK, 77);
    }
    blk_unref(blk);
}

/* Closing has a share as well, and so has a shorter disk. */
static void test_punch_close(void)
{
    BlockBackend *blk = make_holes(9000);

    g_assert_cmpint(blk_truncate(blk, 1000 * BLOCK, true, PREALLOC_MODE_OFF, 0,
                                 &error_abort), ==, 0);
    /* It commits some times. */
    g_assert_cmpint(node.punched, <=, 4 * 64);
    blk_unref(blk);

    blk = make_holes(9000);
    blk_unref(blk);
    g_assert_cmpint(node.punched, >, 1000);
    g_assert_cmpint(node.punched, <=, 64 + 4096);
}

static void flush_ended(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

/* While a place is being punched, others are to be had. */
static void test_punch_held(void)
{
    BlockBackend *blk = make_holes(100);
    int ret = -EINPROGRESS;

    node.hold_punch = true;
    blk_aio_flush(blk, flush_ended, &ret);
    while (!node.held_punch) {
        aio_poll(qemu_get_aio_context(), true);
    }
    for (int i = 100; i < 130; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 77), >=, 0);
    }
    g_assert_cmpint(ret, ==, -EINPROGRESS);
    node.hold_punch = false;
    aio_co_wake(node.held_punch);
    while (ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(ret, ==, 0);
    for (int i = 100; i < 130; i++) {
        check_fill(blk, i * BLOCK, BLOCK, 77);
    }
    flush(blk);
    for (int i = 0; i < 100; i += 2) {
        check_fill(blk, i * BLOCK, 512, 1 + i % 255);
    }
    blk_unref(blk);
}

/*
 * Where the file can't be cut, what is free at its end is punched.  Meanwhile
 * blocks go elsewhere; they may go there afterwards.
 */
static void tail_punched(int error)
{
    BlockBackend *blk;
    int ret = -EINPROGRESS;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 40);
    flush(blk);
    node.shrink = error;
    node.length = error ? 0 : file_size(image_path);
    discard(blk, 2, 40);
    node.hold_punch = true;
    blk_aio_flush(blk, flush_ended, &ret);
    while (!node.held_punch) {
        g_assert_cmpint(ret, ==, -EINPROGRESS);
        aio_poll(qemu_get_aio_context(), true);
    }
    if (error) {
        write_blocks(blk, 40, 44);
    }
    node.hold_punch = false;
    aio_co_wake(node.held_punch);
    while (ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(ret, ==, 0);
    flush(blk);
    g_assert_cmpuint(node.punched_bytes, >=, (error ? 34 : 38) * BLOCK);
    write_blocks(blk, 20, 40);
    flush(blk);
    check_blocks(blk, 0, 2);
    check_blocks(blk, 20, error ? 44 : 40);
    check_image(blk, 0);
    blk_unref(blk);
}

static void test_tail_punched(void)
{
    tail_punched(0);
    for (size_t i = 0; i < G_N_ELEMENTS(cut_errors); i++) {
        tail_punched(cut_errors[i]);
    }
}

int main(int argc, char **argv)
{
    int ret;

    test_node_init();
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhdx/space/cut-flushed", test_cut_flushed);
    g_test_add_func("/vhdx/space/cut-fails", test_cut_fails);
    g_test_add_func("/vhdx/space/tail-stays", test_tail_stays);
    g_test_add_func("/vhdx/space/punch-share", test_punch_share);
    g_test_add_func("/vhdx/space/punch-close", test_punch_close);
    g_test_add_func("/vhdx/space/punch-held", test_punch_held);
    g_test_add_func("/vhdx/space/tail-punched", test_tail_punched);
    ret = g_test_run();
    test_node_finish();
    return ret;
}
