/*
 * VHDX unit tests: what is read of a differencing image's file and its parent
 *
 * A filter of our own below the image, and another one over the parent, count
 * reads.  They can hold one back, and fail those of a certain place.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "vhdx-test-child.h"
#include "vhdx-test-filter.h"
#include "vhdx-test-hold.h"

#define BLOCK       MiB
#define SECTOR      512

/* What the parent is full of, and how long it is */
#define PARENT      0x11
#define PARENT_SIZE (16 * MiB)

static char *test_dir;
static char *image_path;
static char *parent_path;

/* The node below the image, or the one over its parent */
typedef struct Node {
    unsigned reads;                 /* since the last look */
    bool hold;                      /* the next read waits ... */
    bool hold_after;                /* ... when it has been done */
    Coroutine *held;                /* ... and this one does */
    int64_t fail_at;                /* reads of this place fail; 0: none */
} Node;

static Node image, parent;

static void coroutine_fn node_hold(Node *node)
{
    node->hold = false;
    node->held = qemu_coroutine_self();
    qemu_coroutine_yield();
    node->held = NULL;
}

static int coroutine_fn GRAPH_RDLOCK
count_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
             QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    Node *node = strcmp(bs->file->bs->filename, image_path) ? &parent : &image;
    bool hold = node->hold;
    int ret;

    node->reads++;
    if (hold && !node->hold_after) {
        node_hold(node);
    }
    ret = bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
    if (hold && node->hold_after) {
        node_hold(node);
    }
    return node->fail_at && node->fail_at >= offset &&
           node->fail_at - offset < bytes ? -EIO : ret;
}

static BlockDriver bdrv_count = {
    .format_name            = "vhdx-test-count",
    .is_filter              = true,
    .bdrv_open              = filter_open,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_preadv         = count_preadv,
    .bdrv_co_pwritev        = filter_pwritev,
    .bdrv_co_pwrite_zeroes  = filter_pwrite_zeroes,
    .bdrv_co_truncate       = filter_truncate,
    .bdrv_co_flush          = filter_flush,
};

static const char *cache_size;

static BlockBackend *open_image(void)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    if (cache_size) {
        qdict_put_str(options, "cache-size", cache_size);
    }
    qdict_put_str(options, "file.driver", "vhdx-test-count");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", image_path);
    qdict_put_str(options, "backing.driver", "vhdx-test-count");
    qdict_put_str(options, "backing.file.driver", "file");
    qdict_put_str(options, "backing.file.filename", parent_path);
    return blk_new_open(NULL, NULL, options,
                        BDRV_O_RDWR | BDRV_O_UNMAP | BDRV_O_NO_FLUSH,
                        &error_abort);
}

/* Open a new child, the log of which is open, with its block 0 written. */
static BlockBackend *open_new(uint64_t size)
{
    g_autofree char *options =
        g_strdup_printf("block_size=%" PRIu64 ",block_state_zero=off",
                        (uint64_t)BLOCK);
    BlockBackend *blk;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, size, BDRV_O_RDWR,
                    true, &error_abort);
    child_of_file(image_path);
    blk = open_image();
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    return blk;
}

static void end(BlockBackend *blk)
{
    check_is_clean(blk);
    blk_unref(blk);
    unlink(image_path);
}

/* Begin to count anew. */
static void count_begin(void)
{
    image.reads = parent.reads = 0;
}

static void expect_reads(unsigned of_image, unsigned of_parent)
{
    g_assert_cmpint(image.reads, ==, of_image);
    g_assert_cmpint(parent.reads, ==, of_parent);
}

/* Write every other 4 KiB of @bytes bytes at @at, beginning with the first. */
static void write_turns(BlockBackend *blk, int64_t at, int64_t bytes, int fill)
{
    for (int64_t done = 0; done < bytes; done += 8 * KiB) {
        g_assert_cmpint(write_fill(blk, at + done, 4 * KiB, fill), >=, 0);
    }
}

