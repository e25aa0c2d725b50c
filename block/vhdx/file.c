/*
 * VHDX: the file behind the image
 *
 * Its length is known here, and how much of it is stable: an entry of the log
 * must not say that the file is longer than it is after a power cut.  A failed
 * flush leaves that, and all that was written since the last one, open.
 *
 * A part of it may be watched while it is copied: whatever is written there, or
 * cut off, goes by here, and is noted when that has ended.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "trace.h"

struct VHDXFile {
    uint64_t size;                  /* bytes; changed with lock */
    uint64_t stable_size;           /* ... and known stable */
    bool fixed;                     /* the node has refused to grow */
    bool unsure;                    /* changes of the length may be lost */
    bool no_zeroes;                 /* atomic: a flush has failed */
    unsigned failed;                /* atomic: so many have */
};

void vhdx_file_init(BDRVVHDXState *s, uint64_t size)
{
    s->file = g_new0(VHDXFile, 1);
    s->file->size = s->file->stable_size = size;
}

void vhdx_file_free(BDRVVHDXState *s)
{
    g_clear_pointer(&s->file, g_free);
}

void vhdx_file_inherit(BDRVVHDXState *s, BDRVVHDXState *old)
{
    s->file->unsure = old->file->unsure;
    qatomic_set(&s->file->no_zeroes, old->file->no_zeroes);
    qatomic_set(&s->file->failed, old->file->failed);
}

/* [move-frozen] */
void vhdx_file_note_written(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    VHDXWatch *w;
    VHDX_LOCK_GUARD(s);

    QLIST_FOREACH(w, &s->watches, next) {
        uint64_t from = MAX(offset, w->offset) - w->offset;
        uint64_t end = MIN(offset + bytes, w->offset + w->bytes);

        if (end > w->offset && from < end - w->offset) {
            from /= VHDX_WATCH_UNIT;
            end = DIV_ROUND_UP(end - w->offset, VHDX_WATCH_UNIT);
            bitmap_set(w->written, from, end - from);
        }
    }
}

void vhdx_file_watch(BDRVVHDXState *s, VHDXWatch *watch)
{
    vhdx_assert_locked(s);
    QLIST_INSERT_HEAD(&s->watches, watch, next);
    qatomic_set(&s->watched, true);
    /* Who does not see that has written before anything is read from here. */
    smp_mb();
}

void vhdx_file_unwatch(BDRVVHDXState *s, VHDXWatch *watch)
{
    QLIST_REMOVE(watch, next);
    qatomic_set(&s->watched, !QLIST_EMPTY(&s->watches));
}

uint64_t vhdx_file_size(BDRVVHDXState *s)
{
    return s->file->size;
}

void vhdx_file_set_size(BDRVVHDXState *s, uint64_t size)
{
    vhdx_assert_locked(s);
    s->file->size = size;
    /* What has been cut is not stable any more. */
    s->file->stable_size = MIN(s->file->stable_size, size);
}

uint64_t vhdx_file_stable_size(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->file->stable_size;
}

/* Ask @node and all below it, from the lowest up, for their lengths. */
static int coroutine_fn GRAPH_RDLOCK length_refresh(BlockDriverState *node)
{
    BlockDriverState *below = bdrv_primary_bs(node);
    int ret = below ? length_refresh(below) : 0;

    return ret < 0 ? ret :
           bdrv_co_refresh_total_sectors(node, node->total_sectors);
}

int64_t coroutine_fn vhdx_file_length(BlockDriverState *bs)
{
    BlockDriverState *node = bdrv_skip_filters(bs->file->bs);
    int64_t length, bytes;
    int ret;

    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    ret = length_refresh(bs->file->bs);
    if (ret < 0) {
        return ret;
    }
    length = bdrv_co_getlength(bs->file->bs);
    if (length > 0 && node->drv->bdrv_co_getlength) {
        /* The block layer has made whole sectors of it. */
        bytes = node->drv->bdrv_co_getlength(node);
        if (bytes < length && length - bytes < BDRV_SECTOR_SIZE) {
            return bytes;
        }
    }
    return length;
}

