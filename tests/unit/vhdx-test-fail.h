/*
 * VHDX unit tests: a node that fails or waits when a test wants it to
 *
 * A filter of our own below the image can fail a write when it is done already,
 * as an error of a real disk may leave it, fail flushes, and hold back a read,
 * a write, the status of a place or a change of the file's length.  Above it is
 * blkdebug.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_FAIL_H
#define TESTS_UNIT_VHDX_TEST_FAIL_H

#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "vhdx-test-filter.h"
#include "vhdx-test-request.h"

#define BLOCK       MiB
#define DISK_SIZE   (16 * MiB)

static char *test_dir;
static char *image_path;

static inline void create_image(void)
{
    g_autofree char *options = g_strdup_printf("block_size=%" PRIu64,
                                               (uint64_t)BLOCK);

    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
}

/* Where in the file a write is to fail once, or 0. */
static uint64_t fail_at;

/* Where in the file a read is to fail once, or 0, after so many that work. */
static uint64_t fail_read_at;
static unsigned good_reads;

/* So many zeroings fail, but those that only give space back. */
static unsigned zeroing_errors;

/* How long the file can get, or 0. */
static int64_t length_limit;

/* How many bytes of it the host has room for, or 0; short writes always fit. */
static int64_t space_limit;

/* How often it was given the length that it had. */
static unsigned same_lengths;

/* So many flushes fail. */
static unsigned flush_errors;

/* ... after so many that work */
static unsigned good_flushes;

/* Whether a change of the length is to wait, and the one that does. */
static bool hold_truncate;
static Coroutine *held_truncate;

/* The place in the file a read of which is to wait, or 0, and the one there. */
static uint64_t hold_read_at;
static Coroutine *held_read;

/* How long that read is, or 0 if it may be any. */
static int64_t hold_read_bytes;

/* All reads that wait, as each does where this is not NULL. */
static GPtrArray *held_reads;

/* The place of a write that is to wait, or 0, and the one there. */
static uint64_t hold_write_at;
static Coroutine *held_write;

/* The same of the status of such a place. */
static uint64_t hold_status_at;
static Coroutine *held_status;

/* The offset in the file of the last write, and the number of zeroings. */
static int64_t last_write;
static unsigned zeroings;

/* Whether the host has no room for @bytes more, as blocks are written. */
static inline bool host_is_full(int64_t bytes)
{
    struct stat st;

    if (!space_limit || bytes < 64 * KiB) {
        return false;
    }
    g_assert_cmpint(stat(image_path, &st), ==, 0);
    return st.st_blocks * 512 + bytes > space_limit;
}

static int coroutine_fn GRAPH_RDLOCK
fail_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
             QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret;

    if (hold_write_at && hold_write_at >= offset &&
        hold_write_at - offset < bytes) {
        hold_write_at = 0;
        held_write = qemu_coroutine_self();
        qemu_coroutine_yield();
        held_write = NULL;
    }
    if (host_is_full(bytes)) {
        return -ENOSPC;
    }
    ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    last_write = offset;
    if (ret == 0 && fail_at && fail_at - offset < bytes) {
        fail_at = 0;
        ret = -EIO;
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
fail_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
            QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    if (hold_read_at && hold_read_at >= offset &&
        hold_read_at - offset < bytes &&
        (!hold_read_bytes || bytes == hold_read_bytes)) {
        hold_read_at = hold_read_bytes = 0;
        held_read = qemu_coroutine_self();
        qemu_coroutine_yield();
        held_read = NULL;
    }
    if (held_reads) {
        g_ptr_array_add(held_reads, qemu_coroutine_self());
        qemu_coroutine_yield();
    }
    if (fail_read_at && fail_read_at >= offset &&
        fail_read_at - offset < bytes && !good_reads--) {
        fail_read_at = good_reads = 0;
        return -EIO;
    }
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
fail_block_status(BlockDriverState *bs, VHDXStatusMode mode, int64_t offset,
                  int64_t bytes, int64_t *pnum, int64_t *map,
                  BlockDriverState **file)
{
    if (hold_status_at && hold_status_at >= offset &&
        hold_status_at - offset < bytes) {
        hold_status_at = 0;
        held_status = qemu_coroutine_self();
        qemu_coroutine_yield();
        held_status = NULL;
    }
    *pnum = bytes;
    *map = offset;
    *file = bs->file->bs;
    return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
}

static int coroutine_fn GRAPH_RDLOCK
fail_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   BdrvRequestFlags flags)
{
    zeroings++;
    if (zeroing_errors && !(flags & BDRV_REQ_NO_FALLBACK)) {
        zeroing_errors--;
        return -EIO;
    }
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

/* The host gets something back only where a test looks at what it has. */
static int coroutine_fn GRAPH_RDLOCK
fail_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return space_limit ? bdrv_co_pdiscard(bs->file, offset, bytes) : -ENOTSUP;
}

static int coroutine_fn GRAPH_RDLOCK fail_flush(BlockDriverState *bs)
{
    if (good_flushes) {
        good_flushes--;
    } else if (flush_errors) {
        flush_errors--;
        return -EIO;
    }
    return bdrv_co_flush(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
fail_truncate(BlockDriverState *bs, int64_t offset, bool exact,
              PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    if (hold_truncate) {
        held_truncate = qemu_coroutine_self();
        qemu_coroutine_yield();
        held_truncate = NULL;
    }
    same_lengths += offset == bdrv_co_getlength(bs->file->bs);
    if (length_limit && offset > length_limit) {
        error_setg(errp, "The file can't get so long");
        return -ENOSPC;
    }
    return bdrv_co_truncate(bs->file, offset, exact, prealloc, flags, errp);
}

static BlockDriver bdrv_fail = {
    .format_name            = "vhdx-test-fail",
    .is_filter              = true,
    .bdrv_open              = filter_open,
    .bdrv_reopen_prepare    = filter_reopen_prepare,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_block_status   = fail_block_status,
    .bdrv_co_preadv         = fail_preadv,
    .bdrv_co_pwritev        = fail_pwritev,
    .bdrv_co_pwrite_zeroes  = fail_pwrite_zeroes,
    .bdrv_co_pdiscard       = fail_pdiscard,
    .bdrv_co_truncate       = fail_truncate,
    .bdrv_co_flush          = fail_flush,
};

static inline BlockBackend *open_image_with(QDict *options)
{
    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    qdict_put_str(options, "file.driver", "blkdebug");
    qdict_put_str(options, "file.image.driver", "vhdx-test-fail");
    qdict_put_str(options, "file.image.file.driver", "file");
    qdict_put_str(options, "file.image.file.discard", "unmap");
    qdict_put_str(options, "file.image.file.filename", image_path);
    return blk_new_open(NULL, NULL, options,
                        BDRV_O_RDWR | BDRV_O_UNMAP | BDRV_O_NO_FLUSH,
                        &error_abort);
}

static inline BlockBackend *open_image(void)
{
    return open_image_with(qdict_new());
}

static inline void test_fail_init(void)
{
    bdrv_init();
    bdrv_register(&bdrv_fail);
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
}

static inline void test_fail_finish(void)
{
    rmdir(test_dir);
    g_free(image_path);
    g_free(test_dir);
}

#endif
