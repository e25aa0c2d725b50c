/*
 * VHDX unit tests: what memory the page cache takes, and that it is enough
 *
 * The image has many more pages of BAT than the smallest cache holds.  All of
 * its blocks are present, in a sparse file.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space-freed.h"
#include "vhdx-test-child.h"

#define BLOCK       MiB
#define BLOCKS      (96 * 1024)
#define DISK_SIZE   (BLOCKS * (uint64_t)BLOCK)
#define CHUNK       4096                    /* blocks */
#define BAT         (2 * MiB)
#define PAGE_BLOCKS 512
#define PAGES       (BLOCKS / PAGE_BLOCKS)

/* What the smallest cache has, in one piece of memory */
#define SMALLEST    (256 * KiB)
#define BUFFERS     64

static char *test_dir;
static char *image_path;
static char *parent_path;

/* Make the image, its blocks in the order of the disk or the other way. */
static void create_image(bool reverse)
{
    g_autofree char *options = g_strdup("block_size=1M");
    const size_t bat_bytes = (BLOCKS + BLOCKS / CHUNK) * 8;
    g_autofree uint8_t *bat = g_malloc0(bat_bytes);
    struct stat st;
    int fd;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
    fd = open(image_path, O_RDWR);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t at = reverse ? BLOCKS - 1 - i : i;

        /* Behind each chunk is an entry that is not used. */
        put_le(bat + (i + i / CHUNK) * 8, (st.st_size + at * BLOCK) | 6, 8);
    }
    g_assert_cmpint(pwrite(fd, bat, bat_bytes, BAT), ==, bat_bytes);
    g_assert_cmpint(ftruncate(fd, st.st_size + DISK_SIZE), ==, 0);
    close(fd);
}

static BlockBackend *open_image(uint64_t cache_size)
{
    g_autofree char *size = g_strdup_printf("%" PRIu64, cache_size);
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "cache-size", size);
    qdict_put_str(options, "discard", "unmap");
    qdict_put_str(options, "file.driver", "file");
    qdict_put_str(options, "file.discard", "ignore");
    qdict_put_str(options, "file.filename", image_path);
    return blk_new_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_NO_FLUSH,
                        &error_abort);
}

static void close_image(BlockBackend *blk)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==, 0);
    g_assert_cmpint(result.corruptions + result.check_errors, ==, 0);
    blk_unref(blk);
    unlink(image_path);
}

/* The cache has never taken more than it may when it is @cache_size. */
static void check_memory(BlockBackend *blk, uint64_t cache_size)
{
    BDRVVHDXState *s = blk_bs(blk)->opaque;
    unsigned limit = cache_size / 4096;

    g_assert_cmpint(vhdx_cache_count_buffers(s), <=, limit);
    g_assert_cmpint(vhdx_cache_count_chunks(s), <=,
                    DIV_ROUND_UP(limit, BUFFERS));
}