int coroutine_fn vhdx_file_learn_length(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t length = vhdx_file_length(bs);

    if (length < 0) {
        return length;
    }
    VHDX_LOCK_GUARD(s);
    s->file->size = MAX(s->file->size, length);
    return 0;
}

int coroutine_fn vhdx_file_truncate(BlockDriverState *bs, uint64_t size,
                                    PreallocMode prealloc,
                                    BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_assert_unlocked(s);
    ret = bdrv_co_truncate(bs->file, size, false, prealloc, flags, NULL);
    /* What comes back there later, without being written, reads as zeros. */
    vhdx_file_written(s, size, INT64_MAX - size);
    return ret;
}

bool vhdx_file_is_fixed(BDRVVHDXState *s)
{
    return s->file->fixed;
}

void vhdx_file_set_fixed(BDRVVHDXState *s, bool fixed)
{
    vhdx_assert_locked(s);
    s->file->fixed = fixed;
}

/* [flushed-length] */
int coroutine_fn vhdx_file_flush(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t size;
    int ret;

    vhdx_assert_commit_locked(s);
    WITH_VHDX_LOCK_GUARD(s) {
        size = s->file->size;
    }
    trace_vhdx_file_flush(s);
    ret = bdrv_co_flush(bs->file->bs);
    trace_vhdx_file_flush_end(s, ret);
    if (ret < 0) {
        /* What reads as zeros may be old data again after a power cut. */
        qatomic_set(&s->file->no_zeroes, true);
        qatomic_set(&s->file->failed, s->file->failed + 1);
        s->file->unsure = true;
        return ret;
    }
    if (!s->file->unsure) {
        VHDX_LOCK_GUARD(s);
        s->file->stable_size = MIN(size, s->file->size);
    }
    return 0;
}

bool vhdx_file_is_unsure(BDRVVHDXState *s)
{
    return s->file->unsure;
}

void vhdx_file_set_sure(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    s->file->unsure = false;
}

unsigned vhdx_file_flushes_failed(BDRVVHDXState *s)
{
    return qatomic_read(&s->file->failed);
}

bool vhdx_file_trusts_zeroes(BDRVVHDXState *s)
{
    return !qatomic_read(&s->file->no_zeroes);
}

int coroutine_fn vhdx_file_extent(BlockDriverState *bs, uint64_t offset,
                                  uint64_t bytes, int64_t *n)
{
    int ret;

    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    ret = bdrv_co_block_status(bs->file->bs, offset, bytes, n, NULL, NULL);
    if (ret < 0) {
        *n = bytes;
        return BDRV_BLOCK_DATA;
    }
    if (!*n) {
        *n = bytes;
        return BDRV_BLOCK_EOF;
    }
    return ret;
}

int coroutine_fn vhdx_file_pread(BlockDriverState *bs, uint64_t offset,
                                 uint64_t bytes, void *buf)
{
    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    return bdrv_co_pread(bs->file, offset, bytes, buf, 0);
}

int coroutine_fn vhdx_file_pwrite(BlockDriverState *bs, uint64_t offset,
                                  uint64_t bytes, const void *buf)
{
    int ret;

    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    ret = bdrv_co_pwrite(bs->file, offset, bytes, buf, 0);
    vhdx_file_written(bs->opaque, offset, bytes);
    return ret;
}

int coroutine_fn vhdx_file_pwrite_zeroes(BlockDriverState *bs, uint64_t offset,
                                         uint64_t bytes,
                                         BdrvRequestFlags flags)
{
    int ret;

    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
    vhdx_file_written(bs->opaque, offset, bytes);
    return ret;
}

int coroutine_fn vhdx_file_pdiscard(BlockDriverState *bs, uint64_t offset,
                                    uint64_t bytes)
{
    int ret;

    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    ret = bdrv_co_pdiscard(bs->file, offset, bytes);
    vhdx_file_written(bs->opaque, offset, bytes);
    return ret;
}