/* Read @bytes bytes at @at, of which every other 4 KiB are @fill. */
static void check_turns(BlockBackend *blk, int64_t at, int64_t bytes, int fill)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(blk_pread(blk, at, bytes, buf, 0), >=, 0);
    for (int64_t i = 0; i < bytes; i++) {
        g_assert_cmpint(buf[i], ==, (at + i) / (4 * KiB) % 2 ? PARENT : fill);
    }
}

/* Read a block that has 64 KiB twice. */
static void check_long(BlockBackend *blk, int64_t at)
{
    g_autofree uint8_t *buf = g_malloc(BLOCK);

    g_assert_cmpint(blk_pread(blk, at, BLOCK, buf, 0), >=, 0);
    for (int i = 0; i < BLOCK; i++) {
        g_assert_cmpint(buf[i], ==, i % (512 * KiB) < 64 * KiB ? 6 : PARENT);
    }
}

/* Many runs, and short ones, take two reads; few long ones take one each. */
static void test_counts(void)
{
    BlockBackend *blk = open_new(PARENT_SIZE);

    write_turns(blk, BLOCK, BLOCK, 2);
    count_begin();
    check_turns(blk, BLOCK, BLOCK, 2);
    expect_reads(1, 1);

    /* Any part of it, be the first or last run the child's or the parent's */
    for (int first = 0; first < 2; first++) {
        for (int runs = 1; runs < 12; runs++) {
            bool many = runs > 2;

            count_begin();
            check_turns(blk, BLOCK + (20 + first) * 4 * KiB, runs * 4 * KiB, 2);
            expect_reads(many ? 1 : (runs + !first) / 2,
                         many ? 1 : (runs + first) / 2);
        }
    }
    /* Long ones */
    for (int i = 5; i < 10; i += 2) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 64 * KiB, 6), >=, 0);
        g_assert_cmpint(write_fill(blk, i * BLOCK + 512 * KiB, 64 * KiB, 6),
                        >=, 0);
        count_begin();
        check_fill(blk, i * BLOCK + 512 * KiB, 64 * KiB, 6);
        check_long(blk, i * BLOCK);
        expect_reads(3, 2);
        /* One that is short, between the parent's */
        count_begin();
        check_fill(blk, i * BLOCK + 64 * KiB, 448 * KiB, PARENT);
        expect_reads(0, 1);
    }
    /* Two blocks of runs, with one of the child and one of the parent */
    write_turns(blk, 3 * BLOCK, BLOCK, 2);
    g_assert_cmpint(write_fill(blk, 4 * BLOCK, BLOCK, 4), >=, 0);
    count_begin();
    check_fill(blk, 2 * BLOCK, BLOCK, PARENT);
    check_turns(blk, BLOCK, BLOCK, 2);
    check_turns(blk, 3 * BLOCK, BLOCK, 2);
    expect_reads(2, 3);
    count_begin();
    {
        g_autofree uint8_t *buf = g_malloc(4 * BLOCK);

        g_assert_cmpint(blk_pread(blk, BLOCK, 4 * BLOCK, buf, 0), >=, 0);
        g_assert_cmpint(buf[0], ==, 2);
        g_assert_cmpint(buf[BLOCK], ==, PARENT);
        g_assert_cmpint(buf[2 * BLOCK], ==, 2);
        g_assert_cmpint(buf[3 * BLOCK - 1], ==, PARENT);
        g_assert_cmpint(buf[3 * BLOCK], ==, 4);
    }
    expect_reads(3, 3);
    end(blk);
}

/* Any sectors may be the child's; reads come out as they should be. */
static void test_random(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(20);
    g_autofree uint8_t *want = g_malloc(PARENT_SIZE);
    g_autofree uint8_t *buf = g_malloc(PARENT_SIZE);
    BlockBackend *blk = open_new(PARENT_SIZE);
    const int64_t from = 2 * BLOCK, area = 3 * BLOCK;

    memset(want, PARENT, PARENT_SIZE);
    for (int i = 0; i < 4000; i++) {
        int64_t at = from + g_rand_int_range(rand, 0, area / SECTOR) * SECTOR;
        int64_t rest = MIN(from + area - at, (i % 7 ? 2 : 64) * KiB);
        int64_t bytes = g_rand_int_range(rand, 1, rest / SECTOR + 1) * SECTOR;

        if (i % 4) {
            g_assert_cmpint(blk_pread(blk, at, bytes, buf, 0), >=, 0);
            g_assert_cmpmem(buf, bytes, want + at, bytes);
        } else {
            memset(want + at, i % 251, bytes);
            g_assert_cmpint(write_fill(blk, at, bytes, i % 251), >=, 0);
        }
        if (i % 100 == 0) {
            g_assert_cmpint(blk_pread(blk, from, area, buf, 0), >=, 0);
            g_assert_cmpmem(buf, area, want + from, area);
        }
    }
    end(blk);
}