static void request_ended(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

static int wait_for(int *ret)
{
    while (*ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return *ret;
}

static int discard(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    int ret = -EINPROGRESS;

    blk_aio_pdiscard(blk, offset, bytes, request_ended, &ret);
    return wait_for(&ret);
}

/* Whether block @block is present. */
static bool is_present(BlockBackend *blk, uint64_t block)
{
    int64_t n;
    int ret;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    ret = bdrv_block_status(blk_bs(blk), block * BLOCK, BLOCK, &n, NULL, NULL);
    g_assert_cmpint(ret, >=, 0);
    return ret & BDRV_BLOCK_OFFSET_VALID;
}

/* One request frees nearly all blocks. */
static void test_free(bool reverse, bool zero)
{
    const uint64_t from = BLOCK / 2, bytes = DISK_SIZE - BLOCK;
    BlockBackend *blk;
    BDRVVHDXState *s;

    create_image(reverse);
    blk = open_image(SMALLEST);
    s = blk_bs(blk)->opaque;
    if (zero) {
        g_assert_cmpint(blk_pwrite_zeroes(blk, from, bytes,
                                          BDRV_REQ_MAY_UNMAP), >=, 0);
    } else {
        g_assert_cmpint(discard(blk, from, bytes), >=, 0);
    }
    check_memory(blk, SMALLEST);
    /* What it has freed did not wait for its end. */
    WITH_VHDX_LOCK_GUARD(s) {
        g_assert_cmpint(vhdx_space_count_committed(s) +
                        vhdx_space_count_freed(s), <=, 65536);
    }
    g_assert_cmpint(blk_flush(blk), ==, 0);
    for (unsigned i = 0; i < BLOCKS; i += PAGE_BLOCKS - 1) {
        g_assert_cmpint(is_present(blk, i), ==, i == 0);
    }
    g_assert_true(is_present(blk, BLOCKS - 1));
    check_memory(blk, SMALLEST);
    close_image(blk);
}

static void test_discard(void)
{
    test_free(false, false);
}

static void test_discard_scattered(void)
{
    test_free(true, false);
}

static void test_zero(void)
{
    test_free(false, true);
}

/* Others go on while a large request is under way. */
static void test_others(void)
{
    int large = -EINPROGRESS, small = -EINPROGRESS;
    uint8_t buf[512];
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, sizeof(buf));
    BlockBackend *blk;

    create_image(false);
    /* All pages are in memory, so nothing has to be read. */
    blk = open_image(VHDX_CACHE_SIZE);
    for (unsigned i = 0; i < BLOCKS; i += PAGE_BLOCKS / 2) {
        g_assert_true(is_present(blk, i));
    }
    g_assert_cmpint(blk_pwrite(blk, 0, sizeof(buf), buf, 0), >=, 0);
    blk_aio_pwrite_zeroes(blk, 0, DISK_SIZE, BDRV_REQ_MAY_UNMAP, request_ended,
                          &large);
    blk_aio_preadv(blk, 0, &qiov, 0, request_ended, &small);
    g_assert_cmpint(wait_for(&small), >=, 0);
    g_assert_cmpint(large, ==, -EINPROGRESS);
    g_assert_cmpint(wait_for(&large), >=, 0);
    close_image(blk);
}

static void reopen(BlockBackend *blk, uint64_t cache_size)
{
    g_autofree char *size = g_strdup_printf("%" PRIu64, cache_size);
    QDict *options = qdict_new();

    qdict_put_str(options, "cache-size", size);
    g_assert_cmpint(bdrv_reopen(blk_bs(blk), options, true, &error_abort), ==,
                    0);
    check_memory(blk, cache_size);
}

/* A smaller limit gives memory back, be the pages changed or not. */
static void test_reopen(void)
{
    BlockBackend *blk;
    BDRVVHDXState *s;

    create_image(false);
    blk = open_image(VHDX_CACHE_SIZE);
    s = blk_bs(blk)->opaque;
    for (int round = 0; round < 3; round++) {
        for (unsigned i = 0; i < PAGES; i++) {
            uint64_t block = i * (uint64_t)PAGE_BLOCKS + round;

            g_assert_true(is_present(blk, block));
            if (round) {
                g_assert_cmpint(discard(blk, block * BLOCK, BLOCK), >=, 0);
            }
        }
        g_assert_cmpint(vhdx_cache_count_chunks(s), >=, PAGES / BUFFERS);
        reopen(blk, SMALLEST);
        for (unsigned i = 0; i < PAGES; i++) {
            uint64_t block = i * (uint64_t)PAGE_BLOCKS + round;

            g_assert_cmpint(is_present(blk, block), ==, !round);
        }
        check_memory(blk, SMALLEST);
        reopen(blk, VHDX_CACHE_SIZE);
    }
    close_image(blk);
}

/* -- Pages with changes fill it -- */

/* A request that looks for its pages without end reads more often than this. */
#define ROUNDS      1000

/* The same as wait_for(), but not without end */
static int wait_bounded(int *ret)
{
    for (int i = 0; i < ROUNDS && *ret == -EINPROGRESS; i++) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(*ret, !=, -EINPROGRESS);
    return *ret;
}

/* Open the image, which has a parent of zeros. */
static BlockBackend *open_child(void)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "file.driver", "file");
    qdict_put_str(options, "file.filename", image_path);
    qdict_put_str(options, "backing.driver", "raw");
    qdict_put_str(options, "backing.file.driver", "file");
    qdict_put_str(options, "backing.file.filename", parent_path);
    return blk_new_open(NULL, NULL, options,
                        BDRV_O_RDWR | BDRV_O_UNMAP | BDRV_O_NO_FLUSH,
                        &error_abort);
}

/* Make an image with blocks of @block bytes that is to have a parent. */
static void create_child(uint64_t block)
{
    g_autofree char *options =
        g_strdup_printf("block_size=%" PRIu64 ",block_state_zero=off", block);
    int fd = open(parent_path, O_RDWR | O_CREAT, 0600);

    g_assert_cmpint(ftruncate(fd, DISK_SIZE), ==, 0);
    close(fd);
    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
    child_of_file(image_path);
}

/* Pages with changes, which can not go, are more than the cache may have. */
static void stick(BlockBackend *blk)
{
    BDRVVHDXState *s = blk_bs(blk)->opaque;

    WITH_VHDX_LOCK_GUARD(s) {
        g_assert_cmpint(vhdx_cache_count_changed(s), >=, BUFFERS);
        vhdx_cache_set_limit(s, SMALLEST);
        g_assert_cmpint(vhdx_cache_count_buffers(s), ==,
                        vhdx_cache_count_changed(s));
    }
}

/* The last block of the disk is partially present, and cleanly closed. */
static BlockBackend *open_partial(void)
{
    uint8_t buf[4096] = { 1 };
    BlockBackend *blk;

    create_child(BLOCK);
    blk = open_child();
    g_assert_cmpint(blk_pwrite(blk, DISK_SIZE - BLOCK, sizeof(buf), buf, 0),
                    >=, 0);
    blk_unref(blk);
    return open_child();
}

