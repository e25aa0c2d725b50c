/*
 * VHDX unit tests: nodes that grow and shrink in their own ways
 *
 * A filter of our own below the image stands for such a node: one of a length
 * that only others change, one that grows but does not shrink, one whose
 * operations fail although they take effect, and so on.  It can count requests.
 *
 * A copy of the file, made while the image is open, is what a kill would leave.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_NODE_H
#define TESTS_UNIT_VHDX_TEST_NODE_H

#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "vhdx-test-filter.h"
#include "vhdx-test-request.h"

#define BLOCK       MiB
#define DISK_SIZE   (64 * MiB)
#define LOG_AT      MiB

static char *test_dir;
static char *image_path;
static char *copy_path;

/* What the node does. */
static struct {
    uint64_t length;                /* that it can't change; 0: the file's */
    int grow;                       /* negative errno for getting longer */
    int shrink;                     /* ... and shorter */
    int prealloc;                   /* ... and for any preallocation */
    uint64_t least;                 /* it gets no shorter than this */
    unsigned told;                  /* bytes that a status tells of; 0: all */
    uint64_t full_at;               /* a write there finds no space; 0: none */
    bool log_lost;                  /* writes to the log seem to fail */
    bool effect;                    /* these take effect all the same */
    bool grows;                     /* nobody is to make it shorter now */
    bool cut;                       /* it got shorter since its last flush */
    unsigned punched;               /* number of places given back to it */
    uint64_t punched_bytes;
    bool hold_punch;                /* these wait ... */
    Coroutine *held_punch;          /* ... and this one does */
} node;

static int coroutine_fn GRAPH_RDLOCK
node_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
             QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret;

    g_assert_true(!node.length || offset + bytes <= node.length);
    if (node.full_at && node.full_at - offset < bytes) {
        return -ENOSPC;
    }
    ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    return node.log_lost && offset >= LOG_AT && offset < LOG_AT + MiB ? -EIO :
           ret;
}

/* A place is given back to the node. */
static void coroutine_fn node_punched(int64_t bytes)
{
    node.punched++;
    node.punched_bytes += bytes;
    if (node.hold_punch) {
        node.held_punch = qemu_coroutine_self();
        qemu_coroutine_yield();
        node.held_punch = NULL;
    }
}

static int coroutine_fn GRAPH_RDLOCK
node_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   BdrvRequestFlags flags)
{
    if (flags & BDRV_REQ_NO_FALLBACK) {
        node_punched(bytes);
    }
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
node_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    node_punched(bytes);
    return bdrv_co_pdiscard(bs->file, offset, bytes);
}

static int64_t coroutine_mixed_fn GRAPH_RDLOCK
node_getlength(BlockDriverState *bs)
{
    return node.length ?: bdrv_co_getlength(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
node_truncate(BlockDriverState *bs, int64_t offset, bool exact,
              PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    int64_t old = node_getlength(bs);
    int ret = offset > old ? node.grow : offset < old ? node.shrink : 0;

    if (offset < old && offset < node.least) {
        ret = -ENOTSUP;
    }
    g_assert_true(!node.grows || offset >= old);
    if (node.length) {
        return offset > old || exact ? -EINVAL : 0;
    }
    if (prealloc != PREALLOC_MODE_OFF && node.prealloc < 0) {
        error_setg(errp, "No such mode here");
        return node.prealloc;
    }
    if (ret == 0 || node.effect) {
        int done = bdrv_co_truncate(bs->file, offset, exact, prealloc, flags,
                                    errp);

        node.cut |= done == 0 && offset < old;
        if (ret == 0 || done < 0) {
            return done;
        }
    }
    error_setg(errp, "This node does not do that");
    return ret;
}

/* All is a hole, in pieces. */
static int coroutine_fn GRAPH_RDLOCK
node_block_status(BlockDriverState *bs, VHDXStatusMode mode, int64_t offset,
                  int64_t bytes, int64_t *n, int64_t *map,
                  BlockDriverState **file)
{
    *n = bytes;
    if (node.told) {
        *n = MIN(bytes, node.told - offset % node.told);
        return BDRV_BLOCK_ZERO;
    }
    *map = offset;
    *file = bs->file->bs;
    return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
}

static int coroutine_fn GRAPH_RDLOCK node_flush(BlockDriverState *bs)
{
    node.cut = false;
    return bdrv_co_flush(bs->file->bs);
}

static BlockDriver bdrv_node = {
    .format_name            = "vhdx-test-node",
    .is_filter              = true,
    .bdrv_open              = filter_open,
    .bdrv_reopen_prepare    = filter_reopen_prepare,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_getlength      = node_getlength,
    .bdrv_co_block_status   = node_block_status,
    .bdrv_co_preadv         = filter_preadv,
    .bdrv_co_pwritev        = node_pwritev,
    .bdrv_co_pwrite_zeroes  = node_pwrite_zeroes,
    .bdrv_co_pdiscard       = node_pdiscard,
    .bdrv_co_truncate       = node_truncate,
    .bdrv_co_flush          = node_flush,
};

static inline void test_node_init(void)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    bdrv_register(&bdrv_node);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
    copy_path = g_build_filename(test_dir, "copy.vhdx", NULL);
}

static inline void test_node_finish(void)
{
    unlink(image_path);
    unlink(copy_path);
    rmdir(test_dir);
    g_free(copy_path);
    g_free(image_path);
    g_free(test_dir);
}

static inline void create_sized(const char *options, uint64_t size)
{
    memset(&node, 0, sizeof(node));
    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)options, size,
                    BDRV_O_RDWR, true, &error_abort);
}

static inline void create_image(const char *options)
{
    create_sized(options, DISK_SIZE);
}

static inline BlockBackend *open_image(const char *path, int flags)
{
    QDict *options = qdict_new();
    bool writable = flags & BDRV_O_RDWR;

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    qdict_put_str(options, "file.driver", "vhdx-test-node");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", path);
    if (!writable) {
        qdict_put_bool(options, "force-share", true);
    }
    return blk_new_open(NULL, NULL, options,
                        flags | (writable ? BDRV_O_RESIZE : 0) | BDRV_O_UNMAP |
                        BDRV_O_NO_FLUSH,
                        &error_abort);
}

/* Write the blocks from @first to @end - 1, each in full of its number. */
static inline void write_blocks(BlockBackend *blk, int first, int end)
{
    for (int i = first; i < end; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
}

static inline void check_blocks(BlockBackend *blk, int first, int end)
{
    for (int i = first; i < end; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i + 1);
    }
}

static inline void flush(BlockBackend *blk)
{
    g_assert_cmpint(blk_flush(blk), ==, 0);
}

static inline uint64_t file_size(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_size;
}

/* Keep the file as it is, in a copy. */
static inline void copy_image(void)
{
    g_autofree char *content = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(image_path, &content, &length, NULL));
    g_assert_true(g_file_set_contents(copy_path, content, length, NULL));
}

/* What a kill would have left opens, and holds these blocks. */
static inline void check_copy(int first, int end)
{
    BlockBackend *blk = open_image(copy_path, 0);

    check_blocks(blk, first, end);
    blk_unref(blk);
}

static inline BdrvCheckResult check_image(BlockBackend *blk, BdrvCheckMode fix)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, fix), ==, 0);
    g_assert_cmpint(result.check_errors, ==, 0);
    g_assert_cmpint(result.corruptions, ==, 0);
    return result;
}

#endif