/* Start to read block 1, which has many runs, and hold a read of @node. */
static Write *hold_read(BlockBackend *blk, Node *node, bool after)
{
    Write *r;

    node->hold = true;
    node->hold_after = after;
    r = start_read(blk, BLOCK, BLOCK);
    while (!node->held) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return r;
}

/* Let it go on.  Each 4 KiB of what it reads are all @first or @second. */
static void release_read(Write *r, Node *node, int first, int second)
{
    aio_co_wake(node->held);
    while (r->ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    for (int i = 0; i < BLOCK; i++) {
        bool own = i / (4 * KiB) % 2 == 0;

        g_assert_cmpint(r->buf[i], ==, r->buf[i - i % (4 * KiB)]);
        if (r->buf[i] != second) {
            g_assert_cmpint(r->buf[i], ==, own ? first : PARENT);
        }
    }
    g_assert_cmpint(end_write(r), >=, 0);
}

/* Sectors that are written meanwhile are as before, or as they become. */
static void test_write_meanwhile(void)
{
    for (int i = 0; i < 4; i++) {
        Node *node = i % 2 ? &image : &parent;
        BlockBackend *blk = open_new(PARENT_SIZE);
        Write *r;

        write_turns(blk, BLOCK, BLOCK, 2);
        r = hold_read(blk, node, i / 2);
        write_turns(blk, BLOCK + 4 * KiB, BLOCK / 2, 3);
        g_assert_cmpint(write_fill(blk, BLOCK + 64 * KiB, 4096, 3), >=, 0);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        release_read(r, node, 2, 3);

        count_begin();
        check_fill(blk, BLOCK + 4 * KiB, 4 * KiB, 3);
        check_fill(blk, BLOCK + 60 * KiB, 12 * KiB, 3);
        end(blk);
    }
}

/* The place is nobody else's meanwhile. */
static void test_discard_meanwhile(void)
{
    for (int i = 0; i < 4; i++) {
        Node *node = i % 2 ? &image : &parent;
        BlockBackend *blk = open_new(PARENT_SIZE);
        Write *r;

        write_turns(blk, BLOCK, BLOCK, 2);
        r = hold_read(blk, node, i / 2);
        g_assert_cmpint(discard_wait(blk, BLOCK, BLOCK), >=, 0);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        for (int n = 2; n < 16; n++) {
            g_assert_cmpint(write_fill(blk, n * BLOCK, BLOCK, 0x20 + n), >=,
                            0);
        }
        release_read(r, node, 2, 0);
        check_fill(blk, BLOCK, BLOCK, 0);
        end(blk);
    }
}

/* What can't be read of others' sectors is nobody's business. */
static void test_bad_sector(void)
{
    BlockBackend *blk = open_new(PARENT_SIZE);
    g_autofree uint8_t *buf = g_malloc(BLOCK);
    struct stat st;

    write_turns(blk, BLOCK, BLOCK, 2);
    blk_unref(blk);
    blk = open_image();
    g_assert_cmpint(stat(image_path, &st), ==, 0);

    parent.fail_at = BLOCK + 40 * KiB;
    check_turns(blk, BLOCK, BLOCK, 2);
    parent.fail_at += 4 * KiB;
    g_assert_cmpint(blk_pread(blk, BLOCK, BLOCK, buf, 0), ==, -EIO);
    parent.fail_at = 0;

    /* The bitmap has its place when the block has, and lies behind it. */
    image.fail_at = st.st_size - 2 * BLOCK + 44 * KiB;
    check_turns(blk, BLOCK, BLOCK, 2);
    image.fail_at -= 4 * KiB;
    g_assert_cmpint(blk_pread(blk, BLOCK, BLOCK, buf, 0), ==, -EIO);
    image.fail_at = 0;
    end(blk);
}

/* What a new sector bitmap has is known, so nothing of it is read. */
static void test_new_bitmap(void)
{
    const int64_t page = 16 * MiB, chunk = 4 * GiB;
    BlockBackend *blk = open_new(70 * chunk);

    count_begin();
    g_assert_cmpint(write_fill(blk, BLOCK, 4 * KiB, 2), >=, 0);
    expect_reads(0, 0);
    for (int i = 1; i < 32; i++) {
        g_assert_cmpint(write_fill(blk, i * page, 4 * KiB, i), >=, 0);
    }
    g_assert_cmpint(blk_flush(blk), ==, 0);
    expect_reads(0, 0);

    /* When it has been forgotten that they are new, they are read. */
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 1; i < 70; i++) {
            g_assert_cmpint(write_fill(blk, i * chunk + turn * page, 4 * KiB,
                                       i + turn), >=, 0);
        }
    }
    for (int again = 0; again < 2; again++) {
        for (int i = 1; i < 70; i++) {
            check_fill(blk, i * chunk, 4 * KiB, i);
            check_fill(blk, i * chunk + 4 * KiB, 4 * KiB, 0);
            check_fill(blk, i * chunk + page, 4 * KiB, i + 1);
            check_fill(blk, i * chunk + page + BLOCK - 4 * KiB, 4 * KiB, 0);
        }
        check_fill(blk, BLOCK, 4 * KiB, 2);
        check_fill(blk, BLOCK + 4 * KiB, 4 * KiB, PARENT);
        check_is_clean(blk);
        blk_unref(blk);
        blk = open_image();
    }
    end(blk);
}