/* Change the BAT in more pages than the smallest cache has. */
static void change_pages(BlockBackend *blk)
{
    for (int64_t i = 0; i < BUFFERS + 1; i++) {
        g_assert_cmpint(blk_pwrite_zeroes(blk, i * PAGE_BLOCKS * BLOCK, BLOCK,
                                          BDRV_REQ_MAY_UNMAP), >=, 0);
    }
    stick(blk);
}

/* A read needs a page of the BAT and one of a sector bitmap. */
static void test_stuck_read(void)
{
    uint8_t buf[8192];
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, sizeof(buf));
    BlockBackend *blk = open_partial();
    int ret = -EINPROGRESS;

    change_pages(blk);
    blk_aio_preadv(blk, DISK_SIZE - BLOCK, &qiov, 0, request_ended, &ret);
    g_assert_cmpint(wait_bounded(&ret), >=, 0);
    g_assert_cmpint(buf[0], ==, 1);
    close_image(blk);
}

/* A write may need all pages that have the bits of its block. */
static void test_stuck_write(void)
{
    const int64_t block = 256 * MiB, page = 16 * MiB;
    uint8_t buf[512] = { 1 };
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, sizeof(buf));
    int ret = -EINPROGRESS;
    BlockBackend *blk;

    create_child(block);
    blk = open_child();
    g_assert_cmpint(blk_pwrite(blk, 0, sizeof(buf), buf, 0), >=, 0);
    blk_unref(blk);
    blk = open_child();
    for (int i = 0; i < BUFFERS; i++) {
        g_assert_cmpint(blk_pwrite(blk, i * page, sizeof(buf), buf, 0), >=, 0);
    }
    stick(blk);
    blk_aio_pwritev(blk, 10 * block, &qiov, 0, request_ended, &ret);
    g_assert_cmpint(wait_bounded(&ret), >=, 0);
    close_image(blk);
}

typedef struct CacheWrite {
    BlockDriverState *bs;
    uint64_t offset;
    uint64_t bytes;
    int ret;
} CacheWrite;

static void coroutine_fn cache_write_entry(void *opaque)
{
    CacheWrite *w = opaque;
    g_autofree uint8_t *buf = g_malloc(w->bytes);

    memset(buf, 1, w->bytes);
    GRAPH_RDLOCK_GUARD();
    w->ret = vhdx_cache_write(w->bs, w->offset, w->bytes, buf);
}

/* A locator of the longest paths is written at once. */
static void test_stuck_locator(void)
{
    BlockBackend *blk = open_partial();
    BDRVVHDXState *s = blk_bs(blk)->opaque;
    CacheWrite w = {
        .bs = blk_bs(blk),
        .offset = s->metadata.offset + MiB / 2 + 512,
        .bytes = 49 * 4096,
        .ret = -EINPROGRESS,
    };

    change_pages(blk);
    qemu_coroutine_enter(qemu_coroutine_create(cache_write_entry, &w));
    g_assert_cmpint(wait_bounded(&w.ret), ==, 0);
    close_image(blk);
}

/* What stays although there is no room is bounded. */
static void test_stuck_memory(void)
{
    BlockBackend *blk = open_partial();
    BDRVVHDXState *s = blk_bs(blk)->opaque;
    unsigned changed;

    change_pages(blk);
    changed = vhdx_cache_count_buffers(s);
    for (int i = BUFFERS + 1; i < PAGES; i++) {
        g_assert_false(is_present(blk, i * (uint64_t)PAGE_BLOCKS));
        g_assert_cmpint(vhdx_cache_count_buffers(s), <=,
                        changed + 18 + BUFFERS / 4);
    }
    g_assert_cmpint(blk_flush(blk), ==, 0);
    close_image(blk);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
    parent_path = g_build_filename(test_dir, "parent.raw", NULL);

    g_test_add_func("/vhdx/cache/discard", test_discard);
    g_test_add_func("/vhdx/cache/discard-scattered", test_discard_scattered);
    g_test_add_func("/vhdx/cache/zero", test_zero);
    g_test_add_func("/vhdx/cache/others", test_others);
    g_test_add_func("/vhdx/cache/reopen", test_reopen);
    g_test_add_func("/vhdx/cache/stuck/read", test_stuck_read);
    g_test_add_func("/vhdx/cache/stuck/write", test_stuck_write);
    g_test_add_func("/vhdx/cache/stuck/locator", test_stuck_locator);
    g_test_add_func("/vhdx/cache/stuck/memory", test_stuck_memory);
    ret = g_test_run();

    unlink(parent_path);
    rmdir(test_dir);
    g_free(parent_path);
    g_free(image_path);
    g_free(test_dir);
    return ret;
}