/* Pages that do not stay in memory come back as they were. */
static void test_new_bitmap_small_cache(void)
{
    const int64_t page = 16 * MiB;
    BlockBackend *blk;

    cache_size = "256k";
    blk = open_new(4 * GiB);
    for (int round = 0; round < 2; round++) {
        for (int i = 1; i < 256; i++) {
            g_assert_cmpint(write_fill(blk, i * page + round * 8 * KiB,
                                       4 * KiB, i % 251), >=, 0);
        }
    }
    for (int i = 1; i < 256; i++) {
        int other = i * page < PARENT_SIZE ? PARENT : 0;

        check_fill(blk, i * page, 4 * KiB, i % 251);
        check_fill(blk, i * page + 4 * KiB, 4 * KiB, other);
        check_fill(blk, i * page + 8 * KiB, 4 * KiB, i % 251);
    }
    end(blk);
    cache_size = NULL;
}

static void make_parent(void)
{
    g_autofree char *buf = g_malloc(PARENT_SIZE);

    memset(buf, PARENT, PARENT_SIZE);
    g_assert_true(g_file_set_contents(parent_path, buf, PARENT_SIZE, NULL));
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    bdrv_register(&bdrv_count);
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
    parent_path = g_build_filename(test_dir, "parent", NULL);
    make_parent();

    g_test_add_func("/vhdx/child-reads/counts", test_counts);
    g_test_add_func("/vhdx/child-reads/random", test_random);
    g_test_add_func("/vhdx/child-reads/write-meanwhile", test_write_meanwhile);
    g_test_add_func("/vhdx/child-reads/discard-meanwhile",
                    test_discard_meanwhile);
    g_test_add_func("/vhdx/child-reads/bad-sector", test_bad_sector);
    g_test_add_func("/vhdx/child-reads/new-bitmap", test_new_bitmap);
    g_test_add_func("/vhdx/child-reads/new-bitmap-small-cache",
                    test_new_bitmap_small_cache);
    ret = g_test_run();

    unlink(parent_path);
    rmdir(test_dir);
    g_free(parent_path);
    g_free(image_path);
    g_free(test_dir);
    return ret;
}
